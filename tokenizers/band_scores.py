"""A band of a raster as integer standard scores by patches: what `band-pca-fsq` codes.

A tile of whole numbers of up to 16 bits holds far fewer different numbers than pixels, so its moments and its scores
are computed once for each number that occurs, and every pixel looks its score up. The results are the same to the last
bit: moments are sums of integers, which have no order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from headrace.tokenizers.arrays import Array
from headrace.tokenizers.exact_math import moments_of_counts, rms_of_integers, root_mean_square
from headrace.tokenizers.loc_scale import LocScale, from_moments, measure
from headrace.tokenizers.patch_masks import mean_filled
from headrace.tokenizers.patches import cut_raster

#: A standard score of 1 is this many integer units, and scores beyond ±32 are clipped (and counted).
UNIT = 256.0
LIMIT = 32 * 256
SCALE_BITS = 10


@dataclass(frozen=True)
class BandScores:
    """A band's tile by patches.

    header: (exponent, scale, loc); integers: float64 (patches, area), the scores in units within ±LIMIT, 0 where a
    pixel is missing; exact: the same without the limit (the same array where none is beyond it); valid: bool of that
    shape, None where no pixel is missing; known, beyond: how many pixels are data, and how many of them beyond ±LIMIT.
    """

    header: tuple[int, int, int]
    integers: Array
    exact: Array
    valid: Array | None
    known: int
    beyond: int

    @property
    def filled(self) -> Array:
        """The integers with missing pixels set to the mean of their patch, rounded."""
        if self.valid is None:
            return self.integers
        return mean_filled(self.integers[:, None], self.valid[:, None])[:, 0]

    def relative_error(self, rebuilt: Array) -> float | None:
        """Root mean square error over the standard deviation; None for a band without data, 0 for a constant one.

        rebuilt: (patches, area), written over.
        """
        if not self.known:
            return None
        if self.header[1] == 0:
            return 0.0
        missed = np.subtract(rebuilt, self.exact, out=rebuilt)
        flat = missed.reshape(-1) if self.valid is None else missed[self.valid]
        found = rms_of_integers(flat)
        return (float(root_mean_square(flat, np.array([0, len(flat)]))[0]) if found is None else found) / UNIT


def band_scores(pixels: Array, valid: Array | None, patch: int) -> BandScores:
    """The scores of one band (height, width) of a dtype of `DTYPES`; valid: bool of its shape, None: all of it."""
    counted = _counted(pixels, valid) if pixels.dtype.kind in "iu" and pixels.dtype.itemsize <= 2 else None
    by_patch = None if valid is None else cut_raster(valid[None], patch)
    if counted is not None:
        found, places, table = counted
        exact = table.take(cut_raster(places[None], patch))
        if by_patch is not None:
            exact[~by_patch] = 0.0
        farthest = float(np.abs(table).max())
    else:
        flat = (pixels.reshape(-1) if valid is None else pixels[valid]).astype(np.float64)
        found = measure(flat, np.array([0, len(flat)]) if len(flat) else np.zeros(1, np.int64), SCALE_BITS)
        scores = found.scores(flat, np.array([len(flat)] if len(flat) else [], np.int64))
        scores *= UNIT
        np.rint(scores, out=scores)
        if valid is None:
            full = scores.reshape(pixels.shape)
        else:
            full = np.zeros(pixels.shape)
            full[valid] = scores
        exact = cut_raster(full[None], patch)
        farthest = float(np.abs(scores).max(initial=0.0))
    beyond = int((np.abs(exact) > LIMIT).sum()) if farthest > LIMIT else 0
    integers = np.clip(exact, -LIMIT, LIMIT) if beyond else exact
    known = exact.size if by_patch is None else int(by_patch.sum())
    header = found.integers(0) if len(found.loc) else (0, 0, 0)
    return BandScores(header, integers, exact, by_patch, known, beyond)


def _counted(pixels: Array, valid: Array | None) -> tuple[LocScale, Array, Array] | None:
    """(location and scale, which number each pixel is, the score of each number) by counting the numbers that occur.

    None where they are not so few that counting pays, or there are none.
    """
    kept = pixels if valid is None else pixels[valid]
    if not kept.size:
        return None
    low, high = int(kept.min()), int(kept.max())
    if high - low >= max(256, kept.size // 4):
        return None
    unsigned = np.dtype(f"u{pixels.dtype.itemsize}")
    start = kept.dtype.type(low).view(unsigned)
    places = pixels.view(unsigned) - start  # modulo the type's size, so that signed ones count from 0, too
    if valid is not None:
        places = np.where(valid, places, unsigned.type(0))
    counts = np.bincount((kept.view(unsigned) - start).reshape(-1))
    numbers = np.flatnonzero(counts)
    x = (numbers + low).astype(np.float64)
    first = kept.reshape(-1)[:1].astype(np.float64)
    found = from_moments(*moments_of_counts(x, counts[numbers]), first, np.array([low == high]), SCALE_BITS)
    table = np.zeros(len(counts))
    table[numbers] = np.rint(found.scores(x, np.array([len(x)])) * UNIT)
    return found, places, table
