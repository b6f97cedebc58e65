"""What a contender is: a module with two functions, and the case it is asked for.

    write(corpus, folder)          the corpus in its own format, by its own writer
    batches(folder, case)          what its users would write to get batches of `BATCH` rows of `LENGTH` tokens

A batch is a dictionary, or the tokens alone: int32 of [8, 2048], numpy without workers and torch with them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from corpus import BATCH


@dataclass(frozen=True)
class Case:
    """shuffle: a new order every pass. workers: DataLoader processes. every: all outputs, not only tokens. passes:
    over the corpus; None without end. window_mib: of headrace, what is shuffled together."""

    shuffle: bool = False
    workers: int = 0
    every: bool = False
    passes: int | None = None
    seed: int = 1
    window_mib: int = 256

    def laps(self) -> Iterator[int]:
        """A seed for every pass."""
        lap = 0
        while self.passes is None or lap < self.passes:
            yield self.seed + lap
            lap += 1


def stacked(rows: Sequence[Any]) -> Any:
    """Rows of any dtype → int32 numpy [rows, LENGTH]."""
    return np.stack(rows, dtype=np.int32, casting="unsafe")


def stacked_tensor(rows: Sequence[Any]) -> Any:
    """The same as a tensor: for DataLoader's `collate_fn`."""
    import torch

    return torch.from_numpy(stacked(rows))


def by_eight(rows: Iterator[Any]) -> Iterator[Any]:
    """Batches of rows that come one by one."""
    held: list[Any] = []
    for row in rows:
        held.append(row)
        if len(held) == BATCH:
            yield stacked(held)
            held = []


def loader(dataset: Any, workers: int, *, batch: int | None = None, collate: Callable[..., Any] | None = None) -> Any:
    """A DataLoader as the documentation of PyTorch has it. batch None: the dataset gives whole batches."""
    from torch.utils.data import DataLoader

    return DataLoader(dataset, batch_size=batch, num_workers=workers, collate_fn=collate, drop_last=batch is not None)
