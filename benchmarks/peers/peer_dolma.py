"""dolma: `dolma tokens` with a process for each core. It ends every document with an id, which `sums` takes off again."""

from __future__ import annotations

import gzip
from typing import Any

import numpy as np
from job import Job, Sums

_END = 1  #: the id it is told to end documents with


def begin(job: Job) -> Any:
    from dolma.tokenizer import tokenize_in_parallel

    return tokenize_in_parallel


def run(job: Job, tokenize: Any) -> None:
    tokenize(
        sources=[str(path) for path in job.files],
        destination=str(job.out / "tokens"),
        tokenizer_name_or_path=str(job.made / "tokenizer.json"),
        eos_token_id=_END,
        pad_token_id=0,
        num_writers=job.cores,
        num_readers=1,
        local_shuffle=1000,
        seed=1,
        dtype="uint16",
        id_field_name="id",
        id_field_type="int",
        max_size=1 << 30,
    )


def sums(job: Job, tokenize: Any) -> Sums:
    made, documents = Sums(), 0
    for path in sorted((job.out / "tokens").rglob("*.npy")):
        made.add(np.fromfile(path, np.uint16))
    for path in sorted((job.out / "tokens").rglob("*.csv.gz")):
        with gzip.open(path, "rt") as lines:
            documents += sum(1 for line in lines if line.strip())
    return Sums(made.count - documents, made.total - documents * _END)
