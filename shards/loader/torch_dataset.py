"""A ShardDataset for torch: an IterableDataset of dictionaries of tensors, for any number of DataLoader workers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from headrace.schemas.errors import MissingExtra

if TYPE_CHECKING:
    from headrace.shards.loader.dataset import ShardDataset


def torch_dataset(dataset: ShardDataset) -> Any:
    """`dataset` as a torch.utils.data.IterableDataset with state_dict and load_state_dict. Raises: MissingExtra."""
    try:
        import torch
    except ImportError as exc:
        raise MissingExtra("torch", "torch", need="a torch dataset") from exc
    global _TorchDataset
    if _TorchDataset is None:
        bases = (_Methods, torch.utils.data.IterableDataset)
        _TorchDataset = type("TorchShardDataset", bases, {"__module__": __name__})
    return _TorchDataset(dataset)


_TorchDataset: Any = None


class _Methods:
    def __init__(self, dataset: ShardDataset) -> None:
        self.dataset = dataset

    def __iter__(self) -> Iterator[dict[str, Any]]:
        import torch

        for batch in self.dataset:
            yield {
                name: torch.from_numpy(_owned(value)) if isinstance(value, np.ndarray) else value
                for name, value in batch.items()
            }

    def state_dict(self) -> dict[str, Any]:
        return self.dataset.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.dataset.load_state_dict(state)

    def __reduce__(self) -> tuple[Any, ...]:
        return torch_dataset, (self.dataset,)


def _owned(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Memory that may be written, and plain numbers: `samples` becomes int64 [S, 5], its fields as columns."""
    if array.dtype.names is not None:
        return np.stack([array[name].astype(np.int64) for name in array.dtype.names], axis=1)
    return array if array.flags.writeable else array.copy()
