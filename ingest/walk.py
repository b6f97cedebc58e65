"""Walks a lane: splits in order, items in order, outputs in order, and says after each step how far it has come.

The walk is the same for encoding, for collecting a fit set and for probing a suspect, so a place means the same in all
three. It never decides what to do with an output; it only turns every way in which reading or decoding can end into an
event. Positions move only when an item is fully taken.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import pyarrow as pa

from headrace.connectors.contract import Blob, Broken, Gap, Idle, Item, Read, Split
from headrace.ingest.events import Batch, Duplicate, Event, GapSeen, ItemDone, Nothing, Refused, SplitDone
from headrace.ingest.normalizers.contract import Bad, Normalizer
from headrace.ingest.origin import Origin, Suspects
from headrace.ingest.place import Place, PlanRow, position_key
from headrace.ingest.task import Conviction
from headrace.schemas.errors import REASONS, HeadraceError, RecordError, SourceChanged, SourceError
from headrace.schemas.record import modality_of
from headrace.shards.entry import split_digest

#: Raw bytes of a refused record are kept up to this size; beyond it its range and digest tell where they are.
KEEP_BYTES = 16 << 20

STEP_ITEMS = 256  #: that are taken together at most
STEP_BYTES = 1 << 20  #: of their payloads
_STEP_ROWS = 4096
_REACH_AGAIN = 8  #: items that are tried together after one that had to be taken alone
_STEP_S = 0.05  #: after which no further item is begun in a step
_NAMED_BYTES = 128 << 10  #: of positions that a step names in the slot


class InFlight(Protocol):
    """What tells the supervisor which step is under way."""

    def enter(self, stage: str, suspects: Sequence[Suspects], stream: str = "") -> None:
        """Begin a step that works on the suspects."""

    def at(self, number: int | None) -> None:
        """The step has come to the suspect of this number, or works on all of them (None)."""

    def leave(self) -> None:
        """End it."""

    def out_of_memory(self) -> None:
        """The step took more memory than allowed: the process ends here, with the step still in flight."""


class Reads(Protocol):
    """What a walk reads from: a connector, or a queue that a reader fills."""

    def read(self, split: Split, after: Any) -> Iterator[Read | list[Item]]:
        """As `Connector.read`; items that follow each other may come as a list, and are taken together if they can."""


class Remembers(Protocol):
    """Tells whether an item came before."""

    def __call__(self, split_id: str, item: Item) -> bool:
        """Whether it did; if not, it has now."""

    def take_back(self, count: int) -> None:
        """The last `count` items that were new did not come yet."""


class Walk:
    """Iterates over events; `place` is where the lane stands after the event just yielded."""

    def __init__(
        self,
        source: Reads,
        normalizer: Normalizer,
        rows: list[PlanRow],
        place: Place,
        convictions: list[Conviction],
        slot: InFlight,
        *,
        first_item_only: bool = False,
        seen: Remembers | None = None,
    ) -> None:
        self.place = place
        #: Of a read, what took no CPU of this thread is waiting: for the source, the disk, or a free core.
        self.seconds = {"read": 0.0, "wait": 0.0, "normalize": 0.0}
        self._source = source
        self._normalizer = normalizer
        self._rows = rows
        self._convicted = {c.key(): c.reason for c in convictions}
        self._alone = {(c.split, c.after) for c in convictions if c.stage != "encode"}
        self._slot = slot
        self._first_item_only = first_item_only
        self._seen = seen

    def __iter__(self) -> Iterator[Event]:
        for row in self._rows:
            at_start = (row.segment, row.row) == (self.place.segment, self.place.row)
            position, k = (self.place.position, self.place.k) if at_start else (None, 0)
            self.place = Place(row.segment, row.row, position, k)
            yield from self._split(row, position, k)
            if self._first_item_only:
                return
            self.place = Place(row.segment, row.row + 1, None, 0)
            yield SplitDone(row)

    def _split(self, row: PlanRow, position: Any, skip: int) -> Iterator[Event]:
        split = row.split
        digest = split_digest(split.id)
        reads = iter(self._source.read(split, position))
        while True:
            after = position_key(position)
            reason = self._convicted.get((digest, after, 0, "read"))
            if reason is not None:
                yield _refuse_rest(
                    row, after, reason, f"reading on from {after} {_deed(reason)}; the rest of the split is refused"
                )
                return
            started, worked = time.perf_counter(), time.thread_time()
            self._slot.enter("read", [Suspects(split, [(after, 0)])])
            try:
                got = next(reads, None)
            except RecordError as exc:
                yield _refuse_rest(row, after, exc.reason, exc.message)
                return
            except MemoryError:
                self._slot.out_of_memory()
                raise
            except OSError as exc:
                raise SourceError(f"{split.id}: {exc.strerror or exc}") from exc
            self._slot.leave()
            busy = time.thread_time() - worked
            self.seconds["read"] += busy
            self.seconds["wait"] += max(0.0, time.perf_counter() - started - busy)
            if got is None:
                return
            if isinstance(got, Idle):
                yield Nothing(row)
                continue
            if isinstance(got, Gap):
                position, skip = got.position, 0  # what was taken of the next item is lost with it
                self.place = Place(row.segment, row.row, position, 0)
                yield GapSeen(row, got)
                continue
            if isinstance(got, Broken):
                position, skip = got.position, 0
                self.place = Place(row.segment, row.row, position, 0)
                yield Refused(
                    row, position, got.locator, "read", got.reason, got.message, split.id, got.data, whole_item=True
                )
                continue
            items = got if isinstance(got, list) else [got]
            yield from self._items(row, items, after, skip, together=isinstance(got, list))
            skip = 0
            position = items[-1].position
            if self._first_item_only:
                return

    def _items(self, row: PlanRow, items: list[Item], after: str, skip: int, *, together: bool) -> Iterator[Event]:
        """Items that follow each other; of the first, `skip` outputs are taken."""
        afters = [after, *(position_key(item.position) for item in items)]
        at, reach = 0, STEP_ITEMS
        while at < len(items):
            step = self._step(row, items[at : at + reach], afters[at:]) if together and not skip else None
            reach = min(2 * reach, STEP_ITEMS) if step is not None else _REACH_AGAIN
            if step is not None:
                draft, origins = step
                at += len(origins)
                before = items[at - 2].position if len(origins) > 1 else self.place.position
                self.place = Place(row.segment, row.row, before, origins[-1].rows)
                yield Batch(modality_of(draft), draft, origins)
                self.place = Place(row.segment, row.row, items[at - 1].position, 0)
                yield ItemDone(row, origins[-1].rows, False)
                continue
            item = items[at]
            if self._seen is not None and not skip and self._seen(row.split.id, item):
                self.place = Place(row.segment, row.row, item.position, 0)
                yield Duplicate(row)
            else:
                yield from self._item(row, item, afters[at], skip)
            skip = 0
            at += 1

    def _step(
        self, row: PlanRow, items: Sequence[Item], afters: Sequence[str]
    ) -> tuple[pa.RecordBatch, list[Origin]] | None:
        """One batch of the first items, as many as the normalizer can say in rows; None if it cannot the first.

        The step ends before an item that fails, or came before: that one is taken alone, and is told what is the matter
        with it. It must not be remembered yet, since a commit may fall between.
        """
        rows: list[Any] = []
        origins: list[Origin] = []
        size, named = 0, 0
        digest = split_digest(row.split.id)
        began = time.perf_counter()
        self._slot.enter("normalize", [Suspects(row.split, [(after, 0) for after in afters[: len(items)]])])
        for number, (item, after) in enumerate(zip(items, afters)):
            size += len(item.data) if isinstance(item.data, bytes) else STEP_BYTES + 1
            named += len(after)
            if size > STEP_BYTES or named > _NAMED_BYTES or len(rows) > _STEP_ROWS or (digest, after) in self._alone:
                break
            if origins and time.perf_counter() - began > _STEP_S:
                break
            if self._seen is not None and self._seen(row.split.id, item):
                break
            self._slot.at(number)
            found = self._rows_of(item)
            if not found:
                self._take_back(1)
                break
            rows += found
            origins.append(Origin(row, item, after, 0, len(found)))
        self._slot.at(None)
        draft = self._gathered(rows) if origins else None
        if draft is None:
            self._take_back(len(origins))
        self._slot.leave()
        self.seconds["normalize"] += time.perf_counter() - began
        return None if draft is None else (draft, origins)

    def _take_back(self, count: int) -> None:
        if self._seen is not None:
            self._seen.take_back(count)

    def _rows_of(self, item: Item) -> Sequence[Any] | None:
        try:
            return self._normalizer.rows(item)
        except MemoryError:
            self._slot.out_of_memory()
            raise
        except Exception:  # taken alone it fails again, and there it is told why
            return None

    def _gathered(self, rows: list[Any]) -> pa.RecordBatch | None:
        try:
            return self._normalizer.gather(rows)
        except MemoryError:
            self._slot.out_of_memory()
            raise
        except Exception:  # one of the rows is at fault: taken alone, each item is told by itself
            return None

    def _item(self, row: PlanRow, item: Item, after: str, skip: int) -> Iterator[Event]:
        start = Origin(row, item, after, 0, 0)
        digest, object_ = split_digest(row.split.id), start.object_id
        outputs = refused = k = 0
        whole = False
        produced: Iterator[Any] | None = None
        while True:
            reason = self._convicted.get((digest, after, k, "normalize"))
            failure: RecordError | None = None
            got: Any = None
            if reason is not None:
                failure = RecordError(reason, f"decoding {_deed(reason)}")
            else:
                started = time.perf_counter()
                self._slot.enter("normalize", [start.suspect(k)])
                try:
                    if produced is None:
                        produced = iter(self._normalizer.open(item))
                    got = next(produced, None)
                except RecordError as exc:
                    failure = exc
                except MemoryError:
                    self._slot.out_of_memory()
                    raise
                except SourceError:
                    raise
                except HeadraceError as exc:
                    failure = RecordError("internal", str(exc))
                except Exception as exc:
                    failure = RecordError("internal", f"{type(exc).__name__}: {exc}")
                self._slot.leave()
                self.seconds["normalize"] += time.perf_counter() - started
            if failure is not None:
                k += 1
                if k > skip:
                    data = _raw(item) if outputs == 0 else None
                    locator = failure.locator or _rest(outputs)
                    self._advance(row, after, k)
                    yield Refused(
                        row, item.position, locator, "normalize", failure.reason, failure.message, object_, data, k == 1
                    )
                whole = k == 1
                break
            if got is None:
                break
            if isinstance(got, Bad):
                refused += 1
                k += 1
                if k > skip:
                    self._advance(row, after, k)
                    yield Refused(
                        row, item.position, got.locator, "normalize", got.reason, got.message, object_, got.data
                    )
                continue
            rows = got.num_rows
            if rows == 0:
                continue
            outputs += rows
            first, k = k, k + rows
            if k > skip:
                if first < skip:  # a place is always a border of what was yielded, unless the normalizer changed
                    got, first = got.slice(skip - first), skip
                self._advance(row, after, k)
                yield Batch(modality_of(got), got, [Origin(row, item, after, first, got.num_rows)])
        if outputs == 0 and refused == 0 and not whole:
            whole = True
            yield Refused(
                row, item.position, _rest(0), "normalize", "empty", "no record came of it", object_, _raw(item), True
            )
        self.place = Place(row.segment, row.row, item.position, 0)
        yield ItemDone(row, outputs, whole)

    def _advance(self, row: PlanRow, after: str, k: int) -> None:
        self.place = Place(row.segment, row.row, self.place.position, k)


def _rest(outputs: int) -> str | None:
    return f'{{"from_record":{outputs}}}' if outputs else None


def _refuse_rest(row: PlanRow, after: str, reason: str, message: str) -> Refused:
    return Refused(
        row, json.loads(after), f'{{"after":{after}}}', "read", reason, message, row.split.id, None, whole_item=True
    )


def _deed(reason: str) -> str:
    code, _, detail = reason.partition(":")
    words = {
        "crash": "killed its process",
        "hang": "did not come to an end in its time",
        "oom": "took more memory than its limit",
    }
    said = words.get(code, REASONS.get(code, code))
    return f"{said} ({detail})" if detail else said


def _raw(item: Item) -> bytes | None:
    """The bytes of a refused item, where they are few enough to keep."""
    if isinstance(item.data, (bytes, bytearray, memoryview)):
        return bytes(item.data) if len(item.data) <= KEEP_BYTES else None
    if isinstance(item.data, Blob):
        try:
            return item.data.read(KEEP_BYTES) if item.data.size <= KEEP_BYTES else None
        except (OSError, SourceChanged):
            return None
    return None
