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

from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from headrace.schemas.errors import SchemaMismatch, TokenizerError
from headrace.schemas.record import Modality, RecordBuilder, list_views, modality_of
from headrace.tokenizers.arrays import Array
from headrace.tokenizers.artefact_checks import check_artefact
from headrace.tokenizers.contract import Artefact, Encoded, Tokenizer, TokenizerConfig
from headrace.tokenizers.even_windows import deviation_even, root_mean_square_even
from headrace.tokenizers.exact_math import mean_and_deviation, root_mean_square
from headrace.tokenizers.integers import IntegerIds

KIND = "chronos"
_LANES, _STREAMS, _LEVELS = 8, 4, 4
_CHUNK_VALUES = 1 << 15


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
        value, valid = list(list_views(records, "value")), list(list_views(records, "valid"))
        lengths = np.array([len(v) for v in value], np.int64)
        order = np.argsort(lengths, kind="stable").tolist()  # windows of one length are computed together
        rows: list[Array] = [np.zeros(0, np.int64)] * len(value)
        errors, clips = np.zeros(len(value)), np.zeros(len(value))
        for begin, end in even_runs(lengths[order].tolist()):
            chosen = order[begin:end]
            bodies, errors[chosen], clips[chosen] = self._part([value[i] for i in chosen], [valid[i] for i in chosen])
            for i, body in zip(chosen, bodies):
                rows[i] = body
        return Encoded.of(rows, errors.tolist(), clips.tolist(), np.dtype(self.token_dtype))

    def _part(self, value: Sequence[Array], valid: Sequence[Array]) -> tuple[list[Array], Array, Array]:
        """(bodies, errors, clip fractions) of windows of one length."""
        given, claimed = np.stack(value), np.stack(valid)
        with np.errstate(over="ignore"):
            x = (given if claimed.all() else np.where(claimed, given, np.nan)).astype(np.float32)
        ids, scale, beyond = self.bins(x)
        rows = list(ids)
        if self.config.scale_in_tokens:
            words, lengths = self._ids.spell_array(_as_integers(scale).reshape(-1))
            heads = np.split(words, np.cumsum(lengths.reshape(-1, 2).sum(axis=1))[:-1])
            rows = [np.concatenate(pair) for pair in zip(heads, rows)]
        return rows, self._errors(given, claimed, ids, scale), beyond / max(1, x.shape[1])

    def bins(self, x: Array) -> tuple[Array, Array, Array]:
        """(ids int64, scales, how many values lie beyond the outer bins) of float32 (windows, samples).

        NaN is a missing value.
        """
        c = self.config
        missing = np.isnan(x)
        lacking = bool(missing.any())
        size = np.abs(x)
        if lacking:
            size[missing] = 0
        count = (x.shape[1] - np.count_nonzero(missing, axis=1)).astype(np.float32)
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            scale = float32_sums(size) / count
            scale[~(scale > 0)] = 1
            scaled = x / scale[:, None]
        ids = self._find(scaled)
        ids += c.n_special_tokens
        np.clip(ids, 0, c.n_tokens - 1, out=ids)
        inside = (scaled >= np.float32(c.low_limit)) & (scaled <= np.float32(c.high_limit))
        if lacking:
            ids[missing] = c.pad_token_id
            inside |= missing
        return ids, scale, x.shape[1] - np.count_nonzero(inside, axis=1)

    def _find(self, scaled: Array) -> Array:
        """How many borders are <= each value, int64; NaN counts as beyond all.

        Borders lie evenly but for rounding, so a value's place is computed, and two comparisons make it exact.
        """
        borders, inner = self._borders, self._borders[1:-1]
        if len(inner) < 2 or not np.isfinite(scaled).all():
            return np.searchsorted(borders, scaled, side="right").astype(np.int64)
        step = (float(inner[-1]) - float(inner[0])) / (len(inner) - 1)
        place = scaled * np.float32(1 / step)
        place -= np.float32(float(inner[0]) / step)
        np.clip(place, 0, len(inner) - 1, out=place)
        near = np.rint(place).astype(np.int64)  # at most a few thousandths beside the truth: the border around it
        found = near.copy()
        found += inner.take(near) <= scaled
        found += 1  # the first border is below all; the last, above all, is never reached but by what is enormous
        return found if self._fits(found, scaled) else np.searchsorted(borders, scaled, side="right").astype(np.int64)

    def _fits(self, found: Array, scaled: Array) -> bool:
        return bool((self._borders.take(found - 1) <= scaled).all() and (scaled < self._borders.take(found)).all())

    def _errors(self, value: Array, valid: Array, ids: Array, scale: Array) -> Array:
        """Root mean square error of each window over its standard deviation; NaN where there is none to speak of."""
        known = np.isfinite(value)
        known &= valid
        if known.size and known.all() and np.isfinite(scale).all():
            deviation = deviation_even(value)
            missed = root_mean_square_even(value - self._values(ids, scale[:, None]))
            return _ratio(missed, deviation)
        counts = np.count_nonzero(known, axis=1)
        some = (counts > 0) & np.isfinite(scale)
        known &= some[:, None]
        borders = np.concatenate(([0], np.cumsum(counts[some])))
        x = value[known]
        deviation = mean_and_deviation(x, borders)[1]
        missed = root_mean_square(x - self._values(ids[known], np.repeat(scale[some], counts[some])), borders)
        errors = np.full(len(value), np.nan)
        errors[some] = _ratio(missed, deviation)
        return errors

    def _values(self, ids: Array, scale: Array | np.float32) -> Array:
        index = np.clip(ids - self.config.n_special_tokens - 1, 0, len(self._centres) - 1)
        return (self._centres.take(index) * scale).astype(np.float64)

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


