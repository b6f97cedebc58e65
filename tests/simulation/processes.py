"""What runs in a history: services, their workers, receivers, readers, gc. Each function is the body of one process.

The engine's own classes do the work: `Service` with its ledger, lanes and discovery, `LiveLoop` with its lanes,
`SpoolWriter`, `SpoolConnector` over `SpoolReader`, `CommitLog`, `collect`. Here is only what carries messages between
them, in place of pipes and Ray: a request, or its answer, may be lost.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from headrace.connectors.contract import Connector, Item, Position, Split
from headrace.ingest.live_loop import LiveLoop
from headrace.ingest.service import Service
from headrace.ingest.service_compaction import Compaction
from headrace.ingest.service_discovery import Discovery
from headrace.ingest.spool import SpoolSettings, segment_name
from headrace.ingest.spool_connector import SpooledConnector
from headrace.ingest.spool_reader import SpoolReader
from headrace.ingest.spool_writer import SpoolWriter
from headrace.ingest.task import Task
from headrace.schemas.errors import Fenced, HeadraceError, LogError, StorageError
from headrace.shards.gc import collect
from headrace.shards.log import CommitLog

from .scheduler import Exited, Process

if TYPE_CHECKING:
    from .world import World

SPOOL = "/spool"
_ROUNDS = 4  #: of the last worker; what it does not get done in them, it never will
SETTINGS = SpoolSettings.model_construct(
    max_bytes=1 << 16, policy="block", keep="committed", segment_bytes=400, sync_ms=0.0, sync_items=1
)


class Gone(BaseException):
    """The service does not answer: whoever asked it ends."""


class Request:
    """A question in the inbox of a service."""

    def __init__(self, service: Process, method: str, *args: Any) -> None:
        self.service, self.method, self.args = service, method, args
        self.done = False
        self.answer: Any = None


class SimDiscovery(Discovery):
    """Without a thread: its service looks when it has nothing else to do."""

    def __init__(self, service: Service, made: Any) -> None:
        self._service, self._made = service, made

    def stop(self) -> None: ...

    def join(self, timeout: float = 5.0) -> None: ...

    def wake(self) -> None: ...

    def _lag(self, connector: Connector) -> None: ...

    def look(self) -> None:
        try:
            self._look(self._made.stream.make_connector())
        except HeadraceError:
            return  # it looks again


class SimCompaction(Compaction):
    """Without a thread: only lane files that were replaced are dropped. Compaction has histories of its own."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._stale = []

    def stop(self, timeout: float = 0.0) -> None: ...


class NoWatch:
    """In place of the thread that looks for newer writers; the service's process does it."""

    def __init__(self, service: Service) -> None: ...

    def stop(self) -> None: ...


class BrokerConnector(Connector):
    """The broker as its connector shows it."""

    bounded = False

    def __init__(self, world: World) -> None:
        self._world = world

    def describe(self) -> str:
        return "broker"

    def splits(self) -> list[Split]:
        return [Split(name, bounded=False) for name in self._world.broker.splits]

    def start_of(self, split: Split) -> Position:
        return 0 if split.id.endswith("1") else None  # both ways to begin

    def read(self, split: Split, after: Position) -> Iterator[Any]:
        return self._world.broker.read(split.id, after)

    def ack(self, split: Split, upto: Position) -> None:
        self._world.broker.ack(split.id, upto)

    def close(self) -> None: ...


class SpoolConnector(SpooledConnector):
    """The real one over the simulated disk."""

    def __init__(self, world: World) -> None:
        self.reader = SpoolReader(
            SPOOL, SETTINGS, disk=world.spool, clock=world.clock.us, sleep=lambda seconds: None, idle_s=0.05
        )

    def describe(self) -> str:
        return "push"

    def close(self) -> None: ...


class NoSlot:
    """Nothing crashes in a decoder here."""

    def enter(self, stage: str, suspects: Sequence[Any], stream: str = "") -> None: ...

    def at(self, number: int | None) -> None: ...

    def leave(self) -> None: ...

    def out_of_memory(self) -> None: ...


