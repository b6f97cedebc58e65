"""tifffile: the whole picture by its own threads, then tiles."""

from __future__ import annotations

from typing import Any

import numpy as np
from job import TILE, Job, Sums, sums_of_arrays


def begin(job: Job) -> Any:
    import tifffile

    return tifffile


def run(job: Job, tifffile: Any) -> None:
    values = tifffile.imread(job.files[0], maxworkers=job.cores)
    if values.shape[-1] == 4:
        values = values.transpose(2, 0, 1)
    with open(job.out / "tiles.bin", "wb") as out:
        for y in range(0, values.shape[1], TILE):
            for x in range(0, values.shape[2], TILE):
                out.write(np.ascontiguousarray(values[:, y : y + TILE, x : x + TILE]).data)


def sums(job: Job, tifffile: Any) -> Sums:
    return sums_of_arrays(job.out, np.uint16)
