"""Walks a zip archive without extracting anything; one that lost its directory is read from the front.

The central directory at the end says what there is; Python's zipfile reads it and checks each member's CRC. A truncated
archive has none: its local headers are followed instead, as far as they go. Source: PKWARE APPNOTE 6.3.

    { [local header 30 + names][data][data descriptor] } [central directory] [end of central directory]
"""

from __future__ import annotations

import errno
import lzma
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from headrace.connectors.byte_source import CHUNK_BYTES, ByteSource
from headrace.connectors.expand import Budget
from headrace.schemas.errors import RecordError

_METHODS = {
    zipfile.ZIP_STORED: "stored",
    zipfile.ZIP_DEFLATED: "deflate",
    zipfile.ZIP_BZIP2: "bzip2",
    zipfile.ZIP_LZMA: "lzma",
}
_MAX_MEMBERS = 1 << 22


@dataclass(frozen=True)
class ZipMember:
    """One entry. `source` gives its bytes; (`offset`, `size`) is where a stored one lies in the archive, if known."""

    name: str
    source: ByteSource
    stored: tuple[int, int] | None = None


@dataclass(frozen=True)
class ZipDamage:
    """A member, or the rest of the archive, that cannot be read."""

    reason: str
    message: str
    name: str


def zip_members(stream: BinaryIO, size: int, budget: Budget) -> Iterator[ZipMember | ZipDamage]:
    """The members in the order of the directory; folders are left out."""
    spent = _Spent(size, budget)
    try:
        archive = zipfile.ZipFile(stream)
    except (zipfile.BadZipFile, struct.error, ValueError, EOFError, NotImplementedError) as exc:
        yield from _without_directory(stream, spent, str(exc))
        return
    with archive:
        infos = archive.infolist()
        if len(infos) > _MAX_MEMBERS:
            yield ZipDamage("too_large", f"the directory lists {len(infos)} members", "")
            return
        for info in infos:
            if info.is_dir():
                continue
            if info.flag_bits & 0x1:
                yield ZipDamage("encrypted", "the member is encrypted", info.filename)
            elif info.compress_type not in _METHODS:
                yield ZipDamage("unsupported", f"compression method {info.compress_type}", info.filename)
            else:
                yield ZipMember(info.filename, ByteSource(_member(archive, info, spent)), _stored(stream, info))


class _Spent:
    """What all members together have expanded to, against the size of the archive: overlapping members are counted."""

    def __init__(self, archive_bytes: int, budget: Budget) -> None:
        self.out = 0
        self._archive = max(archive_bytes, 1)
        self._budget = budget

    def count(self, size: int) -> None:
        self.out += size
        if self.out > 64 << 20 and self.out > self._archive * self._budget.max_ratio:
            raise RecordError("bomb", f"the archive expands more than {self._budget.max_ratio} to 1")


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, spent: _Spent) -> Iterator[bytes]:
    try:
        with archive.open(info) as member:
            while chunk := member.read(CHUNK_BYTES):
                spent.count(len(chunk))
                yield chunk
    except zipfile.BadZipFile as exc:
        raise RecordError("checksum" if "CRC" in str(exc) else "corrupt", f"{info.filename}: {exc}") from exc
    except EOFError as exc:
        raise RecordError("truncated", f"{info.filename}: its data ends before it should") from exc
    except RecordError:
        raise
    except OSError as exc:
        # bz2 says so of bad data, without a number; a seek to an impossible place is an EINVAL. The rest is the disk's.
        if exc.errno not in (None, errno.EINVAL):
            raise
        raise RecordError("corrupt", f"{info.filename}: {exc}") from exc
    except (zlib.error, lzma.LZMAError, ValueError, RuntimeError, struct.error) as exc:
        raise RecordError("corrupt", f"{info.filename}: {exc}") from exc


