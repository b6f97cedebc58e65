"""Encodes a lane: walks it, tokenises what comes, writes shards, and commits at places that data alone decides.

Rows wait in small batches per output so that tokenizers work on many at once; tokens do not depend on how they are
batched. A cut closes all open shards of the lane together, and the manifest it hands over is one part of a log entry.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Protocol

import pyarrow as pa

from headrace.connectors.contract import Connector
from headrace.ingest.artefacts import read_artefact
from headrace.ingest.complete import Completer, make_samples, output_schema
from headrace.ingest.lane_books import SplitBooks
from headrace.ingest.lane_rows import Rows, ready_batches, sliced, suspects
from headrace.ingest.place import Place
from headrace.ingest.resolve import Output, ResolvedStream, Runtime
from headrace.ingest.task import Task
from headrace.ingest.walk import KEEP_BYTES, Batch, GapSeen, InFlight, ItemDone, Origin, Refused, SplitDone, Walk
from headrace.schemas.errors import HeadraceError, NotFitted, RecordError, SchemaMismatch
from headrace.schemas.record import PAYLOAD_COLUMN, Modality
from headrace.shards import entry as log
from headrace.shards.books import Books, StreamCounts
from headrace.shards.quarantine import QuarantineWriter
from headrace.shards.store import Store
from headrace.shards.writer import ShardWriter
from headrace.tokenizers.contract import Encoded, Tokenizer

_BATCH_BYTES = 2 << 20  #: payload after which waiting rows are encoded
_BATCH_ROWS = 4096
_PROGRESS_S = 0.5


class CommitChannel(Protocol):
    """How a lane commits and tells of its progress."""

    def commit(self, manifest: dict[str, Any]) -> None:
        """Returns when the manifest is committed."""

    def progress(self, counters: dict[str, Any]) -> None:
        """Counters since the start of the task."""


@dataclass
class OpenOutput:
    """One output stream of a lane, with the rows that wait and the shard being written."""

    output: Output
    tokenizer: Tokenizer | None
    schema: pa.Schema | None  #: None when its tokenizer was never fitted
    waiting: list[tuple[pa.RecordBatch, Origin]] = field(default_factory=list)
    waiting_bytes: int = 0
    waiting_rows: int = 0
    writer: ShardWriter | None = None
    rows_of_split: dict[str, int] = field(default_factory=dict)  #: split digest → rows in the open shard, in order
    records: int = 0
    samples: int = 0
    tokens: int = 0
    quarantined: int = 0


def open_outputs(task: Task, stream: ResolvedStream, store: Store) -> dict[Modality, OpenOutput]:
    """The outputs of a lane with their tokenizers loaded from the dataset."""
    opened: dict[Modality, OpenOutput] = {}
    for modality, output in stream.outputs.items():
        fingerprint = task.tokenizers.get(modality)
        if output.tokenizer is None:
            opened[modality] = OpenOutput(output, None, output_schema(output, None))
        elif fingerprint:
            tokenizer = output.tokenizer(output.config, read_artefact(store, fingerprint))
            opened[modality] = OpenOutput(output, tokenizer, output_schema(output, tokenizer))
        else:
            opened[modality] = OpenOutput(output, None, None)
    return opened


def encode_lane(
    task: Task, stream: ResolvedStream, runtime: Runtime, store: Store, slot: InFlight, channel: CommitChannel
) -> dict[str, Any]:
    """Encode what is left of a lane, committing through `channel`. Gives back the counters of this run."""
    connector = stream.make_connector()
    try:
        lane = _Lane(task, stream, runtime, store, slot, channel, connector)
        return lane.run()
    finally:
        connector.close()


class _Lane:
    def __init__(
        self,
        task: Task,
        stream: ResolvedStream,
        runtime: Runtime,
        store: Store,
        slot: InFlight,
        channel: CommitChannel,
        connector: Connector,
    ) -> None:
        self._task = task
        self._stream = stream
        self._store = store
        self._slot = slot
        self._channel = channel
        self._outputs = open_outputs(task, stream, store)
        self._convicted = {(c.split, c.after, c.k): c.reason for c in task.convictions if c.stage == "encode"}
        self._walk = Walk(connector, stream.make_normalizer(), task.rows, task.place, task.convictions, slot)
        self._source = connector.describe()
        self._completer = Completer(stream, runtime.pipeline.folds, self._source, runtime.pipeline.grid)
        self._committed = task.place
        self._books = SplitBooks(stream.name, task.rows, task.place)
        self._gaps: list[log.GapInfo] = []
        self._quarantine: dict[str, QuarantineWriter] = {}
        self._payload = self._written = 0
        self._total = {
            "items": 0,
            "records": 0,
            "samples": 0,
            "tokens": 0,
            "quarantined": 0,
            "payload_bytes": 0,
            "bytes": 0,
            "splits": 0,
        }
        self._seconds = {"encode": 0.0, "write": 0.0}
        self._told = self._began = time.perf_counter()

    def run(self) -> dict[str, Any]:
        shards = self._stream.spec.shards
        for event in self._walk:
            if isinstance(event, Batch):
                self._take(event)
            elif isinstance(event, Refused):
                self._refuse(event)
            elif isinstance(event, ItemDone):
                self._item_done(event)
            elif isinstance(event, GapSeen):
                digest = log.split_digest(event.row.split.id)
                self._gaps.append(
                    log.GapInfo(self._stream.name, digest, event.gap.position, event.gap.reason, event.gap.lost)
                )
                self._books.line(event.row.split.id)
            elif isinstance(event, SplitDone):
                self._total["splits"] += 1
            if not isinstance(event, SplitDone):
                row = event.origin.row if isinstance(event, Batch) else event.row
                self._books.reach(row.split.id, self._walk.place)
            self._tell()
            if isinstance(event, Refused) and event.whole_item and event.stage != "read":
                continue  # its item is done with the next event: the two belong into one commit
            if self._payload >= shards.payload_mib * (1 << 20) or self._written >= shards.target_mib * (1 << 20):
                self._cut(self._walk.place)
        self._cut(self._task.end)
        self._tell(force=True)
        return self.counters()

    # -- taking outputs -----------------------------------------------------------------------------------------------

    def _take(self, event: Batch) -> None:
        out = self._outputs[event.modality]
        column = event.draft.column(PAYLOAD_COLUMN[event.modality])
        size = column.nbytes
        self._payload += size
        self._total["payload_bytes"] += size
        self._total["records"] += event.draft.num_rows
        out.records += event.draft.num_rows
        record = self._completer.complete(event.draft, event.modality, event.origin.item, event.origin.row.split)
        out.waiting.append((record, event.origin))
        out.waiting_bytes += size
        out.waiting_rows += record.num_rows
        if out.waiting_bytes >= _BATCH_BYTES or out.waiting_rows >= _BATCH_ROWS:
            self._encode(out)

    def _encode(self, out: OpenOutput) -> None:
        waiting, out.waiting, out.waiting_bytes, out.waiting_rows = out.waiting, [], 0, 0
        for records, origins in ready_batches(waiting, self._convicted):
            if isinstance(records, str):
                batch, origin, k = origins[0]
                self._refuse_row(
                    out, batch, origin, k, records, f"encoding {records.partition(':')[0]}: convicted when tried alone"
                )
                continue
            if out.schema is None:
                error = NotFitted(
                    f"no {out.output.modality} record was in the fit set: {out.output.name} has no tokenizer"
                )
                for batch, origin, k in origins:
                    for i in range(batch.num_rows):
                        self._refuse_row(out, batch.slice(i, 1), origin, k + i, "not_fitted", str(error))
                continue
            self._encode_rows(out, records, origins)

    def _encode_rows(self, out: OpenOutput, records: pa.RecordBatch, origins: Rows) -> None:
        """Encode a batch; on an error halve it until the row at fault stands alone."""
        started = time.perf_counter()
        self._slot.enter("encode", suspects(origins))
        encoded: Encoded | None = None
        failure: tuple[str, str] | None = None
        try:
            if out.tokenizer is not None:
                encoded = out.tokenizer.encode(records)
        except MemoryError:
            self._slot.out_of_memory()
            raise
        except SchemaMismatch as exc:
            failure = ("schema_mismatch", str(exc))
        except RecordError as exc:
            failure = (exc.reason, exc.message)
        except HeadraceError as exc:
            failure = ("encode_failed", str(exc))
        except Exception as exc:
            failure = ("encode_failed", f"{type(exc).__name__}: {exc}")
        self._slot.leave()
        self._seconds["encode"] += time.perf_counter() - started
        if failure is None:
            self._write(out, records, encoded, origins)
        elif records.num_rows == 1:
            batch, origin, k = origins[0]
            self._refuse_row(out, batch, origin, k, *failure)
        else:
            half = records.num_rows // 2
            for begin, size in ((0, half), (half, records.num_rows - half)):
                self._encode_rows(out, records.slice(begin, size), sliced(origins, begin, size))

    def _write(
        self,
        out: OpenOutput,
        records: pa.RecordBatch,
        encoded: Encoded | None,
        origins: Rows,
    ) -> None:
        started = time.perf_counter()
        if out.schema is None:
            raise ValueError(f"{out.output.name} has no schema to write")
        samples = make_samples(records, encoded, out.schema)
        if out.writer is None:
            shards = self._stream.spec.shards
            out.writer = ShardWriter(
                self._store, out.output.name, self._task.lane, self._task.epoch, out.schema,
                target_block_bytes=int(shards.block_mib * (1 << 20)),
            )  # fmt: skip
        before = out.writer.data_bytes
        out.writer.append(samples)
        size = out.writer.data_bytes - before
        for batch, origin, _ in origins:
            digest = log.split_digest(origin.row.split.id)
            out.rows_of_split[digest] = out.rows_of_split.get(digest, 0) + batch.num_rows
        tokens = len(encoded.values) if encoded is not None else 0
        out.samples += samples.num_rows
        out.tokens += tokens
        self._total["samples"] += samples.num_rows
        self._total["tokens"] += tokens
        self._written += size
        self._total["bytes"] += size
        self._seconds["write"] += time.perf_counter() - started

    # -- refusing -----------------------------------------------------------------------------------------------------

    def _refuse_row(
        self, out: OpenOutput, row: pa.RecordBatch, origin: Origin, k: int, reason: str, message: str
    ) -> None:
        out.quarantined += 1
        self._total["quarantined"] += 1
        payload = row.column(PAYLOAD_COLUMN[out.output.modality])[0]
        data = (
            payload.as_py().encode()
            if out.output.modality == "text"
            else payload.as_buffer().to_pybytes()
            if hasattr(payload, "as_buffer")
            else None
        )
        self._quarantine_writer(out.output.name).add(
            reason=reason,
            message=message,
            stage="encode",
            source=self._source,
            uri=row.column("uri")[0].as_py(),
            split=origin.row.split.id,
            position=origin.item.position,
            locator=row.column("locator")[0].as_py(),
            license=row.column("license")[0].as_py(),
            raw=data if data is not None and len(data) <= KEEP_BYTES else None,
        )

    def _refuse(self, event: Refused) -> None:
        self._total["quarantined"] += 1
        line = self._books.line(event.row.split.id)
        if event.whole_item and event.stage == "read":
            line.read += 1
            line.quarantined += 1
        elif not event.whole_item:
            primary = self._outputs[self._stream.normalizer.modality]
            primary.records += 1
            primary.quarantined += 1
        self._quarantine_writer(self._stream.name).add(
            reason=event.reason,
            message=event.message,
            stage=event.stage,
            source=self._source,
            uri=event.object_id,
            split=event.row.split.id,
            position=event.position,
            whole=event.whole_item,
            locator=event.locator,
            license=self._stream.license,
            raw=event.data,
        )

    def _item_done(self, event: ItemDone) -> None:
        line = self._books.line(event.row.split.id)
        line.read += 1
        self._total["items"] += 1
        if event.whole:
            line.quarantined += 1
        else:
            line.closed += 1

    def _quarantine_writer(self, name: str) -> QuarantineWriter:
        if name not in self._quarantine:
            self._quarantine[name] = QuarantineWriter(self._store, name, self._task.epoch)
        return self._quarantine[name]

    # -- books and cuts -----------------------------------------------------------------------------------------------

    def _cut(self, place: Place) -> None:
        """Close everything that is open and commit it; returns when it is durable."""
        for out in self._outputs.values():
            self._encode(out)
        if place == self._committed:
            return
        started = time.perf_counter()
        added, streams = [], {}
        for out in self._outputs.values():
            if out.writer is not None:
                ranges = [
                    log.Range(digest, line.after, line.after_k, line.upto, line.upto_k, out.rows_of_split[digest])
                    for digest, line in self._books.lines.items()
                    if digest in out.rows_of_split
                ]
                added.append(out.writer.close(ranges))
                out.writer, out.rows_of_split = None, {}
            if out.records:
                streams[out.output.name] = StreamCounts(out.records, out.samples, out.quarantined, tokens=out.tokens)
            out.records = out.samples = out.quarantined = out.tokens = 0
        quarantine = [writer.close() for _, writer in sorted(self._quarantine.items())]
        self._quarantine = {}
        manifest = log.Entry(
            kind="commit",
            add=added,
            quarantine=quarantine,
            places=[
                log.PlaceMove(
                    self._stream.name,
                    self._task.lane,
                    _log_place(place),
                    None if self._committed == Place() else _log_place(self._committed),
                )
            ],
            gaps=self._gaps,
            books=Books(list(self._books.counts()), streams),
        )
        self._seconds["write"] += time.perf_counter() - started
        self._channel.commit(manifest.to_json())
        self._committed = place
        self._books.restart(place)
        self._gaps = []
        self._payload = self._written = 0

    # -- progress -----------------------------------------------------------------------------------------------------

    def counters(self) -> dict[str, Any]:
        """What this run did so far."""
        elapsed = time.perf_counter() - self._began
        return {**self._total, "seconds": {**self._walk.seconds, **self._seconds, "total": elapsed}}

    def _tell(self, force: bool = False) -> None:
        now = time.perf_counter()
        if force or now - self._told >= _PROGRESS_S:
            self._told = now
            self._channel.progress(self.counters())


def _log_place(place: Place) -> log.Place:
    return log.Place(place.segment, place.row, place.position, place.k)
