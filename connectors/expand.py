"""Decompresses gzip, zstd, xz and bzip2 as a stream: every byte before the damage, and never more than the budget.

A truncated or damaged stream gives all that could be decompressed and then raises RecordError, so it cannot look
complete. Output is made in small pieces, so a few kilobytes of input never ask for gigabytes of memory.

Left out: dictionaries of zstd, and .lzma, .Z, .lz4 and .br files, which have no magic or no checksum worth the name.
"""

from __future__ import annotations

import bz2
import lzma
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from headrace.schemas.canonical import canonical_json
from headrace.schemas.errors import RecordError

KINDS = ("gzip", "zstd", "xz", "bzip2")

_INPUT_BYTES = 1 << 16
_OUTPUT_BYTES = 1 << 18
#: xz and bzip2 lose the output of the call that fails, so they are fed in small steps.
_STEP_BYTES = 1 << 12
_XZ_MEMORY = 256 << 20
_ZSTD_WINDOW = 128 << 20  #: what `zstd --long=27` makes; larger windows are an attack or an oddity
_FREE_BYTES = 64 << 20  #: no ratio is held against an output this small


@dataclass(frozen=True)
class Budget:
    """How much may come out: `max_ratio` holds beyond the first 64 MiB."""

    max_ratio: int = 250
    max_bytes: int = 1 << 40


class Readable(Protocol):
    """What can be decompressed: a stream, or a ByteSource."""

    def read(self, size: int, /) -> bytes:
        """The next bytes, none at the end."""

    def tell(self) -> int:
        """The offset of the next byte."""


class Compressed:
    """A compressed file being read: its buffer, how far it came, and what has come out of it."""

    def __init__(self, stream: Readable, budget: Budget) -> None:
        self.data = b""
        self.out = 0
        self._stream = stream
        self._budget = budget
        self._read = stream.tell()

    @property
    def offset(self) -> int:
        """The offset in the file of the first byte of `data`."""
        return self._read - len(self.data)

    def fill(self, size: int = 1) -> bool:
        """Whether `data` could be made at least `size` bytes long."""
        while len(self.data) < size:
            more = self._stream.read(max(_INPUT_BYTES, size - len(self.data)))
            if not more:
                return False
            self._read += len(more)
            self.data += more
        return True

    def take(self, size: int) -> bytes:
        """The next bytes of the buffer."""
        taken, self.data = self.data[:size], self.data[size:]
        return taken

    def count(self, size: int) -> None:
        """Account for `size` bytes of output. Raises: RecordError `bomb`, `too_large`."""
        self.out += size
        if self.out > _FREE_BYTES and self.out > self.offset * self._budget.max_ratio:
            raise self.error("bomb", f"expands more than {self._budget.max_ratio} to 1")
        if self.out > self._budget.max_bytes:
            raise self.error("too_large", f"expands to more than {self._budget.max_bytes} bytes")

    def error(self, reason: str, message: str) -> RecordError:
        """A RecordError that names both offsets: in the file and in what came out of it."""
        locator = canonical_json({"byte": self.out, "compressed_byte": self.offset}).decode()
        return RecordError(
            reason, f"{message} (at byte {self.offset} of the file, {self.out} decompressed)", locator=locator
        )


def expand(kind: str, stream: Readable, budget: Budget) -> Iterator[bytes]:
    """What a compressed stream holds, all its members or frames. Raises: RecordError after the last good byte."""
    source = Compressed(stream, budget)
    member = {"gzip": gzip_member, "zstd": _zstd_frame, "xz": _xz_stream, "bzip2": _bzip2_stream}[kind]
    first = True
    while source.fill(1):
        if not first and not _next_member(kind, source):
            return
        first = False
        yield from member(source)
    if first:
        raise source.error("empty", f"an empty {kind} file")


_MAGIC = {"gzip": (b"\x1f\x8b",), "xz": (b"\xfd7zXZ\0",), "bzip2": (b"BZh",), "zstd": ()}


def _next_member(kind: str, source: Compressed) -> bool:
    """Whether another member follows; padding of zeros is passed over. Raises: RecordError for anything else."""
    if kind == "zstd":
        return True
    while source.data.strip(b"\0") == b"":
        source.data = b""
        if not source.fill(1):
            return False
    source.data = source.data.lstrip(b"\0")
    source.fill(6)
    if not source.data.startswith(_MAGIC[kind]):
        raise source.error("corrupt", f"bytes that are no {kind} follow the end of the {kind} data")
    return True


def gzip_member(source: Compressed) -> Iterator[bytes]:
    """One gzip member (RFC 1952). On damage everything up to the last good bit is given first."""
    inflate = zlib.decompressobj(31)
    while not inflate.eof:
        at_end = not source.fill(1)
        data = source.data
        before = inflate.copy()
        try:
            out = inflate.decompress(data, _OUTPUT_BYTES)
        except zlib.error as exc:
            yield from _salvage(before, source)
            checksum = "incorrect data check" in str(exc) or "incorrect length check" in str(exc)
            reason = "checksum" if checksum else "corrupt"
            raise source.error(reason, f"gzip: {exc}") from exc
        source.data = inflate.unused_data if inflate.eof else inflate.unconsumed_tail
        if out:
            source.count(len(out))
            yield out
        elif at_end and not inflate.eof:
            raise source.error("truncated", "the gzip data ends before its end mark")