def service(world: World) -> Callable[[Process], None]:
    """Claims the dataset, then answers workers and looks for splits until it is fenced or finished."""

    def body(process: Process) -> None:
        made = Service({})
        try:
            made.start("simulated", take_over=True)
        except (StorageError, LogError):
            return
        world.counts["claims"] += 1
        process.service = made
        idle = 0
        while not made.over:
            if process.inbox:
                request = process.inbox.pop(0)
                request.answer = getattr(made, request.method)(*request.args)
                request.done = True
                continue
            if idle % 5 == 0:
                for discovery in made._discoveries.values():
                    discovery.look()  # type: ignore[attr-defined]
                with suppress(StorageError):
                    made.look_for_others()
                    made._compaction._drop_stale()  # type: ignore[union-attr]
            if not process.inbox:
                idle += 1
                world.clock.sleep(4.0 if world.closing else 1.0)
        if made.state == "fenced":
            world.counts["services fenced"] += 1

    return body


def ask(world: World, service_: Process, method: str, *args: Any) -> Any:
    """What a service answers. Raises: Gone."""
    outcome = world.scheduler.point("ask", method)
    if outcome == "refused" or service_.dead:
        raise Gone
    request = Request(service_, method, *args)
    service_.inbox.append(request)
    if outcome == "lost":
        raise Gone
    process = world.scheduler.current
    assert process is not None
    process.asks = request
    while not request.done:
        if service_.dead:
            process.asks = None
            raise Gone
        world.scheduler.sleep(0)
    process.asks = None
    return request.answer


class Channel:
    """From a child to its service; as ingest/child.py, "stop" ends the child at once."""

    def __init__(self, world: World, process: Process, service_: Process, name: str, key: str) -> None:
        self._world, self._process, self._service = world, process, service_
        self._name, self._key = name, key

    def commit_lanes(self, manifests: list[dict[str, Any]]) -> None:
        if self._world.full:
            manifests = json.loads(json.dumps(manifests))
        self._obey(ask(self._world, self._service, "commit_lanes", self._name, self._key, manifests))
        self._world.counts["lane commits"] += 1

    def poll(self, snapshot: dict[str, Any]) -> dict[str, Any]:
        return self._obey(ask(self._world, self._service, "poll", self._name, self._key, snapshot))

    def _obey(self, answer: dict[str, Any]) -> dict[str, Any]:
        if "stop" in answer:
            self._world.counts["commits and polls refused"] += 1
            self._world.scheduler.trace("must stop:", answer["stop"])
            self._process.doomed = Exited
            raise Exited
        return answer


def worker(world: World, service_: Process) -> Callable[[Process], None]:
    """A supervisor and its child: leases lanes from one service and runs them until that one is gone.

    In histories with twins two workers may bear one name, so that both own the same lanes: as when an actor that was
    given up for dead is started again elsewhere. No correctness may rest on an actor being unique.
    """

    def body(process: Process) -> None:
        name = f"{world.dice.choice(('w0', 'w1')) if world.twins else process.name}/live"
        try:
            while (task := ask(world, service_, "lease", name)) is not None:
                if task["kind"] == "wait":
                    # Until the lanes of a dead worker are given out, it takes 20 s.
                    world.clock.sleep(task["seconds"] * (25 if world.closing else 5))
                    continue
                key = task["key"]
                try:
                    loop = LiveLoop(Task.from_json(task), world.runtime, world.store, NoSlot())
                    loop.run(Channel(world, process, service_, name, key))
                    ask(world, service_, "done", name, key, {})
                except Exited:
                    process.doomed = None
                except HeadraceError as exc:
                    world.scheduler.trace("fails:", exc)
                    ask(world, service_, "fail", name, key, {"type": type(exc).__name__, "message": str(exc)})
        except Gone:
            return

    return body


