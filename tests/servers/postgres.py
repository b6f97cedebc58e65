"""A real PostgreSQL on loopback, for tests: started, killed with SIGKILL, restarted on the same data and port.

    with PostgresServer() as server:
        server.run("CREATE TABLE tide (…)")
        server.kill(); server.restart()

PostgreSQL refuses to run as root, so then it runs as `nobody`.
"""

from __future__ import annotations

import contextlib
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

SUPERUSER, PASSWORD = "headrace", "tide-and-wheel"


def binaries() -> Path:
    """The folder of the server's programs; Debian keeps them off the PATH. Skips where there are none."""
    found = shutil.which("postgres")
    candidates = [Path(found).parent] if found else []
    debian = Path("/usr/lib/postgresql")
    if debian.is_dir():
        versions = sorted(debian.iterdir(), key=lambda path: int(path.name) if path.name.isdecimal() else 0)
        candidates += [path / "bin" for path in reversed(versions)]
    for folder in candidates:
        if (folder / "initdb").exists():
            return folder
    pytest.skip("no PostgreSQL server: install the package postgresql")


def as_nobody() -> list[str]:
    """What stands before a command so that it does not run as root."""
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("PostgreSQL does not run as root, and setpriv (package util-linux) is absent")
    return ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]


class PostgresServer:
    """A cluster in a temporary folder, with passwords by SCRAM over TCP on 127.0.0.1:`port`."""

    def __init__(self, **settings: str) -> None:
        self._bin = binaries()
        self._folder = Path(tempfile.mkdtemp(prefix="headrace-postgres-"))
        self._data = self._folder / "data"
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port: int = probe.getsockname()[1]
        # Without fsync: a kill takes the processes and leaves the kernel, which has what they wrote.
        self._settings = {
            "wal_level": "logical", "fsync": "off", "max_wal_senders": "8", "max_replication_slots": "8",
            "shared_buffers": "16MB", "autovacuum": "off", "max_connections": "30", "log_min_messages": "warning",
        } | settings  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._make()
            self.restart()
        except BaseException:
            self.close()
            raise

    def _make(self) -> None:
        password = self._folder / "password"
        password.write_text(PASSWORD + "\n", encoding="ascii")
        if os.geteuid() == 0:
            for path in (self._folder, password):
                shutil.chown(path, "nobody", "nogroup")
        initdb = [
            str(self._bin / "initdb"), "-D", str(self._data), "-U", SUPERUSER, f"--pwfile={password}",
            "--encoding=UTF8", "--auth-host=scram-sha-256", "--auth-local=scram-sha-256", "--locale=C", "--no-sync",
        ]  # fmt: skip
        subprocess.run([*as_nobody(), *initdb], check=True, capture_output=True, cwd="/")

    def restart(self, **settings: str) -> None:
        """Start on the same data and port, and wait until it answers."""
        self._settings |= settings
        options = [part for name, value in self._settings.items() for part in ("-c", f"{name}={value}")]
        program = str(self._bin / "postgres")
        command = [program, "-D", str(self._data), "-p", str(self.port), "-h", "127.0.0.1", "-k", ""]
        log = self._folder / "log"
        deadline = time.monotonic() + 60
        self._process = None
        while True:
            # After a SIGKILL the old server's children hold its shared memory for a moment, and a new one gives up.
            if self._process is None or self._process.poll() is not None:
                with open(log, "ab") as output:
                    self._process = subprocess.Popen(
                        [*as_nobody(), *command, *options],
                        stdout=output,
                        stderr=output,
                        cwd="/",
                        start_new_session=True,
                    )
            if time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL did not start:\n{log.read_text(encoding='utf-8')[-2000:]}")
            try:
                self.connect().close()
                return
            except Exception:
                time.sleep(0.1)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def connect(self, database: str = "postgres", **more: Any) -> Any:
        """A connection of the superuser, in autocommit mode."""
        import psycopg

        told = {"host": "127.0.0.1", "port": self.port, "user": SUPERUSER, "password": PASSWORD} | more
        return psycopg.connect(dbname=database, autocommit=True, connect_timeout=5, **told)

    def run(self, *statements: str, database: str = "postgres") -> list[Any]:
        """The rows of the last statement."""
        rows: list[Any] = []
        with self.connect(database) as connection:
            for statement in statements:
                cursor = connection.execute(statement)
                rows = cursor.fetchall() if cursor.description else []
        return rows

    def kill(self) -> None:
        """SIGKILL of the server and of all its processes, as when the power goes but the disk stays."""
        assert self._process is not None
        # Each child leads a session of its own, so there is no group to kill.
        for pid in [self.pid, *self.children()]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()
        self._process = None

    def stop(self, seconds: float = 30) -> None:
        """The fast shutdown that an operator orders. Raises: TimeoutExpired if something holds it up."""
        assert self._process is not None
        self._process.send_signal(signal.SIGINT)
        self._process.wait(seconds)
        self._process = None

    def children(self) -> list[int]:
        """The server's processes besides the first."""
        found = []
        for folder in Path("/proc").iterdir():
            if folder.name.isdecimal():
                with contextlib.suppress(OSError):
                    stat = (folder / "stat").read_text(encoding="latin-1")
                    if int(stat.rpartition(")")[2].split()[1]) == self.pid:
                        found.append(int(folder.name))
        return found

    def freeze(self) -> list[int]:
        """SIGSTOP of all processes: connections stay open and nothing answers. Gives what `thaw` takes."""
        pids = [self.pid, *self.children()]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        return pids

    def thaw(self, pids: list[int]) -> None:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)

    def close(self) -> None:
        if self._process is not None:
            self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> PostgresServer:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, at: TracebackType | None) -> None:
        self.close()
