"""Daft: files listed and read by it, a function over each, Parquet written; its runner has a thread for each core."""

from __future__ import annotations

from typing import Any

import numpy as np
from job import Job, Sums


def begin(job: Job) -> Any:
    import daft
    import pictures

    return daft, pictures


def run(job: Job, state: Any) -> None:
    daft, pictures = state

    @daft.func(return_dtype=daft.DataType.binary())
    def crop(data: bytes):  # type: ignore[no-untyped-def]  # Daft reads annotations
        return pictures.crop(data).tobytes()

    files = daft.from_glob_path(f"{job.source}/*.jpg")
    files.select(crop(files["path"].download()).alias("pixels")).write_parquet(str(job.out / "shards"))


def sums(job: Job, state: Any) -> Sums:
    import pyarrow.parquet as pq

    made = Sums()
    for path in sorted((job.out / "shards").glob("*.parquet")):
        for row in pq.read_table(path).column(0).to_pylist():
            made.add(np.frombuffer(row, np.uint8))
    return made
