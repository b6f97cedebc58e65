"""Reads web archives, WARC and ARC, plain or gzipped a record at a time, and goes on behind damaged records.

A position names a record by (offset in the file, bytes into that gzip member), so reading on seeks at once. Blocks with
a digest are checked against it. Sources: ISO 28500 (WARC 1.1), Internet Archive "ARC file format" 1.0.

    WARC  { "WARC/1.1" CRLF { name ":" value CRLF } CRLF [block, Content-Length bytes] CRLF CRLF }
    ARC   { URL SP address SP date SP type SP length LF [block, length bytes] LF }
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, BinaryIO

from headrace.connectors.byte_source import ByteSource, part_of
from headrace.connectors.expand import Budget, Compressed, gzip_member
from headrace.schemas.errors import RecordError

_MAX_HEADER = 1 << 16
_MAX_ARC_LINE = 1 << 13
_GZIP = b"\x1f\x8b\x08"

Place = tuple[int, int]  #: offset in the file, bytes into the gzip member that begins there (0 in plain files)


@dataclass
class WebRecord:
    """One record. `block` gives its bytes while this record is the current one."""

    type: str  #: response, resource, conversion, request …; ARC records are responses
    uri: str
    time_us: int | None
    content_type: str
    headers: dict[str, str]  #: lower-case names
    block: ByteSource
    begin: Place


@dataclass(frozen=True)
class WebDamage:
    """A stretch that is no record, or a record whose block is damaged."""

    reason: str
    message: str
    begin: Place
    data: bytes = b""


@dataclass(frozen=True)
class WebEnd:
    """The record or damage just given ends here: reading on begins at `place`."""

    place: Place


def web_records(
    stream: BinaryIO, gzipped: bool, place: Place, budget: Budget
) -> Iterator[WebRecord | WebDamage | WebEnd]:
    """The records from a place on. Each WebRecord or WebDamage is followed by the WebEnd that ends it."""
    if not gzipped:
        stream.seek(place[0])
        yield from _plain(stream, place[0])
    else:
        yield from _gzipped(stream, place, budget)


def _plain(stream: BinaryIO, begin: int) -> Iterator[WebRecord | WebDamage | WebEnd]:
    source = ByteSource.of_stream(stream, begin)

    def end() -> Place:
        _skip_blank(source)
        return source.position, 0

    while True:
        _skip_blank(source)
        if source.at_end():
            return
        yield from _one(source, (source.position, 0), end)


def _gzipped(stream: BinaryIO, place: Place, budget: Budget) -> Iterator[WebRecord | WebDamage | WebEnd]:
    begin, skip = place
    while True:
        stream.seek(begin)
        packed = Compressed(stream, budget)
        if not packed.fill(2):
            return
        if not packed.data.startswith(_GZIP[:2]):
            found = _next_member(stream, begin)
            if packed.data.strip(b"\0") or found is not None:  # zeros at the end are padding
                yield WebDamage("corrupt", "bytes that are no gzip member", (begin, 0), packed.data[:4096])
                yield WebEnd((_size(stream) if found is None else found, 0))
            if found is None:
                return
            begin, skip = found, 0
            continue
        source = ByteSource(gzip_member(packed))
        source.skip(skip)
        _skip_blank(source)
        while not source.at_end():
            at = source.position

            def end(source: ByteSource = source, begin: int = begin, packed: Compressed = packed) -> Place:
                _skip_blank(source)
                return (begin, source.position) if not source.at_end() else (packed.offset, 0)

            yield from _one(source, (begin, at), end)
            _skip_blank(source)
        if source.damage is None:
            begin, skip = packed.offset, 0
            continue
        # Where the next member begins is known only by its magic and by what it decompresses to.
        found = _next_member(
            stream, max(begin + 1, packed.offset - (1 << 16)) if begin + 1 < packed.offset else begin + 1
        )
        yield WebDamage(source.damage.reason, source.damage.message, (begin, source.position))
        yield WebEnd((_size(stream) if found is None else found, 0))
        if found is None:
            return
        begin, skip = found, 0


def _one(source: ByteSource, begin: Place, end: Any) -> Iterator[WebRecord | WebDamage | WebEnd]:
    """The record that begins at the source, or the damage there up to the next record."""
    try:
        header = _header(source)
    except RecordError as exc:
        data = _resync(source)
        if source.at_end() and source.damage is not None:
            return  # the damage of the gzip member is told by its reader
        yield WebDamage(exc.reason, exc.message, begin, data)
        yield WebEnd(end())
        return
    kind, uri, time_us, content_type, length, fields = header
    block = part_of(source, length, f"a {kind} record of {uri or 'no URI'}")
    start = source.position
    checked = ByteSource(_checked(block, fields.get("warc-block-digest", "")))
    yield WebRecord(kind, uri, time_us, content_type, fields, checked, begin)
    checked.skip(length)  # so that a digest is checked, and damage known, whoever read how much
    source.skip(start + length - source.position)
    damage = checked.damage
    if damage is not None and source.damage is None:
        yield WebDamage(damage.reason, damage.message, begin)
    place = end()
    if source.damage is None:  # else the reader of the gzip member tells of it, and where it ends
        yield WebEnd(place)


def _header(source: ByteSource) -> tuple[str, str, int | None, str, int, dict[str, str]]:
    head = source.peek(_MAX_HEADER)
    if head.startswith(b"WARC/"):
        found = re.search(rb"\r?\n\r?\n", head)
        if found is None:
            raise RecordError("truncated" if len(head) < _MAX_HEADER else "corrupt", "a WARC header without an end")
        source.skip(found.end())
        fields = header_fields(head[: found.start()])
        length = fields.get("content-length", "")
        if not length.isdigit() or len(length) > 18:
            raise RecordError("corrupt", f"a WARC record whose Content-Length is {length[:40]!r}")
        uri = fields.get("warc-target-uri", "").strip("<>")
        return (
            fields.get("warc-type", "").lower(), uri, _iso_time(fields.get("warc-date", "")),
            fields.get("content-type", ""), int(length), fields,
        )  # fmt: skip
    line, newline, _ = head.partition(b"\n")
    arc = _arc_line(line) if newline else None
    if arc is None:
        raise RecordError("corrupt", f"neither a WARC nor an ARC record begins with {head[:40]!r}")
    source.skip(len(line) + 1)
    kind = "filedesc" if arc.uri.startswith("filedesc:") else "response"
    return kind, arc.uri, _arc_time(arc.date), arc.content_type, arc.length, {}


@dataclass(frozen=True)
class _ArcLine:
    uri: str
    date: str
    content_type: str
    length: int


def _arc_line(line: bytes) -> _ArcLine | None:
    """The header line of an ARC record, if this is one. URLs may hold spaces, so the fields are counted from the end.

    Version 1: URL, address, date, type, length. Version 2: URL, address, date, type, result, checksum, location,
    offset, file name, length.
    """
    if len(line) > _MAX_ARC_LINE:
        return None
    fields = line.rstrip(b" \t\r").split(b" ")
    for count in (4, 9):
        if len(fields) <= count or not fields[-1].isdigit() or len(fields[-1]) > 18:
            continue
        address, date, content_type = fields[-count], fields[-count + 1], fields[-count + 2]
        if not fields[0] or re.fullmatch(rb"[0-9A-Fa-f.:]{2,45}", address) is None:
            continue
        if re.fullmatch(rb"\d{8,14}", date) is not None:
            uri = b" ".join(fields[:-count]).decode("utf-8", "replace")
            return _ArcLine(uri, date.decode(), content_type.decode("latin-1"), int(fields[-1]))
    return None


def header_fields(head: bytes) -> dict[str, str]:
    """Header lines as lower-case name → value; the first line is passed over, continued lines are joined."""
    text = re.sub(rb"\r?\n[ \t]+", b" ", head).decode("utf-8", "replace")
    fields: dict[str, str] = {}
    for line in text.splitlines()[1:]:
        name, colon, value = line.partition(":")
        if colon:
            fields.setdefault(name.strip().lower(), value.strip())
    return fields


def _checked(block: ByteSource, declared: str) -> Iterator[bytes]:
    """The block's bytes. Raises: RecordError, also when they do not match the declared digest."""
    algorithm, _, expected = declared.partition(":")
    state = hashlib.new(algorithm, usedforsecurity=False) if algorithm in ("sha1", "md5", "sha256", "sha512") else None
    for chunk in block.chunks():
        if state is not None:
            state.update(chunk)
        yield chunk
    if block.damage is not None:
        raise block.damage
    if state is not None:
        digest = state.digest()
        spelled = {digest.hex(), base64.b32encode(digest).decode().lower()}
        if expected.strip().lower() not in spelled and expected.strip() != base64.b64encode(digest).decode():
            raise RecordError(
                "checksum", f"the block's {algorithm} is {digest.hex()}, the record says {expected[:128]}"
            )


