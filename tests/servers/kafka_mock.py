"""librdkafka's mock cluster as a process of its own: a Kafka that speaks the wire protocol, for tests.

It keeps everything in memory, 5 MiB a partition, and is no broker: no SASL, no TLS, no aborted transactions, no
compaction, no offsets by time.
`python kafka_mock.py BROKERS` is the process: it takes one JSON command a line, `[name, argument, …]`, answers each
with one JSON line, and ends when its input does.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

#: Protocol numbers of the requests that tests let fail. Source: https://kafka.apache.org/protocol#protocol_api_keys
PRODUCE, FETCH, LIST_OFFSETS, METADATA, FIND_COORDINATOR = 0, 1, 2, 3, 10
#: Error codes. Source: https://kafka.apache.org/protocol#protocol_error_codes; -195 makes the mock hang up.
HANG_UP, UNKNOWN_TOPIC, NOT_LEADER, TOPIC_REFUSED, GROUP_REFUSED = -195, 3, 6, 29, 30


class KafkaMock:
    """`with KafkaMock() as kafka:` runs a cluster on free loopback ports, `kafka.url` lists them."""

    def __init__(self, brokers: int = 3) -> None:
        self._lock = threading.Lock()
        command = [sys.executable, os.path.abspath(__file__), str(brokers)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            self.url: str = self._answer()["bootstraps"]
        except Exception:
            self.kill()
            raise
        self.pid = self._process.pid

    def __enter__(self) -> KafkaMock:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def kill(self) -> None:
        """SIGKILL: all brokers are gone at once, and with them every message."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()

    def stop(self) -> None:
        """SIGSTOP: connections stay open and nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def create(self, topic: str, partitions: int = 1) -> None:
        self._command("create", topic, partitions)

    def delete(self, topic: str) -> None:
        self._command("delete", topic)

    def delete_records(self, topic: str, partition: int, before: int) -> None:
        """What retention does: the partition begins at offset `before` from now on."""
        self._command("delete_records", topic, partition, before)

    def down(self, broker: int = -1) -> None:
        """Close all connections of a broker and refuse new ones; -1: of all brokers."""
        self._command("down", broker)

    def up(self, broker: int = -1) -> None:
        self._command("up", broker)

    def lead(self, topic: str, partition: int, broker: int) -> None:
        """Move a partition to another broker; -1: leave it without a leader."""
        self._command("lead", topic, partition, broker)

    def fail(self, request: int, errors: Sequence[int]) -> None:
        """The next requests of a kind are answered with these errors, one each."""
        self._command("fail", request, list(errors))

    def heal(self, request: int) -> None:
        self._command("heal", request)

    def delay(self, milliseconds: int, broker: int = -1) -> None:
        self._command("delay", broker, milliseconds)

    def controller(self, broker: int) -> None:
        """Which broker answers questions of administration, such as for topic ids; -1: none."""
        self._command("controller", broker)

    def _command(self, name: str, *arguments: Any) -> None:
        with self._lock:
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps([name, *arguments]) + "\n")
            self._process.stdin.flush()
            error = self._answer()["error"]
        if error:
            raise RuntimeError(f"{name}{arguments}: the mock cluster answered error {error}")

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the mock cluster ended with {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def _library() -> ctypes.CDLL:
    """librdkafka as the wheel brought it; the package loads it first."""
    import confluent_kafka

    folder = Path(confluent_kafka.__file__).parent.parent / "confluent_kafka.libs"
    return ctypes.CDLL(str(next(folder.glob("librdkafka-*"))))


def _serve(brokers: int) -> None:
    library = _library()
    pointer, text, short, integer, long = (
        ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int16, ctypes.c_int32, ctypes.c_int64,
    )  # fmt: skip
    library.rd_kafka_conf_new.restype = pointer
    library.rd_kafka_new.restype = pointer
    library.rd_kafka_new.argtypes = [ctypes.c_int, pointer, pointer, ctypes.c_size_t]
    library.rd_kafka_mock_cluster_new.restype = pointer
    library.rd_kafka_mock_cluster_new.argtypes = [pointer, ctypes.c_int]
    library.rd_kafka_mock_cluster_bootstraps.restype = text
    library.rd_kafka_mock_cluster_bootstraps.argtypes = [pointer]
    reason = ctypes.create_string_buffer(512)
    settings = library.rd_kafka_conf_new()
    library.rd_kafka_conf_set.argtypes = [pointer, text, text, pointer, ctypes.c_size_t]
    library.rd_kafka_conf_set(settings, b"log_level", b"2", reason, 512)
    client = library.rd_kafka_new(0, settings, reason, 512)
    if not client:
        raise RuntimeError(reason.value.decode())
    cluster = library.rd_kafka_mock_cluster_new(client, brokers)

    def call(name: str, types: list[Any], *arguments: Any) -> int:
        function = getattr(library, f"rd_kafka_mock_{name}")
        function.argtypes = [pointer, *types]
        function.restype = ctypes.c_int
        return int(function(cluster, *arguments))

    def fail(request: int, errors: list[int]) -> int:
        array = (ctypes.c_int * len(errors))(*errors)
        call("push_request_errors_array", [short, ctypes.c_size_t, pointer], request, len(errors), array)
        return 0

    def heal(request: int) -> int:
        call("clear_request_errors", [short], request)
        return 0

    commands: dict[str, Any] = {
        "create": lambda topic, count: call("topic_create", [text, integer, integer], topic.encode(), count, 1),
        "delete": lambda topic: call("topic_delete", [text], topic.encode()),
        "delete_records": lambda topic, n, before: call(
            "partition_delete_records", [text, integer, long], topic.encode(), n, before
        ),
        "down": lambda broker: call("broker_set_down", [integer], broker),
        "up": lambda broker: call("broker_set_up", [integer], broker),
        "lead": lambda topic, n, broker: call(
            "partition_set_leader", [text, integer, integer], topic.encode(), n, broker
        ),
        "controller": lambda broker: call("set_controller_id", [integer], broker),
        "delay": lambda broker, ms: call("broker_set_rtt", [integer, ctypes.c_int], broker, ms),
        "fail": fail,
        "heal": heal,
    }
    commands["controller"](1)
    bootstraps = library.rd_kafka_mock_cluster_bootstraps(cluster).decode()
    print(json.dumps({"bootstraps": bootstraps}), flush=True)
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        print(json.dumps({"error": commands[name](*arguments)}), flush=True)
    os._exit(0)


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
