"""Columns of Arrow tables as channels of float64: which leaves are numbers, and their values, validity and losses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headrace.ingest.normalizers.sensor_series import Channel, Floats, Values
from headrace.ingest.normalizers.sensor_time import Bool, Int64, mask_of, valid_of
from headrace.ingest.normalizers.sensor_units import split_header, to_ucum
from headrace.schemas.errors import RecordError

MAX_DEPTH = 32  #: structs within structs
MAX_LEAVES = 20_000  #: columns of one table
EXACT = 1 << 53  #: the largest integer below which float64 holds every one


@dataclass(frozen=True)
class Leaf:
    """A column that is not a struct: `path` from the top, `name` joined with dots."""

    path: tuple[int, ...]
    name: str
    type: pa.DataType
    field: pa.Field
    top: str

    @property
    def is_number(self) -> bool:
        """Whether it becomes a channel rather than text."""
        kind = value_type(self.type)
        return bool(
            pa.types.is_integer(kind)
            or pa.types.is_floating(kind)
            or pa.types.is_decimal(kind)
            or pa.types.is_boolean(kind)
            or pa.types.is_duration(kind)
            or pa.types.is_time(kind)
        )

    def read(self, batch: pa.RecordBatch) -> pa.Array:
        """The leaf's array, null where any of its parents is."""
        array = batch.column(self.path[0])
        for index in self.path[1:]:
            array = pc.struct_field(storage(array), [index])
        return storage(array)


def storage(array: pa.Array) -> pa.Array:
    """An extension array as what it is made of; dictionaries and runs as plain values."""
    if isinstance(array, pa.ExtensionArray):
        return storage(array.storage)
    if pa.types.is_run_end_encoded(array.type):
        return storage(pc.run_end_decode(array))
    if pa.types.is_dictionary(array.type) and not _is_textual(array.type.value_type):
        return storage(array.dictionary_decode())
    return array


def value_type(kind: pa.DataType) -> pa.DataType:
    """The type of the values behind extensions, dictionaries and runs."""
    if isinstance(kind, pa.BaseExtensionType):
        return value_type(kind.storage_type)
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return value_type(kind.value_type)
    return kind


