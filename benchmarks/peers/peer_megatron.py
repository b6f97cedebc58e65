"""Megatron: `tools/preprocess_data.py` as it stands: a pool that tokenizes lines, and one process that adds them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from engine import Engine
from job import Job, Sums, workers

_engine: Any = None
_CHUNK = 32  # lines handed to a process at once; the script's own number


def _load(made: Path) -> None:
    global _engine
    _engine = Engine(made).load()


def _encode(line: str) -> tuple[list[int], list[int]]:
    ids = _engine([json.loads(line)["text"]])[0]
    return ids, [len(ids)]


def begin(job: Job) -> Any:
    import torch  # noqa: F401
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

    return workers(job.cores, _load, job.made), IndexedDatasetBuilder(str(job.out / "text.bin"), dtype=np.uint16)


def run(job: Job, state: Any) -> None:
    pool, builder = state
    for path in job.files:
        with open(path, encoding="utf-8") as lines:
            for ids, lengths in pool.imap(_encode, lines, _CHUNK):
                builder.add_document(ids, lengths)
    builder.finalize(str(job.out / "text.idx"))


def sums(job: Job, state: Any) -> Sums:
    from megatron.core.datasets.indexed_dataset import IndexedDataset

    data, made = IndexedDataset(str(job.out / "text")), Sums()
    for i in range(len(data)):
        made.add(data[i])
    return made


def end(state: Any) -> None:
    state[0].terminate()
