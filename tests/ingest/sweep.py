"""A service that is struck again and again: its brokers, the senders that know what was confirmed to them, the strikes.

Five streams: Redis and NATS (read again after a crash), MQTT and HTTP push (into a spool), a watched folder. The
service reaches brokers, and senders of HTTP reach the service, through proxies that can be cut. Each message has an id
and is sent until it is confirmed; every fiftieth lacks the field that its stream reads, so it must be in quarantine.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import random
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Self

from headrace.connectors.registry import BUILTIN
from headrace.schemas.errors import BrokenLog, StorageError
from headrace.shards.log import CommitLog
from headrace.shards.store import open_store

from ..servers.mosquitto import Mosquitto
from ..servers.nats import NatsServer
from ..servers.proxy import TcpProxy
from ..servers.redis import RedisServer, free_port
from .serving import Serving
from .test_same_bytes import descendants

RECOVERY_S = 180.0  #: in which all streams must go on after a strike: pauses between tries grow to a minute
Strike = Callable[["World"], None]
_NO_SUBSCRIBER = 0x10  # reason code of a PUBACK: nobody gets it. Source: MQTT 5.0, section 3.4.2.1
_STREAM = """
  {name}:
    source: {{type: "{type}", {source}}}
    record: {{type: text, field: body}}
    tokenizer: {{type: bytes}}
    live: {{commit_every_s: 0.5, discover_every_s: 0.5, lanes: 4}}
    {more}"""


def payload(id_: str) -> bytes:
    """The message of an id: JSON whose `body` is the id, or no body where it is to be bad."""
    bad = int(id_.rpartition("-")[2]) % 50 == 49
    return json.dumps({"id": id_, "nobody" if bad else "body": id_}).encode()


def source_type(name: str, path: str) -> str:
    """A registered name, or the class's path while it is not."""
    return name if name in BUILTIN else path


class Sender(threading.Thread):
    """Sends `batch` messages and rests, until stopped. What was sent and is not confirmed is sent again.

    `sent` are ids; `confirmed` is id → when it was (time.monotonic), in that order.
    """

    broker: Any = None
    batch, pause_s = 5, 0.1
    held: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext  #: while its broker is killed

    def __init__(self, stream: str, pace: float = 1, payload: Callable[[str], bytes] = payload) -> None:
        super().__init__(name=f"send {stream}", daemon=True)
        self.stream, self.payload, self._wait_s = stream, payload, self.pause_s / pace
        self.sent: list[str] = []
        self.confirmed: dict[str, float] = {}
        self.failures = 0
        self._over = threading.Event()
        self._sending = threading.Lock()
        self._link: Any = None

    def run(self) -> None:
        pending: list[str] = []
        while not self._over.is_set():
            for _ in range(self.batch - len(pending)):
                pending.append(f"{self.stream}-{len(self.sent):06d}")
                self.sent.append(pending[-1])
            try:
                with self._sending:
                    self._link = self._link or self.connect()
                    for id_ in self.give(self._link, list(pending)):
                        self.confirmed[id_] = time.monotonic()
            except Exception:  # each library has its own; whatever it was, the message is sent again
                self.failures += 1
                self._leave()
                self._over.wait(0.1)
            pending = [id_ for id_ in pending if id_ not in self.confirmed]
            self._over.wait(self._wait_s)
        self._leave()

    def connect(self) -> Any:
        """A connection, for `give`. May raise anything."""
        return io.BytesIO()

    def give(self, link: Any, ids: list[str]) -> Iterator[str]:
        """Send these in order; yields each as it is confirmed. May raise anything."""
        raise AssertionError(f"{type(self).__name__} cannot send")

    def leave(self, link: Any) -> None:
        """Close a connection."""
        link.close()

    def stop(self) -> None:
        """Send no more; what is unconfirmed stays so."""
        self._over.set()
        if self.is_alive():
            self.join(60)

    def _leave(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            self.leave(link)


class RedisSender(Sender):
    """XADD with ids of ours, so a message whose reply was lost is not added twice."""
    def connect(self) -> Any:
        return self.broker.client(socket_timeout=5, socket_connect_timeout=5)

    def give(self, link: Any, ids: list[str]) -> Iterator[str]:
        import redis

        for id_ in ids:
            try:
                link.xadd(self.stream, {"data": self.payload(id_)}, id=f"{int(id_.rpartition('-')[2]) + 1}-1")
            except redis.exceptions.ResponseError as exc:
                if "equal or smaller" not in str(exc):  # else it is there: the reply had been lost
                    raise
            yield id_


class NatsSender(Sender):
    """Publishes with Nats-Msg-Id, by which the server drops a repetition, also after it was killed."""
    def connect(self) -> Any:
        return self.broker.admin()

    def give(self, link: Any, ids: list[str]) -> Iterator[str]:
        for id_ in ids:
            link.publish(self.stream, self.payload(id_), b"Nats-Msg-Id: %b\r\n" % id_.encode())
            yield id_


class MqttSender(Sender):
    """Publishes with QoS 1. Mosquitto's store is written when told to, so it is, before it is killed: what a broker
    confirmed and then loses nobody can know. What *we* confirmed to it since is lost with it, and comes again."""
    batch = 20

    def connect(self) -> Any:
        self._reasons: dict[int, int] = {}
        link = self.broker.client("sweep-sender")
        link.on_publish = lambda client, data, mid, reason, properties: self._reasons.update({mid: reason.value})
        return link

    def give(self, link: Any, ids: list[str]) -> Iterator[str]:
        for id_, told in [(id_, link.publish(f"{self.stream}/{id_[-1]}", self.payload(id_), 1)) for id_ in ids]:
            told.wait_for_publish(5)
            if not told.is_published():
                raise TimeoutError(f"{id_} was not confirmed")
            if self._reasons.pop(told.mid, 0) != _NO_SUBSCRIBER:
                yield id_

    def leave(self, link: Any) -> None:
        link.disconnect()
        link.loop_stop()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        with self._sending:
            self.broker.save()
            yield


class HttpSender(Sender):
    """POSTs lines; each request has a key and is repeated until it gets 202."""
    port = 0

    def connect(self) -> Any:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=15)

    def give(self, link: Any, ids: list[str]) -> Iterator[str]:
        headers = {"Idempotency-Key": ids[0], "Content-Type": "application/x-ndjson"}
        link.request("POST", f"/v1/streams/{self.stream}", b"\n".join(map(self.payload, ids)), headers)
        answer = link.getresponse()
        said = answer.read()
        if answer.status != 202:
            raise OSError(f"{answer.status}: {said!r}")
        yield from ids


