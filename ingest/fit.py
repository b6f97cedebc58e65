"""Collects fit sets and fits tokenizers to them.

The fit set of an output is the bottom records by sha256-based record id among the bottom splits by sha256 of split id,
within a byte budget: a function of the input, whatever the order, workers or number of tasks. It is collected by
several tasks, each keeping its own bottom; the union of bottoms holds the bottom of the union.
"""

from __future__ import annotations

import io
import secrets
from typing import Any

import pyarrow as pa

from headrace.ingest.artefacts import write_artefact
from headrace.ingest.complete import Completer
from headrace.ingest.events import Batch, Refused
from headrace.ingest.frozen import Frozen
from headrace.ingest.lane import CommitChannel
from headrace.ingest.resolve import Output, ResolvedStream, Runtime, resolve
from headrace.ingest.task import Task
from headrace.ingest.walk import InFlight, Walk
from headrace.schemas.canonical import hash_parts
from headrace.schemas.errors import NotFitted, ShardError
from headrace.schemas.record import PAYLOAD_COLUMN, Modality
from headrace.shards.store import Store
from headrace.tokenizers.contract import FitBudget


def budget_of(output: Output) -> FitBudget:
    """The tokenizer's own budget with the pipeline's words on top."""
    own = output.tokenizer.fit_budget if output.tokenizer else FitBudget()
    return FitBudget(output.fit.records or own.records, output.fit.splits or own.splits, own.max_bytes)


class FitSet:
    """Keeps the rows with the lowest record ids whose payload fits the budget.

    The rule is a prefix rule: sorted by record id, rows are kept up to the first that would exceed a limit. So a row
    once dropped stays dropped, and the result does not depend on the order of arrival.
    """

    def __init__(self, modality: Modality, budget: FitBudget) -> None:
        self._column = PAYLOAD_COLUMN[modality]
        self._budget = budget
        self._rows: list[tuple[bytes, int, pa.RecordBatch]] = []
        self._bytes = 0
        self._threshold: bytes | None = None

    def add(self, batch: pa.RecordBatch) -> None:
        """Offer every row of a record batch."""
        ids = batch.column("record_id").to_pylist()
        for i, id_ in enumerate(ids):
            if self._threshold is None or id_ < self._threshold:
                row = batch if batch.num_rows == 1 else batch.take(pa.array([i]))
                size = row.column(self._column).nbytes
                self._rows.append((id_, size, row))
                self._bytes += size
        if len(self._rows) > 2 * self._budget.records or self._bytes > 1.25 * self._budget.max_bytes:
            self._shrink()

    def _shrink(self) -> None:
        self._rows.sort(key=lambda row: row[0])
        unique = [row for i, row in enumerate(self._rows) if i == 0 or row[0] != self._rows[i - 1][0]]
        total, keep = 0, len(unique)
        for i, (_, size, _) in enumerate(unique):
            total += size
            if i >= self._budget.records or (total > self._budget.max_bytes and i > 0):
                keep = i
                break
        if keep < len(unique):
            self._threshold = unique[keep][0]
        self._rows = unique[:keep]
        self._bytes = sum(size for _, size, _ in self._rows)

    def batches(self) -> list[pa.RecordBatch]:
        """The kept rows as batches of one row, by record id."""
        self._shrink()
        return [row for _, _, row in self._rows]


def collect(
    task: Task, stream: ResolvedStream, runtime: Runtime, store: Store, slot: InFlight, channel: CommitChannel
) -> dict[str, Any]:
    """Store the fit set of every fitted output that the task's splits hold. Gives back {"sets": {modality: name}}."""
    connector = stream.make_connector()
    completer = Completer(stream, runtime.pipeline.folds, connector.describe(), runtime.pipeline.grid)
    sets = {m: FitSet(m, budget_of(o)) for m, o in stream.outputs.items() if o.fit_group}
    source = Frozen(connector, task.ends) if stream.live else connector
    walk = Walk(source, stream.make_normalizer(), task.rows, task.place, task.convictions, slot)
    records = refused = 0
    for event in walk:
        if isinstance(event, Batch):
            records += event.draft.num_rows
            if event.modality in sets:
                sets[event.modality].add(completer.complete(event.draft, event.origins, event.modality))
        elif isinstance(event, Refused):
            refused += 1
    connector.close()
    named = {}
    for modality, kept in sets.items():
        batches = kept.batches()
        if batches:
            named[modality] = _write_set(store, task.epoch, batches)
    return {"sets": named, "records": records, "refused": refused}


def fit(task: Task, runtime: Runtime, store: Store) -> dict[str, Any]:
    """Fit the tokenizer of a group to its merged sets and store its artefact. Raises: NotFitted without a record."""
    outputs = [
        o
        for s in resolve(runtime.pipeline, runtime.base).values()
        for o in s.outputs.values()
        if o.fit_group == task.fit_group
    ]
    output = outputs[0]
    if output.tokenizer is None:
        raise NotFitted(f"{output.name} has no tokenizer to fit")
    merged = FitSet(output.modality, budget_of(output))
    for name in sorted(task.fit_sets):
        for batch in _read_set(store, name):
            merged.add(batch)
    batches = merged.batches()
    if not batches:
        raise NotFitted(f"the fit set of {output.name} is empty")
    artefact = output.tokenizer.fit(output.config, batches, runtime.pipeline.seed)
    ids = [batch.column("record_id")[0].as_py() for batch in batches]
    artefact.card.update(
        records=len(ids), record_ids_sha256=hash_parts(ids).hex(), outputs=sorted(o.name for o in outputs)
    )
    info = write_artefact(store, artefact)
    return {
        "fingerprint": info.fingerprint,
        "tokenizer": info.to_json(),
        "outputs": [o.name for o in outputs],
        "card": artefact.card,
    }


def _write_set(store: Store, epoch: int, batches: list[pa.RecordBatch]) -> str:
    """Batch after batch: as one more copy in memory a set could break the limit of its process."""
    name = f"fit/e{epoch}-{secrets.token_hex(8)}.arrow"
    sink = io.BytesIO()
    with store.writer(name) as out:
        stream = pa.ipc.new_stream(sink, batches[0].schema)
        for batch in batches:
            stream.write_batch(batch)
            out.write(sink.getvalue())
            sink.seek(0)
            sink.truncate()
        stream.close()
        out.write(sink.getvalue())
    return name


def _read_set(store: Store, name: str) -> list[pa.RecordBatch]:
    try:
        return list(pa.ipc.open_stream(store.get(name)))
    except pa.ArrowInvalid as exc:
        raise ShardError(f"{name}: {exc}") from exc
