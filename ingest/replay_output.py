"""What a replay makes: records encoded and written to lane 0 of their streams, and the entry that adds them with marks.

Rows are encoded item by item, since what became of an item decides which of its quarantined rows are done with. One
entry holds whole items only. In a dry run everything is done but the writing.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from headrace.ingest.complete import make_samples
from headrace.ingest.encoding import encode
from headrace.ingest.lane_output import OpenOutput
from headrace.ingest.origin import Origin
from headrace.ingest.replay_claims import Refusal
from headrace.ingest.replay_rows import Row
from headrace.ingest.resolve import ResolvedStream
from headrace.ingest.walk import KEEP_BYTES, InFlight
from headrace.schemas.record import PAYLOAD_COLUMN, Modality
from headrace.shards import entry as log
from headrace.shards.books import Books, StreamCounts
from headrace.shards.engines import REFERENCE, lane_name
from headrace.shards.quarantine import QuarantineWriter
from headrace.shards.spans import of_numbers
from headrace.shards.store import Store
from headrace.shards.writer import ShardWriter

#: Where replayed samples go: every stream has this lane. Their sequence numbers are given at commit, as all are.
LANE = 0


@dataclass(frozen=True)
class Wanted:
    """One record to encode, the row that claims it, and how the in-flight slot names it."""

    record: pa.RecordBatch  #: one row
    owner: Row
    k: int


@dataclass
class _Open:
    """One output stream since the last entry."""

    writer: ShardWriter | None = None
    ranges: list[log.Range] = field(default_factory=list)
    closed: list[log.ShardInfo] = field(default_factory=list)
    samples: int = 0
    tokens: int = 0
    quarantined: int = 0
    engine: str = REFERENCE


class ReplayOutput:
    """Encodes and writes; `cut` gives the entry of all that was written since the last one."""

    def __init__(
        self,
        stream: ResolvedStream,
        outputs: dict[Modality, OpenOutput],
        store: Store,
        slot: InFlight,
        *,
        epoch: int,
        source: str,
        dry: bool,
    ) -> None:
        self._stream, self._outputs, self._store, self._slot = stream, outputs, store, slot
        self._epoch, self._source, self._dry = epoch, source, dry
        self._open = {output.output.name: _Open() for output in outputs.values()}
        self._quarantine: dict[str, QuarantineWriter] = {}
        self._marks: dict[str, list[int]] = {}
        self.written = 0  #: bytes since the last entry
        self.seconds = 0.0

    # -- encoding -----------------------------------------------------------------------------------------------------

    def encode(
        self, modality: Modality, wanted: list[Wanted], origin: Origin, split: str, position: Any
    ) -> list[tuple[Wanted, str, str]]:
        """Encode and write records of one item; gives back those that could not be, with reason and message."""
        out = self._outputs[modality]
        if out.schema is None:
            words = f"no {modality} record was in the fit set: {out.output.name} has no tokenizer"
            return [(one, "not_fitted", words) for one in wanted]
        batch = wanted[0].record if len(wanted) == 1 else pa.concat_batches([one.record for one in wanted])
        began = time.perf_counter()
        encoded, failure = encode(out.tokenizer, batch, self._slot, [origin.suspect(wanted[0].k)], out.output.name)
        self.seconds += time.perf_counter() - began
        if failure is not None:
            if len(wanted) == 1:
                return [(wanted[0], *failure)]
            half = len(wanted) // 2
            first = self.encode(modality, wanted[:half], origin, split, position)
            return first + self.encode(modality, wanted[half:], origin, split, position)
        self._write(out, make_samples(batch, encoded, out.schema), split, position)
        opened = self._open[out.output.name]
        opened.samples += batch.num_rows
        opened.tokens += len(encoded.values) if encoded is not None else 0
        if out.tokenizer is not None and out.tokenizer.engine != REFERENCE:
            opened.engine = out.tokenizer.engine
        return []

    def _write(self, out: OpenOutput, samples: pa.RecordBatch, split: str, position: Any) -> None:
        opened, shards = self._open[out.output.name], self._stream.spec.shards
        if self._dry:
            return
        if opened.writer is None:
            opened.writer = ShardWriter(
                self._store, out.output.name, LANE, self._epoch, samples.schema,
                target_block_bytes=int(shards.block_mib * (1 << 20)),
            )  # fmt: skip
        before = opened.writer.data_bytes
        opened.writer.append(samples)
        self.written += opened.writer.data_bytes - before
        digest = log.split_digest(split)
        last = opened.ranges[-1] if opened.ranges else None
        if last is not None and (last.split, last.upto) == (digest, position):
            opened.ranges[-1] = log.Range(digest, None, 0, position, 0, last.rows + samples.num_rows)
        else:
            # The place before the item is not known: the rows came from somewhere up to its position.
            opened.ranges.append(log.Range(digest, None, 0, position, 0, samples.num_rows))
        if opened.writer.data_bytes >= shards.target_mib * (1 << 20):
            self._close_shard(opened)

    def _close_shard(self, opened: _Open) -> None:
        if opened.writer is not None:
            opened.closed.append(opened.writer.close(opened.ranges))
            opened.writer, opened.ranges = None, []

    # -- refusing and marking -----------------------------------------------------------------------------------------

    def refuse(self, refusal: Refusal, split: str) -> None:
        """A record for quarantine, in place of a row that is marked."""
        self._open[refusal.stream].quarantined += 1
        if self._dry:
            return
        if refusal.stream not in self._quarantine:
            self._quarantine[refusal.stream] = QuarantineWriter(self._store, refusal.stream, self._epoch)
        self._quarantine[refusal.stream].add(
            reason=refusal.reason,
            message=refusal.message,
            stage=refusal.stage,
            source=self._source,
            uri=refusal.uri,
            split=split,
            position=refusal.position,
            locator=refusal.locator,
            license=refusal.license,
            raw=refusal.data,
        )

    def mark(self, row: Row) -> None:
        """A row is done with."""
        self._marks.setdefault(row.file, []).append(row.number)

    def payload(self, modality: Modality, record: pa.RecordBatch) -> bytes | None:
        """The payload of a record that cannot be encoded, where it is small enough to keep."""
        value = record.column(PAYLOAD_COLUMN[modality])[0]
        if modality == "text":
            data: bytes | None = value.as_py().encode()
        else:
            data = value.as_buffer().to_pybytes() if hasattr(value, "as_buffer") else None
        return data if data is not None and len(data) <= KEEP_BYTES else None

    # -- closing ------------------------------------------------------------------------------------------------------

    def counts(self) -> dict[str, StreamCounts]:
        """What came since the last entry, by stream. A record that is tried again is counted again."""
        return {
            name: StreamCounts(o.samples + o.quarantined, o.samples, o.quarantined, tokens=o.tokens)
            for name, o in self._open.items()
            if o.samples or o.quarantined
        }

    def cut(self) -> log.Entry | None:
        """Close everything: what becomes true together. None if no row was marked."""
        counts = self.counts()
        marks, self._marks = self._marks, {}
        added = []
        for opened in self._open.values():
            if not self._dry:
                self._close_shard(opened)
            added += opened.closed
        quarantine = [writer.close() for _, writer in sorted(self._quarantine.items())]
        engines = {lane_name(n, LANE): o.engine for n, o in self._open.items() if o.engine != REFERENCE}
        self._open = {name: _Open() for name in self._open}
        self._quarantine, self.written = {}, 0
        if not marks:
            return None
        return log.Entry(
            kind="commit",
            add=added,
            quarantine=quarantine,
            replayed=[log.Replayed(path, of_numbers(rows)) for path, rows in sorted(marks.items())],
            books=Books([], counts),
            ext={log.ENGINES: engines} if engines else {},
        )

    def abort(self) -> None:
        """Leave nothing of what was not cut."""
        for opened in self._open.values():
            if opened.writer is not None:
                opened.writer.abort()
        for writer in self._quarantine.values():
            writer.abort()
