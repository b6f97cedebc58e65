"""Replays a dataset's quarantine: lays out tasks, commits what they give, and says what became of every row.

    replay = Replay(runtime, dataset, selection)      # a plan; reads the quarantine, changes nothing
    replay.tasks(epoch, tokenizers)                   # for workers: `Task`s of kind "replay"
    replay.left(task)                                 # the same task without what is settled, after a worker died
    replay.take(entry), replay.told(counters)         # what was committed; what a worker reports

`replay` does it all in this process with one child, for a command. A service may hand the same tasks to its workers and
append their manifests one by one with its own log: the log refuses a row that is marked already.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from headrace.ingest.encoding import retirement
from headrace.ingest.environment import library_versions
from headrace.ingest.guards import check_settings
from headrace.ingest.ledger import Ledger
from headrace.ingest.place import Place
from headrace.ingest.plan import read_plan
from headrace.ingest.replay_rows import Found, Group, Selection, find_rows, with_known
from headrace.ingest.resolve import ResolvedStream, Runtime, resolve_stream
from headrace.ingest.supervisor import Supervisor
from headrace.ingest.task import Conviction, Task
from headrace.ingest.vocabularies import grow_vocabulary
from headrace.schemas.errors import ConfigError, HeadraceError, StorageError
from headrace.schemas.pipeline import Pipeline
from headrace.shards import entry as log
from headrace.shards.books import StreamCounts
from headrace.shards.catalogue import update_catalogue
from headrace.shards.dataset import Dataset
from headrace.shards.log import CommitLog
from headrace.shards.state import StalePlace, State
from headrace.shards.store import open_store

#: Items of one task: a message to a child stays small.
_TASK_ITEMS = 2000
_WINDOWED = "readings of this stream are joined into windows, and those around it were committed without it"


@dataclass
class ReplayResult:
    """What became of the rows that were tried."""

    dataset: str
    dry_run: bool
    tried: int = 0
    replayed: int = 0
    samples: dict[str, int] = field(default_factory=dict)  #: added, by stream
    tokens: int = 0
    refused: int = 0  #: records that were refused anew, in place of rows that are replayed
    before: int = 0  #: rows of the selection that had been replayed before
    stays: list[dict[str, Any]] = field(default_factory=list)  #: file, row, uri, locator, was, reason, message
    elsewhere: dict[str, int] = field(default_factory=dict)  #: rows of streams that the pipeline does not have
    version: int = 0

    def to_json(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)


class Replay:
    """The plan of a replay and what is known of its rows. Not safe for several threads: its owner holds a lock.

    Raises: ConfigError, SettingsDiffer where a stream's settings are not the dataset's; ShardError, StorageError.
    """

    def __init__(self, runtime: Runtime, dataset: Dataset, selection: Selection, *, dry: bool = False) -> None:
        self.runtime, self.dataset, self.selection, self.dry = runtime, dataset, selection, dry
        self._streams: dict[str, ResolvedStream] = {}
        self._pins: dict[str, dict[str, str | None]] = {}
        found = find_rows(dataset, self._outputs(), selection, self._pin)
        if found.missing:
            file, number = found.missing[0]
            raise ConfigError(
                "the quarantine has no such row (an erasure or expiry may have renamed its file)",
                field="--row", value=f"{file}:{number}",
            )  # fmt: skip
        self.result = ReplayResult(dataset.store.url, dry, before=found.replayed, elsewhere=found.elsewhere)
        self._settled: set[tuple[str, int]] = set()
        self.groups: dict[str, list[Group]] = {}
        self._choose(found)

    def _outputs(self) -> dict[str, str]:
        """Output name → pipeline stream, for streams that the dataset has quarantined rows of."""
        here = {info.stream for info in self.dataset.state.quarantine.values()}
        out: dict[str, str] = {}
        for name in self.runtime.pipeline.streams:
            if not any(stream == name or stream.startswith(f"{name}.") for stream in here):
                continue
            stream = resolve_stream(name, self.runtime.pipeline, self.runtime.base, self.runtime.dataset)
            self._streams[name] = stream
            out.update({output.name: name for output in stream.outputs.values()})
        return out

    def _pin(self, stream: str, split: str) -> str | None:
        """What the source of a split is compared with when it is read again."""
        state = self.dataset.state
        pinned = state.splits.get((stream, log.split_digest(split)))
        if pinned is not None:
            return pinned.pin
        if stream not in self._pins:
            plan = read_plan(self.dataset.store, state.plan.get(stream, []))
            self._pins[stream] = {row.id: row.pin for _, row, _ in plan.rows}
        return self._pins[stream].get(split)

    def _choose(self, found: Found) -> None:
        check_settings({n: s for n, s in self._streams.items() if n in found.groups}, self.dataset.state.settings)
        for name, groups in found.groups.items():
            self.result.tried += sum(len(group.selected()) for group in groups)
            stream = self._streams[name]
            if stream.spec.windows is not None:
                self._leave(groups, _WINDOWED)
                continue
            self.groups[name] = with_known(self.dataset, groups, {o.name for o in stream.outputs.values()})

    def _leave(self, groups: list[Group], why: str) -> None:
        for group in groups:
            for row in group.selected():
                self.result.stays.append(
                    {"file": row.file, "row": row.number, "uri": group.uri, "locator": row.locator, "was": row.reason,
                     "reason": row.reason, "message": why}
                )  # fmt: skip

    @property
    def streams(self) -> dict[str, ResolvedStream]:
        """The streams that have rows to try."""
        return {name: self._streams[name] for name in self.groups}

    def tokenizers(self, stream: str) -> dict[str, str]:
        """Modality → fingerprint of the artefacts that the dataset has."""
        settings = self.dataset.state.settings
        known = {m: settings[o.name].tokenizer for m, o in self._streams[stream].outputs.items() if o.name in settings}
        return {modality: fingerprint for modality, fingerprint in known.items() if fingerprint}

    def tasks(self, epoch: int, tokenizers: dict[str, dict[str, str]]) -> list[Task]:
        """The work. tokenizers: stream → modality → fingerprint."""
        out = []
        state = self.dataset.state
        for name, groups in self.groups.items():
            for number, start in enumerate(range(0, len(groups), _TASK_ITEMS)):
                part = groups[start : start + _TASK_ITEMS]
                files = {row.file for group in part for row in group.rows} | {g.kept[0] for g in part if g.kept}
                detail = {
                    "dry": self.dry,
                    "groups": [group.to_json() for group in part],
                    "files": [state.quarantine[path].to_json() for path in sorted(files)],
                    "forgotten": sorted(state.forgotten),
                }
                key = f"{name}/replay{number:04d}"
                task = Task("replay", key, name, 0, epoch, tokenizers=tokenizers[name], replay=detail)
                task.retired = state.engines.pairs()
                out.append(task)
        return out

    def left(self, task: Task) -> Task:
        """Take what is settled out of a task; its place says how much that is, so that progress can be seen."""
        groups = [
            group
            for group in task.replay["groups"]
            if any(row["selected"] and (row["file"], row["number"]) not in self._settled for row in group["rows"])
        ]
        done = len(task.replay["groups"]) - len(groups)
        task.replay = {**task.replay, "groups": groups}
        task.place = Place(0, task.place.row + done)
        return task

    def take(self, entry: log.Entry) -> None:
        """An entry of a replay is committed."""
        for mark in entry.replayed:
            rows = [number for span in mark.rows for number in range(span.start, span.stop)]
            self._settled.update((mark.path, number) for number in rows)
            self.result.replayed += len(rows)
        self._count(entry.books.streams)

    def told(self, counters: dict[str, Any]) -> None:
        """What a worker says became of rows."""
        for row in counters.get("settled", ()):
            place = (row["file"], row["row"])
            if place in self._settled:
                continue
            self._settled.add(place)
            if not row["replayed"]:
                self.result.stays.append({name: value for name, value in row.items() if name != "replayed"})
            elif self.dry:
                self.result.replayed += 1
        if self.dry:
            self._count({n: StreamCounts.from_json(c) for n, c in counters.get("counts", {}).items()})

    def _count(self, counts: dict[str, StreamCounts]) -> None:
        for name, line in counts.items():
            if line.samples:
                self.result.samples[name] = self.result.samples.get(name, 0) + line.samples
            self.result.tokens += line.tokens
            self.result.refused += line.quarantined


def replay(
    pipeline: Pipeline,
    dataset: str,
    selection: Selection,
    *,
    base: Path,
    dry: bool = False,
) -> ReplayResult:
    """Replay a selection with a child of this process. Claims the dataset unless `dry`: ask first who is live.

    Raises: ConfigError before anything is written; Fenced if another writer takes over; HeadraceError (with what was
    done standing in the log) if a source or the storage fails.
    """
    if "://" not in dataset:
        dataset = str(Path(dataset).resolve())
    runtime = Runtime.of(pipeline, dataset, base)
    store = open_store(dataset)
    work = Replay(runtime, Dataset(store), selection, dry=dry)
    if not work.groups:
        work.result.version = work.dataset.version
        return work.result
    writer = CommitLog(store)
    if dry:
        return _Desk(work, None).run(0, {name: work.tokenizers(name) for name in work.groups})
    epoch = writer.claim(library_versions(), {})
    try:
        result = _run_claimed(work, writer, epoch)
    except BaseException:
        with contextlib.suppress(HeadraceError):
            writer.end()
        raise
    result.version = writer.end()
    return result


def _run_claimed(work: Replay, writer: CommitLog, epoch: int) -> ReplayResult:
    store = writer.store
    if writer.state.v != work.dataset.version + 1:  # what was planned is not what is there now
        work = Replay(work.runtime, Dataset(store, writer.state), work.selection)
    work.dataset = Dataset(store, writer.state)
    ledger = Ledger(writer, work.streams)
    tokenizers = {
        name: ledger.claim_settings(stream, _fitted(stream, writer.state)) for name, stream in work.streams.items()
    }
    grow_vocabulary(writer)
    result = _Desk(work, writer).run(epoch, tokenizers)
    update_catalogue(Dataset(store, writer.state))
    return result


def _fitted(stream: ResolvedStream, state: State) -> dict[str, str | None]:
    """Fit group → fingerprint, as far as the dataset has it."""
    out: dict[str, str | None] = {}
    for output in stream.outputs.values():
        if output.fit_group is not None and output.name in state.settings:
            out[output.fit_group] = state.settings[output.name].tokenizer
    return out


class _Desk:
    """The coordinator of one replay: see `supervisor.Coordinator`. `log` is None in a dry run."""

    def __init__(self, work: Replay, log_: CommitLog | None) -> None:
        self._work, self._log = work, log_
        self._lock = threading.RLock()
        self._waiting: deque[Task] = deque()
        self._given: Task | None = None
        self._failure: HeadraceError | None = None

    def run(self, epoch: int, tokenizers: dict[str, dict[str, str]]) -> ReplayResult:
        """Do all tasks, one after another, in one child."""
        self._waiting.extend(self._work.tasks(epoch, tokenizers))
        Supervisor("replay", self, self._work.runtime.to_json()).run()
        if self._failure is not None:
            raise self._failure
        self._work.result.version = self._work.dataset.version
        return self._work.result

    def lease(self, worker: str) -> dict[str, Any] | None:
        """The next task; None when all are done or one failed."""
        with self._lock:
            if self._failure is not None or not self._waiting:
                return None
            self._given = self._waiting.popleft()
            return self._given.to_json()

    def renew(self, worker: str, key: str) -> dict[str, Any] | None:
        """The same task without what is settled."""
        with self._lock:
            if self._given is None or self._given.key != key or self._failure is not None:
                return None
            self._given = self._work.left(self._given)
            return self._given.to_json()

    def commit(self, worker: str, key: str, manifest: dict[str, Any]) -> dict[str, Any]:
        """Append an entry of samples and marks."""
        entry = log.Entry.from_json(manifest)
        with self._lock:
            if self._log is None:
                return {"stop": "a dry run commits nothing"}
            try:
                self._append(entry)
            except HeadraceError as exc:
                self._failure = exc
                return {"stop": str(exc)}
            self._work.take(entry)
            return {"ok": True, "v": self._log.state.v}

    def _append(self, entry: log.Entry) -> None:
        """Append once more where the reply may have been lost: the marks tell whether it is in."""
        assert self._log is not None
        try:
            self._log.append(entry)
        except StorageError:
            try:
                self._log.append(entry)
            except StalePlace:
                return  # the first one was in

    def commit_lanes(self, worker: str, key: str, manifests: list[dict[str, Any]]) -> dict[str, Any]:
        """A replay has no live lanes."""
        return {"stop": "a replay has no live lanes"}

    def poll(self, worker: str, key: str, snapshot: dict[str, Any]) -> dict[str, Any]:
        """A replay has no live lanes."""
        return {"stop": "a replay has no live lanes"}

    def beat(self, worker: str) -> None:
        """A replay waits for its child as long as it lives."""

    def convict(self, worker: str, key: str, conviction: dict[str, Any], stream: str) -> None:
        """Obeyed until this replay ends, and not logged: the next fix may try the record again."""
        with self._lock:
            if self._given is not None:
                self._given.convictions = [*self._given.convictions, Conviction.from_json(conviction)]

    def done(self, worker: str, key: str, result: dict[str, Any]) -> None:
        """A task is finished."""
        with self._lock:
            self._given = None

    def fail(self, worker: str, key: str, error: dict[str, Any]) -> None:
        """A task cannot be finished: what was committed stands, and the same command goes on from there."""
        with self._lock:
            self._failure = ReplayFailed(key, error)
            if error.get("retired") and self._log is not None:
                try:
                    self._log.append(retirement(error))
                except HeadraceError as exc:
                    self._failure = exc

    def report(self, worker: str, key: str, counters: dict[str, Any]) -> None:
        """What became of rows."""
        with self._lock:
            self._work.told(counters)


class ReplayFailed(HeadraceError):
    """A source or the storage failed during a replay. `kinds` names the class of what was raised in the child."""

    def __init__(self, key: str, error: dict[str, Any]) -> None:
        self.kinds = frozenset({str(error.get("type"))})
        super().__init__(f"{key}: {error['message']}; what was replayed until then stands, run it again to go on")