def _resync(source: ByteSource) -> bytes:
    """Pass over bytes up to the next line that begins a record; gives the first 64 KiB of them."""
    kept = source.read(1)
    while window := source.peek(1 << 20):
        found = _next_record(window)
        # Without a find the last line is looked at again: it may be the cut beginning of a record.
        step = found if found is not None else len(window)
        if found is None and len(window) == 1 << 20:
            step -= _MAX_ARC_LINE
        passed = source.read(step)
        kept += passed[: (1 << 16) - len(kept)] if len(kept) < 1 << 16 else b""
        if found is not None:
            break
    return kept


def _next_record(window: bytes) -> int | None:
    """Offset of the first line that begins a record."""
    warc = re.search(rb"\nWARC/\d\.\d", window)
    end = warc.start() + 1 if warc else len(window)
    at = 0
    while 0 <= at < end:
        newline = window.find(b"\n", at, end)
        if newline < 0:
            break
        if _arc_line(window[at : min(newline, at + _MAX_ARC_LINE + 1)]) is not None:
            return at
        at = newline + 1
    return end if warc else None


def _next_member(stream: BinaryIO, begin: int) -> int | None:
    """The offset, from `begin` on, of the next gzip member that holds the beginning of a record."""
    at = begin
    while True:
        stream.seek(at)
        window = stream.read(1 << 20)
        found = window.find(_GZIP)
        while found >= 0:
            if _holds_record(stream, at + found):
                return at + found
            found = window.find(_GZIP, found + 1)
        if len(window) < 1 << 20:
            return None
        at += len(window) - 2


