"""The numbers that say how well tokens keep a record: PSNR, SNR, from exact sums of squares.

They are stored with every sample and enter its canonical row, so they are rounded where a library's logarithm could
differ in its last bit, and a perfect reconstruction is `LOSSLESS_DB`, not infinity.
"""

from __future__ import annotations

import math

LOSSLESS_DB = 100.0


def decibels(signal: float, noise: float) -> float:
    """10 log10(signal / noise) to three decimals, at most LOSSLESS_DB; NaN if there is no signal to speak of."""
    if noise == 0:
        return LOSSLESS_DB
    if signal <= 0:
        return math.nan
    return min(LOSSLESS_DB, round(10.0 * math.log10(signal / noise), 3))


def psnr_db(squared_error: float, values: int, peak: float) -> float:
    """Peak signal-to-noise ratio of `values` values with a summed squared error; NaN for no values."""
    return decibels(peak * peak * values, squared_error) if values else math.nan


def psnr_of_rms(root_mean_square: float, peak: float) -> float:
    """Peak signal-to-noise ratio of a root mean square error, safe for any magnitude."""
    if root_mean_square == 0:
        return LOSSLESS_DB
    if peak <= 0 or not math.isfinite(root_mean_square):
        return math.nan
    return min(LOSSLESS_DB, round(20.0 * (math.log10(peak) - math.log10(root_mean_square)), 3))
