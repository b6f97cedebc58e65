"""What a walk says: everything that reading and decoding a lane can come to, one event a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from headrace.connectors.contract import Gap
from headrace.ingest.origin import Origin
from headrace.ingest.place import PlanRow
from headrace.schemas.record import Modality


@dataclass(frozen=True)
class Batch:
    """Drafts of one modality: of one item, or of several that follow each other, of which all but the last end here."""

    modality: Modality
    draft: pa.RecordBatch
    origins: Sequence[Origin]  #: in row order

    @property
    def origin(self) -> Origin:
        """Of the item that is being taken: the last."""
        return self.origins[-1]

    def latest_us(self) -> list[int | None]:
        """The newest event time of each item, in microseconds since 1970: its own, or one of its records."""
        latest = [origin.item.event_time for origin in self.origins]
        for name in ("event_time", "event_end"):
            column = self.draft.column(name)
            if column.null_count == len(column):
                continue
            times, at = column.cast(pa.int64()).to_pylist(), 0
            for number, origin in enumerate(self.origins):
                known = [time for time in (latest[number], *times[at : at + origin.rows]) if time is not None]
                latest[number] = max(known, default=None)
                at += origin.rows
        return latest


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
