"""Rows on their way through a lane: joined to batches that are encoded together, their origins kept beside them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa

from headrace.ingest.origin import Origin, Suspects, sliced
from headrace.shards.entry import split_digest

Drafts = list[tuple[pa.RecordBatch, Sequence[Origin]]]  #: batches, in order, and where their rows come from


def joined(drafts: Drafts) -> tuple[pa.RecordBatch, list[Origin]]:
    """All rows as one batch."""
    batch = drafts[0][0] if len(drafts) == 1 else pa.concat_batches([batch for batch, _ in drafts])
    return batch, [origin for _, origins in drafts for origin in origins]


def suspects(origins: Sequence[Origin]) -> list[Suspects]:
    """One suspect per item: the probe of an item tries all its rows, one at a time."""
    found: list[Suspects] = []
    last = ""
    for row, _, after, k, _ in origins:
        if not found or found[-1].split is not row.split:
            found.append(Suspects(row.split, [(after, k)]))
        elif after != last:
            found[-1].items.append((after, k))
        last = after
    return found


def ready_batches(
    records: pa.RecordBatch, origins: list[Origin], convicted: dict[tuple[str, str, int], str]
) -> Iterator[tuple[pa.RecordBatch, list[Origin], str | None]]:
    """(rows, origins, None) ready to encode, in order; a convicted row comes alone, with the reason not to."""
    begin = at = 0
    for origin in origins if convicted else ():
        digest = split_digest(origin.row.split.id)
        for i in range(origin.rows):
            reason = convicted.get((digest, origin.after, origin.k + i))
            if reason is not None:
                if at + i > begin:
                    yield records.slice(begin, at + i - begin), sliced(origins, begin, at + i - begin), None
                yield records.slice(at + i, 1), [origin._replace(k=origin.k + i, rows=1)], reason
                begin = at + i + 1
        at += origin.rows
    if begin == 0:
        yield records, origins, None
    elif begin < records.num_rows:
        yield records.slice(begin), sliced(origins, begin, records.num_rows - begin), None
