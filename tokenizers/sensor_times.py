"""Time stamps of a sensor window as tokens: nothing more for a regular clock, one number where it deviates.

    header   first unit step       first stamp (ns), unit (ns), step (units)
    before a sample whose stamp is not `step` units after the one before: that difference, in units

`unit` is the greatest common divisor of all differences and `step` the commonest difference (the least among equals),
so a clock that ticks evenly costs three numbers and every stamp is kept to the nanosecond, backward ones included.
"""

from __future__ import annotations

import numpy as np

from headrace.schemas.errors import TokenizerError
from headrace.tokenizers.arrays import Array


def describe(t: Array) -> tuple[tuple[int, int, int], Array, Array]:
    """((first, unit, step), positions, differences) of int64 nanoseconds.

    positions: indices of the samples whose stamp deviates (never the first); differences: int64, in units.
    """
    if len(t) < 2:
        return (int(t[0]) if len(t) else 0, 1, 0), np.zeros(0, np.int64), np.zeros(0, np.int64)
    differences = t[1:] - t[:-1]
    if differences[0] != 0 and (differences == differences[0]).all():
        unit = abs(int(differences[0]))
        return (int(t[0]), unit, 1 if differences[0] > 0 else -1), np.zeros(0, np.int64), np.zeros(0, np.int64)
    unit = int(np.gcd.reduce(differences)) or 1
    scaled = differences // unit
    values, counts = np.unique(scaled, return_counts=True)
    step = int(values[np.argmax(counts)])
    at = np.flatnonzero(scaled != step)
    return (int(t[0]), unit, step), at + 1, scaled[at]


def rebuild(header: tuple[int, int, int], count: int, at: Array, differences: Array) -> Array:
    """int64 nanoseconds of `count` samples. Raises: TokenizerError if a stamp cannot be."""
    first, unit, step = header
    largest = max(abs(step), int(np.abs(differences).max(initial=0)))
    if abs(first) >= 1 << 63 or not 0 < unit < 1 << 63 or largest * unit >= 1 << 63:
        raise TokenizerError(f"time stamps from {first} in steps of {step} times {unit} ns cannot be")
    steps = np.full(count, step, np.int64)
    steps[at] = differences
    steps[:1] = 0
    return np.int64(first) + np.cumsum(steps * np.int64(unit))
