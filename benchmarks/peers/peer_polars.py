"""polars: `read_csv` with its own threads, times parsed, then vectorised windows."""

from __future__ import annotations

from typing import Any

import numpy as np
import series
from job import Job, Sums, sums_of_arrays


def begin(job: Job) -> Any:
    import polars

    return polars, np.load(job.made / "borders.npy")


def run(job: Job, state: Any) -> None:
    polars, borders = state
    for path in job.files:
        table = polars.read_csv(path, try_parse_dates=True)
        columns = {name: table[name].to_numpy() for name in table.columns[1:]}
        series.write(columns, borders, job.out / f"{path.stem}.bin")


def sums(job: Job, state: Any) -> Sums:
    return sums_of_arrays(job.out, np.uint16)
