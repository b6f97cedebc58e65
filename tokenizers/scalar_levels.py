"""Where to put the levels of a scalar quantizer, and how many levels each coefficient deserves.

Both work on histograms of integer counts, so the answer does not depend on the order in which data was seen. Lloyd's
rule places thresholds and centres for least squared error; the allocation gives one more level, again and again, to
the coefficient whose error falls most per bit, while the product of all levels stays within the number of codes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from headrace.tokenizers.arrays import Array

BINS = 4096
_ROUNDS = 40
_ESTIMATE = 16  #: rounds that tell well enough what one more level would save


@dataclass(frozen=True)
class Histogram:
    """Counts of integer values in equal bins over [low, high]; the value of bin i is `low + (i + 0.5) * width`."""

    low: int
    high: int
    counts: Array

    @classmethod
    def empty(cls, low: int, high: int) -> Histogram:
        """No counts yet, over the closed range [low, high]."""
        return cls(low, max(high, low), np.zeros(BINS, np.int64))

    @property
    def width(self) -> float:
        """Values per bin."""
        return (self.high - self.low + 1) / BINS

    def add(self, values: Array, weight: int = 1) -> None:
        """Count integer values that lie within the range."""
        index = np.floor((values - self.low) * (BINS / (self.high - self.low + 1))).astype(np.int64)
        self.counts[:] += weight * np.bincount(np.clip(index, 0, BINS - 1), minlength=BINS)

    def quantile(self, share: float) -> float:
        """The value below which `share` of the counts lie."""
        total = np.cumsum(self.counts)
        if not total[-1]:
            return float(self.low)
        return self.low + float(np.searchsorted(total, share * float(total[-1]), side="left") + 0.5) * self.width


@dataclass(frozen=True)
class Levels:
    """A scalar quantizer: value v gets level `number of thresholds <= v`; the level decodes to its centre."""

    thresholds: Array
    centres: Array
    squared_error: float


class _Sums:
    """Running sums over a histogram's bins: counts, counts times value and its square, and cube-root density."""

    def __init__(self, histogram: Histogram) -> None:
        counts = histogram.counts.astype(np.float64)
        values = (np.arange(BINS) + 0.5) * histogram.width
        self.low, self.width = histogram.low, histogram.width
        self.n = np.concatenate(([0.0], np.cumsum(counts)))
        self.first = np.concatenate(([0.0], np.cumsum(counts * values)))
        self.second = np.concatenate(([0.0], np.cumsum(counts * values * values)))
        self.density = np.cumsum(np.cbrt(_smoothed(counts)))

    def centres(self, borders: Array) -> Array:
        """The mean of each cell, or its middle where it is empty."""
        edges = np.concatenate(([0], borders, [BINS]))
        inside = np.diff(self.n[edges])
        middle = (edges[1:] + edges[:-1]) / 2 * self.width
        return np.where(inside > 0, np.diff(self.first[edges]) / np.maximum(inside, 1.0), middle)


def place_levels(histogram: Histogram, count: int) -> Levels:
    """The quantizer of `count` levels with least squared error on the histogram (Lloyd 1957).

    It starts from the levels of the cube-root density, which is right for many levels (Panter and Dite 1951).
    """
    return _place(_Sums(histogram), count, _ROUNDS)


def _place(sums: _Sums, count: int, rounds: int) -> Levels:
    if not sums.n[-1]:
        centres = (np.arange(count) + 0.5) * (BINS * sums.width / count)
        return Levels(sums.low + (centres[1:] + centres[:-1]) / 2, sums.low + centres, 0.0)
    shares = sums.density[-1] * np.arange(1, count) / count
    borders = _apart(np.searchsorted(sums.density, shares, side="left") + 1, count)
    for _ in range(rounds):
        centres = sums.centres(borders)
        middles = (centres[1:] + centres[:-1]) / 2
        moved = _apart(np.ceil(middles / sums.width - 0.5).astype(np.int64), count)
        if np.array_equal(moved, borders):
            break
        borders = moved
    centres = sums.centres(borders)
    edges = np.concatenate(([0], borders, [BINS]))
    n, first, second = (np.diff(s[edges]) for s in (sums.n, sums.first, sums.second))
    error = float(np.sum(second - 2 * centres * first + centres * centres * n))
    return Levels(sums.low + borders * sums.width, sums.low + centres, max(0.0, error))


def _smoothed(counts: Array) -> Array:
    window = 33
    padded = np.concatenate(([0.0], np.cumsum(np.pad(counts, window // 2))))
    return (padded[window:] - padded[:-window]) / window


def _apart(borders: Array, count: int) -> Array:
    """Borders in [1, BINS - 1], each at least one bin above the one before."""
    steps = np.arange(count - 1)
    rising = np.maximum.accumulate(np.clip(borders, 1, BINS - count + 1) - steps) + steps
    return np.minimum(rising, BINS - count + 1 + steps)


def share_levels(histograms: list[Histogram], codes: int, stages: int) -> tuple[list[int], list[int]]:
    """(levels, stage) of every coefficient, so that each stage's product of levels is at most `codes`.

    A coefficient with one level is not coded; its stage is 0. Coefficients come in order of falling variance.
    """
    allowed = min(codes, BINS // 8)
    total = codes**stages
    sums = [_Sums(histogram) for histogram in histograms]
    levels = _grow([1] * len(sums), sums, lambda k, now: math.prod(now) // now[k] * (now[k] + 1) <= total, allowed)
    levels, stage = _pack(levels, codes, stages)

    def fits(k: int, now: list[int]) -> bool:
        mates = [now[j] for j in range(len(now)) if stage[j] == stage[k] and j != k]
        return now[k] > 1 and math.prod(mates) * (now[k] + 1) <= codes

    return _grow(levels, sums, fits, allowed), stage


def _grow(levels: list[int], sums: list[_Sums], fits: Callable[[int, list[int]], bool], allowed: int) -> list[int]:
    """Give one more level to the coefficient that saves the most error per bit, as long as any `fits`."""
    levels = list(levels)
    errors = [_place(s, n, _ESTIMATE).squared_error for s, n in zip(sums, levels)]
    gains = [_gain(s, n, e) for s, n, e in zip(sums, levels, errors)]
    open_ = set(range(len(levels)))
    while open_:
        k = min(open_, key=lambda i: (-gains[i][0], i))
        if levels[k] >= allowed or gains[k][0] <= 0 or not fits(k, levels):
            open_.remove(k)
            continue
        levels[k] += 1
        errors[k] = gains[k][1]
        gains[k] = _gain(sums[k], levels[k], errors[k])
    return levels


def _gain(sums: _Sums, levels: int, error: float) -> tuple[float, float]:
    """(error saved per bit by one more level, the error then)."""
    after = _place(sums, levels + 1, _ESTIMATE).squared_error
    return (error - after) / math.log2((levels + 1) / levels), after


def _pack(levels: list[int], codes: int, stages: int) -> tuple[list[int], list[int]]:
    """Put coefficients into stages, largest first; one that fits nowhere takes what the emptiest stage still holds."""
    products = [1] * stages
    packed, where = [1] * len(levels), [0] * len(levels)
    for k in sorted(range(len(levels)), key=lambda k: (-levels[k], k)):
        fitting = [s for s in range(stages) if products[s] * levels[k] <= codes]
        stage = fitting[0] if fitting else min(range(stages), key=lambda s: (products[s], s))
        packed[k], where[k] = max(1, min(levels[k], codes // products[stage])), stage
        products[stage] *= packed[k]
    return packed, where
