"""Encodes samples again with the reference library, in a child process: what differs is replaced at its address.

A record is had again in one of two ways. Its tokens are decoded; where the payload hashes to the sample's
`content_sha256` that is the record, whatever the engine had done. Else (a lossy tokenizer, or tokens that are wrong)
its source is read from where the shard's range begins, and the record is known by its id, of which the content is a
part. What neither gives stays as it is, and is counted.

A shard in which some tokens differ is written anew with the same rows, ids, addresses and ranges; one in which none do
is only said to be checked. Every shard is committed by itself, so a run that is killed goes on behind it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from headrace.ingest.encoding import encode
from headrace.ingest.lane import CommitChannel
from headrace.ingest.lane_output import open_outputs
from headrace.ingest.origin import Suspects
from headrace.ingest.reencode_originals import Originals, decoded
from headrace.ingest.resolve import ResolvedStream, Runtime
from headrace.ingest.task import Task
from headrace.ingest.walk import InFlight
from headrace.schemas.record import Modality, list_views
from headrace.shards import entry as log
from headrace.shards.entry import ShardInfo, Span
from headrace.shards.reader import ShardReader
from headrace.shards.spans import inside, merged, numbers, of_numbers
from headrace.shards.store import Store
from headrace.shards.writer import ShardWriter
from headrace.tokenizers.contract import Tokenizer

_STEP_ROWS = 1024  #: of a block that are decoded and encoded together
_CUT_S = 10.0  #: after which what was checked is committed, though nothing of it differs

Body = tuple[npt.NDArray[Any], float, float]  #: tokens, error, clip fraction


def reencode(
    task: Task, stream: ResolvedStream, runtime: Runtime, store: Store, slot: InFlight, channel: CommitChannel
) -> dict[str, Any]:
    """Do the shards of a task, committing through `channel`. Raises: ShardError, StorageError, TokenizerError."""
    modality = task.reencode["modality"]
    opened = open_outputs(task.tokenizers, stream, store, task.retired)[modality]
    if opened.tokenizer is None:
        return {"checked": 0, "replaced": 0, "unchecked": 0}
    opened.tokenizer.retire_engine()  # whatever it would use: this is the reference's turn
    originals = Originals(stream, runtime, modality, task.reencode["pins"], task.convictions, slot)
    block_bytes = int(stream.spec.shards.block_mib * (1 << 20))
    run = _Run(store, task.epoch, opened.tokenizer, modality, originals, block_bytes, channel)
    try:
        for info, spans in task.reencode["shards"]:
            run.shard(ShardInfo.from_json(info), [Span.from_json(s) for s in spans])
        run.commit()
    finally:
        originals.close()
    return run.total


@dataclass
class _Outcome:
    """What became of samples, by sequence number."""

    checked: list[int] = field(default_factory=list)
    replaced: list[int] = field(default_factory=list)
    unchecked: list[int] = field(default_factory=list)


class _Run:
    def __init__(
        self,
        store: Store,
        epoch: int,
        tokenizer: Tokenizer,
        modality: Modality,
        originals: Originals,
        block_bytes: int,
        channel: CommitChannel,
    ) -> None:
        self._store, self._epoch, self._tokenizer, self._originals = store, epoch, tokenizer, originals
        self._modality = modality
        self._block_bytes, self._channel = block_bytes, channel
        self._lines: list[log.Reencoded] = []
        self._since = time.monotonic()
        self.total = {"checked": 0, "replaced": 0, "unchecked": 0}

    def shard(self, info: ShardInfo, spans: list[Span]) -> None:
        """Encode the samples of `spans` again, and commit the shard that stands for this one if some differ."""
        reader = ShardReader(self._store, info)
        outcome = _Outcome()
        writer: ShardWriter | None = None
        seqs, row = numbers(info.first_seq, info.stop_seq, info.missing), 0
        try:
            for number, block in enumerate(info.blocks):
                batch, own = reader.block(number), seqs[row : row + block.rows]
                new = self._block(info, row, batch, own, inside(own, spans), outcome)
                row += block.rows
                if new is not None and writer is None:
                    writer = ShardWriter(
                        self._store, info.stream, info.lane, self._epoch, reader.schema,
                        target_block_bytes=self._block_bytes,
                    )  # fmt: skip
                    for before in range(number):
                        writer.append(reader.block(before))
                if writer is not None:
                    writer.append(batch if new is None else new)
            made = None if writer is None else writer.close(info.ranges)
        finally:
            if writer is not None:
                writer.abort()
        self._note(info, outcome, made.tokens - info.tokens if made else 0)
        if made is not None:
            made = replace(made, first_seq=info.first_seq, missing=info.missing)
            self.commit([log.Replace(remove=[info.path], add=[made])])
        elif time.monotonic() - self._since > _CUT_S:
            self.commit()

    def commit(self, changes: Sequence[log.Replace] = ()) -> None:
        """Say what was done since the last time."""
        lines, self._lines, self._since = self._lines, [], time.monotonic()
        if lines:
            manifest = log.Entry(kind="reencode", replace=list(changes), reencoded=_joined(lines))
            self._channel.commit(manifest.to_json())
            self._channel.progress(dict(self.total))

    def _note(self, info: ShardInfo, outcome: _Outcome, tokens: int) -> None:
        if not outcome.checked and not outcome.unchecked:
            return
        checked, replaced, unchecked = map(of_numbers, (outcome.checked, outcome.replaced, outcome.unchecked))
        self._lines.append(log.Reencoded(info.stream, info.lane, checked, replaced, unchecked, tokens))
        for name in self.total:
            self.total[name] += len(getattr(outcome, name))

    def _block(
        self,
        info: ShardInfo,
        first_row: int,
        batch: pa.RecordBatch,
        seqs: npt.NDArray[np.int64],
        due: npt.NDArray[np.bool_],
        outcome: _Outcome,
    ) -> pa.RecordBatch | None:
        """The block with the reference library's tokens; None where they are what it has."""
        bodies: dict[int, Body] = {}
        picks = np.flatnonzero(due)
        for start in range(0, len(picks), _STEP_ROWS):
            part = picks[start : start + _STEP_ROWS]
            for row, body in self._encoded(info, first_row, batch, part.tolist()):
                seq = int(seqs[row])
                if body is None:
                    outcome.unchecked.append(seq)
                    continue
                outcome.checked.append(seq)
                if not np.array_equal(body[0], _tokens(batch, row)):
                    outcome.replaced.append(seq)
                    bodies[row] = body
        return _with_bodies(batch, bodies) if bodies else None

    def _encoded(
        self, info: ShardInfo, first_row: int, batch: pa.RecordBatch, rows: list[int]
    ) -> Iterator[tuple[int, Body | None]]:
        """Each row with what the reference library makes of its record; None where the record is not to be had."""
        left = set(range(len(rows)))
        samples = batch.take(pa.array(rows, pa.int64()))
        for records, own in decoded(self._tokenizer, self._modality, samples):
            left.difference_update(own)
            for at, body in zip(own, self._bodies(records)):
                yield rows[at], body
        ids, splits = samples.column("record_id").to_pylist(), samples.column("split").to_pylist()
        wanted = {ids[at]: first_row + rows[at] for at in left}
        for records in self._originals.of(info, wanted, {ids[at]: splits[at] for at in left}) if left else ():
            bodies = dict(zip(records.column("record_id").to_pylist(), self._bodies(records)))
            for at in [at for at in left if ids[at] in bodies]:
                left.discard(at)
                yield rows[at], bodies[ids[at]]
        for at in left:
            yield rows[at], None

    def _bodies(self, records: pa.RecordBatch) -> list[Body | None]:
        """What the reference library makes of records; None for one that it refuses."""
        encoded, failure = encode(self._tokenizer, records, _NoSlot(), [])
        if encoded is not None:
            borders = encoded.offsets.tolist()
            return [
                (encoded.values[a:b], float(encoded.error[i]), float(encoded.clip_fraction[i]))
                for i, (a, b) in enumerate(pairwise(borders))
            ]
        if failure is None or records.num_rows == 1:
            return [None] * records.num_rows
        half = records.num_rows // 2
        return self._bodies(records.slice(0, half)) + self._bodies(records.slice(half))