def receiver(world: World) -> Callable[[Process], None]:
    """Takes what the senders send into the spool and answers them, as ingest/receiver.py does."""

    def body(process: Process) -> None:
        try:
            writer = SpoolWriter(SPOOL, SETTINGS, disk=world.spool, clock=world.clock.us)
            while not (world.closing and world.sender.satisfied):
                sent = world.sender.send()
                if not sent:
                    world.clock.sleep(0.5)
                    continue
                items = [_message(world, key, data) for key, data in sent]
                try:
                    writer.append(items)
                except Fenced:
                    world.counts["receivers fenced"] += 1
                    return
                except StorageError:
                    world.clock.sleep(0)
                    continue
                segment = os.path.join(SPOOL, writer.run, segment_name(writer._segment))
                assert world.only_items or world.spool.is_durable(segment), f"{segment} is answered and not on disk"
                if world.scheduler.point("answer"):
                    world.counts["answers lost"] += 1
                else:
                    world.sender.hear([key for key, _ in sent])
            writer.close()
            world.runs_closed = True
        except StorageError:
            return

    return body


def finish_receiving(world: World) -> None:
    """What senders still want to say, and the end of all runs."""
    while world.with_push and not world.runs_closed:
        writer = SpoolWriter(SPOOL, SETTINGS, disk=world.spool, clock=world.clock.us)
        while sent := world.sender.send():
            writer.append([_message(world, key, data) for key, data in sent])
            world.sender.hear([key for key, _ in sent])
        writer.close()
        world.runs_closed = True


def finish(world: World) -> None:
    """What is left, by one service and one worker without a loop, polls or faults."""
    made = Service({})
    made.start("simulated", take_over=True)
    for _ in range(_ROUNDS):
        for discovery in made._discoveries.values():
            discovery.look()  # type: ignore[attr-defined]
        task = made.lease("last/live")
        if task is None or task["kind"] == "wait":
            break
        loop = LiveLoop(Task.from_json(task), world.runtime, world.store, NoSlot())
        channel = _Direct(made, task["key"])
        lanes = list(loop._lanes.values())
        while any(lane.turn(0.0) for lane in lanes):
            full = [lane for lane in lanes if lane.full]
            if full:
                loop._cut(full, channel)
        loop._cut(lanes, channel)
        loop._close()
        made.done("last/live", task["key"], {})
        if not world.left(made):
            break
    made.drain()
    made.finish()


class _Direct:
    """A channel to a service that is at hand."""

    def __init__(self, service_: Service, key: str) -> None:
        self._service, self._key = service_, key

    def commit_lanes(self, manifests: list[dict[str, Any]]) -> None:
        answer = self._service.commit_lanes("last/live", self._key, manifests)
        assert "stop" not in answer, f"nobody else is there, and yet: {answer}"

    def poll(self, snapshot: dict[str, Any]) -> dict[str, Any]:
        return {}


def _message(world: World, key: str, data: bytes) -> Item:
    return Item(data, None, key=key, headers={"format": "text", "object": key})


def reader(world: World) -> Callable[[Process], None]:
    """Polls the log; what it sees must be there, and stay."""

    def body(process: Process) -> None:
        log = CommitLog(world.store)
        held: set[str] = set()
        for _ in range(world.dice.randint(2, 12)):
            try:
                if log.state.v == 0:
                    log.replay()
                else:
                    log.refresh()
            except StorageError:
                world.clock.sleep(0)
                continue
            if log.state.v:
                world.counts["reader polls"] += 1
                world.seen.append((log.state.v, log.state.digest))
                held |= log.state.paths  # replaced ones stay, for it has only now come to hold them
                for path in [*held, *log.state.quarantine]:
                    assert world.has(path), f"version {log.state.v} needs {path}, which is gone"
            world.clock.sleep(0.5)

    return body


def garbage(world: World) -> Callable[[Process], None]:
    """One run of gc, with whatever it believes the head to be."""

    def body(process: Process) -> None:
        try:
            state = CommitLog(world.store).replay()
            report = collect(world.store, state, delete=True)
        except StorageError:
            return
        world.counts["files deleted by gc"] += len(report.garbage)

    return body