class FileSender(Sender):
    """Writes small files under a name in progress and renames them."""
    batch, pause_s, suffix = 1, 0.4, ".json"
    folder = Path()

    def give(self, link: Any, ids: list[str]) -> Iterator[str]:
        for id_ in ids:
            part = self.folder / f".{id_}.part"
            part.write_bytes(self.payload(id_))
            os.rename(part, self.folder / f"{id_}{self.suffix}")
            yield id_


class World(contextlib.ExitStack):
    """Everything that a sweep starts; as a context manager it ends all of it."""

    def __init__(
        self, folder: Path, *, seed: int = 1, engine: str = "inline", workers: int = 1, out: Path | str | None = None,
        options: tuple[str, ...] = (), pace: float = 1.0,
    ) -> None:  # fmt: skip
        """out: the dataset, `folder/out` by default; pace: how fast senders send."""
        super().__init__()
        self.rng = random.Random(seed)
        self.seconds: dict[str, list[float]] = {}  #: strike → how long until every stream had committed again
        self.options = options
        self.senders: list[Sender] = []
        self._arguments = (folder, engine, workers, out, pace)
        self._log: CommitLog | None = None

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as begun:  # undoes a beginning that fails
            begun.push(self)
            self._open(*self._arguments)
            begun.pop_all()
        return self

    def _open(self, folder: Path, engine: str, workers: int, out: Path | str | None, pace: float) -> None:
        enter = self.enter_context
        broker: dict[str, Any]
        broker = {"redis": enter(RedisServer()), "nats": enter(NatsServer()), "mosquitto": enter(Mosquitto())}
        self.brokers, self.push_port = broker, free_port()
        ports = {name: server.port for name, server in broker.items()} | {"push": self.push_port}
        self.proxies = {name: enter(TcpProxy(port)) for name, port in ports.items()}
        (notes := folder / "notes").mkdir()
        port = {name: proxy.port for name, proxy in self.proxies.items()}
        spool = f"spool: {{folder: {folder / 'spool'}}}" if "://" in str(out) else ""
        mqtt = f'url: "mqtt://127.0.0.1:{port["mosquitto"]}", topics: [meters/#], client_id: sweep, key: {{field: id}}'
        streams = [
            ("words", "redis", f'url: "redis://127.0.0.1:{port["redis"]}/0", streams: [words], timeout_s: 4', ""),
            ("gusts", "nats", f'urls: "nats://127.0.0.1:{port["nats"]}", stream: GUSTS, timeout_s: 4', ""),
            ("meters", source_type("mqtt", "headrace.connectors.mqtt:Mqtt"), f"{mqtt}, keepalive_s: 5", spool),
            ("pushed", source_type("http_push", "headrace.connectors.http_push:HttpPush"),
             f"port: {self.push_port}, name: pushed, split: lines, require_key: true", spool),
            ("notes", "files", f'root: "{notes}", watch: {{rename: true}}', ""),
        ]  # fmt: skip
        text = "".join(_STREAM.format(name=n, type=t, source=s, more=more) for n, t, s, more in streams)
        self.service = enter(Serving(f"streams:{text}\n", folder, engine=engine, workers=workers))
        if out is not None:
            self.service.out = out  # type: ignore[assignment]
        broker["nats"].admin().create("GUSTS", "gusts")
        self.senders = [RedisSender("words", pace), NatsSender("gusts", pace), MqttSender("meters", pace)]
        for sender, server in zip(self.senders, broker.values()):
            sender.broker = server
        pushed, files = HttpSender("pushed", pace), FileSender("notes", pace)
        pushed.port, files.folder = port["push"], notes
        self.senders += [pushed, files]
        self.service.start(*self.options)
        for sender in self.senders:
            self.callback(sender.stop)
            sender.start()
        self.go_on({}, "a commit of each stream")

    def read(self) -> dict[str, int]:
        """Items read by stream, as the log has it; empty while there is none."""
        try:
            if self._log is None:
                log = CommitLog(open_store(str(self.service.out)))
                log.replay()
                self._log = log
            self._log.refresh()
        except (StorageError, BrokenLog):
            return {}
        return {name: counts.read for name, counts in self._log.state.sources.items() if counts.read}

    def done(self, stream: str) -> int:
        """Items of a stream that are samples or lie in quarantine."""
        self.read()
        if self._log is None:
            return 0
        source, counts = self._log.state.sources.get(stream), self._log.state.streams.get(stream)
        return (source.quarantined if source else 0) + (counts.samples + counts.quarantined if counts else 0)

    def go_on(self, before: dict[str, int], what: str) -> None:
        """Wait until every stream has committed more than `before`."""

        def goes_on() -> bool:
            now = self.read()
            return all(now.get(s.stream, 0) > before.get(s.stream, 0) for s in self.senders)

        try:
            self.service.wait(goes_on, RECOVERY_S, what)
        except AssertionError as exc:
            now = self.read()
            raise AssertionError(f"{before} has become {now}; {exc}") from exc

    def child(self, role: str) -> int | None:
        """A decoding process: `live` is connected to a broker, `receiver` listens for HTTP, `batch` is another."""
        assert self.service.process is not None
        under = self.service.process.pid if not self.options else os.getpid()
        listens = sockets(self.push_port, listening=True)
        reads = sockets(self.proxies["redis"].port) | sockets(self.proxies["nats"].port)
        roles: dict[str, list[int]] = {"receiver": [], "live": [], "batch": []}
        for pid in descendants(under, "headrace.ingest.child"):
            held = inodes_of(pid)
            roles["receiver" if listens & held else "live" if reads & held else "batch"].append(pid)
        return self.rng.choice(roles[role]) if roles[role] else None

    def strike(self, name: str, *, wait: bool = True) -> None:
        """Do it at a random moment, and (unless told not to) wait until every stream has committed again."""
        time.sleep(self.rng.uniform(0, 0.7))
        began = time.monotonic()
        STRIKES[name](self)
        if wait:
            self.go_on(self.read(), f"a commit of each stream after: {name}")
        self.seconds.setdefault(name, []).append(time.monotonic() - began if wait else float("nan"))

    def finish(self) -> None:
        """Let senders come to their end, and drain the service once all that was confirmed is committed."""
        for sender in self.senders:
            sender.stop()
        for sender in self.senders:
            what = f"all of {sender.stream} ({len(sender.confirmed)} were confirmed)"
            self.service.wait(lambda s=sender: self.done(s.stream) >= len(s.confirmed), RECOVERY_S, what)
        assert self.service.drain(90) == 0, self.service.said()

    def table(self) -> str:
        """What was done, and how long it took until every stream had committed again."""
        rows = [f"{'strike':24}{'times':>6}{'all go on: median s':>22}{'slowest s':>11}"]
        for name, seconds in sorted(self.seconds.items()):
            known = [s for s in seconds if s == s]
            middle, most = (f"{statistics.median(known):.1f}", f"{max(known):.1f}") if known else ("", "")
            rows.append(f"{name:24}{len(seconds):6}{middle:>22}{most:>11}")
        return "\n".join([*rows, f"{'together':24}{sum(map(len, self.seconds.values())):6}"])


