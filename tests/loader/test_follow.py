"""Training while the dataset grows: each sample once, in eras that all ranks agree on, through kills of everybody."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from headrace.schemas.errors import ConfigError, StorageError
from headrace.shards.dataset import Dataset
from headrace.shards.loader import pinned
from headrace.shards.loader.dataset import ShardDataset
from headrace.shards.loader.sources import Source

from .jobs import Job
from .oracle import Part, Settings, sequences
from .worlds import World, compacted, forget_some, rows_of, through_json, tide, whole

ORDER: dict[str, Any] = {"length": 64, "seed": 3, "window_bytes": 9_000, "follow": True}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pinned, "_POLL_S", 0.02)


@pytest.fixture
def growing() -> Iterator[Callable[..., threading.Thread]]:
    """growing(world, step, steps, pause_s) → a thread that calls step(world, i) and then ends the writer."""
    threads = []

    def begin(made: World, step: Callable[[World, int], None], steps: int, pause_s: float) -> threading.Thread:
        def run() -> None:
            for i in range(steps):
                time.sleep(pause_s)
                step(made, i)
            made.log.end()

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        threads.append(thread)
        return thread

    yield begin
    for thread in threads:
        thread.join(30)


def parts_of(data: ShardDataset) -> list[Part]:
    """For the oracle, with the eras that the loader found."""
    parts = []
    for i, source in enumerate(data.pinned):
        eras = [era.upto for (c, _), era in sorted(data._eras.items()) if c == i]
        parts.append(
            Part([Dataset.open(source.source.dataset, v) for v in eras], source.streams, [((), (), 0)] * 9,
                 source.source.weight)
        )  # fmt: skip
    return parts


def addresses(rows: list[tuple[Any, ...]]) -> list[list[tuple[int, ...]]]:
    return [[a[1:] for a in row[2] if a[1] >= 0] for row in rows]


@pytest.mark.parametrize("packing", ["cut", "whole", "pad"])
def test_what_is_committed_later_is_read_in_eras_until_the_writer_ends(
    tmp_path: Path, packing: str, growing: Callable[..., threading.Thread]
) -> None:
    made = tide(tmp_path / "a", 2)
    growing(made, lambda w, i: w.grow(3 + i, 2, 1), 5, 0.1)
    data = ShardDataset(made.path, packing=packing, **ORDER)  # type: ignore[arg-type]
    rows = whole(data)
    told = Settings(packing=packing, seed=3, window_bytes=9_000, follow=True)
    assert len(data._eras) > 2
    assert addresses(rows) == [[p.address() for p in row] for row in sequences(told, parts_of(data))]


def test_deletions_compactions_and_two_sources_meanwhile(
    tmp_path: Path, growing: Callable[..., threading.Thread]
) -> None:
    a, b = tide(tmp_path / "a", 2), tide(tmp_path / "b", 1)

    def step(w: World, i: int) -> None:
        w.grow(4, 3, 2)
        if i == 1:
            compacted(w)
        if i == 2:
            forget_some(w, "lane = 0 and seq >= 12 and seq < 30")

    growing(a, step, 5, 0.1)
    growing(b, step, 3, 0.1)
    data = ShardDataset([Source(a.path, weight=2), b.path], **ORDER)
    rows = whole(data)
    told = Settings(seed=3, window_bytes=9_000, follow=True)
    assert addresses(rows) == [[p.address() for p in row] for row in sequences(told, parts_of(data))]


def test_a_resume_in_any_era_goes_on_with_the_same_eras(
    tmp_path: Path, growing: Callable[..., threading.Thread]
) -> None:
    made = tide(tmp_path / "a", 2)
    growing(made, lambda w, i: w.grow(3 + i, 2, 1), 5, 0.1)
    run = str(tmp_path / "run")
    data = ShardDataset(made.path, run=run, **ORDER)
    batches = [(rows_of(batch), through_json(batch["state"])) for batch in data]
    laps = {state["at"]["spots"][0][0] for _, state in batches}
    assert len(laps) > 2
    for at in range(0, len(batches), 7):
        for folder in (run, None):  # a state knows the eras up to its own; the later ones are in the run folder
            if folder is None and batches[at][1]["at"]["spots"][0][0] < max(laps) - 1:
                continue
            again = ShardDataset(Source(made.path), run=folder, **ORDER)
            again.load_state_dict(batches[at][1])
            assert [rows_of(batch) for batch in again] == [rows for rows, _ in batches[at + 1 :]]


def test_why_answers_for_samples_of_later_eras(tmp_path: Path, growing: Callable[..., threading.Thread]) -> None:
    made = tide(tmp_path / "a", 1)
    first = made.log.state.v
    growing(made, lambda w, i: w.grow(3, 2, 1), 3, 0.05)
    data = ShardDataset(made.path, **ORDER)
    told = [data.why(s) for batch in data for s in batch["samples"] if s["seq"] >= 0]
    assert max(t["commit"] for t in told) > first


def test_several_processes_without_a_place_to_agree_are_refused(library: dict[str, World], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="run: 2 processes must read the same version"):
        ShardDataset(library["plain"].path, rank=0, world_size=2)
    with pytest.raises(ConfigError, match="`follow` in several processes needs `run`"):
        ShardDataset(Source(library["plain"].path, version=5), rank=0, world_size=2, **ORDER)
    other = str(tmp_path / "run")
    ShardDataset(library["plain"].path, run=other, **ORDER)
    with pytest.raises(ConfigError, match=r"the run folder .* was made with length 64, not 32"):
        ShardDataset(library["plain"].path, run=other, **{**ORDER, "length": 32})
    next((tmp_path / "run").glob("settings.json")).write_text("{")
    with pytest.raises(StorageError, match=r"settings\.json is not JSON"):
        ShardDataset(library["plain"].path, run=other, **ORDER)


def test_ranks_that_are_killed_and_resumed_agree_on_every_era(
    tmp_path: Path, growing: Callable[..., threading.Thread]
) -> None:
    rng = random.Random(6)
    made = tide(tmp_path / "a", 2, length=20)
    writer = growing(made, lambda w, i: w.grow(2, 1, 1), 25, 0.2)
    with Job(made.path, tmp_path / "job", run=str(tmp_path / "run"), **ORDER) as job:
        for world, batch in [(2, 1), (1, 2), (2, 3)]:
            job.start(world, batch, pause_s=0.02)
            goal = rng.randint(2, 5)
            job.wait(lambda goal=goal: all(len(lines) >= goal for lines in job.lines()))
            time.sleep(rng.uniform(0, 0.2))
            job.kill()
        job.start(2, 2)
        job.finish()
        writer.join()
        told = Dataset.open(made.path).streams().values()
        assert job.check_each_sample_once() == sum(stream.rows for stream in told) > 100


@pytest.mark.server
def test_a_trainer_on_a_dataset_that_serve_is_growing_sees_each_sample_once_through_kills(tmp_path: Path) -> None:
    from ..ingest.serving import Serving
    from ..servers.redis import RedisServer

    pipeline = """streams:
  m:
    source: {{type: redis, url: "{url}", streams: [m]}}
    record: {{type: text, field: body}}
    tokenizer: {{type: bytes}}
    live: {{commit_every_s: 0.3, discover_every_s: 0.5}}
