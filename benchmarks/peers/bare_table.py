"""The limit of tables: a process for each core reads files with pyarrow's CSV reader, then vectorised windows."""

from __future__ import annotations

from typing import Any

import numpy as np
import series
from job import Job, Sums, over, sums_of_arrays, workers
from pyarrow import csv

_borders: Any = None


def _load(made: Any) -> None:
    global _borders
    _borders = np.load(made / "borders.npy")


def _one(job: Any) -> None:
    path, out = job
    table = csv.read_csv(path, csv.ReadOptions(use_threads=False))
    columns = {
        name: np.frombuffer(table.column(name).combine_chunks().buffers()[1], np.float64)
        for name in table.column_names[1:]
    }
    series.write(columns, _borders, out)


def begin(job: Job) -> Any:
    return workers(job.cores, _load, job.made)


def run(job: Job, pool: Any) -> None:
    over(pool, _one, [(path, job.out / f"{path.stem}.bin") for path in job.files])


def sums(job: Job, pool: Any) -> Sums:
    return sums_of_arrays(job.out, np.uint16)


def end(pool: Any) -> None:
    pool.terminate()