# -- strikes ----------------------------------------------------------------------------------------------------------

def _kill(role: str) -> Strike:
    def strike(world: World) -> None:
        end = time.monotonic() + 60
        while (pid := world.child(role)) is None:
            assert time.monotonic() < end, f"no {role} child appeared:\n{world.service.said()}"
            time.sleep(0.05)
        os.kill(pid, signal.SIGKILL)

    return strike


def _service(world: World) -> None:
    world.service.kill()
    time.sleep(world.rng.choice([0, 0, 1.5]))
    world.service.start(*world.options)


def _broker(name: str) -> Strike:
    def strike(world: World) -> None:
        broker = world.brokers[name]
        sender = next(s for s in world.senders if s.broker is broker)
        with sender.held():
            broker.kill()
            time.sleep(world.rng.choice([0, 0, 2.0]))
            broker.restart()

    return strike


def _stopped(role: str) -> Strike:
    def strike(world: World) -> None:
        if role == "broker":
            broker = world.brokers[world.rng.choice(sorted(world.brokers))]
            stop, go_on = broker.pause, broker.resume
        else:
            pid = world.child(world.rng.choice(["live", "receiver"]))
            stop, go_on = (partial(os.kill, pid, number) for number in (signal.SIGSTOP, signal.SIGCONT))
        stop()
        time.sleep(30)
        go_on()

    return strike


