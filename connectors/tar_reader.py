"""Walks a tar archive header by header, without extracting anything, and goes on behind damage.

Python's tarfile ends silently at the first bad header, so a torn archive looks complete; this reader says what is wrong
and looks for the next header that holds its checksum. ustar, pax and GNU long names are read; links, devices and sparse
files are told but not followed. Source: POSIX.1-2017 `pax`, GNU tar manual "Basic Tar Format".

    { [header 512][data, padded to 512] }  [zeros 512] [zeros 512]
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from headrace.connectors.byte_source import ByteSource
from headrace.connectors.sniff import tar_checksum_holds

BLOCK = 512
_MAX_EXTENSION = 1 << 20  #: bytes of a pax header or long name; real ones have a few hundred
_KINDS = {
    b"1": "hard link", b"2": "symbolic link", b"3": "device", b"4": "device", b"5": "folder", b"6": "pipe",
    b"S": "sparse file", b"D": "folder",
}  # fmt: skip


@dataclass(frozen=True)
class TarMember:
    """One entry. `kind`: "file", or what else it is. Its `size` bytes are the next of the source."""

    name: str
    kind: str
    size: int
    offset: int  #: of the data


@dataclass(frozen=True)
class TarDamage:
    """A stretch that is no archive entry."""

    reason: str
    message: str
    begin: int
    end: int


def tar_members(source: ByteSource) -> Iterator[TarMember | TarDamage]:
    """The entries in archive order. Data that the caller leaves unread is passed over.

    An archive that ends inside a member's data ends the iteration: who reads the member sees its damage.
    """
    pax: dict[str, str] = {}
    shared: dict[str, str] = {}
    long_name: str | None = None
    ended = False
    while True:
        begin = source.position
        header = source.read(BLOCK)
        if len(header) < BLOCK:
            if header.strip(b"\0") or not ended:
                yield _end(source, begin)
            return
        if not header.strip(b"\0"):
            ended = True
            continue
        if not tar_checksum_holds(header):
            yield _resync(source, begin)
            pax, long_name, ended = {}, None, False
            continue
        ended = False
        kind = header[156:157]
        size = _number(header[124:136])
        if kind in (b"x", b"g", b"L", b"K"):
            if size is None or size > _MAX_EXTENSION:
                yield TarDamage("too_large", f"an extension header that claims {size} bytes", begin, begin + BLOCK)
                continue
            data = source.read(_padded(size))[:size]
            if kind == b"x":
                pax = _pax(data)
            elif kind == b"g":
                shared = {**shared, **_pax(data)}
            elif kind == b"L":
                long_name = _text(data.rstrip(b"\0"))
            continue
        fields = {**shared, **pax}
        if fields.get("size", "").isdigit():
            size = int(fields["size"])
        if size is None:
            yield TarDamage("corrupt", "an entry whose size is no number", begin, begin + BLOCK)
            pax, long_name = {}, None
            continue
        name = fields.get("path") or long_name or _name(header)
        sparse = any(key.startswith("GNU.sparse.") for key in fields)
        pax, long_name = {}, None
        what = "sparse file" if sparse else _KINDS.get(kind, "file")
        if what == "file" and name.endswith("/"):
            what = "folder"
        if what not in ("file", "sparse file"):
            size = 0  # some writers repeat the size of what a link points to, without its data
        if kind == b"S":
            _skip_sparse_maps(source, header)
        start = source.position
        yield TarMember(name, what, size, start)
        if not _pass(source, start, size):
            return


def _skip_sparse_maps(source: ByteSource, header: bytes) -> None:
    """Old GNU sparse files: further maps of holes stand between header and data while a flag says so."""
    more = header[482:483]
    while more not in (b"", b"\0"):
        more = source.read(BLOCK)[504:505]


def _pass(source: ByteSource, start: int, size: int) -> bool:
    """Go to the end of a member's data and padding; whether all its data is there."""
    # A source that seeks does not notice its end, so the last byte of the data is read.
    data_left = start + size - source.position
    if data_left > 0:
        source.skip(data_left - 1)
        if not source.read(1):
            return False
    source.skip(start + _padded(size) - source.position)
    return True


def _end(source: ByteSource, begin: int) -> TarDamage:
    damage = source.damage
    if damage is not None:
        return TarDamage(damage.reason, damage.message, begin, source.position)
    return TarDamage("truncated", "the archive ends without its end mark", begin, source.position)


def _resync(source: ByteSource, begin: int) -> TarDamage:
    """Pass over blocks until one is a header again, or two are the end mark."""
    while True:
        block = source.peek(BLOCK)
        if len(block) < BLOCK:
            source.skip(len(block))
            break
        if tar_checksum_holds(block) or not source.peek(2 * BLOCK).strip(b"\0"):
            break
        source.skip(BLOCK)
    return TarDamage("corrupt", "bytes that are no tar header", begin, source.position)


def _padded(size: int) -> int:
    return (size + BLOCK - 1) // BLOCK * BLOCK


def _number(field: bytes) -> int | None:
    """Octal text, or GNU's base 256; None for anything else, negative numbers included."""
    if field[0] & 0x80:
        value = int.from_bytes(field[1:], "big") | (field[0] & 0x7F) << 8 * (len(field) - 1)
        return value if value < 1 << 62 and not field[0] & 0x40 else None
    digits = field.split(b"\0", 1)[0].strip(b" ")
    if not digits:
        return 0
    return int(digits, 8) if not digits.strip(b"01234567") else None


def _name(header: bytes) -> str:
    name = header[:100].split(b"\0", 1)[0]
    prefix = header[345:500].split(b"\0", 1)[0] if header[257:263] == b"ustar\0" else b""
    return _text(prefix + b"/" + name if prefix else name)


def _text(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")


def _pax(data: bytes) -> dict[str, str]:
    """Records of `<length> <key>=<value>\\n`; reading stops at the first that is none."""
    out: dict[str, str] = {}
    while data:
        digits, space, _ = data.partition(b" ")
        if not space or not digits.isdigit() or len(digits) > 8:
            break
        record, data = data[: int(digits)], data[int(digits) :]
        key, equals, value = record[len(digits) + 1 :].partition(b"=")
        if not equals or not record:
            break
        out[_text(key)] = _text(value.removesuffix(b"\n"))
    return out
