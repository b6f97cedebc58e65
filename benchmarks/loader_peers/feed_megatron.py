"""megatron-core: an IndexedDataset of documents, packed as Megatron's GPTDataset packs them.

Documents are permuted and laid end to end, an index says where each row of 2,048 begins, and the rows are permuted
again; a row is made of one `IndexedDataset.get` for each piece of a document.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from corpus import BATCH, LENGTH, Corpus
from feed import Case, by_eight, loader, stacked_tensor
from megatron.core.datasets.indexed_dataset import IndexedDataset, IndexedDatasetBuilder


def write(corpus: Corpus, folder: Path) -> None:
    folder.mkdir()
    builder = IndexedDatasetBuilder(str(folder / "text.bin"), dtype=np.uint16)
    for document in corpus.documents():
        builder.add_document(torch.from_numpy(document.astype(np.int32)), [len(document)])
    builder.finalize(str(folder / "text.idx"))


class Packed(torch.utils.data.Dataset):
    """One pass: row i of it, in the order of the pass."""

    def __init__(self, indexed: IndexedDataset, shuffle: bool, seed: int) -> None:
        lengths = np.asarray(indexed.sequence_lengths, np.int64)
        rng = np.random.default_rng(seed)
        self.indexed = indexed
        self.order = rng.permutation(len(lengths)) if shuffle else np.arange(len(lengths))
        ends = np.cumsum(lengths[self.order])
        low = np.arange(0, int(ends[-1]), LENGTH)
        self.first = np.searchsorted(ends, low, side="right")
        self.offset = low - np.append(0, ends)[self.first]
        self.lengths = lengths
        self.turn = rng.permutation(len(low)) if shuffle else np.arange(len(low))

    def __len__(self) -> int:
        return len(self.turn)

    def __getitem__(self, i: int) -> Any:
        row = self.turn[i]
        place, offset, left = self.first[row], int(self.offset[row]), LENGTH
        parts = []
        while left:
            document = self.order[place]
            size = min(int(self.lengths[document]) - offset, left)
            parts.append(self.indexed.get(document, offset=offset, length=size))
            place, offset, left = place + 1, 0, left - size
        return np.concatenate(parts) if len(parts) > 1 else parts[0]


def batches(folder: Path, case: Case) -> Iterator[Any]:
    indexed = IndexedDataset(str(folder / "text"))
    for seed in case.laps():
        data = Packed(indexed, case.shuffle, seed)
        if case.workers:
            yield from loader(data, case.workers, batch=BATCH, collate=stacked_tensor)
        else:
            yield from by_eight(data[i] for i in range(len(data)))
