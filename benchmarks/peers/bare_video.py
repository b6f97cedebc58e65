"""The limit of video: PyAV decodes each clip from end to end, frames that are due are scaled; a process for each core."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from job import FPS, FRAME, Job, Sums, over, sums_of_arrays, workers


def _load() -> None:
    """The imports are all."""


def _decode(job: tuple[Path, Path]) -> None:
    source, out = job
    with av.open(str(source), format="mp4") as container, open(out, "wb") as pixels:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        due = Fraction(0)
        for frame in container.decode(stream):
            if frame.pts * stream.time_base >= due:
                due += Fraction(1, FPS)
                pixels.write(np.ascontiguousarray(frame.reformat(*FRAME, "rgb24").to_ndarray()).data)


def begin(job: Job) -> Any:
    return workers(job.cores, _load)


def run(job: Job, pool: Any) -> None:
    over(pool, _decode, [(path, job.out / f"{path.stem}.bin") for path in job.files])


def sums(job: Job, pool: Any) -> Sums:
    return sums_of_arrays(job.out, np.uint8)


def end(pool: Any) -> None:
    pool.terminate()
