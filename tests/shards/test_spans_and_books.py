"""Spans against sets, books against hand-made sums."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.schemas.errors import Unbalanced
from headrace.shards import spans
from headrace.shards.books import Books, SourceCounts, SplitCounts, StreamCounts, merge
from headrace.shards.entry import Span

SPANS = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 10)).map(lambda t: Span(t[0], t[0] + t[1])), max_size=8)


def as_set(some: list[Span]) -> set[int]:
    return {n for s in some for n in range(s.start, s.stop)}


@settings(max_examples=200, deadline=None)
@given(SPANS, SPANS, st.integers(0, 50), st.integers(0, 50))
def test_spans_are_sets_of_numbers(a: list[Span], b: list[Span], low: int, high: int) -> None:
    left, right = spans.merged(a), spans.merged(b)
    assert as_set(left) == as_set(a) and spans.count(left) == len(as_set(a))
    assert all(x.stop < y.start for x, y in pairwise(left))
    assert as_set(spans.clipped(left, low, high)) == {n for n in as_set(a) if low <= n < high}
    assert as_set(spans.without(left, right)) == as_set(a) - as_set(b)
    assert spans.of_numbers(as_set(a)) == left
    assert spans.numbers(low, high, right).tolist() == [n for n in range(low, high) if n not in as_set(b)]
    assert spans.inside(np.arange(60), left).tolist() == [n in as_set(a) for n in range(60)]


def line(**changes: int) -> SplitCounts:
    values = {"read": 10, "closed": 7, "quarantined": 2, "open": 1, **changes}
    return SplitCounts("tide", "ab", None, 0, 5, 0, **values)


def test_a_split_whose_items_are_all_accounted_for_balances() -> None:
    line().check()
    line(read=-0, closed=1, quarantined=0, open=-1).check()  # an item of an earlier commit was finished


@pytest.mark.parametrize(
    "changes", [{"read": 11}, {"closed": 8}, {"quarantined": 1}, {"open": 0}, {"closed": -1, "open": 9}]
)
def test_a_split_that_lost_an_item_is_refused_with_its_sum(changes: dict[str, int]) -> None:
    with pytest.raises(
        Unbalanced, match=r"split ab of tide: \d+ items read, but .* closed \+ .* quarantined whole \+ .* open = "
    ):
        line(**changes).check()


def test_a_stream_that_lost_a_record_is_refused_with_its_sum() -> None:
    good = StreamCounts(10, 5, 2, {"short": 1, "robots": 1}, 1)
    good.check("tide")
    with pytest.raises(
        Unbalanced,
        match=r"stream tide: 11 records, but 5 samples \+ 2 quarantined"
        r" \+ 2 rejected \(robots 1, short 1\) \+ 1 duplicates = 10",
    ):
        StreamCounts(11, 5, 2, {"short": 1, "robots": 1}, 1).check("tide")
    with pytest.raises(Unbalanced):
        StreamCounts(0, 1, -1).check("tide")


def test_more_items_cannot_be_finished_than_were_begun() -> None:
    with pytest.raises(Unbalanced, match="open may not be negative"):
        SourceCounts().plus(line(read=0, closed=1, quarantined=0, open=-1)).check("tide")


def test_the_books_of_several_cuts_add_up() -> None:
    one = Books([line()], {"a": StreamCounts(3, 2, 1, tokens=9)})
    two = Books(
        [line(read=3, closed=3, quarantined=0, open=0)], {"a": StreamCounts(2, 1, 0, {"short": 1}), "b": StreamCounts()}
    )
    both = merge([one, two])
    assert both.splits == one.splits + two.splits
    assert both.streams == {"a": StreamCounts(5, 3, 1, {"short": 1}, 0, 9), "b": StreamCounts()}
    both.check()
