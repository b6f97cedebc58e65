"""Hands out tasks and writes the log: the only process of a run that appends to it.

Its state is a cache of the log plus who works on what; killed at any moment, a new one goes on from the log. A plain
class without Ray: the inline engine calls it directly, the Ray engine from a thin actor.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from headrace.ingest.artefacts import read_artefact, write_artefact
from headrace.ingest.complete import output_settings
from headrace.ingest.environment import library_versions
from headrace.ingest.fit import budget_of
from headrace.ingest.guards import check_settings, source_to_tell
from headrace.ingest.place import Place, PlanRow, position_key
from headrace.ingest.plan import SourcePlan, list_splits, new_segment, read_plan, sample_splits
from headrace.ingest.resolve import ResolvedStream, Runtime, resolve
from headrace.ingest.task import Conviction, Task
from headrace.schemas.errors import Fenced, HeadraceError, SourceChanged
from headrace.shards import entry as log
from headrace.shards.log import CommitLog
from headrace.shards.state import StalePlace
from headrace.shards.store import open_store

_logger = logging.getLogger(__name__)

_COLLECT_SPLITS = 24  #: splits a collect task reads, so that several workers share a fit
_WAIT_S = 0.1


@dataclass
class _Work:
    """A task and what is known of it."""

    task: Task
    worker: str | None = None
    finished: bool = False
    counters: dict[str, Any] = field(default_factory=dict)


@dataclass
class _Group:
    """One artefact to be: outputs that are fitted together."""

    name: str
    outputs: list[str]
    waiting: set[str] = field(default_factory=set)  #: keys of collect tasks not done yet
    sets: list[str] = field(default_factory=list)
    fingerprint: str | None = None
    settled: bool = False  #: fitted, known from before, or known to have no record


class Coordinator:
    """One run over one dataset. `start` claims it; then workers `lease` until nothing is left."""

    def __init__(self, runtime: dict[str, Any], *, fit_only: bool = False, sample_bytes: int | None = None) -> None:
        self._runtime = Runtime.from_json(runtime)
        self._fit_only = fit_only
        self._sample_bytes = sample_bytes  #: read only a hash-chosen part of each source, about this much
        self._lock = threading.RLock()
        self._streams: dict[str, ResolvedStream] = {}
        self._plans: dict[str, SourcePlan] = {}
        self._groups: dict[str, _Group] = {}
        self._work: dict[str, _Work] = {}
        self._ready: deque[str] = deque()
        self._encoding: set[str] = set()
        self._errors: list[dict[str, Any]] = []
        self._phase = "planning"
        self._began = time.monotonic()
        self._stopped = False

    # ---- starting ----

    def start(self) -> dict[str, Any]:
        """List the sources, claim the dataset, and lay out the tasks. Raises: ConfigError, LogError, StorageError."""
        with self._lock:
            self._streams = resolve(self._runtime.pipeline, self._runtime.base)
            listings = {}
            for name, stream in self._streams.items():
                connector = stream.make_connector()
                try:
                    listings[name] = sample_splits(list_splits(name, connector.splits()), self._sample_bytes)
                finally:
                    connector.close()
            store = open_store(self._runtime.dataset, create=True)
            self._log = CommitLog(store)
            state = self._log.replay()
            check_settings(self._streams, state.settings)
            self._log.claim(library_versions(), {})
            self._plan(listings)
            self._lay_out_fits()
            self._advance()
            return {"epoch": self._log.epoch, "splits": {name: len(listing) for name, listing in listings.items()}}

    def _plan(self, listings: dict[str, list[Any]]) -> None:
        state, store = self._log.state, self._log.store
        segments, repinned = [], []
        for name, listing in listings.items():
            plan = read_plan(store, state.plan.get(name, []))
            stream = self._streams[name]
            segment, changed = new_segment(
                store, name, plan, listing, stream.spec.shards, self._log.epoch or 0, source_to_tell(stream)
            )
            if segment is not None:
                segments.append(segment)
                plan = read_plan(store, [*state.plan.get(name, []), segment])
            repinned += self._repin(name, plan, changed)
            self._plans[name] = plan
        if segments or repinned:
            self._log.append(log.Entry(kind="commit", plan=segments, splits=repinned))
        for (source, digest), pinned in self._log.state.splits.items():
            if source in self._plans:
                self._plans[source].repin(digest, pinned.pin)

    def _repin(self, name: str, plan: SourcePlan, changed: list[tuple[Any, Any]]) -> list[log.SplitPin]:
        """Splits that changed before anything of them was committed get their new pin; later changes are an error."""
        out = []
        now = {new.id: new for _, new in changed}
        for lane in plan.lanes():
            place = self._place(name, lane)
            for row in plan.of_lane(lane):
                new = now.get(row.split.id)
                if new is None:
                    continue
                digest = log.split_digest(row.split.id)
                pinned = self._log.state.splits.get((name, digest))
                if pinned is not None and pinned.pin == new.pin:
                    continue
                untouched = (row.segment, row.row) > (place.segment, place.row) or (
                    (row.segment, row.row) == (place.segment, place.row) and place.position is None and place.k == 0
                )
                if not untouched:
                    raise SourceChanged(
                        f"{name}: {row.split.id} changed after it was committed (was {row.split.pin}, now {new.pin});"
                        " a committed sample never changes: restore the file, or build it as another stream"
                    )
                out.append(log.SplitPin(name, digest, lane, new.pin))
        return out

    def _place(self, source: str, lane: int) -> Place:
        at = self._log.state.place(source, lane)
        return Place() if at is None else Place(at.segment or 0, at.row or 0, at.position, at.k)

    # ---- fitting ----

    def _lay_out_fits(self) -> None:
        settings = self._log.state.settings
        for stream in self._streams.values():
            for output in stream.outputs.values():
                group = output.fit_group
                if group is None:
                    continue
                made = self._groups.setdefault(group, _Group(group, []))
                made.outputs.append(output.name)
                if output.name in settings and settings[output.name].tokenizer:
                    made.fingerprint, made.settled = settings[output.name].tokenizer, True
        for stream in self._streams.values():
            groups = {o.fit_group for o in stream.outputs.values() if o.fit_group} & {
                g for g, v in self._groups.items() if not v.settled
            }
            if not groups or self._all_done(stream.name):
                continue
            budget = max(budget_of(o).splits for o in stream.outputs.values() if o.fit_group in groups)
            rows = [PlanRow(segment, 0, split) for segment, split, _ in self._plans[stream.name].rows]
            rows.sort(key=lambda row: hashlib.sha256(row.split.id.encode()).digest())
            chosen = rows[:budget]
            for n, begin in enumerate(range(0, len(chosen), _COLLECT_SPLITS)):
                part = [PlanRow(0, i, row.split) for i, row in enumerate(chosen[begin : begin + _COLLECT_SPLITS])]
                key = f"{stream.name}/fit{n:03d}"
                task = Task("collect", key, stream.name, 0, self._log.epoch or 0, part, end=Place(0, len(part)))
                self._add(task)
                for group in groups:
                    self._groups[str(group)].waiting.add(key)

    def _settle(self, group: _Group) -> None:
        """All sets of a group are in: fit it, or note that there is nothing to fit."""
        if group.sets:
            self._add(
                Task("fit", f"fit:{group.name}", epoch=self._log.epoch or 0, fit_group=group.name, fit_sets=group.sets)
            )
        else:
            group.settled = True

    def _advance(self) -> None:
        """Add the tasks that have become possible."""
        for group in self._groups.values():
            if not group.settled and not group.waiting and f"fit:{group.name}" not in self._work:
                self._settle(group)
        for stream in self._streams.values():
            groups = [self._groups[o.fit_group] for o in stream.outputs.values() if o.fit_group]
            if stream.name in self._encoding or not all(g.settled for g in groups):
                continue
            self._encoding.add(stream.name)
            tokenizers = self._claim_settings(stream)
            for lane in [] if self._fit_only else self._plans[stream.name].lanes():
                task = self._lane_task(stream.name, lane, tokenizers)
                if task.place != task.end:
                    self._add(task)

    def _claim_settings(self, stream: ResolvedStream) -> dict[str, str]:
        """Put the settings of a stream's outputs into the log; gives back modality → fingerprint."""
        tokenizers: dict[str, str] = {}
        settings: dict[str, log.StreamSettings] = {}
        for modality, output in stream.outputs.items():
            group = self._groups[output.fit_group] if output.fit_group else None
            if group is not None and group.fingerprint is None:
                continue  # nothing to fit it on: its records would be quarantined as not_fitted
            artefact = read_artefact(self._log.store, group.fingerprint) if group and group.fingerprint else None
            tokenizer = output.make_tokenizer(artefact)
            if tokenizer is not None:
                tokenizers[modality] = tokenizer.fingerprint
                if tokenizer.fingerprint not in self._log.state.tokenizers:
                    self._log.append(
                        log.Entry(kind="commit", tokenizers=[write_artefact(self._log.store, tokenizer.artefact)])
                    )
            settings[output.name] = output_settings(output, stream, tokenizers.get(modality), tokenizer)
        new = {name: s for name, s in settings.items() if name not in self._log.state.settings}
        if new:
            self._log.append(log.Entry(kind="commit", settings=new))
        return tokenizers

    def _lane_task(self, source: str, lane: int, tokenizers: dict[str, str]) -> Task:
        plan, place = self._plans[source], self._place(source, lane)
        return Task(
            "encode",
            f"{source}/L{lane:04d}",
            source,
            lane,
            self._log.epoch or 0,
            plan.left(lane, place),
            place=place,
            end=plan.end(lane),
            tokenizers=tokenizers,
            convictions=self._convictions(source),
        )

    def _convictions(self, source: str) -> list[Conviction]:
        return [
            Conviction(c.split, position_key(c.after), c.k, c.stage, c.reason)
            for c in self._log.state.convictions
            if c.source == source
        ]

    def _all_done(self, source: str) -> bool:
        plan = self._plans[source]
        return all(self._place(source, lane) == plan.end(lane) for lane in plan.lanes())

    def _add(self, task: Task) -> None:
        self._work[task.key] = _Work(task)
        self._ready.append(task.key)

    # ---- what workers ask (see supervisor.Coordinator) ----

    def lease(self, worker: str) -> dict[str, Any] | None:
        """The next task, a wait, or None when all is done."""
        with self._lock:
            if self._stopped:
                return None
            if self._ready:
                work = self._work[self._ready.popleft()]
                work.worker = worker
                work.task.convictions = self._convictions(work.task.stream)
                if work.task.kind == "encode" or self._phase == "planning":
                    self._phase = "encoding" if work.task.kind == "encode" else "fitting"
                return work.task.to_json()
            if all(w.finished for w in self._work.values()):
                return None
            return {"kind": "wait", "seconds": _WAIT_S}

    def renew(self, worker: str, key: str) -> dict[str, Any] | None:
        """The same task from its last commit on; None if another worker has it."""
        with self._lock:
            work = self._work.get(key)
            if work is None or work.worker != worker or work.finished or self._stopped:
                return None
            if work.task.kind == "encode":
                work.task = self._lane_task(work.task.stream, work.task.lane, work.task.tokenizers)
            else:
                work.task.convictions = self._convictions(work.task.stream)
            return work.task.to_json()

    def commit(self, worker: str, key: str, manifest: dict[str, Any]) -> dict[str, Any]:
        """Append a lane's manifest to the log: {"ok": true}, or {"stop": why} when it may not."""
        with self._lock:
            work = self._work.get(key)
            if work is None or work.worker != worker or self._stopped:
                return {"stop": f"{key} is no longer given to {worker}"}
            try:
                self._log.append(log.Entry.from_json(manifest))
            except StalePlace as exc:
                return {"stop": str(exc)}
            except HeadraceError as exc:
                self._fail(key, type(exc).__name__, str(exc), fatal=True)
                return {"stop": str(exc)}
            return {"ok": True, "v": self._log.state.v}

    def convict(self, worker: str, key: str, conviction: dict[str, Any]) -> None:
        """Log a conviction, so that every replay obeys it."""
        with self._lock:
            found = Conviction.from_json(conviction)
            source = self._work[key].task.stream
            if any(c.key() == found.key() for c in self._convictions(source)):
                return
            self._log.append(
                log.Entry(
                    kind="commit",
                    convictions=[
                        log.Conviction(source, found.split, json.loads(found.after), found.k, found.reason, found.stage)
                    ],
                )
            )

    def done(self, worker: str, key: str, result: dict[str, Any]) -> None:
        """A task is finished; its result may make others possible."""
        with self._lock:
            work = self._work.get(key)
            if work is None or work.worker != worker or work.finished:
                return
            work.finished = True
            try:
                self._take_result(work.task, result)
                self._advance()
            except HeadraceError as exc:
                self._fail(key, type(exc).__name__, str(exc), fatal=True)

    def _take_result(self, task: Task, result: dict[str, Any]) -> None:
        if task.kind == "collect":
            outputs = self._streams[task.stream].outputs
            for modality, name in result["sets"].items():
                group = self._groups.get(str(outputs[modality].fit_group))
                if group is not None and not group.settled:
                    group.sets.append(name)
            for group in self._groups.values():
                group.waiting.discard(task.key)
        elif task.kind == "fit":
            info = log.TokenizerInfo.from_json(result["tokenizer"])
            self._log.append(log.Entry(kind="commit", tokenizers=[info]))
            group = self._groups[task.fit_group]
            group.fingerprint, group.settled = info.fingerprint, True
            for name in group.sets:
                self._log.store.delete(name)
        else:
            self._work[task.key].counters = result

    def fail(self, worker: str, key: str, error: dict[str, Any]) -> None:
        """A task cannot be finished; the others go on."""
        with self._lock:
            work = self._work.get(key)
            if work is None or work.worker != worker:
                return
            if error.get("traceback"):
                _logger.debug("%s: %s", key, error["traceback"])
            fatal = error.get("type") in ("StorageError", "Fenced", "MissingExtra", "NotExclusive")
            self._fail(
                key, error.get("type", "HeadraceError"), error["message"], fatal=fatal, traceback=error.get("traceback")
            )

    def _fail(self, key: str, kind: str, message: str, *, fatal: bool, traceback: str | None = None) -> None:
        self._work[key].finished = True
        self._errors.append({"task": key, "type": kind, "message": message, "traceback": traceback})
        task = self._work[key].task
        if task.kind != "encode":
            fatal = True  # without its tokenizer a stream cannot be encoded
        if fatal:
            self._stopped = True

    def report(self, worker: str, key: str, counters: dict[str, Any]) -> None:
        """Counters since the start of a task, for the progress display."""
        with self._lock:
            if key in self._work:
                self._work[key].counters = counters

    def release(self, worker: str) -> None:
        """A worker is gone: its tasks are given out again, from their last commit."""
        with self._lock:
            for key, work in self._work.items():
                if work.worker == worker and not work.finished:
                    work.worker = None
                    if work.task.kind == "encode":
                        work.task = self._lane_task(work.task.stream, work.task.lane, work.task.tokenizers)
                    self._ready.append(key)

    def stop(self) -> None:
        """Give out nothing more; what is not committed is left for the next run."""
        with self._lock:
            self._stopped = True

    # ---- looking on ----

    def progress(self) -> dict[str, Any]:
        """How far the run is: phase, and per source the splits and records so far."""
        with self._lock:
            sources: dict[str, dict[str, Any]] = {}
            for work in self._work.values():
                if work.task.kind not in ("encode", "collect"):
                    continue
                row = sources.setdefault(
                    work.task.stream,
                    {"tasks": 0, "done": 0, "splits": 0, "left": 0, "samples": 0, "tokens": 0, "quarantined": 0},
                )
                if work.task.kind == "encode":
                    row["tasks"] += 1
                    row["done"] += work.finished
                    row["left"] += 0 if work.finished else len(work.task.rows)
                    for name in ("splits", "samples", "tokens", "quarantined"):
                        row[name] += work.counters.get(name, 0)
                else:
                    row.setdefault("fit_tasks", 0)
                    row.setdefault("fit_done", 0)
                    row["fit_tasks"] += 1
                    row["fit_done"] += work.finished
            for name, row in sources.items():
                row["all_splits"] = len(self._plans[name].rows)
            return {
                "phase": self._phase,
                "sources": sources,
                "seconds": time.monotonic() - self._began,
                "errors": len(self._errors),
            }

    def finish(self) -> dict[str, Any]:
        """End the epoch; gives back the errors and where the time went."""
        with self._lock:
            unfinished = [key for key, work in self._work.items() if not work.finished]
            seconds: dict[str, dict[str, float]] = {}
            for work in self._work.values():
                if work.task.kind == "encode":
                    into = seconds.setdefault(work.task.stream, {})
                    for stage, spent in work.counters.get("seconds", {}).items():
                        into[stage] = into.get(stage, 0.0) + spent
            with contextlib.suppress(Fenced):
                if self._log.epoch is not None:
                    self._log.end()
            return {
                "errors": self._errors,
                "unfinished": unfinished,
                "seconds": seconds,
                "fitted": {g.name: g.fingerprint for g in self._groups.values()},
                "epoch": self._log.state.epoch,
            }
