"""pandas: `read_csv` with times parsed, then vectorised windows; a process for each core, since it reads with one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas
import series
from job import Job, Sums, over, sums_of_arrays, workers

_borders: Any = None


def _load(made: Any) -> None:
    global _borders
    _borders = np.load(made / "borders.npy")


def _one(job: Any) -> None:
    path, out = job
    table = pandas.read_csv(path, parse_dates=["time"])
    series.write({name: table[name].to_numpy() for name in table.columns[1:]}, _borders, out)


def begin(job: Job) -> Any:
    return workers(job.cores, _load, job.made)


def run(job: Job, pool: Any) -> None:
    over(pool, _one, [(path, job.out / f"{path.stem}.bin") for path in job.files])


def sums(job: Job, pool: Any) -> Sums:
    return sums_of_arrays(job.out, np.uint16)


def end(pool: Any) -> None:
    pool.terminate()
