"""Decompression: all of what is there, a true prefix of what was, and never more than the budget."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import tracemalloc
from functools import cache

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.connectors.expand import KINDS, Budget, expand
from headrace.schemas.errors import RecordError

PACK = {
    "gzip": lambda data: gzip.compress(data, 6, mtime=0),
    "zstd": lambda data: zstandard.ZstdCompressor(3, write_checksum=True).compress(data),
    "xz": lzma.compress,
    "bzip2": bz2.compress,
}


def unpack(kind: str, packed: bytes, budget: Budget | None = None) -> tuple[bytes, RecordError | None]:
    out = bytearray()
    try:
        for chunk in expand(kind, io.BytesIO(packed), budget or Budget()):
            assert len(chunk) <= 1 << 20
            out += chunk
    except RecordError as exc:
        return bytes(out), exc
    return bytes(out), None


@cache
def sample(seed: int, size: int) -> bytes:
    """Bytes that compress a little, as text does."""
    return bytes(random.Random(seed).choices(b"abcdefgh \n", k=size))


@cache
def packed_sample(kind: str, seed: int, size: int) -> bytes:
    return PACK[kind](sample(seed, size))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [0, 1, 1000, 700_000])
def test_what_was_packed_comes_out(kind: str, size: int) -> None:
    data = sample(size, size)
    assert unpack(kind, PACK[kind](data)) == (data, None)


@pytest.mark.parametrize("kind", KINDS)
def test_members_one_after_another_are_one_stream(kind: str) -> None:
    first, second = sample(1, 5000), sample(2, 70_000)
    padding = b"" if kind == "zstd" else b"\0" * 512
    assert unpack(kind, PACK[kind](first) + PACK[kind](second) + padding) == (first + second, None)


def test_zstd_frames_of_every_shape_come_out() -> None:
    data = sample(3, 300_000) + b"\0" * 500_000
    for level in (-5, 1, 19):
        for known in (True, False):
            packer = zstandard.ZstdCompressor(level, write_content_size=known, write_checksum=known)
            stream = packer.compressobj(size=len(data) if known else -1)
            packed = stream.compress(data) + stream.flush()
            skippable = b"\x50\x2a\x4d\x18\x05\0\0\0hello"
            assert unpack("zstd", skippable + packed + skippable) == (data, None)


@settings(max_examples=60, deadline=None)
@given(kind=st.sampled_from(KINDS), seed=st.integers(0, 1), share=st.floats(0, 1, exclude_max=True))
def test_a_cut_stream_gives_a_true_prefix_and_says_so(kind: str, seed: int, share: float) -> None:
    data = sample(seed, 150_000)
    packed = packed_sample(kind, seed, 150_000)
    got, damage = unpack(kind, packed[: int(len(packed) * share)])
    assert damage is not None
    assert damage.reason in ("truncated", "empty")
    assert data.startswith(got)


def test_a_cut_gzip_gives_all_that_zlib_could_have_given() -> None:
    data = sample(9, 300_000)
    packed = PACK["gzip"](data)
    import zlib

    for cut in (100, 5000, len(packed) // 2, len(packed) - 8):
        assert unpack("gzip", packed[:cut])[0] == zlib.decompressobj(31).decompress(packed[:cut])


@settings(max_examples=60, deadline=None)
@given(kind=st.sampled_from(KINDS), at=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_never_passes_for_whole(kind: str, at: float, bit: int) -> None:
    data = sample(4, 60_000)
    packed = bytearray(packed_sample(kind, 4, 60_000))
    packed[int(len(packed) * at)] ^= 1 << bit
    got, damage = unpack(kind, bytes(packed))
    # Some bits mean nothing: the time stamp and name flags of gzip. Then the data is all there.
    assert damage is not None or got == data


@pytest.mark.parametrize("kind", KINDS)
def test_garbage_behind_the_end_is_told(kind: str) -> None:
    data = sample(5, 1000)
    got, damage = unpack(kind, PACK[kind](data) + b"garbage")
    assert got == data
    assert damage is not None and damage.reason == "corrupt"


@pytest.mark.parametrize("kind", KINDS)
def test_a_bomb_is_stopped_in_flat_memory(kind: str) -> None:
    packed = PACK[kind](b"\0" * (66 << 20))
    tracemalloc.start()
    total, damage = 0, None
    try:
        for chunk in expand(kind, io.BytesIO(packed), Budget(max_ratio=100)):
            total += len(chunk)
    except RecordError as exc:
        damage = exc
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert damage is not None and damage.reason == "bomb"
    assert total <= (64 << 20) + (1 << 20)
    assert peak < 16 << 20


def test_a_bad_checksum_is_named_as_such() -> None:
    packed = bytearray(PACK["gzip"](sample(6, 5000)))
    packed[-8] ^= 1
    got, damage = unpack("gzip", bytes(packed))
    assert got == sample(6, 5000)
    assert damage is not None and damage.reason == "checksum"
