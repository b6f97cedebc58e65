"""Run by test_export_resume.py as its own process: exports that are killed at a chosen step, and then run again.

    export_killing.py DATASET OUT KILLS TARGET:SIZE …      prints the digest of the finished export after each kill

A step is a call that opens a file, makes it durable, or gives it its name. The kills are spread over all steps of an
unbroken run; for each a child is forked and killed before that step, and the next child finishes the work.
"""

from __future__ import annotations

import builtins
import hashlib
import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pyarrow.compute
import pyarrow.parquet  # noqa: F401

from headrace.shards.dataset import Dataset
from headrace.shards.exports import megatron
from headrace.shards.exports.export import export
from headrace.shards.exports.options import ExportOptions
from headrace.shards.store_local import LocalStore


class Countdown:
    """Kills this process at step number `at`; without one it counts."""

    def __init__(self, at: int | None) -> None:
        self.at, self.steps = at, 0
        for name in ("fsync", "replace"):
            setattr(os, name, self._counted(getattr(os, name)))
        opened = builtins.open

        def counted_open(*arguments: Any, **options: Any) -> Any:
            self.step()
            return opened(*arguments, **options)

        builtins.open = counted_open  # type: ignore[assignment]

    def _counted(self, call: Any) -> Any:
        def counted(*arguments: Any) -> Any:
            self.step()
            return call(*arguments)

        return counted

    def step(self) -> None:
        self.steps += 1
        if self.at is not None and self.steps > self.at:
            os.kill(os.getpid(), signal.SIGKILL)


def child(dataset: str, out: Path, options: ExportOptions, at: int | None = None, count: Path | None = None) -> int:
    """Export in a child that dies at step `at`. Returns its status, -9 if it was killed; `count` gets its steps."""
    pid = os.fork()
    if pid == 0:
        megatron.SEGMENT_BYTES = 500
        countdown = Countdown(at)
        export(Dataset(LocalStore(dataset)), out, options)
        if count is not None:
            count.write_text(str(countdown.steps))
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def digest(folder: Path) -> str:
    """Of all files of a folder, names included."""
    state = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            state.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes())
    return state.hexdigest()


def main() -> None:
    dataset, out, kills = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    steps, results = out.with_suffix(".steps"), []
    for asked in sys.argv[4:]:
        target, _, size = asked.partition(":")
        options = ExportOptions(to=target, max_shard_bytes=int(size) or None, eod=7)  # type: ignore[arg-type]
        results.append({"run": asked, "codes": [-9, child(dataset, out, options, count=steps)], "digest": digest(out)})
        total = int(steps.read_text())
        for n in range(kills):
            at = (2 * n + 1) * total // (2 * kills)
            shutil.rmtree(out)
            code = child(dataset, out, options, at)
            if n % 2:  # a second death, in the run that goes on
                child(dataset, out, options, at % 17 + 9)
            results.append({"run": asked, "codes": [code, child(dataset, out, options)], "digest": digest(out)})
        shutil.rmtree(out)
    sys.stdout.write(json.dumps(results) + "\n")


if __name__ == "__main__":
    main()
