"""Objects as fields: flattening, numbers and their losses, JSON values, and fields as Arrow columns."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from headrace.ingest.normalizers.sensor_plan import LATITUDES, LONGITUDES
from headrace.ingest.normalizers.sensor_series import Values
from headrace.ingest.normalizers.sensor_time import Int64
from headrace.schemas.errors import RecordError

MAX_ITEMS = 64  #: elements of a list that become channels; longer lists are text
MAX_FIELDS = 20_000
SPECIAL = {"nan": math.nan, "infinity": math.inf, "-infinity": -math.inf, "inf": math.inf, "-inf": -math.inf}
_EXACT = 1 << 53


@dataclass
class Column:
    """The values of one field of a block, and the rows of the block that have it."""

    rows: list[int] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)


def flatten(value: Mapping[str, Any], prefix: str = "", out: dict[str, Any] | None = None) -> dict[str, Any]:
    """Leaves by dotted name. Lists of more than MAX_ITEMS, and empty objects, stay as they are."""
    out = {} if out is None else out
    for key, inner in value.items():
        name = f"{prefix}{key}"
        if isinstance(inner, Mapping) and inner:
            flatten(inner, f"{name}.", out)
        elif isinstance(inner, (list, tuple)) and 0 < len(inner) <= MAX_ITEMS and not isinstance(inner[0], str):
            flatten({f"[{i}]": item for i, item in enumerate(inner)}, name, out)
        else:
            out[name] = inner
        if len(out) > MAX_FIELDS:
            raise RecordError("too_large", f"one row has more than {MAX_FIELDS} fields")
    return out


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) or type(value).__module__ == "numpy"


def position_of(names: Sequence[str]) -> tuple[int, int] | None:
    plain = [name.lower().rsplit(".", 1)[-1] for name in names]
    lat = next((plain.index(n) for n in LATITUDES if n in plain), None)
    lon = next((plain.index(n) for n in LONGITUDES if n in plain), None)
    return None if lat is None or lon is None else (lat, lon)


def values_of(column: Column, chosen: Int64, missing: Sequence[float]) -> Values:
    value = np.full(len(chosen), np.nan)
    lossy = np.zeros(len(chosen), np.bool_)
    places = np.searchsorted(chosen, np.array(column.rows, np.int64))
    for at, found in zip(places.tolist(), column.values):
        number = SPECIAL.get(found.strip().lower(), math.nan) if isinstance(found, str) else found
        if number is None:
            continue
        try:
            value[at] = float(number)
        except OverflowError:
            value[at] = math.inf if number > 0 else -math.inf
        if isinstance(number, int) and abs(number) > _EXACT:
            lossy[at] = not math.isfinite(value[at]) or int(value[at]) != number
    valid = np.isfinite(value)
    for mark in missing:
        valid &= value != mark
    return Values(value, valid, lossy if lossy.any() else None)


def pick(values: Values, places: Int64) -> Values:
    return Values(values.value[places], values.valid[places], None if values.lossy is None else values.lossy[places])


def jsonable(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {str(k): jsonable(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(v) for v in value]
    if isinstance(value, np.ndarray):
        return jsonable(value.tolist())
    if isinstance(value, np.generic):
        return jsonable(value.item())
    return value


def columns_of(flats: Sequence[Mapping[str, Any]], kinds: Mapping[str, str], names: Sequence[str]) -> pa.RecordBatch:
    """Columns of these fields as Arrow sees them: int64 where all are integers, else float64, or strings."""
    arrays: list[pa.Array] = []
    for name in names:
        values = [flat.get(name) for flat in flats]
        if kinds.get(name) == "number":
            whole = all(
                v is None or (isinstance(v, int) and not isinstance(v, bool) and abs(v) < 1 << 63) for v in values
            )
            if whole:
                arrays.append(pa.array(values, pa.int64()))
            else:
                numbers = [
                    None if v is None or isinstance(v, str) else float(v) if abs(v) < 1e300 else math.inf
                    for v in values
                ]
                arrays.append(pa.array(numbers, pa.float64()))
        else:
            arrays.append(pa.array([v if isinstance(v, str) else None for v in values], pa.string()))
    return pa.RecordBatch.from_arrays(arrays, names=list(names))
