"""μ-law companding of 16-bit samples as two lookup tables: the 8-bit code of ITU-T G.711, and finer ones.

G.711 takes 14-bit samples; 16-bit ones are shifted down by two first. A code byte is the complement of
sign (1 bit), segment (3 bits), step within the segment (4 bits); a sample decodes to the middle of its interval:

    encode  m = min(|x >> 2|, 8158) + 33;  segment = floor(log2 m) - 5;  step = (m >> (segment + 1)) & 15
    decode  |x| = ((2 * step + 33) << segment) - 33
"""

from __future__ import annotations

import functools

import numpy as np

from headrace.tokenizers.arrays import Array
from headrace.tokenizers.exact_math import exp2, log2

_BIAS = 33
_CLIP = 8158


@functools.cache
def g711_tables() -> tuple[Array, Array]:
    """(encode: uint8 for each int16 viewed as uint16, decode: int16 for each byte)."""
    samples = np.arange(1 << 16, dtype=np.uint16).view(np.int16).astype(np.int64)
    narrow = samples >> 2
    # Negated, as Sun's reference code and all that follow it do; G.191 complements, which differs at interval ends.
    magnitude = np.minimum(np.abs(narrow), _CLIP) + _BIAS
    segment = np.frexp(magnitude.astype(np.float64))[1].astype(np.int64) - 6
    step = (magnitude >> (segment + 1)) & 15
    code = ~((samples < 0) * 128 | segment << 4 | step) & 255
    byte = ~np.arange(256) & 255
    value = ((2 * (byte & 15) + _BIAS) << (byte >> 4 & 7)) - _BIAS
    decoded = np.where(byte & 128, -value, value) * 4
    return code.astype(np.uint8), decoded.astype(np.int16)


@functools.cache
def fine_tables(bits: int) -> tuple[Array, Array]:
    """As `g711_tables`, with 2^bits codes by the continuous law of mu = 2^bits - 1; code 0 is the most negative.

    encode  y = sign(x) * log2(1 + mu |x| / 32768) / bits;  code = floor((y + 1) / 2 * 2^bits)
    """
    count = 1 << bits
    samples = np.arange(1 << 16, dtype=np.uint16).view(np.int16).astype(np.float64)
    magnitude = np.minimum(np.abs(samples + 0.5), 32767.5) / 32768.0
    y = log2(1.0 + (count - 1) * magnitude) / bits
    code = np.clip(np.floor((np.copysign(y, samples + 0.5) + 1.0) * (count / 2)), 0, count - 1).astype(np.uint16)
    middle = (np.arange(count) + 0.5) * (2.0 / count) - 1.0
    value = np.copysign((exp2(np.abs(middle) * bits) - 1.0) / (count - 1) * 32768.0, middle)
    return code, np.clip(np.rint(value - 0.5), -32768, 32767).astype(np.int16)
