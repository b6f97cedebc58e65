"""Any single flipped bit in any file of a dataset is found by `verify`, with the file's name."""

from __future__ import annotations

import os
import random
from collections.abc import Callable

import pytest

from headrace.shards.catalogue import catalogue_files, read_catalogue
from headrace.shards.dataset import Dataset
from headrace.shards.log import CommitLog
from headrace.shards.quarantine import read_quarantine
from headrace.shards.store_local import LocalStore
from headrace.shards.testing import MemoryStore
from headrace.shards.verify import verify

FLIPS = 40  # for each kind of file


def flip(store: LocalStore, name: str, bit: int) -> None:
    with open(os.path.join(store.root, name), "r+b") as f:
        f.seek(bit // 8)
        byte = f.read(1)[0]
        f.seek(bit // 8)
        f.write(bytes([byte ^ (1 << bit % 8)]))


def test_random_single_bit_flips_in_every_kind_of_file_are_found(
    store: LocalStore, filled: Callable[..., CommitLog], every_4: None
) -> None:
    filled(store, 3)
    clean = verify(store)
    assert clean.ok and not clean.notes and clean.catalogue == clean.samples > 0
    rng = random.Random(20)
    names = list(store.list())
    kinds = {"log/0": 0, "log/ckpt/": 0, "data/": 0, "catalogue/": 0, "quarantine/": 0}
    for kind in kinds:
        files = [n for n in names if n.startswith(kind)]
        assert files, kind
        for _ in range(FLIPS):
            name = rng.choice(files)
            bit = rng.randrange(store.size(name) * 8)
            flip(store, name, bit)
            report = verify(store)
            assert not report.ok, (name, bit)
            assert any(p.file == name for p in report.problems), (name, bit, report.problems)
            flip(store, name, bit)
            kinds[kind] += 1
    assert sum(kinds.values()) == 5 * FLIPS >= 200
    again = verify(store)
    assert again.ok and again.content_digest == clean.content_digest


def test_every_byte_of_a_catalogue_and_of_a_quarantine_file_is_covered(
    memory: MemoryStore, filled: Callable[..., CommitLog]
) -> None:
    log = filled(memory, 1)
    file, info = catalogue_files(memory)[0], next(iter(log.state.quarantine.values()))
    for name, read in (
        (file.name, lambda: read_catalogue(memory, file)),
        (info.path, lambda: list(read_quarantine(memory, info))),
    ):
        good = memory.files[name]
        for at in range(0, len(good), 11):
            memory.files[name] = good[:at] + bytes([good[at] ^ 4]) + good[at + 1 :]
            with pytest.raises(Exception, match=r"hash to|different digests"):
                read()
        memory.files[name] = good
        read()


def test_a_flipped_bit_is_named_with_block_and_offset_when_it_is_read(
    store: LocalStore, filled: Callable[..., CommitLog]
) -> None:
    log = filled(store)
    shard = log.state.live_shards("tide")[1]
    block = shard.blocks[0]
    flip(store, shard.path, (block.offset + 500) * 8)
    with pytest.raises(Exception, match=rf"{shard.path}: block 0 \(bytes {block.offset} to .*\) was altered"):
        list(Dataset(store).batches("tide"))
    problem = next(p for p in verify(store).problems if p.place.startswith("block"))
    assert (problem.file, problem.place) == (shard.path, f"block 0 at byte {block.offset}")
