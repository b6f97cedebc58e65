"""Who may write: runs and their seals, without locks, leases or clocks.

A receiver makes a run folder of the highest number and then seals every older one; `sealed` is created exactly once.
A writer looks for the seal before it writes, and again after its fsync and before it says that items are on disk.
Why nothing acknowledged is missed: if the second look finds no seal, the seal comes later than the bytes, and a reader
that first sees the seal and then reads to the end finds them. If it finds one, the items are not acknowledged.
A deleted run counts as sealed: its folder is first renamed, so that no moment shows it without its seal.

Two receivers that start at the same moment may get the same number. The one whose name is lower, if it sees the other,
gives up its own run and takes a higher number; if it does not see it, the other sees it and seals it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from headrace.ingest.spool import GONE, SEALED, Clock, run_key, run_name
from headrace.ingest.spool_disk import Disk
from headrace.ingest.spool_format import SEAL_SEED, pack_note, parse_note, seed_of
from headrace.schemas.errors import Fenced, StorageError
from headrace.shards.store import Missing

_ATTEMPTS = 64


def run_names(disk: Disk, folder: str) -> list[str]:
    """The runs that exist, oldest first."""
    found = [(key, name) for name in disk.names(folder) if (key := run_key(name))]
    return [name for _, name in sorted(found)]


def is_open(disk: Disk, folder: str, run: str) -> bool:
    """Whether the run exists and is not sealed."""
    path = os.path.join(folder, run)
    # In this order: no name is given twice, so a folder that is there at the second look was there at the first.
    return not disk.exists(os.path.join(path, SEALED)) and disk.exists(path)


def seal(disk: Disk, folder: str, run: str, said: dict[str, Any]) -> bool:
    """End a run; False if it had been ended or deleted."""
    path = os.path.join(folder, run, SEALED)
    try:
        return disk.put_new(path, pack_note(said, seed_of(run, SEAL_SEED)))
    except (FileNotFoundError, Missing):
        return False
    except StorageError:
        if is_open(disk, folder, run):
            raise
        return False  # it was ended or deleted while we wrote


def read_seal(disk: Disk, folder: str, run: str) -> dict[str, Any] | None:
    """What the seal says: `at`, when it was made, and `end`, the number of entries that count, if its maker knew.

    None if it is damaged. Raises: FileNotFoundError.
    """
    return parse_note(disk.read(os.path.join(folder, run, SEALED)), seed_of(run, SEAL_SEED))


def begin_run(
    disk: Disk, folder: str, clock: Clock, token: Callable[[], str], last: str | None, mine: set[str]
) -> str:
    """Make a run, end all older ones, and give its name.

    `last` is the run that the same writer had before: then a newer run of another one is not sealed but obeyed. `mine`
    holds the runs that this writer made and could not begin, because something failed: if one is still the newest it
    is taken now, so that trying again does not fill the folder.
    Raises: Fenced, StorageError, OSError.
    """
    for _ in range(_ATTEMPTS):
        name = next(iter(run_names(disk, folder)[-1:]), "")
        if name not in mine or not is_open(disk, folder, name):
            name = run_name(_highest(disk, folder) + 1, token())
            mine.add(name)  # before it is made, which may fail after it did
            disk.make_new_folder(os.path.join(folder, name))
        key = run_key(name)
        assert key is not None
        # Those that were deleted count too: a newer receiver may have come, ended, and been read to its end.
        ever = {run.removeprefix(GONE) for run in disk.names(folder)}
        others = {run: number for run in ever if run not in mine and (number := run_key(run))}
        if last is not None and any(other > (run_key(last) or key) for other in others.values()):
            seal(disk, folder, name, {"at": clock(), "end": 0})
            raise Fenced(f"the spool {folder} has a newer receiver than this one (it began {max(others)})")
        for older in run_names(disk, folder):
            if (run_key(older) or key) < key and is_open(disk, folder, older):
                seal(disk, folder, older, {"at": clock()})
        if all(other < key for other in others.values()) and is_open(disk, folder, name):
            mine.remove(name)
            return name
        seal(disk, folder, name, {"at": clock(), "end": 0})
    raise StorageError(f"{folder}: {_ATTEMPTS} times another receiver began a run at the same moment; start one only")


def _highest(disk: Disk, folder: str) -> int:
    keys = (run_key(name.removeprefix(GONE)) for name in disk.names(folder))
    return max((key[0] for key in keys if key), default=0)
