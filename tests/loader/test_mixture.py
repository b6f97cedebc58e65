"""Mixing: no source is ever far from its share, exactly so after a resume, and schedules turn where they say."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from headrace.schemas.errors import ConfigError
from headrace.shards.loader.dataset import ShardDataset
from headrace.shards.loader.mixture import MOST, Turns, integer_weights
from headrace.shards.loader.sources import Source

from .worlds import World, through_json, whole


@settings(deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=5).filter(any))
def test_no_source_is_a_whole_sequence_away_from_its_share(weights: list[int]) -> None:
    """For two sources less than 1 at any time; for more, less than their number; and exact after each period."""
    turns, total = Turns(weights), sum(weights)
    counts = np.zeros(len(weights), np.int64)
    for i in range(2 * total):
        assert turns.given(i) == counts.tolist()
        part, n = turns.of(np.array([i]))
        assert (part[0], n[0]) == (turns.of_one(i), counts[part[0]])
        counts[part[0]] += 1
        away = [abs(Fraction(int(c)) - Fraction(w * (i + 1), total)) for c, w in zip(counts, weights)]
        assert max(away) < (1 if len([w for w in weights if w]) <= 2 else len(weights) - 1)
        if (i + 1) % total == 0:
            assert not any(away)


@settings(deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=4).filter(any), st.integers(0, 50), st.data())
def test_reach_is_the_most_that_the_sources_allow(weights: list[int], start: int, data: Any) -> None:
    turns = Turns(weights)
    have = [data.draw(st.integers(0, 30)) for _ in weights]
    left, at = have.copy(), start
    while True:
        due = turns.of_one(at)
        if not left[due]:
            break
        left[due] -= 1
        at += 1
    assert turns.reach(start, have) == at - start


@given(st.lists(st.one_of(st.integers(0, 10**6), st.floats(0, 1e6, allow_nan=False)), min_size=1, max_size=6))
def test_integer_weights_keep_proportions_and_never_silence_a_source(weights: list[float]) -> None:
    whole_ones = integer_weights(weights)
    total = sum(Fraction(str(w)) for w in weights)
    assert sum(whole_ones) <= MOST + len(weights)
    for made, w in zip(whole_ones, weights):
        assert (made > 0) == (w > 0)
        if w:
            share = Fraction(str(w)) / total
            assert abs(Fraction(made, sum(whole_ones)) - share) <= Fraction(len(weights) + 1, MOST)


def sources_in(data: ShardDataset) -> list[int]:
    return [row[2][0][1] for row in whole(data)]


def test_weights_are_shares_of_sequences_and_turn_at_their_sequence_number(library: dict[str, World]) -> None:
    a, b = library["merged"].path, library["plain"].path
    data = ShardDataset([Source(a, weight=[(0, 3), (20, 1)]), Source(b, weight=[(0, 1), (20, 3)])], length=32)
    found = sources_in(data)
    assert [found[:20].count(0), found[:20].count(1)] == [15, 5]
    assert [found[20:60].count(0), found[20:60].count(1)] == [10, 30]
    for i in range(1, 20):
        assert abs(found[:i].count(0) - Fraction(3 * i, 4)) < 1


def test_when_a_source_is_through_the_others_go_on_in_their_proportion(library: dict[str, World]) -> None:
    paths = [library[n].path for n in ("tiny", "second", "plain")]
    found = sources_in(ShardDataset([Source(p, weight=w) for p, w in zip(paths, (1, 1, 2))], length=32))
    last = len(found) - 1 - found[::-1].index(0)
    rest = found[last + 1 : last + 31]
    assert rest.count(1) == 10 and rest.count(2) == 20


def test_a_source_of_weight_0_is_left_out_and_one_that_would_come_later_is_an_error(library: dict[str, World]) -> None:
    a, b = library["tiny"].path, library["second"].path
    assert set(sources_in(ShardDataset([Source(a, weight=0), Source(b)], length=32))) == {1}
    found = sources_in(ShardDataset([Source(b), Source(a, weight=[(0, 1), (1, 0)])], length=8))
    assert found.count(1) <= 1
    with pytest.raises(ConfigError, match=r"from sequence .* no source that has samples left has a weight above 0"):
        list(ShardDataset([Source(a), Source(b, weight=[(0, 0), (10_000, 1)])], length=32))
    with pytest.raises(ConfigError, match="from sequence 0 on no source"):
        list(ShardDataset([Source(a, weight=0), Source(b, weight=0)], length=32))


@pytest.mark.parametrize("weight", [-1, float("nan"), float("inf"), [], [(1, 2)], [(0, 1), (5, 2), (5, 3)], [(0, -1)]])
def test_a_weight_that_means_nothing_is_refused(library: dict[str, World], weight: Any) -> None:
    with pytest.raises(ConfigError, match="weight of"):
        ShardDataset(Source(library["tiny"].path, weight=weight))


def test_shares_stay_exact_through_resumes_at_every_sequence(library: dict[str, World], tmp_path: Path) -> None:
    def made() -> ShardDataset:
        return ShardDataset(
            [
                Source(library["second"].path, weight=[(0, 0.3), (9, 2)]),
                Source(library["tiny"].path, weight=1),
                Source(library["plain"].path, weight=0.5),
            ],
            length=96, seed=2, window_bytes=9_000, packing="whole",
        )  # fmt: skip

    reference = whole(made())
    states = [batch["state"] for batch in made()]
    for at in range(0, len(states), 4):
        again = made()
        again.load_state_dict(through_json(states[at]))
        assert whole(again) == reference[at + 1 :]
