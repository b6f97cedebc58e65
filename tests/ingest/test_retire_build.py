"""A fast engine goes wrong in a build: it stops, naming the document; a rerun ends as if the reference had encoded."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from headrace.commands.summary import dataset_summary
from headrace.ingest.build import BuildFailed
from headrace.ingest.build import build as run
from headrace.ingest.engine_report import engine_of, in_words
from headrace.ingest.parts import Part, join
from headrace.ingest.pipeline_file import load_pipeline
from headrace.ingest.reencode_run import reencode_dataset
from headrace.ingest.view import Address, DatasetView
from headrace.shards.dataset import Dataset
from headrace.shards.spans import count
from headrace.shards.state import State
from headrace.shards.verify import verify

from .retire_plugins import QUICK
from .serving import HEADRACE

FILES, LINES = 6, 40
PIPELINE = """
streams:
  lines:
    source: {type: "./plugins.py:Lines", root: in}
    record: {type: "./plugins.py:Obedient"}
    tokenizer: {type: "./retire_plugins.py:Words"}
    shards: {payload_mib: 0.002}
"""


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str | None]:
    """A build that found the engine wrong at its last line; and the content of one in which there never was an engine.

    Of its lines some are wrong at once, and the last one of all is compared.
    """
    place = tmp_path_factory.mktemp("retire")
    for name in ("plugins.py", "retire_plugins.py"):
        shutil.copy(Path(__file__).with_name(name), place / name)
    (place / "in").mkdir()
    (place / "pipeline.yaml").write_text(PIPELINE)
    for i in range(FILES):
        kinds = {3: "WRONG", 7: "WORSE", 11: "LOSSY", 15: "LOSSY WRONG"} if i % 2 == 0 else {}
        lines = [f"line {j} of {i} {'abc' * (j % 5)} {kinds.get(j, '')}".rstrip() for j in range(LINES)]
        if i == FILES - 1:
            lines[-1] += " WRONG CHECKED"
        (place / "in" / f"f{i}.txt").write_text("\n".join(lines) + "\n")
    (place / "no-engine").touch()
    assert build(place, "reference").returncode == 0
    (place / "no-engine").unlink()
    first = build(place)
    assert first.returncode == 1
    (said,) = first.stderr.strip().splitlines()[-1:]
    state = state_of(place)
    (retired,) = state.engines.retired.values()
    assert retired.engine == QUICK and retired.stream == "lines"
    for words in (QUICK, "lines", f"f{FILES - 1}.txt", retired.record, "run the same command again"):
        assert words in said
    digest(place / "out")
    return place, digest(place / "reference")


@pytest.fixture
def place(failed: tuple[Path, str | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, where we are: the source's root is relative."""
    copy = Path(shutil.copytree(failed[0], tmp_path / "copy"))
    monkeypatch.chdir(copy)
    return copy


def rebuild(place: Path) -> dict[str, Any]:
    """The same build again; the summary of its stream."""
    run(load_pipeline(place / "pipeline.yaml"), str(place / "out"), base=place, workers=1, engine="inline")
    (stream,) = dataset_summary(DatasetView.open(str(place / "out")))["streams"]
    return dict(stream)


def headrace(place: Path, *arguments: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*HEADRACE, *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False, cwd=place
    )


def build(place: Path, out: str = "out") -> subprocess.CompletedProcess[str]:
    return headrace(place, "build", "pipeline.yaml", "-o", out, "--workers", 1, "--engine", "inline", "--json")


def digest(path: Path) -> str | None:
    report = verify(Dataset.open(str(path)))
    assert report.problems == []
    return report.content_digest


def state_of(place: Path) -> State:
    return Dataset.open(str(place / "out")).state


def test_a_rerun_encodes_again_and_equals_a_build_with_the_reference(
    place: Path, failed: tuple[Path, str | None]
) -> None:
    state = state_of(place)
    due = sum(count(spans) for _, spans in state.engines.due_lanes(state.settings))
    assert 0 < due == sum(s.rows for s in state.live_shards("lines"))
    stream = rebuild(place)
    assert stream["samples"] == FILES * LINES and stream["quarantined"] == 0
    engine = stream["engine"]
    assert (engine["name"], engine["checked"], engine["replaced"]) == ("reference", due, 9)
    assert (engine["due"], engine["unchecked"]) == (0, 0)
    assert digest(place / "out") == failed[1]
    view = DatasetView.open(str(place / "out"))
    (told,) = view.why(Address("lines", 0, 3))["reencoded"]["instead_of"]
    assert told["engine"] == QUICK
    assert view.why(Address("lines", 0, 4))["reencoded"] is None
    words = in_words(engine_of(view.dataset.state, "lines"))
    assert words.startswith(f"reference ({QUICK} retired at v") and words.endswith(f"9 of {due} samples replaced)")
    version = view.dataset.version
    rebuild(place)
    assert state_of(place).v == version + 2  # a claim and an end: there is nothing left to do


def test_a_rerun_that_is_killed_between_shards_goes_on(place: Path, failed: tuple[Path, str | None]) -> None:
    (place / "slow").touch()
    process = subprocess.Popen(
        [*HEADRACE, "build", "pipeline.yaml", "-o", "out", "--workers", "1", "--engine", "inline"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, cwd=place,
    )  # fmt: skip
    end = time.monotonic() + 60
    while not state_of(place).engines.again:
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    digest(place / "out")
    state = state_of(place)
    assert list(state.engines.due_lanes(state.settings))
    (place / "slow").unlink()
    rebuild(place)
    assert digest(place / "out") == failed[1]


def test_what_cannot_be_read_again_stays_and_is_counted_until_it_can(place: Path) -> None:
    kept = (place / "in" / "f0.txt").rename(place / "f0.txt")
    told = headrace(place, "reencode", "out", "--pipeline", "pipeline.yaml", "--json")
    assert told.returncode == 0, told.stderr
    engine = json.loads(told.stdout)["streams"]["lines"]
    assert (engine["replaced"], engine["unchecked"], engine["due"]) == (7, 3, 0)  # WORSE and both LOSSY of f0 are left
    before = digest(place / "out")
    kept.rename(place / "in" / "f0.txt")
    reencode_dataset(load_pipeline(place / "pipeline.yaml"), "out", base=place, workers=1)
    engine = engine_of(state_of(place), "lines")
    assert (engine["replaced"], engine["unchecked"], engine["due"]) == (9, 0, 0)
    assert digest(place / "out") != before


def test_parts_that_are_joined_bring_their_retirement_along(place: Path, failed: tuple[Path, str | None]) -> None:
    pipeline, whole = load_pipeline(place / "pipeline.yaml"), str(place / "joined")
    with pytest.raises(BuildFailed, match="run the same command again"):
        run(pipeline, whole, base=place, workers=1, part=Part(0, 1))
    run(pipeline, whole, base=place, workers=1, part=Part(0, 1))
    state = join(whole)  # the files of the part are joined as they were committed
    assert [r.engine for r in state.engines.retired.values()] == [QUICK]
    assert list(state.engines.due_lanes(state.settings))
    run(pipeline, whole, base=place, workers=1, engine="inline")
    assert digest(place / "joined") == failed[1]
