"""`privacy.quarantine_keep`: quarantined bytes that are old enough are removed; digest, length, reason and place stay.

How old a row is, is what the log says by the times of its entries in the store: version w was the head `keep` ago, so
every row of a file that w lists is at least that old. Not the time of the quarantine file: an erasure writes such a
file again, with all its other rows, and they would be young again. Not a date in an entry: it would be the word of one
writer's clock, while the store's times are one clock, cannot be forgotten, and are there for datasets of any age.

A file that w lists and the head does not was redacted since. Which file stands for it now follows from what a redaction
keeps (stream, rows, items, reasons); where several could, they wait until they are old themselves, at most `keep` more.

The log remembers in `ext` up to which version all is expired, so that nothing is read again and again:
{"quarantine_expired": 1234}. What is done is a function of the log, the times of its entries, and `now`.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow.compute as pc

from headrace.schemas.errors import ConfigError, LogError, ShardError
from headrace.shards.compact_times import Modified, modified_in, version_at
from headrace.shards.entry import Entry, QuarantineInfo, Redact
from headrace.shards.log import CommitLog
from headrace.shards.quarantine import redacted
from headrace.shards.state import State
from headrace.shards.store import Store

#: The key in `ext`.
EXPIRED = "quarantine_expired"
#: Files that one entry redacts.
STEP_FILES = 64


@dataclass(frozen=True)
class Due:
    """Files whose rows are all at least `keep` old, and the version that says so."""

    version: int
    files: tuple[QuarantineInfo, ...] = ()


@dataclass
class Expired:
    """What was done."""

    files: int = 0  #: written again
    rows: int = 0  #: that lost their bytes
    damaged: dict[str, str] = field(default_factory=dict)  #: path -> what is wrong: files that cannot be written again


def keep_seconds(keep: str) -> float | None:
    """Seconds of a `quarantine_keep`: `30d`, or `forever` for None. Raises: ConfigError."""
    if keep == "forever":
        return None
    match = re.fullmatch(r"(\d{1,6})d", keep)
    if match is None:
        raise ConfigError("should be a number of days such as 30d, or forever", field="quarantine_keep", value=keep)
    return int(match.group(1)) * 86_400.0


def due(
    store: Store, state: State, keep_s: float, *, now_s: float | None = None, modified: Modified | None = None
) -> Due:
    """What is to expire at `state`, the log's head. Reads the log of then, no data. Raises: StorageError, BrokenLog."""
    mark = int(state.ext.get(EXPIRED, 0))
    if not state.quarantine:
        return Due(mark)
    moment = (time.time() if now_s is None else now_s) - keep_s
    version = version_at(state.v, moment, modified or modified_in(store))
    if version <= mark:
        return Due(mark)
    then = CommitLog(store).replay(version).quarantine
    done = CommitLog(store).replay(mark).quarantine if mark else {}
    old = [info for path, info in state.quarantine.items() if path in then and path not in done]
    lost = Counter(_key(info) for path, info in then.items() if path not in state.quarantine and path not in done)
    young = [info for path, info in state.quarantine.items() if path not in then]
    could = Counter(map(_key, young))
    old += [info for info in young if lost[_key(info)] and could[_key(info)] <= lost[_key(info)]]
    return Due(version, tuple(old))


def run(
    store: Store, files: Sequence[QuarantineInfo], epoch: int, damaged: dict[str, str]
) -> tuple[int, Entry | None]:
    """Write files without their bytes: how many rows lost some, and the entry to append (None if no row had any).

    May run in any thread: the log refuses the entry if a file was redacted meanwhile; then plan again. After the
    append, `drop` deletes the old files. A file that is not what the log says is added to `damaged` and left as it is.
    Raises: StorageError.
    """
    rows, changes = 0, []
    for info in files:
        try:
            lost, made = redacted(store, info, epoch, pc.scalar(True))
        except ShardError as exc:
            damaged[info.path] = str(exc)
            continue
        rows += lost
        if made is not None:
            changes.append(Redact(remove=info.path, add=made))
    return rows, Entry(kind="forget", redact=changes) if changes else None


def drop(store: Store, entry: Entry) -> None:
    """Delete what a committed entry redacted; `gc` would too."""
    for change in entry.redact:
        store.delete(change.remove)


def expire(
    log: CommitLog, keep_s: float | None, *, now_s: float | None = None, modified: Modified | None = None
) -> Expired:
    """Remove all quarantined bytes older than `keep_s`; None keeps all. `log` is claimed.

    Killed anywhere, the next call goes on; once all is done the log says so. Raises: Fenced, StorageError.
    """
    done = Expired()
    if keep_s is None:
        return done
    if log.epoch is None:
        raise LogError("claim the dataset before its quarantine can expire")
    found = due(log.store, log.state, keep_s, now_s=now_s, modified=modified)
    for start in range(0, len(found.files), STEP_FILES):
        rows, entry = run(log.store, found.files[start : start + STEP_FILES], log.epoch, done.damaged)
        if entry is not None:
            log.append(entry)
            drop(log.store, entry)
            done.files += len(entry.redact)
            done.rows += rows
    if found.files and not done.damaged:
        log.append(finished(found))
    return done


def finished(found: Due) -> Entry:
    """The entry that says that all of `found` is expired; without it the next call reads the same files again."""
    return Entry(kind="forget", ext={EXPIRED: found.version})


def _key(info: QuarantineInfo) -> tuple[Any, ...]:
    """What a redaction keeps of a file."""
    return info.stream, info.rows, info.items, tuple(sorted(info.reasons.items()))
