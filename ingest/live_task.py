"""What a worker is told about live lanes: which splits to read from where, and what belongs to the lane's place."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from headrace.connectors.contract import Split
from headrace.ingest.task import Conviction
from headrace.shards.entry import LaneFile


@dataclass(frozen=True)
class LiveSplit:
    """An unbounded split and the place from which to go on."""

    split: Split
    position: Any = None
    k: int = 0
    begun: bool = False  #: the log has a place for it

    def to_json(self) -> list[Any]:
        """A compact JSON form."""
        return [self.split.id, self.split.pin, self.position, self.k, self.begun]

    @classmethod
    def from_json(cls, value: list[Any]) -> LiveSplit:
        """The split of a message."""
        id_, pin, position, k, begun = value
        return cls(Split(id_, pin, bounded=False), position, k, begun)


@dataclass(frozen=True)
class LiveLaneTask:
    """One lane of a live stream."""

    stream: str
    lane: int
    splits: list[LiveSplit]
    spec: dict[str, Any]  #: the stream's section, since a service can be given streams while it runs
    version: int = 1  #: of the section
    tokenizers: dict[str, str] = field(default_factory=dict)  #: modality → fingerprint in the dataset
    convictions: list[Conviction] = field(default_factory=list)
    dedup: LaneFile | None = None
    carry: LaneFile | None = None
    watermark_us: int | None = None  #: committed last
    retired: list[list[str]] = field(default_factory=list)  #: [fingerprint, engine] of engines that encode no more

    @property
    def key(self) -> str:
        """`<stream>/L0007`."""
        return f"{self.stream}/L{self.lane:04d}"

    def to_json(self) -> dict[str, Any]:
        """For the pipe to a child, or a Ray call."""
        return {
            "stream": self.stream,
            "lane": self.lane,
            "splits": [s.to_json() for s in self.splits],
            "spec": self.spec,
            "version": self.version,
            "tokenizers": self.tokenizers,
            "convictions": [c.to_json() for c in self.convictions],
            "dedup": self.dedup.to_json() if self.dedup else None,
            "carry": self.carry.to_json() if self.carry else None,
            "watermark_us": self.watermark_us,
            "retired": self.retired,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> LiveLaneTask:
        """The lane of a message."""
        return cls(
            stream=value["stream"],
            lane=value["lane"],
            splits=[LiveSplit.from_json(s) for s in value["splits"]],
            spec=value["spec"],
            version=value["version"],
            tokenizers=value["tokenizers"],
            convictions=[Conviction.from_json(c) for c in value["convictions"]],
            dedup=LaneFile.from_json(value["dedup"]) if value["dedup"] else None,
            carry=LaneFile.from_json(value["carry"]) if value["carry"] else None,
            watermark_us=value["watermark_us"],
            retired=value["retired"],
        )
