"""A server that tests start, kill and start again on the same data: what all of them share."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

_START_S = 20.0


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as s:
        port: int = s.getsockname()[1]
        return port


class ServerProcess:
    """A process with a folder of its own; as a context manager it is ended and its data removed."""

    start_s = _START_S  #: how long it may take to answer

    def __init__(self, name: str) -> None:
        self.name = name
        self.folder = Path(tempfile.mkdtemp(prefix=f"headrace-{name}-"))
        self._process: subprocess.Popen[bytes] | None = None

    def launch(self, command: Sequence[str], ready: Callable[[], bool]) -> None:
        """Kill what runs, start `command`, and wait until `ready`, which may raise OSError while it is not."""
        self.kill()
        log = self.folder / "log"
        with open(log, "ab") as out:
            self._process = subprocess.Popen(command, stdout=out, stderr=out)
        deadline = time.monotonic() + self.start_s
        while not _is(ready):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"{self.name} did not start:\n{log.read_text(errors='replace')[-1500:]}")
            time.sleep(0.02)

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

    def close(self) -> None:
        """End the server and remove its data."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _is(ready: Callable[[], bool]) -> bool:
    try:
        return ready()
    except OSError:
        return False
