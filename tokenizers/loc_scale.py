"""Location and scale of a window as three integers, so that they can be spelled in its tokens.

    value = (loc + scale * z) * 2**exponent        loc, scale, exponent: integers; z: the standard score

scale is the standard deviation to `bits` binary digits and loc the mean in the same unit, so a standard score is the
same, to 2**-bits, for x and for a*x + b. A constant window has scale 0 and its value exactly as loc * 2**exponent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from headrace.tokenizers.arrays import Array
from headrace.tokenizers.exact_math import scaled, scaled_moments


@dataclass(frozen=True)
class LocScale:
    """One entry per window. loc: float64 holding integers (they may exceed 2**63); scale: int64; exponent: int32."""

    loc: Array
    scale: Array
    exponent: Array

    def integers(self, window: int) -> tuple[int, int, int]:
        """(exponent, scale, loc) of one window, as Python integers to be spelled."""
        return int(self.exponent[window]), int(self.scale[window]), int(self.loc[window])

    def scores(self, x: Array, counts: Array) -> Array:
        """Standard scores of finite float64 values, `counts[i]` of them for window i; 0 in constant windows."""
        centred = scaled(x, -self.exponent, counts) - np.repeat(self.loc, counts)
        scale = np.repeat(self.scale, counts)
        return np.where(scale > 0, centred / np.maximum(scale, 1), 0.0)


def measure(x: Array, borders: Array, bits: int) -> LocScale:
    """Location and scale of each run of finite float64 values `x[borders[i]:borders[i + 1]]`; no run is empty."""
    if len(borders) < 2:
        return LocScale(np.zeros(0), np.zeros(0, np.int64), np.zeros(0, np.int32))
    mean, deviation, scaled_by = scaled_moments(x, borders)
    starts = borders[:-1]
    same = np.minimum.reduceat(x, starts) == np.maximum.reduceat(x, starts)
    return from_moments(mean, deviation, scaled_by, x[starts], same, bits)


def from_moments(mean: Array, deviation: Array, scaled_by: Array, first: Array, same: Array, bits: int) -> LocScale:
    """Location and scale from the `scaled_moments` of runs, their first values, and whether all are equal."""
    mantissa, size = np.frexp(deviation)
    scale = np.rint(np.ldexp(mantissa, bits)).astype(np.int64)
    exponent = size - bits - scaled_by
    constant = same | (scale == 0)
    digits, place = np.frexp(first)
    rounded = np.rint(np.ldexp(mean, np.where(constant, 0, bits - size)))
    loc = np.where(constant, np.ldexp(digits, 53), rounded)
    return LocScale(loc, np.where(constant, 0, scale), np.where(constant, place - 53, exponent).astype(np.int32))


def restore(z: Array, exponent: int, scale: int, loc: int) -> Array:
    """Float64 values of one window's standard scores; beyond float64's range, its largest value."""
    with np.errstate(over="ignore"):
        values = np.ldexp(float(loc) + float(scale) * z, np.clip(exponent, -(1 << 20), 1 << 20))
    limit = np.finfo(np.float64).max
    return np.clip(values, -limit, limit)


def plausible(exponent: int, scale: int, loc: int) -> bool:
    """Whether three integers read from tokens can be a window's location and scale at all."""
    return abs(exponent) < 1 << 16 and 0 <= scale < 1 << 62 and (loc == 0 or math.log2(abs(loc)) < 1000)
