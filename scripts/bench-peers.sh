#!/usr/bin/env bash
# Makes .venv-peers: the tools that `make bench` measures headrace against. What .venv-exports holds already (PyTorch,
# datasets, mosaicml-streaming, litdata, webdataset, Megatron, polars, pandas) is used from there, not installed twice.
# A peer that does not install is left out and said so: .venv-peers/skipped holds a line "NAME: reason" for each.
# A second run does nothing. Another place: scripts/bench-peers.sh FOLDER.
set -uo pipefail
cd "$(dirname "$0")/.."

venv="${1:-.venv-peers}"
exports="${EXPORTS:-.venv-exports}"
python="${PYTHON:-$(for p in python3.11 python3.12 python3.13 python3; do command -v "$p" && break; done)}"
[ -n "$python" ] || { echo "no python3.11 or newer on PATH" >&2; exit 1; }
PYTHON="$python" bash scripts/export-clients.sh "$exports" || { echo "$exports could not be made: no peers" >&2; exit 1; }

# One after another, so that one that fails costs only itself. torchcodec 0.12 is the last that loads without CUDA.
peers=(
  "sentencepiece==0.2.3"
  "ray==2.60.0"
  "decord==0.6.0"
  "torchcodec==0.12.0"
  "async-tiff==0.7.2"
  "xbatcher==0.4.0 rioxarray>=0.18"
)
# These want other versions of what the others share: each has an environment of its own, .venv-peers/alone/NAME. What
# dolma pins altogether takes pip a quarter of an hour to find nothing for: it gets what `dolma tokens` imports.
alone=(
  "datatrove datatrove==0.10.1 orjson>=3.9 tokenizers>=0.20"
  "daft daft==0.7.26 pillow numpy"
  "dolma numpy<2 tokenizers<0.20 msgspec nltk omegaconf platformdirs pyyaml python-dotenv requests rich smart-open tqdm uniseg necessary charset-normalizer zstandard fsspec s3fs anyascii fasttext-wheel==0.9.2 blingfire==0.1.8 jq jsonpath-ng"
  "dolma --no-deps dolma==1.2.1"
)
want="$(printf '%s\n' "$exports" "${peers[@]}" "${alone[@]}")"
stamp="$venv/.peers-installed"
[ -f "$stamp" ] && [ "$(cat "$stamp")" = "$want" ] && exit 0

echo "== installing the peers of the benchmarks into $venv (about 1 GB, some minutes the first time)"
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
printf '*\n' >"$venv/.gitignore" # as newer versions of venv do by themselves
packages="$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
shared="$("$exports/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
printf '%s\n' "$shared" >"$packages/exports.pth"
# Nothing that brings another PyTorch than the one that is there: it would come with gigabytes of CUDA.
"$exports/bin/python" -m pip freeze --disable-pip-version-check | grep -iE '^(torch|numpy|tokenizers|transformers|pyarrow|datasets|huggingface_hub)==' >"$venv/constraints.txt"
quiet=(--quiet --disable-pip-version-check --no-input --root-user-action=ignore)
"$venv/bin/python" -m pip install "${quiet[@]}" --upgrade pip || echo "== pip stays as old as this Python brings it"

: >"$venv/skipped"
install() { # PYTHON NAME REQUIREMENT …: a line in `skipped` if it fails
  local said reason
  said="$(timeout 300 "$1" -m pip install "${quiet[@]}" --constraint "$venv/constraints.txt" "${@:3}" 2>&1)" && return
  reason="$(grep -m1 -E '^ERROR' <<<"$said" || echo "no answer in five minutes")"
  echo "$2: ${reason:0:300}" | tee -a "$venv/skipped"
}
for peer in "${peers[@]}"; do
  read -ra words <<<"$peer"
  install "$venv/bin/python" "$peer" "${words[@]}"
done
printf '%s\n' "$(grep -i '^torch==' "$venv/constraints.txt")" >"$venv/constraints.txt"
for peer in "${alone[@]}"; do
  read -ra words <<<"$peer"
  [ -x "$venv/alone/${words[0]}/bin/python" ] || "$python" -m venv "$venv/alone/${words[0]}"
  install "$venv/alone/${words[0]}/bin/python" "${words[*]:1}" "${words[@]:1}"
done
printf '%s' "$want" >"$stamp"
