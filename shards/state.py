"""What the log says is true at one version: its entries folded together.

`check` refuses an entry that must not follow; `apply` folds it in. Both are plain functions of state and entry, without
I/O, so that the simulation tests and `verify` use the very code that writers use.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field, replace
from typing import Any

from headrace.schemas.canonical import canonical_json, position_json
from headrace.schemas.errors import BrokenLog, LogError, SettingsDiffer, Unbalanced
from headrace.shards.books import SourceCounts, StreamCounts
from headrace.shards.engines import Engines
from headrace.shards.entry import (
    ENGINES,
    Conviction,
    Entry,
    GapInfo,
    LaneFile,
    Place,
    PlanSegment,
    QuarantineInfo,
    Replace,
    ShardInfo,
    Span,
    SplitPin,
    StreamSettings,
    TokenizerInfo,
)
from headrace.shards.retired import Retired
from headrace.shards.shard_check import LaneKey, check_epoch, check_shard, lane_of
from headrace.shards.spans import clipped, count, merged, without

#: Key of an entry's `ext`: the files of all shards that this version or an earlier one replaced are gone.
COLLECTED = "headrace.collected"


class StalePlace(LogError):
    """An entry expects a lane at another place than the log has it: a repeated or ghost commit."""


class StaleReplay(StalePlace):
    """An entry marks rows as replayed that are marked, or whose file was replaced: a repeated replay."""


@dataclass
class State:
    """A dataset at version `v`, whose entry has digest `digest`. Version 0 is the empty log."""

    v: int = 0
    digest: str = ""
    epoch: int = 0
    ended: bool = False  #: the writer of this epoch said that it is done
    api: str | None = None
    env: dict[str, str] = field(default_factory=dict)
    settings: dict[str, StreamSettings] = field(default_factory=dict)
    shards: dict[LaneKey, list[ShardInfo]] = field(default_factory=dict)  #: live ones, by first_seq
    paths: set[str] = field(default_factory=set)  #: of live shards
    retired: Retired = field(default_factory=Retired)  #: paths of replaced ones, until a gc says that they are gone
    next_seq: dict[LaneKey, int] = field(default_factory=dict)
    origins: dict[LaneKey, list[tuple[int, int]]] = field(default_factory=dict)  #: (first_seq, v) of shards added
    blurred: dict[LaneKey, list[Span]] = field(default_factory=dict)  #: merged shards: `origins` has their first only
    deleted: dict[LaneKey, list[Span]] = field(default_factory=dict)  #: merged; erased ones included
    deleted_tokens: dict[str, int] = field(default_factory=dict)  #: by stream
    forgotten: set[str] = field(default_factory=set)  #: record ids, hex, that may not come back
    changed: dict[LaneKey, int] = field(default_factory=dict)  #: version of the last delete
    doomed: set[str] = field(default_factory=set)  #: replaced files that must be deleted
    quarantine: dict[str, QuarantineInfo] = field(default_factory=dict)  #: by path
    replayed: dict[str, list[Span]] = field(default_factory=dict)  #: rows of live quarantine files, merged, by path
    plan: dict[str, list[PlanSegment]] = field(default_factory=dict)  #: by source, in order of number
    splits: dict[tuple[str, str], SplitPin] = field(default_factory=dict)  #: unbounded ones by (source, split digest)
    places: dict[tuple[str, int, str | None], Place] = field(default_factory=dict)  #: by (source, lane, split or None)
    carry: dict[LaneKey, LaneFile] = field(default_factory=dict)
    dedup: dict[LaneKey, LaneFile] = field(default_factory=dict)
    convictions: list[Conviction] = field(default_factory=list)
    gaps: list[GapInfo] = field(default_factory=list)
    watermarks: dict[LaneKey, int] = field(default_factory=dict)
    tokenizers: dict[str, TokenizerInfo] = field(default_factory=dict)
    vocab: str | None = None
    streams: dict[str, StreamCounts] = field(default_factory=dict)  #: books, summed over all entries
    sources: dict[str, SourceCounts] = field(default_factory=dict)
    engines: Engines = field(default_factory=Engines)  #: who made samples, where it was not the reference library
    ext: dict[str, Any] = field(default_factory=dict)

    @property
    def maybe_live(self) -> bool:
        """Whether a writer of this epoch may still be running."""
        return self.epoch > 0 and not self.ended

    def place(self, source: str, lane: int, split: str | None = None) -> Place | None:
        """How far a lane got, None at its start."""
        return self.places.get((source, lane, split))

    def live_shards(self, stream: str | None = None) -> list[ShardInfo]:
        """Live shards in address order: stream, lane, seq."""
        return [s for key in sorted(self.shards) if stream in (None, key[0]) for s in self.shards[key]]

    def replayed_rows(self, stream: str | None = None) -> int:
        """How many quarantined rows were replayed: they still count as quarantined in the books, once."""
        marks = ((self.quarantine[path].stream, rows) for path, rows in self.replayed.items())
        return sum(count(rows) for owner, rows in marks if stream in (None, owner))

    def locate(self, stream: str, lane: int, seq: int) -> tuple[ShardInfo, int] | None:
        """The shard and row of an address; None if it was never given, or was erased. Deleted rows are found."""
        shards = self.shards.get((stream, lane), [])
        at = bisect_right(shards, seq, key=lambda s: s.first_seq) - 1
        if at < 0 or seq >= shards[at].stop_seq:
            return None
        shard = shards[at]
        before = clipped(shard.missing, shard.first_seq, seq + 1)
        if before and before[-1].stop > seq:
            return None
        return shard, seq - shard.first_seq - count(before)

    def numbered(self, shards: list[ShardInfo]) -> list[ShardInfo]:
        """The shards with the `first_seq` that a commit right now would give them."""
        following: dict[LaneKey, int] = {}
        out = []
        for shard in shards:
            key = (shard.stream, shard.lane)
            first = following.get(key, self.next_seq.get(key, 0))
            out.append(replace(shard, first_seq=first))
            following[key] = first + shard.rows
        return out

    def referenced(self) -> set[str]:
        """Every file this version needs, log entries and checkpoints aside."""
        paths = {s.path for shards in self.shards.values() for s in shards} | set(self.quarantine)
        paths |= {segment.path for segments in self.plan.values() for segment in segments}
        paths |= {f.path for files in (self.carry, self.dedup) for f in files.values() if f.path is not None}
        paths |= {f.path for t in self.tokenizers.values() for f in t.files}
        if self.vocab is not None:
            paths.add(f"vocab/{self.vocab}.json")
        return paths

    # ---- folding ----

    def check(self, entry: Entry) -> None:
        """Refuse an entry that must not come next; its v, prev and id are the log's business.

        Raises: Unbalanced, StalePlace, SettingsDiffer, or LogError that names the part and what would be right.
        """
        if entry.kind == "claim":
            if entry.epoch != self.epoch + 1:
                raise LogError(f"a claim after epoch {self.epoch} has epoch {self.epoch + 1}, not {entry.epoch}")
        elif entry.epoch != self.epoch or self.epoch == 0:
            raise LogError(f"an entry of epoch {entry.epoch} cannot follow epoch {self.epoch}")
        elif self.ended:
            raise LogError(f"epoch {self.epoch} has ended: claim the dataset before writing to it")
        self._check_settings(entry)
        self._check_replayed(entry)  # before its files: a repeated entry is known by its marks
        known = {**self.settings, **entry.settings}
        for shard, numbered in zip(entry.add, self.numbered(entry.add)):
            check_shard(shard, known, entry.epoch)
            if shard.path in self.paths or shard.path in self.retired:
                raise LogError(f"{shard.path} was committed before")
            if shard.first_seq != numbered.first_seq or shard.missing:
                raise LogError(
                    f"{shard.path}: a new shard begins at seq {numbered.first_seq} of {shard.stream}/L{shard.lane:04d}"
                    f" and misses none, not at {shard.first_seq}"
                )
        self._check_books(entry)
        self._check_places(entry)
        self._check_deletes(entry)
        if not 0 <= _collected(entry) < max(entry.v, 1):
            raise LogError(f"{COLLECTED} is {_collected(entry)}, not an earlier version than {entry.v}")
        for change in entry.replace:
            self._check_replace(change, entry, known)
        self.engines.check(entry, known, lambda key: self.shards.get(key, []), StalePlace)
        for source, segments in _by_source(entry.plan).items():
            have = len(self.plan.get(source, []))
            if [s.number for s in segments] != list(range(have, have + len(segments))):
                raise LogError(f"plan of {source}: the next segment is number {have}, not {segments[0].number}")
        for redact in entry.redact:
            old, new = self.quarantine.get(redact.remove), redact.add
            if old is None or (old.stream, old.rows, old.items, old.reasons) != (
                new.stream,
                new.rows,
                new.items,
                new.reasons,
            ):
                raise LogError(f"{new.path} does not stand for the same rows as {redact.remove}")
        for path in [q.path for q in entry.quarantine] + [r.add.path for r in entry.redact]:
            check_epoch(path, entry.epoch)
        for lane_file in [*entry.carry, *entry.dedup]:
            if lane_file.path is not None:
                check_epoch(lane_file.path, entry.epoch)

    def _check_settings(self, entry: Entry) -> None:
        for stream, new in entry.settings.items():
            old = self.settings.get(stream)
            if old is None or old.digest == new.digest:
                continue
            keys = sorted(k for k in old.detail.keys() | new.detail.keys() if old.detail.get(k) != new.detail.get(k))
            first = keys[0] if keys else "digest"
            was, now = (old.detail, new.detail) if keys else (old.to_json(), new.to_json())
            raise SettingsDiffer(
                f"the dataset holds this stream with other settings ({', '.join(keys) or 'digest'}): {first} was"
                f" {was.get(first)!r}, now {now.get(first)!r}. A stream never changes: name the new one {stream}@2,"
                " or write to another dataset",
                field=f"streams.{stream}",
                value=now.get(first),
            )

    def _check_books(self, entry: Entry) -> None:
        entry.books.check()
        sources: dict[str, SourceCounts] = {}
        for line in entry.books.splits:
            before = sources.get(line.source) or self.sources.get(line.source, SourceCounts())
            sources[line.source] = before.plus(line)
        for source, total in sources.items():
            total.check(source)
        samples: dict[str, list[int]] = {}
        quarantined: dict[str, int] = {}
        items = 0
        for shard in entry.add:
            line_ = samples.setdefault(shard.stream, [0, 0])
            line_[0] += shard.rows
            line_[1] += shard.tokens
        for file in entry.quarantine:
            if file.rows != sum(file.reasons.values()) or not 0 <= file.items <= file.rows:
                raise Unbalanced(
                    f"{file.path}: {file.rows} rows, {file.items} of them items, its reasons {file.reasons} add up to"
                    f" {sum(file.reasons.values())}"
                )
            quarantined[file.stream] = quarantined.get(file.stream, 0) + file.rows - file.items
            items += file.items
        for stream in sorted(samples.keys() | quarantined.keys() | entry.books.streams.keys()):
            told = entry.books.streams.get(stream, StreamCounts())
            rows, tokens = samples.get(stream, [0, 0])
            for what, said, found in (
                ("samples", told.samples, rows),
                ("tokens", told.tokens, tokens),
                ("quarantined records", told.quarantined, quarantined.get(stream, 0)),
            ):
                if said != found:
                    raise Unbalanced(f"stream {stream}: the books say {said} {what}, its files hold {found}")
        whole = sum(line.quarantined for line in entry.books.splits)
        if whole != items:
            raise Unbalanced(f"the books say {whole} items quarantined whole, the quarantine files hold {items}")

    def _check_places(self, entry: Entry) -> None:
        places: dict[tuple[str, int, str | None], Place] = {}
        for move in entry.places:
            key = (move.source, move.lane, move.split)
            have = places.get(key) or self.places.get(key)
            if have != move.expect:
                raise StalePlace(
                    f"{move.source}/L{move.lane:04d}{f' split {move.split}' if move.split else ''} stands at"
                    f" {_show(have)}, the entry expects {_show(move.expect)}"
                )
            position_json(move.place.position)
            places[key] = move.place
        for there, files in ((self.carry, entry.carry), (self.dedup, entry.dedup)):
            for file in files:
                old = there.get((file.source, file.lane))
                if file.expect != (old.path if old else None):
                    raise StalePlace(f"{file.source}/L{file.lane:04d} has {old and old.path}, not {file.expect}")
        for mark in entry.watermarks:
            if mark.event_time_us < self.watermarks.get((mark.source, mark.lane), mark.event_time_us):
                raise StalePlace(f"the watermark of {mark.source}/L{mark.lane:04d} would fall")

    def _check_deletes(self, entry: Entry) -> None:
        for delete in entry.delete:
            end = self.next_seq.get((delete.stream, delete.lane), 0)
            for span in delete.seqs:
                if not 0 <= span.start < span.stop <= end:
                    raise LogError(
                        f"delete of {delete.stream}/L{delete.lane:04d} [{span.start}, {span.stop}): it holds [0, {end})"
                    )

    def _check_replayed(self, entry: Entry) -> None:
        replaced = {redact.remove for redact in entry.redact}
        marked: dict[str, list[Span]] = {}
        for mark in entry.replayed:
            file = self.quarantine.get(mark.path)
            if file is None or mark.path in replaced:
                raise StaleReplay(f"{mark.path} is no live quarantine file, so none of its rows can be replayed")
            if not mark.rows or merged(mark.rows) != mark.rows or mark.rows[0].start < 0:
                raise LogError(f"{mark.path}: replayed rows should be sorted, disjoint spans, not {mark.rows}")
            if mark.rows[-1].stop > file.rows:
                raise LogError(f"{mark.path} has {file.rows} rows, the entry marks row {mark.rows[-1].stop - 1}")
            before = marked.get(mark.path, self.replayed.get(mark.path, []))
            after = merged([*before, *mark.rows])
            if count(after) != count(before) + count(mark.rows):
                twice = next(s.start for r in mark.rows for s in clipped(before, r.start, r.stop))
                raise StaleReplay(f"{mark.path}: row {twice} was replayed before")
            marked[mark.path] = after

    def _check_replace(self, change: Replace, entry: Entry, known: dict[str, StreamSettings]) -> None:
        key = lane_of(change.remove[0]) if change.remove else None
        live = self._live_of(key, change) if key else {}
        elsewhere = [p for p in change.remove if lane_of(p) != key]
        gone = [p for p in change.remove if p not in live and p not in elsewhere]
        gone += [p for p in elsewhere if not self._is_live(p)]
        if gone or key is None:
            raise LogError(f"replace: {gone or 'nothing'} is not a live shard")
        if elsewhere or any((s.stream, s.lane) != key for s in change.add):
            raise LogError(f"replace: shards of several lanes: {[*change.remove, *(s.path for s in change.add)]}")
        old = sorted(live.values(), key=lambda s: s.first_seq)
        low, high = old[0].first_seq, old[-1].stop_seq
        dropped = merged(
            [
                *clipped(self.deleted.get(key, []), low, high),
                *(s for d in entry.delete if (d.stream, d.lane) == key for s in d.seqs),
            ]
        )
        before = merged(s for shard in old for s in without([Span(shard.first_seq, shard.stop_seq)], shard.missing))
        after: list[Span] = []
        for shard in change.add:
            check_shard(shard, known, entry.epoch)
            after += without([Span(shard.first_seq, shard.stop_seq)], shard.missing)
        if count(after) != count(merged(after)) or without(merged(after), before):
            raise LogError(f"replace of {change.remove}: the new shards hold rows that the old ones did not")
        lost = without(without(before, merged(after)), dropped)
        if lost:
            raise LogError(
                f"replace of {change.remove}: samples {lost[0].start} to {lost[0].stop} would be lost undeleted"
            )

    def _live_of(self, key: LaneKey, change: Replace) -> dict[str, ShardInfo]:
        """The live shards of a lane that a change removes: looked for where it adds, then in the whole lane."""
        shards, wanted = self.shards.get(key, []), set(change.remove)
        if change.add:
            at = max(bisect_right(shards, change.add[0].first_seq, key=lambda s: s.first_seq) - 1, 0)
            near = {s.path: s for s in shards[at : at + len(wanted)] if s.path in wanted}
            if len(near) == len(wanted):
                return near
        return {s.path: s for s in shards if s.path in wanted}

    def _is_live(self, path: str) -> bool:
        key = lane_of(path)
        return key is not None and any(s.path == path for s in self.shards.get(key, []))

    def apply(self, entry: Entry, digest: str) -> None:
        """Fold in an entry that `check` allowed or the log holds."""
        self.v, self.digest, self.epoch = entry.v, digest, entry.epoch
        if entry.kind == "claim":
            self.ended, self.api, self.env = False, entry.api, dict(entry.env)
        elif entry.kind == "end":
            self.ended = True
        self.settings.update(entry.settings)
        for shard in entry.add:
            key = (shard.stream, shard.lane)
            due = self.next_seq.get(key, 0)
            if shard.first_seq != due:
                raise BrokenLog(f"entry {entry.v}: {shard.path} begins at seq {shard.first_seq}, not {due}")
            self.paths.add(shard.path)
            self.shards.setdefault(key, []).append(shard)
            self.origins.setdefault(key, []).append((shard.first_seq, entry.v))
            self.next_seq[key] = shard.stop_seq
        for delete in entry.delete:
            key = (delete.stream, delete.lane)
            self.deleted[key] = _united(self.deleted.get(key, []), delete.seqs)
            self.deleted_tokens[delete.stream] = self.deleted_tokens.get(delete.stream, 0) + delete.tokens
            self.forgotten.update(delete.ids)
            self.changed[key] = entry.v
        for change in entry.replace:
            removed = set(change.remove)
            for path in removed & self.paths:
                self.paths.discard(path)
                self.retired.add(path, entry.v)
            self.paths.update(s.path for s in change.add)
            self.doomed.update(removed if change.erase else ())
            for lane in {lane_of(path) for path in removed} & self.shards.keys():
                assert lane is not None
                kept = [s for s in self.shards[lane] if s.path not in removed]
                if len(kept) < len(self.shards[lane]):
                    self.shards[lane] = sorted([*kept, *change.add], key=lambda s: s.first_seq)
                    self._blur(lane, change.add)
        for file in entry.quarantine:
            self.quarantine[file.path] = file
        for redact in entry.redact:
            self.quarantine.pop(redact.remove, None)
            self.quarantine[redact.add.path] = redact.add
            if redact.remove in self.replayed:  # the same rows in the same order
                self.replayed[redact.add.path] = self.replayed.pop(redact.remove)
            self.doomed.update([redact.remove] if redact.erase else ())
        for mark in entry.replayed:
            self.replayed[mark.path] = _united(self.replayed.get(mark.path, []), mark.rows)
        for segment in entry.plan:
            self.plan.setdefault(segment.source, []).append(segment)
        self.splits.update({(s.source, s.split): s for s in entry.splits})
        self.places.update({(m.source, m.lane, m.split): m.place for m in entry.places})
        for have, files in ((self.carry, entry.carry), (self.dedup, entry.dedup)):
            for lane_file in files:
                if lane_file.path is None:
                    have.pop((lane_file.source, lane_file.lane), None)
                else:
                    have[lane_file.source, lane_file.lane] = lane_file
        self.convictions += entry.convictions
        self.gaps += entry.gaps
        self.watermarks.update({(w.source, w.lane): w.event_time_us for w in entry.watermarks})
        self.tokenizers.update({t.fingerprint: t for t in entry.tokenizers})
        self.vocab = entry.vocab or self.vocab
        for line in entry.books.splits:
            self.sources[line.source] = self.sources.get(line.source, SourceCounts()).plus(line)
        for stream, counts in entry.books.streams.items():
            self.streams[stream] = self.streams.get(stream, StreamCounts()).plus(counts)
        self.engines.apply(entry, self.streams, self.changed)
        self.ext.update((name, value) for name, value in entry.ext.items() if name != ENGINES)
        if COLLECTED in entry.ext:
            self.retired.drop(_collected(entry))

    def _blur(self, key: LaneKey, added: list[ShardInfo]) -> None:
        """Of shards that became one only the first origin is kept, so that there are no more than live shards.

        The log still has the others (additions.py).
        """
        origins = self.origins.get(key, [])
        for shard in added:
            low = bisect_right(origins, shard.first_seq, key=lambda o: o[0])
            high = bisect_left(origins, shard.stop_seq, key=lambda o: o[0])
            if high > low:
                del origins[low:high]
                self.blurred[key] = _united(self.blurred.get(key, []), [Span(shard.first_seq, shard.stop_seq)])


def _collected(entry: Entry) -> int:
    """What an entry says of replaced files. Raises: LogError."""
    v = entry.ext.get(COLLECTED, 0)
    if not isinstance(v, int) or isinstance(v, bool):
        raise LogError(f"{COLLECTED} is {v!r}, not a version")
    return v


def _united(have: list[Span], more: list[Span]) -> list[Span]:
    """`merged` of both where `have` is sorted and disjoint already: only what lies near `more` is touched."""
    if not more:
        return have
    low = max(bisect_right(have, min(s.start for s in more), key=lambda s: s.start) - 1, 0)
    high = bisect_right(have, max(s.stop for s in more), key=lambda s: s.start)
    return [*have[:low], *merged([*have[low:high], *more]), *have[high:]]


def _by_source(segments: list[PlanSegment]) -> dict[str, list[PlanSegment]]:
    out: dict[str, list[PlanSegment]] = {}
    for segment in segments:
        out.setdefault(segment.source, []).append(segment)
    return out


def _show(place: Place | None) -> str:
    return "its start" if place is None else canonical_json(place.to_json()).decode()
