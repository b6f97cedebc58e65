"""What a worker is told to do, as JSON: encode a lane, collect a fit set, fit a tokenizer, probe suspects,
serve live lanes, receive into spools, replay quarantined rows, or encode again what a retired engine made."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Literal

from headrace.ingest.place import Place, PlanRow
from headrace.shards import entry as log

Kind = Literal["encode", "collect", "fit", "probe", "live", "receive", "replay", "reencode"]


@dataclass(frozen=True)
class Conviction:
    """A record that killed its process, alone: it is quarantined and never tried again.

    `split` is the digest of the split's id, `after` the position before the item (canonical JSON), `k` the
    output of that item that was being made,
    `stage` read, normalize or encode.
    """

    split: str
    after: str
    k: int
    stage: str
    reason: str

    def key(self) -> tuple[str, str, int, str]:
        """What a lane looks up."""
        return (self.split, self.after, self.k, self.stage)

    def entry(self, source: str) -> log.Conviction:
        """As a log entry holds it."""
        return log.Conviction(source, self.split, json.loads(self.after), self.k, self.reason, self.stage)

    def to_json(self) -> dict[str, Any]:
        """For tasks."""
        return {"split": self.split, "after": self.after, "k": self.k, "stage": self.stage, "reason": self.reason}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Conviction:
        """The conviction of a log entry."""
        return cls(value["split"], value["after"], value["k"], value["stage"], value["reason"])


@dataclass
class Task:
    """One piece of work for a child process."""

    kind: Kind
    key: str  #: names the work within a run, e.g. "photos/L0003"
    stream: str = ""
    lane: int = 0
    epoch: int = 0
    rows: list[PlanRow] = field(default_factory=list)  #: what is left of the lane, in order
    place: Place = field(default_factory=Place)
    end: Place = field(default_factory=Place)  #: the place when all rows are done
    tokenizers: dict[str, str] = field(default_factory=dict)  #: modality → fingerprint in the dataset
    convictions: list[Conviction] = field(default_factory=list)
    suspects: list[dict[str, Any]] = field(default_factory=list)
    fit_group: str = ""
    fit_sets: list[str] = field(default_factory=list)  #: names in the store of collected records
    lanes: list[dict[str, Any]] = field(default_factory=list)  #: `LiveLaneTask`s; of a receive task, its streams
    ends: dict[str, Any] = field(default_factory=dict)  #: split id → where a collect task stops in an unbounded one
    spec: dict[str, Any] | None = None  #: the stream's section, where it may differ from the pipeline that began
    max_commit_delay_s: float | None = None  #: in a service: commit at least this often
    replay: dict[str, Any] = field(default_factory=dict)  #: of a replay task: see `replay_run.Replay.tasks`
    retired: list[list[str]] = field(default_factory=list)  #: [fingerprint, engine] of engines that encode no more
    reencode: dict[str, Any] = field(default_factory=dict)  #: of a reencode task: see `reencode_plan.py`

    def to_json(self) -> dict[str, Any]:
        """For the pipe to a child, or a Ray call."""
        return {
            "kind": self.kind,
            "key": self.key,
            "stream": self.stream,
            "lane": self.lane,
            "epoch": self.epoch,
            "rows": [row.to_json() for row in self.rows],
            "place": self.place.to_json(),
            "end": self.end.to_json(),
            "tokenizers": self.tokenizers,
            "convictions": [c.to_json() for c in self.convictions],
            "suspects": self.suspects,
            "fit_group": self.fit_group,
            "fit_sets": self.fit_sets,
            "lanes": self.lanes,
            "ends": self.ends,
            "spec": self.spec,
            "max_commit_delay_s": self.max_commit_delay_s,
            "replay": self.replay,
            "retired": self.retired,
            "reencode": self.reencode,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Task:
        """The task of a message."""
        return cls(
            kind=value["kind"],
            key=value["key"],
            stream=value["stream"],
            lane=value["lane"],
            epoch=value["epoch"],
            rows=[PlanRow.from_json(row) for row in value["rows"]],
            place=Place.from_json(value["place"]),
            end=Place.from_json(value["end"]),
            tokenizers=value["tokenizers"],
            convictions=[Conviction.from_json(c) for c in value["convictions"]],
            suspects=value["suspects"],
            fit_group=value["fit_group"],
            fit_sets=value["fit_sets"],
            lanes=value["lanes"],
            ends=value["ends"],
            spec=value["spec"],
            max_commit_delay_s=value["max_commit_delay_s"],
            replay=value["replay"],
            retired=value["retired"],
            reencode=value["reencode"],
        )
