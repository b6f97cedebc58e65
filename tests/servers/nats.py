"""A real nats-server with JetStream on loopback, for tests: started, killed with SIGKILL, restarted on the same data.

    with NatsServer() as server:
        admin = server.admin()          a blocking client: create streams, publish, delete
        server.kill(); server.restart()
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as s:
        port: int = s.getsockname()[1]
        return port


class NatsServer:
    """nats-server with JetStream; `config` is added to its configuration file. Skips where it is not installed."""

    def __init__(self, config: str = "", *, scheme: str = "nats", jetstream: bool = True) -> None:
        # Debian puts it where a user's PATH does not look.
        path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"])
        binary = shutil.which("nats-server", path=path)
        if binary is None:
            pytest.skip("nats-server is not installed (Debian package nats-server)")
        self.folder = Path(tempfile.mkdtemp(prefix="headrace-nats-"))
        self.port = free_port()
        self.url = f"{scheme}://127.0.0.1:{self.port}"
        lines = [f"listen: 127.0.0.1:{self.port}", config.replace("FOLDER", str(self.folder))]
        if jetstream:
            lines.append(f'jetstream {{ store_dir: "{self.folder}/data" }}')
        (self.folder / "server.conf").write_text("\n".join(lines))
        self._command = [binary, "-c", str(self.folder / "server.conf")]
        self._process: subprocess.Popen[bytes] | None = None
        self._admins: list[Admin] = []
        try:
            self.restart()
        except BaseException:
            self.close()
            raise

    def kill(self) -> None:
        """SIGKILL, as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def pause(self) -> None:
        """SIGSTOP: connections stay open, nothing answers."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def restart(self) -> None:
        """Start on the same port and data, and wait until it greets."""
        self.kill()
        with open(self.folder / "log", "ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        deadline = time.monotonic() + 20
        while True:
            try:
                with socket.create_connection(("127.0.0.1", self.port), 1) as s:
                    s.settimeout(2)
                    if s.recv(5) == b"INFO ":
                        return
            except OSError:
                pass  # not yet
            if self._process.poll() is not None or time.monotonic() > deadline:
                said = (self.folder / "log").read_text(errors="replace")[-1500:]
                raise AssertionError(f"nats-server did not start:\n{said}")
            time.sleep(0.02)

    def admin(self, **connect: Any) -> Admin:
        """A client of the tests, closed with the server; `connect` is sent as credentials."""
        admin = Admin(self.port, connect)
        self._admins.append(admin)
        return admin

    def close(self) -> None:
        """End the server and remove its data."""
        for admin in self._admins:
            admin.close()
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> NatsServer:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class Admin:
    """A few lines of NATS by hand, apart from what is tested: one connection, one thing at a time."""

    def __init__(self, port: int, connect: dict[str, Any]) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), 10)
        self._file = self._socket.makefile("rb")
        self._file.readline()
        hello = {"verbose": False, "headers": True, "no_responders": True, **connect}
        self._socket.sendall(b"CONNECT %b\r\nSUB _INBOX.admin 1\r\n" % json.dumps(hello).encode())

    def ask(self, subject: str, body: Any = None) -> dict[str, Any]:
        """A request to JetStream's API. Raises: AssertionError with what it says."""
        answer = json.loads(self._request(b"$JS.API." + subject.encode(), json.dumps(body or {}).encode()))
        assert "error" not in answer, answer["error"]
        return answer

    def create(self, name: str, *subjects: str, **config: Any) -> dict[str, Any]:
        """A new stream in place of an old one of that name."""
        self.delete(name)
        body = {"name": name, "subjects": list(subjects), "retention": "limits", "storage": "file", "num_replicas": 1}
        return self.ask(f"STREAM.CREATE.{name}", {**body, "max_msgs": -1, "max_bytes": -1, "max_age": 0, **config})

    def delete(self, name: str) -> None:
        """No stream of that name."""
        self._request(f"$JS.API.STREAM.DELETE.{name}".encode(), b"")

    def publish(self, subject: str | bytes, data: bytes, headers: bytes = b"") -> int:
        """The sequence that the stream gave; `headers`: lines with CR LF."""
        raw = subject.encode() if isinstance(subject, str) else subject
        return int(json.loads(self._request(raw, data, headers))["seq"])

    def publish_all(self, subject: str, payloads: list[bytes]) -> None:
        """Many at once; the last is confirmed, and so are those before it."""
        out = [b"PUB %b %d\r\n%b\r\n" % (subject.encode(), len(data), data) for data in payloads[:-1]]
        self._socket.sendall(b"".join(out))
        self.publish(subject, payloads[-1])

    def close(self) -> None:
        """Close the connection."""
        self._file.close()
        self._socket.close()

    def _request(self, subject: bytes, data: bytes, headers: bytes = b"") -> bytes:
        if headers:
            head = b"NATS/1.0\r\n" + headers + b"\r\n"
            line = b"HPUB %b _INBOX.admin %d %d\r\n" % (subject, len(head), len(head) + len(data))
            self._socket.sendall(line + head + data + b"\r\n")
        else:
            self._socket.sendall(b"PUB %b _INBOX.admin %d\r\n%b\r\n" % (subject, len(data), data))
        while True:
            words = self._file.readline().split()
            if not words:
                raise AssertionError("the server closed the connection")
            if words[0] == b"PING":
                self._socket.sendall(b"PONG\r\n")
            elif words[0] == b"-ERR":
                raise AssertionError(b" ".join(words).decode())
            elif words[0] in (b"MSG", b"HMSG"):
                raw = self._file.read(int(words[-1]) + 2)[:-2]
                return raw[int(words[-2]) if words[0] == b"HMSG" else 0 :]
