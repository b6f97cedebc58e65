"""Compaction: many small shards of a lane become few large ones, and nothing that anyone can observe of a row changes.

    compactor = Compactor(store, Policy())
    merges = compactor.plan(log.state)             # numbers only
    entry = compactor.run(merges, log.epoch)       # writes files; in any thread, no lock held
    if entry is not None:
        log.append(entry)                          # LogError: a shard was replaced meanwhile: see `discard`

Addresses, rows, content digest, `why`, catalogue and deletions stay as they are: an entry of kind `compact` says that a
new file stands for others. The replaced files stay for readers of older versions until `gc` finds them past its grace.
A process killed anywhere leaves either a file that no entry names, which is garbage, or the finished step.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from headrace.schemas.errors import LogError, ShardError
from headrace.shards.compact_copy import merged_shard
from headrace.shards.compact_plan import Merge, Policy, everything, plan
from headrace.shards.compact_times import Modified, modified_in
from headrace.shards.entry import Entry, Replace, ShardInfo
from headrace.shards.log import CommitLog
from headrace.shards.state import State
from headrace.shards.store import Missing, Store

_log = logging.getLogger(__name__)

__all__ = ["Compacted", "Compactor", "Merge", "Policy", "compact", "everything"]


class Compactor:
    """Plans merges and writes them; the caller, who holds the claim, appends the entries.

    One instance belongs to one thread at a time.
    """

    def __init__(
        self,
        store: Store,
        policy: Policy | None = None,
        *,
        modified: Modified | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`modified` and `now` are asked for ages only, which decide when a merge happens and never what it holds."""
        self.store = store
        self.policy = policy or Policy()
        self.damaged: dict[str, str] = {}  #: path -> what is wrong: shards that cannot be read, left out from then on
        self._modified = modified or modified_in(store)
        self._now = now
        self._number = 0

    def plan(self, state: State, *, stream: str | None = None) -> list[Merge]:
        """What to merge now, the cheapest first. Raises: StorageError if the age of a file is needed and not had."""
        return plan(state, self.policy, stream=stream, age=self._age, skip=self.damaged)

    def run(self, merges: Sequence[Merge], epoch: int) -> Entry | None:
        """Write the first merges, up to the policy's bytes a step, and give back the entry; None if there is nothing.

        A merge whose shards were erased meanwhile is left out; one with a damaged shard too, and that shard is listed
        in `damaged`. On any other error the files of this step are removed. Raises: StorageError.
        """
        made: list[Replace] = []
        done_bytes = 0
        try:
            for merge in merges:
                if made and done_bytes + merge.bytes > self.policy.step_bytes:
                    break
                new = self._merged(merge, epoch)
                if new is not None:
                    made.append(Replace(remove=[s.path for s in merge.shards], add=[new]))
                    done_bytes += merge.bytes
        except Exception:
            self.discard(Entry(kind="compact", replace=made), State())
            raise
        return Entry(kind="compact", replace=made) if made else None

    def discard(self, entry: Entry, state: State) -> None:
        """Remove the files of an entry that the log refused, unless `state`, the log's, has them after all.

        After a StorageError append the entry again first: only then is it known whether it is in.
        """
        for change in entry.replace:
            for shard in change.add:
                if shard.path not in state.paths and shard.path not in state.retired:
                    self.store.delete(shard.path)

    def _merged(self, merge: Merge, epoch: int) -> ShardInfo | None:
        self._number += 1
        try:
            return merged_shard(
                self.store, merge.shards, epoch, block_bytes=merge.block_bytes, number=self._number % 1_000_000
            )
        except Missing as exc:
            _log.info("%s/L%04d is not merged now: %s", merge.stream, merge.lane, exc)
        except ShardError as exc:
            path = next((s.path for s in merge.shards if s.path in str(exc)), merge.shards[0].path)
            self.damaged[path] = str(exc)
            _log.warning("%s/L%04d is not merged: %s", merge.stream, merge.lane, exc)
        return None

    def _age(self, shard: ShardInfo) -> float | None:
        try:
            written = self._modified(shard.path)
        except Missing:
            return None
        return None if written is None else self._now() - written


@dataclass
class Compacted:
    """What was done: `before` shards of `bytes` became `after`."""

    merges: int = 0
    before: int = 0
    after: int = 0
    bytes: int = 0
    damaged: dict[str, str] = field(default_factory=dict)


def compact(log: CommitLog, policy: Policy, *, stream: str | None = None) -> Compacted:
    """Merge all that the policy finds now, step by step. `log` is claimed. Raises: Fenced, LogError, StorageError."""
    if log.epoch is None:
        raise LogError("claim the dataset before compacting it")
    compactor, done = Compactor(log.store, policy), Compacted()
    known = -1
    while len(compactor.damaged) > known:  # a damaged shard spoils its merge: plan again without it
        known = len(compactor.damaged)
        merges = compactor.plan(log.state, stream=stream)
        while (entry := compactor.run(merges, log.epoch)) is not None:
            log.append(entry)
            gone = {path for change in entry.replace for path in change.remove}
            left_out = gone | compactor.damaged.keys()
            merges = [m for m in merges if not left_out.intersection(s.path for s in m.shards)]
            done.merges += len(entry.replace)
            done.before += len(gone)
            done.after += sum(len(change.add) for change in entry.replace)
            done.bytes += sum(s.bytes for change in entry.replace for s in change.add)
    done.damaged = compactor.damaged
    return done