def float32_sums(x: Array) -> Array:
    """The sum of each row of float32 (rows, n) in the order in which torch adds it: 8 lanes of 4 streams, cascaded."""
    length = x.shape[1]
    width = _LANES if length >= _LANES else 1
    vectors = length // width
    lanes = x[:, : vectors * width].reshape(len(x), vectors, width)
    rows = vectors // _STREAMS
    streams = _cascade(lanes[:, : rows * _STREAMS].reshape(len(x), rows, _STREAMS * width))
    streams = streams.reshape(len(x), _STREAMS, width)
    total = streams[:, 0]
    for extra in range(rows * _STREAMS, vectors):
        total = total + lanes[:, extra]
    for stream in range(1, _STREAMS):
        total = total + streams[:, stream]
    result = np.zeros(len(x), np.float32)
    for at in range(vectors * width, length):
        result = result + x[:, at]
    for lane in range(width):
        result = result + total[:, lane]
    return result


def _cascade(rows: Array) -> Array:
    """Sums over the second axis of float32 (n, rows, width), a partial sum per level, so that errors grow slowly."""
    count = rows.shape[1]
    power = max(4, (max(1, count) - 1).bit_length() // _LEVELS)
    step = 1 << power
    levels = np.zeros((_LEVELS, len(rows), rows.shape[2]), np.float32)
    i = 0
    while i + step <= count:
        for row in range(i, i + step):
            levels[0] += rows[:, row]
        i += step
        for level in range(1, _LEVELS):
            levels[level] += levels[level - 1]
            levels[level - 1] = 0
            if i & ((step - 1) << (level * power)):
                break
    for row in range(i, count):
        levels[0] += rows[:, row]
    for level in range(1, _LEVELS):
        levels[0] += levels[level]
    return np.asarray(levels[0])


def even_runs(lengths: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Runs [a, b) of windows of one length, of some hundred kilobytes, which stay near the processor."""
    begin = 0
    for end in range(1, len(lengths) + 1):
        full = end - begin >= max(1, _CHUNK_VALUES // max(1, lengths[begin]))
        if end == len(lengths) or full or lengths[end] != lengths[begin]:
            yield begin, end
            begin = end


def _ratio(missed: Array, deviation: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(deviation > 0, missed / deviation, np.where(missed == 0, 0.0, np.nan))


def _as_integers(scale: Array) -> Array:
    """int64 (n, 2): (digits, exponent) with scale = digits * 2**exponent exactly; zeros where it is not finite."""
    finite = np.isfinite(scale)
    digits, exponent = np.frexp(np.where(finite, scale, 0).astype(np.float64))
    exponents = np.where(finite, exponent.astype(np.int64) - 24, 0)
    return np.stack([np.ldexp(digits, 24).astype(np.int64), exponents], axis=1)
