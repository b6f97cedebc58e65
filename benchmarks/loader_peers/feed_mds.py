"""mosaicml-streaming: MDS shards of rows that were cut to 2,048 when they were written, as LLM Foundry does."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from corpus import BATCH, LENGTH, Corpus
from feed import Case, by_eight, loader, stacked_tensor
from no_torchvision import stand_in

stand_in()
from streaming import MDSWriter, StreamingDataset  # noqa: E402
from streaming.base.util import clean_stale_shared_memory  # noqa: E402


def write(corpus: Corpus, folder: Path) -> None:
    with MDSWriter(out=str(folder), columns={"tokens": f"ndarray:uint16:{LENGTH}"}, hashes=["sha1"]) as out:
        for row in corpus.rows():
            out.write({"tokens": row})


def batches(folder: Path, case: Case) -> Iterator[Any]:
    gc.collect()  # an earlier dataset of this process may hold names in shared memory
    clean_stale_shared_memory()
    data = StreamingDataset(
        local=str(folder), shuffle=case.shuffle, shuffle_seed=case.seed, batch_size=BATCH, num_canonical_nodes=1
    )
    for _ in case.laps():
        if case.workers:
            yield from loader(data, case.workers, batch=BATCH, collate=_collate)
        else:
            yield from by_eight(sample["tokens"] for sample in data)


def _collate(samples: list[dict[str, Any]]) -> Any:
    return stacked_tensor([sample["tokens"] for sample in samples])
