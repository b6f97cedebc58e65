"""Which samples a fast engine made, which engines are retired, and what was made again by the reference library.

A tokenizer may encode with a faster library that gives the reference library's tokens. It is compared for ever; one
that was found to differ is retired by an entry of the log, for everybody and for good. What it had made is encoded
again: the samples that it made are known by lane and sequence number (`made`), and every entry of kind `reencode` takes
from them what it looked at. When nothing is due any more, all tokens are those of the reference library, save the
samples that are listed as unchecked.

    due(lane) = made by a retired engine, less deleted, less unchecked
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from headrace.schemas.errors import LogError, Unbalanced
from headrace.shards.books import StreamCounts
from headrace.shards.entry import ENGINES, Entry, Reencoded, ShardInfo, Span, StreamSettings
from headrace.shards.shard_check import LaneKey
from headrace.shards.spans import clipped, count, merged, without

REFERENCE = "reference"

Settings = dict[str, StreamSettings]
Refuse = Callable[[str], LogError]  #: how to refuse what came too late


@dataclass(frozen=True)
class Retirement:
    """A retired engine of a tokenizer: `v` is the version that retired it."""

    v: int
    engine: str
    stream: str
    record: str


@dataclass(frozen=True)
class Again:
    """What became of a stream's samples that a retired engine had made."""

    checked: int = 0
    replaced: int = 0  #: of the checked ones
    first_v: int = 0  #: the first entry that replaced some
    last_v: int = 0  #: the last one


