"""The commit log: the one thing that decides what is true in a dataset (DESIGN.md §3.5).

    log = CommitLog(store)
    log.replay()                                  # fold what is there; probes n+1, never lists
    epoch = log.claim(env, settings)              # from here on every other writer is fenced
    log.append(Entry(kind="commit", add=[…], places=[…], books=…))

The log is the fence. A writer commits at its version + 1; whoever claimed meanwhile took that name, so the writer must
read forward through the claim and learns that it is fenced. No lock, lease or clock is involved.

One instance belongs to one thread. Readers use `replay` and `refresh` only.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from headrace.schemas.errors import BrokenLog, Fenced, LogError, StorageError
from headrace.shards.checkpoint import EVERY, BrokenCheckpoint, checkpoint_name, read_checkpoint, write_checkpoint
from headrace.shards.entry import Entry, StreamSettings, entry_name, parse, seal
from headrace.shards.state import State
from headrace.shards.store import Missing, Store

_log = logging.getLogger(__name__)

#: How far beyond a missing entry to look for later ones: the mark of a log with a hole.
_LOOK_AHEAD = (1, 2, 3, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class CommitLog:
    """The log of one dataset, folded into `state`."""

    #: Whether entries are checked to be in canonical form: writers and `verify` do.
    canonical = True

    def __init__(self, store: Store) -> None:
        self.store = store
        self.state = State()
        self.epoch: int | None = None  #: of our claim; None for readers
        self._writer = ""  # unique to our claim; ids of our entries begin with it
        self._count = 0
        self._doubt: tuple[str, bytes] | None = None  # an entry of ours of which it is not known whether it is durable
        self._broken_checkpoints: list[int] = []

    # ---- reading ----

    def replay(self, upto: int | str | None = None) -> State:
        """The state at the head, at version `upto`, or at the entry whose digest begins with `upto`.

        Raises: BrokenLog that names the missing or altered entry; FormatTooNew; LogError for a version not there.
        """
        wanted = upto if isinstance(upto, int) else None
        self.state = State() if isinstance(upto, str) else self._newest_checkpoint(wanted)
        if isinstance(upto, str) and len(upto) < 8:
            raise LogError(f"{upto!r} is too short to name an entry: give at least 8 digits of its digest")
        while wanted is None or self.state.v < wanted:
            if isinstance(upto, str) and self.state.v and self.state.digest.startswith(upto):
                return self.state
            if self._step() is None and not self._goes_on():
                if upto is None:
                    break
                raise LogError(f"{self.store.url} has {self.state.v} versions, none of them is {upto}")
        return self.state

    def refresh(self) -> list[Entry]:
        """What was committed since: the new entries, folded into `state`. Raises: BrokenLog, FormatTooNew."""
        if self._doubt is not None:  # it may be there and not durable, and what is folded in counts as committed
            self.store.put_new(*self._doubt)
            self._doubt = None
        entries = []
        while (entry := self._step()) is not None:
            entries.append(entry)
        return entries

    def entries(self, start: int = 1, stop: int | None = None) -> Iterator[tuple[Entry, str]]:
        """Entries `start` to `stop` (included; default the version of `state`) with their digests, chain checked.

        Raises: BrokenLog.
        """
        previous: str | None = "" if start == 1 else None
        for v in range(start, (self.state.v if stop is None else stop) + 1):
            found = self._read(v)
            if found is None:
                raise BrokenLog(f"{entry_name(v)} is missing, later entries exist")
            entry, digest = found
            if previous is not None and entry.prev != previous:
                raise BrokenLog(_unchained(entry, previous))
            previous = digest
            yield entry, digest

    def _read(self, v: int) -> tuple[Entry, str] | None:
        name = entry_name(v)
        try:
            data = self.store.get(name)
        except Missing:
            return None
        entry, digest = parse(data, name, canonical=self.canonical)
        if entry.v != v:
            raise BrokenLog(f"{name} holds entry {entry.v}")
        return entry, digest

    def _step(self) -> Entry | None:
        found = self._read(self.state.v + 1)
        if found is None:
            return None
        entry, digest = found
        if entry.prev != self.state.digest:
            raise BrokenLog(_unchained(entry, self.state.digest))
        if entry.epoch != self.state.epoch + (entry.kind == "claim"):
            raise BrokenLog(
                f"{entry_name(entry.v)}: a {entry.kind} of epoch {entry.epoch} after epoch {self.state.epoch}"
            )
        self.state.apply(entry, digest)
        return entry

    def _goes_on(self) -> bool:
        """Whether the next entry appeared meanwhile. Raises: BrokenLog if it is missing and later ones exist.

        Entries appear in order, so a later one without the next one is a hole.
        """
        following = self.state.v + 1
        for ahead in _LOOK_AHEAD:
            if self.store.exists(entry_name(following + ahead)):
                if self.store.exists(entry_name(following)):
                    return True
                raise BrokenLog(f"{entry_name(following)} is missing, but entry {following + ahead} exists")
        return False

    def _newest_checkpoint(self, limit: int | None) -> State:
        most = None if limit is None else limit // EVERY
        low, step = 0, 1
        while (most is None or low + step <= most) and self.store.exists(checkpoint_name((low + step) * EVERY)):
            low += step
            step *= 2
        while step > 1:
            step //= 2
            if (most is None or low + step <= most) and self.store.exists(checkpoint_name((low + step) * EVERY)):
                low += step
        self._broken_checkpoints = []
        for n in range(low, 0, -1):
            try:
                return self._from_checkpoint(n * EVERY)
            except BrokenCheckpoint as exc:
                _log.warning("%s; starting from an earlier one", exc)
                self._broken_checkpoints.append(n * EVERY)
            except Missing:
                continue
        return State()

    def _from_checkpoint(self, v: int) -> State:
        return read_checkpoint(self.store, v)

    # ---- writing ----

    def claim(self, env: Mapping[str, str], settings: Mapping[str, StreamSettings], *, api: str | None = None) -> int:
        """Become the writer: replay, then append a claim with the next epoch, and give that epoch back.

        Whoever held the dataset before is fenced; whether that is wanted is the caller's question (`state.maybe_live`,
        `state.api`). Raises: SettingsDiffer if a stream exists with other settings; BrokenLog; StorageError.
        """
        self.replay()
        self._writer, self._count = secrets.token_hex(16), 0
        while True:
            new = {name: s for name, s in settings.items() if name not in self.state.settings}
            entry = Entry(
                kind="claim",
                v=self.state.v + 1,
                prev=self.state.digest,
                id=f"{self._writer}-0",
                epoch=self.state.epoch + 1,
                settings=dict(settings),
                env=dict(env),
                api=api,
            )
            self.state.check(entry)
            entry = replace(entry, settings=new)
            if self._put(entry):
                self.epoch = entry.epoch
                self._heal()
                return entry.epoch

    def append(self, entry: Entry) -> int:
        """Commit an entry and give its version back; it is durable when this returns.

        v, prev, id, epoch and the `first_seq` of added shards are filled here. After a StorageError the entry may or
        may not be in: append one with the same `expect` again, and it is either committed or refused with StalePlace.
        Raises: Fenced, Unbalanced, StalePlace, LogError, StorageError.
        """
        if self.epoch is None:
            raise LogError("claim the dataset before appending to it")
        self._count += 1
        while True:
            self._check_fence()
            sealed = replace(
                entry,
                v=self.state.v + 1,
                prev=self.state.digest,
                id=f"{self._writer}-{self._count}",
                epoch=self.epoch,
                add=self.state.numbered(entry.add),
            )
            self.state.check(sealed)
            if self._put(sealed):
                if sealed.v % EVERY == 0:
                    self._checkpoint()
                return sealed.v

    def end(self, ext: Mapping[str, Any] | None = None) -> int:
        """Say that this epoch is over: no writer is live until the next claim. `ext` as in `Entry`. Raises as `append`.
        """
        v = self.append(Entry(kind="end", ext=dict(ext or {})))
        self.epoch = None
        return v

    def _put(self, entry: Entry) -> bool:
        """Write an entry into its slot: True if it is there, False if another one was and is folded in."""
        data, digest = seal(entry)
        self._doubt = entry_name(entry.v), data
        created = self.store.put_new(*self._doubt)
        self._doubt = None
        if created:
            self.state.apply(entry, digest)
            return True
        found = self._step()
        if found is None:
            raise StorageError(f"{entry_name(entry.v)} exists and does not: the store is not consistent")
        return found.id == entry.id  # our own: its reply had been lost

    def _check_fence(self) -> None:
        if self.state.epoch != self.epoch:
            raise Fenced(
                f"this writer has epoch {self.epoch}, but entry {self.state.v} is of epoch {self.state.epoch}:"
                " another writer took the dataset over"
            )

    def _checkpoint(self) -> None:
        try:
            write_checkpoint(self.store, self.state)
        except StorageError as exc:
            # The entry stands; a checkpoint only saves time, and the next claim writes it again.
            _log.warning("no checkpoint at version %d: %s", self.state.v, exc)

    def _heal(self) -> None:
        for v in self._broken_checkpoints:
            other = CommitLog(self.store)
            try:
                self.store.delete(checkpoint_name(v))
                write_checkpoint(self.store, other.replay(v))
            except StorageError as exc:
                _log.warning("checkpoint %d is still broken: %s", v, exc)
        self._broken_checkpoints = []


def _unchained(entry: Entry, previous: str) -> str:
    return (
        f"{entry_name(entry.v)} follows an entry of digest {entry.prev[:12] or 'none'}…,"
        f" but {entry_name(entry.v - 1) if entry.v > 1 else 'the empty log'} has {previous[:12] or 'none'}…"
    )
