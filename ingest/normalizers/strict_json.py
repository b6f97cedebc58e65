"""Strict JSON, fast: what RFC 8259 allows and nothing more, with every key once.

orjson parses at memory speed and refuses NaN, bad UTF-8, half surrogate pairs and control characters, but it keeps
the last of two equal keys without a word. Whether that happened is told by counting: each key of the text has
one colon that follows its closing quote, so

    keys in the parsed value <= keys in the text <= `"` followed by `:` in the text <= `:` in the text

and if the first equals one of the bounds, no key was lost. Only where they differ (an escaped quote before a colon
inside a string, or a real duplicate) is the text parsed again by the slow parser that looks at every pair.
The slow parser also takes the numbers that orjson refuses although JSON allows them (`1e999`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from json.encoder import encode_basestring_ascii
from typing import Any

import orjson

from headrace.schemas.errors import RecordError

MAX_DEPTH = 512  #: nesting that the slow parser reads; Python's own limit would depend on the caller's stack

_KEY_END = re.compile(rb'"[ \t\n\r]*:')
_BRACKETS = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[\[{\]}]', re.DOTALL)
_SPACE = re.compile(r"[ \t\n\r]*")
_COMMA = re.compile(rb"[ \t\n\r]*,[ \t\n\r]*")
_BLANK = b" \t\n\r"


def loads(data: bytes) -> Any:
    """The value of a JSON text. An integer beyond 64 bits is a float, a number beyond float64 an infinity.

    Raises: RecordError `bad_encoding` (with the byte), `invalid_json` (with line and column).
    """
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        return _loads_slowly(data)
    return checked(value, data)


def checked(value: Any, data: bytes) -> Any:
    """What `loads(data)` gives, where `orjson.loads(data)` already gave `value`. Raises: RecordError."""
    if isinstance(value, (dict, list)) and not keys_are_unique(value, data):
        return _loads_slowly(data)
    return value


def keys_are_unique(value: Any, data: bytes) -> bool:
    """True only if no object of `data`, whose value is `value`, has a key twice; False means: look closer.

    Also False where `value` is nested deeper than MAX_DEPTH.
    """
    own = len(value) if type(value) is dict else 0
    if own == data.count(b":"):
        return True  # then there is no inner object either
    ends = len(_KEY_END.findall(data))
    return own == ends or own + _count_inner_keys(value) == ends


def _count_inner_keys(value: dict[str, Any] | list[Any], refused: str | None = None) -> int:
    """Keys of all objects inside `value`; a large negative number where it is too deep or an inner key is `refused`."""
    keys = 0
    nodes = value.values() if type(value) is dict else value
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for node in nodes:
            if type(node) is dict:
                if refused in node:
                    return -(1 << 62)
                keys += len(node)
                below += node.values()
            elif type(node) is list:
                below += node
        if not below:
            return keys
        nodes = below
    return -(1 << 62)


def _loads_slowly(data: bytes) -> Any:
    return _parse(data, parse_int=_integer, parse_float=float)


def _parse(data: bytes, *, parse_int: Any, parse_float: Any) -> Any:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise RecordError("bad_encoding", f"byte {exc.start} of the JSON text is not UTF-8: {exc.reason}") from exc
    refuse_depth(data)
    try:
        value = json.loads(
            text,
            object_pairs_hook=_unique_pairs,
            parse_constant=_refuse_constant,
            parse_int=parse_int,
            parse_float=parse_float,
        )
    except json.JSONDecodeError as exc:
        raise RecordError("invalid_json", f"not strict JSON: {exc}") from exc
    _refuse_surrogates(value, data)
    return value


def _unique_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise RecordError("invalid_json", f"the key {twice!a} stands twice in one object; each key must be unique")
    return value


def _refuse_constant(name: str) -> Any:
    raise RecordError("invalid_json", f"{name} is not a JSON number; null or a string would be right")


def _integer(digits: str) -> int | float:
    # as orjson does, so that a value does not depend on which of the two parsers took it
    if len(digits) <= 20:
        value = int(digits)
        if -(1 << 63) <= value < 1 << 64:
            return value
    return float(digits)


def _refuse_surrogates(value: Any, data: bytes) -> None:
    """Half a surrogate pair is legal JSON but no text: it has no UTF-8 form. Raises: RecordError `bad_encoding`."""
    if b"\\ud" not in data and b"\\uD" not in data:
        return
    stack = [value]
    while stack:
        node = stack.pop()
        if isinstance(node, str):
            try:
                node.encode("utf-8")
            except UnicodeEncodeError as exc:
                half = ascii(node[exc.start])
                raise RecordError("bad_encoding", f"a string holds half a surrogate pair, {half}: no text") from exc
        elif isinstance(node, dict):
            stack += node.keys()
            stack += node.values()
        elif isinstance(node, list):
            stack += node


def refuse_depth(data: bytes) -> None:
    """Raises: RecordError `invalid_json` if brackets nest deeper than MAX_DEPTH."""
    if data.count(b"[") + data.count(b"{") <= MAX_DEPTH:
        return
    depth = 0
    for match in _BRACKETS.finditer(data):
        first = data[match.start()]
        if first in b"[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise RecordError("invalid_json", f"nested more than {MAX_DEPTH} levels deep at byte {match.start()}")
        elif first in b"]}":
            depth -= 1


class StringMember:
    """Cuts one member with a string value out of the text of an object; what stays is spelled as before.

    A cut is made at the first `"name": "` that is a key, which may be that of an inner object, so it has to be checked.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._key = orjson.dumps(name)
        self._to_value = re.compile(rb"[ \t\n\r]*:[ \t\n\r]*")

    def cut(self, data: bytes, text: str) -> bytes | None:
        """`data` without the member, whose value is `text`, and without one comma beside it; None: not found."""
        key = self._key
        start = data.find(key)
        if start < 1 or data[start - 1] == 0x5C:  # a backslash: the quote belongs to a string
            return None
        colon = self._to_value.match(data, start + len(key))
        if colon is None:
            return None
        value = colon.end()
        if data[value : value + 1] != b'"':
            return None
        end = self._end(data, value, text)
        comma = _COMMA.match(data, end)
        if comma is not None:
            return data[:start] + data[comma.end() :]
        before = data[:start].rstrip(_BLANK)
        return before.removesuffix(b",") + data[end:]

    def _end(self, data: bytes, value: int, text: str) -> int:
        """One past the closing quote. Comparing with what most writers write is much faster than looking for it."""
        if '"' not in text and "\\" not in text:
            spelled = b'"%b"' % text.encode()
            if data.startswith(spelled, value):
                return value + len(spelled)
        as_it_is = text.isascii() or not data.isascii()
        spelled = orjson.dumps(text) if as_it_is else encode_basestring_ascii(text).encode()
        return value + len(spelled) if data.startswith(spelled, value) else _string_end(data, value)

    def cut_certainly(self, data: bytes, value: dict[str, Any]) -> bytes | None:
        """`data` without the member, or None where that is not certain at first sight.

        Certain means: only this member is gone, and no object of `data` has a key twice. So a caller that gets an
        answer need not check that again. `value` is what `orjson.loads(data)` gave.
        """
        rest = self.cut(data, value[self.name])
        if rest is None:
            return None
        # The cut took one key. If as many key ends are left as the value has other keys, then `data` has no more keys
        # than its value: none stands twice. And if no inner object has a key of this name, the outer member was cut.
        others = len(value) - 1
        if rest.count(b":") != others:
            ends = len(_KEY_END.findall(rest))
            if ends != others and ends != others + _count_inner_keys(value, self.name):
                return None
        return rest.strip(_BLANK)


