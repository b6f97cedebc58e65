"""Tries quarantined rows again, in a child process: item by item, each row with its outcome.

A row that gives something (samples, or records refused anew) is marked as replayed by the very entry that adds it, so
it can never give it twice. A row that gives nothing stays as it is, and its new reason is told. Convictions of earlier
runs do not count: they are what a fix is for. Those of this replay do, as in a lane.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Protocol

import pyarrow as pa

from headrace.connectors.contract import Broken, Connector, Item, Read, Split
from headrace.ingest.complete import Completer
from headrace.ingest.events import Batch, ItemDone, Nothing, Refused
from headrace.ingest.lane_output import open_outputs
from headrace.ingest.place import Place, PlanRow, position_key
from headrace.ingest.replay_claims import Claims, Outcome, Refusal
from headrace.ingest.replay_items import KeptBytes, SourceItems, kept_item, source_key
from headrace.ingest.replay_output import ReplayOutput, Wanted
from headrace.ingest.replay_rows import Group
from headrace.ingest.resolve import ResolvedStream, Runtime
from headrace.ingest.task import Task
from headrace.ingest.walk import InFlight, Walk
from headrace.schemas.errors import SourceError
from headrace.schemas.record import Modality
from headrace.shards.entry import QuarantineInfo, split_digest
from headrace.shards.store import Store

_BATCH_ROWS = 4096
_BATCH_BYTES = 2 << 20  #: of records that wait to be encoded together
_CUT_ITEMS = 512  #: items after which an entry is due, however small they are
_KEPT_BYTES = 64 << 20  #: raw bytes of refusals that an item may hold back


class ReplayChannel(Protocol):
    """How a replay commits and tells what became of rows."""

    def commit(self, manifest: dict[str, Any]) -> None:
        """Returns when the manifest is committed."""

    def progress(self, counters: dict[str, Any]) -> None:
        """{"settled": […], "counts": {…}}: rows that are done with, and what a dry run would have added."""


def replay_rows(
    task: Task, stream: ResolvedStream, runtime: Runtime, store: Store, slot: InFlight, channel: ReplayChannel
) -> dict[str, Any]:
    """Try the groups of a task, committing through `channel`."""
    connector = stream.make_connector()
    run = _Replay(task, stream, runtime, store, slot, connector, channel, dry=task.replay["dry"])
    try:
        run.run([Group.from_json(group) for group in task.replay["groups"]])
    finally:
        run.output.abort()
        connector.close()
    return {}


def probe_replay(task: Task, stream: ResolvedStream, runtime: Runtime, store: Store, slot: InFlight) -> dict[str, Any]:
    """Try suspects alone, one record at a time, and keep nothing."""
    connector = stream.make_connector()
    run = _Replay(task, stream, runtime, store, slot, connector, None, dry=True)
    groups = [Group.from_json(group) for group in task.replay["groups"]]
    for suspect in task.suspects:
        own = [g for g in groups if g.split == suspect["split"]]
        named = [g for g in own if position_key(g.key) == suspect["after"]]
        run.run(named or own)
    connector.close()
    return {}


class _Replay:
    def __init__(
        self,
        task: Task,
        stream: ResolvedStream,
        runtime: Runtime,
        store: Store,
        slot: InFlight,
        connector: Connector,
        channel: ReplayChannel | None,
        *,
        dry: bool,
    ) -> None:
        self._task, self._stream, self._slot, self._channel = task, stream, slot, channel
        self._connector = connector
        self._batch_rows = 1 if channel is None else _BATCH_ROWS
        self._forgotten = {bytes.fromhex(id_) for id_ in task.replay["forgotten"]}
        self._convicted = {c.key(): c.reason for c in task.convictions}
        self._kept = KeptBytes(store, (QuarantineInfo.from_json(file) for file in task.replay["files"]))
        self._items = SourceItems(connector, slot, self._convicted)
        self._completer = Completer(stream, runtime.pipeline.folds, connector.describe(), runtime.pipeline.grid)
        self.output = ReplayOutput(
            stream,
            open_outputs(task.tokenizers, stream, store, task.retired),
            store,
            slot,
            epoch=task.epoch,
            source=connector.describe(),
            dry=dry,
        )
        self._settled: list[dict[str, Any]] = []
        self._items_since = 0

    def run(self, groups: list[Group]) -> None:
        by_split: dict[str, list[Group]] = {}
        for group in groups:
            by_split.setdefault(group.split, []).append(group)
        for split_id, own in by_split.items():
            split = Split(split_id, own[0].pin)
            for group, read in self._reads(split, [g for g in own if not g.rest]):
                self._settle(group, self._item(group, split, read))
            for group in own:
                if group.rest:
                    self._settle(group, self._rest(group, split))
        self._cut()

    def _reads(self, split: Split, groups: list[Group]) -> Iterator[tuple[Group, Item | Broken | tuple[str, str]]]:
        """Each group with its item, or with the reason why there is none."""
        live = self._stream.live
        left = {id(group): group for group in groups}
        asked = [group for group in groups if not live or group.kept is None]
        why = ("io_error", "its bytes were not kept")
        if asked:
            for group, read in self._items.read(split, asked, live=live):
                if isinstance(read, Broken) and group.kept is not None:
                    continue  # what was read once cannot be read now: the kept bytes can
                del left[id(group)]
                yield group, read
            why = self._items.failure or why
        for group in left.values():
            if group.kept is not None:
                yield group, kept_item(group, self._kept.of(group.kept), live=live)
            else:
                yield group, (why[0], f"its bytes were not kept, and {why[1]}" if asked else why[1])

    # -- one item -----------------------------------------------------------------------------------------------------

    def _item(self, group: Group, split: Split, read: Item | Broken | tuple[str, str]) -> Outcome:
        claims = Claims(group)
        if isinstance(read, tuple):
            return claims.outcome(read)
        row = PlanRow(0, 0, split)
        walk = Walk(
            _One(read), self._stream.make_normalizer(), [row], Place(0, 0, group.key, 0), self._task.convictions,
            self._slot, first_item_only=True,
        )  # fmt: skip
        try:
            self._take(walk, claims)
        except SourceError as exc:
            if claims.any:
                raise  # a part is written: the whole batch is left, and nothing of it was committed
            if group.kept is not None and not _is_kept(read):
                return self._item(group, split, kept_item(group, self._kept.of(group.kept), live=self._stream.live))
            return claims.outcome(("io_error", f"its source cannot be read again: {exc}"))
        return claims.outcome()

    def _rest(self, group: Group, split: Split) -> Outcome:
        """Everything behind a position at which reading had ended."""
        claims = Claims(group)
        if self._stream.live:
            return claims.outcome(("io_error", "the rest of a live split is read by its service only"))
        reason = self._convicted.get((split_digest(split.id), source_key(split), 0, "read"))
        if reason is not None:
            return claims.outcome((reason, f"reading {split.id} ended its process"))
        place = Place(0, 0, json.loads(group.position), 0)
        row = PlanRow(0, 0, split)
        walk = Walk(
            self._connector, self._stream.make_normalizer(), [row], place, self._task.convictions, self._slot
        )
        self._take(walk, claims)
        return claims.outcome()

    def _take(self, walk: Walk, claims: Claims) -> None:
        """The events of one item, or of all that is left of a split."""
        index = 0
        held = 0
        taking = _Taking(self, claims)
        for event in walk:
            if isinstance(event, Batch):
                taking.batch(event, index)
                index += event.draft.num_rows
            elif isinstance(event, Refused):
                taking.flush()
                data = event.data if held <= _KEPT_BYTES else None
                held += len(data or b"")
                claims.refused(_refusal(event, self._stream, data))
            elif isinstance(event, ItemDone):
                taking.flush()
                index = 0
            elif isinstance(event, Nothing):
                break
        taking.flush()

    def is_forgotten(self, record_id: bytes) -> bool:
        return record_id in self._forgotten

    def conviction(self, split: str, after: str, k: int) -> str | None:
        """Why output k of an item may not be encoded."""
        return self._convicted.get((split_digest(split), after, k, "encode"))

    def complete(self, event: Batch) -> pa.RecordBatch:
        """The records of a draft."""
        return self._completer.complete(event.draft, event.origins, event.modality)

    def output_name(self, modality: Modality) -> str:
        return self._stream.outputs[modality].name

    @property
    def batch_rows(self) -> int:
        return self._batch_rows

    # -- outcomes -----------------------------------------------------------------------------------------------------

    def _settle(self, group: Group, outcome: Outcome) -> None:
        for refusal in outcome.refused:
            self.output.refuse(refusal, group.split)
        for row in outcome.replayed:
            self.output.mark(row)
            self._settled.append({"file": row.file, "row": row.number, "replayed": True})
        for row, reason, message in outcome.stays:
            self._settled.append(
                {"file": row.file, "row": row.number, "replayed": False, "uri": group.uri, "locator": row.locator,
                 "was": row.reason, "reason": reason, "message": message}
            )  # fmt: skip
        self._items_since += 1
        shards = self._stream.spec.shards
        limit = min(shards.payload_mib, shards.target_mib) * (1 << 20)
        if self._items_since >= _CUT_ITEMS or self.output.written >= limit:
            self._cut()

    def _cut(self) -> None:
        settled, self._settled, self._items_since = self._settled, [], 0
        counts = {name: line.to_json() for name, line in self.output.counts().items()}
        entry = self.output.cut()
        if self._channel is None:
            return
        if entry is not None and not self._task.replay["dry"]:
            self._channel.commit(entry.to_json())
        if settled:
            self._channel.progress({"settled": settled, "counts": counts})


class _Taking:
    """Records of one item that wait to be encoded together."""

    def __init__(self, run: _Replay, claims: Claims) -> None:
        self._run, self._claims = run, claims
        self._waiting: list[Wanted] = []
        self._bytes = 0
        self._last: Batch | None = None

    def batch(self, event: Batch, index: int) -> None:
        """The outputs of a draft; `index` is the number of the first among the item's outputs."""
        if self._last is not None and self._last.modality != event.modality:
            self.flush()
        self._last = event
        run, origin = self._run, event.origin
        records = run.complete(event)  # all of them: some are others' parents
        name = run.output_name(event.modality)
        ids, locators = records.column("record_id").to_pylist(), records.column("locator").to_pylist()
        for i, (id_, locator) in enumerate(zip(ids, locators)):
            owner = self._claims.owner(name, locator, index + i)
            if owner is None:
                continue
            if run.is_forgotten(id_):
                self._claims.got(owner, 0)
                continue
            wanted = Wanted(records.slice(i, 1), owner, origin.k + i)
            reason = run.conviction(origin.row.split.id, origin.after, wanted.k)
            if reason is not None:
                self._refuse(event, wanted, reason, f"encoding it: {reason.partition(':')[0]}, when tried alone")
                continue
            self._waiting.append(wanted)
        self._bytes += records.nbytes
        if len(self._waiting) >= run.batch_rows or self._bytes >= _BATCH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Encode and write what waits."""
        waiting, self._waiting, self._bytes = self._waiting, [], 0
        event, step = self._last, self._run.batch_rows
        if event is None:
            return
        origin = event.origin
        for start in range(0, len(waiting), step):
            part = waiting[start : start + step]
            bad = self._run.output.encode(
                event.modality, part, origin, origin.row.split.id, origin.item.position
            )
            failed = {id(wanted) for wanted, _, _ in bad}
            for wanted in part:
                if id(wanted) not in failed:
                    self._claims.got(wanted.owner)
            for wanted, reason, message in bad:
                self._refuse(event, wanted, reason, message)

    def _refuse(self, event: Batch, wanted: Wanted, reason: str, message: str) -> None:
        record = wanted.record
        self._claims.refused(
            Refusal(
                stream=self._run.output_name(event.modality),
                locator=record.column("locator")[0].as_py(),
                stage="encode",
                reason=reason,
                message=message,
                data=self._run.output.payload(event.modality, record),
                uri=record.column("uri")[0].as_py(),
                position=event.origin.item.position,
                license=record.column("license")[0].as_py(),
                owner=wanted.owner,
            )
        )


def _is_kept(read: Item | Broken) -> bool:
    return isinstance(read, Item) and isinstance(read.data, bytes)


class _One:
    """What a walk reads: the item at hand."""

    def __init__(self, read: Item | Broken) -> None:
        self._read = read

    def read(self, split: Split, after: Any) -> Iterator[Read]:
        yield self._read


def _refusal(event: Refused, stream: ResolvedStream, data: bytes | None) -> Refusal:
    return Refusal(
        stream=stream.name,
        locator=event.locator,
        stage=event.stage,
        reason=event.reason,
        message=event.message,
        data=data,
        uri=event.object_id,
        position=event.position,
        license=stream.license,
    )
