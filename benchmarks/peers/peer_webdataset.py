"""webdataset: its ShardWriter, in one process, as in its documentation."""

from __future__ import annotations

from typing import Any

import numpy as np
from job import Job, Sums


def begin(job: Job) -> Any:
    import pictures
    import webdataset

    return webdataset, pictures


def run(job: Job, state: Any) -> None:
    webdataset, pictures = state
    with webdataset.ShardWriter(f"{job.out}/%05d.tar", maxcount=1000, verbose=0) as out:
        for path in job.files:
            out.write({"__key__": path.stem, "bin": pictures.crop(path.read_bytes()).tobytes()})


def sums(job: Job, state: Any) -> Sums:
    webdataset, _ = state
    made = Sums()
    for sample in webdataset.WebDataset(sorted(map(str, job.out.glob("*.tar"))), shardshuffle=False):
        made.add(np.frombuffer(sample["bin"], np.uint8))
    return made