class _NoSlot:
    """Records that come from tokens are of no item that could be tried alone, so nobody is named as a suspect."""

    def enter(self, stage: str, suspects: Sequence[Suspects], stream: str = "") -> None:
        """Nothing."""

    def at(self, number: int | None) -> None:
        """Nothing."""

    def leave(self) -> None:
        """Nothing."""

    def out_of_memory(self) -> None:
        """The caller ends the process."""


def _tokens(batch: pa.RecordBatch, row: int) -> npt.NDArray[Any]:
    return next(iter(list_views(batch.slice(row, 1), "tokens")))


def _with_bodies(batch: pa.RecordBatch, bodies: dict[int, Body]) -> pa.RecordBatch:
    """The batch with other tokens in some rows, and with what was measured of them."""
    kind = batch.schema.field("tokens").type
    dtype = np.dtype(str(kind.value_type))
    views = enumerate(list_views(batch, "tokens"))
    rows = [np.asarray(bodies[i][0], dtype) if i in bodies else view for i, view in views]
    offsets = np.zeros(len(rows) + 1, np.int64)
    np.cumsum([len(r) for r in rows], out=offsets[1:])
    values = np.concatenate(rows)
    child = pa.Array.from_buffers(kind.value_type, len(values), [None, pa.py_buffer(values)])
    made = {"tokens": pa.Array.from_buffers(kind, len(rows), [None, pa.py_buffer(offsets)], children=[child])}
    for name, at in (("error", 1), ("clip_fraction", 2)):
        old = batch.column(name).to_pylist()
        new = [bodies[i][at] if i in bodies else value for i, value in enumerate(old)]
        made[name] = pa.array([None if v is None or v != v else v for v in new], pa.float32())
    columns = [made.get(f.name, column) for f, column in zip(batch.schema, batch.columns)]
    return pa.RecordBatch.from_arrays(columns, schema=batch.schema)


def _joined(lines: list[log.Reencoded]) -> list[log.Reencoded]:
    """The lines with those of one lane made one."""
    lanes: dict[tuple[str, int], list[log.Reencoded]] = {}
    for line in lines:
        lanes.setdefault((line.stream, line.lane), []).append(line)
    return [
        log.Reencoded(
            stream,
            lane,
            merged(s for line in own for s in line.checked),
            merged(s for line in own for s in line.replaced),
            merged(s for line in own for s in line.unchecked),
            sum(line.tokens for line in own),
        )
        for (stream, lane), own in sorted(lanes.items())
    ]