def _salvage(inflate: zlib._Decompress, source: Compressed) -> Iterator[bytes]:
    """zlib drops the output of the call that fails, so the good bytes of that call are fed again, one by one."""
    while source.data:
        try:
            out = inflate.decompress(source.data[:1])
        except zlib.error:
            return
        source.take(1)
        if out:
            source.count(len(out))
            yield out


def _zstd_frame(source: Compressed) -> Iterator[bytes]:
    """One zstd frame (RFC 8878), fed block by block: a block holds at most 128 KiB, so output comes in such pieces.

    [magic 4][descriptor 1][window 0-1][dictionary id 0-4][content size 0-8]
    { [last 1 bit, type 2 bits, size 21 bits][block] } [xxh64 0-4]
    """
    import zstandard

    if not source.fill(5):
        raise source.error("truncated", "the zstd data ends inside a frame header")
    (magic,) = struct.unpack_from("<I", source.data)
    if magic & 0xFFFFFFF0 == 0x184D2A50:
        yield from _skip_frame(source)
        return
    if magic != 0xFD2FB528:
        raise source.error("corrupt", "bytes that are no zstd frame follow the end of the zstd data")
    header, has_checksum = _zstd_header(source)
    decompress = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW).decompressobj()
    try:
        yield from _zstd_out(source, decompress.decompress(header))
        last = False
        while not last:
            if not source.fill(3):
                raise source.error("truncated", "the zstd data ends before its last block")
            bits = int.from_bytes(source.data[:3], "little")
            last, kind, size = bool(bits & 1), bits >> 1 & 3, bits >> 3
            stored = 1 if kind == 1 else size
            if kind == 3 or stored > 1 << 17:
                raise source.error("corrupt", "a zstd block with an impossible header")
            tail = 4 if last and has_checksum else 0
            if not source.fill(3 + stored + tail):
                raise source.error("truncated", "the zstd data ends inside a block or its checksum")
            yield from _zstd_out(source, decompress.decompress(source.take(3 + stored)))
            if tail:
                yield from _zstd_out(source, decompress.decompress(source.take(tail)))
    except zstandard.ZstdError as exc:
        reason = "checksum" if "checksum" in str(exc) else "corrupt"
        raise source.error(reason, f"zstd: {exc}") from exc


def _zstd_header(source: Compressed) -> tuple[bytes, bool]:
    descriptor = source.data[4]
    single, has_checksum = bool(descriptor & 0x20), bool(descriptor & 4)
    dictionary = (0, 1, 2, 4)[descriptor & 3]
    content = (1 if single else 0, 2, 4, 8)[descriptor >> 6]
    size = 5 + (0 if single else 1) + dictionary + content
    if not source.fill(size):
        raise source.error("truncated", "the zstd data ends inside a frame header")
    header = source.take(size)
    if dictionary and any(header[5 + (0 if single else 1) :][:dictionary]):
        raise source.error("unsupported", "a zstd frame that needs a dictionary")
    if single:
        window = int.from_bytes(header[size - content :], "little") + (256 if content == 2 else 0)
    else:
        base = 1 << 10 + (header[5] >> 3)
        window = base + (base >> 3) * (header[5] & 7)
    if window > _ZSTD_WINDOW and not single:
        raise source.error("too_large", f"a zstd window of {window} bytes; {_ZSTD_WINDOW} is the most")
    return header, has_checksum


def _zstd_out(source: Compressed, data: bytes) -> Iterator[bytes]:
    if data:
        source.count(len(data))
        yield data


def _skip_frame(source: Compressed) -> Iterator[bytes]:
    if not source.fill(8):
        raise source.error("truncated", "the zstd data ends inside a skippable frame")
    (left,) = struct.unpack("<I", source.take(8)[4:])
    while left:
        if not source.fill(1):
            raise source.error("truncated", "the zstd data ends inside a skippable frame")
        left -= len(source.take(min(left, len(source.data))))
    yield from ()


def _xz_stream(source: Compressed) -> Iterator[bytes]:
    unpack = lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)
    yield from _steps(source, unpack, "xz")


def _bzip2_stream(source: Compressed) -> Iterator[bytes]:
    yield from _steps(source, bz2.BZ2Decompressor(), "bzip2")


def _steps(source: Compressed, unpack: lzma.LZMADecompressor | bz2.BZ2Decompressor, kind: str) -> Iterator[bytes]:
    while not unpack.eof:
        step = b""
        if unpack.needs_input:
            if not source.fill(1):
                raise source.error("truncated", f"the {kind} data ends before its end mark")
            step = source.take(_STEP_BYTES)
        try:
            out = unpack.decompress(step, _OUTPUT_BYTES)
        except lzma.LZMAError as exc:
            reason = "too_large" if "emory" in str(exc) else "unsupported" if "nsupported" in str(exc) else "corrupt"
            raise source.error(reason, f"{kind}: {exc}") from exc
        except (OSError, EOFError, ValueError) as exc:
            raise source.error("corrupt", f"{kind}: {exc}") from exc
        if out:
            source.count(len(out))
            yield out
    source.data = unpack.unused_data + source.data
