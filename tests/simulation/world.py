"""One history: a storm of processes, faults and sources, then calm, an end, and the check.

    play(seed)              raises Broken with what went wrong; gives back what happened, counted
    play(seed, full=True)   with real Arrow records and shards instead of those of paper.py

What kind of history it is, the seed tells: every 100th is full, and every second of those has windows of readings that
stay open over commits; of the others every 6th has services, workers and the real lane, the rest the lane of thin.py.
Half of all stand on a file system (the real LocalStore over a simulated one), half on an object store.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import orjson

from headrace.ingest.spool_reader import SpoolReader
from headrace.shards import entry as entry_module
from headrace.shards.entry import Entry, entry_name, split_digest
from headrace.shards.gc import collect
from headrace.shards.log import CommitLog
from headrace.shards.verify import verify

from . import paper
from .checker import check
from .disks import ROOT, ObjectStore, Posix, PosixStore, SpoolDisk, _Lying
from .processes import (
    SETTINGS,
    SPOOL,
    Request,
    finish,
    finish_receiving,
    garbage,
    reader,
    receiver,
    service,
    worker,
)
from .scheduler import Process, Scheduler
from .sources import Broker, Sender
from .stage import staged
from .streams import runtime_of
from .thin import finish_thinly, thin_writer

_FAIR_TURNS = (0, 4, 10, 20)  #: before the storm
_STORM_TURNS = (6, 10, 16, 24, 40)  #: most storms are short, some are not
_THIN_FAIR_TURNS = (0, 2, 4)
_THIN_STORM_TURNS = (4, 6, 8, 12, 20)
_CALM_TURNS = 1000
_JUMPS = (-7200.0, -300.0, 25.0, 600.0, 7200.0, 86400.0)  #: seconds that a clock is set by
FULL_EVERY = 100
LANE_EVERY = 6  #: histories of services, workers and LiveLane; the others have the lane of thin.py
VERIFY_EVERY = 10  #: shallow; the full ones are verified deeply


_BODIES = {"service": service, "writer": thin_writer, "receiver": receiver, "reader": reader, "gc": garbage}


class Broken(AssertionError):
    """A history that ended badly; `lines` is its trace, if it was asked for."""

    def __init__(self, message: str, lines: list[str] | None = None) -> None:
        super().__init__(message)
        self.lines = lines or []


class World:
    """Everything a history consists of."""

    def __init__(
        self, seed: int, *, full: bool | None = None, windows: bool | None = None, tracing: bool = False,
        only_items: bool = False,
    ) -> None:  # fmt: skip
        self.only_items = only_items  #: judge by what is lost and doubled alone: a harder test of the checker
        self.dice = random.Random(seed)
        self.full = seed % FULL_EVERY == 0 if full is None else full
        self.windows = (self.full and seed % (2 * FULL_EVERY) == 0) if windows is None else windows
        self.scheduler = Scheduler(self.dice, tracing=tracing)
        self.counts: Counter[str] = self.scheduler.counts
        self.clock = self.scheduler.clock
        tokens = random.Random(seed + 1)
        self.token_hex = lambda count=32: f"{tokens.getrandbits(8 * count):0{2 * count}x}"
        self.thin = not self.full and seed % LANE_EVERY != 0
        self.by_service = not self.thin and self.dice.random() < 0.3  #: the last ones are processes as well
        self.posix = Posix(self.scheduler) if self.dice.random() < 0.5 else None
        self.lying = _Lying(self.scheduler)
        self.files: dict[str, bytes] = {}
        self.late: list[tuple[str, bytes]] = []
        self.spool = SpoolDisk(self.scheduler)
        roll = self.dice.random()  # one stream is cheaper to play, both meet in one log entry
        self.with_quay, self.with_push = roll < 0.65 or self.windows, roll > 0.4 or self.full
        self.stream_names = ["push"] * self.with_push + ["quay"] * self.with_quay
        self.twins = self.dice.random() < 0.5  #: workers may bear the same name
        self.small_window = self.dice.random() < 0.2
        self.quay_dedup = not self.windows and self.dice.random() < 0.5
        self.broker = Broker(self)
        self.broker.repeats = self.quay_dedup
        self.sender = Sender(self)
        self.closing = False  #: nothing new comes; receivers end when all are answered
        self.runs_closed = False  #: a receiver has ended well since
        self.seen: list[tuple[int, str]] = []  #: (version, digest) of everything a reader saw
        self.runtime = runtime_of(self.full, self.windows, 4 if self.small_window else 1000, self.quay_dedup)
        self.store: Any = None
        self._durable_v = 0
        self._durable: dict[tuple[str, str], Any] = {}
        self._parsed: dict[bytes, Any] = {}
        self.version = 0

    # -- what models and processes ask ------------------------------------------------------------------------------

    def has(self, name: str) -> bool:
        return name in self.files if self.posix is None else f"{ROOT}/{name}" in self.posix.names

    def durable_bytes(self, name: str) -> bytes | None:
        return self.files.get(name) if self.posix is None else self.posix.durable_bytes(name)

    def durable_position(self, source: str, split_id: str) -> Any:
        """How far the log has a split, if the power were cut now."""
        while (data := self.durable_bytes(entry_name(self._durable_v + 1))) is not None:
            self._durable_v += 1
            for move in orjson.loads(data.partition(b"\n")[0]).get("places", []):
                self._durable[move["source"], move["split"]] = move["place"].get("position")
        return self._durable.get((source, split_digest(split_id))) or 0

    def parse(self, data: bytes, name: str, *, canonical: bool = True) -> Any:
        """An entry of paper is the one that was sealed; what nobody sealed is for the real parser to refuse."""
        found = self._parsed.get(data)
        return entry_module.parse(data, name, canonical=canonical) if found is None else found

    def seal(self, entry: Entry) -> tuple[bytes, str]:
        """`paper.seal`, remembered for `parse`."""
        data, digest = paper.seal(entry)
        self._parsed[data] = entry, digest
        return data, digest

    def contents(self) -> dict[str, bytes]:
        """The dataset's files."""
        if self.posix is None:
            return self.files
        return {name[len(ROOT) + 1 :]: bytes(inode.data) for name, inode in self.posix.names.items()}

    # -- the history --------------------------------------------------------------------------------------------------

    def run(self) -> None:
        self.store = PosixStore(self.lying) if self.posix else ObjectStore(
            self.scheduler, self.files, self.late, self.lying
        )  # fmt: skip
        for _ in range(2):
            self._produce()
            self._send()
        self._spawn("writer" if self.thin else "service")
        if self.with_push:
            self._spawn("receiver")
        fair, stormy = (_THIN_FAIR_TURNS, _THIN_STORM_TURNS) if self.thin else (_FAIR_TURNS, _STORM_TURNS)
        for _ in range(self.dice.choice(fair)):
            self._weather()
            self.scheduler.turn()
        self.scheduler.storm = True
        for _ in range(self.dice.choice(stormy)):
            self._weather()
            self.scheduler.turn()
        self._wake()
        if self.by_service:
            self._calm()
            self._end()
        else:
            finish_receiving(self)
            (finish_thinly if self.thin else finish)(self)
            left = self.left()
            if left:
                raise Broken(f"the last worker could not finish: {left}")
        self._clean()

    def _spawn(self, kind: str) -> Process | None:
        if kind == "worker":
            services = [p for p in self.scheduler.alive("service") if p.service]
            if not services:
                return None
            made = services[-1] if self.dice.random() < 0.8 else self.dice.choice(services)
            process = self.scheduler.spawn("worker", worker(self, made))
            process.of = made
            return process
        body = _BODIES[kind](self)
        return self.scheduler.spawn(kind, body)

    def _weather(self) -> None:
        """What happens beside the processes, and which processes begin."""
        dice, roll = self.dice, self.dice.random()
        if roll < 0.12:
            self._produce()
        elif roll < 0.24:
            self._send()
        elif self.scheduler.storm:
            self._bad_weather(roll)
        alive = Counter(p.kind for p in self.scheduler.processes if not p.paused)
        if self.thin:
            if not alive["writer"]:
                self._spawn("writer")
        else:
            if not alive["service"]:
                self._spawn("service")
            if alive["worker"] < 2 and dice.random() < 0.6:
                self._spawn("worker")
        if self.with_push and not alive["receiver"] and dice.random() < 0.6:
            self._spawn("receiver")

    def _bad_weather(self, roll: float) -> None:
        dice = self.dice
        if roll < 0.26:
            self.broker.trim()
        elif roll < 0.29:
            seconds = dice.choice(_JUMPS)
            (self.clock.stall if seconds > 0 and dice.random() < 0.5 else self.clock.jump)(seconds)
            self.counts["clock jumps"] += 1
            self.scheduler.trace("the clock jumps by", seconds)
        elif roll < 0.31:
            self._cut_power()
        elif roll < 0.34 and self.late:
            self.store.arrive()
        elif roll < 0.37:
            self._spawn("gc")
        elif roll < 0.40:
            self._spawn("writer" if self.thin else "service")
        elif roll < 0.43 and self.with_push:
            self._spawn("receiver")
        elif roll < 0.45:
            self._spawn("reader")

    def _produce(self) -> None:
        if self.with_quay:
            self.broker.produce()

    def _send(self) -> None:
        if self.with_push:
            self.sender.make()

    def _cut_power(self) -> None:
        self.counts["power cuts"] += 1
        self.scheduler.trace("the power is cut")
        for process in list(self.scheduler.processes):
            self.scheduler.kill(process)
        self.spool.crash(self.dice)
        if self.posix is not None:
            before = self._durable_v
            self.durable_position("", "")
            known = self._durable_v
            self.posix.crash(self.dice)
            self.seen = [(v, digest) for v, digest in self.seen if v <= known]
            assert before <= known

    def _wake(self) -> None:
        """No more faults. What was sent long ago arrives, and zombies wake."""
        scheduler = self.scheduler
        scheduler.storm = False
        while self.late:
            self.store.arrive()
        for process in scheduler.processes:
            process.paused = 0
        for _ in range(2 * len(scheduler.processes)):
            scheduler.turn()
        for process in list(scheduler.processes):
            if process.kind in ("reader", "gc") or (process.kind in ("service", "writer") and not process.service):
                scheduler.kill(process)

    def _calm(self) -> None:
        """A last service, worker and receiver finish the work."""
        scheduler = self.scheduler
        newest = self._running()[-1:]
        for process in list(scheduler.processes):
            if process not in newest:
                scheduler.kill(process)
        self.closing = True
        self.runs_closed = not self.with_push
        for turn in range(_CALM_TURNS):
            services = scheduler.alive("service")
            running = self._running()
            if len(services) == 0 or (not running and all(p.service for p in services)):
                self._spawn("service")
            elif running and not [p for p in scheduler.alive("worker") if p.of is running[-1]]:
                self._spawn("worker")
            if not self.runs_closed and not scheduler.alive("receiver"):
                self._spawn("receiver")  # also if all are answered: a run of a dead one is sealed by the next
            scheduler.turn()
            if turn % 6 == 5 and self._is_done():
                return
        raise Broken(f"no end in sight after {_CALM_TURNS} turns of calm: {self.left()}")

    def _running(self) -> list[Process]:
        """Services that know of nobody newer, the newest last."""
        found = [p for p in self.scheduler.alive("service") if p.service and p.service.state == "running"]
        return sorted(found, key=lambda p: p.service.log.epoch)

    def _is_done(self) -> bool:
        if not self.sender.satisfied or not self.runs_closed or self.scheduler.alive("receiver"):
            return False
        behind = (self.durable_position("quay", name) < len(s.items) for name, s in self.broker.splits.items())
        return not any(behind) and not self.left()

    def left(self, by: Any = None) -> list[str]:
        """What waits to be committed, by this service if it is no process."""
        out = [
            f"{name} stands at {at} of {len(split.items)}"
            for name, split in self.broker.splits.items()
            if (at := self.durable_position("quay", name)) < len(split.items)
        ]
        # Behind the end of a run, what a fenced receiver wrote and did not answer may still appear: nobody needs it.
        services = [p.service for p in self.scheduler.alive("service") if p.service] + [by] * (by is not None)
        over = {run for made in services for run in made.streams["push"].over}
        spool = SpoolReader(SPOOL, SETTINGS, disk=self.spool, clock=self.clock.us)
        for run in spool.runs():
            end, at = spool.end_of(run), self.durable_position("push", run.id)
            if run.id not in over and end is not None and (at or [0, 0, 0])[2] < end[2]:
                out.append(f"{run.id} stands at {at} of {end}")
        return out

    def _end(self) -> None:
        """The service drains and ends."""
        scheduler = self.scheduler
        for process in scheduler.alive("service"):
            if process.service is None:  # it would take over when all is done
                scheduler.kill(process)
        last = self._running()[-1]
        last.inbox.append(Request(last, "drain"))
        for _ in range(_CALM_TURNS):
            if not [p for p in scheduler.alive("worker") if p.of is last]:
                break
            scheduler.turn()
        last.inbox.append(Request(last, "finish"))
        for _ in range(_CALM_TURNS):
            if last.dead:
                break
            scheduler.turn()

    def _clean(self) -> None:
        """Those who slept through the end wake once more; gc leaves what is needed."""
        scheduler = self.scheduler
        for _ in range(2 * len(scheduler.processes)):
            scheduler.turn()
        for process in list(scheduler.processes):
            scheduler.kill(process)
        state = CommitLog(self.store).replay()
        assert state.ended, "the service ended, but the log does not say so"
        collect(self.store, state, delete=True)
        self.version = state.v


def play(seed: int, **how: Any) -> World:
    """The history of a seed; `how` as in `World`. Raises: Broken."""
    world = World(seed, **how)
    with staged(world):
        try:
            world.run()
            check(world)
            if world.full or seed % VERIFY_EVERY == 0:
                report = verify(world.store, deep=world.full)
                assert report.ok, report.problems
        except Exception as exc:  # of the engine, of a model, of the checker: none is expected
            message = str(exc) if isinstance(exc, Broken) else f"{type(exc).__name__}: {exc}"
            raise Broken(message, world.scheduler.lines) from exc
        finally:
            world.scheduler.failure = None
            for process in list(world.scheduler.processes):
                _discard(world, process)
    return world


def _discard(world: World, process: Process) -> None:
    """End what is left of a broken history."""
    process.doomed = None
    try:
        world.scheduler.kill(process)
    except BaseException as exc:
        if isinstance(exc, KeyboardInterrupt):
            raise
