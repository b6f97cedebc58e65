"""Find and delete what no version needs: the leavings of writers that were killed.

What may go needs no age and no clock. An entry adds only files named after its own epoch, so once the log holds a
higher epoch, no commit of an older one can ever succeed: an unreferenced file of an older epoch is garbage at once.

What must stay: files of the current epoch, for its writer may be about to commit them, unless the log says that this
epoch has ended; and files without an epoch in their name (artefacts, vocabularies), for the same reason, while a writer
may be live. Whoever is sure that no writer lives claims the dataset first (`headrace gc --take-over`): then the former
epoch is an old one.

Shards that a compaction replaced are still read by those who pinned an older version; they go only with `superseded`.
Files that an erasure replaced go always: that was its purpose.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from headrace.shards.catalogue import catalogue_files
from headrace.shards.checkpoint import checkpoint_name
from headrace.shards.entry import entry_name
from headrace.shards.names import epoch_of
from headrace.shards.state import State
from headrace.shards.store import Store

#: The folders that hold a dataset's files; anything else in the place is not ours to judge.
_FOLDERS = ("data/", "quarantine/", "plan/", "fit/", "carry/", "dedup/", "tokenizers/", "vocab/", "doctor/")


@dataclass(frozen=True)
class Garbage:
    """One file: `token` is set for the leavings of a write that never finished."""

    name: str
    reason: str
    bytes: int = 0
    token: str | None = None


@dataclass
class GcReport:
    """What was found; `deleted` says whether it was deleted too."""

    garbage: list[Garbage] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)  #: unreferenced, but perhaps of a live writer
    deleted: bool = False

    @property
    def bytes(self) -> int:
        return sum(g.bytes for g in self.garbage)


def collect(store: Store, state: State, *, delete: bool = False, superseded: bool = False) -> GcReport:
    """Find garbage, and with `delete` remove it. `state` is the log's head. Raises: StorageError."""
    report = GcReport(deleted=delete)
    for found in _find(store, state, superseded, report.kept):
        report.garbage.append(found)
        if delete and found.token is not None:
            store.drop_leftover(found.name, found.token)
        elif delete:
            store.delete(found.name)
    return report


def _find(store: Store, state: State, superseded: bool, kept: list[str]) -> Iterator[Garbage]:
    needed = state.referenced()
    for folder in _FOLDERS:
        for name in store.list(folder):
            if name in needed:
                continue
            if name in state.doomed:
                yield Garbage(name, "erased", store.size(name))
            elif name in state.paths:
                if superseded:
                    yield Garbage(name, "replaced by a later version", store.size(name))
            elif _is_over(name, state):
                yield Garbage(name, "never committed", store.size(name))
            else:
                kept.append(name)
    for name, token in store.leftovers():
        if _is_over(name, state):
            yield Garbage(name, "never finished", 0, token)
        else:
            kept.append(token)


def _is_over(name: str, state: State) -> bool:
    """Whether no writer can commit a file of this name any more."""
    if name.startswith("log/"):
        ours = checkpoint_name(state.v) if name.startswith("log/ckpt/") else entry_name(state.v)
        return name <= ours or not state.maybe_live
    epoch = epoch_of(name)
    if epoch is None:
        return not state.maybe_live
    return epoch < state.epoch or (epoch == state.epoch and state.ended)


def unknown_files(store: Store) -> list[str]:
    """Files in the place that are no part of a dataset; for `doctor`, never deleted. Raises: StorageError."""
    ours = (*_FOLDERS, "log/")
    catalogue = {file.name for file in catalogue_files(store)}
    return [name for name in store.list() if not name.startswith(ours) and name not in catalogue]
