"""μ-law against a table written from the Recommendation's own construction, and exact round trips."""

from __future__ import annotations

import bisect
import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.schemas.errors import SchemaMismatch, TokenizerError
from headrace.schemas.record import payload_views
from headrace.tokenizers.fidelity import LOSSLESS_DB
from headrace.tokenizers.g711 import fine_tables, g711_tables
from headrace.tokenizers.registry import choose
from headrace.tokenizers.testing import row_tokens
from headrace.tokenizers.testing_rows import audio


def table_2a() -> tuple[list[int], list[int]]:
    """Decision values x_1 … x_127 and quantized values y_0 … y_127 of ITU-T G.711 Table 2a, in its 8,159-step scale.

    The first interval is [0, 1); fifteen intervals of 2 follow to 31, then seven segments of sixteen intervals, each
    twice as wide as those before. A value decodes to the middle of its interval.
    """
    edges = [0, 1] + [1 + 2 * i for i in range(1, 16)]
    for segment in range(1, 8):
        edges += [edges[-1] + (2 << segment) * i for i in range(1, 17)]
    values = [0] + [(a + b) // 2 for a, b in itertools.pairwise(edges[1:])]
    return edges[1:-1], values


def test_every_sample_has_the_code_of_the_table() -> None:
    decisions, _ = table_2a()
    assert decisions[-1] == 7903 and len(decisions) == 127
    encode, _ = g711_tables()
    for sample in range(-32768, 32768):
        number = bisect.bisect_right(decisions, abs(sample >> 2))  # how many decision values lie at or below
        expected = ~((128 if sample < 0 else 0) | number) & 255
        assert encode[sample & 0xFFFF] == expected, sample


def test_every_code_decodes_to_the_tables_value() -> None:
    _, values = table_2a()
    assert values[:3] == [0, 2, 4] and values[-1] == 8031
    _, decode = g711_tables()
    for byte in range(256):
        code = ~byte & 255
        assert decode[byte] == (-4 if code & 128 else 4) * values[code & 127], byte


def test_codes_are_their_own_fixed_points() -> None:
    encode, decode = g711_tables()
    again = encode[decode.view(np.uint16)]
    zero = [0x7F, 0xFF]  # minus zero and zero
    assert all(again[b] == b for b in range(256) if b not in zero) and again[0x7F] == 0xFF


@pytest.mark.parametrize("bits", [9, 10, 12, 15])
def test_finer_codes_are_monotone_and_finer(bits: int) -> None:
    encode, decode = fine_tables(bits)
    order = np.arange(-32768, 32768)
    codes = encode[order.astype(np.int16).view(np.uint16)].astype(int)
    assert (np.diff(codes) >= 0).all() and codes[0] == 0 and codes[-1] == (1 << bits) - 1
    missed = np.abs(decode[codes].astype(int) - order)
    coarse = np.abs(g711_tables()[1][g711_tables()[0][order.astype(np.int16).view(np.uint16)]].astype(int) - order)
    assert missed.mean() < coarse.mean() / 1.5


def encode_one(samples: Any, rate: int = 16_000, **options: Any) -> tuple[Any, Any]:
    tokenizer = choose({"type": "mu-law", **options}).create()
    encoded = tokenizer.encode(audio(samples, rate=rate))
    decoded = tokenizer.decode(row_tokens(encoded))
    assert decoded.column("rate").to_pylist() == [rate]
    return encoded, next(payload_views(decoded))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(-32768, 32767), max_size=60), st.integers(1, 3), st.integers(1, 400_000))
def test_rate_channels_and_samples_come_from_tokens_alone(values: list[int], channels: int, rate: int) -> None:
    samples = np.array(values[: len(values) // channels * channels], np.int16).reshape(-1, channels)
    _, back = encode_one(samples, rate)
    encode, decode = g711_tables()
    assert np.array_equal(back, decode[encode[samples.view(np.uint16)]]) and back.dtype == np.int16


def test_the_stored_signal_to_noise_is_the_true_one() -> None:
    wave = (9000 * np.sin(np.arange(4000) / 11))[:, None].astype(np.int16)
    encoded, back = encode_one(wave)
    x, y = wave.astype(float), back.astype(float)
    assert encoded.error[0] == pytest.approx(10 * np.log10((x * x).sum() / ((x - y) ** 2).sum()), abs=1e-3)
    assert encode_one(np.zeros((9, 1), np.int16))[0].error[0] == LOSSLESS_DB
    assert np.isnan(encode_one(np.zeros((0, 2), np.int16))[0].error[0])


def test_float_samples_beyond_full_scale_are_counted() -> None:
    encoded, back = encode_one(np.array([[0.5], [1.0], [-1.0], [1.5], [np.nan], [-7.0]], np.float32))
    assert encoded.clip_fraction[0] == pytest.approx(3 / 6)
    assert back[3, 0] == back[1, 0] == 32124 and back[5, 0] == -32124


def test_other_widths_keep_their_upper_bits() -> None:
    wide = (np.arange(-40, 40, dtype=np.int32) * 20_000_000)[:, None]
    _, back = encode_one(wide)
    _, narrow = encode_one((wide >> 16).astype(np.int16))
    assert np.array_equal(back, narrow)
    _, small = encode_one(np.array([[0], [128], [255]], np.uint8))
    assert small[0, 0] < -30_000 and small[1, 0] == 0 and small[2, 0] > 30_000


def test_what_is_not_audio_is_refused() -> None:
    tokenizer = choose({"type": "mu-law"}).create()
    with pytest.raises(SchemaMismatch, match="complex"):
        tokenizer.encode(audio(np.zeros((3, 1), np.complex64)))
    with pytest.raises(SchemaMismatch, match="shape"):
        tokenizer.encode(audio(np.zeros(3, np.int16)))
    tokens = tokenizer.encode(audio(np.zeros((4, 2), np.int16))).values
    with pytest.raises(TokenizerError, match="2 channels"):
        tokenizer.decode([tokens[:-1]])
