"""headrace: shards written by `ShardWriter` in 4 MiB blocks with full provenance, read by `ShardDataset`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from corpus import BATCH, LENGTH, Corpus
from feed import Case, loader

from headrace import ShardDataset
from headrace.shards.books import Books, SplitCounts, StreamCounts
from headrace.shards.entry import Entry, Place, PlaceMove, Range, ShardInfo, split_digest
from headrace.shards.log import CommitLog
from headrace.shards.store import Store, open_store
from headrace.shards.testing import schema_of, settings_of
from headrace.shards.writer import ShardWriter

STREAM, SPLIT = "text", "documents"
_BATCH = 2048  # documents appended at once
SHARD = 1 << 18  # documents in a shard, 88 blocks


def write(corpus: Corpus, folder: Path) -> None:
    folder.mkdir()
    store = open_store(str(folder))
    log = CommitLog(store)
    log.claim({}, {STREAM: settings_of(STREAM)})
    for first in range(0, len(corpus.ends), SHARD):
        commit(log, [shard(store, log, corpus, first, min(first + SHARD, len(corpus.ends)))], first)
    log.end()


def shard(store: Store, log: CommitLog, corpus: Corpus, first: int, stop: int) -> ShardInfo:
    """Documents [first, stop) as a shard that is not committed yet."""
    schema = schema_of(STREAM, log.state.settings[STREAM])
    with ShardWriter(store, STREAM, 0, log.state.epoch, schema) as writer:
        for at in range(first, stop, _BATCH):
            writer.append(_samples(schema, corpus, at, min(at + _BATCH, stop)))
        return writer.close([Range(split_digest(SPLIT), first or None, 0, stop, 0, stop - first)])


def commit(log: CommitLog, shards: list[ShardInfo], first: int) -> None:
    """Commit shards whose documents follow each other, of which the first is number `first`."""
    rows, digest = sum(s.rows for s in shards), split_digest(SPLIT)
    before, after = Place(position=first) if first else None, Place(position=first + rows)
    line = SplitCounts(STREAM, digest, first or None, 0, first + rows, 0, rows, rows, 0)
    counts = StreamCounts(rows, rows, tokens=sum(s.tokens for s in shards))
    moves = [PlaceMove(STREAM, 0, after, before, digest)]
    log.append(Entry(kind="commit", add=shards, places=moves, books=Books([line], {STREAM: counts})))


def _samples(schema: pa.Schema, corpus: Corpus, first: int, stop: int) -> pa.RecordBatch:
    count = stop - first
    start = int(corpus.ends[first - 1]) if first else 0
    offsets = np.append(start, corpus.ends[first:stop]) - start
    tokens = corpus.tokens[start : int(corpus.ends[stop - 1])]
    digests = [hashlib.sha256(b"%d" % i).digest() for i in range(first, stop)]
    told: dict[str, Any] = {
        "record_id": [d[:16] for d in digests],
        "source": ["files"] * count,
        "uri": [f"web/{i // 4096:05d}.jsonl" for i in range(first, stop)],
        "split": [SPLIT] * count,
        "position": [str(i) for i in range(first + 1, stop + 1)],
        "content_sha256": digests,
        "fold": ["train"] * count,
        "locator": [json.dumps({"line": i % 4096}, separators=(",", ":")) for i in range(first, stop)],
        "license": ["CC-BY-4.0"] * count,
        "group_id": [f"g{i // 3}" for i in range(first, stop)],
    }
    columns = []
    for field in schema:
        if field.name == "tokens":
            values = pa.Array.from_buffers(field.type.value_type, len(tokens), [None, pa.py_buffer(tokens)])
            buffers = [None, pa.py_buffer(offsets.astype(np.int64))]
            columns.append(pa.Array.from_buffers(field.type, count, buffers, children=[values]))
        elif field.name in told:
            columns.append(pa.array(told[field.name], field.type))
        else:
            columns.append(pa.nulls(count, field.type))
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def batches(folder: Path, case: Case) -> Iterator[Any]:
    more = {} if case.every else {"outputs": ("tokens",)}
    data = ShardDataset(
        str(folder),
        length=LENGTH,
        batch_size=BATCH,
        shuffle=case.shuffle,
        seed=case.seed,
        epochs=case.passes,
        window_bytes=case.window_mib << 20,
        **more,  # type: ignore[arg-type]
    )
    return iter(loader(data.torch(), case.workers)) if case.workers else iter(data)
