"""The JSON that goes with each sample in formats that have room for it: address, provenance, findings.

All columns of the shard but the tokens and the bulk of a payload: nulls left out, ids and hashes in hex, times in
ISO 8601 UTC, numbers that JSON cannot spell (NaN, infinity) as strings. Columns that hold JSON stay strings.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from headrace.schemas.sample import BULK
from headrace.shards.exports.columns import plain
from headrace.shards.exports.pieces import Piece


def meta_rows(piece: Piece) -> list[bytes]:
    """The JSON of each row: one object, keys sorted, no spaces."""
    columns: list[tuple[str, list[Any]]] = []
    for name, column in zip(piece.batch.schema.names, piece.batch.columns):
        if name == "tokens" or name in BULK or column.null_count == len(column):
            continue
        columns.append((name, plain_values(column)))
    names = [name for name, _ in columns]
    option = orjson.OPT_SORT_KEYS
    place = {"stream": piece.stream, "lane": piece.lane}
    rows = []
    for seq, values in zip(piece.seqs.tolist(), zip(*(values for _, values in columns))):
        row = {name: value for name, value in zip(names, values) if value is not None}
        rows.append(orjson.dumps({**row, **place, "seq": seq}, option=option))
    return rows


def plain_values(column: pa.Array) -> list[Any]:
    """Each row as a JSON value."""
    kind = column.type
    if pa.types.is_timestamp(kind):
        return _times(column)
    if pa.types.is_fixed_size_binary(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return [None if v is None else v.hex() for v in column.to_pylist()]
    values = column.to_pylist()
    if pa.types.is_floating(kind) or pa.types.is_nested(kind):
        return [_spelled(v) for v in values]
    return values


def _times(column: pa.Array) -> list[str | None]:
    valid, (stamps,) = plain(column)
    texts = np.datetime_as_string(stamps.view(f"M8[{column.type.unit}]")).tolist()
    if valid is None:
        return [f"{text}Z" for text in texts]
    return [f"{text}Z" if known else None for text, known in zip(texts, valid.tolist())]


def _spelled(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, list):
        return [_spelled(v) for v in value]
    if isinstance(value, dict):
        return {k: _spelled(v) for k, v in value.items()}
    return value