"""
    rng, enough, pushed = random.Random(2), threading.Event(), 0

    with RedisServer() as server, Serving(pipeline.format(url=server.url), tmp_path) as service:
        client = server.client()

        def push() -> None:
            nonlocal pushed
            while not enough.wait(0.02):
                client.xadd("m", {"data": json.dumps({"body": f"message {pushed} {'x' * (pushed % 50)}"})})
                pushed += 1

        pusher = threading.Thread(target=push, daemon=True)
        pusher.start()
        service.start()
        service.wait(lambda: service.samples("m") > 5)
        folder = tmp_path / "run"
        with Job(str(service.out), tmp_path / "job", run=str(folder), **ORDER) as job:
            for n, (world, batch) in enumerate([(2, 1), (1, 3), (2, 2)]):
                job.start(world, batch, pause_s=0.02)
                goal = rng.randint(2, 4)
                job.wait(lambda goal=goal: all(len(lines) >= goal for lines in job.lines()))
                time.sleep(rng.uniform(0, 0.3))
                job.kill()
                if n == 0:
                    service.kill()
                    service.start()
            job.start(2, 1)
            job.wait(lambda: all(lines for lines in job.lines()))
            enough.set()
            pusher.join()
            service.wait(lambda: service.samples("m") >= pushed)
            assert service.drain() == 0
            job.finish()
            assert job.check_each_sample_once() == pushed > 50
        assert len(list(folder.glob("source-0-*-era-*.json"))) >= 3
