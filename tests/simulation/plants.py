"""Bugs to plant into the engine: ways in which such engines have lost or doubled data. Tests must find each.

Where one guard alone would make a bug harmless, both are taken away, and the bug says so: the log refuses a commit
whose writer is fenced, and also one that expects another place; either is enough against most of what may happen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from headrace.ingest import spool_writer
from headrace.ingest.dedup import Seen
from headrace.ingest.live_lane import LiveLane
from headrace.ingest.live_loop import LiveLoop
from headrace.ingest.service_lanes import LiveLanes
from headrace.shards import log as log_module
from headrace.shards import shard_check, store_local
from headrace.shards import state as state_module
from headrace.shards.entry import Entry
from headrace.shards.log import CommitLog
from headrace.shards.state import State

from .streams import playing

Plant = Callable[[pytest.MonkeyPatch], None]


def no_fence(patch: pytest.MonkeyPatch) -> None:
    """A writer that finds a newer epoch goes on in it."""

    def check_fence(self: CommitLog) -> None:
        self.epoch = self.state.epoch

    patch.setattr(CommitLog, "_check_fence", check_fence)


def no_guard(patch: pytest.MonkeyPatch) -> None:
    """As `no_fence`, and the log asks neither for the place before nor for files of the writer's own epoch."""
    no_fence(patch)
    patch.setattr(State, "_check_places", lambda self, entry: None)
    for module in (state_module, shard_check):
        patch.setattr(module, "check_epoch", lambda path, epoch: None)
    patch.setattr(State, "_check_books", lambda self, entry: None)


def failure_assumed(patch: pytest.MonkeyPatch) -> None:
    """A writer whose slot is taken never looks whether it is its own entry, and commits again; `expect` is not looked
    at, since it alone would refuse the repetition."""

    def put(self: CommitLog, entry: Entry) -> bool:
        data, digest = log_module.seal(entry)
        if self.store.put_new(log_module.entry_name(entry.v), data):
            self.state.apply(entry, digest)
            return True
        self._step()
        return False

    patch.setattr(CommitLog, "_put", put)
    patch.setattr(State, "_check_places", lambda self, entry: None)


def two_file_commit(patch: pytest.MonkeyPatch) -> None:
    """Data are committed first, places after them, in an entry of their own."""
    real = CommitLog.append

    def append(self: CommitLog, entry: Entry) -> int:
        if not entry.add:
            return real(self, entry)
        real(self, replace(entry, places=[], dedup=[], carry=[], watermarks=[]))
        return real(self, Entry(kind="commit", places=entry.places, dedup=entry.dedup, carry=entry.carry))

    patch.setattr(CommitLog, "append", append)


def ack_before_commit(patch: pytest.MonkeyPatch) -> None:
    """Sources hear of a cut before the log has it."""
    real = LiveLoop._cut

    def cut(self: LiveLoop, lanes: list[LiveLane], channel: Any) -> None:
        for lane in lanes:
            for reading in lane._readings.values():
                if reading.at.position != reading.position:
                    self._connectors[lane.task.stream].ack(reading.row.split, reading.at.position)
        real(self, lanes, channel)

    patch.setattr(LiveLoop, "_cut", cut)


def dedup_outside_the_commit(patch: pytest.MonkeyPatch) -> None:
    """What was seen is kept in a place of its own, written at the cut, read at the start."""

    def lane_files(self: LiveLane, kind: str, state: Any) -> list[Any]:
        if kind == "dedup":
            if state is not None:
                _kept()[self.task.key] = state.to_bytes()
            return []
        return real(self, kind, state)

    def remembered(self: LiveLane) -> Seen | None:
        settings = self.stream.dedup
        if settings is None:
            return None
        data = _kept().get(self.task.key)
        return Seen(settings) if data is None else Seen.from_bytes(settings, data, "kept")

    real = LiveLane._lane_files
    patch.setattr(LiveLane, "_lane_files", lane_files)
    patch.setattr(LiveLane, "_remembered", remembered)


def _kept() -> dict[str, bytes]:
    return playing[-1].__dict__.setdefault("kept", {})


def spool_answers_before_fsync(patch: pytest.MonkeyPatch) -> None:
    """The receiver answers when the bytes are written, not when they are on disk."""
    real = spool_writer.SpoolWriter._write

    def write(self: spool_writer.SpoolWriter, batch: Any) -> None:
        with pytest.MonkeyPatch.context() as inner:
            from headrace.ingest import spool_memory

            inner.setattr(spool_memory._Handle, "sync", lambda handle: None)
            real(self, batch)

    patch.setattr(spool_writer.SpoolWriter, "_write", write)


def folder_not_synced(patch: pytest.MonkeyPatch) -> None:
    """The store on a file system makes a file durable, and not its name."""
    patch.setattr(store_local, "_sync_folder", lambda path: None)


def older_carry_file(patch: pytest.MonkeyPatch) -> None:
    """A lane begins with the open windows of the commit before the last one."""
    real_apply, real_lanes = State.apply, LiveLanes._lanes_of
    before: dict[int, dict[Any, Any]] = {}

    def apply(self: State, entry: Entry, digest: str) -> None:
        for file in entry.carry:
            key = (file.source, file.lane)
            before.setdefault(id(self), {})[key] = self.carry.get(key)
        real_apply(self, entry, digest)

    def lanes_of(self: LiveLanes, worker: str, service: Any) -> list[Any]:
        older = before.get(id(service.log.state), {})
        return [
            replace(task, carry=older.get((task.stream, task.lane), task.carry))
            for task in real_lanes(self, worker, service)
        ]

    patch.setattr(State, "apply", apply)
    patch.setattr(LiveLanes, "_lanes_of", lanes_of)


#: Bug, and how its histories are played.
PLANTS: list[tuple[Plant, dict[str, Any]]] = [
    (no_fence, {}),
    (failure_assumed, {}),
    (two_file_commit, {}),
    (ack_before_commit, {}),
    (dedup_outside_the_commit, {}),
    (spool_answers_before_fsync, {}),
    (folder_not_synced, {}),
    (older_carry_file, {"full": True, "windows": True}),
]
