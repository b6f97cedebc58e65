"""Windows of samples as bins of standard scores, with what the bins lose: the arithmetic of `zscore-mu-law`.

Windows are taken some hundred kilobytes at a time, which stays near the processor. Those of equal length that lack no
value go row by row of a matrix (see even_windows.py), the others end to end with their borders; the numbers are the
same.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from headrace.tokenizers.arrays import Array
from headrace.tokenizers.bin_table import BinTable
from headrace.tokenizers.even_windows import measure_even, root_mean_square_even, scores_even
from headrace.tokenizers.exact_math import root_mean_square
from headrace.tokenizers.loc_scale import LocScale, measure

_CHUNK_VALUES = 1 << 15
_ENOUGH = 0.25  #: share of windows that lack nothing for which it pays to take them apart


@dataclass(frozen=True)
class Scored:
    """Consecutive windows. ids: one array per window, with `gap` where no value is known.

    exponent, scale: int64, loc: float64 holding integers (all 0 for a window without a value); errors: NaN there;
    clips: the share of samples beyond the bins, or claimed to be valid and not finite.
    """

    ids: Sequence[Array]
    exponent: Array
    scale: Array
    loc: Array
    errors: Array
    clips: Array


class Scores:
    """Scores windows against bins of `centres` between `thresholds`; a score beyond ±`limit` is counted as clipped."""

    def __init__(self, thresholds: Array, centres: Array, limit: float, bits: int) -> None:
        self._table, self._centres = BinTable(thresholds), centres
        self._limit, self._bits = limit, bits
        self._gap = len(centres)

    def of(self, value: Sequence[Array], valid: Sequence[Array]) -> Iterator[Scored]:
        """All windows, in order; value: float64, valid: bool, of the same length window by window."""
        lengths = np.array([len(v) for v in value], np.int64)
        chunks = (np.cumsum(lengths) - lengths) // _CHUNK_VALUES
        borders = [0, *(np.flatnonzero(np.diff(chunks)) + 1).tolist(), len(value)] if len(value) else [0]
        for begin, end in itertools.pairwise(borders):
            x, claimed = np.concatenate(value[begin:end]), np.concatenate(valid[begin:end])
            yield self._chunk(x, claimed, lengths[begin:end])

    def _chunk(self, x: Array, claimed: Array, lengths: Array) -> Scored:
        known = np.isfinite(x)
        known &= claimed
        length, count = int(lengths[0]), len(lengths)
        if length and known.all() and (lengths == length).all():
            return self._even(x.reshape(count, length))
        if not length or (lengths != length).any():
            return self._ragged(x, claimed, lengths)
        whole = known.reshape(count, length).all(axis=1)
        if whole.mean() < _ENOUGH:
            return self._ragged(x, claimed, lengths)
        lacking = np.repeat(~whole, length)
        parts = (
            self._even(x.reshape(count, length)[whole]),
            self._ragged(x[lacking], claimed[lacking], lengths[~whole]),
        )
        return _merged(parts, np.argsort(np.argsort(~whole, kind="stable"), kind="stable"))

    def _even(self, x: Array) -> Scored:
        found = measure_even(x, self._bits)
        scores = scores_even(x, found)
        ids = self._table.bins(scores)
        clips = np.zeros(len(x))
        if ids.min() == 0 or ids.max() == self._gap - 1:  # only in the outermost bins can a score be beyond them
            clips = (np.abs(scores) > self._limit).sum(axis=1) / x.shape[1]
        scores -= self._centres.take(ids)
        # Scores' own deviation is 1 to 2^-30, so their root mean square error is the error relative to the deviation.
        errors = np.where(found.scale > 0, root_mean_square_even(scores), 0.0)
        return Scored(list(ids), found.exponent.astype(np.int64), found.scale, found.loc, errors, clips)

    def _ragged(self, given: Array, claimed: Array, lengths: Array) -> Scored:
        ends = np.cumsum(lengths)
        known = np.isfinite(given)
        known &= claimed
        counts = _runs(known, ends, lengths)
        some = counts > 0
        borders = np.concatenate(([0], np.cumsum(counts[some])))
        x = given[known]
        found = measure(x, borders, self._bits)
        scores = found.scores(x, counts[some])
        ids = np.full(len(given), self._gap, np.int64)
        ids[known] = bins = self._table.bins(scores).astype(np.int64)
        errors = np.full(len(lengths), np.nan)
        missed = root_mean_square(scores - self._centres[bins], borders)
        errors[some] = np.where(found.scale > 0, missed, 0.0)
        lost = claimed & ~known  # infinite, or NaN where the source says there is a value
        lost[known] = np.abs(scores) > self._limit
        clips = _runs(lost, ends, lengths) / np.maximum(lengths, 1)
        return Scored(
            [ids[end - size : end] for end, size in zip(ends.tolist(), lengths.tolist())],
            *_spread(found, some), errors, clips,
        )  # fmt: skip


def _merged(parts: Sequence[Scored], order: Array) -> Scored:
    """Window i is the order[i]-th of all of the parts."""
    ids = [row for part in parts for row in part.ids]
    numbers = (
        np.concatenate([getattr(part, name) for part in parts])[order]
        for name in ("exponent", "scale", "loc", "errors", "clips")
    )
    return Scored([ids[i] for i in order.tolist()], *numbers)


def _spread(found: LocScale, some: Array) -> tuple[Array, Array, Array]:
    """exponent, scale and loc of all windows, 0 for those that are not `some`."""
    exponent, scale, loc = np.zeros(len(some), np.int64), np.zeros(len(some), np.int64), np.zeros(len(some))
    exponent[some], scale[some], loc[some] = found.exponent, found.scale, found.loc
    return exponent, scale, loc


def _runs(flags: Array, ends: Array, lengths: Array) -> Array:
    """How many flags are set in each run."""
    total = np.concatenate(([0], np.cumsum(flags)))
    return np.asarray(total[ends] - total[ends - lengths], np.int64)
