"""Patches with missing pixels: what stands in for them, and how the mask is spelled in tokens.

    whole patch       [code]*stages
    nothing valid     [NODATA]
    partly valid      [PARTIAL][mask digit]*n [code]*stages

The mask of a partly valid patch is spelled exactly, ten pixels to a digit, so a decoded raster knows which pixels were
data. A missing pixel is coded as the mean of its patch's valid pixels in the same band, which costs the fewest levels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from headrace.schemas.errors import TokenizerError
from headrace.tokenizers.arrays import Array

MASK_BITS = 10  #: pixels per mask digit; the digits are the 1,024 digits of `IntegerIds`


def mean_filled(patches: Array, valid: Array) -> Array:
    """Integer-valued patches (n, bands, pixels) with missing pixels set to their band's mean in the patch, rounded.

    valid: bool (n, bands, pixels) or (n, 1, pixels). Patches without a valid pixel become 0.
    """
    counts = valid.sum(axis=2, keepdims=True)
    sums = np.where(valid, patches, 0.0).sum(axis=2, keepdims=True)
    return np.where(valid, patches, np.rint(sums / np.maximum(counts, 1)))


@dataclass(frozen=True)
class MaskIds:
    """Ids of the two markers and of the digits that spell a mask; `digits` is the id of digit 0."""

    nodata: int
    partial: int
    digits: int

    def write(self, codes: Array, valid: Array) -> Array:
        """The tokens of (n, stages) codes whose pixels are valid where `valid` bool (n, pixels) says so."""
        stages = codes.shape[1]
        counts = valid.sum(axis=1)
        whole, empty = counts == valid.shape[1], counts == 0
        if whole.all():
            return codes.reshape(-1)
        partial = ~whole & ~empty
        width = -(-valid.shape[1] // MASK_BITS)
        lengths = np.where(empty, 1, np.where(partial, 1 + width + stages, stages))
        ends = np.cumsum(lengths)
        out = np.empty(int(ends[-1]), np.uint32)
        out[ends[empty] - 1] = self.nodata
        for s in range(stages):
            out[ends[~empty] - stages + s] = codes[~empty, s]
        start = ends[partial] - lengths[partial]
        out[start] = self.partial
        for place, digit in enumerate(_digits(valid[partial], width).T):
            out[start + 1 + place] = self.digits + digit
        return out

    def read(self, tokens: Array, count: int, pixels: int, stages: int) -> tuple[Array, Array, int]:
        """(codes (count, stages), valid (count, pixels), tokens used) of `count` patches. Raises: TokenizerError."""
        if count > len(tokens):
            raise TokenizerError(f"{count} patches are expected, there are {len(tokens)} tokens")
        width = -(-pixels // MASK_BITS)
        codes = np.zeros((count, stages), np.int64)
        valid = np.ones((count, pixels), np.bool_)
        first = np.asarray(tokens[: count * stages]).astype(np.int64)
        if not np.isin(first, (self.nodata, self.partial)).any():
            return _plain(first, count, stages), valid, count * stages
        tokens = np.asarray(tokens[: count * (1 + width + stages)]).astype(np.int64)
        at = 0
        for i in range(count):
            if at >= len(tokens):
                raise TokenizerError(f"{count} patches are expected, the tokens end after {i}")
            if tokens[at] == self.nodata:
                valid[i] = False
                at += 1
                continue
            if tokens[at] == self.partial:
                digits = tokens[at + 1 : at + 1 + width] - self.digits
                if len(digits) < width or (digits < 0).any() or (digits >= 1 << MASK_BITS).any():
                    raise TokenizerError(f"the mask of patch {i} is cut short")
                valid[i] = ((digits[:, None] >> np.arange(MASK_BITS)) & 1).reshape(-1)[:pixels].astype(np.bool_)
                at += 1 + width
            codes[i] = _plain(tokens[at : at + stages], 1, stages)[0]
            at += stages
        return codes, valid, at


def _digits(valid: Array, width: int) -> Array:
    padded = np.zeros((len(valid), width * MASK_BITS), np.int64)
    padded[:, : valid.shape[1]] = valid
    return (padded.reshape(len(valid), width, MASK_BITS) << np.arange(MASK_BITS)).sum(axis=2)


def _plain(tokens: Array, count: int, stages: int) -> Array:
    if len(tokens) < count * stages:
        raise TokenizerError(f"{count * stages} codes are expected, there are {len(tokens)}")
    return tokens[: count * stages].reshape(count, stages)
