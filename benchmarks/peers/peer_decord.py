"""decord: frames by number, scaled by its reader; a thread for each clip, as many as cores."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from job import FPS, FRAME, Job, Sums, sums_of_arrays


def begin(job: Job) -> Any:
    import decord

    return decord


def run(job: Job, decord: Any) -> None:
    threads = max(1, job.cores // len(job.files))  # one long film gets all cores

    def clip(path: Path) -> None:
        reader = decord.VideoReader(str(path), width=FRAME[0], height=FRAME[1], num_threads=threads)
        rate = reader.get_avg_fps()
        due = np.arange(0, len(reader) / rate * FPS) / FPS
        frames = reader.get_batch(np.ceil(due * rate - 1e-6).astype(int).tolist())
        frames.asnumpy().tofile(job.out / f"{path.stem}.bin")

    with ThreadPoolExecutor(job.cores) as pool:
        list(pool.map(clip, job.files))


def sums(job: Job, decord: Any) -> Sums:
    return sums_of_arrays(job.out, np.uint8)
