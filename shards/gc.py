"""Find and delete what no version needs: the leavings of writers that were killed, and what readers no longer read.

What may go needs no age and no clock, replaced shards aside. An entry adds only files named after its own epoch, so
once the log holds a higher epoch, no commit of an older one can ever succeed: an unreferenced file of an older epoch is
garbage at once.

What must stay: files of the current epoch, for its writer may be about to commit them, unless the log says that this
epoch has ended; and files without an epoch in their name (artefacts, vocabularies), for the same reason, while a writer
may be live. Whoever is sure that no writer lives claims the dataset first (`headrace gc --take-over`): then the former
epoch is an old one.

Shards that a compaction replaced are still read by those who pinned an older version. They go when they were replaced
longer ago than `reader_grace_s`: the store's times of the log's entries say which version was the head at that time,
and what that version knew and did not need any more is garbage. A store that tells no times keeps them until
`superseded`. A reader that holds a version longer than the grace opens a newer one.

Files that an erasure replaced go always: that was its purpose. So do replaced shards that still hold a forgotten
record, in lanes in which something was erased: a compaction before the erasure had left copies of it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pyarrow as pa

from headrace.shards.catalogue import catalogue_files
from headrace.shards.checkpoint import checkpoint_name
from headrace.shards.compact_times import Modified, modified_in, version_at
from headrace.shards.entry import entry_name
from headrace.shards.names import epoch_of
from headrace.shards.state import State
from headrace.shards.store import Store
from headrace.shards.vocabularies import lineage, vocabulary_name

#: The folders that hold a dataset's files; anything else in the place is not ours to judge.
_FOLDERS = ("data/", "quarantine/", "plan/", "fit/", "carry/", "dedup/", "tokenizers/", "vocab/", "doctor/")

#: How long a reader may go on with a version whose shards were replaced.
READER_GRACE_S = 7 * 86_400.0


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
    waiting: list[str] = field(default_factory=list)  #: replaced shards that readers may still read
    deleted: bool = False
    collected: int = 0  #: the files of all shards that this version or an earlier one replaced are gone

    @property
    def bytes(self) -> int:
        return sum(g.bytes for g in self.garbage)


def collect(
    store: Store,
    state: State,
    *,
    delete: bool = False,
    superseded: bool = False,
    reader_grace_s: float = READER_GRACE_S,
    now_s: float | None = None,
    modified: Modified | None = None,
) -> GcReport:
    """Find garbage, and with `delete` remove it. `state` is the log's head; `superseded` means no reader is there.

    `now_s` (seconds since 1970 UTC) and `modified` are the clocks: this host's, and the store's. Raises: StorageError,
    BrokenLog; TokenizerError if a vocabulary was changed, for then nobody knows which older ones are its ancestors.
    """
    report = GcReport(deleted=delete)
    replaced = _Replaced(store, state, superseded, reader_grace_s, now_s, modified)
    for found in _find(store, state, replaced, report):
        if delete and epoch_of(found.name) is None and store.exists(entry_name(state.v + 1)):
            report.kept.append(found.name)  # a writer came meanwhile: it may be its own
            continue
        report.garbage.append(found)
        if delete and found.token is not None:
            store.drop_leftover(found.name, found.token)
        elif delete:
            store.delete(found.name)
    if delete and len(state.retired):
        report.collected = state.v if superseded else replaced.upto
    return report


def drop_erased_copies(store: Store, state: State) -> list[str]:
    """Delete, and name, the replaced shards that still hold a forgotten record where something was erased.

    An erasure calls this when it is through, so that its bytes are gone at once. Raises: StorageError.
    """
    erased, needed, dropped = _erased_lanes(state), state.referenced(), []
    for folder in sorted(erased):
        for name in store.list(folder):
            if name in state.retired and name not in needed and (name in state.doomed or _holds(store, state, name)):
                store.delete(name)
                dropped.append(name)
    return dropped


class _Replaced:
    """Judges shards that were live once. The clock is asked only when there is such a shard."""

    def __init__(
        self,
        store: Store,
        state: State,
        at_once: bool,
        grace_s: float,
        now_s: float | None,
        modified: Modified | None,
    ) -> None:
        self._store, self._state, self._at_once, self._grace_s = store, state, at_once, grace_s
        self._now_s = now_s
        self._modified = modified or modified_in(store)
        self._erased = _erased_lanes(state)
        self._upto: int | None = None

    def reason(self, name: str) -> str | None:
        """Why it is garbage; None: a reader may need it."""
        if name in self._state.doomed:
            return "erased"
        if self._at_once:
            return "replaced by a later version"
        if name.startswith(tuple(self._erased)) and _holds(self._store, self._state, name):
            return "a copy of what was erased"
        replaced = self._state.retired.version_of(name)
        old = replaced is not None and replaced <= self.upto
        return "replaced by a later version, longer ago than readers may hold" if old else None

    @property
    def upto(self) -> int:
        """The version that was the head when the grace began; 0 if there was none."""
        if self._upto is None:
            now_s = time.time() if self._now_s is None else self._now_s
            self._upto = version_at(self._state.v, now_s - self._grace_s, self._modified)
        return self._upto


def _find(store: Store, state: State, replaced: _Replaced, report: GcReport) -> Iterator[Garbage]:
    needed = state.referenced()
    if state.vocab is not None:  # older versions read the older files
        needed |= {vocabulary_name(digest) for digest in lineage(store, state.vocab)}
    for folder in _FOLDERS:
        for name in store.list(folder):
            if name in needed:
                continue
            if name in state.doomed:
                yield Garbage(name, "erased", store.size(name))
            elif name in state.retired:
                reason = replaced.reason(name)
                if reason is None:
                    report.waiting.append(name)
                else:
                    yield Garbage(name, reason, store.size(name))
            elif _is_over(name, state):
                yield Garbage(name, "never committed", store.size(name))
            else:
                report.kept.append(name)
    for name, token in store.leftovers():
        if _is_over(name, state):
            yield Garbage(name, "never finished", 0, token)
        else:
            report.kept.append(token)


def _erased_lanes(state: State) -> set[str]:
    """Folders of the lanes in which shards were erased, each with a slash at its end."""
    return {path.rpartition("/")[0] + "/" for path in state.doomed if path.startswith("data/")}


def _holds(store: Store, state: State, name: str) -> bool:
    """Whether a shard that the log no longer describes holds a forgotten record; a file that cannot be read does."""
    try:
        path = store.local_path(name)
        reader = pa.ipc.open_file(pa.py_buffer(store.get(name)) if path is None else pa.memory_map(path))
        for number in range(reader.num_record_batches):
            ids = reader.get_batch(number).column("record_id").to_pylist()
            if any(record.hex() in state.forgotten for record in ids):
                return True
    except (pa.ArrowException, KeyError, ValueError):
        return True  # nobody can read it any more either, so only an erasure's promise is left
    return False


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
