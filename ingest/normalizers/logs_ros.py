"""ROS messages as plain objects: CDR (ROS 2) and ROS 1 serialisation, by the definition that the recording carries.

rosbags parses the definitions and knows the standard messages of the distributions; its own readers are not used,
because they compile a Python module for each definition, and definitions come from the file. This reader walks the
definition with every count checked against the bytes that are left.

    CDR    [0][0 big, 1 little endian][2 bytes] then members, each aligned to its size from the end of these four bytes
    ROS 1  members one after the other, little endian, without alignment; strings without a final zero

Source: OMG DDSI-RTPS 2.3 clause 10 and DDS-XTypes 1.3 clause 7.4.1 (XCDR1 plain CDR); wiki.ros.org/msg.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from headrace.schemas.errors import MissingExtra, RecordError

Decoder = Callable[[bytes], Mapping[str, Any]]

_FILLER = "structure_needs_at_least_one_member"  #: of empty ROS 2 messages; ROS 1 writes nothing there
MAX_DEFINITION = 1 << 20  #: characters
MAX_DEPTH = 32
MAX_ELEMENTS = 1 << 20  #: values that are no part of an array of numbers
_CODES = {
    "bool": "?",
    "byte": "b",
    "char": "B",
    "int8": "b",
    "uint8": "B",
    "int16": "h",
    "uint16": "H",
    "int32": "i",
    "uint32": "I",
    "int64": "q",
    "uint64": "Q",
    "float32": "f",
    "float64": "d",
}


def decoder(type_name: str, definition: str, form: str, *, cdr: bool) -> Decoder | None:
    """Reads messages of a type; None if its definition is absent, unreadable, or uses what is not known (wide strings).

    form: "ros1msg", "ros2msg" or "ros2idl". type_name: `pkg/Type` or `pkg/msg/Type`.
    """
    types = _types(type_name, definition, form, cdr)
    name = _full(type_name)
    if types is None or not _complete(name, types, 0):
        return None
    return lambda data: _decode(name, types, data, cdr)


def _full(name: str) -> str:
    package, _, short = name.rpartition("/")
    return name if "/msg/" in name or "/srv/" in name or "/action/" in name or not package else f"{package}/msg/{short}"


def _types(name: str, definition: str, form: str, cdr: bool) -> Mapping[str, Any] | None:
    try:
        from rosbags.typesys import TypesysError, get_types_from_idl, get_types_from_msg
    except ImportError as exc:
        raise MissingExtra("rosbags", "sensor", need="reading ROS messages") from exc
    known = _known(cdr)
    if not definition.strip():
        return known if _full(name) in known else None
    if len(definition) > MAX_DEFINITION:
        return None
    try:
        if form == "ros2idl":
            found: Any = get_types_from_idl(definition)
        else:
            found = get_types_from_msg(definition, _full(name))
    except (TypesysError, ValueError, KeyError, IndexError, AssertionError, RecursionError, AttributeError, TypeError):
        return None
    return {**known, **{full: fields for full, (_, fields) in found.items()}}


@lru_cache(maxsize=2)
def _known(cdr: bool) -> Mapping[str, Any]:
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.LATEST if cdr else Stores.ROS1_NOETIC)
    return {name: fields for name, (_, fields) in store.fielddefs.items()}


def _complete(name: str, types: Mapping[str, Any], depth: int) -> bool:
    """Whether every type that a message is made of is known; a type that holds itself is not."""
    if depth > MAX_DEPTH or name not in types:
        return False
    for _, (kind, detail) in types[name]:
        inner, what = (kind, detail) if kind.name in ("BASE", "NAME") else detail[0]
        if inner.name == "NAME":
            if not _complete(what, types, depth + 1):
                return False
        elif what[0] not in _CODES and what[0] != "string":
            return False
    return True


class _Reader:
    def __init__(self, data: bytes, cdr: bool) -> None:
        self.data = data
        self.cdr = cdr
        self.at = 0
        self.order: Literal["<", ">"] = "<"
        self.start = 0
        self.left = MAX_ELEMENTS
        if cdr:
            if len(data) < 4 or data[0] != 0 or data[1] > 11:
                raise RecordError(
                    "corrupt", f"a CDR message begins with {data[:4].hex(' ')}, 00 00 or 00 01 would be right"
                )
            if data[1] > 1:
                raise RecordError(
                    "unsupported:cdr", f"CDR of kind {data[1]} (parameter lists or XCDR2); plain CDR is read"
                )
            self.order = "<" if data[1] == 1 else ">"
            self.at = self.start = 4

    def number(self, code: str) -> Any:
        size = struct.calcsize(code)
        self.align(size)
        (value,) = struct.unpack_from(self.order + code, self.data, self.at)
        self.at += size
        return value

    def align(self, size: int) -> None:
        if self.cdr:
            self.at += -(self.at - self.start) % size

    def count(self, minimum: int) -> int:
        value = int(self.number("I"))
        if value * minimum > len(self.data) - self.at:
            raise RecordError(
                "corrupt", f"a count of {value} at byte {self.at - 4} of a message of {len(self.data)} bytes"
            )
        return value

    def text(self) -> str:
        length = self.count(1)
        raw = self.data[self.at : self.at + length]
        self.at += length
        if self.cdr:
            raw = raw.removesuffix(b"\0")
        return raw.decode("utf-8", "replace")

    def array(self, code: str, count: int) -> np.ndarray[Any, Any]:
        size = struct.calcsize(code)
        if count:
            self.align(size)
        if count * size > len(self.data) - self.at:
            raise RecordError(
                "truncated", f"{count} values of {size} bytes at byte {self.at} of a message of {len(self.data)} bytes"
            )
        found = np.frombuffer(self.data, dtype=np.dtype(code).newbyteorder(self.order), count=count, offset=self.at)
        self.at += count * size
        return found.astype(found.dtype.newbyteorder("="))


def _decode(name: str, types: Mapping[str, Any], data: bytes, cdr: bool) -> Mapping[str, Any]:
    reader = _Reader(data, cdr)
    try:
        return _message(reader, name, types)
    except struct.error as exc:
        raise RecordError("truncated", f"a {name} message of {len(data)} bytes ends inside a field: {exc}") from exc


def _message(reader: _Reader, name: str, types: Mapping[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for field, description in types[name]:
        if field == _FILLER and not reader.cdr:
            continue
        out[field] = _value(reader, description, types)
    return out


def _value(reader: _Reader, description: Any, types: Mapping[str, Any]) -> Any:
    kind, detail = description
    reader.left -= 1
    if reader.left < 0:
        raise RecordError("too_large", f"a message holds more than {MAX_ELEMENTS} values")
    if kind.name == "BASE":
        return reader.text() if detail[0] == "string" else reader.number(_CODES[detail[0]])
    if kind.name == "NAME":
        return _message(reader, detail, types)
    (inner, what), size = detail
    plain = inner.name == "BASE" and what[0] != "string"
    count = size if kind.name == "ARRAY" else reader.count(struct.calcsize(_CODES[what[0]]) if plain else 1)
    if plain:
        return reader.array(_CODES[what[0]], count)
    return [_value(reader, (inner, what), types) for _ in range(count)]
