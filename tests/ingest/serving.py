"""A real `headrace serve` process for tests: started, looked at through its API, killed, drained."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from headrace.shards.dataset import Dataset
from headrace.shards.verify import Report, verify

HEADRACE = [sys.executable, "-m", "headrace"]


class Serving:
    """One service; as a context manager it is ended however the test ends."""

    def __init__(self, pipeline: str, folder: Path, *, engine: str = "inline", workers: int = 1) -> None:
        self.folder = folder
        self.out = folder / "out"
        self.pipeline = folder / "pipeline.yaml"
        self.pipeline.write_text(pipeline)
        self._options = ["--engine", engine, "--workers", str(workers), "--listen", "127.0.0.1:0", "--json"]
        self.process: subprocess.Popen[bytes] | None = None
        self._starts = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    @property
    def log(self) -> Path:
        """Where the last process wrote."""
        return self.folder / f"serve-{self._starts}.log"

    def start(self, *more: str) -> Self:
        """Start it, again perhaps."""
        self._starts += 1
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [*HEADRACE, "serve", str(self.pipeline), "--out", str(self.out), *self._options, *more],
                stdout=log, stderr=log, env={**os.environ, "PYTHONUNBUFFERED": "1"}, start_new_session=True,
            )  # fmt: skip
        return self

    def kill(self) -> None:
        """SIGKILL; its children notice by themselves."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def drain(self, timeout: float = 60) -> int:
        """SIGTERM; gives back the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)

    def ask(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Another `headrace` command."""
        return subprocess.run([*HEADRACE, *arguments], capture_output=True, text=True, timeout=60, check=False)

    def status(self) -> dict[str, Any] | None:
        """What it says of itself, or None while it does not answer."""
        told = self.ask("status", str(self.out), "--json")
        return json.loads(told.stdout) if told.returncode == 0 else None

    def stream(self, name: str) -> dict[str, Any]:
        """The status of one stream; empty while there is none."""
        status = self.status()
        return next((s for s in status["streams"] if s["name"] == name), {}) if status else {}

    def children(self) -> list[int]:
        """Its decoding processes."""
        assert self.process is not None
        out = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                    words = (entry / "cmdline").read_bytes()
                except OSError:
                    continue
                if parent == self.process.pid and b"headrace.ingest.child" in words:
                    out.append(int(entry.name))
        return out

    def samples(self, stream: str) -> int:
        """Committed samples, by the log alone."""
        try:
            dataset = Dataset.open(str(self.out))
        except Exception:
            return 0
        counts = dataset.state.streams.get(stream)
        return counts.samples if counts else 0

    def wait(self, done: Callable[[], bool], seconds: float = 60, what: str = "") -> None:
        """Until `done`, or the test fails with the end of the log."""
        end = time.monotonic() + seconds
        while not done():
            assert self.process is not None
            if time.monotonic() > end:
                raise AssertionError(f"{what or 'it'} did not come within {seconds} s:\n{self.said()}")
            if self.process.poll() is not None:
                raise AssertionError(f"the service ended with {self.process.returncode}:\n{self.said()}")
            time.sleep(0.1)

    def said(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-3000:]

    def checked(self) -> tuple[Dataset, Report]:
        """The dataset, after `verify` found nothing and the books balance."""
        dataset = Dataset.open(str(self.out))
        report = verify(dataset)
        assert report.problems == []
        return dataset, report

    def column(self, stream: str, name: str) -> list[Any]:
        """A column of all samples."""
        dataset = Dataset.open(str(self.out))
        return [v for batch in dataset.batches(stream) for v in batch.column(name).to_pylist()]
