"""Walks a lane: splits in order, items in order, outputs in order, and says after each step how far it has come.

The walk is the same for encoding, for collecting a fit set and for probing a suspect, so a place means the same in all
three. It never decides what to do with an output; it only turns every way in which reading or decoding can end into an
event. Positions move only when an item is fully taken.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from headrace.connectors.contract import Blob, Broken, Gap, Idle, Item, Read, Split
from headrace.ingest.complete import object_id
from headrace.ingest.normalizers.contract import Bad, Normalizer
from headrace.ingest.place import Place, PlanRow, position_key
from headrace.ingest.task import Conviction
from headrace.schemas.errors import REASONS, HeadraceError, RecordError, SourceChanged, SourceError
from headrace.schemas.record import Modality, modality_of
from headrace.shards.entry import split_digest

#: Raw bytes of a refused record are kept up to this size; beyond it its range and digest tell where they are.
KEEP_BYTES = 16 << 20


class InFlight(Protocol):
    """What tells the supervisor which step is under way."""

    def enter(self, stage: str, suspects: list[dict[str, Any]]) -> None:
        """Begin a step."""

    def leave(self) -> None:
        """End it."""

    def out_of_memory(self) -> None:
        """The step took more memory than allowed: the process ends here, with the step still in flight."""


class Reads(Protocol):
    """What a walk reads from: a connector, or a queue that a reader fills."""

    def read(self, split: Split, after: Any) -> Iterator[Read]:
        """As `Connector.read`."""


@dataclass(frozen=True)
class Origin:
    """Where outputs come from: the item, the place before it, and the number of the first output."""

    row: PlanRow
    item: Item
    after: str  #: canonical JSON of the position before the item
    k: int

    def suspect(self, k: int) -> dict[str, Any]:
        """How the in-flight slot names it."""
        return {"split": self.row.split.id, "pin": self.row.split.pin, "after": self.after, "k": k}


@dataclass(frozen=True)
class Batch:
    """Drafts of one modality."""

    modality: Modality
    draft: pa.RecordBatch
    origin: Origin


@dataclass(frozen=True)
class Refused:
    """One record that goes to quarantine."""

    row: PlanRow
    position: Any  #: of the item
    locator: str | None
    stage: str
    reason: str
    message: str
    object_id: str
    data: bytes | None
    whole_item: bool = False  #: nothing else of the item will come


@dataclass(frozen=True)
class ItemDone:
    """An item was taken to its end."""

    row: PlanRow
    outputs: int  #: drafts that came of it, over all runs
    whole: bool  #: it was refused as a whole


@dataclass(frozen=True)
class SplitDone:
    """A split was read to its end."""

    row: PlanRow


@dataclass(frozen=True)
class GapSeen:
    """The source says that data is missing."""

    row: PlanRow
    gap: Gap


@dataclass(frozen=True)
class Nothing:
    """The source has nothing now."""

    row: PlanRow


@dataclass(frozen=True)
class Duplicate:
    """An item that came before; nothing is made of it."""

    row: PlanRow


Event = Batch | Refused | ItemDone | SplitDone | GapSeen | Nothing | Duplicate


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
        seen: Callable[[str, Item], bool] | None = None,
    ) -> None:
        self.place = place
        self.seconds = {"read": 0.0, "normalize": 0.0}
        self._source = source
        self._normalizer = normalizer
        self._rows = rows
        self._convicted = {c.key(): c.reason for c in convictions}
        self._slot = slot
        self._first_item_only = first_item_only
        self._seen = seen  #: (split id, item) → whether it is a duplicate

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
            suspect = {"split": split.id, "pin": split.pin, "after": after, "k": 0}
            reason = self._convicted.get((digest, after, 0, "read"))
            if reason is not None:
                yield _refuse_rest(
                    row, after, reason, f"reading on from {after} {_deed(reason)}; the rest of the split is refused"
                )
                return
            started = time.perf_counter()
            self._slot.enter("read", [suspect])
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
            self.seconds["read"] += time.perf_counter() - started
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
            if self._seen is not None and not skip and self._seen(split.id, got):
                position = got.position
                self.place = Place(row.segment, row.row, position, 0)
                yield Duplicate(row)
                continue
            yield from self._item(Origin(row, got, after, 0), skip)
            skip = 0
            position = got.position
            if self._first_item_only:
                return

    def _item(self, start: Origin, skip: int) -> Iterator[Event]:
        row, item, after = start.row, start.item, start.after
        digest, object_ = split_digest(row.split.id), object_id(start.item, row.split)
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
                yield Batch(modality_of(got), got, Origin(row, item, after, first))
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
