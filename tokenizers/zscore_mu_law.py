"""`zscore-mu-law`: a sensor window as standard scores in μ-law bins; the default for sensor.

    body     first unit step exponent scale loc { [difference]? value }*
    value    a bin of the standard score, or GAP where the source has no value

The scores come from the window's own location and scale, which its tokens hold, so the tokens of a value do not change
under x → a·x + b (°C to K), and a body decodes alone, with its time stamps (see sensor_times.py). Bins of ±8 standard
deviations follow the μ-law with mu = 255; beyond, bins of constant ratio go on to 2,048 deviations, so a spike in a
quiet window is kept to one per cent of itself. GAP is not padding: it says that a sample is missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import pyarrow as pa
from pydantic import Field, field_validator

from headrace.schemas.errors import RecordError, SchemaMismatch, TokenizerError
from headrace.schemas.record import Modality, RecordBuilder, list_views, modality_of
from headrace.tokenizers.arrays import Array
from headrace.tokenizers.artefact_checks import check_artefact
from headrace.tokenizers.contract import Artefact, Encoded, Tokenizer, TokenizerConfig
from headrace.tokenizers.exact_math import exp2
from headrace.tokenizers.integers import IntegerIds
from headrace.tokenizers.loc_scale import plausible, restore
from headrace.tokenizers.sensor_scores import Scores
from headrace.tokenizers.sensor_times import Clocks, Odd, rebuild

KIND = "zscore-mu-law"
#: Standard deviations that the μ-law bins reach.
REACH = 8.0
#: log2(1 + mu): the law's ratio of largest to smallest step.
_LAW_BITS = 8
#: The bins beyond REACH: doublings, and bins per doubling.
_TAIL_DOUBLINGS, _TAIL_FINENESS = 8, 64
_SCALE_BITS = 30


class ZScoreMuLawConfig(TokenizerConfig):
    """Settings of `zscore-mu-law`."""

    values: int = Field(1024, ge=16, le=1 << 15, description="bins within ±8 standard deviations; a power of two")

    @field_validator("values")
    @classmethod
    def _power_of_two(cls, value: int) -> int:
        if value & (value - 1):
            raise ValueError(f"a power of two is expected, such as 256 or 1024, not {value}")
        return value


class ZScoreMuLaw(Tokenizer):
    """See the module."""

    Config = ZScoreMuLawConfig
    modalities: ClassVar[tuple[Modality, ...]] = ("sensor",)
    error_unit = "nrmse"

    def __init__(self, config: ZScoreMuLawConfig, artefact: Artefact | None = None) -> None:
        super().__init__(config, artefact)
        if artefact is not None:
            check_artefact(artefact, KIND, ("values",))
        values = int(artefact.params["values"]) if artefact else config.values
        self._made = Artefact(KIND, {"values": values})
        if artefact is not None and artefact.fingerprint != self._made.fingerprint:
            raise TokenizerError(f"`{KIND}` does not know the parameters {artefact.params}")
        thresholds, self._centres = bins(values)
        self._scores = Scores(thresholds, self._centres, REACH * 2.0**_TAIL_DOUBLINGS, _SCALE_BITS)
        self._gap = len(self._centres)
        self._ids = IntegerIds(self._gap + 1)

    @property
    def artefact(self) -> Artefact:
        return self._artefact or self._made

    @property
    def vocab_size(self) -> int:
        return self._ids.offset + self._ids.size

    def encode(self, records: pa.RecordBatch) -> Encoded:
        if modality_of(records) != "sensor":
            raise SchemaMismatch(f"`{KIND}` takes sensor records, not {modality_of(records)}")
        t, value, valid = (list(list_views(records, name)) for name in ("t", "value", "valid"))
        lengths = [len(v) for v in value]
        if lengths != [len(v) for v in t] or lengths != [len(v) for v in valid]:
            raise RecordError("inconsistent", "a window's `t`, `value` and `valid` have different lengths")
        scored = list(self._scores.of(value, valid))
        ids = [row for part in scored for row in part.ids]
        exponent, scale, loc, errors, clips = (
            np.concatenate([getattr(part, name) for part in scored] or [np.zeros(0)])
            for name in ("exponent", "scale", "loc", "errors", "clips")
        )
        clocks = Clocks.of(t)
        heads = self._heads(clocks, exponent, scale, loc)
        bodies = [self._with_differences(row, clocks.odd.get(i)) for i, row in enumerate(ids)]
        offsets = np.zeros(len(ids) + 1, np.int64)
        np.cumsum([len(head) + len(body) for head, body in zip(heads, bodies)], out=offsets[1:])
        values = np.empty(int(offsets[-1]), self.token_dtype)
        for head, body, begin, end in zip(heads, bodies, offsets.tolist(), offsets[1:].tolist()):
            values[begin : begin + len(head)] = head
            values[begin + len(head) : end] = body
        return Encoded(values, offsets, errors.astype(np.float32), clips.astype(np.float32))

    def _heads(self, clocks: Clocks, exponent: Array, scale: Array, loc: Array) -> list[Array]:
        """The tokens of each window's six numbers."""
        far = np.abs(loc) >= 2.0**62
        plain = np.where(far, 0.0, loc).astype(np.int64)
        numbers = np.column_stack([clocks.numbers, exponent.astype(np.int64), scale.astype(np.int64), plain])
        words, sizes = self._ids.spell_array(numbers.reshape(-1))
        ends = np.cumsum(sizes.reshape(-1, numbers.shape[1]).sum(axis=1))
        heads = np.split(words, ends[:-1]) if len(ends) else []
        for i in np.flatnonzero(far | clocks.far).tolist():  # such an integer is spelled by itself
            clock = clocks.odd[i][0] if i in clocks.odd else clocks.numbers[i].tolist()
            heads[i] = np.array(self._ids.spell(*clock, int(exponent[i]), int(scale[i]), int(loc[i])))
        return heads

    def _with_differences(self, values: Array, odd: Odd | None) -> Array:
        """A window's values, with the differences of its odd stamps before the samples they are of."""
        if odd is None or not len(odd[1]):
            return values
        words, lengths = self._ids.spell_array(odd[2])
        # np.insert keeps the order of what is inserted at one place.
        return np.insert(values.astype(np.int64), np.repeat(odd[1], lengths), words)

    def decode(self, tokens: Sequence[Array]) -> pa.RecordBatch:
        builder = RecordBuilder("sensor")
        for body in tokens:
            reader = self._ids.reader(body)
            first, unit, step, exponent, scale, loc = reader.numbers(6)
            if not plausible(exponent, scale, loc):
                raise TokenizerError(f"({loc} + {scale} z) * 2^{exponent} cannot be a window's values")
            rest = reader.rest().astype(np.int64)
            at = np.flatnonzero(self._ids.is_head(rest))
            differences, lengths = self._ids.read_heads(rest, at)
            is_value = np.ones(len(rest), np.bool_)
            is_value[np.repeat(at, lengths) + _counted(lengths)] = False
            values = rest[is_value]
            if len(values) and int(values.max()) > self._gap:
                raise TokenizerError(f"id {int(values.max())} is not a value")
            place = at - (np.cumsum(lengths) - lengths)
            if len(place) and (int(place.max()) >= len(values) or (np.diff(place) < 1).any()):
                raise TokenizerError("a time stamp without a value")
            t = rebuild((first, unit, step), len(values), place, differences)
            valid = values != self._gap
            z = self._centres[np.where(valid, values, 0)] if scale else np.zeros(len(values))
            value = np.where(valid, restore(z, exponent, scale, loc), np.nan)
            builder.add(locator="{}", t=t, value=value, valid=valid, channel="value")
        return builder.finish()


def bins(values: int) -> tuple[Array, Array]:
    """(thresholds, centres) of all value ids, rising: the tail below -8, `values` μ-law bins, the tail above 8.

    With mu = 255 the law's inverse is |z| = 8 (2^(8 |y|) - 1) / 255 for even steps of y in [-1, 1].
    """
    edges = np.arange(values + 1) * (2.0 / values) - 1.0
    middles = (edges[1:] + edges[:-1]) / 2.0
    tail = np.arange(_TAIL_DOUBLINGS * _TAIL_FINENESS)
    outer = REACH * exp2(tail / _TAIL_FINENESS)
    outer_middle = REACH * exp2((tail + 0.5) / _TAIL_FINENESS)
    thresholds = np.concatenate([-outer[::-1], _expand(edges)[1:-1], outer])
    return thresholds, np.concatenate([-outer_middle[::-1], _expand(middles), outer_middle])


def _expand(y: Array) -> Array:
    return np.copysign(REACH * (exp2(np.abs(y) * _LAW_BITS) - 1.0) / ((1 << _LAW_BITS) - 1), y)


def _counted(lengths: Array) -> Array:
    """0, 1, … within each run."""
    return np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
