#!/usr/bin/env bash
# Installs the system packages that some tests run or compare against, where this user may do so. Without them those
# tests skip. Servers are started by the tests themselves, on loopback, never by the system.
set -euo pipefail
PATH="$PATH:/usr/sbin:/usr/local/sbin"

# command:package
wanted=(
  ffmpeg:ffmpeg redis-server:redis-server nats-server:nats-server mosquitto:mosquitto chromium:chromium openssl:openssl logrotate:logrotate
  /usr/lib/postgresql/*/bin/postgres:postgresql /usr/lib/rabbitmq/bin/rabbitmq-server:rabbitmq-server
)

missing=()
for pair in "${wanted[@]}"; do
  # A path may hold a pattern, which is meant.
  # shellcheck disable=SC2086
  command -v ${pair%%:*} >/dev/null 2>&1 || missing+=("${pair##*:}")
done
[ ${#missing[@]} -eq 0 ] && exit 0

if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null 2>&1; then
  echo "== not installed: ${missing[*]} (needs root and apt-get); the tests that need them skip"
  exit 0
fi

echo "== installing ${missing[*]} with apt-get"
export DEBIAN_FRONTEND=noninteractive
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then # packages of servers would start them
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod +x "$policy"
  trap 'rm -f "$policy"' EXIT
fi
if ! { apt-get update -qq && apt-get install -y -qq --no-install-recommends "${missing[@]}"; } </dev/null >/dev/null; then
  echo "== apt-get could not install ${missing[*]}; the tests that need them skip"
fi
