"""What a service costs beside a bare consumer, how fast it commits, and how fast it is back after a kill.

    python benchmarks/serve.py [--messages 60000] [--only rates|kill] [--streams WORD] [--json]

**Rates**: one worker of `headrace serve` and a loop of ten lines that reads the same messages from the same broker and
tokenizes them with the same tokenizer, into memory. Both in one run, one after the other; the printed ratio is bare
rate / service rate. A service also names, hashes, measures and writes each sample, and commits every second. Its clock
runs from its first commit to its last, so starting it is not in it. MQTT and HTTP push go to a spool that is synced to
disk before the sender is answered; their bare loops keep nothing. For HTTP the senders are part of both. CPU is that of
the decoding process for each message, its reader threads included: on a machine that does other things besides, it says
more than rates do.

**Commits**: how long appending an entry took, by the service's own status. **Kill**: from SIGKILL of the service to the
first commit of new samples by the one that is started at once, both engines; on Ray also of the coordinator's process, a
worker's and a decoder's alone, which come back by themselves.
"""

from __future__ import annotations

import argparse
import http.client
import http.server
import json
import os
import signal
import statistics
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from serve_messages import SENSOR, TEXT, Bare, Keep, keep_sensor, keep_text, sensor_message, text_message  # noqa: E402
from tests.ingest.serving import Serving  # noqa: E402
from tests.ingest.sweep import RedisSender, source_type  # noqa: E402
from tests.ingest.test_same_bytes import descendants  # noqa: E402
from tests.servers.kafka_mock import KafkaMock  # noqa: E402
from tests.servers.mosquitto import Mosquitto  # noqa: E402
from tests.servers.nats import NatsServer  # noqa: E402
from tests.servers.redis import RedisServer, free_port  # noqa: E402

from headrace.ingest.slot import cpu_seconds  # noqa: E402
from headrace.schemas.errors import BrokenLog, StorageError  # noqa: E402
from headrace.shards.log import CommitLog  # noqa: E402
from headrace.shards.store import open_store  # noqa: E402

# -- the service ------------------------------------------------------------------------------------------------------


def stream(source: str, record: str, more: str = "") -> str:
    """A pipeline of one stream, `s`."""
    tokenizer = "tokenizer: {type: bytes}" if record == TEXT else "windows: {samples: 512}"
    return f"streams:\n  s:\n    source: {source}\n    record: {record}\n    {tokenizer}\n    live: {{commit_every_s: 1{more}}}\n"


class Log:
    """How far a service has come, by its log."""

    def __init__(self, service: Serving) -> None:
        self._service = service
        self._log: CommitLog | None = None

    def read(self) -> int:
        """Items that are committed."""
        try:
            if self._log is None:
                log = CommitLog(open_store(str(self._service.out)))
                log.replay()
                self._log = log
            self._log.refresh()
        except (StorageError, BrokenLog):
            return 0
        source = self._log.state.sources.get("s")
        return source.read if source else 0

    @property
    def epoch(self) -> int:
        """Of the last writer."""
        self.read()
        return self._log.state.epoch if self._log else 0

    @property
    def api(self) -> str:
        """Where its status is."""
        assert self._log is not None
        return str(self._log.state.api)


def served(pipeline: str, count: int, send: Callable[[], None] | None = None) -> tuple[float, float, list[float]]:
    """(messages a second, CPU seconds a message, seconds of each commit) of one worker; `send` sends them."""
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as folder, Serving(pipeline, Path(folder)) as service:
        service.start()
        log = Log(service)
        if send is not None:
            threading.Thread(target=send, daemon=True).start()
        points: list[tuple[float, int, float]] = []

        def come() -> bool:
            at = log.read()
            if at and (not points or at > points[-1][1]):
                points.append((time.monotonic(), at, sum(cpu_seconds(pid) or 0.0 for pid in service.children())))
            return at >= count

        service.wait(come, 300, f"{count} messages")
        time.sleep(3)  # the page's numbers are some seconds old
        with urllib.request.urlopen(f"{log.api}/api/v1/status", timeout=20) as reply:
            commits = [c["seconds"] for c in json.load(reply)["commits"]]
        service.drain()
    (t0, n0, cpu0), (t1, n1, cpu1) = points[0], points[-1]
    if n1 == n0:
        raise SystemExit(f"all {count} messages came in one commit: ask for more with --messages")
    return (n1 - n0) / (t1 - t0), (cpu1 - cpu0) / (n1 - n0), commits