def _stored(stream: BinaryIO, info: zipfile.ZipInfo) -> tuple[int, int] | None:
    """Where the bytes of an uncompressed member lie, so that they need no copy."""
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
        return None
    if not 0 <= info.header_offset < 1 << 62:
        return None
    stream.seek(info.header_offset)
    header = stream.read(30)
    if len(header) < 30 or header[:4] != b"PK\3\4":
        return None
    name, extra = struct.unpack_from("<HH", header, 26)
    return info.header_offset + 30 + name + extra, info.file_size


def _without_directory(stream: BinaryIO, spent: _Spent, why: str) -> Iterator[ZipMember | ZipDamage]:
    """Members by their local headers, from the front, until one cannot be followed."""
    stream.seek(0)
    source = ByteSource.of_stream(stream)
    while True:
        header = source.read(30)
        if len(header) == 30 and header[:4] == b"PK\3\4":
            flags, method = struct.unpack_from("<HH", header, 6)
            crc, packed, _, name_size, extra_size = struct.unpack_from("<IIIHH", header, 14)
            raw = source.read(name_size)
            source.skip(extra_size)
            name = raw.decode("utf-8" if flags & 0x800 else "cp437", "backslashreplace")
            if flags & 1 or method not in (0, 8) or (method == 0 and flags & 8) or packed == 0xFFFFFFFF:
                yield ZipDamage(
                    "truncated", f"the directory is missing ({why}) and this member cannot be followed", name
                )
                return
            if name.endswith("/"):
                continue
            walk = (
                _Inflated(source, packed, bool(flags & 8), crc, spent) if method == 8 else _Copied(source, packed, crc)
            )
            member = ByteSource(walk.chunks())
            yield ZipMember(name, member)
            while member.skip(CHUNK_BYTES) == CHUNK_BYTES:
                pass
            if member.damage is not None:
                return
            continue
        yield ZipDamage(
            "truncated", f"the archive has lost its directory ({why}); members were read from the front", ""
        )
        return


class _Copied:
    """A stored member."""

    def __init__(self, source: ByteSource, size: int, crc: int) -> None:
        self._source, self._size, self._crc = source, size, crc

    def chunks(self) -> Iterator[bytes]:
        """Its bytes. Raises: RecordError."""
        crc = got = 0
        for chunk in self._source.chunks(self._size):
            crc, got = zlib.crc32(chunk, crc), got + len(chunk)
            yield chunk
        if got < self._size:
            raise RecordError("truncated", f"{got} of {self._size} bytes are there")
        if crc != self._crc:
            raise RecordError("checksum", "the CRC does not match")


class _Inflated:
    """A deflated member, whose length may stand only behind it."""

    def __init__(self, source: ByteSource, size: int, described: bool, crc: int, spent: _Spent) -> None:
        self._source, self._size, self._described, self._crc, self._spent = source, size, described, crc, spent

    def chunks(self) -> Iterator[bytes]:
        """Its bytes. Raises: RecordError."""
        inflate = zlib.decompressobj(-15)
        crc = 0
        while not inflate.eof:
            data = inflate.unconsumed_tail or self._source.read(1 << 12)
            try:
                out = inflate.decompress(data, CHUNK_BYTES)
            except zlib.error as exc:
                raise RecordError("corrupt", str(exc)) from exc
            if not data and not out:
                raise RecordError("truncated", "the data ends before its end mark")
            if out:
                self._spent.count(len(out))
                crc = zlib.crc32(out, crc)
                yield out
        self._source.unread(inflate.unused_data)
        expected = self._crc
        if self._described:
            descriptor = self._source.peek(24)
            signed = 4 if descriptor[:4] == b"PK\7\x08" else 0
            (expected,) = struct.unpack_from("<I", descriptor.ljust(24, b"\0"), signed)
            # A descriptor has 8-byte sizes in zip64 archives: the next header tells which it is.
            short = descriptor[signed + 12 : signed + 14] == b"PK" or len(descriptor) < signed + 20
            self._source.skip(signed + (12 if short else 20))
        if crc != expected:
            raise RecordError("checksum", "the CRC does not match")
