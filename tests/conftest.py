"""Fixtures that every test area shares: the corpus of real files and its manifest."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


def corpus_path() -> Path:
    """Where the real files are: HEADRACE_DATA, else the folder `shared/data` beside the checkout."""
    return Path(os.environ.get("HEADRACE_DATA", REPOSITORY.parent / "shared" / "data"))


@pytest.fixture(scope="session")
def corpus() -> Path:
    """The folder of real files; skips where it is absent."""
    path = corpus_path()
    if not (path / "MANIFEST.csv").is_file():
        pytest.skip(f"no corpus of real files at {path}; set HEADRACE_DATA")
    return path


@pytest.fixture(scope="session")
def manifest(corpus: Path) -> list[dict[str, str]]:
    """The rows of the corpus's MANIFEST.csv."""
    with open(corpus / "MANIFEST.csv", newline="", encoding="utf-8") as f:
        return list(csv.DictReader(f))


#: Files that take minutes begin first, or the last of them would run while the other processes have nothing to do.
LONGEST = (
    "test_histories_first", "test_histories_second", "test_same_bytes", "test_corpus", "test_replay", "test_serve",
    "test_kill_sweep",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first; the Makefile tells xdist to keep this order."""
    rank = {name: i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(LONGEST)))
