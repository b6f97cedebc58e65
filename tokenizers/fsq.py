"""Finite scalar quantization, the two formulas in use. They share a name and nothing else, so a variant is named.

`cosmos` (Cosmos-Tokenizer, identical to vector-quantize-pytorch):
    h = (L - 1) * 1.001 / 2;  o = 0.5 if L is even else 0;  s = atanh(o / h)
    level = round(tanh(z + s) * h - o) + L // 2;  code = (level - L // 2) / (L // 2)

`terramind` (TerraMind and 4M):
    level = round(sigmoid(z) * (L - 1));  code = level / (L - 1)

Both: index = sum of level_k * basis_k, basis = 1, L_0, L_0 L_1, …
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from headrace.schemas.errors import TokenizerError
from headrace.tokenizers.arrays import Array

Variant = Literal["cosmos", "terramind"]


class Fsq:
    """Levels per dimension of one variant; all functions work on the last axis."""

    def __init__(self, levels: Sequence[int], variant: Variant) -> None:
        if variant not in ("cosmos", "terramind"):
            raise TokenizerError(f"there is no FSQ variant `{variant}`: name `cosmos` or `terramind`")
        # With L = 2 the cosmos formula takes atanh(0.999): its authors refuse that too.
        smallest = 3 if variant == "cosmos" else 2
        if not levels or min(levels) < smallest:
            raise TokenizerError(f"FSQ variant `{variant}` needs levels of {smallest} or more, not {list(levels)}")
        self.variant = variant
        self.levels = np.array(levels, np.int64)
        self.size = math.prod(levels)
        self._basis = np.concatenate(([1], np.cumprod(self.levels[:-1])))

    def quantize(self, z: Array) -> Array:
        """int64 level indices of float latents (..., dimensions)."""
        x = z.astype(np.float64)
        if self.variant == "terramind":
            return np.rint((self.levels - 1) / (1.0 + np.exp(-x))).astype(np.int64)
        half = (self.levels - 1) * 1.001 / 2
        offset = np.where(self.levels % 2 == 0, 0.5, 0.0)
        bounded = np.tanh(x + np.arctanh(offset / half)) * half - offset
        return np.rint(bounded).astype(np.int64) + self.levels // 2

    def codes(self, level: Array) -> Array:
        """float32 code values of level indices: what a decoder takes."""
        if self.variant == "terramind":
            return (level / (self.levels - 1)).astype(np.float32)
        half = self.levels // 2
        return ((level - half) / half).astype(np.float32)

    def levels_of_codes(self, code: Array) -> Array:
        """The inverse of `codes`."""
        if self.variant == "terramind":
            return np.rint(code * (self.levels - 1)).astype(np.int64)
        half = self.levels // 2
        return np.rint(code * half).astype(np.int64) + half

    def index(self, level: Array) -> Array:
        """int64 index in [0, size) of level indices (..., dimensions)."""
        return np.asarray((level.astype(np.int64) * self._basis).sum(axis=-1), np.int64)

    def levels_of_index(self, index: Array) -> Array:
        """The inverse of `index`. Raises: TokenizerError for an index that is not below `size`."""
        index = np.asarray(index, np.int64)
        if index.size and (int(index.min()) < 0 or int(index.max()) >= self.size):
            raise TokenizerError(f"FSQ indices lie in [0, {self.size}), not {int(index.min())} to {int(index.max())}")
        return np.asarray(index[..., None] // self._basis % self.levels, np.int64)