def without(data: bytes, value: dict[str, Any], paths: list[tuple[str, ...]]) -> bytes | None:
    """The JSON text of an object without some of its members, or None if none is left; numbers keep their spelling.

    `value` is what `loads(data)` gave, and each path leads to a member of it. Members of inner objects are taken out of
    a text that is written anew, without spaces.
    """
    if all(len(path) == 1 for path in paths):
        names = {path[0] for path in paths}
        if len(names) == len(value):
            return None
        rest = _cut_all(data, value, names)
        if rest is not None:
            return rest.strip(_BLANK)
    kept = loads_verbatim(data)
    for path in paths:
        inner = kept
        for name in path[:-1]:
            inner = inner[name]
        del inner[path[-1]]
    return dumps(kept) if kept else None


def _cut_all(data: bytes, value: dict[str, Any], names: set[str]) -> bytes | None:
    """`data` without the named string members, or None where that cannot be had by cutting."""
    rest = data
    for name in sorted(names):
        held = value[name]
        shorter = StringMember(name).cut(rest, held) if isinstance(held, str) else None
        if shorter is None:
            return None
        rest = shorter
    try:
        kept = orjson.loads(rest)
    except orjson.JSONDecodeError:
        return None
    # a member of an inner object may have been hit: then the outer one is still there
    if type(kept) is not dict or len(kept) != len(value) - len(names) or not names.isdisjoint(kept):
        return None
    return rest


