"""Vectors of integers to codes and back, by principal components in exact arithmetic.

A vector x of `size` integers is projected on `components` rows of integer weights, each coefficient falls into one of
its levels, and the levels of a stage are the digits of one code (mixed radix, the first coefficient least significant):

    z = weights @ x                      level_k = number of thresholds of k that are <= z_k
    code_s = sum over k of stage s of level_k * basis_k
    x' = (mean * 2^20 + centres[level] @ weights + 2^19) >> 20

All operands are integers held in float64 and every partial sum stays below 2^53, so a matrix product gives the same
bits in any order: tokens do not depend on the batch, the threads or the processor. (Float32 products do: measured.)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from headrace.schemas.errors import TokenizerError
from headrace.tokenizers.arrays import Array

WEIGHT_BITS = 14  #: a weight row has length 2^14
CENTRE_BITS = 6  #: a centre is a coefficient in 1/64 of the input's unit
SHIFT = WEIGHT_BITS + CENTRE_BITS

#: Vectors handled at once: a few megabytes of float64, which stays near the processor.
CHUNK_VALUES = 1 << 18



@dataclass(frozen=True)
class Coded:
    """Vectors `start` to `start + len(codes)`, coded.

    codes: uint32 (n, stages); given, rebuilt: float64 holding integers (n, size), before and after coding;
    outside: int64 (n,), how many coefficients of each vector lay outside what the fit saw.
    """

    start: int
    codes: Array
    given: Array
    rebuilt: Array
    outside: Array


class IntegerPca:
    """The coder; every array is an integer array and part of the artefact.

    weights: int32 (components, size); mean: int64 (size,), in 2^-20; levels, stage: int32 (components,);
    thresholds, centres: int64, one run per component, `levels - 1` and `levels` long; low, high: int64 (components,),
    the coefficients seen at the fit, outside of which a coefficient counts as clipped.
    """

    NAMES = ("weights", "mean", "levels", "stage", "thresholds", "centres", "low", "high")

    def __init__(self, arrays: dict[str, Array], stages: int, limit: int) -> None:
        missing = [name for name in self.NAMES if name not in arrays]
        if missing:
            raise TokenizerError(f"a PCA artefact lacks the arrays {', '.join(missing)}")
        self.weights = arrays["weights"].astype(np.float64)
        self.components, self.size = self.weights.shape
        self.stages = stages
        self.levels = arrays["levels"].astype(np.int64)
        self.stage = arrays["stage"].astype(np.int64)
        self.low, self.high = arrays["low"].astype(np.float64), arrays["high"].astype(np.float64)
        borders = np.concatenate(([0], np.cumsum(self.levels - 1)))
        centre_borders = np.concatenate(([0], np.cumsum(self.levels)))
        if len(arrays["thresholds"]) != borders[-1] or len(arrays["centres"]) != centre_borders[-1]:
            raise TokenizerError("a PCA artefact's thresholds and centres do not match its levels")
        thresholds, centres = arrays["thresholds"].astype(np.float64), arrays["centres"].astype(np.float64)
        self._thresholds = [thresholds[borders[k] : borders[k + 1]] for k in range(self.components)]
        self._centres = [centres[centre_borders[k] : centre_borders[k + 1]] for k in range(self.components)]
        self._basis = np.ones(self.components, np.int64)
        self.sizes = [1] * stages
        for k in range(self.components):
            s = int(self.stage[k])
            self._basis[k] = self.sizes[s]
            self.sizes[s] *= int(self.levels[k])
        self._offset = arrays["mean"].astype(np.float64) + float(1 << (SHIFT - 1))
        self._prove_exact(limit)

    def _prove_exact(self, limit: int) -> None:
        """Bound every partial sum for inputs of at most `limit`. Raises: TokenizerError."""
        forward = float(np.abs(self.weights).sum(axis=1).max(initial=0.0)) * limit
        largest = np.array([np.abs(c).max(initial=0.0) for c in self._centres])
        backward = float((largest @ np.abs(self.weights)).max(initial=0.0))
        if max(forward, backward + float(np.abs(self._offset).max(initial=0.0))) >= 2**53:
            raise TokenizerError("a PCA artefact's weights are too large for exact arithmetic")

    def encode(self, vectors: Array) -> Iterator[Coded]:
        """Code (n, size) integers (any numeric dtype), some megabytes at a time, in order."""
        step = max(1, CHUNK_VALUES // self.size)
        for start in range(0, len(vectors), step):
            yield self._encode(start, vectors[start : start + step].astype(np.float64))

    def encode_all(self, vectors: Array) -> tuple[Array, Array, int]:
        """(codes, rebuilt, outside) of all (n, size) vectors at once; see Coded, outside is the sum."""
        codes, rebuilt = np.empty((len(vectors), self.stages), np.uint32), np.empty((len(vectors), self.size))
        outside = 0
        for coded in self.encode(vectors):
            part = slice(coded.start, coded.start + len(coded.codes))
            codes[part], rebuilt[part] = coded.codes, coded.rebuilt
            outside += int(coded.outside.sum())
        return codes, rebuilt, outside

    def _encode(self, start: int, x: Array) -> Coded:
        z = self.weights @ x.T
        centres = np.empty_like(z)
        joined = np.zeros((self.stages, len(x)), np.int64)
        for k in range(self.components):
            level = np.searchsorted(self._thresholds[k], z[k], side="right")
            centres[k] = self._centres[k][level]
            joined[self.stage[k]] += level * self._basis[k]
        outside = ((z < self.low[:, None]) | (z > self.high[:, None])).sum(axis=0)
        rebuilt = np.empty_like(x)
        self._rebuild(centres, rebuilt)
        return Coded(start, joined.T.astype(np.uint32), x, rebuilt, outside)

    def _rebuild(self, centres: Array, out: Array) -> None:
        np.matmul(centres.T, self.weights, out=out)
        out += self._offset
        out *= 2.0**-SHIFT
        np.floor(out, out=out)

    def decode(self, codes: Array) -> Array:
        """Float64 integers (n, size) of (n, stages) codes. Raises: TokenizerError for a code that cannot be."""
        joined = codes.astype(np.int64)
        for s, size in enumerate(self.sizes):
            if len(joined) and int(joined[:, s].max()) >= size:
                raise TokenizerError(f"code {int(joined[:, s].max())} of stage {s} is not below {size}")
        rebuilt = np.empty((len(joined), self.size), np.float64)
        step = max(1, CHUNK_VALUES // max(1, self.size))
        for start in range(0, len(joined), step):
            part = joined[start : start + step]
            centres = np.empty((self.components, len(part)), np.float64)
            for k in range(self.components):
                centres[k] = self._centres[k][part[:, self.stage[k]] // self._basis[k] % self.levels[k]]
            self._rebuild(centres, rebuilt[start : start + step])
        return rebuilt
