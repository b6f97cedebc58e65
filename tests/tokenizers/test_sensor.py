"""Sensor windows: the same in any unit, exact in time, honest about gaps and spikes; Chronos bit for bit."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.schemas.errors import RecordError, TokenizerError
from headrace.schemas.record import list_views
from headrace.tokenizers.chronos import Chronos, ChronosConfig, float32_sums, linspace
from headrace.tokenizers.registry import choose
from headrace.tokenizers.sensor_times import describe
from headrace.tokenizers.testing import row_tokens
from headrace.tokenizers.testing_rows import regular, sensors
from headrace.tokenizers.zscore_mu_law import ZScoreMuLaw, ZScoreMuLawConfig, bins

TOKENIZER = ZScoreMuLaw(ZScoreMuLawConfig())
SECOND = 1_000_000_000


def through(t: Any, value: Any, valid: Any) -> tuple[Any, Any, Any, Any]:
    encoded = TOKENIZER.encode(sensors((t, value, valid)))
    decoded = TOKENIZER.decode(row_tokens(encoded))
    return encoded, *(next(list_views(decoded, name)) for name in ("t", "value", "valid"))


def test_bins_are_the_mu_law_in_the_middle_and_ratios_outside() -> None:
    thresholds, centres = bins(1024)
    assert len(centres) == 2048 and len(thresholds) == 2047
    assert (np.diff(thresholds) > 0).all() and (np.diff(centres) > 0).all()
    inner = thresholds[512 : 512 + 1023]
    y = np.arange(1, 1024) / 512 - 1
    assert np.allclose(inner, np.sign(y) * 8 * (256 ** np.abs(y) - 1) / 255, rtol=1e-13, atol=1e-15)
    assert thresholds[511] == -8.0 and thresholds[512 + 1023] == 8.0
    tail = thresholds[512 + 1023 :]
    assert np.allclose(tail[1:] / tail[:-1], 2 ** (1 / 64))
    assert np.array_equal(centres, -centres[::-1])


@pytest.mark.data
def test_ett_is_kept_to_a_third_of_a_percent_in_any_unit(corpus: Path) -> None:
    with open(corpus / "sensor" / "ett" / "ETTh1.csv", newline="", encoding="utf-8") as file:
        _, *rows = list(csv.reader(file))
    table = np.array([[float(v) for v in row[1:]] for row in rows[len(rows) // 2 :]])
    windows = [table[i : i + 512, c] for c in range(7) for i in range(0, len(table) - 511, 512)]
    plain = TOKENIZER.encode(sensors(*(regular(w) for w in windows)))
    assert np.median(plain.error) <= 0.0035 and plain.error.mean() <= 0.0035 and plain.clip_fraction.max() == 0
    for a, b in ((1.8, 32.0), (1.0, 273.15), (-0.001, 1e4), (1e9, -5e11)):
        moved = TOKENIZER.encode(sensors(*(regular(a * w + b) for w in windows)))
        assert np.abs(moved.error.astype(float) / plain.error - 1).max() <= 1e-6


WINDOWS = st.lists(
    st.one_of(
        st.floats(-1e6, 1e6),
        st.floats(allow_nan=True, allow_infinity=True),
        st.sampled_from([0.0, -0.0, 5e-324, 1e308, -1e308, np.nan]),
    ),
    max_size=40,
)


@settings(max_examples=300, deadline=None)
@given(value=WINDOWS, data=st.data())
def test_any_window_decodes_with_its_times_and_gaps(value: list[float], data: st.DataObject) -> None:
    n = len(value)
    t = np.array(data.draw(st.lists(st.integers(-(2**62), 2**62 - 1), min_size=n, max_size=n)), np.int64)
    if data.draw(st.booleans()):
        t = np.int64(17) * 10**17 + np.cumsum(np.clip(t, -5, 10) * 1_000_000)
    valid = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)), np.bool_)
    if n and (np.abs(np.diff(t.astype(object))) >= 2**62).any():
        return  # differences beyond 146 years overflow the clock itself
    x = np.array(value, np.float64)
    encoded, back_t, back, back_valid = through(t, x, valid)
    known = valid & np.isfinite(x)
    assert np.array_equal(back_t, t) and np.array_equal(back_valid, known)
    if known.any():
        peak = np.abs(x[known]).max() or 1.0
        small, back_small = x[known] / peak, back[known] / peak  # so that squares do not overflow here
        away = np.maximum(8 * small.std(), np.abs(small - small.mean()))
        assert (np.abs(back_small - small) <= 0.0111 * away + 1e-15).all()
        assert np.isfinite(encoded.error[0])
    else:
        assert np.isnan(encoded.error[0])


def test_a_spike_is_kept_to_one_percent_and_not_clipped() -> None:
    value = np.random.default_rng(1).normal(size=512)
    value[100] = 4000.0
    encoded, _, back, _ = through(*regular(value))
    assert back[100] == pytest.approx(4000.0, rel=0.012) and encoded.clip_fraction[0] == 0


def test_a_constant_window_is_exact() -> None:
    for value in (21.3, -1e-300, 0.0, 1e308, float(2**53 - 1)):
        encoded, _, back, _ = through(*regular(np.full(7, value)))
        assert (back == value).all() and encoded.error[0] == 0


def test_a_gap_is_its_own_token_and_not_a_value() -> None:
    valid = np.array([True, False, True, True])
    encoded, _, back, back_valid = through(*regular([1.0, 2.0, 3.0, np.nan], valid=valid))
    assert back_valid.tolist() == [True, False, True, False] and np.isnan(back[[1, 3]]).all()
    assert (encoded.values[-4:] == 2048).tolist() == [False, True, False, True]
    assert encoded.clip_fraction[0] == pytest.approx(1 / 4), "a NaN that claims to be valid is counted"


def test_a_regular_clock_costs_nothing_per_sample() -> None:
    regular_tokens = len(TOKENIZER.encode(sensors(regular(np.arange(500.0)))).values)
    assert regular_tokens <= 500 + 30
    t, value, valid = regular(np.arange(500.0))
    t = t.copy()
    t[200:] += 90 * SECOND  # one hole in the record
    t[300] = t[299]  # a duplicate
    assert len(TOKENIZER.encode(sensors((t, value, valid))).values) <= regular_tokens + 10


def test_clocks_are_described_by_their_commonest_step() -> None:
    (first, unit, step), at, differences = describe(np.array([5, 15, 25, 20, 30], np.int64))
    assert (first, unit, step) == (5, 5, 2) and at.tolist() == [3] and differences.tolist() == [-1]


def test_windows_of_unequal_columns_are_a_bad_record() -> None:
    with pytest.raises(RecordError, match="lengths"):
        TOKENIZER.encode(sensors(([1, 2], [1.0], [True])))


def test_damaged_bodies_are_refused() -> None:
    tokens = TOKENIZER.encode(sensors(([1, 5, 6, 7], [1.0, 2.0, 3.0, 4.0], [True] * 4))).values
    for broken in (tokens[:3], tokens[:-1][:8], np.append(tokens, 2049), np.append(tokens, 3080)):
        with pytest.raises(TokenizerError):
            TOKENIZER.decode([broken])


def chronos_reference(n_tokens: int, n_special: int) -> Any:
    chronos = pytest.importorskip("chronos.chronos", reason="chronos-forecasting (and torch) is not installed")
    config = chronos.ChronosConfig(
        tokenizer_class="MeanScaleUniformBins",
        tokenizer_kwargs={"low_limit": -15.0, "high_limit": 15.0},
        context_length=4096,
        prediction_length=64,
        n_tokens=n_tokens,
        n_special_tokens=n_special,
        pad_token_id=0,
        eos_token_id=1,
        use_eos_token=True,
        model_type="seq2seq",
        num_samples=20,
        temperature=1.0,
        top_k=50,
        top_p=1.0,
    )
    return chronos.MeanScaleUniformBins(-15.0, 15.0, config)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("n_tokens", "n_special"), [(4096, 2), (1024, 3)])
def test_chronos_bins_are_equal_bit_for_bit(n_tokens: int, n_special: int) -> None:
    reference = chronos_reference(n_tokens, n_special)
    torch = pytest.importorskip("torch")
    if torch.backends.cpu.get_cpu_capability() != "AVX2":
        pytest.skip("torch itself adds in another order on this processor")
    tokenizer = Chronos(ChronosConfig(n_tokens=n_tokens, n_special_tokens=n_special))
    assert np.array_equal(reference.centers.numpy(), linspace(-15.0, 15.0, n_tokens - n_special - 1))
    random = np.random.default_rng(7)
    rows = []
    for k in range(200):
        n = int(random.choice([1, 3, 7, 8, 9, 31, 32, 33, 100, 511, 512, 700, 2000]))
        x = random.normal(size=n).cumsum() * 10.0 ** random.uniform(-6, 6) + 10.0 ** random.uniform(-6, 6)
        if k % 4 == 0:
            x[random.random(n) < 0.2] = np.nan
        rows.append({1: np.zeros(n), 2: np.full(n, np.nan), 3: np.where(random.random(n) < 0.02, 1e9, x)}.get(k, x))
    encoded = tokenizer.encode(sensors(*(regular(x, valid=~np.isnan(x)) for x in rows)))
    for x, ids in zip(rows, row_tokens(encoded), strict=True):
        expected, _, scale = reference._input_transform(torch.tensor(x, dtype=torch.float32)[None])
        assert np.array_equal(ids, expected[0].numpy())
        assert scale.numpy()[0] == tokenizer.bins(x.astype(np.float32)[None])[1][0]


@pytest.mark.filterwarnings("ignore")
def test_chronos_values_are_the_librarys_own() -> None:
    reference = chronos_reference(4096, 2)
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(3).normal(size=300).astype(np.float32)
    tokenizer = choose({"type": "chronos", "scale_in_tokens": True}).create()
    batch = sensors(regular(x))
    back = next(list_views(tokenizer.decode(row_tokens(tokenizer.encode(batch))), "value"))
    ids, _, scale = reference._input_transform(torch.tensor(x)[None])
    assert np.array_equal(back.astype(np.float32), reference.output_transform(ids[None], scale).numpy()[0, 0])
    plain = choose({"type": "chronos"}).create()
    unscaled = next(list_views(plain.decode(row_tokens(plain.encode(batch))), "value"))
    assert np.allclose(unscaled * scale.numpy()[0], back, rtol=1e-6)


def test_the_sum_is_torchs_sum() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    if torch.backends.cpu.get_cpu_capability() != "AVX2":
        pytest.skip("torch itself adds in another order on this processor")
    random = np.random.default_rng(0)
    for n in [*range(70), 127, 255, 512, 513, 1000, 5000, 20_000]:
        x = (random.normal(size=n) ** 2 * 10.0 ** random.uniform(-3, 3)).astype(np.float32)
        assert torch.nansum(torch.tensor(x)[None], dim=-1).numpy()[0] == float32_sums(x[None])[0], n


def test_chronos_counts_what_saturates() -> None:
    tokenizer = Chronos(ChronosConfig())
    x = np.zeros(100)
    x[3] = 50.0
    encoded = tokenizer.encode(sensors(regular(x)))
    assert encoded.clip_fraction[0] == pytest.approx(0.01) and encoded.values.max() == 4095
