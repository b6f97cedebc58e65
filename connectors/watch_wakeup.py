"""Tells a service that a folder may have changed, so that it lists at once instead of at its next turn.

It is a hint and never believed: the kernel drops events when its queue is full, knows nothing of what other machines
write to a network file system, and limits how many folders one user may watch. Where it cannot help it just waits.
The library is watchfiles (Rust `notify`: it watches folders that appear later, on Linux and macOS); without it, and on
network file systems, where setting watches costs a walk and tells nothing, only time passes.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Generator
from typing import Any

log = logging.getLogger(__name__)

#: File systems of which another machine may write without our kernel hearing of it.
_NETWORK = frozenset(
    ("nfs", "nfs4", "lustre", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "gpfs", "beegfs", "glusterfs", "orangefs")
)
_GATHER_MS = 200  #: changes that come so close together wake once
_TURN_MS = 250  #: how long the library is asked to wait at a time
_LEAST_S = 0.5  #: a folder that never rests must not make its watcher list without pause


class Wakeup:
    """Waits for a change somewhere below one folder; where there is no folder to watch, just waits."""

    def __init__(self, folder: str | None) -> None:
        self._folder = folder
        self._stop = threading.Event()
        self._waiting = threading.Lock()
        self._changes: Generator[Any, None, None] | None = None
        self._tried = False
        self._last = 0.0

    def wait(self, timeout_s: float) -> bool:
        """True if something changed, False if `timeout_s` seconds passed without news or `close` was called."""
        deadline = time.monotonic() + timeout_s
        with self._waiting:
            if self._stop.wait(min(timeout_s, max(0.0, self._last + _LEAST_S - time.monotonic()))):
                return False
            if not self._tried and self._folder is not None:
                self._tried, self._changes = True, _changes(self._folder, self._stop)
            while self._changes is not None and not self._stop.is_set():
                if next(self._changes, None):
                    self._last = time.monotonic()
                    return True
                if time.monotonic() >= deadline:
                    return False
            self._stop.wait(max(0.0, deadline - time.monotonic()))
            return False

    def close(self) -> None:
        """End a `wait` of another thread, and give up the watches."""
        self._stop.set()
        with self._waiting:
            if self._changes is not None:
                self._changes.close()
                self._changes = None


def _changes(folder: str, stop: threading.Event) -> Generator[Any, None, None] | None:
    """What changed, or an empty set every quarter of a second; None, with a line in the log, where nothing can tell."""
    kind = file_system_of(folder)
    if kind in _NETWORK or kind.startswith("fuse"):
        log.info("%s lies on a network file system (%s): it is listed by the clock alone", folder, kind)
        return None
    try:
        from watchfiles import watch
    except ImportError:
        log.info("watchfiles is not installed: %s is listed by the clock alone", folder)
        return None
    changes: Generator[Any, None, None] = watch(
        folder, watch_filter=None, debounce=_GATHER_MS, step=50, stop_event=stop, rust_timeout=_TURN_MS,
        yield_on_timeout=True, raise_interrupt=False, force_polling=False, ignore_permission_denied=True,
    )  # fmt: skip
    try:
        next(changes, None)  # the watches are set here
    except OSError as exc:  # no such folder yet, or too many watches for one user
        log.warning("%s cannot be watched and is listed by the clock alone: %s", folder, exc)
        return None
    return changes


def file_system_of(folder: str) -> str:
    """The type of the file system that a path lies on, as Linux names it; empty where that cannot be told."""
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
            mounts = [line.split(" - ", 1) for line in lines]
    except OSError:
        return ""
    real, best, kind = os.path.realpath(folder), -1, ""
    for left, right in mounts:
        point = left.split()[4].replace("\\040", " ")
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        # The last of several mounts on one point covers the others.
        if inside and len(point) >= best:
            best, kind = len(point), right.split()[0]
    return kind