def bare(read: Bare, count: int, keep: Keep, first: list[bytes], send: Callable[[], None] | None = None) -> float:
    """Messages a second; `first` are tokenized before, since the first call of a library imports and compiles."""
    keep(first)
    if send is not None:
        threading.Thread(target=send, daemon=True).start()
    began = time.perf_counter()
    read(count, keep)
    return count / (time.perf_counter() - began)


# -- the brokers ------------------------------------------------------------------------------------------------------


def redis_case(stack: ExitStack, count: int, splits: int, record: str = TEXT) -> tuple[str, Bare, None, None]:
    message = text_message if record == TEXT else sensor_message
    server = stack.enter_context(RedisServer("--appendfsync", "no"))
    client = server.client()
    with client.pipeline(transaction=False) as pipe:
        for n in range(count):
            pipe.xadd(f"s{n % splits}", {"data": message(n)})
            if n % 1000 == 999:
                pipe.execute()
        pipe.execute()

    def read(count: int, keep: Keep) -> None:
        at: dict[Any, Any] = {f"s{n}": "0" for n in range(splits)}
        while count > 0:
            for name, entries in client.xread(at, count=256):
                keep([fields[b"data"] for _, fields in entries])
                at[name.decode()] = entries[-1][0]
                count -= len(entries)

    return stream(f'{{type: redis, url: "{server.url}", streams: "s*"}}', record), read, None, None


def nats_case(stack: ExitStack, count: int) -> tuple[str, Bare, None, None]:
    server = stack.enter_context(NatsServer())
    admin = server.admin()
    admin.create("S", "s")
    admin.publish_all("s", [sensor_message(n) for n in range(count)])

    def read(count: int, keep: Keep) -> None:
        import socket

        link = socket.create_connection(("127.0.0.1", server.port))
        file = link.makefile("rb")
        make = {"stream_name": "S", "config": {"deliver_subject": "here", "ack_policy": "none", "deliver_policy": "all"}}
        body = json.dumps(make).encode()
        link.sendall(b'CONNECT {"verbose":false}\r\nSUB here 1\r\nPUB $JS.API.CONSUMER.CREATE.S %d\r\n%b\r\n' % (len(body), body))
        held: list[bytes] = []
        while count > 0:
            words = file.readline().split()
            if words and words[0] == b"MSG":
                held.append(file.read(int(words[-1]) + 2)[:-2])
                count -= 1
            if len(held) == 256 or not count:
                keep(held)
                held = []
        link.close()

    return stream(f'{{type: nats, urls: "{server.url}", stream: S}}', SENSOR), read, None, None


KAFKA_SPLITS = 24  #: the mock cluster holds 5 MB of each, and drops what is older


def kafka_case(stack: ExitStack, count: int) -> tuple[str, Bare, None, None]:
    import confluent_kafka

    server = stack.enter_context(KafkaMock())
    server.create("s", KAFKA_SPLITS)
    producer = confluent_kafka.Producer({"bootstrap.servers": server.url})
    for n in range(count):
        producer.produce("s", text_message(n), partition=n % KAFKA_SPLITS)
        producer.poll(0)
    producer.flush(30)

    def read(count: int, keep: Keep) -> None:
        consumer = confluent_kafka.Consumer({"bootstrap.servers": server.url, "group.id": "bare", "enable.auto.commit": False})
        consumer.assign([confluent_kafka.TopicPartition("s", n, 0) for n in range(KAFKA_SPLITS)])
        while count > 0:
            messages = [m.value() for m in consumer.consume(256, 0.5)]
            keep(messages) if messages else None
            count -= len(messages)
        consumer.close()

    kind = source_type("kafka", "headrace.connectors.kafka:Kafka")
    return stream(f'{{type: "{kind}", bootstrap_servers: "{server.url}", topics: [s]}}', TEXT), read, None, None


