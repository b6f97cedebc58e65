# headrace from a fresh clone: `make demo` shows it, `make test` proves it. Needs Python 3.11 or newer, nothing else.
#
# Everything is installed into .venv; a target runs again only when pyproject.toml has changed. Another interpreter:
# `make test PYTHON=/opt/python3.12/bin/python3`. More for pytest: `make test PYTEST_ARGS="-k raster -x"`.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help demo test test-exports bench-loader lint types pytest bench chaos docs tools clean

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do command -v $$p && break; done)
PIP := $(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --no-input --root-user-action=ignore
# PyTorch is pinned and asked for alone: resolved together with something else it may come with gigabytes of CUDA.
TORCH := torch==2.13.0
PYTEST_ARGS ?=

help:
	@echo "make demo    build the example harbour with Ray and inline, compare, show pictures (demo-out/)"
	@echo "make test    ruff, mypy, pytest"
	@echo "make test-exports   reads every export with its vendor's package (they get .venv-exports)"
	@echo "make bench   builds beside bare loops and nineteen other tools; live streams, spool, log; fidelity on real data"
	@echo "make bench-loader   the loader beside Megatron, MDS, litdata, webdataset, datasets and numpy"
	@echo "make chaos   builds and services that are killed at random moments, and millions of simulated histories"
	@echo "make docs    write again what is generated from the tree (docs/architecture.md, docs/formats.md)"
	@echo "make clean   remove .venv, caches and demo-out"

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "no python3.11 or newer on PATH: install one, or say make PYTHON=/path/to/python3" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is older than Python 3.11: say make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "== creating $(VENV) with $(PYTHON)"
	@"$(PYTHON)" -m venv $(VENV)
	@$(PIP) --upgrade pip || echo "== pip stays as old as this Python brings it"

# A new pip first: the one that Python 3.11 brings takes minutes to choose versions that a new one finds in seconds.
# The stamps are touched last, so a broken installation is tried again.
$(VENV)/.demo-installed: pyproject.toml | $(BIN)/python
	@echo "== installing headrace and its extras into $(VENV) (a few minutes the first time)"
	@$(PIP) -e ".[all]"
	@touch $@

$(VENV)/.test-installed: pyproject.toml | $(BIN)/python
	@echo "== installing headrace and what its tests need into $(VENV) (a few minutes the first time)"
	@if $(PIP) "$(TORCH)"; then torch=,test-torch; else torch=; echo "== $(TORCH) cannot be had here: the tests that need it skip"; fi; \
	 $(PIP) -e ".[test$$torch]"
	@touch $@

demo: $(VENV)/.demo-installed
	@$(BIN)/python examples/harbour/demo.py demo-out

test: lint types pytest

lint: $(VENV)/.test-installed
	@echo "== ruff"
	@$(BIN)/ruff check .

types: $(VENV)/.test-installed
	@echo "== mypy"
	@$(BIN)/mypy

# Three processes on two cores, since tests wait for servers much of their time; each that meets Ray starts its own.
pytest: $(VENV)/.test-installed tools
	@echo "== pytest"
	@$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder -m "not chaos" --ignore=tests/exports $(PYTEST_ARGS)

tools:
	@bash scripts/test-tools.sh

# The trainers' packages have an environment of their own; about 3 GB and some minutes the first time.
test-exports: $(VENV)/.test-installed
	@PYTHON="$(PYTHON)" bash scripts/export-clients.sh .venv-exports
	@$(BIN)/python -m pytest tests/exports $(PYTEST_ARGS)

bench-loader: $(VENV)/.test-installed
	@PYTHON="$(PYTHON)" bash scripts/export-clients.sh .venv-exports || echo "== no peers: they are skipped"
	@$(BIN)/python benchmarks/loader.py

bench: $(VENV)/.test-installed
	@PYTHON="$(PYTHON)" bash scripts/bench-peers.sh .venv-peers || echo "== no peers: they are skipped"
	@$(BIN)/python benchmarks/compare.py
	@$(BIN)/python benchmarks/text.py
	@$(BIN)/python benchmarks/throughput.py
	@$(BIN)/python benchmarks/fidelity.py
	@$(BIN)/python benchmarks/serve.py
	@$(BIN)/python benchmarks/spool.py
	@$(BIN)/python benchmarks/log_growth.py

chaos: $(VENV)/.test-installed tools
	@$(BIN)/python -m pytest -m chaos $(PYTEST_ARGS)

docs: $(VENV)/.test-installed
	@$(BIN)/python scripts/architecture.py --write
	@$(BIN)/headrace schema > docs/pipeline.schema.json
	@$(BIN)/python scripts/formats.py --write

clean:
	rm -rf $(VENV) demo-out .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist src/*.egg-info
