"""One order for all layouts: ranks, worker processes, batch sizes, a resume into another layout, a commit meanwhile."""

from __future__ import annotations

import itertools
import random
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pytest

from headrace.shards.dataset import Dataset
from headrace.shards.loader.dataset import ShardDataset
from headrace.shards.loader.sources import Source

from .oracle import Part, Settings, sequences
from .worlds import World, is_padding, rows_of, through_json, tide, whole

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")

torch = pytest.importorskip("torch", reason="torch is not installed (headrace[torch])")

LAYOUTS = list(itertools.product([0, 1, 2, 3], [1, 2, 3, 4]))  # (workers, world)
ORDER = {"length": 64, "packing": "cut", "seed": 11, "window_bytes": 9_000}
Rows = dict[int, tuple[Any, ...]]


def loader(data: ShardDataset, workers: int) -> Any:
    return torch.utils.data.DataLoader(
        data.torch(), batch_size=None, num_workers=workers, multiprocessing_context="fork" if workers else None
    )


def read(
    sources: list[Source],
    workers: int,
    world: int,
    batch: int,
    state: Any = None,
    stop: int | None = None,
    **order: Any,
) -> tuple[Rows, dict[str, Any] | None]:
    """Rows by sequence number of every rank's first `stop` batches (None: all), and the state after them."""
    rows: Rows = {}
    counts, last = [], state
    for rank in range(world):
        data = ShardDataset(sources, rank=rank, world_size=world, batch_size=batch, **{**ORDER, **order})
        if state is not None:
            data.load_state_dict(through_json(state))
        n = 0
        running = iter(loader(data, workers))
        for made in itertools.islice(running, stop):
            for i, row in enumerate(rows_of(made)):
                assert made["g"] + i not in rows, "doubled"
                rows[made["g"] + i] = row
            last, n = made["state"], n + 1
        del running
        counts.append(n)
    assert len(set(counts)) == 1, f"ranks had {counts} batches: one would hang"
    return rows, last


def same(rows: Rows, reference: list[tuple[Any, ...]], start: int = 0) -> None:
    """From `start` on nothing but the reference, and padding after its end."""
    assert sorted(rows) == list(range(start, start + len(rows)))
    for g, row in rows.items():
        if g < len(reference):
            assert row == reference[g], g
        else:
            assert is_padding(row)
    assert start + len(rows) >= len(reference), "lost"


def reference_of(sources: list[Source], parts: list[Part], **order: Any) -> list[tuple[Any, ...]]:
    """The rows of one process without workers; their addresses are also those of the oracle."""
    told = whole(ShardDataset(sources, **{**ORDER, **order}))
    expected = sequences(Settings(**{**ORDER, **order}), parts)
    found = [[a[1:] for a in row[2] if a[1] >= 0] for row in told]
    assert found == [[p.address() for p in row] for row in expected]
    return told


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[World, World]:
    root = tmp_path_factory.mktemp("layouts")
    return tide(root / "a", 4), tide(root / "b", 3, (6, 3, 2))


def mixed(pair: tuple[World, World], pinned: bool = True) -> tuple[list[Source], list[Part]]:
    datasets = [Dataset.open(w.path) for w in pair]
    schedule = [(0, 1), (15, 2)]
    sources = [
        Source(pair[0].path, weight=3, version=datasets[0].version if pinned else None),
        Source(pair[1].path, weight=schedule, version=datasets[1].version if pinned else None),
    ]
    borders = [((), (), 0)] * 2
    parts = [Part([d], ["quay", "tide"], borders, w) for d, w in zip(datasets, (3, schedule))]
    return sources, parts


def test_every_layout_gives_one_order_through_a_resume_into_another_and_a_commit_meanwhile(
    pair: tuple[World, World], tmp_path: Path
) -> None:
    rng = random.Random(4)
    sources, parts = mixed(pair)
    reference = reference_of(sources, parts)
    targets = LAYOUTS.copy()
    rng.shuffle(targets)
    for (workers, world), (then_workers, then_world) in zip(LAYOUTS, targets):
        batch, then_batch = rng.sample([1, 2, 3, 4, 5], 2)
        most = len(reference) // (world * batch)
        before, state = read(sources, workers, world, batch, stop=rng.randint(1, max(most - 1, 1)))
        assert state is not None and state["g"] == len(before)
        same({**before, **{g: row for g, row in enumerate(reference) if g >= len(before)}}, reference)
        pair[0].grow(3, 2, 1)  # the dataset grows: who resumes reads the version of the state
        later = [Source(s.dataset, weight=s.weight, version=s.version) for s in sources]
        after, _ = read(later, then_workers, then_world, then_batch, state)
        same(after, reference, len(before))
        assert not before.keys() & after.keys()


def test_without_a_pinned_version_the_state_pins_it(pair: tuple[World, World]) -> None:
    sources, parts = mixed(pair, pinned=False)
    reference = reference_of(sources, parts)
    before, state = read(sources, 0, 1, 2, stop=5)
    pair[0].grow(30, 30, 30)
    pair[1].grow(5, 5, 5)
    after, _ = read(sources, 2, 1, 3, state)
    same({**before, **after}, reference)
    assert len(whole(ShardDataset(sources, **ORDER))) > len(reference)  # type: ignore[arg-type]


