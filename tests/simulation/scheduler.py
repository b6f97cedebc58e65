"""One process at a time, and dice that say which, and what befalls it: kills, pauses, failing calls, lost replies.

A process is a greenlet: ordinary code that may be left at any call to a simulated store, disk or service and gone on
with later, or never. Everything is drawn from one seeded generator, so a history is a function of its seed.

    BURSTS    how many calls a process makes before the next thing happens to it
    storm     dice decide what that is; in calm weather it is always "another one's turn"
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

from greenlet import getcurrent, greenlet

from .clock import Clock

_BURSTS = (1, 2, 4, 8, 16, 32, 64, 128)
_CALM_BURST = 400

#: What may happen at a call during the storm, by a die of 1: another one's turn, death, a long sleep (a zombie wakes),
#: a call that does nothing and fails, one that takes effect and fails all the same.
_TURN, _KILL, _PAUSE, _REFUSE = 0.50, 0.57, 0.67, 0.84


class Killed(BaseException):
    """The process is dead: nothing in it may catch this."""


class Exited(BaseException):
    """A child process ends at once, as `os._exit` does; its supervisor goes on."""


class Process:
    """One process: `kind` says what it does, `dead` that it is over, `paused` for how many turns it sleeps."""

    def __init__(self, kind: str, name: str, body: Callable[[Process], None]) -> None:
        self.kind, self.name = kind, name
        self.dead = False
        self.paused = 0
        self.doomed: type[BaseException] | None = None  #: raised at each further call
        self.inbox: list[Any] = []
        self.wakes = 0.0  #: it sleeps until the clock shows this, or until a request comes
        self.asks: Any = None  #: the request whose answer it waits for
        self.service: Any = None  #: of a service or writer, once it has claimed the dataset
        self.of: Process | None = None  #: of a worker: the service it works for
        self._body = body
        self.greenlet = greenlet(self._run)

    def is_ready(self, now: float) -> bool:
        if self.paused:
            return False
        if self.asks is not None:
            return self.asks.done or self.asks.service.dead
        return self.wakes <= now or bool(self.inbox)

    def _run(self) -> None:
        try:
            self._body(self)
        except Killed:
            pass
        finally:
            self.dead = True
            self._body = _nothing  # frees what it held


def _nothing(process: Process) -> None:
    return


class Scheduler:
    """Runs processes; `point` stands at each call that another process, or a fault, may interrupt."""

    def __init__(self, dice: random.Random, *, tracing: bool = False) -> None:
        self.dice = dice
        self.storm = False
        self.clock = Clock(self)
        self.processes: list[Process] = []
        self.current: Process | None = None
        self.counts: Counter[str] = Counter()
        self.lines: list[str] | None = [] if tracing else None
        self.failure: BaseException | None = None  #: of a process, or what a model noticed; ends the history
        self._left = 0
        self._hub = getcurrent()

    # -- for the world ------------------------------------------------------------------------------------------------

    def spawn(self, kind: str, body: Callable[[Process], None]) -> Process:
        self.counts[f"{kind} processes"] += 1
        process = Process(kind, f"{kind}{self.counts[f'{kind} processes']}", body)
        self.processes.append(process)
        self.trace("starts", process.name)
        return process

    def turn(self) -> None:
        """Let one process go on until it is interrupted or waits; time passes when all of them sleep."""
        now = self.clock.monotonic()
        ready = [p for p in self.processes if p.is_ready(now)]
        if not ready:
            asleep = [p.wakes for p in self.processes if not p.paused and p.asks is None]
            if asleep:
                self.clock.stall(max(0.0, min(asleep) - now))
                ready = [p for p in self.processes if p.is_ready(min(asleep))]
        for process in self.processes:
            if process.paused:
                process.paused -= 1
        if ready:
            self.run(self.dice.choice(ready))

    def run(self, process: Process) -> None:
        self.current = process
        self._left = self.dice.choice(_BURSTS) if self.storm else _CALM_BURST
        try:
            process.greenlet.switch()
        except BaseException as exc:  # an error that the real code should not let out, or a checker's word
            self.failure = self.failure or exc
            process.dead = True
        self.current = None
        if process.dead:
            self.processes.remove(process)
        if self.failure is not None:
            raise self.failure

    def kill(self, process: Process) -> None:
        """End a process where it stands; its cleaning up ends at its next call."""
        process.doomed = Killed
        process.paused = 0
        while not process.dead:
            self.run(process)

    def alive(self, kind: str) -> list[Process]:
        return [p for p in self.processes if p.kind == kind]

    def trace(self, *words: Any) -> None:
        if self.lines is not None:
            who = self.current.name if self.current is not None else "world"
            self.lines.append(f"{who:>10}  {' '.join(map(str, words))}")

    # -- for whatever a process calls ---------------------------------------------------------------------------------

    def point(self, call: str, name: str = "") -> str:
        """A call begins. "" lets it happen; "refused": fail and do nothing; "lost": do it and fail."""
        process = self.current
        if process is None:
            return ""
        if process.doomed is not None:
            raise process.doomed
        self._left -= 1
        if self._left > 0:
            return ""
        if not self.storm:
            self._leave(process)
            return ""
        self._left = self.dice.choice(_BURSTS)
        roll = self.dice.random()
        if roll < _TURN:
            self._leave(process)
            return ""
        if roll < _KILL:
            self.counts["kills"] += 1
            self.trace("is killed at", call, name)
            process.doomed = Killed
            raise Killed
        if roll < _PAUSE:
            self.counts["pauses"] += 1
            process.paused = self.dice.choice((5, 15, 40, 1000))
            self.trace(f"is paused for {process.paused} turns at", call, name)
            self._leave(process)
            return ""
        outcome = "refused" if roll < _REFUSE else "lost"
        self.counts[f"{outcome} {call}"] += 1
        self.trace(outcome, call, name)
        return outcome

    def sleep(self, seconds: float) -> None:
        """The process waits: others' turn."""
        process = self.current
        if process is not None:
            if process.doomed is not None:
                raise process.doomed
            process.wakes = self.clock.monotonic() + seconds
            self._leave(process)

    def _leave(self, process: Process) -> None:
        self._hub.switch()
        if process.doomed is not None:
            raise process.doomed
