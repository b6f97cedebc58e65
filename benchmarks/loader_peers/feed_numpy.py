"""The bare side: a numpy memmap and what one would write around it, with no checks and no state.

Sequential: slices of the file. Shuffled: documents permuted, laid end to end and cut, as headrace does, by the fastest way
known to us: joining slices of a memoryview takes half the time of np.concatenate, an eighth of gathering by index. `every`: targets, loss mask, position ids and cu_seqlens too.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from corpus import BATCH, LENGTH, Corpus, read
from feed import Case, loader

STEP = BATCH * LENGTH


def write(corpus: Corpus, folder: Path) -> None:
    """Nothing: it reads the corpus itself."""


def batches(folder: Path, case: Case) -> Iterator[Any]:
    corpus = folder.parent / "corpus"
    if not case.workers:
        return made(corpus, case, 0, 1)
    from torch.utils.data import IterableDataset, get_worker_info

    class Bare(IterableDataset):
        def __iter__(self) -> Iterator[Any]:
            import torch

            info = get_worker_info()
            for batch in made(corpus, case, info.id, info.num_workers):
                yield {name: torch.from_numpy(array) for name, array in batch.items()}

    return iter(loader(Bare(), case.workers))


def made(folder: Path, case: Case, worker: int, workers: int) -> Iterator[dict[str, Any]]:
    """Every `workers`-th batch."""
    corpus = read(folder)
    lengths = np.diff(corpus.ends, prepend=0)
    starts = corpus.ends - lengths
    raw = corpus.tokens.view(np.uint8).data
    for seed in case.laps():
        order = np.random.default_rng(seed).permutation(len(lengths)) if case.shuffle else None
        ends = corpus.ends if order is None else np.cumsum(lengths[order])
        for low in range(worker * STEP, int(ends[-1]) - STEP + 1, workers * STEP):
            first, last = np.searchsorted(ends, (low, low + STEP), side="right")
            if order is None:
                tokens = corpus.tokens[low : low + STEP].astype(np.int32)
            else:
                chosen = order[first : last + 1]
                begin, end = starts[chosen], starts[chosen] + lengths[chosen]
                begin[0] += low - (ends[first] - lengths[chosen[0]])
                if last < len(order):
                    end[-1] -= ends[last] - (low + STEP)
                parts = [raw[a:b] for a, b in zip((begin * 2).tolist(), (end * 2).tolist())]
                tokens = np.frombuffer(b"".join(parts), np.uint16).astype(np.int32)
            batch = {"tokens": tokens.reshape(BATCH, LENGTH)}
            if case.every:
                batch |= _others(corpus, tokens, ends, order, starts, low, int(first), int(last))
            yield batch


def _others(
    corpus: Corpus, tokens: Any, ends: Any, order: Any, starts: Any, low: int, first: int, last: int
) -> dict[str, Any]:
    borders = ends[first:last] - low  # where documents end within the batch
    edges = np.unique(np.concatenate([np.arange(0, STEP + 1, LENGTH), borders])).astype(np.int32)
    targets = np.empty(STEP, np.int32)
    targets[:-1] = tokens[1:]
    mask = np.ones(STEP, np.bool_)
    mask[borders - 1] = False
    targets[borders - 1] = -100
    if mask[-1]:  # the document goes on in the next batch
        where = low + STEP
        if order is not None:
            document = order[last]
            where = starts[document] + where - (ends[last - 1] if last else 0)
        targets[-1] = corpus.tokens[where]
    positions = np.arange(STEP, dtype=np.int32) - np.repeat(edges[:-1], np.diff(edges))
    shape = (BATCH, LENGTH)
    return {
        "targets": targets.reshape(shape),
        "loss_mask": mask.reshape(shape),
        "position_ids": positions.reshape(shape),
        "cu_seqlens": edges,
    }
