"""Bodies of rasters whose bands are coded together: patches of all bands through the integer PCA.

    height width {shift base}*bands [patch]*      shift and base only with scaling `base`

Missing pixels (the record's mask, or NaN and infinity in any band) are kept as masks (see patch_masks.py). A pixel that
one band lacks while others have it is coded as its patch's mean in that band and counted in the clip fraction.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from headrace.schemas.errors import TokenizerError
from headrace.tokenizers.arrays import Array
from headrace.tokenizers.exact_math import rms_of_integers, root_mean_square
from headrace.tokenizers.fidelity import psnr_of_rms
from headrace.tokenizers.integer_pca import IntegerPca
from headrace.tokenizers.integers import Reader
from headrace.tokenizers.patch_ids import PatchIds
from headrace.tokenizers.patch_masks import mean_filled
from headrace.tokenizers.patches import cut_raster, grid, join_raster
from headrace.tokenizers.pca_pictures import Body
from headrace.tokenizers.raster_scaling import RasterScaling

_MAX_SIDE = 1 << 20


class Rasters:
    """Codes rasters of one fixed list of bands and one dtype."""

    def __init__(
        self, pca: IntegerPca, ids: PatchIds, patch: int, scaling: RasterScaling, dtype: str, peak: float
    ) -> None:
        self._pca = pca
        self._ids = ids
        self._patch = patch
        self._scaling = scaling
        self._dtype: np.dtype[Any] = np.dtype(dtype)
        self._peak = peak
        self._bands = len(scaling.exponents)

    def encode(self, pixels: Array, valid: Array) -> Body:
        """The body of (bands, height, width) pixels; valid: bool, the same shape."""
        bands, height, width = pixels.shape
        values = pixels.astype(np.float64)
        scaled = self._scaling.forward(values, valid)
        filled = cut_raster(scaled.integers, self._patch)
        known = int(valid.sum())
        whole = known == valid.size
        valid_by_patch = cut_raster(valid, self._patch).reshape(len(filled), bands, -1)
        if not whole:
            filled = mean_filled(filled.reshape(valid_by_patch.shape), valid_by_patch).reshape(filled.shape)
        codes, rebuilt, outside = self._pca.encode_all(filled)
        body = self._ids.masks.write(codes, np.any(valid_by_patch, axis=1))
        tokens = np.concatenate([np.array(self._ids.integers.spell(height, width, *scaled.header)), body])
        back = self._values(rebuilt, scaled.header, height, width)
        lost = 0 if whole else int(np.any(valid, axis=0).sum()) * bands - known
        coefficients = len(filled) * self._pca.components
        clip = max(outside / max(1, coefficients), (scaled.outside + lost) / max(1, known + lost))
        return Body(tokens, self._error(values, back, valid, known), clip)

    def _error(self, given: Array, back: Array, valid: Array, known: int) -> float:
        if not known:
            return float("nan")
        difference = np.subtract(given, back, out=back)
        if known < difference.size:
            difference[~valid] = 0.0
        flat = difference.reshape(-1)
        rms = rms_of_integers(flat) if self._dtype.kind in "iu" else None
        if rms is None:
            rms = float(root_mean_square(flat, np.array([0, len(flat)]))[0])
        return psnr_of_rms(rms * math.sqrt(len(flat) / known), self._peak)

    def _values(self, rebuilt: Array, header: list[int], height: int, width: int) -> Array:
        """Float64 values, already what the dtype can hold, of patches of integers."""
        integers = join_raster(rebuilt, self._bands, height, width, self._patch)
        values = self._scaling.inverse(integers, header)
        if self._dtype.kind in "iu":
            limits = np.iinfo(self._dtype)
            return np.clip(np.rint(values), float(limits.min), float(limits.max))
        limit = float(np.finfo(self._dtype).max)
        return np.clip(values, -limit, limit)

    def decode(self, reader: Reader) -> tuple[Array, Array]:
        """(pixels (bands, height, width) in the fitted dtype, valid (height, width) bool). Raises: TokenizerError."""
        height, width = reader.numbers(2)
        if not (0 <= height <= _MAX_SIDE and 0 <= width <= _MAX_SIDE):
            raise TokenizerError(f"a raster of {height} by {width} cannot be")
        header = list(reader.numbers(self._scaling.header_length))
        rows, cols = grid(height, width, self._patch)
        count, area = rows * cols, self._patch * self._patch
        codes, valid, used = self._ids.masks.read(reader.tokens[reader.at :], count, area, self._pca.stages)
        reader.take(used)
        reader.end()
        if not count:
            return np.zeros((self._bands, height, width), self._dtype), np.zeros((height, width), np.bool_)
        values = self._values(self._pca.decode(codes), header, height, width)
        mask = join_raster(valid, 1, height, width, self._patch)[0]
        return np.where(mask, values, 0.0).astype(self._dtype), mask
