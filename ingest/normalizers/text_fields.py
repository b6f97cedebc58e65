"""Which field of a record is its text, its time, its language, its license and its id.

A field is a name of the object (`body`) or a path into it (`article.body`); a name that holds a dot is tried first.
Without `field` the first of `text`, `content`, `body` that holds a string is taken, and where there is none the text is
the whole JSON value as it was written. Everything that no column holds goes to `extra`, spelled as in the source.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from headrace.ingest.normalizers import strict_json
from headrace.ingest.normalizers.text_time import time_us
from headrace.schemas.errors import RecordError

AUTO_FIELDS = ("text", "content", "body")
LANGUAGE_TAG = re.compile(r"[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*")
_LICENSE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]*( (AND|OR|WITH) [A-Za-z0-9][A-Za-z0-9.+-]*)*")

Path = tuple[str, ...]
Columns = dict[str, Any]


@dataclass(frozen=True, slots=True)
class FieldNames:
    """The names that the pipeline gives."""

    text: str | None = None
    time: str | None = None
    language: str | None = None
    license: str | None = None
    id: str | None = None
    strict: bool = True  #: a named field that is absent or unusable refuses the record, else it is flagged
    fixed_language: str | None = None


class FieldPicker:
    """Takes a text and its columns out of JSON objects and table rows."""

    def __init__(self, names: FieldNames) -> None:
        self._names = names
        asked = (
            ("event_time", names.time),
            ("language", names.language),
            ("license", names.license),
            ("group_id", names.id),
        )
        self._besides = [(column, name) for column, name in asked if name is not None]
        candidates = AUTO_FIELDS if names.text is None else (names.text,)
        self._members = [(name, strict_json.StringMember(name)) for name in candidates]

    def from_json(self, data: bytes) -> tuple[str, Columns]:
        """(text, columns) of one JSON value. Raises: RecordError."""
        try:
            value = orjson.loads(data)
        except orjson.JSONDecodeError:
            value = strict_json.loads(data)  # says what is wrong, or takes what only orjson cannot
        if type(value) is dict:
            for name, member in self._members:
                text = value.get(name)
                if type(text) is str and text:
                    extra = member.cut_certainly(data, value)
                    if extra is None:
                        break
                    columns, taken = self._columns_of(value) if self._besides else ({}, [])
                    if taken:
                        extra = strict_json.without(extra, strict_json.loads(extra), taken)
                    if extra is not None and extra != b"{}":
                        columns["extra"] = extra.decode()
                    return text, self._finished(columns)
        return self._from_json_slowly(strict_json.checked(value, data), data)

    def _from_json_slowly(self, value: Any, data: bytes) -> tuple[str, Columns]:
        if not isinstance(value, dict):
            return self._from_bare_value(data, value), self._finished({})
        path, text = self._text_of(value)
        columns, taken = self._columns_of(value)
        if path is None:
            return _spelled(data), self._finished(columns)
        extra = strict_json.without(data, value, [path, *taken])
        if extra is not None:
            columns["extra"] = extra.decode()
        return text, self._finished(columns)

    def from_row(self, row: Mapping[str, Any]) -> tuple[str, Columns]:
        """(text, columns) of a table row. Raises: RecordError. `extra` is the JSON object of the other cells."""
        value = dict(row)
        path, text = self._text_of(value)
        if path is None:
            auto = ", ".join(AUTO_FIELDS)
            raise RecordError("missing_field", f"no column {auto}; name one of {_some(value)} as `field`")
        columns, taken = self._columns_of(value)
        for each in [path, *taken]:
            value = _removed(value, each)
        if value:
            columns["extra"] = orjson.dumps(value, default=_plain, option=orjson.OPT_NON_STR_KEYS).decode()
        return text, self._finished(columns)

    def _text_of(self, value: dict[str, Any]) -> tuple[Path | None, str]:
        name = self._names.text
        if name is None:
            for auto in AUTO_FIELDS:
                if isinstance(value.get(auto), str):
                    return (auto,), _filled(value[auto], auto)
            return None, ""
        found = find(value, name)
        if found is None or found[1] is None:
            absent = "is null" if found else f"is absent; there are {_some(value)}"
            raise RecordError("missing_field", f"the text field `{name}` {absent}")
        path, text = found
        if not isinstance(text, str):
            raise RecordError("wrong_type", f"the text field `{name}` holds {_kind(text)}, not a string")
        return path, _filled(text, name)

    def _columns_of(self, value: dict[str, Any]) -> tuple[Columns, list[Path]]:
        """Columns, and the members that one now holds word for word; the time stays in `extra` as it was written."""
        columns: Columns = {}
        flags: list[str] = []
        taken: list[Path] = []
        for column, name in self._besides:
            try:
                path, held = self._required(value, name)
                if column == "event_time":
                    columns["event_time"], found_flags = time_us(held)
                    columns["time_source"] = f"field:{name}"
                    flags += found_flags
                    continue
                columns[column] = _CHECKS[column](name, held)
            except RecordError as exc:
                if self._names.strict:
                    raise
                flags.append(f"no_{column}:{exc.reason}")
                continue
            if columns[column] == held and column != "group_id":
                taken.append(path)
        if flags:
            columns["flags"] = flags
        return columns, taken

    def _required(self, value: dict[str, Any], name: str) -> tuple[Path, Any]:
        found = find(value, name)
        if found is None or found[1] is None:
            absent = "null" if found else f"absent; there are {_some(value)}"
            raise RecordError("missing_field", f"the field `{name}` is {absent}")
        return found

    def _from_bare_value(self, data: bytes, value: Any) -> str:
        if self._names.text is not None or (self._besides and self._names.strict):
            named = self._names.text or self._besides[0][1]
            raise RecordError("wrong_type", f"an object with `{named}` was expected, this is {_kind(value)}")
        return _filled(value, "value") if isinstance(value, str) else _spelled(data)

    def _finished(self, columns: Columns) -> Columns:
        if self._names.fixed_language is not None:
            columns["language"] = self._names.fixed_language
        return columns


def find(value: dict[str, Any], name: str) -> tuple[Path, Any] | None:
    """(path, value) of a member by name or dotted path; None if it is absent."""
    if name in value:
        return (name,), value[name]
    head, dot, tail = name.partition(".")
    while dot:
        inner = value.get(head)
        if isinstance(inner, dict):
            found = find(inner, tail)
            if found is not None:
                return (head, *found[0]), found[1]
        more, dot, tail = tail.partition(".")
        head = f"{head}.{more}"
    return None


def _removed(value: dict[str, Any], path: Path) -> dict[str, Any]:
    if len(path) == 1:
        return {key: held for key, held in value.items() if key != path[0]}
    return {key: _removed(held, path[1:]) if key == path[0] else held for key, held in value.items()}


def _filled(text: str, name: str) -> str:
    if not text:
        raise RecordError("empty", f"the text field `{name}` is an empty string")
    return text


def _spelled(data: bytes) -> str:
    return data.decode().strip(" \t\n\r")


def _language(name: str, held: Any) -> str:
    if not isinstance(held, str) or not LANGUAGE_TAG.fullmatch(held):
        raise RecordError("wrong_type", f"`{name}` holds {held!r:.60}, not a BCP 47 tag such as `fi` or `pt-BR`")
    return held


def _license_of(name: str, held: Any) -> str:
    if not isinstance(held, str) or not held.strip():
        raise RecordError("wrong_type", f"`{name}` holds {held!r:.60}, not the name of a license")
    if _LICENSE.fullmatch(held):
        return held
    return "LicenseRef-" + re.sub(r"[^A-Za-z0-9.-]+", "-", held).strip("-")


def _id_of(name: str, held: Any) -> str:
    if isinstance(held, str) and held:
        return held
    if isinstance(held, int) and not isinstance(held, bool):
        return str(held)
    raise RecordError("wrong_type", f"`{name}` holds {held!r:.60}, not a string or an integer that could be an id")


_CHECKS = {"language": _language, "license": _license_of, "group_id": _id_of}


def _kind(value: Any) -> str:
    return {dict: "an object", list: "an array", bool: "a truth value", type(None): "null", str: "a string"}.get(
        type(value), "a number" if isinstance(value, (int, float)) else type(value).__name__
    )


def _some(value: Mapping[str, Any]) -> str:
    names = [f"`{name}`" for name in list(value)[:8]]
    return ", ".join(names) + (" …" if len(value) > 8 else "") if names else "no fields"


def _plain(value: Any) -> Any:
    """What JSON has no type for: bytes as hex, everything else (decimals, durations) as it prints."""
    return value.hex() if isinstance(value, bytes) else str(value)
