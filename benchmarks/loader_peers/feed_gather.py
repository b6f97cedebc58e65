"""An upper bound: rows of 2,048 gathered from a numpy memmap. Only rows move, not documents, and nothing is checked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from corpus import BATCH, LENGTH, Corpus, read
from feed import Case, loader


def write(corpus: Corpus, folder: Path) -> None:
    """Nothing: it reads the corpus itself."""


def batches(folder: Path, case: Case) -> Iterator[Any]:
    corpus = folder.parent / "corpus"
    if not case.workers:
        return made(corpus, case, 0, 1)
    from torch.utils.data import IterableDataset, get_worker_info

    class Gather(IterableDataset):
        def __iter__(self) -> Iterator[Any]:
            import torch

            info = get_worker_info()
            yield from map(torch.from_numpy, made(corpus, case, info.id, info.num_workers))

    return iter(loader(Gather(), case.workers))


def made(folder: Path, case: Case, worker: int, workers: int) -> Iterator[Any]:
    """Every `workers`-th batch."""
    rows = read(folder).tokens.reshape(-1, LENGTH)
    for seed in case.laps():
        order = np.random.default_rng(seed).permutation(len(rows)) if case.shuffle else np.arange(len(rows))
        for i in range(worker * BATCH, len(rows), workers * BATCH):
            yield rows[order[i : i + BATCH]].astype(np.int32)
