"""Ray Data: its readers, `map_batches` with a function, `write_parquet`. Ray is started before the clock.

A function, not an actor: Ray fuses reading, mapping and writing into one task then, and actors on every core would leave
none for the readers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from engine import Engine
from job import FPS, FRAME, Job, Sums

_engines: dict[str, Engine] = {}  #: in each of Ray's processes


def _tokenize(batch: Any, made: str) -> Any:
    if made not in _engines:
        _engines[made] = Engine(Path(made)).load()
    rows = _engines[made](batch.column("text").to_pylist())
    return pa.table({"tokens": pa.array(rows, pa.list_(pa.uint16()))})


def _pictures(batch: Any) -> Any:
    from pictures import crop

    return pa.table({"pixels": pa.array([crop(data).tobytes() for data in batch.column("bytes").to_pylist()], pa.binary())})


def _frames(batch: dict[str, Any]) -> dict[str, Any]:
    from PIL import Image

    kept = [frame for frame, number in zip(batch["frame"], batch["frame_index"]) if number * FPS % 25 < FPS]
    return {"pixels": [np.asarray(Image.fromarray(f).resize(FRAME, Image.Resampling.BILINEAR)).tobytes() for f in kept]}


def begin(job: Job) -> Any:
    import logging

    import ray
    import ray.data

    here = str(Path(__file__).resolve().parent)
    ray.init(
        address="local", num_cpus=job.cores, include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": here}},
    )  # fmt: skip
    ray.data.DataContext.get_current().enable_progress_bars = False
    return ray


def run(job: Job, ray: Any) -> None:
    paths = [str(path) for path in job.files]
    if job.work == "picture":
        data = ray.data.read_binary_files(paths).map_batches(_pictures, batch_format="pyarrow", batch_size=64)
    elif job.work == "video":
        data = ray.data.read_videos(paths).map_batches(_frames, batch_size=32)
    else:
        data = ray.data.read_json(paths, lines=True).map_batches(
            _tokenize, fn_kwargs={"made": str(job.made)}, batch_format="pyarrow", batch_size=1024
        )
    data.write_parquet(str(job.out / "shards"))


def sums(job: Job, ray: Any) -> Sums:
    import pyarrow.parquet as pq

    made = Sums()
    for path in sorted((job.out / "shards").glob("*.parquet")):
        column = pq.read_table(path).column(0).combine_chunks()
        if pa.types.is_list(column.type):
            made.add(column.flatten().to_numpy())
        else:
            for row in column.to_pylist():
                made.add(np.frombuffer(row, np.uint8))
    return made


def end(ray: Any) -> None:
    ray.shutdown()
