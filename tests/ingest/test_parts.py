"""A job array builds what one job builds: parts, joined, have the digest of the undivided build."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from headrace.ingest.build import build
from headrace.ingest.parts import Part, join
from headrace.schemas.errors import ConfigError, SourceChanged
from headrace.schemas.pipeline import Pipeline
from headrace.shards.dataset import Dataset
from headrace.shards.log import CommitLog
from headrace.shards.store import open_store
from headrace.shards.verify import verify

from .conftest import lines_pipeline, write_lines


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_lines(tmp_path / "in", files=9, orders={(2, 3): "REFUSE", (4, 9): "ENCODE-NO"})
    return tmp_path


def build_parts(pipeline: Pipeline, source: Path, parts: int) -> None:
    build(pipeline, str(source / "array"), base=source, engine="inline", workers=1, fit_only=True)
    for i in range(parts):
        build(pipeline, str(source / "array"), base=source, workers=1, part=Part(i, parts))


def test_three_parts_joined_are_the_undivided_build(source: Path) -> None:
    pipeline = lines_pipeline(source)
    build(pipeline, str(source / "whole"), base=source, engine="inline", workers=1)
    build_parts(pipeline, source, 3)
    join(str(source / "array"))
    whole, array = (verify(Dataset.open(str(source / name))) for name in ("whole", "array"))
    assert whole.problems == array.problems == []
    assert whole.content_digest == array.content_digest
    assert whole.samples == array.samples > 400
    states = [CommitLog(open_store(str(source / name))).replay() for name in ("whole", "array")]
    assert states[0].sources == states[1].sources
    assert states[0].streams == states[1].streams
    assert sorted(s.sha256 for s in states[0].live_shards()) == sorted(s.sha256 for s in states[1].live_shards())


def test_a_join_that_is_killed_goes_on_where_it_was(source: Path) -> None:
    pipeline = lines_pipeline(source)
    build_parts(pipeline, source, 2)
    code = (
        "import os, sys\nfrom headrace.ingest.parts import join\n"
        "join(sys.argv[1], watch=lambda done, total: os._exit(9) if done > int(sys.argv[2]) else None)"
    )
    for stop in (3, 9, 15):
        killed = subprocess.run([sys.executable, "-c", code, str(source / "array"), str(stop)], check=False)
        assert killed.returncode == 9
    join(str(source / "array"))
    report = verify(Dataset.open(str(source / "array")))
    build(pipeline, str(source / "whole"), base=source, engine="inline", workers=1)
    assert report.problems == []
    assert report.content_digest == verify(Dataset.open(str(source / "whole"))).content_digest


def test_missing_unfinished_and_different_parts_are_refused(source: Path) -> None:
    pipeline = lines_pipeline(source)
    with pytest.raises(ConfigError, match="has no parts"):
        (source / "array").mkdir()
        join(str(source / "array"))
    build(pipeline, str(source / "array"), base=source, engine="inline", workers=1, fit_only=True)
    build(pipeline, str(source / "array"), base=source, workers=1, part=Part(0, 2))
    with pytest.raises(ConfigError, match=r"parts \[1\] of 2 were not built yet"):
        join(str(source / "array"))
    (source / "in" / "late.txt").write_text("a file that part 0 did not see\n")
    build(pipeline, str(source / "array"), base=source, workers=1, part=Part(1, 2))
    with pytest.raises(SourceChanged, match="saw another listing"):
        join(str(source / "array"))


@pytest.mark.parametrize("text", ["8/8", "3", "a/b", "1/0", "-1/4"])
def test_a_part_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="a part and their number"):
        Part.parse(text)


def test_parts_take_the_tokenizer_that_was_fitted_for_the_whole(source: Path) -> None:
    (source / "pictures").mkdir()
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(1)
    for i in range(6):
        Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(source / "pictures" / f"{i}.png")
    from headrace.ingest.folder import folder_pipeline

    pipeline = folder_pipeline(source / "pictures")
    with pytest.raises(ConfigError, match="headrace fit"):
        build(pipeline, str(source / "array"), base=source, workers=1, part=Part(0, 2))
    build_parts(pipeline, source, 2)
    join(str(source / "array"))
    build(pipeline, str(source / "whole"), base=source, engine="inline", workers=1)
    whole, array = (verify(Dataset.open(str(source / name))) for name in ("whole", "array"))
    assert array.problems == []
    assert whole.content_digest == array.content_digest
