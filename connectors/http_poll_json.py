"""JSON documents divided into their elements, byte for byte: numbers and spelling stay what the server sent.

A place in a document is an RFC 6901 pointer (`/data/observations`), or the same with dots (`data.observations`).
"""

from __future__ import annotations

import json
import re
from typing import Any

from headrace.schemas.errors import RecordError

_SPACE = re.compile(r"[ \t\n\r]*")
_INDEX = re.compile(r"0|[1-9][0-9]{0,9}")
ABSENT = object()


def place_of(path: str) -> tuple[str, ...]:
    """The names and indexes of a path; none is the whole document. Raises: ValueError for a malformed pointer."""
    if path == "":
        return ()
    if not path.startswith("/"):
        return tuple(path.split("."))
    if re.search(r"~(?![01])", path):
        raise ValueError(f"`{path}`: in a JSON pointer ~ is written ~0, and / in a name ~1 (RFC 6901)")
    return tuple(part.replace("~1", "/").replace("~0", "~") for part in path[1:].split("/"))


def value_at(value: Any, place: tuple[str, ...]) -> Any:
    """What stands at a place of a parsed document; ABSENT if nothing does."""
    for name in place:
        if isinstance(value, dict) and name in value:
            value = value[name]
        elif isinstance(value, list) and _INDEX.fullmatch(name) and int(name) < len(value):
            value = value[int(name)]
        else:
            return ABSENT
    return value


def parsed(body: bytes) -> tuple[str, Any]:
    """(text, value) of a document. Raises: RecordError `bad_encoding`, `invalid_json`."""
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        found = f"byte {exc.start} is {body[exc.start]:#04x}"
        raise RecordError("bad_encoding", f"JSON that is not UTF-8: {found}") from exc
    try:
        return text, _DECODER.decode(text)
    except (ValueError, RecursionError) as exc:
        raise RecordError("invalid_json", f"the answer is not JSON: {str(exc)[:200]}") from exc


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


_DECODER = json.JSONDecoder(parse_constant=_no_constant)


def elements(text: str, place: tuple[str, ...]) -> list[tuple[str, Any]]:
    """(spelling, value) of each element of the array at a place of a document that parses; an object is one element.

    Raises: RecordError `missing_field` if nothing is there, `wrong_type` if it is no array or object.
    """
    at = _skip(text, 0)
    for depth, name in enumerate(place):
        found = _member(text, at, name)
        if found is None:
            raise RecordError("missing_field", f"the document has no /{'/'.join(place[: depth + 1])}")
        at = found
    if text[at] == "{":
        value, end = _scan(text, at)
        return [(text[at:end], value)]
    if text[at] != "[":
        value, _ = _scan(text, at)
        if value is None:
            return []
        raise RecordError("wrong_type", f"/{'/'.join(place)} is {text[at : at + 20]!r}: an array or object is expected")
    return [(text[begin:end], value) for begin, end, value in _array(text, at)]


def _array(text: str, at: int) -> list[tuple[int, int, Any]]:
    out = []
    at = _skip(text, at + 1)
    while text[at] != "]":
        value, end = _scan(text, at)
        out.append((at, end, value))
        at = _skip(text, end)
        if text[at] == ",":
            at = _skip(text, at + 1)
    return out


def _member(text: str, at: int, name: str) -> int | None:
    """Where the value of a member, or the element with an index, begins; the last of several of one name."""
    if text[at] == "[":
        found = _array(text, at)
        return found[int(name)][0] if _INDEX.fullmatch(name) and int(name) < len(found) else None
    if text[at] != "{":
        return None
    where = None
    at = _skip(text, at + 1)
    while text[at] != "}":
        key, end = _scan(text, at)
        begin = _skip(text, _skip(text, end) + 1)  # behind the colon
        if key == name:
            where = begin
        _, end = _scan(text, begin)
        at = _skip(text, end)
        if text[at] == ",":
            at = _skip(text, at + 1)
    return where


def _scan(text: str, at: int) -> tuple[Any, int]:
    return _DECODER.raw_decode(text, at)


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    assert found is not None
    return found.end()