@pytest.mark.parametrize("packing", ["whole", pytest.param("pad", marks=pytest.mark.chaos)])
def test_other_packings_and_several_epochs_keep_their_order(pair: tuple[World, World], packing: str) -> None:
    rng = random.Random(packing)
    sources, parts = mixed(pair)
    more = {"packing": packing, "epochs": 2}
    reference = reference_of(sources, parts, **more)
    state, rows = None, {}
    while len(rows) < len(reference):
        workers, world, batch = rng.choice([0, 2]), rng.randint(1, 3), rng.randint(1, 6)
        part, state = read(sources, workers, world, batch, state, stop=rng.randint(2, 9), **more)
        assert not rows.keys() & part.keys()
        rows.update(part)
    same(rows, reference)


@pytest.mark.parametrize("seeds", [range(1), pytest.param(range(1, 40), marks=pytest.mark.chaos)])
def test_chains_of_random_layouts_without_processes(pair: tuple[World, World], seeds: range) -> None:
    """Workers are only a matter of which batches one makes: asked of the parts directly, many chains are cheap."""
    sources, parts = mixed(pair)
    for packing, seed in itertools.product(["cut", "whole", "pad"], seeds):
        rng = random.Random(f"{packing} {seed}")
        more: dict[str, Any] = {"packing": packing, "window_bytes": rng.choice([1, 9_000, None])}
        reference = reference_of(sources, parts, **more)
        rows: Rows = {}
        state = None
        while len(rows) < len(reference):
            part, state = read(sources, 0, rng.randint(1, 4), rng.randint(1, 7), state, rng.randint(3, 15), **more)
            assert not rows.keys() & part.keys()
            rows.update(part)
        same(rows, reference)


def test_more_readers_than_samples_neither_hang_nor_disagree(library: dict[str, World]) -> None:
    path = library["tiny"].path
    source = [Source(path, version=Dataset.open(path).version)]
    reference = whole(ShardDataset(source, **ORDER))  # type: ignore[arg-type]
    assert len(reference) == 1
    rows, _ = read(source, 3, 4, 2)
    same(rows, reference)
    assert len(rows) == 8


@pytest.mark.chaos
def test_a_worker_process_that_was_not_forked_reads_the_same(library: dict[str, World]) -> None:
    path = library["second"].path
    data = ShardDataset(path, batch_size=2, **ORDER)  # type: ignore[arg-type]
    made = torch.utils.data.DataLoader(data.torch(), batch_size=None, num_workers=1, multiprocessing_context="spawn")
    rows = [row for batch in made for row in rows_of(batch)]
    assert [r for r in rows if not is_padding(r)] == whole(ShardDataset(path, **ORDER))  # type: ignore[arg-type]


def test_ragged_batches_have_one_order_too(library: dict[str, World]) -> None:
    path = library["second"].path
    version = Dataset.open(path).version

    def seqs(workers: int, world: int, batch: int) -> dict[int, list[Any]]:
        out = {}
        for rank in range(world):
            data = ShardDataset(
                Source(path, version=version), packing="ragged", batch_size=batch, rank=rank, world_size=world, seed=2
            )
            for made in loader(data, workers):
                out[made["g"]] = made["tokens"].tolist()
        return out

    one = seqs(0, 1, 1)
    for workers, world, batch in [(0, 2, 3), (2, 1, 2), (3, 2, 1)]:
        found = seqs(workers, world, batch)
        for g, tokens in found.items():
            mine = [t for i in range(g, g + batch) for t in one.get(i, [])]
            assert tokens[: len(mine)] == mine and not any(tokens[len(mine) :])


def test_batches_of_torch_may_be_written_and_warn_of_nothing(library: dict[str, World]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for batch in ShardDataset(library["plain"].path, length=32, batch_size=2).torch():
            batch["tokens"][0, 0] = 5
            assert batch["tokens"].dtype == torch.int32 and batch["loss_mask"].dtype == torch.bool


def test_ranks_of_a_process_group_take_the_version_that_rank_0_finds(tmp_path: Path) -> None:
    made = tide(tmp_path / "a", 1)
    script = tmp_path / "rank.py"
    script.write_text(
        "import sys\n"
        "import torch.distributed as group\n"
        "from headrace.shards.loader.dataset import ShardDataset\n"
        "group.init_process_group('gloo', init_method='file://' + sys.argv[3], rank=int(sys.argv[1]), world_size=2)\n"
        "print('ready', flush=True)\n"
        "sys.stdin.readline()\n"
        "data = ShardDataset(sys.argv[2], length=64)\n"
        "print(data.rank, data.world_size, data.pinned[0].version, flush=True)\n"
        "group.destroy_process_group()\n"
    )
    ranks = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), made.path, str(tmp_path / "meet")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for rank in (0, 1)
    ]  # fmt: skip
    versions = []
    try:
        for process in ranks:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
        version = made.log.state.v
        for process in ranks:  # rank 0 begins, the dataset grows, rank 1 begins
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
            time.sleep(0.5)
            made.grow(3, 3, 3)
        for rank, process in enumerate(ranks):
            assert process.stdout is not None
            told = [int(word) for word in process.stdout.readline().split()]
            assert told[:2] == [rank, 2]
            versions.append(told[2])
            assert process.wait(30) == 0
    finally:
        for process in ranks:
            process.kill()
            process.wait()
    assert versions[0] == versions[1] >= version
