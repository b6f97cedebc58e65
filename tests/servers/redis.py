"""A real redis-server on loopback, for tests: started, killed with SIGKILL, restarted on the same data and port.

    with RedisServer() as server:
        client = server.client()
        server.kill(); server.restart()
"""

from __future__ import annotations

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


class RedisServer:
    """redis-server with an append-only file that is synced at every write; skips the test where it is not installed."""

    def __init__(self, *options: str, password: str | None = None, tls: bool = False) -> None:
        binary = shutil.which("redis-server")
        if binary is None:
            pytest.skip("redis-server is not installed (Debian package redis-server)")
        pytest.importorskip("redis", reason="the Python library redis is not installed (headrace[redis])")
        self._folder = Path(tempfile.mkdtemp(prefix="headrace-redis-"))
        self.port = free_port()
        self.password = password
        self.tls = tls
        listen = ["--port", str(self.port)]
        if tls:
            self.ca, certificate, key = make_certificates(self._folder)
            listen = ["--port", "0", "--tls-port", str(self.port), "--tls-auth-clients", "no"]
            listen += ["--tls-cert-file", str(certificate), "--tls-key-file", str(key), "--tls-ca-cert-file", self.ca]
        self._command = [
            binary, *listen, "--bind", "127.0.0.1", "--dir", str(self._folder), "--save", "", "--daemonize", "no",
            "--appendonly", "yes", "--appendfsync", "always", *(["--requirepass", password] if password else []),
            *options,
        ]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None
        self._clients: list[Any] = []
        try:
            self.restart()
        except BaseException:
            self.close()
            raise

    @property
    def url(self) -> str:
        """As the connector's setting `url` wants it."""
        return f"redis{'s' if self.tls else ''}://127.0.0.1:{self.port}/0"

    def client(self, **settings: Any) -> Any:
        """A redis-py client, closed with the server."""
        import redis

        if self.tls:
            settings |= {"ssl": True, "ssl_ca_certs": self.ca}
        client = redis.Redis(host="127.0.0.1", port=self.port, password=self.password, protocol=2, **settings)
        self._clients.append(client)
        return client

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
        """Start on the same port and data, and wait until it answers."""
        self.kill()
        with open(self._folder / "log", "ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        import redis

        deadline = time.monotonic() + 20
        while True:
            client = self.client(socket_timeout=1)
            try:
                client.ping()
                return
            except redis.exceptions.RedisError as exc:
                said = (self._folder / "log").read_text(errors="replace")[-1500:]
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError(f"redis-server did not start:\n{said}") from exc
                time.sleep(0.02)
            finally:
                client.close()

    def close(self) -> None:
        """End the server and remove its data."""
        for client in self._clients:
            client.close()
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> RedisServer:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def make_certificates(folder: Path) -> tuple[str, Path, Path]:
    """(CA file, certificate, key) of a new authority that vouches for 127.0.0.1; skips without openssl."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed (Debian package openssl)")
    ca, ca_key, key, request, certificate = (folder / n for n in ("ca.pem", "ca.key", "key", "req", "cert.pem"))
    (folder / "san").write_text("subjectAltName=IP:127.0.0.1\n")
    new_key = ["-newkey", "rsa:2048", "-nodes"]
    for arguments in (
        ["req", "-x509", *new_key, "-keyout", ca_key, "-out", ca, "-days", "2", "-subj", "/CN=headrace test authority"],
        ["req", *new_key, "-keyout", key, "-out", request, "-subj", "/CN=127.0.0.1"],
        ["x509", "-req", "-in", request, "-CA", ca, "-CAkey", ca_key, "-CAcreateserial", "-out", certificate,
         "-days", "2", "-extfile", folder / "san"],
    ):  # fmt: skip
        subprocess.run([openssl, *map(str, arguments)], check=True, capture_output=True)
    return str(ca), certificate, key
