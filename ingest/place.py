"""Places: how far a lane has come, as values that are compared for equality only.

A lane walks rows of plan segments. Its committed place is the position of the last item fully taken in the current
row, and `k`, how many outputs (records or refusals) of the next item are committed already.
"""

from __future__ import annotations

from dataclasses import dataclass
from json.encoder import encode_basestring
from typing import Any

from headrace.connectors.contract import Position, Split
from headrace.schemas.canonical import position_json

_SHORT = 512  # characters: its JSON is within MAX_POSITION_BYTES, however many are escaped
_BOUND = 1 << 63


@dataclass(frozen=True)
class Place:
    """How far a lane has come: before `row` of `segment` everything is done."""

    segment: int = 0
    row: int = 0
    position: Position = None
    k: int = 0

    def to_json(self) -> dict[str, Any]:
        """As kept in the log."""
        return {"segment": self.segment, "row": self.row, "position": self.position, "k": self.k}

    @classmethod
    def from_json(cls, value: dict[str, Any] | None) -> Place:
        """The place of a log entry; None is the beginning."""
        return cls() if value is None else cls(value["segment"], value["row"], value["position"], value["k"])


@dataclass(frozen=True)
class PlanRow:
    """One split of a lane, where it stands in the plan."""

    segment: int
    row: int
    split: Split

    def to_json(self) -> list[Any]:
        """A compact JSON form for tasks."""
        return [self.segment, self.row, self.split.id, self.split.pin, self.split.weight]

    @classmethod
    def from_json(cls, value: list[Any]) -> PlanRow:
        """The row of a task."""
        segment, row, id_, pin, weight = value
        return cls(segment, row, Split(id_, pin, weight))


def position_key(position: Position) -> str:
    """Positions as text that can be compared and stored: `position_json`, but fast for what nearly all of them are."""
    kind = type(position)
    if kind is str and len(position) < _SHORT and position.isascii():
        return encode_basestring(position)
    if kind is int and -_BOUND < position < _BOUND:
        return str(position)
    return position_json(position).decode()
