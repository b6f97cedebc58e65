"""A real RabbitMQ broker on loopback, for tests: started, killed with SIGKILL, restarted on the same data and ports.

    with RabbitServer() as server:
        with server.admin() as admin:
            admin.stream("s"); admin.publish("s", [b"hello"])
        server.kill(); server.restart()

It is a node of its own: own name, cookie, port mapper (epmd) and folders, apart from any broker of this machine.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self

import pytest

from .process import ServerProcess, free_port
from .redis import make_certificates

#: Debian's wrapper in PATH changes the user; this is the broker's own script.
_SCRIPTS = "/usr/lib/rabbitmq/bin"


class RabbitServer(ServerProcess):
    """rabbitmq-server with one user; skips the test where it is not installed."""

    start_s = 60.0

    def __init__(
        self, config: str = "", *, user: str = "guest", password: str = "guest", tls: bool = False, plugins: str = ""
    ) -> None:
        self._binary = shutil.which("rabbitmq-server", path=f"{_SCRIPTS}:/usr/sbin:{os.environ.get('PATH', '')}")
        epmd = shutil.which("epmd")
        if self._binary is None or epmd is None:
            pytest.skip("rabbitmq-server is not installed (Debian package rabbitmq-server)")
        pytest.importorskip("pika", reason="the Python library pika is not installed (headrace[rabbitmq])")
        super().__init__("rabbitmq-server")
        self.user, self.password, self.tls = user, password, tls
        self.port, self._distribution, self._mapper = free_port(), free_port(), free_port()
        lines = [
            f"default_user = {user}", f"default_pass = {password}", "log.console = true", "log.console.level = warning",
            "loopback_users = none", "disk_free_limit.absolute = 1MB", "vm_memory_high_watermark.absolute = 512MB",
            f"listeners.tcp.1 = 127.0.0.1:{self.port}" if not tls else "listeners.tcp = none", *config.splitlines(),
        ]  # fmt: skip
        if tls:
            self.ca, certificate, key = make_certificates(self.folder)
            lines += [
                f"listeners.ssl.1 = 127.0.0.1:{self.port}", f"ssl_options.cacertfile = {self.ca}",
                f"ssl_options.certfile = {certificate}", f"ssl_options.keyfile = {key}",
                "ssl_options.verify = verify_none",
            ]  # fmt: skip
        files = {"rabbitmq.conf": "\n".join(lines) + "\n", "plugins": f"[{plugins}].", "env.conf": "", "epmd.log": ""}
        for name, text in files.items():
            (self.folder / name).write_text(text)
        cookie = self.folder / ".erlang.cookie"
        cookie.write_text(secrets.token_hex(16))
        cookie.chmod(0o400)
        self._epmd: subprocess.Popen[bytes] | None = None
        self._environment = {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "HOME": str(self.folder),
            "LANG": "C.UTF-8",
            # The script then becomes the broker instead of minding one, so that its pid is the broker's.
            "RUNNING_UNDER_SYSTEMD": "true",
            "ERL_EPMD_PORT": str(self._mapper),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"headrace{secrets.token_hex(4)}@localhost",
            "RABBITMQ_DIST_PORT": str(self._distribution),
            "RABBITMQ_CONF_ENV_FILE": str(self.folder / "env.conf"),
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self.folder / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "plugins"),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self.folder / "logs"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_PID_FILE": str(self.folder / "pid"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1} +S 2:2",
        }
        self._command = ["/usr/bin/env", "-i", *(f"{k}={v}" for k, v in self._environment.items()), self._binary]
        try:
            self._epmd = subprocess.Popen(
                [epmd, "-port", str(self._mapper), "-address", "127.0.0.1"],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            self.restart()
        except BaseException:
            self.close()
            raise

    def restart(self) -> None:
        """Start on the same ports and data, and wait until it answers."""
        self.launch(self._command, self._answers)

    def settle(self) -> None:
        """Make the broker write what would be lost by a kill right after the first stream was made.

        Its coordinator of streams keeps a small table that is written every three minutes; a broker that is killed
        before that has no coordinator any more, and says for ever that its streams are down.
        """
        environment = [f"{key}={value}" for key, value in self._environment.items()]
        ctl = [f"{_SCRIPTS}/rabbitmqctl", "-n", self._environment["RABBITMQ_NODENAME"], "eval"]
        sync = "[dets:sync(T) || T <- dets:all()]."
        subprocess.run(["/usr/bin/env", "-i", *environment, *ctl, sync], check=True, capture_output=True, timeout=60)

    def _answers(self) -> bool:
        with socket.create_connection(("127.0.0.1", self.port), 1) as s:
            s.settimeout(2)
            if self.tls:
                return True
            s.sendall(b"AMQP\0\0\x09\1")
            return s.recv(1) == b"\1"

    def admin(self) -> Admin:
        """A client of the tests; a context manager."""
        return Admin(self)

    def close(self) -> None:
        """End the broker and its port mapper, and remove its data."""
        super().close()
        if self._epmd is not None:
            self._epmd.kill()
            self._epmd.wait(10)


class Admin:
    """One connection of the tests: declares, publishes with confirms, deletes."""

    def __init__(self, server: RabbitServer) -> None:
        import pika

        options = None
        if server.tls:
            options = pika.SSLOptions(ssl.create_default_context(cafile=server.ca), "127.0.0.1")
        self._connection = pika.BlockingConnection(
            pika.ConnectionParameters(
                "127.0.0.1", server.port, credentials=pika.PlainCredentials(server.user, server.password),
                ssl_options=options, heartbeat=0,
            )
        )  # fmt: skip
        self.channel = self._connection.channel()
        self.channel.confirm_delivery()

    def stream(self, name: str, **arguments: Any) -> None:
        """A new stream queue in place of an old one; `max_length_bytes` stands for x-max-length-bytes, and so on."""
        self.channel.queue_delete(name)
        more = {f"x-{key.replace('_', '-')}": value for key, value in arguments.items()}
        self.channel.queue_declare(name, durable=True, arguments={"x-queue-type": "stream", **more})

    def publish(self, name: str, bodies: Iterable[bytes], **properties: Any) -> None:
        """One message a body; each is confirmed by the broker before the next is sent.

        For a moment after a start of the broker a stream takes nothing, and says so: then again.
        """
        import pika

        deadline = time.monotonic() + 30
        for body in bodies:
            while True:
                try:
                    self.channel.basic_publish("", name, body, pika.BasicProperties(**properties), mandatory=True)
                    break
                except pika.exceptions.UnroutableError:
                    assert time.monotonic() < deadline, f"the stream {name} is still down"
                    time.sleep(0.1)

    def close(self) -> None:
        """Close the connection, if the broker still lives."""
        from pika.exceptions import AMQPError

        with contextlib.suppress(AMQPError, OSError):
            self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, at: TracebackType | None) -> None:
        self.close()
