"""headrace: `build` inline with two workers. Its clock runs from the first read of a lane to the last commit of one."""

from __future__ import annotations

import shutil
from typing import Any

import numpy as np
import works
from job import Job, Sums
from media_race import LaneClock

from headrace.ingest.build import build
from headrace.ingest.pipeline_file import make_pipeline
from headrace.schemas.record import list_views, payload_views
from headrace.shards.dataset import Dataset


def begin(job: Job) -> Any:
    if (job.made / "fitted").exists():  # the tokenizer was fitted once, as for everybody
        shutil.copytree(job.made / "fitted", job.out / "dataset")
    return make_pipeline(works.WORKS[job.work].pipeline(job.source), base=job.made), LaneClock()


def run(job: Job, state: Any) -> float:
    pipeline, clock = state
    clock.start()
    build(pipeline, str(job.out / "dataset"), base=job.made, workers=job.cores, engine="inline")
    return clock.seconds()


def sums(job: Job, state: Any) -> Sums:
    made = Sums()
    for batch in Dataset.open(str(job.out / "dataset")).batches("work"):
        if "tokens" in batch.schema.names:
            for tokens in list_views(batch, "tokens"):
                made.add(tokens)
        else:
            for pixels in payload_views(batch):
                made.add(np.asarray(pixels))
    return made
