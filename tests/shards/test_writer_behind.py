"""Blocks written in a thread beside the writer: the same bytes in the same order, bounded, every failure told."""

from __future__ import annotations

import hashlib
import random
import threading
import time
from typing import Any

import pytest
import xxhash

from headrace.schemas.errors import StorageError
from headrace.shards.writer_behind import QUEUED_BYTES, WriteBehind


class File:
    """Keeps what is written; may be slow, and may fail at its n-th write."""

    def __init__(self, *, fails_at: int | None = None, pause_s: float = 0.0) -> None:
        self.written: list[bytes] = []
        self.threads: set[int] = set()
        self._fails_at, self._pause_s = fails_at, pause_s
        self.held = 0

    def write(self, data: bytes | memoryview) -> int:
        if self._fails_at is not None and len(self.written) >= self._fails_at:
            raise StorageError("the disk is full")
        time.sleep(self._pause_s)
        self.threads.add(threading.get_ident())
        self.written.append(bytes(data))
        return len(data)


def behind(file: Any) -> WriteBehind:
    return WriteBehind(file)


def test_bytes_and_checksums_are_those_of_writing_at_once() -> None:
    rng = random.Random(3)
    file = File()
    out = behind(file)
    out.write(b"head")
    blocks = [[rng.randbytes(rng.randint(1, 50_000)) for _ in range(rng.randint(1, 9))] for _ in range(40)]
    for i, parts in enumerate(blocks):
        out.block(parts, more=i < len(blocks) - 1)
    out.write(b"tail")
    assert out.finish() == [xxhash.xxh3_64_hexdigest(b"".join(parts)) for parts in blocks]
    whole = b"head" + b"".join(b"".join(parts) for parts in blocks) + b"tail"
    assert b"".join(file.written) == whole and out.size == len(whole)
    assert out.hexdigest() == hashlib.sha256(whole).hexdigest()
    assert len(file.threads) == 2


def test_a_file_of_one_block_needs_no_thread_and_a_huge_block_is_not_copied_into_the_queue() -> None:
    file = File()
    out = behind(file)
    out.block([b"x" * (QUEUED_BYTES // 2 + 1)], more=True)
    out.block([b"only"], more=False)
    out.finish()
    assert file.threads == {threading.get_ident()}


def test_what_waits_is_bounded() -> None:
    file = File(pause_s=0.01)
    out = behind(file)
    block = bytes(QUEUED_BYTES // 8)
    for sent in range(1, 30):
        out.block([block], more=True)
        assert sent - len(file.written) <= 8 + 1
    out.finish()
    assert len(file.written) == 29


def test_a_failure_is_raised_at_the_next_call_and_never_lost() -> None:
    out = behind(File(fails_at=2))
    with pytest.raises(StorageError, match="disk is full"):
        for _ in range(100):
            out.block([b"block"], more=True)
            time.sleep(0.001)
    with pytest.raises(StorageError, match="disk is full"):
        out.finish()
    out.abort()


def test_a_failure_of_the_last_block_in_the_queue_is_told_by_finish() -> None:
    out = behind(File(fails_at=1))
    out.block([b"one"], more=True)
    out.block([b"two"], more=True)
    with pytest.raises(StorageError, match="disk is full"):
        out.finish()


def test_abort_leaves_no_thread() -> None:
    before = threading.active_count()
    out = behind(File(pause_s=0.01))
    for _ in range(5):
        out.block([b"block"], more=True)
    out.abort()
    assert threading.active_count() == before
