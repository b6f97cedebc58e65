"""The loop that one writes with the SentencePiece library: lines, its batch encoding, two processes, plain files of ids."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import sentencepiece
from job import Job, Sums, over, sums_of_arrays, workers

_processor: Any = None


def _load(made: Path) -> None:
    global _processor
    _processor = sentencepiece.SentencePieceProcessor(model_file=str(made / "tokenizer.model"))


def _encode(job: tuple[Path, Path]) -> None:
    source, out = job
    with open(source, "rb") as lines, open(out, "wb") as ids:
        while some := lines.readlines(1 << 20):
            rows = _processor.encode([orjson.loads(line)["text"] for line in some], num_threads=1)
            ids.write(np.fromiter(itertools.chain.from_iterable(rows), np.uint16).tobytes())


def begin(job: Job) -> Any:
    return workers(job.cores, _load, job.made)


def run(job: Job, pool: Any) -> None:
    over(pool, _encode, [(path, job.out / f"{path.stem}.bin") for path in job.files])


def sums(job: Job, pool: Any) -> Sums:
    return sums_of_arrays(job.out, "<u2")


def end(pool: Any) -> None:
    pool.terminate()
