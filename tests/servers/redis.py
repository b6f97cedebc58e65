"""A real redis-server on loopback, for tests: started, killed with SIGKILL, restarted on the same data and port.

    with RedisServer() as server:
        client = server.client()
        server.kill(); server.restart()
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from .process import ServerProcess, free_port


class RedisServer(ServerProcess):
    """redis-server with an append-only file that is synced at every write; skips the test where it is not installed."""

    def __init__(self, *options: str, password: str | None = None, tls: bool = False) -> None:
        binary = shutil.which("redis-server")
        if binary is None:
            pytest.skip("redis-server is not installed (Debian package redis-server)")
        pytest.importorskip("redis", reason="the Python library redis is not installed (headrace[redis])")
        super().__init__("redis-server")
        self.port = free_port()
        self.password = password
        self.tls = tls
        listen = ["--port", str(self.port)]
        if tls:
            self.ca, certificate, key = make_certificates(self.folder)
            listen = ["--port", "0", "--tls-port", str(self.port), "--tls-auth-clients", "no"]
            listen += ["--tls-cert-file", str(certificate), "--tls-key-file", str(key), "--tls-ca-cert-file", self.ca]
        self._command = [
            binary, *listen, "--bind", "127.0.0.1", "--dir", str(self.folder), "--save", "", "--daemonize", "no",
            "--appendonly", "yes", "--appendfsync", "always", *(["--requirepass", password] if password else []),
            *options,
        ]  # fmt: skip
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

    def restart(self) -> None:
        """Start on the same port and data, and wait until it answers."""
        self.launch(self._command, self._answers)

    def _answers(self) -> bool:
        import redis

        client = self.client(socket_timeout=1)
        try:
            return bool(client.ping())
        except redis.exceptions.RedisError:
            return False
        finally:
            client.close()

    def close(self) -> None:
        """End the server and remove its data."""
        for client in self._clients:
            client.close()
        super().close()


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
