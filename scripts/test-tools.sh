#!/usr/bin/env bash
# Installs the system packages that some tests compare against, where this user may do so. Without them those tests skip.
set -euo pipefail

# command:package
wanted=(ffmpeg:ffmpeg)

missing=()
for pair in "${wanted[@]}"; do
  command -v "${pair%%:*}" >/dev/null 2>&1 || missing+=("${pair##*:}")
done
[ ${#missing[@]} -eq 0 ] && exit 0

if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null 2>&1; then
  echo "== not installed: ${missing[*]} (needs root and apt-get); the tests that compare with them skip"
  exit 0
fi

echo "== installing ${missing[*]} with apt-get"
export DEBIAN_FRONTEND=noninteractive
if ! { apt-get update -qq && apt-get install -y -qq --no-install-recommends "${missing[@]}"; } </dev/null >/dev/null; then
  echo "== apt-get could not install ${missing[*]}; the tests that compare with them skip"
fi
