"""webdataset: tar files of rows of 2,048 tokens; shuffled by shard and in a buffer of 1,000, as its manual does."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import webdataset as wds
from corpus import BATCH, Corpus
from feed import Case, loader, stacked, stacked_tensor

_ROWS = 8192  # in a tar file


def write(corpus: Corpus, folder: Path) -> None:
    folder.mkdir()
    with wds.ShardWriter(f"{folder}/%05d.tar", maxcount=_ROWS, verbose=0) as out:
        for i, row in enumerate(corpus.rows()):
            out.write({"__key__": f"{i:09d}", "bin": row.tobytes()})


def batches(folder: Path, case: Case) -> Iterator[Any]:
    files = sorted(map(str, folder.glob("*.tar")))
    for seed in case.laps():
        data = wds.WebDataset(files, shardshuffle=len(files) if case.shuffle else False, seed=seed)
        if case.shuffle:
            data = data.shuffle(1000, rng=random.Random(seed))
        data = data.map(_decoded).batched(BATCH, collation_fn=stacked_tensor if case.workers else stacked)
        yield from loader(data, case.workers) if case.workers else data


def _decoded(sample: dict[str, Any]) -> Any:
    return np.frombuffer(sample["bin"], np.uint16)
