"""Values and rows of PostgreSQL as JSON: from the text that the server writes, by the type it names.

    smallint integer bigint oid      number            numeric money             string, digit for digit
    real double precision            number; NaN, Infinity and -Infinity as strings
    boolean                          true, false       json jsonb                as they are
    timestamp timestamptz            ISO 8601 string   bytea                     base64 string
    arrays of these                  array             everything else           the server's text, as a string

A NULL is null. Nothing is rounded: a value that JSON's numbers might not carry is a string. Timestamps that ISO 8601
does not have (`infinity`, years before Christ) stay as the server writes them.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable
from functools import lru_cache
from json.encoder import encode_basestring

#: Types by OID, as the server's catalogue fixes them. Source: src/include/catalog/pg_type.dat
NAMES = {
    16: "bool", 17: "bytea", 18: "char", 19: "name", 20: "int8", 21: "int2", 23: "int4", 25: "text", 26: "oid",
    114: "json", 142: "xml", 600: "point", 650: "cidr", 700: "float4", 701: "float8", 790: "money", 829: "macaddr",
    869: "inet", 1042: "bpchar", 1043: "varchar", 1082: "date", 1083: "time", 1114: "timestamp", 1184: "timestamptz",
    1186: "interval", 1266: "timetz", 1560: "bit", 1562: "varbit", 1700: "numeric", 2950: "uuid", 3802: "jsonb",
    3614: "tsvector", 3904: "int4range", 3926: "int8range",
}  # fmt: skip
#: Array type → its elements' type.
ELEMENTS = {
    1000: 16, 1001: 17, 1002: 18, 1003: 19, 1005: 21, 1007: 23, 1009: 25, 1014: 1042, 1015: 1043, 1016: 20, 1021: 700,
    1022: 701, 1028: 26, 1115: 1114, 1182: 1082, 1183: 1083, 1185: 1184, 1187: 1186, 1231: 1700, 2951: 2950, 199: 114,
    3807: 3802, 1041: 869,
}  # fmt: skip


def type_name(oid: int, named: dict[int, str]) -> str:
    """The name of a type, `oid:N` if nobody told; `named` holds the types that are not built in."""
    if oid in ELEMENTS:
        return NAMES[ELEMENTS[oid]] + "[]"
    return NAMES.get(oid) or named.get(oid) or f"oid:{oid}"


def row_json(columns: Iterable[tuple[str, int, bytes | None]]) -> bytes:
    """A JSON object of (name, type, text) in their order. Raises: UnicodeDecodeError for text that is not UTF-8."""
    parts = []
    for name, oid, value in columns:
        if value is None:
            parts.append(f"{_name(name)}:null")
        else:
            form = _FORMS.get(oid)
            text = value.decode()
            parts.append(f"{_name(name)}:{value_json(oid, text) if form is None else form(text)}")
    return ("{" + ",".join(parts) + "}").encode()


def value_json(oid: int, text: str) -> str:
    """One value that is not NULL."""
    if oid in ELEMENTS:
        return _array(text, ELEMENTS[oid])
    return _FORMS.get(oid, _quoted)(text)


#: A string as JSON, not limited to ASCII; the C function behind json.dumps.
_quoted: Callable[[str], str] = encode_basestring
_name = lru_cache(4096)(encode_basestring)


def _plain(text: str) -> str:
    return text


def _bool(text: str) -> str:
    return "true" if text == "t" else "false"


def _float(text: str) -> str:
    return text if text[-1].isdigit() else _quoted(text)


def _bytea(text: str) -> str:
    return _quoted(base64.b64encode(bytes.fromhex(text[2:])).decode("ascii"))


def _timestamp(text: str) -> str:
    if text.endswith((" BC", "infinity")):
        return _quoted(text)
    return _quoted(text.replace(" ", "T", 1))


def _timestamptz(text: str) -> str:
    # The session's time zone is UTC, so the offset is +00.
    return _timestamp(text.replace("+00", "+00:00") if text.endswith("+00") else text)


_FORMS: dict[int, Callable[[str], str]] = {
    16: _bool, 17: _bytea, 20: _plain, 21: _plain, 23: _plain, 26: _plain, 114: _plain, 3802: _plain, 700: _float,
    701: _float, 1114: _timestamp, 1184: _timestamptz,
}  # fmt: skip


def _array(text: str, element: int) -> str:
    """`{1,NULL,{…},"a\\"b"}` as a JSON array; one with bounds of its own (`[0:2]={…}`) stays text.

    Source: https://www.postgresql.org/docs/current/arrays.html#ARRAYS-IO
    """
    if not text.startswith("{"):
        return _quoted(text)
    out: list[str] = []
    at, end = 0, len(text)
    while at < end:
        character = text[at]
        if character in "{},":
            out.append({"{": "[", "}": "]", ",": ","}[character])
            at += 1
        elif character == '"':
            at, word = _quoted_word(text, at + 1)
            out.append(value_json(element, word))
        else:
            stop = at
            while text[stop] not in ",}":
                stop += 1
            word = text[at:stop]
            out.append("null" if word == "NULL" else value_json(element, word))
            at = stop
    return "".join(out)


def _quoted_word(text: str, at: int) -> tuple[int, str]:
    """(where it goes on, the word) of a quoted element that begins at `at`."""
    word: list[str] = []
    while text[at] != '"':
        at += text[at] == "\\"
        word.append(text[at])
        at += 1
    return at + 1, "".join(word)
