"""The limit of pictures: Pillow's scaled decoding and its crop, in two threads (Pillow works outside the GIL), plain files."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from job import Job, Sums, sums_of_arrays
from pictures import crop


def begin(job: Job) -> Any:
    return ThreadPoolExecutor(job.cores)


def run(job: Job, pool: Any) -> None:
    with open(job.out / "pixels.bin", "wb") as out:
        for pixels in pool.map(lambda path: crop(path.read_bytes()), job.files):
            out.write(pixels.data)


def sums(job: Job, pool: Any) -> Sums:
    return sums_of_arrays(job.out, np.uint8)