def mqtt_case(stack: ExitStack, count: int) -> tuple[str, Bare, Callable[[], None], Callable[[], None]]:
    server = stack.enter_context(Mosquitto(max_queued=1_000_000))
    there = threading.Event()  # the bare loop has subscribed

    def read(count: int, keep: Keep) -> None:
        held: list[bytes] = []
        lock, done = threading.Lock(), threading.Event()

        def take(client: Any, data: Any, message: Any) -> None:
            with lock:
                held.append(message.payload)

        client = server.client("bare")
        client.on_subscribe = lambda *_: there.set()
        client.on_message = take
        client.subscribe("s", 1)
        while count > 0:
            done.wait(0.01)
            with lock:
                messages, held[:] = list(held), []
            keep(messages) if messages else None
            count -= len(messages)
        client.loop_stop()
        client.disconnect()

    def send() -> None:
        there.wait(20)
        server.publish("s", [text_message(n) for n in range(count)])

    def send_to_service() -> None:
        end = time.monotonic() + 60
        while b"headrace-bench" not in (server.folder / "log").read_bytes() and time.monotonic() < end:
            time.sleep(0.1)
        time.sleep(1)  # it has connected; now it subscribes
        server.publish("s", [text_message(n) for n in range(count)])

    kind = source_type("mqtt", "headrace.connectors.mqtt:Mqtt")
    source = f'{{type: "{kind}", url: "{server.url}", topics: [s], client_id: headrace-bench, key: {{field: id}}}}'
    return stream(source, TEXT), read, send, send_to_service