def _zombie(world: World) -> None:
    """The service is stopped, another takes over, and the first one goes on: it must find itself fenced."""
    old, before = world.service.process, world.read()["words"]
    assert old is not None
    old.send_signal(signal.SIGSTOP)
    try:
        world.service.start(*world.options)
        world.service.wait(lambda: world.read()["words"] > before, RECOVERY_S, "a commit of the newer service")
    finally:
        old.send_signal(signal.SIGCONT)
    assert old.wait(60) == 4, "the older service did not say that it was fenced"


def _network(how: str) -> Strike:
    def strike(world: World) -> None:
        proxy = world.proxies[world.rng.choice(sorted(world.proxies))]
        if how == "refused":
            proxy.refuse()
            time.sleep(world.rng.uniform(0, 4))
            proxy.allow()
        elif how == "slow":
            proxy.delay_s = world.rng.uniform(0.05, 1)
            time.sleep(3)
            proxy.delay_s = 0.0
        elif how == "half open":
            proxy.freeze()
            time.sleep(world.rng.uniform(3, 12))
            proxy.cut()  # a connection that was silent so long is dropped, whatever it holds
            proxy.thaw()
        elif how == "reply lost":
            for each in world.proxies.values():  # so the sender of HTTP certainly repeats a request
                each.drop_next_reply()
        else:
            proxy.cut()

    return strike


STRIKES: dict[str, Strike] = {
    **{f"{role} child": _kill(role) for role in ("live", "receiver", "batch")},
    **{name: _broker(name) for name in ("redis", "nats", "mosquitto")},
    "service": _service,
    **{f"network {how}": _network(how) for how in ("refused", "reset", "slow", "half open", "reply lost")},
    **{f"{role} stopped 30 s": _stopped(role) for role in ("child", "broker")},
    "service stopped, newer": _zombie,
}


def sockets(port: int, *, listening: bool = False) -> set[str]:
    """Inodes of TCP sockets that listen on a port, or are connected to it from elsewhere. Source: proc(5)."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    at, state = (1, "0A") if listening else (2, "01")
    return {row[9] for row in rows if int(row[at].rpartition(":")[2], 16) == port and row[3] == state}


def inodes_of(pid: int) -> set[str]:
    """Inodes of the sockets that a process holds; none when it has ended."""
    try:
        targets = [os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir()]
    except OSError:
        return set()
    return {target[8:-1] for target in targets if target.startswith("socket:[")}
