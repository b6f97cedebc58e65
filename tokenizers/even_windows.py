"""Standard scores of windows that are all of one length and lack no value, a window a row: most of what a stream holds.

What `loc_scale.measure` and `exact_math` give for such windows, to the last bit, with a third of the work: nothing is
repeated or gathered, and scaling by a power of two is a multiplication.
"""

from __future__ import annotations

import numpy as np

from headrace.tokenizers.arrays import Array
from headrace.tokenizers.loc_scale import LocScale, from_moments


def measure_even(x: Array, bits: int) -> LocScale:
    """Location and scale of each row of finite float64 (windows, samples), at least one sample long."""
    mean, deviation, scaled_by, same = _moments(x)
    return from_moments(mean, deviation, scaled_by, x[:, 0], same, bits)


def deviation_even(x: Array) -> Array:
    """The population standard deviation of each row, as `exact_math.mean_and_deviation` gives it."""
    _, deviation, scaled_by, _ = _moments(x)
    return np.asarray(np.ldexp(deviation, -scaled_by), np.float64)


def _moments(x: Array) -> tuple[Array, Array, Array, Array]:
    """(mean, deviation, bits) of each row, as `exact_math.scaled_moments`, and whether its values are all the same."""
    count = x.shape[1]
    low, high = x.min(axis=1), x.max(axis=1)
    exponents = np.frexp(np.maximum(high, -low))[1]
    scaled_by = np.minimum(53, 63 - _spare(count)) - exponents
    whole = scaled(x, scaled_by)
    np.rint(whole, out=whole)
    sums = whole.astype(np.int64).sum(axis=1)
    middle = ((2 * (sums // count) + (2 * (sums % count) + count) // count) // 2).astype(np.float64)
    whole -= middle[:, None]
    return middle, _root_mean_square(whole), scaled_by, low == high


def scores_even(x: Array, found: LocScale) -> Array:
    """`LocScale.scores` of the rows of x."""
    out = scaled(x, -found.exponent)
    out -= found.loc[:, None]
    out /= np.maximum(found.scale, 1).astype(np.float64)[:, None]
    out[found.scale <= 0] = 0.0
    return out


def root_mean_square_even(x: Array) -> Array:
    """`exact_math.root_mean_square` of the rows of finite float64 x, which is written over."""
    np.abs(x, out=x)
    bits = 52 - np.frexp(x.max(axis=1))[1]
    whole = scaled(x, bits, out=x)
    np.rint(whole, out=whole)
    return np.asarray(np.ldexp(_root_mean_square(whole), -bits), np.float64)


def scaled(x: Array, powers: Array, out: Array | None = None) -> Array:
    """x[i] * 2**powers[i], rounded once, as ldexp does it: a product with a power of two is exact or rounded once."""
    if ((powers < -1022) | (powers > 1023)).any():
        return np.ldexp(x, powers[:, None], out=out)
    return np.multiply(x, np.ldexp(1.0, powers)[:, None], out=out)


def _root_mean_square(whole: Array) -> Array:
    """Of rows of integer-valued float64, which are written over; see exact_math."""
    count = whole.shape[1]
    np.abs(whole, out=whole)
    size = np.frexp(whole.max(axis=1))[1]
    shift = np.minimum(0, 20 + (62 - _spare(count)) // 2 - size)
    scaled(whole, shift, out=whole)
    np.rint(whole, out=whole)
    small = whole.astype(np.int64)
    high = small >> 20
    small &= 0xFFFFF
    squares = np.einsum("ij,ij->i", high, high) * 2.0**40
    squares = squares + np.einsum("ij,ij->i", high, small) * 2.0**21
    squares = squares + np.einsum("ij,ij->i", small, small)
    return np.asarray(np.ldexp(np.sqrt(squares / count), -shift), np.float64)


def _spare(count: int) -> int:
    return int(np.frexp(np.float64(count))[1])
