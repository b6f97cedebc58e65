"""What a lane has made since its last cut: shards being written, refused records, books.

Rows wait in small batches per output so that tokenizers work on many at once; tokens do not depend on how they are
batched. A cut closes all open shards of the lane together. Bounded and live lanes differ in where events come from and
in what a place is; what becomes of the events is the same, and is here.
"""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from headrace.ingest.artefacts import read_artefact
from headrace.ingest.complete import Completer, make_samples, output_schema
from headrace.ingest.encoding import encode
from headrace.ingest.events import Batch, Duplicate, GapSeen, ItemDone, Refused
from headrace.ingest.lane_books import SplitBooks
from headrace.ingest.lane_rows import Drafts, joined, ready_batches, suspects
from headrace.ingest.origin import Origin, sliced
from headrace.ingest.place import PlanRow
from headrace.ingest.resolve import Output, ResolvedStream, Runtime
from headrace.ingest.task import Conviction
from headrace.ingest.walk import KEEP_BYTES, InFlight
from headrace.schemas.errors import NotFitted
from headrace.schemas.record import PAYLOAD_COLUMN, Modality
from headrace.shards import entry as log
from headrace.shards.books import Books, StreamCounts
from headrace.shards.engines import REFERENCE, lane_name
from headrace.shards.quarantine import QuarantineWriter
from headrace.shards.store import Store
from headrace.shards.writer import ShardWriter
from headrace.tokenizers.contract import Encoded, Tokenizer
from headrace.tokenizers.engine_text import EngineTokenizer

_BATCH_BYTES = 2 << 20  #: payload after which waiting rows are encoded
_BATCH_ROWS = 4096
_BATCH_NAMES = 128 << 10  #: bytes of positions: the slot names every item of a batch
_MOST_KEPT = 4
#: Text tokenizers of this process by thread, dataset, fingerprint and settings.
_kept: dict[tuple[int, str, str, str], EngineTokenizer] = {}


@dataclass
class Run:
    """Consecutive rows of a shard that came from one split, and the place before the first of them."""

    split: str  #: digest
    after: str  #: canonical JSON
    after_k: int
    rows: int


@dataclass
class OpenOutput:
    """One output stream of a lane, with the rows that wait and the shard being written."""

    output: Output
    tokenizer: Tokenizer | None
    schema: pa.Schema | None  #: None when its tokenizer was never fitted
    waiting: Drafts = field(default_factory=list)
    waiting_bytes: int = 0
    waiting_rows: int = 0
    waiting_names: int = 0
    writer: ShardWriter | None = None
    runs: list[Run] = field(default_factory=list)  #: of the open shard, in row order
    records: int = 0
    samples: int = 0
    tokens: int = 0
    quarantined: int = 0
    duplicates: int = 0
    engine: str = REFERENCE  #: that made samples of the open shard, where it was not the reference library


def open_outputs(
    tokenizers: dict[str, str], stream: ResolvedStream, store: Store, retired: Sequence[Sequence[str]] = ()
) -> dict[Modality, OpenOutput]:
    """The outputs of a lane with their tokenizers (modality → fingerprint) loaded from the dataset.

    `retired` are the (fingerprint, engine) that the log has retired: their tokenizers encode with the reference.
    """
    opened: dict[Modality, OpenOutput] = {}
    for modality, output in stream.outputs.items():
        fingerprint = tokenizers.get(modality)
        if output.tokenizer is None:
            opened[modality] = OpenOutput(output, None, output_schema(output, None))
        elif fingerprint:
            tokenizer = _tokenizer(output, fingerprint, store)
            if [fingerprint, tokenizer.engine] in [list(pair) for pair in retired]:
                tokenizer.retire_engine()
            opened[modality] = OpenOutput(output, tokenizer, output_schema(output, tokenizer))
        else:
            opened[modality] = OpenOutput(output, None, None)
    return opened


def _tokenizer(output: Output, fingerprint: str, store: Store) -> Tokenizer:
    """A tokenizer of the dataset; text tokenizers are kept, since the next lane will ask for the words of this one.

    Nothing but time depends on what they remember. They are not for several threads, so each thread has its own.
    """
    key = threading.get_ident(), store.url, fingerprint, output.config.model_dump_json()
    kept = _kept.get(key)
    if kept is None:
        assert output.tokenizer is not None
        made = output.tokenizer(output.config, read_artefact(store, fingerprint))
        if not isinstance(made, EngineTokenizer):
            return made
        kept = _kept[key] = made
        while len(_kept) > _MOST_KEPT:
            del _kept[next(iter(_kept))]
    return kept


@dataclass
class Cut:
    """The parts of a log entry that a cut closed; the lane adds its places."""

    add: list[log.ShardInfo]
    quarantine: list[log.QuarantineInfo]
    gaps: list[log.GapInfo]
    books: Books
    ext: dict[str, Any] = field(default_factory=dict)  #: which fast engines made what is added


