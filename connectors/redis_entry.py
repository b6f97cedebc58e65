"""What one entry of a Redis stream is: its id, the position after it, and the item made of its fields.

    position   "1526919030474-55"    after this entry, which was in the stream
               "~1526919030474-55"   after this id, which need not have been an entry (a start, a gap)

An id is milliseconds of the server's clock, a dash, and a running number, unless the producer chose ids of its own.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from headrace.connectors.contract import Broken, Item, Position
from headrace.schemas.canonical import canonical_json
from headrace.schemas.errors import ConfigError

Id = tuple[int, int]

FIRST: Id = (0, 0)  #: before every entry: no entry may have this id
_MOST = (1 << 64) - 1
_POSITION = re.compile(r"(~?)(\d{1,20})-(\d{1,20})")
#: Ids below 2001 or beyond 2100 are counters that a producer chose, not times.
_TIMES_MS = range(978_307_200_000, 4_102_444_800_000)
_USUAL = (b"data", b"payload", b"body")
#: Headers by which the engine is told things; a producer's field of such a name must not pass for ours.
_OURS = frozenset({"format", "formats", "object", "part", "group", "media_type", "rights", "truncated", "uri"})


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry as the server gave it: field, value, field, value …; fields may repeat."""

    id: Id
    fields: Sequence[bytes]

    @property
    def size(self) -> int:
        """Bytes of its names and values."""
        return sum(map(len, self.fields))


def parse_id(raw: bytes | str) -> Id:
    """(milliseconds, number) of an id as the server writes it."""
    ms, _, number = (raw.decode("ascii") if isinstance(raw, bytes) else raw).partition("-")
    return int(ms), int(number)


def show_id(id: Id) -> str:
    """An id as the server writes it."""
    return f"{id[0]}-{id[1]}"


def behind(id: Id) -> Id:
    """The id just above."""
    return (id[0], id[1] + 1) if id[1] < _MOST else (id[0] + 1, 0)


def before(id: Id) -> Id:
    """The id just below; FIRST has none and stays."""
    if id[1] > 0:
        return id[0], id[1] - 1
    return (id[0] - 1, _MOST) if id[0] > 0 else FIRST


def time_us(id: Id) -> int | None:
    """Microseconds since 1970 by an id; None if it cannot be a time."""
    return id[0] * 1000 if id[0] in _TIMES_MS else None


def parse_position(position: Position) -> tuple[Id, bool]:
    """(id, whether that entry was in the stream). Raises: ConfigError."""
    found = _POSITION.fullmatch(position) if isinstance(position, str) else None
    if found is None or max(int(found[2]), int(found[3])) > _MOST:
        raise ConfigError(f"{position!r} is not a position in a Redis stream: milliseconds-number is expected")
    return (int(found[2]), int(found[3])), not found[1]


def id_of_key(key: bytes) -> str:
    """A split id: the key, with %XX for what is not printable UTF-8, for percent signs and for a leading slash."""
    out: list[str] = []
    for character in key.decode("utf-8", "surrogateescape"):
        if character == "%" or not character.isprintable() or (character == "/" and not out):
            raw = character.encode("utf-8", "surrogateescape")
            out.append("".join(f"%{byte:02X}" for byte in raw))
        else:
            out.append(character)
    return "".join(out)


def key_of_id(id: str) -> bytes:
    """The key of a split."""
    return unquote_to_bytes(id)


def read_entry(entry: Entry, payload: bytes | None, key: bytes | None) -> Item | Broken:
    """The item of an entry.

    `payload` names the field whose value is the data; None: the only field, else `data`, `payload` or `body`, else all
    fields as a JSON object of strings. Other fields become headers. `key` names the field that is the item's key.
    """
    names, values = entry.fields[::2], entry.fields[1::2]
    if payload is None:
        payload = names[0] if len(names) == 1 else next((name for name in _USUAL if name in names), None)
    if payload is None:
        return _whole(entry, names, values, key)
    at = names.index(payload) if payload in names else None
    if at is None:
        said = f"has no field {_show(payload)}, only {', '.join(map(_show, names[:8]))}"
        return _broken(entry, "missing_field", said)
    headers: dict[str, str] = {}
    for n, (name, value) in enumerate(zip(names, values)):
        if n != at:
            header = _show(name)
            headers[f"field.{header}" if header in _OURS else header] = _show(value)
    return _item(entry, values[at], key, headers | _media_type(headers))


def _whole(entry: Entry, names: Sequence[bytes], values: Sequence[bytes], key: bytes | None) -> Item | Broken:
    """The entry as canonical JSON: nothing of it may be guessed, so it must be UTF-8 and name no field twice."""
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        return _broken(entry, "inconsistent", f"names the field {_show(repeated[0])} twice, so it is no JSON object")
    try:
        fields = {name.decode(): value.decode() for name, value in zip(names, values)}
    except UnicodeDecodeError as exc:
        said = f"has bytes that are not UTF-8 ({exc.object[exc.start : exc.start + 8]!r}): name the payload's field"
        return _broken(entry, "bad_encoding", f"{said} with `payload`")
    return _item(entry, canonical_json(fields), key, {"format": "json"})


def _item(entry: Entry, data: bytes, key: bytes | None, headers: dict[str, str]) -> Item:
    names = entry.fields[::2]
    found = _show(entry.fields[2 * names.index(key) + 1]) if key is not None and key in names else None
    return Item(data, show_id(entry.id), found, time_us(entry.id), headers)


def _broken(entry: Entry, reason: str, said: str) -> Broken:
    id = show_id(entry.id)
    # Everything of the entry, so that it can be looked at and replayed: each part behind its length.
    raw = b"".join(b"%d:%b," % (len(part), part) for part in entry.fields)
    return Broken(reason, f"entry {id} {said}", id, canonical_json({"entry": id}).decode(), raw)


def _media_type(headers: dict[str, str]) -> dict[str, str]:
    for name in ("content-type", "content_type", "Content-Type"):
        if name in headers:
            return {"media_type": headers[name].split(";")[0].strip().lower()}
    return {}


def _show(raw: bytes) -> str:
    """Text of a name or value; bytes that are not UTF-8 stand as \\xNN."""
    return raw.decode("utf-8", "backslashreplace")


def position_of(id: Id, entry: bool) -> str:
    """The position after an id; `entry`: that id was an entry of the stream."""
    return show_id(id) if entry else f"~{show_id(id)}"
