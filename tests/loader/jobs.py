"""Training jobs of several processes that tests start, kill, and resume from what they wrote."""

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

from headrace.schemas.record import list_views
from headrace.shards.dataset import Dataset

from .worlds import through_json

TRAINER = Path(__file__).with_name("trainer.py")


class Job:
    """One job: its ranks come and go; `rows` is what was trained on, by sequence number."""

    def __init__(self, dataset: str, folder: Path, **settings: Any) -> None:
        self.dataset, self.folder, self.settings = dataset, folder, settings
        self.rows: dict[int, list[list[int]]] = {}
        self.state: dict[str, Any] | None = None
        self.ended = False
        self._running: list[tuple[subprocess.Popen[bytes], Path, int]] = []
        self._starts = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process, _, _ in self._running:
            process.kill()
            process.wait()

    def start(self, world: int, batch: int, *, workers: int | None = None, pause_s: float = 0) -> None:
        """Start all ranks from the state."""
        self._starts += 1
        self.folder.mkdir(exist_ok=True)
        for rank in range(world):
            log = self.folder / f"{self._starts}-{rank}.jsonl"
            settings = {**self.settings, "rank": rank, "world_size": world, "batch_size": batch}
            told = {
                "dataset": self.dataset, "log": str(log), "state": self.state, "settings": settings,
                "workers": workers, "pause_s": pause_s,
            }  # fmt: skip
            with open(log.with_suffix(".err"), "wb") as err:
                command = [sys.executable, str(TRAINER), json.dumps(told)]
                self._running.append((subprocess.Popen(command, stderr=err), log, batch))

    @property
    def processes(self) -> list[subprocess.Popen[bytes]]:
        return [process for process, _, _ in self._running]

    def lines(self) -> list[list[dict[str, Any]]]:
        """What each running rank wrote."""
        told = []
        for _, log, _ in self._running:
            text = log.read_text() if log.exists() else ""
            told.append([json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")])
        return told

    def wait(self, done: Callable[[], bool], seconds: float = 120) -> None:
        """Until `done`; an error of a rank fails the test."""
        end = time.monotonic() + seconds
        while not done():
            for process, log, _ in self._running:
                assert process.poll() in (None, 0), log.with_suffix(".err").read_text()[-3000:]
            assert time.monotonic() < end, [len(lines) for lines in self.lines()]
            time.sleep(0.03)

    def kill(self) -> None:
        """SIGKILL to all ranks; what every rank had saved counts, the rest never happened."""
        for process, _, _ in self._running:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        self.collect()

    def finish(self, seconds: float = 120) -> None:
        """Wait for the end of the data."""
        self.wait(lambda: all(lines and "end" in lines[-1] for lines in self.lines()), seconds)
        for process in self.processes:
            assert process.wait(20) == 0
        self.ended = True
        self.collect()

    def collect(self) -> None:
        """Take what the ranks wrote."""
        told = [[line for line in lines if "end" not in line] for lines in self.lines()]
        self._running, running = [], self._running
        if not all(told):
            return  # one rank had no batch yet: the job goes on from where it was
        saved = min(lines[-1]["state"]["g"] for lines in told)
        length = self.settings["length"]
        for lines, (_, _, batch) in zip(told, running):
            for line in lines:
                if line["state"]["g"] > saved:
                    continue
                for i in range(batch):
                    assert line["g"] + i not in self.rows, "a sequence was read twice"
                    self.rows[line["g"] + i] = []
                for *address, at, count in line["samples"]:
                    tokens = line["tokens"][at // length][at % length : at % length + count]
                    self.rows[line["g"] + at // length].append([*address, count, *tokens])
                if line["state"]["g"] == saved:
                    self.state = through_json(line["state"])

    def check_each_sample_once(self) -> int:
        """Against the dataset as it is now; gives back how many samples."""
        assert sorted(self.rows) == list(range(len(self.rows)))
        streams = sorted(Dataset.open(self.dataset).state.settings)
        seen: dict[tuple[str, int, int], dict[int, list[int]]] = {}
        for row in self.rows.values():
            for _, stream, lane, seq, offset, count, *tokens in row:
                if seq >= 0:
                    assert len(tokens) == count
                    parts = seen.setdefault((streams[stream], lane, seq), {})
                    assert offset not in parts, "doubled"
                    parts[offset] = tokens
        dataset, found = Dataset.open(self.dataset), 0
        for name in streams:
            for block in dataset.located(name):
                for seq, body in zip(block.seqs.tolist(), list_views(block.batch, "tokens")):
                    parts = seen.pop((name, block.shard.lane, seq), {})
                    assert [t for _, part in sorted(parts.items()) for t in part] == body.tolist(), (name, seq)
                    found += 1
        assert not seen
        return found
