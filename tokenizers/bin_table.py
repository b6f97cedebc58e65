"""Which of many sorted thresholds lie at or below a value, looked up instead of searched for.

The upper bits of a float64 (sign, exponent, the first bits of the mantissa) number a cell of the real line. Where no
cell holds more than one threshold, a value's bin is what its cell begins with, plus one comparison: the same bin as
`searchsorted(thresholds, values, side="right")` gives, without its dozen branches that no processor foresees.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from headrace.tokenizers.arrays import Array

_MANTISSA_BITS = 52
_MOST_BITS = 9  #: of the mantissa: a table of 2^21 cells is 20 MB


class BinTable:
    """Bins of float64 values between rising thresholds; NaN may not occur."""

    def __init__(self, thresholds: Array) -> None:
        self._thresholds = np.asarray(thresholds, np.float64)
        self._shift, self._below, self._border = _cells(self._thresholds.tobytes())

    def bins(self, values: Array) -> Array:
        """How many thresholds are <= each value (contiguous float64): an integer array of the same shape."""
        if self._shift is None:
            return np.searchsorted(self._thresholds, values, side="right")
        cell = (values.view(np.uint64) >> np.uint64(self._shift)).view(np.int64)
        found = self._below.take(cell)
        found += self._border.take(cell) <= values
        return found


@lru_cache(maxsize=8)
def _cells(data: bytes) -> tuple[int | None, Array, Array]:
    """(shift, below, border): of each cell how many thresholds lie below all of it, and the one inside (or NaN).

    shift None: some cell of every size that is still small would hold two thresholds.
    """
    thresholds = np.frombuffer(data, np.float64) + 0.0  # no negative zero
    nothing = np.zeros(0)
    for bits in range(4, _MOST_BITS + 1):
        shift = _MANTISSA_BITS - bits
        cells = thresholds.view(np.uint64) >> np.uint64(shift)
        # Zero lies in the first positive cell and, as -0.0, in the first negative one.
        taken = np.append(cells, np.uint64(1 << (11 + bits))) if (thresholds == 0).any() else cells
        if len(np.unique(taken)) == len(taken):
            break
    else:
        return None, nothing, nothing
    half = 1 << (11 + bits)
    first = (np.arange(2 * half, dtype=np.uint64) << np.uint64(shift)).view(np.float64)
    # A negative cell begins, as a number, with its last pattern of bits.
    last = np.uint64((1 << shift) - 1)
    first[half:] = ((np.arange(half, 2 * half, dtype=np.uint64) << np.uint64(shift)) | last).view(np.float64)
    first[:half][np.isnan(first[:half])] = np.inf
    first[half:][np.isnan(first[half:])] = -np.inf
    below = np.searchsorted(thresholds, first, side="left").astype(np.uint16)
    border = np.full(2 * half, np.nan)  # which is never <= anything
    border[taken.astype(np.int64)] = np.append(thresholds, 0.0)[: len(taken)]
    return shift, below, border
