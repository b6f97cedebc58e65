"""Dataclass ↔ JSON, strictly: what log entries and manifests are made of.

Encoding leaves out fields that have their default value, so a field can be added later without changing old bytes.
Decoding refuses unknown fields, missing fields and wrong types; it never coerces (`true` is not 1, `1` is not 1.0).
A dataclass with `as_row = True` is written as an array of all its fields in order, for the long tables; the fields
named in `always` are written and wanted even where they have their default value.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any, ClassVar, TypeVar

T = TypeVar("T", bound="Wire")


class WireError(ValueError):
    """A JSON value does not have the shape of its class; the message names the place and what would be right."""


class Wire:
    """Base of dataclasses that travel as JSON."""

    as_row: ClassVar[bool] = False
    always: ClassVar[tuple[str, ...]] = ()

    def to_json(self) -> Any:
        """A value of plain dicts, lists, strings and numbers."""
        return _encode(self)

    @classmethod
    def from_json(cls: type[T], value: Any) -> T:
        """The instance that `to_json` described. Raises: WireError."""
        made = _decode(cls, value, cls.__name__)
        assert isinstance(made, cls)
        return made


def _encode(value: Any) -> Any:
    if isinstance(value, Wire):
        fields = dataclasses.fields(value)  # type: ignore[arg-type]
        if value.as_row:
            return [_encode(getattr(value, f.name)) for f in fields]
        given = ((f, getattr(value, f.name)) for f in fields)
        return {f.name: _encode(v) for f, v in given if f.name in value.always or not _is_default(f, v)}
    if isinstance(value, (list, tuple)):
        return [_encode(v) for v in value]
    if isinstance(value, dict):
        return {k: _encode(v) for k, v in value.items()}
    return value


def _is_default(field: dataclasses.Field[Any], value: Any) -> bool:
    if field.default is not dataclasses.MISSING:
        return bool(type(field.default) is type(value) and field.default == value)
    if field.default_factory is not dataclasses.MISSING:
        return bool(field.default_factory() == value)
    return False


_HINTS: dict[type, dict[str, Any]] = {}


def _hints(cls: type) -> dict[str, Any]:
    if cls not in _HINTS:
        _HINTS[cls] = typing.get_type_hints(cls)
    return _HINTS[cls]


def _decode(kind: Any, value: Any, where: str) -> Any:
    if kind is Any:
        return value
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        inner = [a for a in typing.get_args(kind) if a is not type(None)]
        if value is None and len(inner) < len(typing.get_args(kind)):
            return None
        return _decode(inner[0], value, where)
    if origin is list:
        if not isinstance(value, list):
            raise WireError(f"{where} should be a list, not {_short(value)}")
        (item,) = typing.get_args(kind)
        return [_decode(item, v, f"{where}[{i}]") for i, v in enumerate(value)]
    if origin is dict:
        if not isinstance(value, dict):
            raise WireError(f"{where} should be an object, not {_short(value)}")
        item = typing.get_args(kind)[1]
        return {k: _decode(item, v, f"{where}.{k}") for k, v in value.items()}
    if origin is typing.Literal:
        if value not in typing.get_args(kind):
            raise WireError(f"{where} should be one of {list(typing.get_args(kind))}, not {_short(value)}")
        return value
    if isinstance(kind, type) and issubclass(kind, Wire):
        return _decode_wire(kind, value, where)
    if type(value) is not kind:
        raise WireError(f"{where} should be {kind.__name__}, not {_short(value)}")
    return value


def _decode_wire(kind: type[Wire], value: Any, where: str) -> Wire:
    fields = dataclasses.fields(kind)  # type: ignore[arg-type]
    hints = _hints(kind)
    if kind.as_row:
        if not isinstance(value, list) or len(value) != len(fields):
            names = ", ".join(f.name for f in fields)
            raise WireError(f"{where} should be a list of {len(fields)} ({names}), not {_short(value)}")
        return kind(**{f.name: _decode(hints[f.name], v, f"{where}.{f.name}") for f, v in zip(fields, value)})
    if not isinstance(value, dict):
        raise WireError(f"{where} should be an object, not {_short(value)}")
    unknown = value.keys() - {f.name for f in fields}
    if unknown:
        raise WireError(f"{where} has unknown fields {sorted(unknown)}")
    given = {}
    for field in fields:
        if field.name in value:
            given[field.name] = _decode(hints[field.name], value[field.name], f"{where}.{field.name}")
        elif field.name in kind.always or (
            field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        ):
            raise WireError(f"{where} lacks `{field.name}`")
    return kind(**given)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
