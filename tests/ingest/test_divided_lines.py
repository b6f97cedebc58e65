"""JSON Lines files are divided by their size, evenly, and a dataset keeps the division in which it began."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.connectors.files import Files, _line_step
from headrace.ingest.build import BuildFailed, build
from headrace.ingest.pipeline_file import make_pipeline
from headrace.schemas.errors import SourceChanged
from headrace.shards.dataset import Dataset

MIB = 1 << 20


@given(st.integers(1, 1 << 40))
def test_parts_are_even_and_neither_many_nor_small(size: int) -> None:
    step = _line_step(size)
    parts = -(-size // step)
    if size < 8 * MIB:
        assert parts == 1
    elif size <= 1024 * MIB:
        assert 2 <= parts <= 16 and parts % 2 == 0 and 4 * MIB <= step <= 64 * MIB
        assert size - (parts - 1) * step > step - parts, "the last part is as large as the others"
    else:
        assert step == 64 * MIB


def test_two_workers_have_something_to_do_on_one_file(tmp_path: Path) -> None:
    line = json.dumps({"text": "water " * 500}) + "\n"
    (tmp_path / "a.jsonl").write_text(line * (20 * MIB // len(line)))
    splits = list(Files(Files.Config(root=str(tmp_path))).splits())
    assert len(splits) == 4 and max(s.weight for s in splits) - min(s.weight for s in splits) < 10


def pipeline(root: Path, **source: Any) -> Any:
    text = {"source": {"type": "files", "root": str(root / "in"), **source}, "record": {"type": "text"}}
    return make_pipeline({"streams": {"text": {**text, "tokenizer": {"type": "bytes"}}}}, base=root)


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "a.jsonl"
    path.write_text("".join(json.dumps({"text": f"gauge {i}"}) + "\n" for i in range(3000)))
    return path


def rows(out: Path) -> int:
    return Dataset.open(str(out)).state.streams["text"].samples


def run(root: Path, **source: Any) -> None:
    build(pipeline(root, **source), str(root / "out"), base=root, workers=1, engine="inline")


@pytest.mark.parametrize("then", [8192, 1024, None])
def test_another_division_reads_nothing_twice(tmp_path: Path, lines: Path, then: int | None) -> None:
    run(tmp_path, divide_bytes=20_000)
    assert rows(tmp_path / "out") == 3000
    (tmp_path / "in" / "b.jsonl").write_text(json.dumps({"text": "new"}) + "\n")
    run(tmp_path, **({"divide_bytes": then} if then else {}))
    assert rows(tmp_path / "out") == 3001


def test_a_file_that_grew_into_another_division_is_refused_not_doubled(tmp_path: Path, lines: Path) -> None:
    run(tmp_path, divide_bytes=200_000)
    with open(lines, "a", encoding="utf-8") as f:
        f.writelines(json.dumps({"text": f"later {i}"}) + "\n" for i in range(9000))
    with pytest.raises((SourceChanged, BuildFailed), match=r"a\.jsonl changed after it was planned"):
        run(tmp_path, divide_bytes=200_000)
    assert rows(tmp_path / "out") == 3000
