"""mosaicml-streaming: an MDSWriter in each of two processes over half of the files, as its guide to parallel writing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from engine import Engine
from job import Job, Sums, workers
from no_torchvision import stand_in

_engine: Any = None


def _load(made: Path) -> None:
    global _engine
    if any(made.iterdir()):
        _engine = Engine(made).load()


def _texts(job: tuple[list[Path], Path]) -> None:
    from streaming import MDSWriter

    files, out = job
    with MDSWriter(out=str(out), columns={"tokens": "ndarray:uint16"}, hashes=["sha1"]) as writer:
        for path in files:
            with open(path, "rb") as lines:
                while some := lines.readlines(1 << 20):
                    for row in _engine([json.loads(line)["text"] for line in some]):
                        writer.write({"tokens": np.array(row, np.uint16)})


def _pictures(job: tuple[list[Path], Path]) -> None:
    from pictures import crop
    from streaming import MDSWriter

    files, out = job
    with MDSWriter(out=str(out), columns={"pixels": "ndarray:uint8:224,224,3"}, hashes=["sha1"]) as writer:
        for path in files:
            writer.write({"pixels": crop(path.read_bytes())})


def begin(job: Job) -> Any:
    stand_in()
    import streaming  # noqa: F401

    if job.work == "picture":
        import pictures  # noqa: F401
    return workers(job.cores, _load, job.made)


def run(job: Job, pool: Any) -> None:
    function = _pictures if job.work == "picture" else _texts
    pool.map(function, [(job.files[i :: job.cores], job.out / f"shards{i}") for i in range(job.cores)], chunksize=1)


def sums(job: Job, pool: Any) -> Sums:
    from streaming import StreamingDataset
    from streaming.base.util import clean_stale_shared_memory

    clean_stale_shared_memory()
    made = Sums()
    for folder in sorted(job.out.glob("shards*")):
        for sample in StreamingDataset(local=str(folder), batch_size=1, shuffle=False):
            (values,) = sample.values()
            made.add(values)
    return made


def end(pool: Any) -> None:
    pool.terminate()
