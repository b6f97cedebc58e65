"""Sets of sequence numbers as sorted, disjoint spans [start, stop). No I/O, so that brute force can test it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from headrace.shards.entry import Span


def merged(spans: Iterable[Span]) -> list[Span]:
    """The union, sorted, with touching spans joined and empty ones dropped."""
    out: list[Span] = []
    for span in sorted((s for s in spans if s.stop > s.start), key=lambda s: s.start):
        if out and span.start <= out[-1].stop:
            out[-1] = Span(out[-1].start, max(out[-1].stop, span.stop))
        else:
            out.append(span)
    return out


def count(spans: Iterable[Span]) -> int:
    """How many numbers they hold together, counting doubles twice."""
    return sum(s.stop - s.start for s in spans)


def clipped(spans: Sequence[Span], start: int, stop: int) -> list[Span]:
    """The part of sorted, disjoint spans inside [start, stop)."""
    first = max(bisect_right(spans, start, key=lambda s: s.start) - 1, 0)
    out = []
    for span in spans[first:]:
        if span.start >= stop:
            break
        if span.stop > start:
            out.append(Span(max(span.start, start), min(span.stop, stop)))
    return out


def without(spans: Sequence[Span], holes: Sequence[Span]) -> list[Span]:
    """What of sorted, disjoint `spans` is not in sorted, disjoint `holes`."""
    out = []
    for span in spans:
        at = span.start
        for hole in clipped(holes, span.start, span.stop):
            if hole.start > at:
                out.append(Span(at, hole.start))
            at = hole.stop
        if at < span.stop:
            out.append(Span(at, span.stop))
    return out


def of_numbers(numbers: Iterable[int]) -> list[Span]:
    """The spans that hold exactly these numbers."""
    return merged(Span(n, n + 1) for n in numbers)


def numbers(start: int, stop: int, holes: Sequence[Span]) -> npt.NDArray[np.int64]:
    """Every number of [start, stop) outside sorted, disjoint `holes`, ascending."""
    parts = [np.arange(s.start, s.stop, dtype=np.int64) for s in without([Span(start, stop)], holes)]
    return np.concatenate(parts) if parts else np.empty(0, np.int64)


def inside(values: npt.NDArray[Any], spans: Sequence[Span]) -> npt.NDArray[np.bool_]:
    """For each value whether sorted, disjoint `spans` hold it."""
    if not spans:
        return np.zeros(len(values), dtype=np.bool_)
    starts = np.fromiter((s.start for s in spans), np.int64, len(spans))
    stops = np.fromiter((s.stop for s in spans), np.int64, len(spans))
    at = np.searchsorted(starts, values, side="right") - 1
    return (at >= 0) & (values < stops[np.maximum(at, 0)])