def _string_end(data: bytes, start: int) -> int:
    """One past the closing quote of the string whose opening quote is at `start`."""
    position = start
    while True:
        position = data.find(b'"', position + 1)
        if position < 0:
            return len(data)
        backslashes = 0
        while data[position - 1 - backslashes] == 0x5C:
            backslashes += 1
        if backslashes % 2 == 0:
            return position + 1


def _fragment(digits: str) -> orjson.Fragment:
    return orjson.Fragment(digits.encode())


def loads_verbatim(data: bytes) -> Any:
    """Like `loads`, but numbers are fragments that `dumps` writes as they were spelled. Slow."""
    return _parse(data, parse_int=_fragment, parse_float=_fragment)


def dumps(value: Any) -> bytes:
    """Compact UTF-8 JSON in the order of the members; takes what `loads_verbatim` gave."""
    return orjson.dumps(value)


def elements(text: str) -> Iterator[tuple[int, int]]:
    """(start, end) of every element of the JSON array that `text` is, in characters, as they are reached.

    Raises: RecordError `truncated` where the text ends inside the array, `invalid_json` elsewhere. Elements are only
    delimited, not checked: give each to `loads`.
    """
    scan = json.JSONDecoder(strict=False).raw_decode
    position = _after_space(text, 0)
    if text[position : position + 1] != "[":
        raise RecordError("invalid_json", f"a JSON array was expected at character {position}")
    position = _after_space(text, position + 1)
    if text[position : position + 1] == "]":
        _refuse_rest(text, position + 1)
        return
    while True:
        try:
            _, end = scan(text, position)
        except json.JSONDecodeError as exc:
            raise _unreadable(text, exc.pos) from exc
        yield position, end
        position = _after_space(text, end)
        mark = text[position : position + 1]
        if mark == "]":
            _refuse_rest(text, position + 1)
            return
        if mark != ",":
            raise _unreadable(text, position)
        position = _after_space(text, position + 1)


def _after_space(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return match.end() if match else position


def _refuse_rest(text: str, position: int) -> None:
    position = _after_space(text, position)
    if position < len(text):
        raise RecordError("invalid_json", f"text follows the array at character {position}")


def _unreadable(text: str, position: int) -> RecordError:
    if not text[position:].strip(" \t\n\r"):
        return RecordError("truncated", f"the JSON array ends at character {position}, before its closing bracket")
    return RecordError("invalid_json", f"not strict JSON at character {position}: {text[position : position + 20]!r}")
