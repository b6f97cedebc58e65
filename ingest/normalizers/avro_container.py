"""The frame of an Avro object container file: header, then blocks between sync markers.

    'Obj' 1 · metadata: map of bytes (avro.schema, avro.codec) · sync marker of 16 bytes
    block: number of values · bytes · (compressed) values · sync marker

A block that is damaged costs its own values: reading goes on behind the next sync marker. Lengths are compared with the
file before anything is read, and a block expands to at most what the limits allow.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from headrace.ingest.normalizers.contract import Limits
from headrace.ingest.normalizers.sensor_rows import MAX_RAW, BadRow
from headrace.schemas.errors import RecordError

_HEADER = 8 << 20  #: bytes of the metadata
_SYNC = 16
_CHUNK = 1 << 20
_FLOOR = 1 << 20  #: expanded bytes that no ratio forbids


@dataclass(frozen=True)
class Block:
    """The values of one block, expanded. `cut`: the file ended inside it."""

    number: int
    count: int
    data: bytes
    cut: bool = False


class Container:
    """One container file. Raises: RecordError where its header cannot be read."""

    def __init__(self, stream: BinaryIO, size: int, limits: Limits) -> None:
        self._stream = stream
        self._size = size
        self._most = limits.max_bytes // 16
        self._ratio = limits.max_ratio
        stream.seek(0)
        self._at = 0
        self._take(4)
        metadata = self._metadata()
        self._sync = self._take(_SYNC)
        if "avro.schema" not in metadata:
            raise RecordError("corrupt", "the Avro header has no `avro.schema`")
        self.schema = metadata["avro.schema"]
        self.codec = metadata.get("avro.codec", b"null").decode("utf-8", "backslashreplace")
        if self.codec not in _CODECS:
            raise RecordError(f"unsupported:{self.codec[:20]}", f"its codec is {self.codec[:40]!r}; {_KNOWN} are read")

    def blocks(self) -> Iterator[Block | BadRow]:
        """Every block, and a bad row for each that is damaged. Raises: RecordError `truncated`."""
        number = 0
        while self._at < self._size:
            start = self._at
            try:
                count, length = self._long(), self._long()
                if count < 0 or not 0 <= length <= self._most:
                    message = (
                        f"{count} values in {length} bytes of a file of {self._size}; at most {self._most} are read"
                    )
                    raise RecordError("corrupt", message)
                if length + _SYNC > self._size - self._at:
                    if not self._find(start + 1):  # there is a block behind: the length lied
                        yield from self._cut(number, count, length)
                        return
                    raise RecordError("corrupt", f"{length} bytes are declared, which reach beyond the file")
                body = self._take(length)
                if self._take(_SYNC) != self._sync:
                    raise RecordError("corrupt", "the sync marker is not behind it")
                after = self._at
                try:
                    yield Block(number, count, self._expand(body))
                except RecordError as exc:
                    # Its borders are sound: what follows is not in doubt.
                    yield self._bad(number, exc, body)
                self._at = after
                self._stream.seek(after)
            except RecordError as exc:
                if exc.reason == "truncated":
                    raise
                yield self._bad(number, exc, None)
                if not self._find(start + 1):
                    return
            number += 1

    def _cut(self, number: int, count: int, length: int) -> Iterator[Block]:
        body = self._stream.read(min(length, self._size - self._at))
        if self.codec == "null" and len(body) < length:
            yield Block(number, count, body, cut=True)
        elif len(body) == length:
            yield Block(number, count, self._expand(body))
        raise RecordError("truncated", f"the file ends inside block {number}")

    def _bad(self, number: int, exc: RecordError, raw: bytes | None) -> BadRow:
        data = None if raw is None else raw[:MAX_RAW]
        return BadRow(0, exc.reason, f"block {number}: {exc.message}", {"block": number}, data)

    def _find(self, start: int) -> bool:
        """Stand behind the next sync marker from `start` on; False, and at the end, if there is none."""
        self._stream.seek(start)
        at, held = start, b""
        while chunk := self._stream.read(_CHUNK):
            held += chunk
            found = held.find(self._sync)
            if found >= 0:
                self._at = at + found + _SYNC
                self._stream.seek(self._at)
                return True
            keep = held[-(_SYNC - 1) :]
            at += len(held) - len(keep)
            held = keep
        self._at = self._size
        return False

    def _expand(self, body: bytes) -> bytes:
        most = min(self._most, max(_FLOOR, self._ratio * len(body)))
        try:
            data = _CODECS[self.codec](body, most)
        except (zlib.error, lzma.LZMAError, OSError, ValueError, EOFError) as exc:
            raise RecordError("corrupt", f"it is not {self.codec}: {exc}") from exc
        if len(data) > most:
            raise RecordError("bomb", f"{len(body)} bytes expand to more than {most}, which the limits allow")
        return data

    def _metadata(self) -> dict[str, bytes]:
        out: dict[str, bytes] = {}
        while count := self._long():
            if count < 0:
                count = -count
                self._long()  # the size of this part of the map
            for _ in range(count):
                name = self._bytes().decode("utf-8", "backslashreplace")
                out[name] = self._bytes()
                if self._at > _HEADER:
                    raise RecordError("too_large", f"an Avro header of more than {_HEADER} bytes")
        return out

    def _bytes(self) -> bytes:
        length = self._long()
        if not 0 <= length <= min(_HEADER, self._size - self._at):
            raise RecordError("corrupt", f"a length of {length} in the header of a file of {self._size} bytes")
        return self._take(length)

    def _long(self) -> int:
        """A zigzag varint of 64 bits."""
        value = shift = 0
        while True:
            byte = self._take(1)[0]
            value |= (byte & 127) << shift
            if byte < 128:
                return value >> 1 ^ -(value & 1)
            shift += 7
            if shift > 63:
                raise RecordError("corrupt", f"a number of more than ten bytes before byte {self._at}")

    def _take(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._at += len(data)
        if len(data) < size:
            raise RecordError("truncated", f"the Avro file ends at byte {self._at}")
        return data


def _null(data: bytes, most: int) -> bytes:
    return data


def _deflate(data: bytes, most: int) -> bytes:
    engine = zlib.decompressobj(wbits=-15)
    out = engine.decompress(data, most + 1)
    if not engine.eof and len(out) <= most:
        raise ValueError("the stream has no end")
    return out


def _bzip2(data: bytes, most: int) -> bytes:
    return _whole(bz2.BZ2Decompressor(), data, most)


def _xz(data: bytes, most: int) -> bytes:
    return _whole(lzma.LZMADecompressor(memlimit=256 << 20), data, most)


def _whole(engine: bz2.BZ2Decompressor | lzma.LZMADecompressor, data: bytes, most: int) -> bytes:
    out = engine.decompress(data, max_length=most + 1)
    if not engine.eof and len(out) <= most:
        raise ValueError("the stream has no end")
    return out


def _zstandard(data: bytes, most: int) -> bytes:
    import zstandard

    engine = zstandard.ZstdDecompressor(max_window_size=128 << 20)
    try:
        with engine.stream_reader(data, read_across_frames=True) as reader:
            return bytes(reader.read(most + 1))
    except zstandard.ZstdError as exc:
        raise ValueError(str(exc)) from exc


def _snappy(data: bytes, most: int) -> bytes:
    """Raw snappy behind a varint of its expanded size, then the CRC-32 of what it expands to, big endian."""
    import pyarrow as pa

    size = shift = 0
    for byte in data[:5]:
        size |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            break
    else:
        raise ValueError("no size before it")
    if size > most:
        raise RecordError("bomb", f"{len(data)} bytes say that they expand to {size}, the limits allow {most}")
    if len(data) < 5:
        raise ValueError("no checksum behind it")
    try:
        out = bytes(pa.Codec("snappy").decompress(data[:-4], decompressed_size=size, asbytes=True))
    except (pa.ArrowException, OSError) as exc:
        raise ValueError(str(exc)) from exc
    if zlib.crc32(out) != int.from_bytes(data[-4:], "big"):
        raise RecordError("checksum", "the CRC-32 of a snappy block does not match")
    return out


_CODECS = {
    "null": _null, "deflate": _deflate, "bzip2": _bzip2, "xz": _xz, "zstandard": _zstandard, "snappy": _snappy,
}  # fmt: skip
_KNOWN = ", ".join(_CODECS)
