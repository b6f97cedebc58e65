"""Arrow arrays as plain JSON values, for rows that are text: nothing is lost that a JSON line can hold.

Bytes that are UTF-8 stay text, other bytes become `base64:…`; decimals, times and durations are written out as strings;
infinite numbers and NaN become the strings "Infinity", "-Infinity", "NaN"; maps become objects where their keys are
different strings, else lists of pairs.
"""

from __future__ import annotations

import base64
import math
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headrace.ingest.normalizers.sensor_columns import MAX_DEPTH
from headrace.schemas.errors import RecordError


def plain(array: pa.Array, depth: int = 0) -> list[Any]:
    """One JSON value a row. Raises: RecordError for types deeper than MAX_DEPTH."""
    if depth > MAX_DEPTH:
        raise RecordError("unsupported:nesting", f"values are nested more than {MAX_DEPTH} levels deep")
    kind = array.type
    if isinstance(array, pa.ExtensionArray):
        return plain(array.storage, depth)
    if pa.types.is_run_end_encoded(kind):
        return plain(pc.run_end_decode(array), depth)
    if pa.types.is_dictionary(kind):
        table = plain(array.dictionary, depth + 1)
        return [None if i is None else table[i] for i in array.indices.to_pylist()]
    if pa.types.is_struct(kind):
        return _structs(array, depth)
    if pa.types.is_map(kind):
        return _maps(array, depth)
    if pa.types.is_nested(kind) and not pa.types.is_union(kind):
        return _lists(array, depth)
    if pa.types.is_union(kind):
        return _unions(array, depth)
    if pa.types.is_floating(kind):
        return [None if v is None else _number(v) for v in array.to_pylist()]
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind):
        return array.to_pylist()  # type: ignore[no-any-return]
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return array.to_pylist()  # type: ignore[no-any-return]
    if (
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_binary_view(kind)
        or pa.types.is_fixed_size_binary(kind)
    ):
        return [None if v is None else bytes_as_text(v) for v in array.to_pylist()]
    if pa.types.is_interval(kind):
        return [None if v is None else list(v) for v in array.to_pylist()]
    if pa.types.is_duration(kind):
        return [None if v is None else f"{v} {kind.unit}" for v in array.cast(pa.int64()).to_pylist()]
    try:
        return array.cast(pa.string()).to_pylist()  # type: ignore[no-any-return]
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as exc:
        raise RecordError("unsupported:type", f"values of type {kind} cannot be written as text: {exc}") from exc


def _number(value: float) -> float | str:
    if math.isfinite(value):
        return float(value)
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def bytes_as_text(value: bytes) -> str:
    """UTF-8 as it is, other bytes as `base64:…`."""
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return "base64:" + base64.b64encode(value).decode("ascii")


def _structs(array: pa.Array, depth: int) -> list[Any]:
    names = [array.type.field(i).name for i in range(array.type.num_fields)]
    if not names:
        return [{} if ok else None for ok in array.is_valid().to_pylist()]
    columns = [plain(array.field(i), depth + 1) for i in range(len(names))]
    present = array.is_valid().to_pylist()
    return [dict(zip(names, row)) if ok else None for ok, row in zip(present, zip(*columns))]


def _lists(array: pa.Array, depth: int) -> list[Any]:
    out: list[Any] = []
    for i in range(len(array)):
        item = array[i]
        out.append(plain(item.values, depth + 1) if item.is_valid else None)
    return out


def _maps(array: pa.Array, depth: int) -> list[Any]:
    out: list[Any] = []
    for i in range(len(array)):
        item = array[i]
        if not item.is_valid:
            out.append(None)
            continue
        entries = item.values
        keys, values = plain(entries.field(0), depth + 1), plain(entries.field(1), depth + 1)
        if all(isinstance(k, str) for k in keys) and len(set(keys)) == len(keys):
            out.append(dict(zip(keys, values)))
        else:
            out.append([[k, v] for k, v in zip(keys, values)])
    return out


def _unions(array: pa.Array, depth: int) -> list[Any]:
    children = [plain(array.field(i), depth + 1) for i in range(array.type.num_fields)]
    codes = {code: i for i, code in enumerate(array.type.type_codes)}
    chosen = np.array(array.type_codes.to_pylist(), dtype=np.int64)
    sparse = array.type.mode == "sparse"
    offsets = range(len(array)) if sparse else array.offsets.to_pylist()
    return [children[codes[int(code)]][offset] for code, offset in zip(chosen, offsets)]
