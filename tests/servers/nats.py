"""A real nats-server with JetStream on loopback, for tests: started, killed with SIGKILL, restarted on the same data.

    with NatsServer() as server:
        admin = server.admin()          a blocking client: create streams, publish, delete
        server.kill(); server.restart()
"""

from __future__ import annotations

import json
import os
import shutil
import socket
from typing import Any

import pytest

from .process import ServerProcess, free_port


class NatsServer(ServerProcess):
    """nats-server with JetStream; `config` is added to its configuration file. Skips where it is not installed."""

    def __init__(self, config: str = "", *, scheme: str = "nats", jetstream: bool = True) -> None:
        # Debian puts it where a user's PATH does not look.
        path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"])
        binary = shutil.which("nats-server", path=path)
        if binary is None:
            pytest.skip("nats-server is not installed (Debian package nats-server)")
        super().__init__("nats-server")
        self.port = free_port()
        self.url = f"{scheme}://127.0.0.1:{self.port}"
        lines = [f"listen: 127.0.0.1:{self.port}", config.replace("FOLDER", str(self.folder))]
        if jetstream:
            lines.append(f'jetstream {{ store_dir: "{self.folder}/data" }}')
        (self.folder / "server.conf").write_text("\n".join(lines))
        self._command = [binary, "-c", str(self.folder / "server.conf")]
        self._admins: list[Admin] = []
        try:
            self.restart()
        except BaseException:
            self.close()
            raise

    def restart(self) -> None:
        """Start on the same port and data, and wait until it greets."""
        self.launch(self._command, self._greets)

    def _greets(self) -> bool:
        with socket.create_connection(("127.0.0.1", self.port), 1) as s:
            s.settimeout(2)
            return s.recv(5) == b"INFO "

    def admin(self, **connect: Any) -> Admin:
        """A client of the tests, closed with the server; `connect` is sent as credentials."""
        admin = Admin(self.port, connect)
        self._admins.append(admin)
        return admin

    def close(self) -> None:
        """End the server and remove its data."""
        for admin in self._admins:
            admin.close()
        super().close()


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
