"""Hands out tasks and writes the log: the only process of a run that appends to it.

Its state is a cache of the log plus who works on what; killed at any moment, a new one goes on from the log. A plain
class without Ray: the inline engine calls it directly, the Ray engine from a thin actor.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from headrace.connectors.contract import Split
from headrace.ingest.environment import library_versions
from headrace.ingest.fit import budget_of
from headrace.ingest.frozen import freeze
from headrace.ingest.guards import check_settings
from headrace.ingest.ledger import Ledger
from headrace.ingest.parts import Part, fitted_in
from headrace.ingest.place import Place, PlanRow
from headrace.ingest.plan import SourcePlan, list_splits, sample_splits
from headrace.ingest.resolve import ResolvedStream, Runtime, resolve
from headrace.ingest.task import Conviction, Task
from headrace.ingest.vocabularies import grow_vocabulary
from headrace.schemas.errors import ConfigError, Fenced, HeadraceError
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

    def __init__(
        self,
        runtime: dict[str, Any],
        *,
        fit_only: bool = False,
        sample_bytes: int | None = None,
        part: Part | None = None,
        fitted_in: str | None = None,
    ) -> None:
        self._part = part  #: read only these lanes
        self._fitted_in = fitted_in  #: the dataset whose tokenizers are taken, rather than fitting any
        self._runtime = Runtime.from_json(runtime)
        self._fit_only = fit_only
        self._sample_bytes = sample_bytes  #: read only a hash-chosen part of each source, about this much
        self._lock = threading.RLock()
        self._streams: dict[str, ResolvedStream] = {}
        self._frozen: dict[str, tuple[list[Split], dict[str, Any]]] = {}  #: endless sources: splits, and their ends
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
            self._streams = resolve(self._runtime.pipeline, self._runtime.base, self._runtime.dataset)
            self._refuse_endless()
            listings = {}
            for name, stream in self._streams.items():
                connector = stream.make_connector()
                try:
                    if stream.live:
                        self._frozen[name] = freeze(connector)
                    else:
                        listings[name] = sample_splits(list_splits(name, connector.splits()), self._sample_bytes)
                finally:
                    connector.close()
            store = open_store(self._runtime.dataset, create=True)
            self._log = CommitLog(store)
            state = self._log.replay()
            check_settings(self._streams, state.settings)
            self._log.claim(library_versions(), {})
            self._ledger = Ledger(self._log, self._streams)
            if self._fit_only:  # it reads, but promises nothing of what is to be read
                self._ledger.plans = {n: SourcePlan([(0, s, 0) for s in own]) for n, own in listings.items()}
            else:
                self._ledger.plan(listings)
            self._lay_out_fits()
            self._advance()
            return {"epoch": self._log.epoch, "splits": {name: len(listing) for name, listing in listings.items()}}

    def _refuse_endless(self) -> None:
        """A build needs sources that end; a fit takes what an endless one holds now. Raises: ConfigError."""
        for name, stream in self._streams.items():
            if stream.live and not self._fit_only:
                raise ConfigError(
                    f"a {stream.spec.source.type} source never ends: run this pipeline with `headrace serve`",
                    field=f"streams.{name}.source.type",
                )

    # ---- fitting ----

    def _lay_out_fits(self) -> None:
        settings = self._log.state.settings
        taken = fitted_in(open_store(self._fitted_in), self._log.store) if self._fitted_in else {}
        for stream in self._streams.values():
            for output in stream.outputs.values():
                group = output.fit_group
                if group is None:
                    continue
                made = self._groups.setdefault(group, _Group(group, []))
                made.outputs.append(output.name)
                known = settings[output.name].tokenizer if output.name in settings else taken.get(output.name)
                if known or self._fitted_in:
                    made.fingerprint, made.settled = made.fingerprint or known, True
        for stream in self._streams.values():
            groups = {o.fit_group for o in stream.outputs.values() if o.fit_group} & {
                g for g, v in self._groups.items() if not v.settled
            }
            if not groups or (not stream.live and self._ledger.all_done(stream.name)):
                continue
            budget = max(budget_of(o).splits for o in stream.outputs.values() if o.fit_group in groups)
            splits, ends = self._frozen.get(stream.name, ([], {}))
            if not stream.live:
                splits = [split for _, split, _ in self._ledger.plans[stream.name].rows]
            rows = [PlanRow(0, 0, split) for split in splits]
            rows.sort(key=lambda row: hashlib.sha256(row.split.id.encode()).digest())
            chosen = rows[:budget]
            for n, begin in enumerate(range(0, len(chosen), _COLLECT_SPLITS)):
                part = [PlanRow(0, i, row.split) for i, row in enumerate(chosen[begin : begin + _COLLECT_SPLITS])]
                key = f"{stream.name}/fit{n:03d}"
                end = Place(0, len(part))
                task = Task("collect", key, stream.name, 0, self._log.epoch or 0, part, end=end, ends=ends)
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
        claimed = len(self._encoding)
        for stream in self._streams.values():
            groups = [self._groups[o.fit_group] for o in stream.outputs.values() if o.fit_group]
            if stream.name in self._encoding or not all(g.settled for g in groups):
                continue
            self._encoding.add(stream.name)
            tokenizers = self._ledger.claim_settings(stream, {g.name: g.fingerprint for g in self._groups.values()})
            for lane in [] if self._fit_only else self._ledger.plans[stream.name].lanes():
                if self._part is not None and not self._part.has(lane):
                    continue
                task = self._ledger.lane_task(stream.name, lane, tokenizers)
                if task.place != task.end:
                    self._add(task)
        if claimed < len(self._encoding) == len(self._streams):  # the last ones: their order must not depend on workers
            grow_vocabulary(self._log)

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
                work.task.convictions = self._ledger.convictions(work.task.stream)
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
                work.task = self._ledger.lane_task(work.task.stream, work.task.lane, work.task.tokenizers)
            else:
                work.task.convictions = self._ledger.convictions(work.task.stream)
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

    def commit_lanes(self, worker: str, key: str, manifests: list[dict[str, Any]]) -> dict[str, Any]:
        """A build has no live lanes."""
        return {"stop": "a build has no live lanes"}

    def poll(self, worker: str, key: str, snapshot: dict[str, Any]) -> dict[str, Any]:
        """A build has no live lanes."""
        return {"stop": "a build has no live lanes"}

    def beat(self, worker: str) -> None:
        """A build waits for its workers as long as they live."""

    def convict(self, worker: str, key: str, conviction: dict[str, Any], stream: str) -> None:
        """Log a conviction, so that every replay obeys it."""
        with self._lock:
            found = Conviction.from_json(conviction)
            if any(c.key() == found.key() for c in self._ledger.convictions(stream)):
                return
            self._log.append(log.Entry(kind="commit", convictions=[found.entry(stream)]))

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
                        work.task = self._ledger.lane_task(work.task.stream, work.task.lane, work.task.tokenizers)
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
                plan = self._ledger.plans.get(name)
                row["all_splits"] = len(plan.rows) if plan else len(self._frozen[name][0])
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
