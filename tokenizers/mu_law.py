"""`mu-law`: audio samples by μ-law companding, one token a sample; the default for audio.

    body   rate channels [code]*        samples in time order, the channels of an instant side by side

With `bits: 8` the codes are the bytes of ITU-T G.711; 9 to 16 bits use the continuous law with finer steps. It needs no
fit, is exact and can be undone by any telephone. Float samples in [-1, 1] are taken as sample / 32768, integers of
other widths by their upper 16 bits; decoded samples are int16.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import pyarrow as pa
from pydantic import Field

from headrace.schemas.errors import SchemaMismatch, TokenizerError
from headrace.schemas.record import Modality, RecordBuilder, modality_of, payload_views
from headrace.tokenizers.arrays import Array
from headrace.tokenizers.artefact_checks import check_artefact
from headrace.tokenizers.contract import Artefact, Encoded, Tokenizer, TokenizerConfig
from headrace.tokenizers.fidelity import decibels
from headrace.tokenizers.g711 import fine_tables, g711_tables
from headrace.tokenizers.integers import IntegerIds

KIND = "mu-law"


class MuLawConfig(TokenizerConfig):
    """Settings of `mu-law`."""

    bits: int = Field(8, ge=8, le=15, description="8: the codes of G.711; more: finer codes, 2^bits of them")


class MuLaw(Tokenizer):
    """See the module."""

    Config = MuLawConfig
    modalities: ClassVar[tuple[Modality, ...]] = ("audio",)
    error_unit = "snr_db"

    def __init__(self, config: MuLawConfig, artefact: Artefact | None = None) -> None:
        super().__init__(config, artefact)
        if artefact is not None:
            check_artefact(artefact, KIND, ("bits",))
        bits = int(artefact.params["bits"]) if artefact else config.bits
        self._made = Artefact(KIND, {"bits": bits, "law": "g711" if bits == 8 else "continuous"})
        if artefact is not None and artefact.fingerprint != self._made.fingerprint:
            raise TokenizerError(f"`{KIND}` does not know the parameters {artefact.params}")
        self._encode, self._decode = g711_tables() if bits == 8 else fine_tables(bits)
        self._codes = 1 << bits
        self._ids = IntegerIds(self._codes, base=256)

    @property
    def artefact(self) -> Artefact:
        return self._artefact or self._made

    @property
    def vocab_size(self) -> int:
        return self._codes + self._ids.size

    def encode(self, records: pa.RecordBatch) -> Encoded:
        if modality_of(records) != "audio":
            raise SchemaMismatch(f"`{KIND}` takes audio records, not {modality_of(records)}")
        rows, errors, clips = [], [], []
        for samples, rate in zip(payload_views(records), records.column("rate").to_pylist()):
            if samples.ndim != 2:
                raise SchemaMismatch(f"audio has the shape (samples, channels), not {list(samples.shape)}")
            narrow, clipped = _to_int16(samples)
            codes = self._encode[narrow.view(np.uint16)]
            head = np.array(self._ids.spell(rate, samples.shape[1]))
            rows.append(np.concatenate([head, codes.reshape(-1)]))
            errors.append(_signal_to_noise(narrow, self._decode[codes]))
            clips.append(clipped / max(1, samples.size))
        return Encoded.of(rows, errors, clips, np.dtype(self.token_dtype))

    def decode(self, tokens: Sequence[Array]) -> pa.RecordBatch:
        builder = RecordBuilder("audio")
        for body in tokens:
            reader = self._ids.reader(body)
            rate, channels = reader.numbers(2)
            codes = reader.rest()
            if channels < 1 or len(codes) % channels or not 0 < rate < 1 << 31:
                raise TokenizerError(f"{len(codes)} samples at {rate} Hz do not make up {channels} channels")
            if len(codes) and int(codes.max()) >= self._codes:
                raise TokenizerError(f"id {int(codes.max())} is not a sample: they are below {self._codes}")
            samples = self._decode[codes.astype(np.int64)].reshape(-1, channels)
            builder.add(locator="{}", samples=samples, rate=rate)
        return builder.finish()


def _to_int16(samples: Array) -> tuple[Array, int]:
    """(contiguous int16 samples, how many were out of range). Raises: SchemaMismatch for another dtype."""
    kind, width = samples.dtype.kind, samples.dtype.itemsize
    if samples.dtype == np.int16:
        return np.ascontiguousarray(samples), 0
    if kind == "f":
        scaled = np.rint(np.nan_to_num(samples.astype(np.float64), nan=0.0, posinf=2.0, neginf=-2.0) * 32768.0)
        # Full scale itself, 1.0, is one step beyond int16 and common; it is not counted as clipping.
        beyond = int(((scaled > 32768.0) | (scaled < -32768.0)).sum() + np.isnan(samples).sum())
        return np.clip(scaled, -32768.0, 32767.0).astype(np.int16), beyond
    if kind == "i" and width in (1, 4, 8):
        wide = samples.astype(np.int64)
        return (wide << 8 if width == 1 else wide >> (8 * width - 16)).astype(np.int16), 0
    if samples.dtype == np.uint8:
        return ((samples.astype(np.int16) - 128) << 8).astype(np.int16), 0
    raise SchemaMismatch(f"`{KIND}` takes integer or float samples, not {samples.dtype}")


def _signal_to_noise(given: Array, back: Array) -> float:
    signal = given.astype(np.float64).reshape(-1)
    noise = signal - back.astype(np.float64).reshape(-1)
    return decibels(float(np.dot(signal, signal)), float(np.dot(noise, noise))) if len(signal) else float("nan")
