"""The node's cache: raced by processes that are killed, bounded, and never harming what is not its."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pyarrow as pa
import pytest
import xxhash

from headrace.schemas.errors import StorageError
from headrace.shards.loader.cache import NodeCache

FORK = multiprocessing.get_context("fork")


def block(n: int) -> tuple[str, int, pa.Buffer, str]:
    """(sha256, offset, bytes, xxh3) of block n: a function of n alone."""
    data = random.Random(n).randbytes(2_000 + 37 * n)
    return f"{n % 7:064x}", 64 * n, pa.py_buffer(data), xxhash.xxh3_64_hexdigest(data)


def used(cache: NodeCache) -> int:
    return sum(f.stat().st_size for f in cache.root.rglob("*.block"))


def test_what_was_kept_is_found_and_nothing_else(tmp_path: Path) -> None:
    cache = NodeCache(str(tmp_path), 1 << 20)
    sha, offset, data, xxh3 = block(3)
    assert cache.find(sha, offset, data.size, xxh3) is None
    cache.keep(sha, offset, data)
    found = NodeCache(str(tmp_path), 1 << 20).find(sha, offset, data.size, xxh3)
    assert found is not None and found.equals(data)
    assert cache.find(sha, offset + 64, data.size, xxh3) is None
    assert cache.find(block(4)[0], offset, data.size, xxh3) is None


@pytest.mark.parametrize("damage", [lambda d: d[:-1], lambda d: b"", lambda d: d[:9] + bytes([d[9] ^ 1]) + d[10:]])
def test_a_damaged_file_is_removed_and_fetched_again(tmp_path: Path, damage) -> None:  # type: ignore[no-untyped-def]
    cache = NodeCache(str(tmp_path), 1 << 20)
    sha, offset, data, xxh3 = block(3)
    cache.keep(sha, offset, data)
    path = next(cache.root.rglob("*.block"))
    path.write_bytes(damage(data.to_pybytes()))
    assert cache.find(sha, offset, data.size, xxh3) is None
    assert not path.exists()
    cache.keep(sha, offset, data)
    assert cache.find(sha, offset, data.size, xxh3) is not None


def test_the_limit_is_kept_and_the_longest_unused_go_first(tmp_path: Path) -> None:
    limit = 40_000
    cache = NodeCache(str(tmp_path), limit)
    for n in range(60):
        sha, offset, data, _ = block(n)
        cache.keep(sha, offset, data)
        os.utime(cache._path(sha, offset), (n, n))
        first = block(0)
        if cache.find(first[0], first[1], first[2].size, first[3]) is not None:  # used again and again
            os.utime(cache._path(first[0], first[1]), (1000 + n, 1000 + n))
        assert used(cache) <= limit * 1.02 + data.size
    kept = [n for n in range(60) if cache._path(*block(n)[:2]).exists()]
    assert kept[0] == 0 and kept[1:] == list(range(kept[1], 60))


def test_foreign_files_are_never_removed_or_counted(tmp_path: Path) -> None:
    root = tmp_path / "headrace-blocks"
    (root / "ab").mkdir(parents=True)
    outside = tmp_path / "precious"
    outside.mkdir()
    (outside / f"{'a' * 64}-0.block").write_bytes(b"x" * 100_000)
    mine = [root / "notes.txt", root / "ab" / "model.bin", root / "ab" / "abc-0.block", root / "ab" / ".new-short"]
    for path in mine:
        path.write_bytes(b"x" * 100_000)
        os.utime(path, (1, 1))
    (root / "cd").symlink_to(outside)
    cache = NodeCache(str(tmp_path), 10_000)
    for n in range(30):
        sha, offset, data, _ = block(n)
        cache.keep(sha, offset, data)
    assert all(path.exists() for path in mine) and (outside / f"{'a' * 64}-0.block").exists()
    assert 0 < used(cache) - 100_000 <= 20_000


def test_half_written_files_go_when_they_are_old(tmp_path: Path) -> None:
    cache = NodeCache(str(tmp_path), 10_000)
    sha, offset, data, _ = block(1)
    cache.keep(sha, offset, data)
    folder = cache._path(sha, offset).parent
    old, new = folder / f".new-{'0' * 16}", folder / f".new-{'1' * 16}"
    old.write_bytes(b"half")
    new.write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    cache.keep(sha, offset, data)
    assert not old.exists() and new.exists()


def test_a_folder_that_cannot_be_made_or_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot make the cache"):
        NodeCache(str(tmp_path / "file"), 1000)
    cache = NodeCache(str(tmp_path), 1000)

    def full(*_: object) -> None:
        raise OSError(28, "no space left")

    monkeypatch.setattr(os, "replace", full)
    sha, offset, data, xxh3 = block(0)
    cache.keep(sha, offset, data)
    assert cache.find(sha, offset, data.size, xxh3) is None
    assert [f for f in cache.root.rglob("*") if f.is_file()] == []


def race(folder: str, seed: int, limit: int) -> None:
    rng, cache = random.Random(seed), NodeCache(folder, limit)
    while True:
        sha, offset, data, xxh3 = block(rng.randrange(40))
        found = cache.find(sha, offset, data.size, xxh3)
        if found is None:
            cache.keep(sha, offset, data)
        elif not found.equals(data):
            os._exit(9)


def test_processes_race_and_are_killed_at_random_and_every_block_found_is_whole(tmp_path: Path) -> None:
    limit, rng = 60_000, random.Random(1)
    running = [FORK.Process(target=race, args=(str(tmp_path), n, limit), daemon=True) for n in range(4)]
    for process in running:
        process.start()
    cache = NodeCache(str(tmp_path), limit)
    end = time.monotonic() + 3
    kills = 0
    while time.monotonic() < end:
        time.sleep(rng.uniform(0.02, 0.2))
        victim = rng.randrange(4)
        assert running[victim].is_alive(), running[victim].exitcode
        assert running[victim].pid is not None
        os.kill(running[victim].pid, signal.SIGKILL)
        running[victim].join()
        kills += 1
        running[victim] = FORK.Process(target=race, args=(str(tmp_path), 100 + kills, limit), daemon=True)
        running[victim].start()
        for n in rng.sample(range(40), 5):
            sha, offset, data, xxh3 = block(n)
            found = cache.find(sha, offset, data.size, xxh3)
            assert found is None or found.equals(data)
    for process in running:
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    assert kills > 3
    sha, offset, data, _ = block(0)
    NodeCache(str(tmp_path), limit).keep(sha, offset, data)  # the next run measures and cleans
    assert used(cache) <= limit