@dataclass
class Engines:
    """Part of the state of a dataset."""

    made: dict[LaneKey, dict[str, list[Span]]] = field(default_factory=dict)  #: by engine, the reference aside
    retired: dict[tuple[str, str], Retirement] = field(default_factory=dict)  #: by (fingerprint, engine)
    unchecked: dict[LaneKey, list[Span]] = field(default_factory=dict)  #: cannot be encoded again; not deleted
    again: dict[str, Again] = field(default_factory=dict)  #: by stream

    def __bool__(self) -> bool:
        return bool(self.made or self.retired or self.unchecked or self.again)

    # ---- questions ----

    def pairs(self) -> list[list[str]]:
        """[fingerprint, engine] of every retired one: what a worker is told."""
        return [list(pair) for pair in sorted(self.retired)]

    def of_stream(self, stream: str, settings: Settings) -> list[Retirement]:
        """The retired engines of a stream's tokenizer, oldest first."""
        own = settings[stream].tokenizer if stream in settings else None
        return sorted((r for (f, _), r in self.retired.items() if f == own), key=lambda r: (r.v, r.engine))

    def in_use(self, stream: str, settings: Settings) -> str:
        """The fast engine that made samples of a stream and is not retired; else `reference`."""
        own = settings[stream].tokenizer if stream in settings else None
        names = {name for (s, _), made in self.made.items() if s == stream for name in made}
        return ", ".join(sorted(n for n in names if (own, n) not in self.retired)) or REFERENCE

    def due(self, key: LaneKey, settings: Settings, *, unchecked: bool = False) -> list[Span]:
        """The samples of a lane that are to be encoded again; `unchecked` True adds those that could not be before."""
        if not self.retired or key not in self.made:
            return []
        own = settings[key[0]].tokenizer
        spans = merged(s for name, made in self.made[key].items() if (own, name) in self.retired for s in made)
        return spans if unchecked else without(spans, self.unchecked.get(key, []))

    def due_lanes(self, settings: Settings, *, unchecked: bool = False) -> Iterator[tuple[LaneKey, list[Span]]]:
        """Every lane that has such samples, in order."""
        for key in sorted(self.made) if self.retired else ():
            if spans := self.due(key, settings, unchecked=unchecked):
                yield key, spans

    # ---- folding ----

    def check(
        self, entry: Entry, known: Settings, shards: Callable[[LaneKey], list[ShardInfo]], stale: Refuse
    ) -> None:
        """Refuse an entry that goes on with a retired engine, or encodes again what is not due (any more).

        Raises: what `stale` makes, LogError, Unbalanced.
        """
        for info in entry.retired_engines:
            if info.engine in ("", REFERENCE) or all(s.tokenizer != info.fingerprint for s in known.values()):
                raise LogError(f"no stream has a tokenizer {info.fingerprint[:12]}… with a fast engine {info.engine!r}")
        made = _engines_of(entry)
        for shard in entry.add if self.retired and made else ():
            engine = made.get((shard.stream, shard.lane), REFERENCE)
            if (gone := self.retired.get((known[shard.stream].tokenizer or "", engine))) is not None:
                raise stale(f"{shard.path} was made by {engine}, which version {gone.v} retired")
        for line in entry.reencoded:
            self._check_line(line, entry, known, shards, stale)

    def _check_line(
        self,
        line: Reencoded,
        entry: Entry,
        known: Settings,
        shards: Callable[[LaneKey], list[ShardInfo]],
        stale: Refuse,
    ) -> None:
        key, where = (line.stream, line.lane), f"{line.stream}/L{line.lane:04d}"
        for name in ("checked", "replaced", "unchecked"):
            if merged(getattr(line, name)) != getattr(line, name):
                raise LogError(f"{where}: `{name}` should be sorted, disjoint spans, not {getattr(line, name)}")
        both = merged([*line.checked, *line.unchecked])
        if not both or count(both) != count(line.checked) + count(line.unchecked):
            raise LogError(f"{where}: no sample, or one that is both checked and unchecked")
        if without(line.replaced, line.checked):
            raise LogError(f"{where}: samples are replaced that were not checked")
        if known.get(line.stream) is None or (late := without(both, self.due(key, known, unchecked=True))):
            raise stale(f"{where}: {late[0] if key[0] in known else 'it'} is not to be encoded again")
        old = {s.path: s for s in shards(key)}
        changes = [c for c in entry.replace if any(p in old for p in c.remove)]
        gained = sum(s.tokens for c in changes for s in c.add)
        gained -= sum(old[p].tokens for c in changes for p in c.remove if p in old)
        covered = [Span(s.first_seq, s.stop_seq) for c in changes for s in c.add]
        if gained != line.tokens or without(line.replaced, merged(covered)):
            raise Unbalanced(
                f"{where}: {count(line.replaced)} samples replaced with {line.tokens} more tokens, the new shards hold"
                f" {gained} more and cover {covered}"
            )

    def apply(self, entry: Entry, streams: dict[str, StreamCounts], changed: dict[LaneKey, int]) -> None:
        """Fold in an entry; the books of `streams` and the versions of `changed` lanes follow."""
        made = _engines_of(entry)
        for shard in entry.add if made else ():
            engine = made.get((shard.stream, shard.lane))
            if engine is not None:
                of_lane = self.made.setdefault((shard.stream, shard.lane), {})
                of_lane[engine] = _appended(of_lane.get(engine, []), Span(shard.first_seq, shard.stop_seq))
        for delete in entry.delete if self.made else ():
            self._take((delete.stream, delete.lane), merged(delete.seqs))
        for info in entry.retired_engines:
            known = Retirement(entry.v, info.engine, info.stream, info.record)
            self.retired.setdefault((info.fingerprint, info.engine), known)
        for line in entry.reencoded:
            key = (line.stream, line.lane)
            self._take(key, line.checked)
            if line.unchecked:
                self.unchecked[key] = merged([*self.unchecked.get(key, []), *line.unchecked])
            counts = streams.get(line.stream, StreamCounts())
            streams[line.stream] = replace(counts, tokens=counts.tokens + line.tokens)
            before = self.again.get(line.stream, Again())
            first, last = before.first_v, before.last_v
            if line.replaced:
                changed[key] = entry.v
                first, last = first or entry.v, entry.v
            done, other = before.checked + count(line.checked), before.replaced + count(line.replaced)
            self.again[line.stream] = Again(done, other, first, last)

    def _take(self, key: LaneKey, spans: list[Span]) -> None:
        """These samples are the reference library's now, or nobody's."""
        of_lane = {name: left for name, have in self.made.pop(key, {}).items() if (left := without(have, spans))}
        if of_lane:
            self.made[key] = of_lane
        if left := without(self.unchecked.pop(key, []), spans):
            self.unchecked[key] = left

    # ---- as JSON, for checkpoints ----

    def to_json(self) -> dict[str, Any]:
        """All of it."""
        return {
            "made": [
                [*key, engine, [s.to_json() for s in spans]]
                for key, of_lane in sorted(self.made.items())
                for engine, spans in sorted(of_lane.items())
            ],
            "retired": [[f, r.engine, r.v, r.stream, r.record] for (f, _), r in sorted(self.retired.items())],
            "unchecked": [[*key, [s.to_json() for s in spans]] for key, spans in sorted(self.unchecked.items())],
            "again": [
                [name, a.checked, a.replaced, a.first_v, a.last_v] for name, a in sorted(self.again.items())
            ],
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Engines:
        """What `to_json` gave."""
        made = cls()
        for stream, lane, engine, spans in value["made"]:
            made.made.setdefault((stream, lane), {})[engine] = [Span.from_json(s) for s in spans]
        made.retired = {(f, engine): Retirement(v, engine, *of) for f, engine, v, *of in value["retired"]}
        made.unchecked = {(s, lane): [Span.from_json(x) for x in spans] for s, lane, spans in value["unchecked"]}
        made.again = {name: Again(*numbers) for name, *numbers in value["again"]}
        return made


def lane_name(stream: str, lane: int) -> str:
    """How the `ext` of an entry names a lane."""
    return f"{stream}/L{lane:04d}"


def _engines_of(entry: Entry) -> dict[LaneKey, str]:
    """Lane → fast engine, as an entry says it; what is not of this form says nothing (`ext` is free)."""
    told = entry.ext.get(ENGINES)
    out: dict[LaneKey, str] = {}
    for name, engine in told.items() if isinstance(told, dict) else ():
        stream, _, lane = name.rpartition("/L")
        if stream and lane.isdigit() and isinstance(engine, str) and engine != REFERENCE:
            out[stream, int(lane)] = engine
    return out


def _appended(spans: list[Span], last: Span) -> list[Span]:
    """The spans with one behind them all."""
    if spans and spans[-1].stop == last.start:
        return [*spans[:-1], Span(spans[-1].start, last.stop)]
    return [*spans, last]


def due_in(shard: ShardInfo, due: list[Span]) -> list[Span]:
    """What of a lane's due samples a shard holds."""
    return without(clipped(due, shard.first_seq, shard.stop_seq), shard.missing)
