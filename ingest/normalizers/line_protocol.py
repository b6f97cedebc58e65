r"""InfluxDB line protocol, strictly: text → points, one bad line costing one line.

    measurement,tag=value,tag2=value field=1.5,n=3i,u=4u,ok=t,note="a \"quoted\" text" 1465839830100400200

Escapes: `\,` `\ ` `\=` in names and tag values (`\,` `\ ` in measurements), `\"` `\\` in strings; elsewhere a backslash
stands for itself. Strings may hold newlines. Lines that begin with # are comments. What InfluxDB refuses is refused:
no field, empty names or values, a tag or a field that comes twice, a number out of range, a stamp that is no integer.

Source: docs.influxdata.com, "Line protocol" reference (v2).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from headrace.schemas.errors import RecordError

Value = int | float | bool | str

#: A backslash before a character keeps it in the name, unless it ends the text.
_MEASUREMENT = re.compile(r"(?:[^,\s\\]|\\.|\\$)+")
_NAME = re.compile(r"(?:[^,=\s\\]|\\.|\\$)+")
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_SCALAR = re.compile(r"[^,\s\"]+")
_FLOAT = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_INTEGER = re.compile(r"[+-]?\d{1,20}", re.ASCII)
_STAMP = re.compile(r"[+-]?\d{1,19}(?!\d)", re.ASCII)
_SPACES = re.compile(r" +")
_BOOLEANS = {
    **dict.fromkeys(("t", "T", "true", "True", "TRUE"), True),
    **dict.fromkeys(("f", "F", "false", "False", "FALSE"), False),
}
_INT64 = range(-(1 << 63), 1 << 63)
_UINT64 = range(1 << 64)


@dataclass(frozen=True)
class Point:
    """One line. `stamp`: in the unit of the source, None if the line has none."""

    measurement: str
    tags: dict[str, str]
    fields: dict[str, Value]
    stamp: int | None


@dataclass(frozen=True)
class BadLine:
    """A line that is none, with what was wrong. `unclosed`: a string of it goes on beyond the text."""

    message: str
    unclosed: bool = False


def points(text: str) -> Iterator[tuple[int, int, Point | BadLine]]:
    """(begin, end, point) of every line by character; blank lines and comments are none."""
    at, end = 1 if text.startswith("\ufeff") else 0, len(text)
    while at < end:
        line_end = text.find("\n", at)
        line_end = end if line_end < 0 else line_end
        begin = at
        while at < line_end and text[at] in " \t\r":
            at += 1
        if at == line_end or text[at] == "#":
            at = line_end + 1
            continue
        try:
            point, at = _point(text, at)
        except _Wrong as exc:
            yield begin, line_end, BadLine(f"{exc} (character {exc.at - begin + 1} of the line)", exc.unclosed)
            at = line_end + 1
            continue
        yield begin, at, point
        at += 1


class _Wrong(Exception):
    def __init__(self, said: str, at: int, *, unclosed: bool = False) -> None:
        super().__init__(said)
        self.at = at
        self.unclosed = unclosed


def _point(text: str, at: int) -> tuple[Point, int]:
    """(point, where its line ends)."""
    found = _MEASUREMENT.match(text, at)
    if found is None:
        raise _Wrong("a measurement is expected", at)
    measurement, at = _plain(found[0], ", "), found.end()
    tags: dict[str, str] = {}
    while text[at : at + 1] == ",":
        key, at = _name(text, at + 1, "a tag's name")
        at = _expect(text, at, "=")
        value, at = _name(text, at, "a tag's value")
        if key in tags:
            raise _Wrong(f"the tag {key[:60]!r} comes twice", at)
        tags[key] = value
    at = _gap(text, at, "fields are expected")
    fields: dict[str, Value] = {}
    while True:
        key, at = _name(text, at, "a field's name")
        at = _expect(text, at, "=")
        if key in fields:
            raise _Wrong(f"the field {key[:60]!r} comes twice", at)
        fields[key], at = _value(text, at)
        if text[at : at + 1] != ",":
            break
        at += 1
    stamp: int | None = None
    spaces = _SPACES.match(text, at)
    if spaces is not None:
        at = spaces.end()
        number = _STAMP.match(text, at)
        if number is not None:
            stamp, at = int(number[0]), number.end()
            if stamp not in _INT64:
                raise _Wrong("the time stamp is beyond 64 bits", number.start())
            at = (_SPACES.match(text, at) or number).end()
    if text[at : at + 1] == "\r":
        at += 1
    if text[at : at + 1] not in ("", "\n"):
        raise _Wrong(f"{text[at : at + 20]!r} is not expected here", at)
    return Point(measurement, tags, fields, stamp), at


def _name(text: str, at: int, what: str) -> tuple[str, int]:
    found = _NAME.match(text, at)
    if found is None:
        raise _Wrong(f"{what} is expected", at)
    return _plain(found[0], ",= "), found.end()


def _expect(text: str, at: int, character: str) -> int:
    if text[at : at + 1] != character:
        raise _Wrong(f"{character} is expected", at)
    return at + 1


def _gap(text: str, at: int, otherwise: str) -> int:
    found = _SPACES.match(text, at)
    if found is None:
        raise _Wrong(otherwise, at)
    return found.end()


def _plain(raw: str, special: str) -> str:
    """A name without its escapes."""
    if "\\" not in raw:
        return raw
    out: list[str] = []
    i = 0
    while i < len(raw):
        if raw[i] == "\\" and i + 1 < len(raw) and raw[i + 1] in special:
            i += 1
        out.append(raw[i])
        i += 1
    return "".join(out)


def _value(text: str, at: int) -> tuple[Value, int]:
    if text[at : at + 1] == '"':
        found = _STRING.match(text, at)
        if found is None:
            raise _Wrong("a string without its closing quote", at, unclosed=True)
        return re.sub(r'\\(["\\])', r"\1", found[1]), found.end()
    found = _SCALAR.match(text, at)
    if found is None:
        raise _Wrong("a value is expected", at)
    raw = found[0]
    if raw in _BOOLEANS:
        return _BOOLEANS[raw], found.end()
    if raw[-1] in "iu" and _INTEGER.fullmatch(raw, 0, len(raw) - 1):
        number = int(raw[:-1])
        if number not in (_INT64 if raw[-1] == "i" else _UINT64):
            raise _Wrong(f"{raw} is beyond 64 bits", at)
        return number, found.end()
    if _FLOAT.fullmatch(raw) is None:
        raise _Wrong(f"{raw[:40]!r} is no number, truth value or quoted string", at)
    value = float(raw)
    if not math.isfinite(value):
        raise _Wrong(f"{raw[:40]} is beyond what 64 bits hold", at)
    return value, found.end()


def decoded(data: bytes) -> str:
    """The text. Raises: RecordError."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise RecordError("bad_encoding", f"byte {exc.start} of the lines is not UTF-8") from exc
