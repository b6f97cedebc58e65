"""A clock that jumps, in the shape of the module `time`: what the engine's files see instead of it."""

from __future__ import annotations

from typing import Protocol

_BEGIN = 1_700_000_000.0


class Sleeps(Protocol):
    """Who lets others go on meanwhile."""

    def sleep(self, seconds: float) -> None: ...


class Clock:
    """Seconds that pass when everybody sleeps.

    `jump` sets the clock of the host, in either direction; `stall` lets hours pass for everybody at once, as when a
    machine was suspended: then `monotonic` shows them too.
    """

    def __init__(self, scheduler: Sleeps) -> None:
        self._host = _BEGIN
        self._steady = 1000.0
        self.sleep = scheduler.sleep

    def jump(self, seconds: float) -> None:
        self._host += seconds

    def stall(self, seconds: float) -> None:
        self._host += seconds
        self._steady += seconds

    def time(self) -> float:
        return self._host

    def monotonic(self) -> float:
        return self._steady

    def perf_counter(self) -> float:
        return 0.0

    def thread_time(self) -> float:
        return 0.0

    def time_ns(self) -> int:
        return int(self._host * 1e6) * 1000

    def us(self) -> int:
        return int(self._host * 1e6)


class Event:
    """`threading.Event` for a process that nobody but itself wakes."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._set = False

    def set(self) -> None:
        self._set = True

    def clear(self) -> None:
        self._set = False

    def wait(self, timeout: float = 1.0) -> bool:
        if not self._set:
            self._clock.sleep(max(timeout, 0.6))  # a few turns instead of many until a commit is due
        return self._set
