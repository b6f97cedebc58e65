"""The bytes of a spool segment: a header, then entries one after another.

    segment header (48 bytes, little endian)
      magic "HRSPOOL" | version u8 | segment u32 | zero u32 | first u64 | given_up u64 | created_us u64 | check u64
    entry (40 bytes + body)
      magic | kind u32 | meta_bytes u32 | body_bytes u32 | number u64 | body_check u64 | head_check u64
      body: [meta: UTF-8 JSON; behind a space if it has lone surrogates (kept) or integers beyond 64 bits][data]

Entries of a run are numbered from 0. `first` is the number of a segment's first entry; the `given_up` numbers before it
belong to entries whose write failed and that were never acknowledged. So a reader can count what is missing.

Checks are XXH3-64, seeded by the names of run and segment; `head_check` also covers the offset it stands at. So the
length in a head can be trusted before the body is read, a head found anywhere is a head of this very place (never bytes
of an older file that a power cut brought back, nor a payload that imitates one), and reading can go on behind damage.
XXH3 rather than CRC-32C: 64 bits instead of 32, a seed, several GB/s, and already a dependency.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from typing import Any

import orjson
import xxhash

from headrace.connectors.contract import Blob, Broken, Gap, Item, Position

VERSION = 1
_SEGMENT = struct.Struct("<7sBIIQQQ")
_HEAD = struct.Struct("<4sIIIQQ")
_MARK = struct.Struct("<QQQ")
_CHECK = struct.Struct("<Q")
SEGMENT_BYTES = _SEGMENT.size + _CHECK.size  #: of a segment's header
HEAD_BYTES = _HEAD.size + _CHECK.size  #: of an entry without its body
SEGMENT_MAGIC = b"HRSPOOL"
ENTRY_MAGIC = b"\xabhr\xba"

ITEM, GAP, BROKEN = 0, 1, 2
#: Stand for a segment number in `seed_of`, so that no file of a run passes for another.
SEAL_SEED, COMMITTED_SEED, MARK_SEED = -1, -2, -3

_encode_exactly = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    segment: int
    first: int  #: number of its first entry
    given_up: int  #: so many numbers before `first` were never acknowledged
    created_us: int


@dataclass(frozen=True, slots=True)
class Head:
    """What the first 40 bytes of an entry say."""

    kind: int
    meta_bytes: int
    body_bytes: int
    number: int
    body_check: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry as stored. `end` is the offset behind it."""

    kind: int
    number: int
    end: int
    meta: dict[str, Any]
    data: bytes


def seed_of(run: str, segment: int) -> int:
    """The seed of all checks of a segment."""
    return xxhash.xxh3_64_intdigest(f"{run}/{segment}".encode())


def pack_segment_header(header: SegmentHeader, seed: int) -> bytes:
    said = _SEGMENT.pack(
        SEGMENT_MAGIC, VERSION, header.segment, 0, header.first, header.given_up, max(header.created_us, 0)
    )
    return said + _CHECK.pack(xxhash.xxh3_64_intdigest(said, seed))


def parse_segment_header(data: bytes, seed: int) -> tuple[int, SegmentHeader] | None:
    """(version, header); None if it is damaged."""
    if len(data) != SEGMENT_BYTES or _CHECK.unpack_from(data, _SEGMENT.size)[0] != xxhash.xxh3_64_intdigest(
        data[: _SEGMENT.size], seed
    ):
        return None
    magic, version, segment, _, first, given_up, created_us = _SEGMENT.unpack_from(data)
    return (version, SegmentHeader(segment, first, given_up, created_us)) if magic == SEGMENT_MAGIC else None


def pack_entry(kind: int, meta: bytes, data: bytes, *, number: int, offset: int, seed: int) -> list[bytes]:
    """The parts of an entry that will stand at `offset`."""
    body = xxhash.xxh3_64(meta, seed=seed)
    body.update(data)
    said = _HEAD.pack(ENTRY_MAGIC, kind, len(meta), len(meta) + len(data), number, body.intdigest())
    return [said, _CHECK.pack(_head_check(said, offset, seed)), meta, data]


def parse_head(data: bytes | memoryview, at: int, *, offset: int, seed: int) -> Head | None:
    """The head at `data[at:]`, which stands at `offset` in its segment; None if it is none or damaged."""
    if data[at : at + 4] != ENTRY_MAGIC:
        return None
    said = bytes(data[at : at + _HEAD.size])
    if _CHECK.unpack_from(data, at + _HEAD.size)[0] != _head_check(said, offset, seed):
        return None
    return Head(*_HEAD.unpack(said)[1:])


