"""Rows on their way through a lane: which record stands where, cut and joined without losing track of its origin."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import pyarrow as pa

from headrace.ingest.walk import Origin
from headrace.shards.entry import split_digest

#: Parts of a batch, in order: some rows, where they come from, and the output number of the first.
Rows: TypeAlias = list[tuple[pa.RecordBatch, Origin, int]]


def suspects(origins: Rows) -> list[dict[str, Any]]:
    """One suspect per item: the probe of an item tries all its rows, one at a time."""
    seen: dict[tuple[str, str], dict[str, Any]] = {}
    for _, origin, k in origins:
        seen.setdefault((origin.row.split.id, origin.after), origin.suspect(k))
    return list(seen.values())


def sliced(origins: Rows, begin: int, size: int) -> Rows:
    out, at = [], 0
    for batch, origin, k in origins:
        low, high = max(begin, at), min(begin + size, at + batch.num_rows)
        if low < high:
            out.append((batch.slice(low - at, high - low), origin, k + low - at))
        at += batch.num_rows
    return out


def ready_batches(
    waiting: list[tuple[pa.RecordBatch, Origin]], convicted: dict[tuple[str, str, int], str]
) -> Iterator[tuple[pa.RecordBatch | str, Rows]]:
    """Batches ready to encode, in order; a convicted row comes alone, with its reason in place of a batch."""
    run: Rows = []
    for batch, origin in waiting:
        begin = 0
        if convicted:
            for i in range(batch.num_rows):
                reason = convicted.get((split_digest(origin.row.split.id), origin.after, origin.k + i))
                if reason is not None:
                    if i > begin:
                        run.append((batch.slice(begin, i - begin), origin, origin.k + begin))
                    if run:
                        yield joined(run), run
                        run = []
                    yield reason, [(batch.slice(i, 1), origin, origin.k + i)]
                    begin = i + 1
        if begin < batch.num_rows:
            run.append((batch.slice(begin) if begin else batch, origin, origin.k + begin))
    if run:
        yield joined(run), run


def joined(run: Rows) -> pa.RecordBatch:
    return run[0][0] if len(run) == 1 else pa.concat_batches([batch for batch, _, _ in run])