def _is_textual(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_string_view(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_binary_view(kind)
    )


def leaves(schema: pa.Schema, skip: Sequence[str] = ()) -> list[Leaf]:
    """All leaves in schema order, without the columns `skip`. Raises: RecordError `too_large`, `unsupported`."""
    found = [leaf for i, f in enumerate(schema) if f.name not in skip for leaf in _leaves(f, (i,), f.name, f.name)]
    if len(found) > MAX_LEAVES:
        raise RecordError("too_large", f"{len(found)} columns; at most {MAX_LEAVES} are read")
    return found


def _leaves(field: pa.Field, path: tuple[int, ...], name: str, top: str) -> Iterator[Leaf]:
    if len(path) > MAX_DEPTH:
        raise RecordError("unsupported:nesting", f"column {top!r} is nested more than {MAX_DEPTH} levels deep")
    kind = field.type.storage_type if isinstance(field.type, pa.BaseExtensionType) else field.type
    if pa.types.is_struct(kind) and not is_variant(kind):
        for i in range(kind.num_fields):
            child = kind.field(i)
            yield from _leaves(child, (*path, i), f"{name}.{child.name}", top)
    else:
        yield Leaf(path, name, kind, field, top)


def distinct(names: Sequence[str]) -> list[str]:
    """The names, those that come again with #2, #3 …"""
    out: list[str] = []
    taken: set[str] = set()
    for name in names:
        unique, count = name, 1
        while unique in taken:
            count += 1
            unique = f"{name}#{count}"
        taken.add(unique)
        out.append(unique)
    return out


def check_names(schema: pa.Schema) -> None:
    """Raises: UnicodeDecodeError if any name is not UTF-8; pyarrow finds that only when it is asked for the name."""
    level: list[pa.Field] = list(schema)
    for _ in range(4 * MAX_DEPTH):
        if not level:
            return
        assert all(isinstance(field.name, str) for field in level)
        kinds = [value_type(field.type) for field in level]
        level = [kind.field(i) for kind in kinds if pa.types.is_nested(kind) for i in range(kind.num_fields)]


def is_variant(kind: pa.DataType) -> bool:
    """Whether a struct is a Parquet VARIANT, shredded or not (the footer's own mark is not passed on by pyarrow).

    Source: apache/parquet-format VariantEncoding.md and VariantShredding.md: `metadata`, `value`, `typed_value`.
    """
    if not pa.types.is_struct(kind):
        return False
    names = {kind.field(i).name for i in range(kind.num_fields)}
    if "metadata" not in names or not names <= {"metadata", "value", "typed_value"} or len(names) < 2:
        return False
    return all(_is_textual(kind.field(name).type) for name in names - {"typed_value"})


def channel_of(leaf: Leaf, names: set[str]) -> Channel:
    """The channel of a numeric leaf: name and unit from header, metadata or type. `names` are taken already."""
    name, unit = split_header(leaf.name)
    extra: dict[str, str] = {}
    if unit is None or name in names:
        name = leaf.name
    if name in names:
        name = distinct([*names, name])[-1]
    if name != leaf.name:
        extra["column"] = leaf.name
    kind = value_type(leaf.type)
    metadata = {
        k.decode("utf-8", "replace").lower(): v.decode("utf-8", "replace")
        for k, v in (leaf.field.metadata or {}).items()
    }
    for key in ("unit", "units"):
        if unit is None and key in metadata:
            unit = to_ucum(metadata[key])
            if unit is None:
                extra["unit"] = metadata[key]
    if unit is None and (pa.types.is_duration(kind) or pa.types.is_time(kind)):
        unit = kind.unit
    transforms = () if pa.types.is_float64(kind) else (f"{kind}->float64",)
    return Channel(name, unit, extra, transforms)


def floats(array: pa.Array, missing: Sequence[float] = ()) -> Values:
    """float64 values of a numeric array. Not valid: null, NaN, infinite, or one of the `missing` numbers.

    Null becomes NaN, and every NaN the same NaN, so that equal columns have equal bytes.
    """
    array = storage(array)
    valid = valid_of(array)
    lossy = None
    kind = array.type
    if pa.types.is_float64(kind):
        value = _buffer(array, np.float64)
    elif pa.types.is_float32(kind):
        value = _buffer(array, np.float32).astype(np.float64)
    elif pa.types.is_float16(kind):
        value = _buffer(array, np.float16).astype(np.float64)
    elif pa.types.is_boolean(kind):
        value = mask_of(array).astype(np.float64)
    elif pa.types.is_decimal(kind):
        value = _buffer(pc.cast(array, pa.float64()), np.float64)
    else:
        width = kind.bit_width // 8
        whole = _buffer(array, np.dtype(f"{'u' if pa.types.is_unsigned_integer(kind) else 'i'}{width}"))
        value = whole.astype(np.float64)
        if width == 8 and len(whole):
            lossy = _lost_bits(whole, value) & valid
            lossy = lossy if lossy.any() else None
    finite = np.isfinite(value)
    if not finite.all():
        value = np.where(np.isnan(value), np.nan, value)
    valid &= finite
    for number in missing:
        valid &= value != number
    if array.null_count:
        value = np.where(valid_of(array), value, np.nan)
    return Values(value, valid, lossy)


def _lost_bits(whole: Int64, value: Floats) -> Bool:
    large = (whole > EXACT) | (whole < -EXACT) if whole.dtype.kind == "i" else whole > EXACT
    if not large.any():
        return np.zeros(len(whole), np.bool_)
    out = np.zeros(len(whole), np.bool_)
    for i in np.flatnonzero(large):
        out[i] = int(value[i]) != int(whole[i])
    return out


def _buffer(array: pa.Array, dtype: object) -> np.ndarray:  # type: ignore[type-arg]
    if len(array) == 0:
        return np.empty(0, dtype)  # type: ignore[call-overload]
    if array.buffers()[1] is None:
        return np.zeros(len(array), dtype)  # type: ignore[call-overload]
    return np.frombuffer(array.buffers()[1], dtype=dtype)[array.offset : array.offset + len(array)]  # type: ignore[call-overload]
