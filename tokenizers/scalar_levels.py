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

    @property
    def values(self) -> Array:
        """The value of each bin, relative to `low`."""
        return (np.arange(BINS) + 0.5) * self.width

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


def place_levels(histogram: Histogram, count: int) -> Levels:
    """The quantizer of `count` levels with least squared error on the histogram (Lloyd 1957).

    It starts from the levels of the cube-root density, which is right for many levels (Panter and Dite 1951).
    """
    counts = histogram.counts.astype(np.float64)
    values = histogram.values
    n = np.concatenate(([0.0], np.cumsum(counts)))
    first = np.concatenate(([0.0], np.cumsum(counts * values)))
    second = np.concatenate(([0.0], np.cumsum(counts * values * values)))
    if not n[-1]:
        centres = (np.arange(count) + 0.5) * (BINS * histogram.width / count)
        return Levels(histogram.low + (centres[1:] + centres[:-1]) / 2, histogram.low + centres, 0.0)
    density = np.cumsum(np.cbrt(_smoothed(counts)))
    borders = np.searchsorted(density, density[-1] * np.arange(1, count) / count, side="left") + 1
    borders = _apart(borders, count)
    for _ in range(_ROUNDS):
        centres = _centres(borders, n, first, histogram)
        moved = np.ceil((centres[1:] + centres[:-1]) / 2 / histogram.width - 0.5).astype(np.int64)
        moved = _apart(moved, count)
        if np.array_equal(moved, borders):
            break
        borders = moved
    centres = _centres(borders, n, first, histogram)
    edges = np.concatenate(([0], borders, [BINS]))
    error = np.diff(second[edges]) - 2 * centres * np.diff(first[edges]) + centres * centres * np.diff(n[edges])
    return Levels(histogram.low + borders * histogram.width, histogram.low + centres, max(0.0, float(np.sum(error))))


def _smoothed(counts: Array) -> Array:
    window = 33
    padded = np.concatenate(([0.0], np.cumsum(np.pad(counts, window // 2))))
    return (padded[window:] - padded[:-window]) / window


def _apart(borders: Array, count: int) -> Array:
    """Borders in [1, BINS - 1], each at least one bin above the one before."""
    steps = np.arange(count - 1)
    rising = np.maximum.accumulate(np.clip(borders, 1, BINS - count + 1) - steps) + steps
    return np.minimum(rising, BINS - count + 1 + steps)


def _centres(
    borders: Array, n: Array, first: Array, histogram: Histogram
) -> Array:
    edges = np.concatenate(([0], borders, [BINS]))
    inside = np.diff(n[edges])
    middle = (edges[1:] + edges[:-1]) / 2 * histogram.width
    return np.where(inside > 0, np.diff(first[edges]) / np.maximum(inside, 1.0), middle)


def share_levels(histograms: list[Histogram], codes: int, stages: int) -> tuple[list[int], list[int]]:
    """(levels, stage) of every coefficient, so that each stage's product of levels is at most `codes`.

    A coefficient with one level is not coded; its stage is 0. Coefficients come in order of falling variance.
    """
    allowed = min(codes, BINS // 8)
    total = codes**stages
    levels = _grow(
        [1] * len(histograms), histograms, lambda k, now: math.prod(now) // now[k] * (now[k] + 1) <= total, allowed
    )
    levels, stage = _pack(levels, codes, stages)

    def fits(k: int, now: list[int]) -> bool:
        mates = [now[j] for j in range(len(now)) if stage[j] == stage[k] and j != k]
        return now[k] > 1 and math.prod(mates) * (now[k] + 1) <= codes

    return _grow(levels, histograms, fits, allowed), stage


def _grow(
    levels: list[int], histograms: list[Histogram], fits: Callable[[int, list[int]], bool], allowed: int
) -> list[int]:
    """Give one more level to the coefficient that saves the most error per bit, as long as any `fits`."""
    levels = list(levels)
    errors = [place_levels(h, n).squared_error for h, n in zip(histograms, levels)]
    gains = [_gain(h, n, e) for h, n, e in zip(histograms, levels, errors)]
    open_ = set(range(len(levels)))
    while open_:
        k = min(open_, key=lambda i: (-gains[i][0], i))
        if levels[k] >= allowed or gains[k][0] <= 0 or not fits(k, levels):
            open_.remove(k)
            continue
        levels[k] += 1
        errors[k] = gains[k][1]
        gains[k] = _gain(histograms[k], levels[k], errors[k])
    return levels


def _gain(histogram: Histogram, levels: int, error: float) -> tuple[float, float]:
    """(error saved per bit by one more level, the error then)."""
    after = place_levels(histogram, levels + 1).squared_error
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