def parse_body(head: Head, body: bytes | memoryview, *, end: int, seed: int) -> Entry | None:
    """The entry; None if its body is damaged."""
    if xxhash.xxh3_64_intdigest(body, seed) != head.body_check:
        return None
    meta = _decode(bytes(body[: head.meta_bytes]))
    return Entry(head.kind, head.number, end, meta, bytes(body[head.meta_bytes :]))


def _head_check(said: bytes, offset: int, seed: int) -> int:
    return xxhash.xxh3_64_intdigest(said + _CHECK.pack(offset), seed)


def meta_of(read: Item | Gap | Broken, arrived_us: int) -> tuple[int, bytes, bytes]:
    """(kind, meta, data) of what a connector yielded. Its own position is not stored.

    Raises: TypeError for data that is neither bytes nor a Blob.
    """
    if isinstance(read, Item):
        said: dict[str, Any] = {"a": arrived_us}
        if read.key is not None:
            said["k"] = read.key
        if read.event_time is not None:
            said["t"] = int(read.event_time)
        if read.headers:
            said["h"] = dict(read.headers)
        return ITEM, _encode(said), _data_of(read)
    if isinstance(read, Gap):
        return GAP, _encode({"a": arrived_us, "r": read.reason, "l": read.lost}), b""
    said = {"a": arrived_us, "r": read.reason, "m": read.message, "w": read.locator, "d": read.data is not None}
    return BROKEN, _encode(said), bytes(read.data or b"")


def _data_of(item: Item) -> bytes:
    if isinstance(item.data, bytes):
        return item.data
    if isinstance(item.data, Blob):
        return item.data.read()
    if isinstance(item.data, (bytearray, memoryview)):
        return bytes(item.data)
    raise TypeError(f"a spool holds items of bytes or a blob, not {type(item.data).__name__}: let the connector encode")


def read_of(entry: Entry, position: Position) -> Item | Gap | Broken:
    """What the connector had yielded, with its place in the spool.

    `arrived` (µs) joins the headers; a header of that name from the sender becomes `sender.arrived`.
    """
    said = entry.meta
    if entry.kind == GAP:
        return Gap(said["r"], position, said["l"])
    if entry.kind == BROKEN:
        return Broken(said["r"], said["m"], position, said["w"], entry.data if said["d"] else None)
    headers = said.get("h", {})
    if "arrived" in headers:
        headers["sender.arrived"] = headers["arrived"]
    headers["arrived"] = str(said["a"])
    time = said.get("t")
    if time is None:
        time = said["a"]
        headers["time_source"] = "arrival"
    return Item(entry.data, position, said.get("k"), time, headers)


def _encode(said: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(said)
    except TypeError:  # lone surrogates, or integers beyond 64 bits: both are to survive
        return b" " + _encode_exactly(said).encode("utf-8", "surrogatepass")


def _decode(meta: bytes) -> dict[str, Any]:
    if meta[:1] == b" ":  # by the other encoder: this one would make such integers floats
        said: dict[str, Any] = json.loads(meta.decode("utf-8", "surrogatepass"))
    else:
        said = orjson.loads(meta)
    return said


def pack_mark(segment: int, offset: int, number: int, seed: int) -> bytes:
    """32 bytes: [segment u64][offset u64][number of the next entry u64][check u64]."""
    said = _MARK.pack(segment, offset, number)
    return said + _CHECK.pack(xxhash.xxh3_64_intdigest(said, seed))


def parse_mark(data: bytes, seed: int) -> tuple[int, int, int] | None:
    """(segment, offset, number); None if it is damaged, or was written just while it was read."""
    said = data[: _MARK.size]
    if len(data) != _MARK.size + _CHECK.size or _CHECK.unpack_from(data, _MARK.size)[0] != xxhash.xxh3_64_intdigest(
        said, seed
    ):
        return None
    segment, offset, number = _MARK.unpack(said)
    return segment, offset, number


def pack_note(said: dict[str, Any], seed: int) -> bytes:
    """A small JSON file (`sealed`, `committed`) with its check: `<16 hex digits> <JSON>`."""
    body = orjson.dumps(said, option=orjson.OPT_SORT_KEYS)
    return f"{xxhash.xxh3_64_intdigest(body, seed):016x} ".encode() + body


def parse_note(data: bytes, seed: int) -> dict[str, Any] | None:
    """None if it is damaged."""
    check, _, body = data.partition(b" ")
    if check != f"{xxhash.xxh3_64_intdigest(body, seed):016x}".encode():
        return None
    said: dict[str, Any] = orjson.loads(body)
    return said
