"""The Python of the trainers' packages, and a dataset of every modality that the shipped example makes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from headrace.shards.dataset import Dataset

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def clients() -> Path:
    """The Python of `.venv-exports`; skips where `make test-exports` has not made it."""
    python = Path(os.environ.get("HEADRACE_EXPORT_CLIENTS", REPOSITORY / ".venv-exports")) / "bin" / "python"
    if not python.is_file():
        pytest.skip(f"no trainers' packages at {python}: `make test-exports` installs them")
    return python


@pytest.fixture(scope="session")
def harbour(tmp_path_factory: pytest.TempPathFactory, clients: Path) -> Dataset:
    """The harbour of the demo, built; HEADRACE_HARBOUR names one that is there already."""
    if given := os.environ.get("HEADRACE_HARBOUR"):
        return Dataset.open(given)
    for library in ("PIL", "av", "rasterio", "zstandard", "sentencepiece"):
        pytest.importorskip(library)
    work = tmp_path_factory.mktemp("harbour")
    example = REPOSITORY / "examples" / "harbour"
    for name in ("pipeline.yaml", "tide.py"):
        shutil.copy(example / name, work / name)
    for command in (
        [str(example / "generate.py"), str(work / "data")],
        ["-m", "headrace", "build", str(work / "pipeline.yaml"), "--out", str(work / "dataset"), "--engine", "inline"],
    ):
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True, cwd=work, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
    return Dataset.open(str(work / "dataset"))
