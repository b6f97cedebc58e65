"""Logarithm, power and moments whose bits do not depend on the machine.

Libraries of mathematical functions differ in the last bit between processors, and a floating-point sum depends on its
order. Tokens must not, so these functions use only operations that IEEE 754 rounds correctly (+ - * / sqrt, and exact
scaling by powers of two), one numpy call at a time, and sums of integers.
"""

from __future__ import annotations

import numpy as np

from headrace.tokenizers.arrays import Array

_LOG2_E = 1.4426950408889634
_LN_2 = 0.6931471805599453


def log2(x: Array) -> Array:
    """log2 of positive finite float64, within about 2 units in the last place.

    log(m) = 2 atanh((m - 1) / (m + 1)) by its series, for a mantissa m in [sqrt(1/2), sqrt(2)).
    """
    mantissa, exponent = np.frexp(np.asarray(x, np.float64))
    low = mantissa < 0.7071067811865476
    mantissa = np.where(low, mantissa * 2.0, mantissa)
    exponent = exponent - low
    s = (mantissa - 1.0) / (mantissa + 1.0)
    square = s * s
    series = np.full_like(s, 1.0 / 25.0)
    for odd in range(23, 0, -2):
        series = series * square
        series = series + 1.0 / odd
    return np.asarray(exponent + (2.0 * _LOG2_E) * (s * series), np.float64)


def exp2(x: Array) -> Array:
    """2**x of float64 with |x| < 1000, within about 2 units in the last place."""
    x = np.asarray(x, np.float64)
    whole = np.rint(x)
    rest = (x - whole) * _LN_2
    series = np.ones_like(rest)
    for n in range(18, 0, -1):
        series = series * rest
        series = series / n
        series = series + 1.0
    return np.asarray(np.ldexp(series, whole.astype(np.int32)), np.float64)


def scaled(x: Array, powers: Array, counts: Array) -> Array:
    """x * 2**powers[i] for the counts[i] values of run i, as ldexp gives it.

    A product with a power of two is rounded once, as ldexp's result is, and costs a tenth; ldexp reaches further.
    """
    if ((powers < -1022) | (powers > 1023)).any():
        return np.asarray(np.ldexp(x, np.repeat(powers, counts)), np.float64)
    return np.asarray(x * np.repeat(np.ldexp(1.0, powers), counts), np.float64)


def by_power(x: Array, power: int) -> Array:
    """x * 2**power of any array, as ldexp gives it; see `scaled`."""
    return np.asarray(x * 2.0**power if -1022 <= power <= 1023 else np.ldexp(x, power), np.float64)


def exponents(x: Array, borders: Array) -> Array:
    """Per run, the least e with every |value| < 2**e (0 where all are zero). int32 (runs,)."""
    largest = np.maximum.reduceat(np.abs(x), borders[:-1]) if len(x) else np.zeros(0)
    return np.frexp(largest)[1].astype(np.int32)


def mean_and_deviation(x: Array, borders: Array) -> tuple[Array, Array]:
    """(mean, population standard deviation) of each run of finite float64 values, computed in integers.

    borders: int64 (runs + 1,), run i is `x[borders[i]:borders[i + 1]]`, none empty.
    """
    mean, deviation, bits = scaled_moments(x, borders)
    return np.ldexp(mean, -bits), np.ldexp(deviation, -bits)


def scaled_moments(x: Array, borders: Array) -> tuple[Array, Array, Array]:
    """(mean, deviation, bits): as `mean_and_deviation`, both times 2**bits, which keeps them clear of underflow.

    Each run is scaled by a power of two so that its sum, and the sum of its squared differences, fit in 63 bits.
    """
    counts = np.diff(borders)
    spare = np.frexp(counts.astype(np.float64))[1]
    bits = np.minimum(53, 63 - spare) - exponents(x, borders)
    whole = np.rint(scaled(x, bits, counts)).astype(np.int64)
    sums = np.add.reduceat(whole, borders[:-1]) if len(x) else np.zeros(0, np.int64)
    middle = (2 * (sums // counts) + (2 * (sums % counts) + counts) // counts) // 2  # rounded, without overflow
    away = whole - np.repeat(middle, counts)
    return middle.astype(np.float64), _root_mean_square(away, borders), bits


def moments_of_counts(x: Array, counts: Array) -> tuple[Array, Array, Array]:
    """`scaled_moments` of one run in which x[i] occurs counts[i] times (int64, above 0), in whatever order."""
    total = np.array([counts.sum()])
    spare = np.frexp(total.astype(np.float64))[1]
    bits = np.minimum(53, 63 - spare) - np.frexp(np.abs(x).max(keepdims=True))[1]
    whole = np.rint(np.ldexp(x, bits)).astype(np.int64)
    sums = np.dot(whole, counts)
    middle = (2 * (sums // total) + (2 * (sums % total) + total) // total) // 2
    return middle.astype(np.float64), _root_mean_square(whole - middle, np.array([0, len(x)]), counts), bits


def rms_of_integers(x: Array) -> float | None:
    """`root_mean_square` of one run of integer-valued float64; None where they are too large for the short way.

    Up to 2^18 and more, depending on how many they are, `root_mean_square` loses no bit of their squares before the
    division; then the sum of the squares, exact below 2^53 in any order, is all there is to it.
    """
    squares = float(np.dot(x, x))
    reach = (62 - int(np.frexp(np.float64(len(x)))[1])) // 2
    return float(np.sqrt(squares / len(x))) if len(x) and squares < min(2.0 ** (2 * reach), 2.0**53) else None


def root_mean_square(x: Array, borders: Array) -> Array:
    """Root of the mean square of each run of finite float64 values, computed in integers; see `mean_and_deviation`."""
    counts = np.diff(borders)
    bits = 52 - exponents(x, borders)
    whole = np.rint(scaled(x, bits, counts)).astype(np.int64)
    return np.asarray(np.ldexp(_root_mean_square(whole, borders), -bits), np.float64)


def _root_mean_square(whole: Array, borders: Array, times: Array | None = None) -> Array:
    """Of int64 values below 2^63: each is cut to 20 low bits and a rest, so that sums of products fit in 63 bits.

    times: how often each value occurs, if not once; then there is one run.
    """
    counts = np.diff(borders) if times is None else np.array([times.sum()])
    if not len(whole):
        return np.zeros(0)
    starts = borders[:-1]
    spare = np.frexp(counts.astype(np.float64))[1]
    size = np.frexp(np.maximum.reduceat(np.abs(whole), starts).astype(np.float64))[1]
    shift = np.minimum(0, 20 + (62 - spare) // 2 - size)
    sizes = counts if times is None else np.array([len(whole)])
    small = np.rint(scaled(np.abs(whole).astype(np.float64), shift, sizes)).astype(np.int64)
    high, low = small >> 20, small & 0xFFFFF
    often = 1 if times is None else times
    squares = np.add.reduceat(often * high * high, starts) * 2.0**40
    squares = squares + np.add.reduceat(often * high * low, starts) * 2.0**21
    squares = squares + np.add.reduceat(often * low * low, starts)
    return np.asarray(np.ldexp(np.sqrt(squares / counts), -shift), np.float64)
