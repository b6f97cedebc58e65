"""Samples as rows of a table: the columns as they are in the shards, with the address before them.

`stream`, `lane`, `seq` come first. Ids and hashes are plain binary, since Hugging Face's readers know no binary of a
fixed size; no column is marked as never null, for the same reason. Tokens are the only column that may change: marks
and the unified view, where these are asked for.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from headrace.shards.exports.columns import int64s, lists, plain_binary, repeated
from headrace.shards.exports.pieces import Piece
from headrace.shards.exports.plan import StreamPlan


def table_schema(plan: StreamPlan) -> pa.Schema:
    """Columns of the rows, without metadata."""
    fields = [pa.field("stream", pa.string()), pa.field("lane", pa.int64()), pa.field("seq", pa.int64())]
    for column in plan.schema:
        kind = column.type
        if column.name == "tokens" and plan.marks is not None:
            kind = pa.large_list(pa.from_numpy_dtype(plan.marks.dtype))
        elif pa.types.is_fixed_size_binary(kind):
            kind = pa.binary()
        fields.append(pa.field(column.name, kind))
    return pa.schema(fields)


def table_rows(piece: Piece, plan: StreamPlan, schema: pa.Schema) -> pa.RecordBatch:
    """The rows of a piece."""
    made: dict[str, pa.Array] = {
        "stream": repeated(piece.stream, piece.rows),
        "lane": int64s(np.full(piece.rows, piece.lane)),
        "seq": int64s(piece.seqs),
    }
    columns = []
    for field in schema:
        if field.name in made:
            columns.append(made[field.name])
            continue
        column = piece.batch.column(field.name)
        if field.name == "tokens" and plan.marks is not None:
            column = lists(*plan.marks.apply(*piece.content))
        elif pa.types.is_fixed_size_binary(column.type):
            column = plain_binary(column)
        columns.append(column)
    return pa.RecordBatch.from_arrays(columns, schema=schema)
