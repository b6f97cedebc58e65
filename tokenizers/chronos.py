"""`chronos`: the bins of Chronos-T5 (MeanScaleUniformBins), token for token, without torch.

    scale = sum |x| / n        (1 where that is not above 0)
    id    = number of bin borders <= x / scale, plus the special tokens; a missing value is PAD (0)

Compatible with chronos-forecasting 2.3.2 as torch computes it on processors with fused multiply-add and 8-lane vectors
(AVX2): its `linspace` rounds once per centre, its `sum` adds 32 interleaved partial sums. numpy's own linspace differs
in 207 of 4,093 centres. Three things that are Chronos's and not ours: missing values are padding, time stamps are not
kept, and the scale is not in the tokens: without `scale_in_tokens` a body decodes in units of its scale, one second a
sample. The end-of-sequence token is never stored: list borders are the documents.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from headrace.schemas.errors import SchemaMismatch, TokenizerError
from headrace.schemas.record import Modality, RecordBuilder, list_views, modality_of
from headrace.tokenizers.arrays import Array
from headrace.tokenizers.artefact_checks import check_artefact
from headrace.tokenizers.contract import Artefact, Encoded, Tokenizer, TokenizerConfig
from headrace.tokenizers.exact_math import mean_and_deviation, root_mean_square
from headrace.tokenizers.integers import IntegerIds

KIND = "chronos"
_LANES, _STREAMS, _LEVELS = 8, 4, 4


class ChronosConfig(TokenizerConfig):
    """Settings of `chronos`, by the names and with the defaults of the Chronos-T5 models."""

    n_tokens: int = Field(4096, ge=8, le=1 << 16, description="bins and special tokens together")
    n_special_tokens: int = Field(2, ge=1, le=16, description="ids before the bins")
    pad_token_id: int = Field(0, ge=0, description="what a missing value becomes")
    low_limit: float = Field(-15.0, description="the lowest bin's centre, in units of the scale")
    high_limit: float = Field(15.0, description="the highest bin's centre")
    scale_in_tokens: bool = Field(False, description="begin each body with its scale, in ids above `n_tokens`")

    @model_validator(mode="after")
    def _consistent(self) -> ChronosConfig:
        if not self.low_limit < self.high_limit or self.pad_token_id >= self.n_special_tokens:
            raise ValueError("low_limit must lie below high_limit, and pad_token_id among the special tokens")
        if self.n_tokens < self.n_special_tokens + 4:
            raise ValueError(f"n_tokens={self.n_tokens} leaves no bins after {self.n_special_tokens} special tokens")
        return self


class Chronos(Tokenizer):
    """See the module."""

    Config = ChronosConfig
    modalities: ClassVar[tuple[Modality, ...]] = ("sensor",)
    error_unit = "nrmse"

    def __init__(self, config: ChronosConfig, artefact: Artefact | None = None) -> None:
        if artefact is not None:
            check_artefact(artefact, KIND, ChronosConfig.model_fields)
        super().__init__(ChronosConfig.model_validate(artefact.params) if artefact else config, artefact)
        c = self.config
        self._centres = linspace(c.low_limit, c.high_limit, c.n_tokens - c.n_special_tokens - 1)
        inner = (self._centres[1:] + self._centres[:-1]) / np.float32(2)
        self._borders = np.concatenate((np.array([-1e20], np.float32), inner, np.array([1e20], np.float32)))
        self._ids = IntegerIds(c.n_tokens)

    @property
    def artefact(self) -> Artefact:
        return self._artefact or Artefact(KIND, self.config.model_dump(mode="json"))

    @property
    def vocab_size(self) -> int:
        return self._ids.offset + (self._ids.size if self.config.scale_in_tokens else 0)

    def encode(self, records: pa.RecordBatch) -> Encoded:
        if modality_of(records) != "sensor":
            raise SchemaMismatch(f"`{KIND}` takes sensor records, not {modality_of(records)}")
        rows, errors, clips = [], [], []
        for value, valid in zip(list_views(records, "value"), list_views(records, "valid")):
            with np.errstate(over="ignore"):
                x = np.where(valid, value, np.nan).astype(np.float32)
            ids, scale, beyond = self.bins(x)
            head = self._ids.spell(*_as_integers(scale)) if self.config.scale_in_tokens else []
            rows.append(np.concatenate([np.array(head, np.int64), ids]))
            errors.append(self._error(value, valid, ids, scale))
            clips.append(beyond / max(1, len(ids)))
        return Encoded.of(rows, errors, clips, np.dtype(self.token_dtype))

    def bins(self, x: Array) -> tuple[Array, np.float32, int]:
        """(ids int64, scale, how many values lie beyond the outer bins) of one float32 series with NaN for missing."""
        c = self.config
        known = ~np.isnan(x)
        count = np.float32(known.sum())
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            scale = np.float32(float32_sum(np.where(known, np.abs(x), np.float32(0))) / count)
            if not scale > 0:
                scale = np.float32(1)
            scaled = x / scale
        ids = np.searchsorted(self._borders, scaled, side="right") + c.n_special_tokens
        ids = np.clip(ids, 0, c.n_tokens - 1)
        ids[~known] = c.pad_token_id
        low, high = np.float32(c.low_limit), np.float32(c.high_limit)
        beyond = int((known & ~((scaled >= low) & (scaled <= high))).sum())
        return ids, scale, beyond

    def _error(self, value: Array, valid: Array, ids: Array, scale: np.float32) -> float:
        known = np.isfinite(value) & valid
        if not known.any() or not np.isfinite(scale):
            return float("nan")
        borders = np.array([0, int(known.sum())])
        deviation = float(mean_and_deviation(value[known], borders)[1][0])
        missed = float(root_mean_square(value[known] - self._values(ids[known], scale), borders)[0])
        return missed / deviation if deviation > 0 else (0.0 if missed == 0 else float("nan"))

    def _values(self, ids: Array, scale: np.float32) -> Array:
        index = np.clip(ids - self.config.n_special_tokens - 1, 0, len(self._centres) - 1)
        return (self._centres[index] * scale).astype(np.float64)

    def decode(self, tokens: Sequence[Array]) -> pa.RecordBatch:
        builder = RecordBuilder("sensor")
        for body in tokens:
            reader = self._ids.reader(body)
            scale = np.float32(1)
            if self.config.scale_in_tokens:
                digits, exponent = reader.numbers(2)
                if not 0 <= digits < 1 << 24 or abs(exponent) > 200:
                    raise TokenizerError(f"{digits} * 2^{exponent} is not a scale")
                scale = np.float32(np.ldexp(digits, exponent))
            ids = reader.rest().astype(np.int64)
            if len(ids) and int(ids.max()) >= self.config.n_tokens:
                raise TokenizerError(f"id {int(ids.max())} is not below n_tokens={self.config.n_tokens}")
            valid = ids >= self.config.n_special_tokens
            value = np.where(valid, self._values(ids, scale), np.nan)
            t = np.arange(len(ids), dtype=np.int64) * 1_000_000_000
            builder.add(locator="{}", t=t, value=value, valid=valid, channel="value")
        return builder.finish()


def linspace(low: float, high: float, count: int) -> Array:
    """float32 centres as torch.linspace gives them: from both ends, one rounding each (fused multiply-add)."""
    start, end = np.float32(low), np.float32(high)
    step = np.float64(np.float32((end - start) / np.float32(count - 1)))
    index = np.arange(count)
    # In float64 the product is exact and the sum of these magnitudes too, so one rounding to float32 remains.
    rising, falling = np.float64(start) + step * index, np.float64(end) - step * (count - 1 - index)
    return np.where(index < count // 2, rising, falling).astype(np.float32)


def float32_sum(x: Array) -> np.float32:
    """The sum of a float32 array in the order in which torch adds it: 8 lanes of 4 streams, cascaded by level."""
    width = _LANES if len(x) >= _LANES else 1
    vectors = len(x) // width
    lanes = x[: vectors * width].reshape(vectors, width)
    rows = vectors // _STREAMS
    streams = _cascade(lanes[: rows * _STREAMS].reshape(rows, _STREAMS * width)).reshape(_STREAMS, width)
    total = streams[0]
    for extra in lanes[rows * _STREAMS :]:
        total = total + extra
    for stream in streams[1:]:
        total = total + stream
    result = np.float32(0)
    for value in x[vectors * width :]:
        result = np.float32(result + value)
    for value in total:
        result = np.float32(result + value)
    return result


def _cascade(rows: Array) -> Array:
    """Column sums of float32 rows, with a partial sum per level so that the rounding error grows slowly."""
    count = len(rows)
    power = max(4, (max(1, count) - 1).bit_length() // _LEVELS)
    step = 1 << power
    levels = np.zeros((_LEVELS, rows.shape[1]), np.float32)
    i = 0
    while i + step <= count:
        for row in rows[i : i + step]:
            levels[0] += row
        i += step
        for level in range(1, _LEVELS):
            levels[level] += levels[level - 1]
            levels[level - 1] = 0
            if i & ((step - 1) << (level * power)):
                break
    for row in rows[i:]:
        levels[0] += row
    for level in range(1, _LEVELS):
        levels[0] += levels[level]
    return np.asarray(levels[0])


def _as_integers(scale: np.float32) -> tuple[int, int]:
    """(digits, exponent) with scale = digits * 2**exponent exactly."""
    if not np.isfinite(scale):
        return 0, 0
    digits, exponent = np.frexp(np.float64(scale))
    return int(np.ldexp(digits, 24)), int(exponent) - 24
