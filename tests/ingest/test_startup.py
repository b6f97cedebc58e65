"""A small build starts fast: one decoding process, warmed early, that imports nothing it does not need."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from headrace.ingest import child_process
from headrace.ingest.build import build
from headrace.ingest.child_process import ChildPool
from headrace.ingest.folder import folder_pipeline
from headrace.ingest.without_pandas import all_built_in

from .conftest import lines_pipeline, write_lines


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    for i in range(3):
        (tmp_path / "in" / f"{i}.txt").write_text(f"low water at the outer quay, gauge {i}\n" * 200)
    return tmp_path


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every decoding process that is started."""
    made: list[Any] = []
    real = child_process.Child

    class Counted(real):  # type: ignore[misc, valid-type]
        def __init__(self, scratch: Path) -> None:
            super().__init__(scratch)
            made.append(self)

    monkeypatch.setattr(child_process, "Child", Counted)
    return made


def test_a_small_build_takes_one_process_and_it_is_the_warm_one(folder: Path, started: list[Any]) -> None:
    with ChildPool() as children:
        children.warm()
        result = build(
            folder_pipeline(folder / "in"), str(folder / "out"), base=folder, workers=2, engine="inline",
            children=children,
        )  # fmt: skip
        assert result.complete and len(started) == 1 and started[0].alive, "fit and encode are one after the other"
    assert not started[0].alive


def test_a_closed_pool_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_process.tempfile, "tempdir", str(tmp_path))
    with ChildPool() as children:
        children.warm()
        child = children.take({}, "w0")
        assert list(tmp_path.iterdir())
        children.give_back(child)
    assert not child.alive and list(tmp_path.iterdir()) == []


def test_an_idle_child_that_was_killed_is_not_given_out(folder: Path) -> None:
    with ChildPool() as children:
        children.warm()
        children._idle[0]._process.kill()
        children._idle[0]._process.wait()
        child = children.take({}, "w0")
        assert child.alive
        child.kill()


def test_children_of_a_pool_serve_several_threads(tmp_path: Path, checked: Any) -> None:
    write_lines(tmp_path / "in", files=8, lines=30)
    with ChildPool() as children:
        build(lines_pipeline(tmp_path), str(tmp_path / "out"), base=tmp_path, workers=3, engine="inline",
              children=children)  # fmt: skip
    _, report = checked(tmp_path / "out")
    assert report.samples == 240 and threading.active_count() < 10


def test_a_decoding_process_starts_without_what_only_some_tasks_need() -> None:
    seldom = ("headrace.ingest.live_loop", "headrace.ingest.replay", "headrace.ingest.receiver_loop", "pyarrow.compute",
              "pandas", "asyncio")  # fmt: skip
    code = f"import sys, headrace.ingest.child; print([m for m in {seldom!r} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_a_supervisor_is_imported_without_arrow() -> None:
    code = "import sys, headrace.ingest.ray_engine; print('pyarrow' in sys.modules, 'pydantic' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False False"


def test_pandas_is_left_out_only_where_all_code_is_ours(folder: Path) -> None:
    write_lines(folder / "in", files=1, lines=1)
    assert all_built_in(folder_pipeline(folder / "in"))
    assert not all_built_in(lines_pipeline(folder))
