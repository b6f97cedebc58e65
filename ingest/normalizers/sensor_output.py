"""Drafts gathered to record batches: a batch of one modality at a time, of at most some megabytes, in the order given."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, cast

from headrace.ingest.normalizers.contract import Bad, Normalized
from headrace.ingest.normalizers.sensor_series import Draft
from headrace.schemas.errors import RecordError
from headrace.schemas.record import Modality, RecordBuilder

BATCH_BYTES = 4 << 20
BATCH_ROWS = 1024


def batches(events: Iterable[Draft | Bad]) -> Iterator[Normalized]:
    """Record batches and bad records. Where the events end in a RecordError, what came before it is given first.

    A batch ends where the modality changes, so batches keep the order of their drafts.
    """
    builder: RecordBuilder | None = None
    iterator = iter(events)
    failure: RecordError | None = None
    while True:
        try:
            event = next(iterator)
        except StopIteration:
            break
        except RecordError as exc:
            failure = exc
            break
        if isinstance(event, Bad):
            if builder is not None and len(builder):
                yield builder.finish()
            yield event
            continue
        if builder is None or builder.modality != event.modality:
            if builder is not None and len(builder):
                yield builder.finish()
            builder = RecordBuilder(cast(Modality, event.modality))
        columns: dict[str, Any] = event.columns
        builder.add(**columns)
        if _weight(builder) >= BATCH_BYTES or len(builder) >= BATCH_ROWS:
            yield builder.finish()
    if builder is not None and len(builder):
        yield builder.finish()
    if failure is not None:
        raise failure


def _weight(builder: RecordBuilder) -> int:
    # a sample's time and validity come on top of its value
    return builder.payload_bytes * (17 if builder.modality == "sensor" else 8) // 8
