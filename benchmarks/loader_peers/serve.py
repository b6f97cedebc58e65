"""One contender as a process: serve.py NAME FOLDER, requests as JSON lines in, answers out. Imports come first, untimed.

    {"do": "write"}                                     corpus → its own format
    {"do": "check", "every": false}                     sums of one pass in order, and of one shuffled; of all outputs
    {"do": "run", "seconds": 2, "case": {…}}            tokens and seconds after the first batch, and what that took

What libraries print goes to stderr.
"""

from __future__ import annotations

import importlib
import itertools
import json
import os
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from corpus import BATCH, LENGTH, Sums, read
from feed import Case

_AT_ONCE = 16  # batches between two looks at the clock
_COMPARED = 500  # batches whose outputs are compared: less than a window, at whose end headrace pads


def main() -> None:
    """Serve until stdin ends."""
    name, folder = sys.argv[1], Path(sys.argv[2])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    feed = importlib.import_module(f"feed_{name}")
    data = folder / name
    _answer(answers, {"ready": _memory()})
    for line in sys.stdin:
        request = json.loads(line)
        match request["do"]:
            case "write":
                began = time.perf_counter()
                if not data.exists():
                    feed.write(read(folder / "corpus"), data)
                _answer(answers, {"seconds": time.perf_counter() - began})
            case "check":
                sums = {"ordered": _sums(feed, data, False), "shuffled": _sums(feed, data, True)}
                _answer(answers, {**sums, "outputs": _outputs(feed, data) if request["every"] else None})
            case "run":
                _answer(answers, _run(feed, data, Case(**request["case"]), request["seconds"]))


def _answer(answers: Any, value: dict[str, Any]) -> None:
    answers.write(json.dumps(value) + "\n")
    answers.flush()


def _tokens(batch: Any) -> Any:
    return batch["tokens"] if isinstance(batch, dict) else batch


def _sums(feed: Any, data: Path, shuffle: bool) -> list[int]:
    sums = Sums()
    for batch in feed.batches(data, Case(shuffle=shuffle, passes=1)):
        sums.add(np.asarray(_tokens(batch)).reshape(-1))
    return [sums.count, sums.total, sums.crc]


def _outputs(feed: Any, data: Path) -> dict[str, int]:
    """CRC-32 of every output of the first batches in order."""
    sums: dict[str, int] = {}
    for batch in itertools.islice(feed.batches(data, Case(every=True)), _COMPARED):
        for name in ("tokens", "targets", "loss_mask", "position_ids", "cu_seqlens"):
            sums[name] = zlib.crc32(np.ascontiguousarray(batch[name]).tobytes(), sums.get(name, 0))
    return sums


def _run(feed: Any, data: Path, case: Case, seconds: float) -> dict[str, Any]:
    if case.workers:
        import torch.utils.data  # noqa: F401  before the clock, as all imports
    began, first_cpu = time.perf_counter(), time.process_time()
    batches = feed.batches(data, case)
    first = _tokens(next(batches))
    first_s, first_cpu = time.perf_counter() - began, time.process_time() - first_cpu
    if tuple(first.shape) != (BATCH, LENGTH) or not str(first.dtype).endswith("int32"):
        raise TypeError(f"a batch of {first.dtype} {tuple(first.shape)}, not of int32 {(BATCH, LENGTH)}")
    count, start, cpu = 0, time.perf_counter(), time.process_time()
    while (spent := time.perf_counter() - start) < seconds:
        for _ in range(_AT_ONCE):
            next(batches)
        count += _AT_ONCE
    cpu = time.process_time() - cpu
    memory = _memory()
    del batches, first
    told = {"tokens": count * BATCH * LENGTH, "seconds": spent, "cpu": cpu, "first_s": first_s, "first_cpu": first_cpu}
    return {**told, **memory}


def _memory() -> dict[str, float]:
    """MB of this process: the most it ever had resident, and what of it now is its own (not pages of mapped files)."""
    told = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {f"{name}_mb": int(told[key].split()[0]) * 1.024e-3 for name, key in (("peak", "VmHWM"), ("own", "RssAnon"))}


if __name__ == "__main__":
    main()
