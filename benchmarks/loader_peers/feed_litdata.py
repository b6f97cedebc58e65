"""litdata: token chunks and its TokensLoader, which cuts blocks of 2,048 from them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from corpus import BATCH, LENGTH, Corpus
from feed import Case, by_eight, stacked_tensor
from litdata import StreamingDataLoader, StreamingDataset, TokensLoader
from litdata.streaming.cache import Cache


def write(corpus: Corpus, folder: Path) -> None:
    folder.mkdir()
    cache = Cache(str(folder), chunk_bytes="64MB", item_loader=TokensLoader(block_size=LENGTH))
    for i, row in enumerate(corpus.rows()):
        cache[i] = torch.from_numpy(row.copy())
    cache.done()
    cache.merge()


def batches(folder: Path, case: Case) -> Iterator[Any]:
    for seed in case.laps():
        data = StreamingDataset(
            str(folder), item_loader=TokensLoader(block_size=LENGTH), shuffle=case.shuffle, seed=seed
        )
        if case.workers:
            yield from StreamingDataLoader(
                data, batch_size=BATCH, num_workers=case.workers, collate_fn=stacked_tensor, drop_last=True
            )
        else:
            yield from by_eight(data)