def http_case(stack: ExitStack, count: int) -> tuple[str, Bare, Callable[[], None], Callable[[], None]]:
    """Bodies of 20 lines over four connections."""
    port, bare_port, lines = free_port(), free_port(), 20

    def sender(port: int) -> Callable[[], None]:
        def post(part: int) -> None:
            link = None
            for first in range(part * lines, count, 4 * lines):
                body = b"\n".join(text_message(n) for n in range(first, min(count, first + lines)))
                headers = {"Idempotency-Key": str(first), "Content-Type": "application/x-ndjson"}
                while True:
                    try:
                        link = link or http.client.HTTPConnection("127.0.0.1", port, timeout=30)
                        link.request("POST", "/v1/streams/s", body, headers)
                        answer = link.getresponse()
                        answer.read()
                        if answer.status == 202:
                            break
                    except (OSError, http.client.HTTPException):
                        link = None
                    time.sleep(0.1)

        def send() -> None:
            for part in range(4):
                threading.Thread(target=post, args=(part,), daemon=True).start()

        return send

    def read(count: int, keep: Keep) -> None:
        done, lock, left = threading.Event(), threading.Lock(), [count]

        class Take(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                messages = self.rfile.read(int(self.headers["Content-Length"])).splitlines()
                with lock:
                    keep(messages)
                    left[0] -= len(messages)
                self.send_response(202)
                self.send_header("Content-Length", "0")
                self.end_headers()
                done.set() if left[0] <= 0 else None

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        with http.server.ThreadingHTTPServer(("127.0.0.1", bare_port), Take) as server:
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
            done.wait(120)
            server.shutdown()

    kind = source_type("http_push", "headrace.connectors.http_push:HttpPush")
    source = f'{{type: "{kind}", port: {port}, name: s, split: lines}}'
    return stream(source, TEXT), read, sender(bare_port), sender(port)


# -- the tables -------------------------------------------------------------------------------------------------------


def rates(count: int, only: str) -> list[dict[str, Any]]:
    """A row for each kind of stream, and for text and sensors with many splits."""
    few = max(count // 3, 1)  #: where the sender or its answers set the pace
    cases: list[tuple[str, Callable[[ExitStack], Any], Callable[[], Keep], Callable[[int], bytes], int]] = [
        ("Redis text, 1 split", lambda s: redis_case(s, count, 1), keep_text, text_message, count),
        ("Redis text, 10 splits", lambda s: redis_case(s, count, 10), keep_text, text_message, count),
        ("Redis text, 100 splits", lambda s: redis_case(s, count, 100), keep_text, text_message, count),
        ("NATS sensors, 1 split", lambda s: nats_case(s, count), keep_sensor, sensor_message, count),
        ("Redis sensors, 10 splits", lambda s: redis_case(s, count, 10, SENSOR), keep_sensor, sensor_message, count),
        ("Redis sensors, 100 splits", lambda s: redis_case(s, count, 100, SENSOR), keep_sensor, sensor_message, count),
        ("Kafka text, 24 splits", lambda s: kafka_case(s, count), keep_text, text_message, count),
        ("MQTT text, spooled", lambda s: mqtt_case(s, few), keep_text, text_message, few),
        ("HTTP push, spooled", lambda s: http_case(s, few), keep_text, text_message, few),
    ]
    rows = []
    for name, make, keep, message, n in cases:
        if only.lower() not in name.lower():
            continue
        try:
            with ExitStack() as stack:
                pipeline, read, send_bare, send = make(stack)
                alone = bare(read, n, keep(), [message(i) for i in range(512)], send_bare)
                service, cpu, commits = served(pipeline, n, send)
        except pytest.skip.Exception as exc:
            print(f"{name:26} left out: {exc}")
            continue
        mb = sum(len(message(i)) for i in range(0, n, 97)) / len(range(0, n, 97)) / 1e6
        row = {
            "stream": name, "bare_per_s": alone, "service_per_s": service, "bare_mb_s": alone * mb, "service_mb_s": service * mb,
            "ratio": alone / service, "cpu_us": 1e6 * cpu, "commits": len(commits), "commit_median_ms": 1e3 * statistics.median(commits),
            "commit_p99_ms": 1e3 * sorted(commits)[int(0.99 * (len(commits) - 1))],
        }  # fmt: skip
        rows.append(row)
        print(
            f"{name:26}{alone:10,.0f}{alone * mb:8.1f}{service:12,.0f}{service * mb:8.1f}{row['ratio']:8.1f}"
            f"{row['cpu_us']:9.0f}{row['commits']:9}{row['commit_median_ms']:9.1f}{row['commit_p99_ms']:8.1f}",
            flush=True,
        )
    return rows


#: What is killed, and the word that finds its process; none: the command, with all that it started.
VICTIMS = {"service": "", "coordinator": "ray::_ServiceActor", "worker": "ray::_WorkerActor", "child": "headrace.ingest.child"}


def killed(engine: str, victim: str, times: int) -> dict[str, Any]:
    """Seconds from SIGKILL to the first commit of new samples. A service is started again at once."""
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as name, RedisServer() as server:
        pipeline = stream(f'{{type: redis, url: "{server.url}", streams: [s]}}', TEXT, ", discover_every_s: 1")
        with Serving(pipeline, Path(name), engine=engine) as service:
            sender = RedisSender("s", 1, lambda id_: text_message(int(id_.rpartition("-")[2])))
            sender.broker = server
            sender.start()
            service.start()
            log, found = Log(service), []
            service.wait(lambda: log.read() > 0, 120, "the first commit")
            for _ in range(times):
                time.sleep(2)
                assert service.process is not None
                epoch, word = log.epoch, VICTIMS[victim]
                pid = descendants(service.process.pid, word)[0] if word else service.process.pid
                os.kill(pid, signal.SIGKILL)
                began = time.monotonic()
                if not word:
                    service.process.wait()
                    service.start()
                if victim in ("service", "coordinator"):
                    service.wait(lambda e=epoch: log.epoch > e, 120, "a claim after the kill")
                before = log.read()  # what is left of Ray may have gone on until then
                service.wait(lambda b=before: log.read() > b, 120, "a commit after the kill")
                found.append(time.monotonic() - began)
            sender.stop()
            service.drain()
    print(
        f"{engine:8}{victim:12} killed {times} times: first new commit after {statistics.median(found):.1f} s, at most"
        f" {max(found):.1f} s",
        flush=True,
    )
    return {"engine": engine, "victim": victim, "seconds": found}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--messages", type=int, default=60_000)
    parser.add_argument("--only", choices=["rates", "kill"])
    parser.add_argument("--streams", default="", help="only the rates of streams with this word in their name")
    parser.add_argument("--json", action="store_true", help="end with a line of JSON")
    arguments = parser.parse_args()
    told: dict[str, Any] = {}
    if arguments.only != "kill":
        print(f"{'':26}{'bare/s':>10}{'MB/s':>8}{'service/s':>12}{'MB/s':>8}{'ratio':>8}{'CPU us':>9}{'commits':>9}{'ms':>9}{'p99':>8}")
        told["rates"] = rates(arguments.messages, arguments.streams)
    if arguments.only != "rates":
        told["kill"] = [killed("inline", "service", 3), *(killed("ray", victim, 2) for victim in VICTIMS)]
    if arguments.json:
        print(json.dumps(told))
    return 0


if __name__ == "__main__":
    sys.exit(main())
