"""Which shards are merged: a function of the state, tested with numbers alone."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from headrace.shards.compact import everything
from headrace.shards.compact_copy import merged_shard
from headrace.shards.compact_plan import Policy, plan
from headrace.shards.entry import Block, ShardInfo
from headrace.shards.log import CommitLog
from headrace.shards.state import State
from headrace.shards.testing import MemoryStore, settings_of

Fill = Callable[..., CommitLog]
SETTINGS = {"tide": settings_of("tide"), "bulletins": settings_of("bulletins", None)}


def shard(first: int, size: int, blocks: int = 1, path: str = "", head: str = "h") -> ShardInfo:
    return ShardInfo(
        "tide", 0, path or f"data/tide/L0000/e1-{first}", "", size, 1, 1, 64, head, "t",
        [Block(64, size // blocks, 1, 1, "")] * blocks, [], first,
    )  # fmt: skip


def planned(sizes: list[int], policy: Policy, **more: Any) -> list[list[int]]:
    state = State(settings=SETTINGS, shards={("tide", 0): [shard(n, size) for n, size in enumerate(sizes)]})
    return [[s.first_seq for s in m.shards] for m in plan(state, policy, **more)]


def test_the_plan_leaves_large_files_alone_and_bounds_what_it_makes() -> None:
    policy = Policy(target_bytes=1000, min_shards=4, keep_newest=0)
    assert planned([10, 10, 10], policy) == []
    assert planned([10] * 4, policy) == [[0, 1, 2, 3]]
    assert planned([400, 10, 10, 10], policy) == [] and planned([10, 10, 400, 10, 10, 10, 10], policy) == [[3, 4, 5, 6]]
    assert planned([10, 600, 10, 10, 10, 10, 10], policy) == [[2, 3, 4, 5, 6]]
    assert planned([300] * 7, policy) == [[0, 1, 2], [3, 4, 5]]
    assert planned([10] * 6, replace(policy, keep_newest=3)) == []
    assert planned([10] * 5, replace(policy, max_blocks=4)) == [[0, 1, 2, 3]]
    assert planned([400, 10, 10], everything(1000)) == [[0, 1, 2]] and planned([10], everything(1000)) == []
    assert planned([10] * 5, everything(1000), skip=["data/tide/L0000/e1-2"]) == [[0, 1], [3, 4]]
    assert planned([10] * 4, everything(1000), stream="bulletins") == []


def test_the_plan_asks_for_ages_only_where_it_needs_them() -> None:
    asked: list[int] = []

    def age(one: ShardInfo) -> float:
        asked.append(one.first_seq)
        return 100.0 - 10 * one.first_seq

    assert planned([10] * 5, Policy(min_shards=9, keep_newest=0, max_wait_s=100), age=age) == [[0, 1, 2, 3, 4]]
    assert planned([10] * 5, Policy(min_shards=9, keep_newest=0, max_wait_s=101), age=age) == [] and set(asked) == {0}
    asked.clear()
    assert planned([10] * 5, everything(min_age_s=80), age=age) == [[0, 1, 2]] and asked == [4, 3, 2]
    assert planned([10] * 5, everything(min_age_s=80)) == []


def test_random_plans_are_disjoint_neighbours_within_their_bounds() -> None:
    for seed in range(300):
        dice = random.Random(seed)
        sizes = [dice.choice([1, 20, 300, 5000, 90_000]) * dice.randint(1, 9) for _ in range(dice.randint(0, 60))]
        policy = Policy(
            target_bytes=dice.choice([1000, 100_000, 10_000_000]), min_shards=dice.randint(2, 9),
            keep_newest=dice.randint(0, 2), tiered=dice.random() < 0.7, max_blocks=dice.randint(2, 30),
        )  # fmt: skip
        groups = planned(sizes, policy)
        flat = [n for group in groups for n in group]
        assert len(set(flat)) == len(flat) and all(n < len(sizes) - policy.keep_newest for n in flat)
        for group in groups:
            assert len(group) > 1 and all(b == a + 1 for a, b in pairwise(group)) and len(group) <= policy.max_blocks
            assert sum(sizes[n] for n in group) <= policy.target_bytes


def test_a_schema_written_by_another_library_version_ends_a_run() -> None:
    shards = [shard(n, 10, head="a" if n < 3 else "b") for n in range(5)]
    state = State(settings=SETTINGS, shards={("tide", 0): shards})
    assert [len(m.shards) for m in plan(state, everything())] == [3, 2]
    with pytest.raises(ValueError, match="not of one lane and schema"):
        merged_shard(MemoryStore(), shards, 1)
