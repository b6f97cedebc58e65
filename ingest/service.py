"""The service: hands out live lanes, listing work and receivers, and writes the log, until it is told to stop.

Like the coordinator of a build, its state is a cache of the log plus who works on what; killed at any moment, a new one
goes on from the log. A plain class without Ray. Workers come as `w0/live`, `w0/batch` and `w0/receive`: a live worker
serves unbounded splits for as long as the service runs, a batch worker reads bounded ones as they are discovered, one
receiver fills the spools.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from typing import Any

from headrace.ingest.environment import library_versions
from headrace.ingest.guards import check_settings
from headrace.ingest.ledger import Ledger
from headrace.ingest.live_writer import answers
from headrace.ingest.reencode_plan import PREFIX
from headrace.ingest.resolve import ResolvedStream, Runtime, resolve
from headrace.ingest.service_batches import Batches
from headrace.ingest.service_commits import Commits
from headrace.ingest.service_compaction import Compaction
from headrace.ingest.service_discovery import Discovery
from headrace.ingest.service_lanes import LiveLanes
from headrace.ingest.service_receivers import Receivers
from headrace.ingest.service_reencode import Reencodings
from headrace.ingest.service_status import status_of
from headrace.ingest.service_stream import ServiceStream, StreamState
from headrace.ingest.service_watch import LogWatch
from headrace.ingest.task import Conviction, Task
from headrace.ingest.vocabularies import grow_vocabulary
from headrace.schemas.errors import ConfigError, Fenced, HeadraceError, StorageError
from headrace.schemas.pipeline import Pipeline
from headrace.shards import entry as log
from headrace.shards.log import CommitLog
from headrace.shards.state import StalePlace
from headrace.shards.store import open_store

_logger = logging.getLogger(__name__)

_WAIT_S = 0.2
_PAUSED = "headrace.paused"  #: key of a log entry's `ext`


class Service:
    """One service over one dataset. `start` claims it; then workers `lease` until `drain`."""

    def __init__(self, runtime: dict[str, Any], *, engine: str = "inline") -> None:
        self.engine = engine
        self.runtime = Runtime.from_json(runtime)
        self.lock = threading.RLock()
        self.state = "starting"
        self.fenced_by: str | None = None
        self.log = CommitLog(open_store(self.runtime.dataset, create=True))
        self.started_us = time.time_ns() // 1000
        self.streams: dict[str, ServiceStream] = {}
        self.lanes = LiveLanes()
        self.commits = Commits()
        self.batches = Batches(self)
        self.receivers = Receivers(self)
        self.reencodings = Reencodings(self)
        self._discoveries: dict[str, Discovery] = {}
        self._watch: LogWatch | None = None
        self._compaction: Compaction | None = None
        self._versions = 0
        self.stale: list[str] = []  #: lane files that a commit replaced

    # ---- life -------------------------------------------------------------------------------------------------------

    def start(self, api: str | None = None, *, take_over: bool = False) -> dict[str, Any]:
        """Check everything, claim the dataset, begin to look for splits. `api` is where commands reach this service.

        Raises: ConfigError, LogError, StorageError; Fenced when another service is live and `take_over` is not given.
        """
        with self.lock:
            streams = resolve(self.runtime.pipeline, self.runtime.base, self.runtime.dataset)
            state = self.log.replay()
            check_settings(streams, state.settings)
            if state.maybe_live and state.api and not take_over and answers(state.api, self.runtime.dataset):
                raise Fenced(
                    f"a service is running on this dataset at {state.api}; stop it first, or take over with --take-over"
                )
            self.ledger = Ledger(self.log, streams)
            fitted = {name: self._fitted(stream) for name, stream in streams.items()}
            self.log.claim(library_versions(), {}, api=api)
            paused = set(self.log.state.ext.get(_PAUSED, []))
            for name, stream in streams.items():
                self._open(stream, fitted[name], paused=name in paused)
            grow_vocabulary(self.log)
            self.state = "running"
            self._watch = LogWatch(self)
            self._compaction = Compaction(self)
            return {"epoch": self.log.epoch}

    def _open(self, stream: ResolvedStream, fitted: dict[str, str | None], *, paused: bool) -> None:
        tokenizers = self.ledger.claim_settings(stream, fitted)
        lanes = next(
            (s.lanes for s in self.log.state.settings.values() if s.source == stream.name and s.lanes), stream.lanes
        )
        self._versions += 1
        state: StreamState = "paused" if paused else "running"
        spec = stream.spec.model_dump(mode="json")
        made = ServiceStream(stream, spec, self._versions, tokenizers, lanes, state)
        self.streams[stream.name] = made
        if not stream.live:
            self.ledger.plan({stream.name: []})
            self.batches.lay_out(made)
        self._discoveries[stream.name] = Discovery(self, made)

    def renewed(self, made: ServiceStream) -> None:
        """Let every lane of a stream begin anew from its last commit."""
        self._versions += 1
        made.version = self._versions

    def _fitted(self, stream: ResolvedStream) -> dict[str, str | None]:
        """Fit group → fingerprint. Raises: ConfigError that names the command."""
        settings, found = self.log.state.settings, {}
        for output in stream.outputs.values():
            group = output.fit_group
            if group is None:
                continue
            own = settings.get(output.name)
            known = own.tokenizer if own else self._shared(group)
            if known is None and output.modality == stream.normalizer.modality:
                raise ConfigError(
                    "this tokenizer was never fitted, and a service does not choose what to fit it on: run"
                    " `headrace fit` on this pipeline first, or name a fitted one as `model:`",
                    field=f"streams.{stream.name}.tokenizer",
                )
            found[group] = known
        return found

    def _shared(self, group: str) -> str | None:
        """The artefact of another stream that is fitted together with it."""
        for stream in self.ledger.streams.values():
            for output in stream.outputs.values():
                own = self.log.state.settings.get(output.name)
                if output.fit_group == group and own is not None and own.tokenizer:
                    return own.tokenizer
        return None

    def drain(self) -> dict[str, Any]:
        """Take nothing new, commit what was taken, and end."""
        with self.lock:
            if self.state == "running":
                self.state = "draining"
            for discovery in self._discoveries.values():
                discovery.stop()
            return {"state": self.state}

    def finish(self) -> dict[str, Any]:
        """End the epoch, after the workers have gone."""
        if self._watch is not None:
            self._watch.stop()
        if self._compaction is not None:
            self._compaction.stop()
        for discovery in self._discoveries.values():
            discovery.stop()
            discovery.join()
        with self.lock:
            if self.state != "fenced":
                with contextlib.suppress(Fenced, StorageError):
                    if self.log.epoch is not None:
                        self.log.end()
                self.state = "stopped"
            return {"state": self.state, "version": self.log.state.v, "message": self.fenced_by}

    @property
    def over(self) -> bool:
        """Whether workers should go."""
        return self.state in ("fenced", "stopped")

    # ---- the log ----------------------------------------------------------------------------------------------------

    def append(self, entry: log.Entry, streams: list[str] | None = None) -> int:
        """Commit an entry; call with the lock held. A newer writer ends this service. Raises as `CommitLog.append`."""
        began = time.monotonic()
        try:
            v = self.log.append(entry)
        except Fenced as exc:
            self.state, self.fenced_by = "fenced", str(exc)
            raise
        if streams:
            self.commits.add(v, time.monotonic() - began, entry, streams)
        return v

    def look_for_others(self) -> None:
        """Whether a newer writer has claimed the dataset; call with the lock held."""
        if self.over:
            return
        self.log.refresh()
        if self.log.state.epoch != self.log.epoch:
            self.state = "fenced"
            self.fenced_by = (
                f"this service has epoch {self.log.epoch}, entry {self.log.state.v} is of epoch {self.log.state.epoch}:"
                " another writer took the dataset over"
            )

    # ---- workers ----------------------------------------------------------------------------------------------------

    def lease(self, worker: str) -> dict[str, Any] | None:
        """The next task for a worker, a wait, or None when the service is over."""
        with self.lock:
            if self.over:
                return None
            kind = worker.partition("/")[2]
            task: Task | None = None
            if self.state == "running":
                if kind == "live":
                    task = self.lanes.task(worker, self)
                elif kind == "receive":
                    task = self.receivers.task(worker)
                else:
                    task = self.reencodings.task(worker) or self.batches.task(worker)
            elif self.state == "draining":
                return None
            return {"kind": "wait", "seconds": _WAIT_S} if task is None else task.to_json()

    def renew(self, worker: str, key: str) -> dict[str, Any] | None:
        """The same work from its last commit on; None if it was taken away."""
        with self.lock:
            if self.over or self.state == "draining":
                return None
            if key.startswith("live:"):
                self.lanes.lost(worker, self)
                task = self.lanes.task(worker, self)
            elif key == "receive":
                task = self.receivers.task(worker)
            elif key.startswith(PREFIX):
                task = self.reencodings.again(worker, key)
            else:
                task = self.batches.again(worker, key)
            return task.to_json() if task else None

    def commit(self, worker: str, key: str, manifest: dict[str, Any]) -> dict[str, Any]:
        """Append the manifest of a bounded lane."""
        with self.lock:
            if key.startswith(PREFIX) and not self.over:
                return self.reencodings.commit(worker, key, manifest)
            name = self.batches.stream_of(worker, key)
            if name is None or self.over:
                return {"stop": f"{key} is no longer given to {worker}"}
            try:
                self.append(log.Entry.from_json(manifest), [name])
            except (StalePlace, Fenced) as exc:
                return {"stop": str(exc)}
            except HeadraceError as exc:
                self.batches.failed(worker, key, str(exc))
                return {"stop": str(exc)}
            made = self.streams.get(name)
            if made is not None:
                made.committed()
            if made is None or not made.runs or self.state == "draining":
                self.batches.free(key)
                return {"stop": "the stream is paused, or the service is draining"}
            return {"ok": True}

    def commit_lanes(self, worker: str, key: str, manifests: list[dict[str, Any]]) -> dict[str, Any]:
        """Append what several live lanes cut, as one entry: all of it or nothing."""
        with self.lock:
            if self.over:
                return {"stop": "the service is over"}
            entries = [log.Entry.from_json(manifest) for manifest in manifests]
            sources = {(move.source, move.lane) for entry in entries for move in entry.places}
            if not self.lanes.owns(worker, sources):
                return {"stop": f"{worker} has some of these lanes no longer"}
            names = sorted({source for source, _ in sources})
            state = self.log.state
            replaced = [
                have[new.source, new.lane].path
                for entry in entries
                for have, files in ((state.dedup, entry.dedup), (state.carry, entry.carry))
                for new in files
                if (new.source, new.lane) in have
            ]
            try:
                self.append(log.joined(entries), names)
            except (StalePlace, Fenced, StorageError) as exc:
                return {"stop": str(exc)}
            except HeadraceError as exc:
                _logger.error("a commit of %s was refused: %s", names, exc)
                return {"stop": str(exc)}
            self.stale += [path for path in replaced if path]
            for name in names:
                if name in self.streams:
                    self.streams[name].committed()
            return {"ok": True}

    def poll(self, worker: str, key: str, snapshot: dict[str, Any]) -> dict[str, Any]:
        """How live lanes or receivers stand; answers with what should change."""
        with self.lock:
            if self.over:
                return {"stop": self.fenced_by or "the service is over"}
            if key == "receive":
                return {"drain": True} if self.state == "draining" else self.receivers.polls(worker, snapshot)
            answer = self.lanes.polls(worker, snapshot, self)
            if self.state == "draining":
                return {"drain": True}
            return answer

    def beat(self, worker: str) -> None:
        """A worker is alive, though it says nothing."""
        with self.lock:
            self.lanes.beat(worker)
            self.receivers.beat(worker)

    def convict(self, worker: str, key: str, conviction: dict[str, Any], stream: str) -> None:
        """Log a conviction, so that every replay obeys it."""
        with self.lock, contextlib.suppress(Fenced):
            found = Conviction.from_json(conviction)
            if all(c.key() != found.key() for c in self.ledger.convictions(stream)):
                self.append(log.Entry(kind="commit", convictions=[found.entry(stream)]))

    def done(self, worker: str, key: str, result: dict[str, Any]) -> None:
        """A bounded lane has come to the end of its plan, or a live task has drained."""
        with self.lock:
            if key.startswith("live:"):
                self.lanes.lost(worker, self)
            elif key == "receive":
                self.receivers.lost(worker)
            elif key.startswith(PREFIX):
                self.reencodings.done(worker, key)
            else:
                self.batches.done(worker, key)

    def fail(self, worker: str, key: str, error: dict[str, Any]) -> None:
        """Some work cannot be finished now; it is tried again later, and the rest goes on."""
        with self.lock:
            message = self.reencodings.failed(key, error)
            if key.startswith(PREFIX):
                self.reencodings.done(worker, key, message)
            elif key.startswith("live:"):
                self.lanes.lost(worker, self, error=message)
            elif key == "receive":
                self.receivers.lost(worker)
            elif message is None:
                self.batches.lost(worker)
            else:
                self.batches.failed(worker, key, message)

    def report(self, worker: str, key: str, counters: dict[str, Any]) -> None:
        """Counters of a bounded lane."""
        with self.lock:
            name = self.batches.stream_of(worker, key)
            if name in self.streams:
                total = {what: count for what, count in counters.items() if isinstance(count, int)}
                self.streams[str(name)].report(
                    key, {"total": total, "troubles": [], "seconds": counters.get("seconds", {})}
                )

    def release(self, worker: str) -> None:
        """A worker is gone: what it had is given out again, from its last commit."""
        with self.lock:
            base = worker.partition("/")[0]
            self.lanes.lost(f"{base}/live", self)
            self.batches.lost(f"{base}/batch")
            self.receivers.lost(f"{base}/receive")
            self.reencodings.lost(f"{base}/batch")

    # ---- what people ask --------------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """Everything the status page shows (see status_contract.py)."""
        with self.lock:
            return status_of(self)

    def pause(self, name: str) -> dict[str, Any]:
        """Stop reading a stream; what was taken is committed. The others go on."""
        return self._set(name, "paused")

    def resume(self, name: str) -> dict[str, Any]:
        """Go on with a stream that was paused, parked or stopped."""
        return self._set(name, "running")

    def _set(self, name: str, state: Any) -> dict[str, Any]:
        with self.lock:
            made = self._stream(name)
            made.state, made.message = state, ""
            made.parked = {}
            self.batches.resume(name)
            paused = sorted(n for n, m in self.streams.items() if m.state == "paused")
            self.append(log.Entry(kind="commit", ext={_PAUSED: paused}))
            self._discoveries[name].wake()
            return {"stream": name, "state": state}

    def works_on(self, name: str) -> bool:
        """Whether a worker still has something of a stream; after `pause` it soon has not."""
        with self.lock:
            return self.lanes.works_on(name) or self.batches.works_on(name)

    def add(self, name: str, spec: dict[str, Any]) -> dict[str, Any]:
        """Begin a stream that is not in the pipeline yet. Raises: ConfigError."""
        with self.lock:
            if name in self.streams:
                raise ConfigError(f"there is a stream {name} already", field=f"streams.{name}")
            runtime = self.runtime.with_stream(name, spec)
            stream = runtime.resolve(name)
            check_settings({name: stream}, self.log.state.settings)
            fitted = self._fitted(stream)
            self.runtime = runtime
            self.ledger.streams[name] = stream
            self._open(stream, fitted, paused=False)
            grow_vocabulary(self.log)
            return {"stream": name, "state": "running"}

    def reload(self, pipeline: Pipeline) -> dict[str, Any]:
        """Make the running streams those of a pipeline; what is the same in both is not touched.

        A stream whose settings of the run changed begins anew from its last commit. All is checked before anything is
        done. Raises: ConfigError, SettingsDiffer.
        """
        with self.lock:
            wanted = {name: spec.model_dump(mode="json") for name, spec in pipeline.streams.items()}
            changed = [n for n, spec in wanted.items() if n in self.streams and self.streams[n].spec != spec]
            added = [n for n in wanted if n not in self.streams]
            gone = [n for n in self.streams if n not in wanted]
            for name in [*changed, *added]:
                stream = self.runtime.with_stream(name, wanted[name]).resolve(name)
                check_settings({name: stream}, self.log.state.settings)
                self._fitted(stream)
            for name in [*gone, *changed]:
                self.remove(name)
            for name in [*changed, *added]:
                self.add(name, wanted[name])
            return {"added": added, "changed": changed, "removed": gone}

    def remove(self, name: str) -> dict[str, Any]:
        """End a stream; what it has in the dataset stays."""
        with self.lock:
            made = self._stream(name)
            made.state = "removed"
            self._discoveries.pop(name).stop()
            del self.streams[name]
            return {"stream": name, "state": "removed"}

    def _stream(self, name: str) -> ServiceStream:
        if name not in self.streams:
            raise ConfigError(f"no stream is called {name}; there are {', '.join(sorted(self.streams)) or 'none'}")
        return self.streams[name]

    def place_of(self, source: str, lane: int, split_id: str) -> tuple[Any, int, bool]:
        """Where an unbounded split goes on: position, k, and whether the log has a place for it."""
        at = self.log.state.place(source, lane, log.split_digest(split_id))
        return (None, 0, False) if at is None else (at.position, at.k, True)
