"""What a retired engine has made and is to be encoded again, as tasks of a few shards of one lane each.

The log says which samples these are (`shards/engines.py`), so a task is made anew from it whenever it is given out:
what was done is in it no more, and shards that were merged meanwhile are there under their new names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from headrace.ingest.ledger import Ledger
from headrace.ingest.place import Place
from headrace.ingest.resolve import ResolvedStream
from headrace.ingest.task import Task
from headrace.shards.engines import due_in
from headrace.shards.entry import ShardInfo, Span, split_digest

#: Of one task, so that a message to a child stays small and several workers share a lane.
_TASK_SHARDS = 16
_TASK_BYTES = 256 << 20

PREFIX = "reencode:"


@dataclass(frozen=True)
class Chunk:
    """Samples [start, stop) of a lane of a stream of the dataset; `source` is the pipeline's stream behind it."""

    source: str
    output: str
    modality: str
    lane: int
    start: int
    stop: int

    @property
    def key(self) -> str:
        """Names the task."""
        return f"{PREFIX}{self.output}/L{self.lane:04d}/{self.start}"


class Reencoding:
    """The work, from the log of a ledger. `unchecked` True: also what could not be encoded again before."""

    def __init__(self, ledger: Ledger, *, unchecked: bool = False) -> None:
        self._ledger = ledger
        self._unchecked = unchecked
        self._pins: dict[str, dict[str, str | None]] = {}

    def chunks(self, stream: ResolvedStream) -> list[Chunk]:
        """All that is due in the samples of a pipeline's stream."""
        engines, settings = self._ledger.log.state.engines, self._ledger.log.state.settings
        names = {output.name: modality for modality, output in stream.outputs.items()}
        out: list[Chunk] = []
        for (name, lane), _ in engines.due_lanes(settings, unchecked=self._unchecked) if engines.retired else ():
            if name not in names:
                continue
            group: list[ShardInfo] = []
            for shard, _ in [*self._due(name, lane, 0, None), (None, [])]:
                full = len(group) >= _TASK_SHARDS or sum(s.bytes for s in group) >= _TASK_BYTES
                if group and (shard is None or full):
                    out.append(
                        Chunk(stream.name, name, names[name], lane, group[0].first_seq, group[-1].stop_seq)
                    )
                    group = []
                if shard is not None:
                    group.append(shard)
        return out

    def task(self, chunk: Chunk, stream: ResolvedStream, spec: dict[str, Any] | None = None) -> Task:
        """What of a chunk is due now, which may be nothing."""
        log_ = self._ledger.log
        fingerprint = log_.state.settings[chunk.output].tokenizer
        due = self._due(chunk.output, chunk.lane, chunk.start, chunk.stop)
        pins = self._pins_of(stream)
        splits = {r.split for shard, _ in due for r in shard.ranges}
        own = {d: p.pin for d in splits if (p := log_.state.splits.get((stream.name, d))) is not None}
        return Task(
            "reencode",
            chunk.key,
            chunk.source,
            chunk.lane,
            log_.epoch or 0,
            place=Place(0, due[0][1][0].start if due else chunk.stop),
            tokenizers={chunk.modality: fingerprint} if fingerprint else {},
            convictions=self._ledger.convictions(chunk.source),
            spec=spec,
            retired=log_.state.engines.pairs(),
            reencode={
                "modality": chunk.modality,
                "shards": [[shard.to_json(), [s.to_json() for s in spans]] for shard, spans in due],
                "pins": {**{d: pins[d] for d in splits if d in pins}, **own},
            },
        )

    def _due(self, output: str, lane: int, start: int, stop: int | None) -> list[tuple[ShardInfo, list[Span]]]:
        state = self._ledger.log.state
        due = state.engines.due((output, lane), state.settings, unchecked=self._unchecked)
        shards = state.shards.get((output, lane), [])
        inside = (s for s in shards if s.stop_seq > start and (stop is None or s.first_seq < stop))
        return [(shard, spans) for shard in inside if (spans := due_in(shard, due))]

    def _pins_of(self, stream: ResolvedStream) -> dict[str, str | None]:
        """Digest → pin of the splits that a bounded source is planned with."""
        plan = self._ledger.plans.get(stream.name)
        if plan is None:
            return {}
        if stream.name not in self._pins:
            self._pins[stream.name] = {split_digest(split.id): split.pin for _, split, _ in plan.rows}
        return self._pins[stream.name]
