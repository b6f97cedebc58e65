#!/usr/bin/env bash
# Makes .venv-exports: the packages of the trainers that `headrace export` writes for, so that tests can read every
# export with its vendor's own code. They are kept apart from .venv, since they pin versions of each other's libraries.
# A second run does nothing. Another place: scripts/export-clients.sh FOLDER.
set -euo pipefail
cd "$(dirname "$0")/.."

venv="${1:-.venv-exports}"
python="${PYTHON:-$(for p in python3.11 python3.12 python3.13 python3; do command -v "$p" && break; done)}"
[ -n "$python" ] || { echo "no python3.11 or newer on PATH" >&2; exit 1; }

# PyTorch is pinned and comes first, alone: resolved together with the others it may bring another PyTorch with
# gigabytes of CUDA. datasets 5 wants a huggingface_hub that the others cannot have.
torch="torch==2.13.0"
clients=(
  mosaicml-streaming==0.13.0
  webdataset==1.0.2
  megatron-energon==7.4.1
  megatron-core==0.16.1
  litdata==0.2.76
  "datasets>=4.8,<5"
  "duckdb>=1"
  "polars>=1"
  "pandas>=2"
)
want="$torch ${clients[*]}"
stamp="$venv/.clients-installed"
[ -f "$stamp" ] && [ "$(cat "$stamp")" = "$want" ] && exit 0

echo "== installing the export clients into $venv (about 3 GB, ten minutes the first time)"
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
printf '*\n' >"$venv/.gitignore" # as newer versions of venv do by themselves
printf '%s\n' "$torch" >"$venv/constraints.txt"
pip=("$venv/bin/python" -m pip install --quiet --quiet --disable-pip-version-check --no-input --root-user-action=ignore)
"${pip[@]}" --upgrade pip || echo "== pip stays as old as this Python brings it"
"${pip[@]}" "$torch"
"${pip[@]}" --constraint "$venv/constraints.txt" "$torch" "${clients[@]}"
printf '%s' "$want" >"$stamp"