class LaneOutput:
    """Takes the events of a lane's walk, and closes what they made when the lane cuts."""

    def __init__(
        self,
        stream: ResolvedStream,
        runtime: Runtime,
        store: Store,
        slot: InFlight,
        *,
        lane: int,
        epoch: int,
        tokenizers: dict[str, str],
        convictions: list[Conviction],
        books: SplitBooks,
        source: str,
        retired: Sequence[Sequence[str]] = (),
    ) -> None:
        self._stream = stream
        self._store = store
        self._slot = slot
        self._lane = lane
        self._epoch = epoch
        self._outputs = open_outputs(tokenizers, stream, store, retired)
        self._convicted = {(c.split, c.after, c.k): c.reason for c in convictions if c.stage == "encode"}
        self._source = source
        self._completer = Completer(stream, runtime.pipeline.folds, source, runtime.pipeline.grid)
        self._books = books
        #: Records of one kind only have no parents among each other, so many items can be completed at once.
        self._together = not stream.normalizer.derived
        self._gaps: list[log.GapInfo] = []
        self._quarantine: dict[str, QuarantineWriter] = {}
        self.payload = self.written = 0  #: bytes since the last cut: what may decide the next one
        self.total = dict.fromkeys(
            ("items", "records", "samples", "tokens", "quarantined", "duplicates", "payload_bytes", "bytes", "splits"),
            0,
        )
        #: `behind` is the part of `write` that ran beside this thread (see meter.py).
        self.seconds = {"encode": 0.0, "write": 0.0, "behind": 0.0}

    # -- taking outputs -----------------------------------------------------------------------------------------------

    def take(self, event: Batch) -> None:
        """Records to be encoded; the items of all but the last end with it."""
        out = self._outputs[event.modality]
        draft, origins = event.draft, event.origins
        size, rows = draft.column(PAYLOAD_COLUMN[event.modality]).nbytes, draft.num_rows
        self.payload += size
        self.total["payload_bytes"] += size
        self.total["records"] += rows
        out.records += rows
        if not self._together:
            draft = self._completer.complete(draft, origins, event.modality)
        out.waiting.append((draft, origins))
        out.waiting_bytes += size
        out.waiting_rows += rows
        out.waiting_names += sum(len(origin.after) for origin in origins)
        if (
            out.waiting_bytes >= _BATCH_BYTES
            or out.waiting_rows >= _BATCH_ROWS
            or out.waiting_names >= _BATCH_NAMES
        ):
            self._encode(out)

    def _encode(self, out: OpenOutput) -> None:
        waiting, out.waiting, out.waiting_bytes, out.waiting_rows, out.waiting_names = out.waiting, [], 0, 0, 0
        if not waiting:
            return
        batch, all_origins = joined(waiting)
        if self._together:
            batch = self._completer.complete(batch, all_origins, out.output.modality)
        for records, origins, reason in ready_batches(batch, all_origins, self._convicted):
            if reason is not None:
                message = f"encoding {reason.partition(':')[0]}: convicted when tried alone"
                self._refuse_rows(out, records, origins, reason, message)
            elif out.schema is None:
                error = NotFitted(
                    f"no {out.output.modality} record was in the fit set: {out.output.name} has no tokenizer"
                )
                self._refuse_rows(out, records, origins, "not_fitted", str(error))
            else:
                self._encode_rows(out, records, origins)

    def _encode_rows(self, out: OpenOutput, records: pa.RecordBatch, origins: list[Origin]) -> None:
        """Encode a batch; on an error halve it until the row at fault stands alone."""
        named = suspects(origins)
        started = time.perf_counter()
        encoded, failure = encode(out.tokenizer, records, self._slot, named, out.output.name)
        self.seconds["encode"] += time.perf_counter() - started
        if failure is None:
            self._write(out, records, encoded, origins)
        elif records.num_rows == 1:
            self._refuse_rows(out, records, origins, *failure)
        else:
            half = records.num_rows // 2
            for begin, size in ((0, half), (half, records.num_rows - half)):
                self._encode_rows(out, records.slice(begin, size), sliced(origins, begin, size))

    def _write(
        self,
        out: OpenOutput,
        records: pa.RecordBatch,
        encoded: Encoded | None,
        origins: list[Origin],
    ) -> None:
        if out.schema is None:
            raise ValueError(f"{out.output.name} has no schema to write")
        samples = make_samples(records, encoded, out.schema)
        started = time.perf_counter()
        if out.writer is None:
            shards = self._stream.spec.shards
            out.writer = ShardWriter(
                self._store, out.output.name, self._lane, self._epoch, out.schema,
                target_block_bytes=int(shards.block_mib * (1 << 20)),
            )  # fmt: skip
        before = out.writer.data_bytes
        out.writer.append(samples)
        size = out.writer.data_bytes - before
        self.seconds["write"] += time.perf_counter() - started
        for _, of_split in itertools.groupby(origins, lambda origin: origin.row.split.id):
            first, *others = of_split
            digest, rows = log.split_digest(first.row.split.id), first.rows + sum(other.rows for other in others)
            if out.runs and out.runs[-1].split == digest:
                out.runs[-1].rows += rows
            else:
                out.runs.append(Run(digest, first.after, first.k, rows))
        tokens = len(encoded.values) if encoded is not None else 0
        if out.tokenizer is not None and out.tokenizer.engine != REFERENCE:
            out.engine = out.tokenizer.engine
        out.samples += samples.num_rows
        out.tokens += tokens
        self.total["samples"] += samples.num_rows
        self.total["tokens"] += tokens
        self.written += size
        self.total["bytes"] += size

    # -- refusing -----------------------------------------------------------------------------------------------------

    def _refuse_rows(
        self, out: OpenOutput, records: pa.RecordBatch, origins: list[Origin], reason: str, message: str
    ) -> None:
        of_rows = (origin for origin in origins for _ in range(origin.rows))
        for i, origin in enumerate(of_rows):
            out.quarantined += 1
            self.total["quarantined"] += 1
            payload = records.column(PAYLOAD_COLUMN[out.output.modality])[i]
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
                uri=records.column("uri")[i].as_py(),
                split=origin.row.split.id,
                position=origin.item.position,
                locator=records.column("locator")[i].as_py(),
                license=records.column("license")[i].as_py(),
                raw=data if data is not None and len(data) <= KEEP_BYTES else None,
            )

    def refuse(self, event: Refused) -> None:
        """One record, or a whole item, for quarantine."""
        self.total["quarantined"] += 1
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

    def item_done(self, event: ItemDone, *, still_open: bool = False) -> None:
        """An item was taken to its end; `still_open` if some of it waits for others."""
        if event.whole:
            self._books.line(event.row.split.id).quarantined += 1
        self.items_done(event.row, 1, closed=0 if event.whole or still_open else 1)

    def items_done(self, row: PlanRow, count: int, *, closed: int) -> None:
        """Items were taken to their end; what gave records and is not closed waits for others."""
        line = self._books.line(row.split.id)
        line.read += count
        line.closed += closed
        self.total["items"] += count

    def duplicate(self, event: Duplicate) -> None:
        """An item that came before."""
        line = self._books.line(event.row.split.id)
        line.read += 1
        line.closed += 1
        self.total["items"] += 1
        self.total["duplicates"] += 1
        primary = self._outputs[self._stream.normalizer.modality]
        primary.records += 1
        primary.duplicates += 1

    def gap(self, event: GapSeen) -> None:
        """Data that the source says is missing."""
        digest = log.split_digest(event.row.split.id)
        self._gaps.append(log.GapInfo(self._stream.name, digest, event.gap.position, event.gap.reason, event.gap.lost))
        self._books.line(event.row.split.id)

    def _quarantine_writer(self, name: str) -> QuarantineWriter:
        if name not in self._quarantine:
            self._quarantine[name] = QuarantineWriter(self._store, name, self._epoch)
        return self._quarantine[name]

    # -- closing ------------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Encode what waits."""
        for out in self._outputs.values():
            self._encode(out)

    def close(self) -> Cut:
        """Close all open shards and quarantine files; call `flush` first."""
        started = time.perf_counter()
        added, streams = [], {}
        engines: dict[str, str] = {}
        for out in self._outputs.values():
            if out.writer is not None:
                if out.engine != REFERENCE:
                    engines[lane_name(out.output.name, self._lane)], out.engine = out.engine, REFERENCE
                added.append(out.writer.close(self._ranges(out.runs)))
                for name in ("write", "behind"):
                    self.seconds[name] += out.writer.seconds_behind
                out.writer, out.runs = None, []
            if out.records:
                streams[out.output.name] = StreamCounts(
                    out.records, out.samples, out.quarantined, duplicates=out.duplicates, tokens=out.tokens
                )
            out.records = out.samples = out.quarantined = out.tokens = out.duplicates = 0
        quarantine = [writer.close() for _, writer in sorted(self._quarantine.items())]
        self._quarantine = {}
        gaps, self._gaps = self._gaps, []
        self.payload = self.written = 0
        self.seconds["write"] += time.perf_counter() - started
        books = Books(list(self._books.counts()), streams)
        return Cut(added, quarantine, gaps, books, {log.ENGINES: engines} if engines else {})

    def abort(self) -> None:
        """Leave nothing of what was not closed."""
        for out in self._outputs.values():
            if out.writer is not None:
                out.writer.abort()

    def _ranges(self, runs: list[Run]) -> list[log.Range]:
        """Runs as the log keeps them: those of one split join without a hole from its line's begin to its end."""
        ranges: list[log.Range] = []
        begins = {digest: (line.after, line.after_k) for digest, line in self._books.lines.items()}
        last = {run.split: i for i, run in enumerate(runs)}
        following: dict[int, Run] = {}
        seen: dict[str, int] = {}
        for i, run in enumerate(runs):
            if run.split in seen:
                following[seen[run.split]] = run
            seen[run.split] = i
        for i, run in enumerate(runs):
            after, after_k = begins[run.split]
            if i == last[run.split]:
                line = self._books.lines[run.split]
                upto, upto_k = line.upto, line.upto_k
            else:
                upto, upto_k = json.loads(following[i].after), following[i].after_k
            begins[run.split] = (upto, upto_k)
            ranges.append(log.Range(run.split, after, after_k, upto, upto_k, run.rows))
        return ranges
