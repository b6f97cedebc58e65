"""Walks a dataset's samples by address for the status page: pages of a stream, neighbours, the newest ones.

Addresses are found from the log alone; only the blocks that hold the rows shown are read.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from headrace.ingest.status_shapes import SampleList, SampleRow
from headrace.ingest.view import Address
from headrace.schemas.errors import ConfigError
from headrace.shards.dataset import Dataset
from headrace.shards.entry import Span
from headrace.shards.spans import merged, without
from headrace.shards.state import State

#: The most samples in one answer.
MAX_ROWS = 200


def lanes_of(state: State, stream: str) -> list[int]:
    """The lanes of a stream that hold samples."""
    return sorted(lane for (name, lane), shards in state.shards.items() if name == stream and shards)


def live_spans(state: State, stream: str, lane: int) -> list[Span]:
    """The sequence numbers of a lane that can be read, as sorted spans."""
    held: list[Span] = []
    for shard in state.shards.get((stream, lane), []):
        held += without([Span(shard.first_seq, shard.stop_seq)], shard.missing)
    return without(merged(held), state.deleted.get((stream, lane), []))


def after(state: State, stream: str, place: Address | None, lane: int | None = None) -> Iterator[Address]:
    """Addresses of a stream (or one lane) that follow `place`, in order."""
    for number in lanes_of(state, stream):
        if lane not in (None, number) or (place is not None and number < place.lane):
            continue
        least = place.seq + 1 if place is not None and number == place.lane else 0
        for span in live_spans(state, stream, number):
            for seq in range(max(span.start, least), span.stop):
                yield Address(stream, number, seq)


def following(state: State, place: Address) -> Address | None:
    """The next address, None at the end of the stream."""
    return next(after(state, place.stream, place), None)


def previous(state: State, place: Address) -> Address | None:
    """The address before, None at the beginning of the stream."""
    for lane in reversed(lanes_of(state, place.stream)):
        if lane > place.lane:
            continue
        spans = live_spans(state, place.stream, lane)
        if lane == place.lane:
            spans = spans[: bisect_right(spans, place.seq - 1, key=lambda s: s.start)]
        if spans:
            last = spans[-1].stop - 1
            return Address(place.stream, lane, min(last, place.seq - 1) if lane == place.lane else last)
    return None


def newest(state: State, stream: str, count: int) -> list[Address]:
    """The last addresses of the lane that was committed to last, newest first."""
    held = [(origins[-1][1], lane) for (name, lane), origins in state.origins.items() if name == stream and origins]
    found: list[Address] = []
    for _, lane in sorted(held, reverse=True):
        for span in reversed(live_spans(state, stream, lane)):
            for seq in range(span.stop - 1, span.start - 1, -1):
                found.append(Address(stream, lane, seq))
                if len(found) == count:
                    return found
    return found


def list_samples(
    dataset: Dataset, stream: str, *, place: Address | None = None, lane: int | None = None, limit: int = 50
) -> SampleList:
    """Samples that follow `place` in address order. Raises: ConfigError for an unknown stream; ShardError."""
    settings = dataset.state.settings.get(stream)
    if settings is None:
        known = ", ".join(sorted(dataset.state.settings)) or "none yet"
        raise ConfigError(f"the dataset has no stream `{stream}`; there are {known}", value=stream)
    limit = max(1, min(limit, MAX_ROWS))
    wanted: list[Address] = []
    for address in after(dataset.state, stream, place, lane):
        wanted.append(address)
        if len(wanted) > limit:
            break
    more = len(wanted) > limit
    wanted = wanted[:limit]
    rows: list[SampleRow] = []
    for number in sorted({address.lane for address in wanted}):
        own = {address.seq for address in wanted if address.lane == number}
        for found in dataset.located(stream, lane=number, start=min(own), stop=max(own) + 1):
            lengths = (
                pc.list_value_length(found.batch.column("tokens")) if "tokens" in found.batch.schema.names else None
            )
            for i, seq in enumerate(found.seqs.tolist()):
                if seq in own:
                    count = None if lengths is None else lengths[i].as_py()
                    rows.append(_row(found.batch, i, Address(stream, number, seq), count))
    lanes = lanes_of(dataset.state, stream)
    total = sum(s.stop - s.start for n in lanes if lane in (None, n) for s in live_spans(dataset.state, stream, n))
    return {
        "version": dataset.version,
        "stream": stream,
        "modality": settings.modality,
        "error_unit": settings.error_unit,
        "lanes": lanes,
        "total": total,
        "samples": rows,
        "next": rows[-1]["address"] if more else None,
    }


def _row(batch: pa.RecordBatch, i: int, address: Address, tokens: int | None) -> SampleRow:
    def value(name: str) -> Any:
        return batch.column(name)[i].as_py()

    time = value("event_time")
    return {
        "address": str(address),
        "uri": value("uri"),
        "locator": value("locator"),
        "event_time": None if time is None else time.isoformat(),
        "fold": value("fold"),
        "license": value("license"),
        "flags": value("flags") or [],
        "tokens": tokens,
        "error": value("error"),
    }
