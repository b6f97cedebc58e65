"""Drafts gathered to record batches: a batch of one modality at a time, of at most some megabytes, in the order given.

Windows of sensors come by the hundred thousand, so their batches are put together a column at a time; the others, which
are few and large, go through the RecordBuilder.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from headrace.ingest.normalizers.contract import Bad, Normalized
from headrace.ingest.normalizers.sensor_series import Draft
from headrace.schemas.errors import RecordError
from headrace.schemas.record import Modality, RecordBuilder, draft_schema

BATCH_BYTES = 4 << 20
BATCH_ROWS = 1024
_LISTS = ("t", "value", "valid")
_SAMPLE_BYTES = 17  #: time, value, validity (as a byte, until it is packed)


def batches(events: Iterable[Draft | Bad]) -> Iterator[Normalized]:
    """Record batches and bad records. Where the events end in a RecordError, what came before it is given first.

    A batch ends where the modality changes, so batches keep the order of their drafts.
    """
    gathered = _Gathered()
    failure: RecordError | None = None
    iterator = iter(events)
    while True:
        try:
            event = next(iterator)
        except StopIteration:
            break
        except RecordError as exc:
            failure = exc
            break
        if isinstance(event, Bad):
            yield from gathered.finish()
            yield event
            continue
        if event.modality != gathered.modality:
            yield from gathered.finish()
        gathered.add(event)
        if gathered.bytes >= BATCH_BYTES or len(gathered.drafts) >= BATCH_ROWS:
            yield from gathered.finish()
    yield from gathered.finish()
    if failure is not None:
        raise failure


class _Gathered:
    """Drafts of one modality."""

    def __init__(self) -> None:
        self.modality = ""
        self.drafts: list[Draft] = []
        self.bytes = 0

    def add(self, draft: Draft) -> None:
        self.modality = draft.modality
        self.drafts.append(draft)
        if draft.modality == "sensor":
            self.bytes += _SAMPLE_BYTES * len(draft.columns["t"])
        else:
            payload = next(draft.columns[n] for n in ("text", "pixels", "samples", "data") if n in draft.columns)
            self.bytes += len(payload) if isinstance(payload, str) else payload.nbytes

    def finish(self) -> Iterator[pa.RecordBatch]:
        drafts, self.drafts, self.bytes = self.drafts, [], 0
        if not drafts:
            return
        if self.modality == "sensor":
            yield sensor_batch([draft.columns for draft in drafts])
            return
        builder = RecordBuilder(cast(Modality, self.modality))
        for draft in drafts:
            builder.add(**draft.columns)
        yield builder.finish()


def sensor_batch(rows: Sequence[dict[str, Any]]) -> pa.RecordBatch:
    """A draft batch of sensor records: what `RecordBuilder("sensor")` makes of these rows, column by column."""
    offsets = np.zeros(len(rows) + 1, np.int32)
    np.cumsum([len(row["t"]) for row in rows], out=offsets[1:])
    t, value, valid = (np.concatenate([row[name] for row in rows]) for name in _LISTS)
    return batch_of_samples(rows, offsets, t, value, valid)


def batch_of_samples(
    rows: Sequence[dict[str, Any]],
    offsets: npt.NDArray[np.int32],
    t: npt.NDArray[np.int64],
    value: npt.NDArray[np.float64],
    valid: npt.NDArray[np.bool_],
) -> pa.RecordBatch:
    """The same of rows whose samples lie end to end: row i has those from offsets[i] to offsets[i + 1]."""
    samples: dict[str, npt.NDArray[Any]] = dict(zip(_LISTS, (t, value, valid)))
    schema = draft_schema("sensor")
    said = set().union(*rows)
    arrays = []
    for field in schema:
        if field.name in samples:
            arrays.append(_list(field.type, offsets, samples[field.name]))
        elif field.name in said:
            arrays.append(_column(field.type, [row.get(field.name) for row in rows]))
        else:
            arrays.append(pa.nulls(len(rows), field.type))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _column(kind: pa.DataType, values: list[Any]) -> pa.Array:
    """The values as an array; one that all rows share is converted once."""
    first = values[0]
    if not all(value is first for value in values):
        return pa.array(values, kind)
    return pa.nulls(len(values), kind) if first is None else pa.repeat(pa.scalar(first, kind), len(values))


def _list(kind: pa.DataType, offsets: npt.NDArray[np.int32], flat: npt.NDArray[Any]) -> pa.Array:
    data = np.packbits(flat, bitorder="little") if flat.dtype == np.bool_ else flat
    child = pa.Array.from_buffers(kind.value_type, len(flat), [None, pa.py_buffer(data)])
    return pa.Array.from_buffers(kind, len(offsets) - 1, [None, pa.py_buffer(offsets)], children=[child])
