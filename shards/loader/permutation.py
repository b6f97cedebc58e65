"""Keyed permutations that are the same for ever: on every machine, in every version of every library.

The places of 0 … n-1 are sorted by SplitMix64 of (key, place). SplitMix64 is a bijection, so no two sort keys are
equal and the order is uniform over keys; it needs integer arithmetic only, unlike the streams of numpy's generators,
which may change between versions. Constants: Steele, Lea, Flood, "Fast splittable pseudorandom number generators".
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt

from headrace.schemas.canonical import canonical_json

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


def key_of(*parts: Any) -> int:
    """A 64-bit key from JSON values: the same values give the same key for ever."""
    return int.from_bytes(hashlib.sha256(canonical_json(list(parts))).digest()[:8], "little")


def permutation(n: int, key: int) -> npt.NDArray[np.int64]:
    """The numbers 0 … n-1, each once, in the order that belongs to `key`."""
    with np.errstate(over="ignore"):
        state = (np.arange(1, n + 1, dtype=np.uint64) * _GOLDEN) + np.uint64(key)
        state = (state ^ (state >> np.uint64(30))) * _FIRST
        state = (state ^ (state >> np.uint64(27))) * _SECOND
        state ^= state >> np.uint64(31)
    return np.argsort(state, kind="stable")
