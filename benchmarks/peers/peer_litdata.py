"""litdata: `optimize` with a worker per core, tokens in its TokensLoader's chunks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from engine import Engine
from job import Job, Sums

_BLOCK = 2048


class _Tokenize:
    def __init__(self, made: Path) -> None:
        self._engine = Engine(made)

    def __call__(self, path: str) -> Iterator[Any]:
        import torch

        with open(path, "rb") as lines:
            while some := lines.readlines(1 << 20):
                for row in self._engine([json.loads(line)["text"] for line in some]):
                    yield torch.from_numpy(np.array(row, np.uint16).view(np.int16))


def _picture(path: str) -> dict[str, Any]:
    from pictures import crop

    return {"pixels": crop(Path(path).read_bytes())}


def begin(job: Job) -> Any:
    import litdata
    import torch  # noqa: F401

    return litdata


def run(job: Job, litdata: Any) -> None:
    text = job.work != "picture"
    litdata.optimize(
        fn=_Tokenize(job.made) if text else _picture,
        inputs=[str(path) for path in job.files],
        output_dir=str(job.out / "shards"),
        chunk_bytes="64MB",
        num_workers=job.cores,
        item_loader=litdata.TokensLoader(block_size=_BLOCK) if text else None,
        verbose=False,
    )


def sums(job: Job, litdata: Any) -> Sums:
    made = Sums()
    if job.work == "picture":
        for sample in litdata.StreamingDataset(str(job.out / "shards")):
            made.add(sample["pixels"])
        return made
    for chunk in json.loads((job.out / "shards/index.json").read_text())["chunks"]:
        data = (job.out / "shards" / chunk["filename"]).read_bytes()
        items = int(np.frombuffer(data, "<u4", 1)[0])  # a count, offsets of the items and their end, then the items
        offsets = np.frombuffer(data, "<u4", items + 1, 4)
        made.add(np.frombuffer(data[int(offsets[0]) : int(offsets[-1])], np.uint16))
    return made
