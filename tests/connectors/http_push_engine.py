"""What the tests of `http_push` share: a receiver with a consumer behind it, and real clients that send to it."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from headrace.connectors.contract import Item
from headrace.connectors.http_push import HttpPush
from headrace.connectors.http_push_config import HttpPushConfig
from headrace.connectors.testing_reception import Sender

TOKEN = "a-token-that-is-long-enough-0001"
JSON = {"Content-Type": "application/json"}
HEAD = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as s:
        return int(s.getsockname()[1])


class HttpSender(Sender):
    """Posts each message with its key, on connections of its own; counts the answers 202."""

    def __init__(self, port: int, path: str = "/", token: str | None = None, workers: int = 48) -> None:
        self._port, self._path, self._token = port, path, token
        self._pool = ThreadPoolExecutor(workers)
        self._lock = threading.Lock()
        self._failed: list[tuple[str, bytes]] = []
        self.statuses: list[int] = []
        self._closed = False

    def send(self, messages: Any) -> None:
        for message in messages:
            self._pool.submit(self._post, message)

    def confirmed(self) -> int:
        return self.statuses.count(202)

    def again(self) -> None:
        with self._lock:
            failed, self._failed = self._failed, []
        self.send(failed)

    def close(self) -> None:
        self._closed = True
        self._pool.shutdown(cancel_futures=True)

    def _post(self, message: tuple[str, bytes]) -> None:
        key, payload = message
        headers = {"Content-Type": "application/octet-stream", "Idempotency-Key": key}
        if payload[:1] == b"{":
            headers["Content-Type"] = "application/json"
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        status = 0
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)
        try:
            connection.request("POST", self._path, payload, headers)
            status = connection.getresponse().status
        except (OSError, http.client.HTTPException):
            time.sleep(0.05)  # refused, reset or cut: the message is sent again
        finally:
            connection.close()
        with self._lock:
            self.statuses.append(status)
            if status != 202 and not self._closed:
                self._failed.append(message)


class Engine:
    """Reads in a thread and acknowledges each item at once, or only when told to."""

    def __init__(self, acks: bool = True, pulls: bool = True, **settings: Any) -> None:
        config = HttpPushConfig.model_validate({"port": 0, "read_timeout_s": 2, "confirm_timeout_s": 5} | settings)
        self.connector = HttpPush(config)
        (self.split,) = self.connector.splits()
        self.items: list[Item] = []
        self.acks, self.pulls = acks, threading.Event()
        self._over = False
        self._reads = self.connector.read(self.split, None)
        next(self._reads)
        self.port = self.connector.port
        if pulls:
            self.pulls.set()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._over:
            if not self.pulls.wait(0.1):
                continue
            read = next(self._reads)
            if isinstance(read, Item):
                self.items.append(read)
                if self.acks:
                    self.connector.ack(self.split, read.position)

    def close(self) -> None:
        self._over = True
        self._thread.join()
        self.connector.close()

    def post(self, body: Any = b"{}", path: str = "/", method: str = "POST", **headers: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            said = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, JSON | said, encode_chunked="Transfer-Encoding" in said)
            return Answer(connection.getresponse())
        finally:
            connection.close()


class Answer:
    """Status, headers and JSON of an answer."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = response.headers
        raw = response.read()
        self.json = json.loads(raw) if raw else None
        if self.status >= 400 and raw:
            assert self.headers["Content-Type"] == "application/problem+json"
            assert self.json["status"] == self.status and self.json["title"] and self.json["detail"]


@contextmanager
def engine(**settings: Any) -> Iterator[Engine]:
    running = Engine(**settings)
    try:
        yield running
    finally:
        running.close()


def raw(port: int, data: bytes, timeout: float = 10) -> bytes:
    """What the server says to these bytes, until it closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as s:
        s.sendall(data)
        said = b""
        while got := s.recv(65536):
            said += got
        return said


