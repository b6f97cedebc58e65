"""No flipped bit, missing file or torn log passes unseen: named by `verify`, and by the loader wherever it reads it."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from headrace.schemas.errors import BrokenLog, FormatTooNew, HeadraceError, ShardError, TokenizerError
from headrace.shards import checkpoint, log, verify
from headrace.shards.catalogue import update_catalogue
from headrace.shards.dataset import Dataset
from headrace.shards.entry import entry_name
from headrace.shards.loader import dataset as loader
from headrace.shards.loader.dataset import ShardDataset
from headrace.shards.loader.sources import Source
from headrace.shards.store_local import LocalStore

from .worlds import World, many_kinds, rows_of, through_json, whole

FLIPS = 1_000
ORDER: dict[str, Any] = {"length": 64, "batch_size": 4, "window_bytes": None, "ids": "unified"}


def flip(path: str, bit: int) -> None:
    with open(path, "r+b") as f:
        f.seek(bit // 8)
        byte = f.read(1)[0]
        f.seek(bit // 8)
        f.write(bytes([byte ^ (1 << bit % 8)]))


def read(path: str, mapped: bool) -> list[Any]:
    return [row for batch in ShardDataset(path, mapped=mapped, **ORDER) for row in rows_of(batch)]


def parts_read(dataset: Dataset) -> dict[str, list[tuple[int, int]]]:
    """Byte ranges that a loader needs, by file: all entries after the checkpoint, heads and blocks, vocabulary."""
    state = dataset.state
    every = checkpoint.EVERY
    newest = state.v // every * every
    assert dataset.store.exists(checkpoint.checkpoint_name(newest))
    parts = {entry_name(v): [(0, 1 << 40)] for v in range(newest + 1, state.v + 1)}
    parts[entry_name(1)] = [(0, 1 << 40)]  # it says which dataset this is
    for shard in state.live_shards():
        parts[shard.path] = [(0, shard.head_bytes), *((b.offset, b.offset + b.length) for b in shard.blocks)]
    if state.vocab is not None:
        parts[f"vocab/{state.vocab}.json"] = [(0, 1 << 40)]
    else:
        parts |= {f.path: [(0, 1 << 40)] for t in state.tokenizers.values() for f in t.files}
    return parts


@pytest.fixture
def every_4(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint after every 4 entries instead of every 1,000."""
    for module in (checkpoint, log, verify):
        monkeypatch.setattr(module, "EVERY", 4)


