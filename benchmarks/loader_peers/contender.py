"""A contender's process, as the benchmark sees it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
READERS = HERE.parents[1] / "tests/exports/readers"  # has the stand-in for torchvision that one of the peers needs


class Absent(Exception):
    """A contender that cannot take part; the message says why."""


class Contender:
    """A process that answers requests; between them it is stopped."""

    def __init__(self, name: str, folder: Path, python: str) -> None:
        """Raises: Absent if it does not start."""
        self.name = name
        if not Path(python).exists():
            raise Absent(f"no {Path(python).parent.parent}: scripts/export-clients.sh makes it")
        path = os.pathsep.join([str(HERE), str(READERS)])
        quiet = {"PYTHONPATH": path, "PYTHONWARNINGS": "ignore", "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hf")}
        self._errors = open(folder / f"{name}.log", "a+")  # noqa: SIM115  closed with the process
        self._process = subprocess.Popen(
            [python, str(HERE / "serve.py"), name, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**os.environ, **quiet},
        )
        self.ready = self._answer()["ready"]
        self._process.send_signal(signal.SIGSTOP)

    def ask(self, **request: Any) -> dict[str, Any]:
        """The answer. Raises: Absent with the last line of what it printed."""
        assert self._process.stdin is not None
        self._process.send_signal(signal.SIGCONT)
        with contextlib.suppress(BrokenPipeError):  # then there is no answer either
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        answer = self._answer()
        self._process.send_signal(signal.SIGSTOP)
        return answer

    def close(self) -> None:
        """End it."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self._process.communicate(timeout=60)
        self._errors.close()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._errors.seek(0)
            said = self._errors.read().strip().splitlines() or ["it ended without a word"]
            raise Absent(said[-1])
        answer: dict[str, Any] = json.loads(line)
        return answer
