"""torchdata's StatefulDataLoader: its own checkpoints, in the middle of an epoch, resume exactly."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from headrace.shards.loader.dataset import ShardDataset

from .worlds import World, rows_of, whole

pytestmark = pytest.mark.filterwarnings("ignore:.*set_vital.*:UserWarning")

pytest.importorskip("torch", reason="torch is not installed (headrace[torch])")
stateful = pytest.importorskip("torchdata.stateful_dataloader", reason="torchdata is not installed")

ORDER: dict[str, Any] = {"length": 64, "batch_size": 2, "seed": 3, "window_bytes": 9_000}


def loader(world: World, workers: int, **more: Any) -> Any:
    return stateful.StatefulDataLoader(
        ShardDataset(world.path, **ORDER).torch(),
        batch_size=None,
        num_workers=workers,
        multiprocessing_context="fork" if workers else None,
        **more,
    )


@pytest.mark.parametrize("workers,every", [(0, 1), (2, 1), (2, 3)])
def test_a_checkpoint_in_the_middle_of_an_epoch_resumes_exactly(
    library: dict[str, World], workers: int, every: int
) -> None:
    reference = [row for batch in ShardDataset(library["second"].path, **ORDER) for row in rows_of(batch)]
    for stop in (1, 4) if workers else (1, 4, 7):
        rows = []
        state: Any = None
        again = loader(library["second"], workers, snapshot_every_n_steps=every)
        running = iter(again)
        for _ in range(stop):
            rows += rows_of(next(running))
        state = copy.deepcopy(again.state_dict())
        del running
        resumed = loader(library["second"], workers, snapshot_every_n_steps=every)
        resumed.load_state_dict(state)
        assert rows + [row for batch in resumed for row in rows_of(batch)] == reference, stop


@pytest.mark.parametrize("workers", [0, 2])
def test_the_next_epoch_begins_at_the_beginning_after_a_resume_too(library: dict[str, World], workers: int) -> None:
    reference = [row for batch in ShardDataset(library["second"].path, **ORDER) for row in rows_of(batch)]
    data = loader(library["second"], workers)
    running = iter(data)
    first = [row for _ in range(3) for row in rows_of(next(running))]
    state = copy.deepcopy(data.state_dict())
    del running
    resumed = loader(library["second"], workers)
    resumed.load_state_dict(state)
    assert first + [row for batch in resumed for row in rows_of(batch)] == reference
    assert [row for batch in resumed for row in rows_of(batch)] == reference


def test_a_state_of_a_batch_leads_from_one_kind_of_loader_to_another(library: dict[str, World]) -> None:
    """StatefulDataLoader's own states know one number of workers; the state in a batch fits any."""
    reference = whole(ShardDataset(library["second"].path, **ORDER))
    running = iter(loader(library["second"], 2))
    batches = [next(running) for _ in range(5)]
    del running
    again = ShardDataset(library["second"].path, **{**ORDER, "batch_size": 3})
    again.load_state_dict(batches[-1]["state"])
    assert whole(again) == reference[10:]
