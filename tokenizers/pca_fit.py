"""Fits an `IntegerPca` to chunks of integer vectors.

Everything that is gathered is a sum of integers (counts, sums, products, histograms), so the fit is the same for any
order of the records, any chunking and any number of threads. A small prior (neighbouring pixels and bands resemble
each other) keeps the components well defined when there is little data or constant data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from headrace.tokenizers.arrays import Array
from headrace.tokenizers.integer_pca import CENTRE_BITS, SHIFT, WEIGHT_BITS, IntegerPca
from headrace.tokenizers.scalar_levels import Histogram, Levels, place_levels, share_levels

Chunks = Callable[[], Iterable[Array]]

#: Weight of the prior, in vectors. Enough to order the components of a few patches, nothing against a thousand.
PRIOR_VECTORS = 64
_SPARE = 12  #: components looked at per stage; the allocation leaves the last ones at one level


@dataclass(frozen=True)
class Fit:
    """The arrays of an IntegerPca, and what the fit data looked like through it."""

    arrays: dict[str, Array]
    card: dict[str, Any]


def grid_prior(height: int, width: int, channels: int) -> Array:
    """Correlation of (height, width, channels) values: neighbours alike, channels very alike.

    The constants differ slightly per axis so that no two components have the same variance.
    """

    def chain(n: int, rho: float) -> Array:
        return np.asarray(rho ** np.abs(np.subtract.outer(np.arange(n), np.arange(n))), np.float64)

    return np.kron(np.kron(chain(height, 0.95), chain(width, 0.94)), chain(channels, 0.9))


def fit_pca(
    chunks: Chunks,
    prior: Array,
    limit: int,
    *,
    codes: int,
    stages: int,
    levels: Sequence[int] | None = None,
) -> Fit:
    """Fit to `chunks()`, called several times; each chunk is (n, size) integers of magnitude at most `limit`.

    `levels` fixes the levels of a single stage instead of sharing them out.
    """
    size = len(prior)
    count, total, products = 0, np.zeros(size), np.zeros((size, size))
    for chunk in chunks():
        x = chunk.astype(np.float64)
        count += len(x)
        total += x.sum(axis=0)
        products += x.T @ x
    mean = total / max(1, count)
    kept = min(size, len(levels) if levels else _SPARE * stages)
    rows = _components(products / max(1, count) - np.outer(mean, mean), count, prior, limit)
    weights = np.rint(rows[:kept] * (1 << WEIGHT_BITS))
    histograms = _histograms(chunks, weights, limit)
    shared, stage = (list(levels), [0] * len(levels)) if levels else share_levels(histograms, codes, stages)
    used = [k for k in range(kept) if shared[k] > 1] or [0]
    placed = [place_levels(histograms[k], shared[k]) for k in used]
    shift = weights[used] @ mean
    arrays = {
        "weights": weights[used].astype(np.int32),
        "mean": np.rint(mean * (1 << SHIFT)).astype(np.int64),
        "levels": np.array([shared[k] for k in used], np.int32),
        "stage": np.array([stage[k] for k in used], np.int32),
        "thresholds": np.concatenate([np.ceil(p.thresholds) for p in placed]).astype(np.int64),
        "centres": np.concatenate(
            [np.rint((p.centres - shift[i]) * 2.0 ** (CENTRE_BITS - WEIGHT_BITS)) for i, p in enumerate(placed)]
        ).astype(np.int64),
        "low": np.array([_reach(histograms[k], p, 0) for k, p in zip(used, placed)], np.int64),
        "high": np.array([_reach(histograms[k], p, 1) for k, p in zip(used, placed)], np.int64),
    }
    return Fit(arrays, _card(chunks, IntegerPca(arrays, stages, limit), count))


def _components(
    covariance: Array, count: int, prior: Array, limit: int
) -> Array:
    """Unit rows, the component of largest variance first."""
    variance = float(np.trace(covariance)) / len(prior)
    unit = variance if variance > 0 else (limit / 16) ** 2
    blended = (count * covariance + PRIOR_VECTORS * unit * prior) / (count + PRIOR_VECTORS)
    _, vectors = np.linalg.eigh((blended + blended.T) / 2)
    rows = vectors.T[::-1]
    # The sign of an eigenvector is the library's choice; ours is that its first clearly nonzero entry is positive.
    first = np.argmax(np.abs(rows) > 1e-3, axis=1)
    return np.asarray(rows * np.sign(rows[np.arange(len(rows)), first])[:, None], np.float64)


def _histograms(chunks: Chunks, weights: Array, limit: int) -> list[Histogram]:
    low = np.full(len(weights), np.inf)
    high = np.full(len(weights), -np.inf)
    for chunk in chunks():
        z = weights @ chunk.astype(np.float64).T
        low = np.minimum(low, z.min(axis=1, initial=np.inf))
        high = np.maximum(high, z.max(axis=1, initial=-np.inf))
    reach = np.abs(weights).sum(axis=1) * limit
    low, high = np.where(np.isfinite(low), low, -reach), np.where(np.isfinite(high), high, reach)
    histograms = [Histogram.empty(int(a), int(b)) for a, b in zip(low, high)]
    for chunk in chunks():
        z = weights @ chunk.astype(np.float64).T
        for k, histogram in enumerate(histograms):
            histogram.add(z[k])
    return histograms


def _reach(histogram: Histogram, levels: Levels, end: int) -> int:
    """The furthest coefficient that the outer level still means: its cell mirrored, or nearly all the fit data saw."""
    if len(levels.centres) < 2:
        return histogram.high if end else histogram.low
    if end:
        return int(np.ceil(max(2 * levels.centres[-1] - levels.thresholds[-1], histogram.quantile(0.999))))
    return int(np.floor(min(2 * levels.centres[0] - levels.thresholds[0], histogram.quantile(0.001))))


def _card(chunks: Chunks, pca: IntegerPca, count: int) -> dict[str, Any]:
    usage = [np.zeros(size, np.int64) for size in pca.sizes]
    squares = outside = 0
    for chunk in chunks():
        for coded in pca.encode(chunk):
            squares += int(((coded.rebuilt - coded.given) ** 2).sum())
            outside += int(coded.outside.sum())
            for s, size in enumerate(pca.sizes):
                usage[s] += np.bincount(coded.codes[:, s], minlength=size)
    shares = [u[u > 0] / max(1, count) for u in usage]
    return {
        "vectors": count,
        "mean_squared_error": round(squares / max(1, count * pca.size), 4),
        "clip_fraction": round(outside / max(1, count * pca.components), 6),
        "levels": [int(n) for n in pca.levels],
        "codes": pca.sizes,
        "code_usage": [round(float((u > 0).mean()), 4) for u in usage],
        "entropy_bits": [round(float(-(p * np.log2(p)).sum()), 3) for p in shares],
    }
