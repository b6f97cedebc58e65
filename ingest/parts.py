"""Builds one dataset as a job array: each job builds its part of the lanes, then the parts are joined into one log.

The plan depends on the listing and the settings alone, so every job knows the whole plan and takes the lanes
`lane % N == i` of it; jobs never speak to each other. A part is a dataset of its own, `DATASET/parts/0003-of-0008`.
`join` checks that all parts were built from one listing and are complete, copies their files under names of its own
epoch, and appends their commits: what comes out is what an undivided build would have written.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from headrace.ingest.artefacts import read_artefact, write_artefact
from headrace.ingest.environment import library_versions
from headrace.ingest.place import Place
from headrace.ingest.plan import SourcePlan, read_plan
from headrace.ingest.vocabularies import grow_vocabulary
from headrace.schemas.errors import BrokenLog, ConfigError, SourceChanged
from headrace.shards import entry as log
from headrace.shards.log import CommitLog
from headrace.shards.names import plan_name, quarantine_name, shard_name
from headrace.shards.state import State
from headrace.shards.store import Store, open_store

_PART = re.compile(r"^(\d+)/(\d+)$")
_FOLDER = re.compile(r"^parts/(\d{4})-of-(\d{4})/")
_CHUNK = 8 << 20


@dataclass(frozen=True)
class Part:
    """Job `number` (0-based) of `of`."""

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Part:
        """`0/8` to `7/8`. Raises: ConfigError."""
        found = _PART.match(text)
        part = cls(int(found[1]), int(found[2])) if found else None
        if part is None or not 0 <= part.number < part.of <= 9999:
            raise ConfigError(
                "a part and their number are expected, from 0/8 to 7/8 for eight jobs", field="--part", value=text
            )
        return part

    def has(self, lane: int) -> bool:
        """Whether this job builds the lane."""
        return lane % self.of == self.number

    def dataset(self, whole: str) -> str:
        """Where the part is built."""
        return f"{whole.rstrip('/')}/parts/{self.number:04d}-of-{self.of:04d}"


def fitted_in(store: Store, into: Store) -> dict[str, str]:
    """Output name → fingerprint of the tokenizers of a dataset, whose artefacts are copied into another."""
    settings = CommitLog(store).replay().settings
    fitted = {name: s.tokenizer for name, s in settings.items() if s.tokenizer}
    for fingerprint in sorted(set(fitted.values())):
        write_artefact(into, read_artefact(store, fingerprint))
    return fitted


def join(dataset: str, *, watch: Callable[[int, int], None] | None = None) -> State:
    """Join the parts of a dataset into it; may be repeated after it was cut off. `watch` gets (done, all) entries.

    Raises: ConfigError if parts are missing, incomplete or of different listings; SettingsDiffer; StorageError.
    """
    store = open_store(dataset)
    parts = _parts(dataset, store)
    states = [CommitLog(open_store(part.dataset(dataset))).replay() for part in parts]
    _check_settings(parts, states)
    target = CommitLog(store)
    _check_plans(dataset, parts, states, target.replay())
    target.claim(library_versions(), states[0].settings)
    known = target.state.tokenizers
    for fingerprint in {s.tokenizer for s in states[0].settings.values() if s.tokenizer} - known.keys():
        source = open_store(parts[0].dataset(dataset))
        target.append(
            log.Entry(kind="commit", tokenizers=[write_artefact(store, read_artefact(source, str(fingerprint)))])
        )
    grow_vocabulary(target)
    _join_plan(target, open_store(parts[0].dataset(dataset)), states[0])
    total, done = sum(state.v for state in states), 0
    for part, state in zip(parts, states):
        source = open_store(part.dataset(dataset))
        reader = CommitLog(source)
        reader.state = state
        for entry, _ in reader.entries():
            done += 1
            if entry.places and _is_next(target.state, entry):
                target.append(_copied(entry, source, store, target.epoch or 0))
            if watch is not None:
                watch(done, total)
    if retired := _retired(states, target.state):  # last: what such an engine made is refused from there on
        target.append(log.Entry(kind="commit", retired_engines=retired))
    target.end()
    return target.state


def _retired(states: list[State], whole: State) -> list[log.RetiredEngine]:
    """The engines that a part retired. What they made has come as it was; a build of the whole encodes it again."""
    found: dict[tuple[str, str], log.RetiredEngine] = {}
    for state in states:
        for (fingerprint, engine), r in sorted(state.engines.retired.items()):
            if (fingerprint, engine) not in whole.engines.retired:
                found.setdefault((fingerprint, engine), log.RetiredEngine(fingerprint, engine, r.stream, r.record))
    return list(found.values())


def _parts(dataset: str, store: Store) -> list[Part]:
    found = {Part(int(m[1]), int(m[2])) for name in store.list("parts/") if (m := _FOLDER.match(name))}
    if not found:
        raise ConfigError(f"{dataset} has no parts: build them with `headrace build … --part 0/N` to `N-1/N`")
    counts = {part.of for part in found}
    if len(counts) > 1:
        raise ConfigError(f"{dataset} has parts of several divisions ({sorted(counts)}): remove those not meant")
    of = counts.pop()
    missing = sorted(set(range(of)) - {part.number for part in found})
    if missing:
        raise ConfigError(f"parts {missing} of {of} were not built yet")
    return sorted(found, key=lambda part: part.number)


def _check_settings(parts: list[Part], states: list[State]) -> None:
    for part, state in zip(parts, states):
        for name, first in states[0].settings.items():
            own = state.settings.get(name)
            if own is not None and own.digest != first.digest:
                raise ConfigError(f"parts {parts[0].number} and {part.number} were built with other settings of {name}")


def _check_plans(dataset: str, parts: list[Part], states: list[State], whole: State) -> None:
    """One listing for all, and each part at its end."""
    first: dict[str, str] = {}
    for source, segments in whole.plan.items():  # a join that was cut off
        if source in states[0].plan and len(segments) == len(states[0].plan[source]):
            first[source] = _digest(read_plan(open_store(dataset), segments))
    for part, state in zip(parts, states):
        store = open_store(part.dataset(dataset))
        for source, segments in state.plan.items():
            plan = read_plan(store, segments)
            digest = _digest(plan)
            if first.setdefault(source, digest) != digest:
                raise SourceChanged(
                    f"{source}: part {part.number} saw another listing than part {parts[0].number}: files were added,"
                    " removed or changed while the jobs began; build the parts again"
                )
            for lane in plan.lanes():
                at = state.place(source, lane)
                place = Place() if at is None else Place(at.segment or 0, at.row or 0, at.position, at.k)
                if part.has(lane) and place != plan.end(lane):
                    raise ConfigError(f"part {part.number} is not finished ({source}, lane {lane}): run it again")


def _digest(plan: SourcePlan) -> str:
    digest = hashlib.sha256()
    for segment, split, lane in plan.rows:
        digest.update(f"{segment}\0{split.id}\0{split.pin}\0{split.weight}\0{lane}\n".encode())
    return digest.hexdigest()


def _join_plan(target: CommitLog, source: Store, state: State) -> None:
    """The plan, and the pins that differ from it, as the first part has them."""
    segments = []
    for name, own in state.plan.items():
        have = target.state.plan.get(name, [])
        for segment in own[len(have) :]:
            path = plan_name(name, target.epoch or 0, segment.number)
            target.store.put_new(path, source.get(segment.path))
            segments.append(replace(segment, path=path))
    pins = [pin for key, pin in state.splits.items() if key not in target.state.splits]
    if segments or pins:
        target.append(log.Entry(kind="commit", plan=segments, splits=pins))


def _is_next(state: State, entry: log.Entry) -> bool:
    """Whether the entry's lane stands where it begins; a join that was cut off has some already."""
    move = entry.places[0]
    return state.place(move.source, move.lane, move.split) == move.expect


def _copied(entry: log.Entry, source: Store, target: Store, epoch: int) -> log.Entry:
    """The entry with its files under names of this epoch."""
    shards = [
        replace(s, path=_copy(source, s.path, target, shard_name(s.stream, s.lane, epoch), s.sha256, s.bytes))
        for s in entry.add
    ]
    quarantine = [
        replace(q, path=_copy(source, q.path, target, quarantine_name(q.stream, epoch), q.sha256, q.bytes))
        for q in entry.quarantine
    ]
    return replace(entry, add=[replace(s, first_seq=-1) for s in shards], quarantine=quarantine, plan=[], splits=[])


def _copy(source: Store, name: str, target: Store, to: str, sha256: str, size: int) -> str:
    digest = hashlib.sha256()
    with target.writer(to) as writer:
        for chunk in _chunks(source, name, size):
            digest.update(chunk)
            writer.write(chunk)
        if digest.hexdigest() != sha256:
            writer.abort()
            raise BrokenLog(f"{source.url}/{name}: its bytes differ from what its log says")
    return to


def _chunks(store: Store, name: str, size: int) -> Iterator[bytes]:
    for offset in range(0, size, _CHUNK):
        yield store.get_range(name, offset, min(_CHUNK, size - offset))
