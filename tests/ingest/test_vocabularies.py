"""The unified vocabulary of a dataset: one file, named by the log, that only ever grows at its end."""

from __future__ import annotations

import json
import math
import random
import shutil
import subprocess
import sys
import wave
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headrace import ShardDataset
from headrace.ingest.build import build
from headrace.ingest.parts import Part, join
from headrace.ingest.pipeline_file import make_pipeline
from headrace.ingest.resolve import Runtime
from headrace.ingest.service import Service
from headrace.schemas.errors import ConfigError, TokenizerError
from headrace.schemas.vocabulary import FIRST, Block, Vocabulary
from headrace.shards.dataset import Dataset
from headrace.shards.entry import Entry
from headrace.shards.gc import collect
from headrace.shards.log import CommitLog
from headrace.shards.store import open_store
from headrace.shards.verify import verify
from headrace.shards.vocabularies import lineage, vocabulary_name, with_blocks_for

BYTES: dict[str, Any] = {"record": {"type": "text"}, "tokenizer": {"type": "bytes"}}
FITTED: dict[str, Any] = {
    "record": {"type": "text"},
    "tokenizer": {"type": "sentencepiece", "vocab_size": 400},
}
MU_LAW: dict[str, Any] = {"record": {"type": "audio"}, "tokenizer": {"type": "mu-law"}}
STEPS: list[dict[str, Any]] = [
    {"sounds": MU_LAW},
    {"letters": BYTES, "sounds": MU_LAW},
    {"letters": BYTES, "logs": FITTED, "sounds": MU_LAW},
]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folders of texts and one of sounds, and a dataset `grown` that was built in three steps."""
    tmp_path, rng = tmp_path_factory.mktemp("world"), random.Random(3)
    for folder in ("letters", "logs"):
        (tmp_path / folder).mkdir()
        for i in range(40):
            words = " ".join(rng.choice(["harbour", "tide", "quay", folder, "north", "pilot"]) for _ in range(60))
            (tmp_path / folder / f"{i:02d}.txt").write_text(f"{words}.\n")
    (tmp_path / "sounds").mkdir()
    for i in range(3):
        with wave.open(str(tmp_path / "sounds" / f"{i}.wav"), "wb") as f:
            f.setnchannels(1)
            f.setsampwidth(2)
            f.setframerate(16_000)
            f.writeframes((np.sin(np.arange(8000) * (i + 1) * math.tau / 80) * 9000).astype("<i2").tobytes())
    for streams in STEPS:
        made(tmp_path, "grown", **streams)
    return tmp_path


@pytest.fixture
def steps(world: Path, tmp_path: Path) -> list[Dataset]:
    """A copy of `grown` at the version of each of its vocabularies, oldest first."""
    shutil.copytree(world / "grown", tmp_path / "grown")
    log = CommitLog(open_store(str(tmp_path / "grown")))
    versions = [entry.v for entry, _ in log.entries(1, log.replay().v) if entry.vocab]
    return [*(Dataset(log.store, CommitLog(log.store).replay(v)) for v in versions[:-1]), Dataset(log.store, log.state)]


def made(world: Path, out: str, workers: int = 1, **streams: dict[str, Any]) -> Dataset:
    """A build of streams named after folders; verify finds nothing wrong with it."""
    build(pipeline_of(world, streams), str(world / out), base=world, engine="inline", workers=workers)
    assert verify(open_store(str(world / out))).problems == []
    return Dataset.open(str(world / out))


def pipeline_of(world: Path, streams: dict[str, Any]) -> Any:
    document = {
        name: {"source": {"type": "files", "root": str(world / name.partition("_")[0])}, **spec}
        for name, spec in streams.items()
    }
    return make_pipeline({"streams": document}, base=world)


def stored(dataset: Dataset) -> Vocabulary:
    """The file that the log names."""
    assert dataset.state.vocab is not None
    return Vocabulary.from_bytes(dataset.store.get(vocabulary_name(dataset.state.vocab)), dataset.state.vocab)


def starts(dataset: Dataset) -> dict[str, int]:
    """Where the unified ids of each stream begin."""
    vocabulary = stored(dataset)
    settings = sorted(dataset.state.settings.items())
    return {name: vocabulary.block(str(s.tokenizer)).start for name, s in settings if s.tokenizer}


def test_the_first_build_names_a_file_before_its_first_sample(steps: list[Dataset]) -> None:
    first = steps[0]
    assert starts(first) == {"sounds": FIRST} and stored(first).parent is None
    entries = [entry for entry, _ in CommitLog(first.store).entries(1, first.version)]
    assert not any(entry.add for entry in entries) and entries[-1].vocab == first.state.vocab


def test_later_builds_append_and_no_id_moves(steps: list[Dataset]) -> None:
    first, second, third = steps
    assert starts(first).items() < starts(second).items() < starts(third).items()
    assert stored(second).parent == first.state.vocab and stored(third).parent == second.state.vocab
    chain = lineage(third.store, str(third.state.vocab))
    assert list(chain) == [third.state.vocab, second.state.vocab, first.state.vocab]
    assert [len(v.blocks) for v in chain.values()] == [3, 2, 1]
    assert [dataset.vocabulary() for dataset in steps] == [stored(dataset) for dataset in steps]


def test_a_build_that_adds_no_tokenizer_leaves_the_file(world: Path, steps: list[Dataset]) -> None:
    folder = steps[-1].store.url
    build(pipeline_of(world, STEPS[-1]), folder, base=world, engine="inline", workers=1)
    again = Dataset.open(folder)
    assert again.version > steps[-1].version and again.state.vocab == steps[-1].state.vocab


def test_the_file_depends_on_the_streams_and_not_on_the_workers_or_their_order(world: Path) -> None:
    streams = {"letters": FITTED, "logs": FITTED, "logs_too": MU_LAW, "sounds": MU_LAW}
    one = made(world, "one", 1, **streams)
    three = made(world, "three", 3, **dict(reversed(streams.items())))
    assert one.state.vocab == three.state.vocab
    assert list(starts(one)) == list(streams) and list(starts(one).values()) == sorted(starts(one).values())
    assert verify(one).content_digest == verify(three).content_digest


def test_a_dataset_from_before_vocabularies_gets_one_at_its_next_build(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("headrace.ingest.coordinator.grow_vocabulary", lambda log: None)
        old = made(world, "old", letters=BYTES)
    assert old.state.vocab is None
    new = made(world, "old", letters=BYTES, logs=BYTES)
    assert new.vocabulary() == stored(new) == old.vocabulary()
    assert starts(new) == {"letters": FIRST, "logs": FIRST}, "streams with one tokenizer share its ids"


def test_a_service_appends_what_its_streams_add(world: Path, steps: list[Dataset]) -> None:
    folder, before = steps[-1].store.url, str(steps[-1].state.vocab)
    source = {"type": "files", "root": str(world / "logs")}
    pipeline = pipeline_of(world, {**STEPS[-1], "logs_raw": BYTES})
    service = Service(Runtime.of(pipeline, folder, world).to_json())
    service.start()
    try:
        with service.lock:
            assert service.log.state.vocab == before, "the tokenizer of `letters` has its ids"
            with pytest.raises(ConfigError, match="never fitted"):
                service.add("more", {"source": source, **FITTED})
            assert service.log.state.vocab == before
            fine = {"source": {**source, "root": str(world / "sounds")}, "record": {"type": "audio"}}
            service.add("fine", {**fine, "tokenizer": {"type": "mu-law", "bits": 12}})
    finally:
        service.drain()
        service.finish()
    dataset = Dataset.open(folder)
    assert stored(dataset).parent == before and starts(dataset).items() > starts(steps[-1]).items()
    assert set(starts(dataset)) == {"letters", "logs", "logs_raw", "fine", "sounds"}
    assert verify(dataset).problems == []


def test_parts_that_are_joined_have_the_vocabulary_of_the_undivided_build(world: Path) -> None:
    streams = STEPS[-1]
    whole = made(world, "whole", **streams)
    pipeline = pipeline_of(world, streams)
    build(pipeline, str(world / "array"), base=world, engine="inline", workers=1, fit_only=True)
    fitted = Dataset.open(str(world / "array"))
    assert fitted.state.vocab == whole.state.vocab
    for i in range(2):
        build(pipeline, str(world / "array"), base=world, workers=1, part=Part(i, 2))
    assert join(str(world / "array")).vocab == whole.state.vocab


def test_the_loader_gives_the_ids_of_the_file(steps: list[Dataset]) -> None:
    data = ShardDataset(steps[-1].store.url, ids="unified", length=512, seed=4)
    assert data.vocabulary == stored(steps[-1])
    seen = np.unique(np.concatenate([batch["tokens"].ravel() for batch in data]))
    owners = [stored(steps[-1]).owner(int(i)) for i in seen[seen >= FIRST]]
    assert {owner.kind for owner in owners if isinstance(owner, Block)} == {"bytes", "mu-law", "sentencepiece"}


def test_gc_keeps_the_files_of_older_versions_and_takes_those_of_nobody(steps: list[Dataset]) -> None:
    store, stray = steps[-1].store, Vocabulary().append("0" * 64, "nobody", 9)
    store.put_new(vocabulary_name(stray.digest), stray.to_bytes())
    taken = collect(store, CommitLog(store).replay(), delete=True).garbage
    assert [g.name for g in taken if g.name.startswith("vocab/")] == [vocabulary_name(stray.digest)]
    assert [len(stored(dataset).blocks) for dataset in steps] == [1, 2, 3]


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_changed_or_missing_file_is_named(steps: list[Dataset], which: int) -> None:
    newest = steps[-1]
    name = vocabulary_name(str(steps[which].state.vocab))
    path = Path(newest.store.local_path(name) or "")
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    path.write_bytes(data)
    for deep in (False, True):
        assert [p.file for p in verify(newest, deep=deep).problems] == [name]
    with pytest.raises(TokenizerError, match="was changed"):
        collect(newest.store, newest.state)
    path.unlink()
    assert [p.file for p in verify(newest, deep=False).problems] == [name]


def test_a_child_that_moves_an_id_is_found_by_verify(steps: list[Dataset]) -> None:
    parent = steps[-1].state.vocab
    moved = Vocabulary((Block("f" * 64, "other", FIRST, 300), *stored(steps[-1]).blocks[1:]), parent)
    steps[-1].store.put_new(vocabulary_name(moved.digest), moved.to_bytes())
    log = CommitLog(steps[-1].store)
    log.claim({}, {})
    log.append(Entry(kind="commit", vocab=moved.digest))
    (problem,) = verify(log.store, deep=False).problems
    assert problem.file == vocabulary_name(str(parent)) and "does not extend it" in problem.message


def test_a_tokenizer_of_another_size_than_its_block_is_refused(steps: list[Dataset]) -> None:
    state = steps[0].state
    settings = {"sounds": replace(state.settings["sounds"], vocab_size=1024)}
    with pytest.raises(TokenizerError, match="has 1024 ids, its block was made for 538"):
        with_blocks_for(stored(steps[0]), settings, state.tokenizers)


def test_inspect_shows_where_ids_begin(steps: list[Dataset]) -> None:
    dataset = steps[-1]
    command = [sys.executable, "-m", "headrace", "inspect", dataset.store.url]
    told = json.loads(subprocess.run([*command, "--json"], capture_output=True, check=True, text=True).stdout)
    assert told["vocabulary"]["digest"] == dataset.state.vocab and told["vocabulary"]["size"] == stored(dataset).size
    assert {s: b["start"] for b in told["vocabulary"]["blocks"] for s in b["streams"]} == starts(dataset)
    assert "unified ids from" in subprocess.run(command, capture_output=True, check=True, text=True).stdout