@pytest.mark.parametrize("vocabulary", [True, False])
def test_a_thousand_random_bit_flips_are_caught(tmp_path: Path, every_4: None, vocabulary: bool) -> None:
    """`verify` sees one flip in every file at once and must name each; the loader sees each alone."""
    made = many_kinds(tmp_path / "a", 2, vocabulary, ["text", "image"], length=10)
    update_catalogue(Dataset.open(made.path))
    store = LocalStore(made.path)
    clean, reference = verify.verify(store), read(made.path, True)
    assert not clean.problems and clean.samples
    needed = parts_read(Dataset.open(made.path))
    names = sorted(store.list())
    kinds = {n.partition("/")[0] for n in names}
    assert {"log", "data", "catalogue", "tokenizers"} | ({"vocab"} if vocabulary else set()) == kinds
    assert any(n.startswith("log/ckpt/") for n in names)
    logs, others = [n for n in names if n.startswith("log/")], [n for n in names if not n.startswith("log/")]
    rng = random.Random(int(vocabulary))
    flips, read_by_loader = 0, 0
    while flips < FLIPS // 2:
        together = [rng.choice(logs)]
        if flips % 3:  # a changed vocabulary hides those that it extends
            together = [n for n in others if not n.startswith("vocab/")]
            together += rng.sample([n for n in others if n.startswith("vocab/")], int(vocabulary))
        bits = {name: rng.randrange(store.size(name) * 8) for name in together}
        flips += len(bits)
        for name, bit in bits.items():
            flip(os.path.join(made.path, name), bit)
        report = verify.verify(store)
        for name, bit in bits.items():
            assert any(p.file == name for p in report.problems), (name, bit, report.problems)
            flip(os.path.join(made.path, name), bit)
        for name, bit in bits.items():
            flip(os.path.join(made.path, name), bit)
            try:
                assert read(made.path, rng.random() < 0.7) == reference, (name, bit)
            except HeadraceError as exc:
                assert name in str(exc), (name, bit, str(exc))
                read_by_loader += 1
            else:
                seen = any(a <= bit // 8 < b for a, b in needed.get(name, []))
                assert not seen, f"the loader read bit {bit} of {name} and said nothing"
            flip(os.path.join(made.path, name), bit)
    assert read_by_loader > FLIPS // 8
    assert verify.verify(store).content_digest == clean.content_digest and read(made.path, False) == reference


@pytest.fixture
def copy(library: dict[str, World], tmp_path: Path) -> Path:
    """A dataset to spoil."""
    return Path(shutil.copytree(library["plain"].path, tmp_path / "copy"))


def test_a_torn_entry_a_hole_and_a_newer_format_are_errors_before_the_first_batch(copy: Path) -> None:
    head = Dataset.open(str(copy)).version
    for version in (1, 2, head - 1, head):
        path = copy / entry_name(version)
        good = path.read_bytes()
        for size in (0, 1, len(good) // 2, len(good) - 1):
            path.write_bytes(good[:size])
            with pytest.raises(BrokenLog, match=path.name):
                ShardDataset(str(copy))
        path.write_bytes(good)
    for version in (2, head - 3, head - 1):
        path = copy / entry_name(version)
        good = path.read_bytes()
        path.unlink()
        with pytest.raises(BrokenLog, match=f"{path.name} is missing"):
            ShardDataset(str(copy))
        path.write_bytes(good)
    path = copy / entry_name(head)
    good = path.read_bytes()
    import hashlib

    line = good.splitlines(keepends=True)[0].replace(b'"format":1,', b'"format":2,')
    path.write_bytes(line + hashlib.sha256(line).hexdigest().encode() + b"\n")
    with pytest.raises(FormatTooNew, match=rf"{path.name}.*2"):
        ShardDataset(str(copy))
    path.write_bytes(good)
    assert whole(ShardDataset(str(copy)))


def test_a_version_that_is_not_there_is_an_error_at_once(copy: Path) -> None:
    with pytest.raises(HeadraceError, match="999"):
        ShardDataset(Source(str(copy), version=999))
    with pytest.raises(HeadraceError, match="deadbeef"):
        ShardDataset(Source(str(copy), version="deadbeef"))


def test_a_shortened_or_lengthened_shard_is_named_when_it_is_due(copy: Path) -> None:
    shard = Dataset.open(str(copy)).state.live_shards("tide")[2]
    path = copy / shard.path
    good = path.read_bytes()
    for bytes_ in (good[:-1], good[: shard.head_bytes], b"", good + b"\0"):
        path.write_bytes(bytes_)
        for mapped in (True, False):
            with pytest.raises(ShardError, match=rf"{shard.path}: {len(bytes_)} bytes, the log says {shard.bytes}"):
                whole(ShardDataset(str(copy), mapped=mapped))


def test_two_shards_with_exchanged_names_are_named(copy: Path) -> None:
    a, b = Dataset.open(str(copy)).state.live_shards("tide")[:2]
    first, second = (copy / a.path).read_bytes(), (copy / b.path).read_bytes()
    (copy / a.path).write_bytes(second)
    (copy / b.path).write_bytes(first)
    with pytest.raises(ShardError, match=rf"({a.path}|{b.path}): "):
        whole(ShardDataset(str(copy)))


def test_a_missing_vocabulary_or_artefact_is_named(tmp_path: Path) -> None:
    made = many_kinds(tmp_path / "a", 1, True)
    state = Dataset.open(made.path).state
    path = tmp_path / "a" / "vocab" / f"{state.vocab}.json"
    data = path.read_bytes()
    path.unlink()
    with pytest.raises(HeadraceError, match=path.name):
        ShardDataset(made.path, ids="unified")
    path.write_bytes(data.replace(b"60000", b"60001"))
    with pytest.raises(TokenizerError, match=str(state.vocab)[:8]):
        ShardDataset(made.path, ids="unified")


# ---- a bad block is skipped by policy ----


def spoil(folder: Path, stream: str, number: int) -> Any:
    shard = Dataset.open(str(folder)).state.live_shards(stream)[number]
    flip(str(folder / shard.path), (shard.blocks[0].offset + 300) * 8)
    return shard


def test_a_bad_block_stops_the_run_and_names_shard_rows_and_bytes(copy: Path) -> None:
    shard = spoil(copy, "tide", 1)
    block = shard.blocks[0]
    words = rf"{shard.path}: the block of rows 0 to {block.rows} \(bytes {block.offset} to .*\) was altered: XXH3"
    with pytest.raises(ShardError, match=words):
        whole(ShardDataset(str(copy)))


@pytest.mark.parametrize("packing", ["cut", "whole", "pad"])
def test_a_skipped_block_is_warned_of_recorded_and_left_out_after_every_resume(
    copy: Path, packing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from .oracle import Part, Settings, sequences

    def made(**more: Any) -> ShardDataset:
        return ShardDataset(
            str(copy), length=64, window_bytes=9_000, packing=packing, on_bad="skip", epochs=2, **more  # type: ignore[arg-type]
        )  # fmt: skip

    dataset = Dataset.open(str(copy))
    part = Part([dataset], ["quay", "tide"], [((), (), 0)] * 2)
    sequences(Settings(), [part])  # reads the blocks while they are whole
    shards = [spoil(copy, "tide", 1), spoil(copy, "tide", 6)]
    table = dataset.state.live_shards("quay") + dataset.state.live_shards("tide")
    numbers = [[s.path for s in table].index(s.path) for s in shards]  # one block a shard
    part.skipped = {(lap, n) for lap in (0, 1) for n in numbers}
    told = Settings(packing=packing, window_bytes=9_000, epochs=2)
    expected = [[p.address() for p in row] for row in sequences(told, [part])]
    rows, states = [], []
    warnings: list[str] = []
    monkeypatch.setattr(loader, "_warn", warnings.append)
    for batch in made():
        rows.append([tuple(s) for s in batch["samples"].tolist() if s[3] >= 0])
        states.append(through_json(batch["state"]))
    assert rows == expected
    for shard in shards:
        assert sum(shard.path in warning for warning in warnings) == 2, "once an epoch"
    for shard in shards:  # repaired meanwhile: what a state says was left out stays left out
        flip(str(copy / shard.path), (shard.blocks[0].offset + 300) * 8)
    noted = 0
    for at in range(len(states) // 2 - 1, len(states), 5):
        again = made(batch_size=2)
        again.load_state_dict(states[at])
        window = states[at]["at"]["spots"][0]
        noted += len(window) > 3
        if len(window) > 3 and at + 1 < len(expected):
            first = [tuple(s) for s in next(iter(again))["samples"].tolist() if s[3] >= 0]
            assert first[: len(expected[at + 1])] == expected[at + 1]
    assert noted


def test_every_rank_and_worker_skips_the_same(copy: Path) -> None:
    spoil(copy, "tide", 1)
    version = Dataset.open(str(copy)).version
    rows: dict[int, Any] = {}
    for rank in range(3):
        data = ShardDataset(
            Source(str(copy), version=version), length=64, on_bad="skip", rank=rank, world_size=3, window_bytes=9_000
        )
        for batch in data:
            rows[batch["g"]] = rows_of(batch)[0]
    one = whole(ShardDataset(str(copy), length=64, on_bad="skip", window_bytes=9_000))
    assert [rows[g] for g in range(len(one))] == one


def test_too_many_bad_blocks_stop_the_run(library: dict[str, World], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(library["merged"].path, tmp_path / "copy"))
    for shard in Dataset.open(str(copy)).state.live_shards():
        for block in shard.blocks:
            flip(str(copy / shard.path), (block.offset + 300) * 8)
    with pytest.raises(HeadraceError, match="headrace verify"):
        whole(ShardDataset(str(copy), on_bad="skip"))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_missing_shard_is_named_before_the_first_batch(copy: Path, workers: int) -> None:
    shard = Dataset.open(str(copy)).state.live_shards()[-1]  # the last in order, read last
    (copy / shard.path).unlink()
    data: Any = ShardDataset(str(copy), shuffle=False, length=64, batch_size=1, window_bytes=1)
    if workers:
        from torch.utils.data import DataLoader

        data = DataLoader(data.torch(), batch_size=None, num_workers=workers)
    with pytest.raises(ShardError, match=f"{shard.path} is not there"):
        next(iter(data))