def _holds_record(stream: BinaryIO, at: int) -> bool:
    stream.seek(at)
    head = ByteSource(gzip_member(Compressed(stream, Budget()))).peek(4096)
    return head.startswith(b"WARC/") or _arc_line(head.partition(b"\n")[0]) is not None


def _size(stream: BinaryIO) -> int:
    return stream.seek(0, 2)


def _skip_blank(source: ByteSource) -> None:
    while source.peek(1) in (b"\r", b"\n"):
        source.skip(1)


def _iso_time(text: str) -> int | None:
    match = re.fullmatch(
        r"(\d{4})(?:-(\d\d)(?:-(\d\d)(?:T(\d\d):(\d\d)(?::(\d\d)(?:\.(\d{1,9}))?)?Z?)?)?)?", text.strip()
    )
    if match is None:
        return None
    year, month, day, hour, minute, second, fraction = match.groups()
    return _micros(year, month or "1", day or "1", hour or "0", minute or "0", second or "0", fraction or "0")


def _arc_time(digits: str) -> int | None:
    padded = digits.ljust(14, "0")
    return _micros(padded[:4], padded[4:6], padded[6:8], padded[8:10], padded[10:12], padded[12:14], "0")


def _micros(year: str, month: str, day: str, hour: str, minute: str, second: str, fraction: str) -> int | None:
    try:
        moment = datetime(int(year), int(month), int(day), int(hour), int(minute), min(int(second), 59), tzinfo=UTC)
    except ValueError:
        return None
    return int(moment.timestamp()) * 1_000_000 + int(fraction.ljust(6, "0")[:6])
