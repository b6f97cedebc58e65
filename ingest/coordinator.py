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
from typing import Any, Literal

from headrace.connectors.contract import Split
from headrace.ingest.encoding import retirement
from headrace.ingest.environment import library_versions
from headrace.ingest.fit import budget_of
from headrace.ingest.frozen import freeze
from headrace.ingest.guards import check_settings
from headrace.ingest.ledger import Ledger, ObjectOf
from headrace.ingest.meter import added, meter, meter_ext
from headrace.ingest.parts import Part, fitted_in
from headrace.ingest.place import Place, PlanRow
from headrace.ingest.plan import SourcePlan, list_splits, read_plan, sample_splits
from headrace.ingest.reencode_plan import Chunk, Reencoding
from headrace.ingest.resolve import ResolvedStream, Runtime, resolve
from headrace.ingest.task import Conviction, Task
from headrace.ingest.vocabularies import grow_vocabulary
from headrace.ingest.work import Group, Work, collected_together, rows_of_sources
from headrace.schemas.errors import ConfigError, Fenced, HeadraceError
from headrace.shards import entry as log
from headrace.shards.log import CommitLog
from headrace.shards.state import StalePlace
from headrace.shards.store import open_store

_logger = logging.getLogger(__name__)

_WAIT_S = 0.1


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
        reencode_only: bool = False,
    ) -> None:
        self._reencode_only = reencode_only  #: do not look at the sources; also try what could not be checked before
        self._part = part  #: read only these lanes
        self._fitted_in = fitted_in  #: the dataset whose tokenizers are taken, rather than fitting any
        self._runtime = Runtime.from_json(runtime)
        self._fit_only = fit_only
        self._sample_bytes = sample_bytes  #: read only a hash-chosen part of each source, about this much
        self._lock = threading.RLock()
        self._streams: dict[str, ResolvedStream] = {}
        self._frozen: dict[str, tuple[list[Split], dict[str, Any]]] = {}  #: endless sources: splits, and their ends
        self._groups: dict[str, Group] = {}
        self._work: dict[str, Work] = {}
        self._ready: deque[str] = deque()
        self._chunks: dict[str, Chunk] = {}  #: by the key of their task
        self._encoding: set[str] = set()
        self._errors: list[dict[str, Any]] = []
        self._phase = "planning"
        self._began = time.monotonic()
        self._encoding_since: float | None = None  #: when the first lane was given out
        self._stopped = False

    # ---- starting ----

    def start(self) -> dict[str, Any]:
        """List the sources, claim the dataset, and lay out the tasks. Raises: ConfigError, LogError, StorageError."""
        with self._lock:
            self._streams = resolve(self._runtime.pipeline, self._runtime.base, self._runtime.dataset)
            self._refuse_endless()
            listings: dict[str, list[Split]] = {}
            objects: dict[str, ObjectOf] = {}
            for name, stream in self._streams.items() if not self._reencode_only else ():
                connector = stream.make_connector()
                objects[name] = connector.object_of
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
            self._reencoding = Reencoding(self._ledger, unchecked=self._reencode_only)
            if self._reencode_only:
                own = {n: state.plan.get(n, []) for n, s in self._streams.items() if not s.live}
                self._ledger.plans = {n: read_plan(store, segments) for n, segments in own.items()}
                self._lay_out_reencoding()
                return {"epoch": self._log.epoch, "splits": {}}
            if self._fit_only:  # it reads, but promises nothing of what is to be read
                self._ledger.plans = {n: SourcePlan([(0, s, 0) for s in own]) for n, own in listings.items()}
            else:
                self._ledger.plan(listings, objects=objects)
                self._lay_out_reencoding()
            self._lay_out_fits()
            self._advance()
            return {"epoch": self._log.epoch, "splits": {name: len(listing) for name, listing in listings.items()}}

    def _refuse_endless(self) -> None:
        """A build needs sources that end; a fit takes what an endless one holds now. Raises: ConfigError."""
        for name, stream in self._streams.items():
            if stream.live and not self._fit_only and not self._reencode_only:
                raise ConfigError(
                    f"a {stream.spec.source.type} source never ends: run this pipeline with `headrace serve`",
                    field=f"streams.{name}.source.type",
                )

    # ---- what a retired engine has made ----

    def _lay_out_reencoding(self) -> None:
        """First of all, what a retired engine has made is encoded again."""
        for stream in self._streams.values():
            for chunk in self._reencoding.chunks(stream):
                self._chunks[chunk.key] = chunk
                self._add(self._reencoding.task(chunk, stream))

    def _retire(self, error: dict[str, Any]) -> None:
        """Log that an engine is retired, and end every lane that encodes with it: a rerun takes the reference."""
        entry = retirement(error)
        self._log.append(entry)
        (retired,) = entry.retired_engines
        for work in self._work.values():
            if work.task.kind == "encode" and retired.fingerprint in work.task.tokenizers.values():
                work.finished = True
        self._ready = deque(key for key in self._ready if not self._work[key].finished)
        error["message"] += (
            f"; {retired.engine} is retired: run the same command again, and the reference library encodes,"
            f" also what {retired.engine} had made"
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
                made = self._groups.setdefault(group, Group(group, []))
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
            for n, several in enumerate(collected_together([row.split for row in chosen])):
                part = [PlanRow(0, i, split) for i, split in enumerate(several)]
                key = f"{stream.name}/fit{n:03d}"
                end = Place(0, len(part))
                task = Task("collect", key, stream.name, 0, self._log.epoch or 0, part, end=end, ends=ends)
                self._add(task)
                for group in groups:
                    self._groups[str(group)].waiting.add(key)

    def _settle(self, group: Group) -> None:
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
        self._work[task.key] = Work(task)
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
                if work.task.kind == "encode" and self._encoding_since is None:
                    self._encoding_since = time.monotonic()
                if work.task.kind == "encode" or self._phase in ("planning", "encoding again"):
                    phases = {"encode": "encoding", "reencode": "encoding again"}
                    self._phase = phases.get(work.task.kind, "fitting")
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
            self._from_the_log(work)
            work.task.convictions = self._ledger.convictions(work.task.stream)
            return work.task.to_json()

    def _from_the_log(self, work: Work) -> None:
        """What is left of a task after its last commit."""
        task = work.task
        if task.kind == "encode":
            work.task = self._ledger.lane_task(task.stream, task.lane, task.tokenizers)
        elif task.kind == "reencode":
            work.task = self._reencoding.task(self._chunks[task.key], self._streams[task.stream])

    def commit(self, worker: str, key: str, manifest: dict[str, Any]) -> dict[str, Any]:
        """Append a lane's manifest to the log: {"ok": true}, or {"stop": why} when it may not."""
        with self._lock:
            work = self._work.get(key)
            if work is None or work.worker != worker or work.finished or self._stopped:
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
            if work is None or work.worker != worker or work.finished:
                return
            if error.get("traceback"):
                _logger.debug("%s: %s", key, error["traceback"])
            if error.get("retired"):
                try:
                    self._retire(error)
                except HeadraceError as exc:
                    error = {"type": type(exc).__name__, "message": str(exc)}
            fatal = error.get("type") in ("StorageError", "Fenced", "MissingExtra", "NotExclusive")
            self._fail(
                key, error.get("type", "HeadraceError"), error["message"], fatal=fatal, traceback=error.get("traceback")
            )

    def _fail(self, key: str, kind: str, message: str, *, fatal: bool, traceback: str | None = None) -> None:
        self._work[key].finished = True
        self._errors.append({"task": key, "type": kind, "message": message, "traceback": traceback})
        task = self._work[key].task
        if task.kind not in ("encode", "reencode"):
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
                    self._from_the_log(work)
                    self._ready.append(key)

    def stop(self) -> None:
        """Give out nothing more; what is not committed is left for the next run."""
        with self._lock:
            self._stopped = True

    # ---- looking on ----

    def progress(self) -> dict[str, Any]:
        """How far the run is: phase, and per source the splits and records so far."""
        with self._lock:
            sources = rows_of_sources(self._work.values())
            by_stream = self._seconds("stream")
            for name, row in sources.items():
                row["meter"] = meter(by_stream.get(name, {}))
                plan = self._ledger.plans.get(name)
                row["all_splits"] = len(plan.rows) if plan else len(self._frozen[name][0])
            return {
                "phase": self._phase,
                "sources": sources,
                "workers": {name: meter(spent) for name, spent in self._worker_seconds().items()},
                "seconds": time.monotonic() - self._began,
                "errors": len(self._errors),
            }

    def _seconds(self, by: Literal["stream", "worker"]) -> dict[str, dict[str, float]]:
        """Where the time of lanes went, by stream or by worker (see meter.py)."""
        found: dict[str, dict[str, float]] = {}
        for work in self._work.values():
            name = work.task.stream if by == "stream" else work.worker
            if work.task.kind == "encode" and name is not None and work.counters:
                found[name] = added([found.get(name, {}), work.counters.get("seconds", {})])
        return found

    def _worker_seconds(self) -> dict[str, dict[str, float]]:
        """The same by worker, over all the time in which there were lanes; what it had no lane for is waiting."""
        if self._encoding_since is None:
            return {}
        passed = time.monotonic() - self._encoding_since
        found = self._seconds("worker")
        for name, spent in found.items():
            idle = max(0.0, passed - spent.get("total", 0.0))
            found[name] = added([spent, {"wait": idle, "total": idle}])
        return found

    def finish(self) -> dict[str, Any]:
        """End the epoch; gives back the errors and where the time went."""
        with self._lock:
            unfinished = [key for key, work in self._work.items() if not work.finished]
            seconds, workers = self._seconds("stream"), self._worker_seconds()
            with contextlib.suppress(Fenced):
                if self._log.epoch is not None:
                    self._log.end(meter_ext(seconds, workers))
            return {
                "errors": self._errors,
                "unfinished": unfinished,
                "seconds": seconds,
                "workers": workers,
                "fitted": {g.name: g.fingerprint for g in self._groups.values()},
                "epoch": self._log.state.epoch,
            }
