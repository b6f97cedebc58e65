"""Every batch of every setting is what the brute-force oracle says: order, packing, borders, targets, masks, mixing."""

from __future__ import annotations

import hashlib
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from headrace.shards.dataset import Dataset
from headrace.shards.loader.dataset import ShardDataset
from headrace.shards.loader.sources import Source

from .oracle import Part, Settings, arrays, check, sequences
from .worlds import World, through_json, tide, unified_borders

ANY_PACE = settings(
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
NAMES = ["plain", "second", "long", "tiny", "merged", "thinned"]  # one tokenizer, uint16
STREAMS = [None, "tide", ["tide"], "tide@*"]

weights = st.one_of(
    st.integers(1, 5),
    st.sampled_from([0.5, 0.1, 2.25]),
    st.lists(st.tuples(st.integers(1, 60), st.sampled_from([1, 3, 0.7])), max_size=2).map(
        lambda later: [(0, 2), *sorted(dict(later).items())]
    ),
)
sources = st.lists(
    st.tuples(st.sampled_from(NAMES), weights, st.sampled_from(STREAMS), st.sampled_from([None, "train"])),
    min_size=1,
    max_size=3,
)
orders = st.fixed_dictionaries(
    {
        "packing": st.sampled_from(["cut", "whole", "pad", "ragged"]),
        "shape": st.sampled_from([(64, 1), (64, 8), (33, 1), (48, 16), (7, 7), (400, 1)]),
        "shuffle": st.booleans(),
        "seed": st.integers(0, 3),
        "window_bytes": st.sampled_from([None, 1, 6_000, 30_000]),
        "epochs": st.integers(1, 2),
    }
)


def compared(
    given_sources: list[Source], told: Settings, parts: list[Part], batch_size: int, **more: Any
) -> list[dict[str, Any]]:
    """Read with one process, compare every batch with the oracle, give them back."""
    data = ShardDataset(
        given_sources,
        length=told.length,
        batch_size=batch_size,
        packing=told.packing,  # type: ignore[arg-type]
        multiple=told.multiple,
        shuffle=told.shuffle,
        seed=told.seed,
        window_bytes=told.window_bytes,
        epochs=told.epochs,
        pad_id=told.pad,
        **more,
    )
    rows = sequences(told, parts)
    batches = list(data)
    assert len(batches) == -(-len(rows) // batch_size)
    for n, batch in enumerate(batches):
        mine = rows[n * batch_size : (n + 1) * batch_size]
        assert batch["g"] == n * batch_size
        through_json(batch["state"])
        if told.packing != "ragged":
            check(batch, arrays(told, [*mine, *[[]] * (batch_size - len(mine))]))
        elif len(mine) == batch_size:
            check(batch, arrays(told, mine))
    return batches


def parts_of(library: dict[str, World], chosen: list[Any], border: Any) -> tuple[list[Source], list[Part]]:
    listed, parts = [], []
    for name, weight, streams, fold in chosen:
        dataset = Dataset.open(library[name].path)
        names = sorted(dataset.state.settings) if streams is None else ["tide"]
        listed.append(Source(library[name].path, streams=streams, weight=weight, fold=fold))
        parts.append(Part([dataset], names, [border] * len(names), weight, fold))
    return listed, parts


CASES = given(
    chosen=sources,
    order=orders,
    batch=st.integers(1, 5),
    bos=st.booleans(),
    eod=st.booleans(),
    pad=st.booleans(),
)


def compare_one(
    library: dict[str, World], chosen: list[Any], order: dict[str, Any], batch: int, bos: bool, eod: bool, pad: bool
) -> None:
    length, multiple = order.pop("shape")
    border = ((60_001,) if bos else (), (60_002,) if eod else (), 0)
    listed, parts = parts_of(library, chosen, border)
    told = Settings(length=length, multiple=multiple, pad=60_003 if pad else 0, **order)
    compared(listed, told, parts, batch, bos=60_001 if bos else None, eod=60_002 if eod else None)


@settings(ANY_PACE, max_examples=20)
@CASES
def test_batches_are_what_brute_force_says(library: dict[str, World], **case: Any) -> None:
    compare_one(library, **case)


@pytest.mark.chaos
@settings(ANY_PACE, max_examples=600)
@CASES
def test_batches_are_what_brute_force_says_for_minutes(library: dict[str, World], **case: Any) -> None:
    compare_one(library, **case)


@settings(ANY_PACE, max_examples=10)
@given(order=orders, batch=st.integers(1, 4), streams=st.sampled_from([None, "image", ["sound", "text", "letters"]]))
def test_unified_ids_and_their_borders_are_what_brute_force_says(
    library: dict[str, World], order: dict[str, Any], batch: int, streams: Any
) -> None:
    length, multiple = order.pop("shape")
    dataset = Dataset.open(library["kinds"].path)
    names = {"image": ["image"], None: sorted(dataset.state.settings)}.get(streams if streams == "image" else None)
    names = streams if isinstance(streams, list) else names
    told = Settings(length=length, multiple=multiple, **order)
    listed = [Source(library["kinds"].path, streams=streams)]
    vocabulary = ShardDataset(listed, ids="unified", length=length).vocabulary
    assert vocabulary is not None
    part = Part([dataset], names, unified_borders(dataset, names, vocabulary))
    batches = compared(listed, told, [part], batch, ids="unified")
    for made in batches:
        owners = {vocabulary.owner(t) for t in np.unique(made["tokens"]).tolist()}
        assert None not in owners, "an id that nobody owns"


@pytest.mark.parametrize("packing", ["cut", "whole", "pad", "ragged"])
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_tokens_of_four_bytes_keep_their_values(library: dict[str, World], packing: str, dtype: Any) -> None:
    dataset = Dataset.open(library["wide"].path)
    told = Settings(packing=packing, window_bytes=8_000)
    batches = compared([Source(library["wide"].path)], told, [Part([dataset], ["wide"], [((), (), 0)])], 3, dtype=dtype)
    assert {b["tokens"].dtype for b in batches} == {np.dtype(dtype)}
    assert {b["targets"].dtype for b in batches} == {np.dtype(dtype)}
    assert all(b["loss_mask"].dtype == np.bool_ and b["position_ids"].dtype == np.int32 for b in batches)


@pytest.mark.parametrize("packing", ["cut", "whole", "pad", "ragged"])
def test_every_document_is_read_exactly_once_an_epoch(library: dict[str, World], packing: str) -> None:
    """Without the oracle: bodies put together again from the pieces."""
    for name in NAMES:
        data = ShardDataset(library[name].path, length=32, batch_size=4, packing=packing, epochs=3, window_bytes=9_000)  # type: ignore[arg-type]
        pieces: dict[tuple[str, int, int], list[tuple[int, list[int]]]] = {}
        for batch in data:
            flat, edges = batch["tokens"].reshape(-1).tolist(), batch["cu_seqlens"].tolist()
            for sample, a, b in zip(batch["samples"], edges, edges[1:]):
                assert b > a, "a segment without tokens"
                if sample["seq"] >= 0:
                    stream = data.pinned[sample["source"]].streams[sample["stream"]]
                    address = (stream, int(sample["lane"]), int(sample["seq"]))
                    pieces.setdefault(address, []).append((int(sample["offset"]), flat[a:b]))
        dataset, found = Dataset.open(library[name].path), 0
        for stream in dataset.streams():
            for block in dataset.located(stream):
                gone = dataset.state.deleted.get((stream, block.shard.lane), [])
                for seq, body in zip(block.seqs.tolist(), block.batch.column("tokens").to_pylist()):
                    address = (stream, block.shard.lane, seq)
                    if not body or any(s.start <= seq < s.stop for s in gone):
                        assert address not in pieces
                        continue
                    times = [0] * len(body)
                    for offset, part in pieces.pop(address):
                        assert body[offset : offset + len(part)] == part
                        for at in range(offset, offset + len(part)):
                            times[at] += 1
                    assert set(times) == {3}, "a token was lost or doubled"
                    found += 1
        assert not pieces and found


def test_epochs_and_seeds_and_sources_are_shuffled_differently(library: dict[str, World]) -> None:
    def order(**more: Any) -> list[int]:
        data = ShardDataset(Source(library["plain"].path, "tide"), packing="pad", length=128, **more)
        return [int(s["lane"]) << 20 | int(s["seq"]) for batch in data for s in batch["samples"] if s["seq"] >= 0]

    twice = order(epochs=2, seed=4)
    first, second = twice[: len(twice) // 2], twice[len(twice) // 2 :]
    assert first != second and sorted(first) == sorted(second)
    assert order(seed=4) == first
    assert order(seed=5) not in (first, second)
    assert order(shuffle=False) == sorted(first)
    path = library["plain"].path
    data = ShardDataset([path, path], packing="pad", length=128)
    both: dict[int, list[int]] = {0: [], 1: []}
    for batch in data:
        for s in batch["samples"]:
            if s["seq"] >= 0:
                both[int(s["source"])].append(int(s["stream"]) << 40 | int(s["lane"]) << 20 | int(s["seq"]))
    assert both[0] != both[1] and sorted(both[0]) == sorted(both[1])


def test_a_shuffle_moves_samples_far_and_uniformly(library: dict[str, World]) -> None:
    """Over many seeds each sample stands in each tenth of the epoch about as often."""
    path = library["plain"].path
    counts: dict[int, list[int]] = {}
    for seed in range(25):
        data = ShardDataset(Source(path, "tide"), packing="ragged", seed=seed, outputs=["samples", "cu_seqlens"])
        order = [int(b["samples"]["lane"][0]) << 20 | int(b["samples"]["seq"][0]) for b in data if len(b["samples"])]
        for place, address in enumerate(order):
            counts.setdefault(address, [0] * 5)[place * 5 // len(order)] += 1
    table = np.array(list(counts.values()))
    expected = table.sum(axis=1, keepdims=True) / 5
    chi = float(((table - expected) ** 2 / expected).sum())
    freedom = len(table) * 4
    assert abs(chi - freedom) < 6 * (2 * freedom) ** 0.5, (chi, freedom)


def test_the_order_is_the_same_for_ever(tmp_path: Any) -> None:
    """A digest of a whole mixed run: it may never change, or running trainings lose their place."""
    a, b = tide(tmp_path / "a"), tide(tmp_path / "b", 3, (17, 2, 6))
    told = hashlib.sha256()
    for packing, window_bytes in (("cut", 1), ("whole", None), ("pad", 1)):  # sizes of blocks are not part of it
        data = ShardDataset(
            [Source(a.path, weight=2), Source(b.path, weight=[(0, 1), (30, 3)])],
            length=48, batch_size=3, packing=packing, seed=7, window_bytes=window_bytes, epochs=2, bos=1,
        )  # fmt: skip
        for batch in data:
            told.update(batch["tokens"].astype("<i4").tobytes())
            told.update(batch["targets"].astype("<i4").tobytes())
            told.update(batch["cu_seqlens"].astype("<i4").tobytes())
    assert told.hexdigest() == "fe3f081d2075d27d89fd7629eade3bb4ce4b91b21cfd612d2714697cb0968aad"


@pytest.mark.parametrize(
    "outputs", [("tokens", "targets"), ("tokens", "position_ids"), ("loss_mask", "targets"), ("loss_mask", "samples")]
)
def test_outputs_that_are_not_asked_for_are_left_out_and_change_nothing(
    library: dict[str, World], outputs: tuple[str, ...]
) -> None:
    path = library["second"].path
    for packing in ("cut", "whole", "ragged"):
        full = list(ShardDataset(path, length=48, batch_size=2, packing=packing, seed=3))  # type: ignore[arg-type]
        some = list(ShardDataset(path, length=48, batch_size=2, packing=packing, seed=3, outputs=outputs))  # type: ignore[arg-type]
        assert len(full) == len(some)
        for a, b in zip(full, some):
            assert not {"tokens", "targets", "loss_mask", "position_ids"} - set(outputs) & b.keys()
            for name in outputs:
                assert (a[name] == b[name]).all()
