"""Protobuf messages as plain objects, by the FileDescriptorSet that a recording carries or a pipeline names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from headrace.schemas.errors import MissingExtra, RecordError

MAX_DESCRIPTORS = 4 << 20  #: bytes


def decoder(type_name: str, descriptors: bytes) -> Callable[[bytes], Mapping[str, Any]] | None:
    """Reads messages of a type; None if the descriptors are not those of a type of this name."""
    made = message_class(type_name, descriptors)
    if made is None:
        return None
    from google.protobuf import message  # type: ignore[import-untyped]

    def decode(data: bytes) -> Mapping[str, Any]:
        try:
            return _plain(made.FromString(data), 0)
        except (message.DecodeError, ValueError) as exc:
            raise RecordError("corrupt", f"not a {type_name} message: {exc}") from exc

    return decode


def message_class(type_name: str, descriptors: bytes) -> Any:
    """The class of a type, made from a FileDescriptorSet; None if that has no type of this name."""
    try:
        from google.protobuf import (  # type: ignore[import-untyped]
            descriptor_pb2,
            descriptor_pool,
            message,
            message_factory,
        )
    except ImportError as exc:
        raise MissingExtra("protobuf", "sensor", need="reading protobuf messages") from exc
    if len(descriptors) > MAX_DESCRIPTORS:
        return None
    pool = descriptor_pool.DescriptorPool()
    try:
        files = descriptor_pb2.FileDescriptorSet.FromString(descriptors)
        waiting = {file.name: file for file in files.file}
        while waiting:  # a file may be added when all it imports have been
            ready = [f for f in waiting.values() if not any(d in waiting for d in f.dependency)]
            if not ready:
                return None
            for file in ready:
                pool.Add(file)
                del waiting[file.name]
        return message_factory.GetMessageClass(pool.FindMessageTypeByName(type_name))
    except (message.DecodeError, TypeError, KeyError, ValueError):
        return None


def _plain(value: Any, depth: int) -> dict[str, Any]:
    if depth > 32:
        raise RecordError("unsupported:nesting", "a protobuf message is nested more than 32 levels deep")
    out: dict[str, Any] = {}
    for field in value.DESCRIPTOR.fields:
        entry = field.message_type is not None and field.message_type.GetOptions().map_entry
        if is_repeated(field):
            items = getattr(value, field.name)
            if entry:
                out[field.name] = {
                    str(k): _one(field.message_type.fields_by_name["value"], items[k], depth) for k in sorted(items)
                }
            elif field.cpp_type in _NUMPY:
                out[field.name] = np.array(list(items), dtype=_NUMPY[field.cpp_type])
            else:
                out[field.name] = [_one(field, item, depth) for item in items]
        elif field.message_type is None or value.HasField(field.name):
            out[field.name] = _one(field, getattr(value, field.name), depth)
    return out


def is_repeated(field: Any) -> bool:
    """Whether a field may hold several values."""
    # `label` went out of use in protobuf 6; older ones have no `is_repeated`
    return bool(field.is_repeated if hasattr(field, "is_repeated") else field.label == field.LABEL_REPEATED)


#: FieldDescriptor.cpp_type of numbers → dtype of a repeated field.
_NUMPY: dict[int, Any] = {
    1: np.int32,
    2: np.int64,
    3: np.uint32,
    4: np.uint64,
    5: np.float64,
    6: np.float32,
    7: np.bool_,
}


def _one(field: Any, value: Any, depth: int) -> Any:
    if field.message_type is not None:
        return _plain(value, depth + 1)
    if field.enum_type is not None:
        return int(value)
    return value
