"""The records that samples were made of: from their tokens, where those prove it, or read from their source again."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate

import pyarrow as pa

from headrace.connectors.contract import Connector, Split
from headrace.ingest.complete import Completer
from headrace.ingest.events import Batch, Nothing
from headrace.ingest.messages import Straight
from headrace.ingest.place import Place, PlanRow, position_key
from headrace.ingest.resolve import ResolvedStream, Runtime
from headrace.ingest.task import Conviction
from headrace.ingest.walk import InFlight, Walk
from headrace.schemas.errors import HeadraceError
from headrace.schemas.record import Modality, content_hashes, list_views, record_schema
from headrace.schemas.sample import BULK
from headrace.shards.entry import Range, ShardInfo
from headrace.tokenizers.contract import Tokenizer

_MOST_IDLE = 20  #: idle ticks of about half a second, after which a live source has no more


def decoded(
    tokenizer: Tokenizer, modality: Modality, samples: pa.RecordBatch
) -> Iterator[tuple[pa.RecordBatch, list[int]]]:
    """Records rebuilt from the tokens of samples, with the numbers of their rows: those that are proven right alone."""
    yield from _decoded(tokenizer, modality, samples, list(range(samples.num_rows)))


def _decoded(
    tokenizer: Tokenizer, modality: Modality, samples: pa.RecordBatch, rows: list[int]
) -> Iterator[tuple[pa.RecordBatch, list[int]]]:
    part = samples.take(pa.array(rows, pa.int64()))
    try:
        draft = tokenizer.decode(list(list_views(part, "tokens")))
        beside = set(part.schema.names) - BULK - {"shape", "dtype"}
        columns = [(part if f.name in beside else draft).column(f.name) for f in record_schema(modality)]
        records = pa.RecordBatch.from_arrays(columns, schema=record_schema(modality))
        hashes = content_hashes(records)
    except MemoryError:
        raise
    except Exception:  # wrong tokens may be such as nothing decodes to: halving finds the rows that do
        if len(rows) > 1:
            half = len(rows) // 2
            yield from _decoded(tokenizer, modality, samples, rows[:half])
            yield from _decoded(tokenizer, modality, samples, rows[half:])
        return
    told = part.column("content_sha256").to_pylist()
    right = [i for i, (a, b) in enumerate(zip(hashes, told)) if a == b]
    if right:
        yield records.take(pa.array(right, pa.int64())), [rows[i] for i in right]


class Originals:
    """Reads records again. A source is gone through once for all that follows in order, and anew where that failed."""

    def __init__(
        self,
        stream: ResolvedStream,
        runtime: Runtime,
        modality: Modality,
        pins: dict[str, str | None],
        convictions: list[Conviction],
        slot: InFlight,
    ) -> None:
        self._stream, self._runtime, self._modality, self._pins = stream, runtime, modality, pins
        self._convictions, self._slot = convictions, slot
        self._connector: Connector | None = None
        self._at: tuple[str, int] | None = None  #: shard and number of the range that `_records` goes through
        self._records: Iterator[pa.RecordBatch] = iter(())
        self._ahead: pa.RecordBatch | None = None  #: what was read and may hold records that are asked for next

    def close(self) -> None:
        """Let go of the source."""
        if self._connector is not None:
            self._connector.close()

    def of(self, shard: ShardInfo, wanted: dict[bytes, int], splits: dict[bytes, str]) -> Iterator[pa.RecordBatch]:
        """Batches of records of the ids that are wanted, as far as there are any. `wanted`: id → row of the shard."""
        if self._stream.spec.windows is not None:
            return  # its records are joined of many messages, of which some came before the shard's ranges
        ends = list(accumulate(r.rows for r in shard.ranges))
        for number, (r, end) in enumerate(zip(shard.ranges, ends)):
            ids = {id_ for id_, row in wanted.items() if end - r.rows <= row < end}
            if ids:
                split = splits[next(iter(ids))]
                yield from self._in_range((shard.path, number), r, split, ids)

    def _in_range(self, at: tuple[str, int], r: Range, split: str, ids: set[bytes]) -> Iterator[pa.RecordBatch]:
        fresh = self._at != at
        while ids:
            if fresh:
                self._at, self._records, self._ahead = at, self._read(r, split), None
            for records in self._going_on():
                found = [i for i, id_ in enumerate(records.column("record_id").to_pylist()) if id_ in ids]
                if found:
                    self._ahead = records
                    taken = records.take(pa.array(found, pa.int64()))
                    ids -= set(taken.column("record_id").to_pylist())
                    yield taken
                    if not ids:
                        return
            self._at = None  # all was read: who asks for more begins anew
            if fresh:
                return
            fresh = True

    def _going_on(self) -> Iterator[pa.RecordBatch]:
        if self._ahead is not None:
            yield self._ahead
        yield from self._records

    def _read(self, r: Range, split_id: str) -> Iterator[pa.RecordBatch]:
        """The records of a range; ends early where its source cannot be read any more."""
        try:
            if self._connector is None:
                self._connector = self._stream.make_connector()
            split = Split(split_id, self._pins.get(r.split), bounded=False if self._stream.live else None)
            source = Straight(self._connector) if self._stream.live else self._connector
            walk = Walk(
                source, self._stream.make_normalizer(), [PlanRow(0, 0, split)], Place(0, 0, r.after, r.after_k),
                self._convictions, self._slot,
            )  # fmt: skip
            pipeline = self._runtime.pipeline
            completer = Completer(self._stream, pipeline.folds, self._connector.describe(), pipeline.grid)
            end, idle = (position_key(r.upto), r.upto_k), 0
            for event in walk:
                idle = idle + 1 if isinstance(event, Nothing) else 0
                if isinstance(event, Batch) and event.modality == self._modality:
                    yield completer.complete(event.draft, event.origins, event.modality)
                if idle > _MOST_IDLE or (position_key(walk.place.position), walk.place.k) == end:
                    return
        except (HeadraceError, OSError):
            return  # the samples are counted as unchecked, which is all that one can do about them here
