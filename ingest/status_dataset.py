"""Follows the dataset of a service for its page: a view pinned to one version, renewed when the log has grown.

A request takes the view once and keeps it, so what it shows is one version even while the service commits.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass, fields
from pathlib import Path

from headrace.ingest.view import DatasetView
from headrace.shards.dataset import Dataset
from headrace.shards.entry import Entry
from headrace.shards.log import CommitLog
from headrace.shards.state import State
from headrace.shards.store import open_store
from headrace.tokenizers.contract import Tokenizer

#: Entries whose sums are kept for the timeline.
KEPT_ENTRIES = 400


@dataclass(frozen=True)
class Added:
    """What one entry added to one stream."""

    rows: int
    bytes: int
    tokens: int


@dataclass(frozen=True)
class EntryLine:
    """One version of the dataset and what it added, by stream."""

    v: int
    kind: str
    added: dict[str, Added]


class PinnedView(DatasetView):
    """A view that shares loaded tokenizers with those of other versions: a stream's tokenizer never changes."""

    def __init__(self, dataset: Dataset, base: Path | None, tokenizers: dict[str, Tokenizer | None]) -> None:
        super().__init__(dataset, base)
        self._tokenizers = tokenizers


class DatasetFollower:
    """The newest version of a dataset that is being written. Every method may be called from any thread."""

    def __init__(self, url: str, base: Path | None = None, *, stale_s: float = 5.0) -> None:
        self._url = url
        self._base = base
        self._stale_s = stale_s
        self._lock = threading.Lock()
        self._log: CommitLog | None = None
        self._view: PinnedView | None = None
        self._looked = 0.0
        self._lines: deque[EntryLine] = deque(maxlen=KEPT_ENTRIES)
        self._tokenizers: dict[str, Tokenizer | None] = {}

    def view(self, at_least: int | None = None) -> PinnedView:
        """A pinned view: of version `at_least` or later where the log has it, and never many seconds old.

        Raises: StorageError, BrokenLog, FormatTooNew.
        """
        with self._lock:
            view = self._view
            late = time.monotonic() - self._looked > self._stale_s
            if view is None or late or (at_least is not None and view.dataset.version < at_least):
                view = self._renew()
            return view

    def lines(self) -> list[EntryLine]:
        """The newest entries, oldest first."""
        with self._lock:
            return list(self._lines)

    def _renew(self) -> PinnedView:
        if self._log is None:
            log = CommitLog(open_store(self._url))
            log.replay()
            for entry, _ in log.entries(start=max(1, log.state.v - KEPT_ENTRIES + 1)):
                self._lines.append(_line(entry))
            self._log = log
        else:
            self._lines.extend(_line(entry) for entry in self._log.refresh())
        self._looked = time.monotonic()
        state = self._log.state
        if self._view is None or self._view.dataset.version < state.v:
            self._view = PinnedView(Dataset(self._log.store, copied(state)), self._base, self._tokenizers)
        return self._view


def copied(state: State) -> State:
    """The state with containers of its own; what they hold never changes and is shared."""
    own = {}
    for field in fields(State):
        value = getattr(state, field.name)
        if isinstance(value, dict):
            value = {key: list(item) if isinstance(item, list) else item for key, item in value.items()}
        elif isinstance(value, list | set):
            value = value.copy()
        own[field.name] = value
    return State(**own)


def quarantine_counts(state: State) -> dict[str, dict[str, int]]:
    """Quarantined rows by stream and reason code (what stands before a colon)."""
    counts: dict[str, dict[str, int]] = {}
    for info in state.quarantine.values():
        own = counts.setdefault(info.stream, {})
        for reason, n in info.reasons.items():
            code = reason.partition(":")[0]
            own[code] = own.get(code, 0) + n
    return counts


def _line(entry: Entry) -> EntryLine:
    added: dict[str, Added] = {}
    for shard in entry.add:
        have = added.get(shard.stream, Added(0, 0, 0))
        added[shard.stream] = Added(have.rows + shard.rows, have.bytes + shard.bytes, have.tokens + shard.tokens)
    return EntryLine(entry.v, entry.kind, added)
