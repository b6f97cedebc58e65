"""The integer PCA and what is built on it: exact against big integers, honest about error, edges, masks, schema."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.schemas.errors import ConfigError, RecordError, SchemaMismatch, TokenizerError
from headrace.schemas.record import payload_views
from headrace.tokenizers.contract import Artefact, Tokenizer
from headrace.tokenizers.exact_math import exp2, log2, mean_and_deviation, root_mean_square
from headrace.tokenizers.integer_pca import SHIFT, IntegerPca
from headrace.tokenizers.integers import IntegerIds
from headrace.tokenizers.patch_masks import MaskIds
from headrace.tokenizers.patches import cut_picture, cut_raster, inside, join_picture, join_raster
from headrace.tokenizers.pca_fit import fit_pca, grid_prior
from headrace.tokenizers.raster_scaling import RasterScaling
from headrace.tokenizers.registry import choose, load
from headrace.tokenizers.scalar_levels import Histogram, place_levels
from headrace.tokenizers.testing import row_tokens
from headrace.tokenizers.testing_rows import images, picture, rasters, smooth, video


def fitted(batch: pa.RecordBatch, **options: Any) -> Tokenizer:
    choice = choose(options)
    assert choice.cls is not None
    return load(Artefact.from_files(choice.cls.fit(choice.config, [batch], 0).to_files()))


def through(tokenizer: Tokenizer, batch: pa.RecordBatch) -> tuple[Any, pa.RecordBatch]:
    encoded = tokenizer.encode(batch)
    return encoded, tokenizer.decode(row_tokens(encoded))


def true_psnr(a: Any, b: Any, peak: float) -> float:
    return float(10 * np.log10(peak**2 / np.mean((a.astype(float) - b.astype(float)) ** 2)))


def test_codes_and_values_agree_with_big_integers() -> None:
    random = np.random.default_rng(3)
    sample = random.integers(-4000, 4000, (500, 12)) + random.integers(-9000, 9000, (500, 1))
    fit = fit_pca(lambda: [sample], np.eye(12) + 0.01 * np.diag(np.arange(12)), 16_000, codes=5000, stages=3)
    pca = IntegerPca(fit.arrays, 3, 16_000)
    weights = [[int(w) for w in row] for row in fit.arrays["weights"]]
    levels = [int(n) for n in fit.arrays["levels"]]
    cut = np.cumsum([0, *[n - 1 for n in levels]])
    placed = np.cumsum([0, *levels])
    coded = next(pca.encode(sample[:50]))
    for x, codes, rebuilt in zip(sample[:50], coded.codes, coded.rebuilt, strict=True):
        expected, basis = [0, 0, 0], [1, 1, 1]
        sums = [int(m) for m in fit.arrays["mean"]]
        for k, row in enumerate(weights):
            z = sum(w * int(v) for w, v in zip(row, x, strict=True))
            level = sum(int(t) <= z for t in fit.arrays["thresholds"][cut[k] : cut[k + 1]])
            stage = int(fit.arrays["stage"][k])
            expected[stage] += level * basis[stage]
            basis[stage] *= levels[k]
            centre = int(fit.arrays["centres"][placed[k] + level])
            sums = [s + centre * w for s, w in zip(sums, row, strict=True)]
        assert codes.tolist() == expected
        assert rebuilt.tolist() == [(s + (1 << (SHIFT - 1))) >> SHIFT for s in sums]
    assert np.array_equal(pca.decode(coded.codes), coded.rebuilt)
    assert all(size <= 5000 for size in pca.sizes)


def test_one_unit_in_the_last_place_decides() -> None:
    """Thresholds set exactly on coefficients of 31 bits: any rounding, as of float32, puts some on the wrong side."""
    random = np.random.default_rng(11)
    size, count = 96, 64
    weights = random.integers(-16_000, 16_000, (1, size))
    weights[0, 0] = 1
    x = random.integers(100, 16_000, (count, size))
    z = np.sort(np.array([sum(int(w) * int(v) for w, v in zip(weights[0], row, strict=True)) for row in x]))
    arrays = {
        "weights": weights,
        "mean": np.zeros(size, np.int64),
        "levels": np.array([count + 1]),
        "stage": np.array([0]),
        "thresholds": z,
        "centres": np.zeros(count + 1, np.int64),
        "low": z[:1],
        "high": z[-1:],
    }
    pca = IntegerPca(arrays, 1, 16_001)
    below = x.copy()
    below[:, 0] -= 1
    at, under = next(pca.encode(x)), next(pca.encode(below))
    assert sorted(at.codes[:, 0].tolist()) == list(range(1, count + 1))
    assert np.array_equal(under.codes, at.codes - 1), "one unit below a threshold is one level below"
    assert at.outside.sum() == 0 and under.outside.sum() == 1


def test_weights_that_would_not_be_exact_are_refused() -> None:
    sample = np.random.default_rng(0).integers(-100, 100, (50, 4))
    arrays = fit_pca(lambda: [sample], np.eye(4), 100, codes=50, stages=1).arrays
    with pytest.raises(TokenizerError, match="exact"):
        IntegerPca({**arrays, "weights": arrays["weights"].astype(np.int64) << 40}, 1, 100)
    with pytest.raises(TokenizerError, match="match"):
        IntegerPca({**arrays, "centres": arrays["centres"][1:]}, 1, 100)
    with pytest.raises(TokenizerError, match="lacks"):
        IntegerPca({"weights": arrays["weights"]}, 1, 100)


def test_levels_are_at_least_as_good_as_even_ones() -> None:
    random = np.random.default_rng(1)
    for values in (random.laplace(0, 300, 5000), random.normal(0, 300, 5000), random.uniform(-900, 900, 5000)):
        whole = np.rint(values)
        histogram = Histogram.empty(int(whole.min()), int(whole.max()))
        histogram.add(whole)
        for count in (2, 3, 7, 28):
            levels = place_levels(histogram, count)
            index = np.searchsorted(levels.thresholds, whole, side="right")
            error = ((whole - levels.centres[index]) ** 2).mean()
            step = (whole.max() - whole.min() + 1) / count
            even = whole.min() + (np.floor((whole - whole.min()) / step) + 0.5) * step
            assert error <= ((whole - even) ** 2).mean() * 1.001
            assert (np.diff(levels.thresholds) > 0).all()
            assert levels.squared_error / 5000 == pytest.approx(error, rel=0.05)


def test_the_logarithm_and_the_power_are_right_to_the_last_places() -> None:
    random = np.random.default_rng(2)
    x = np.exp(random.uniform(-700, 700, 20_000))
    assert np.abs(log2(x) - np.log2(x)).max() <= 1e-12
    assert log2(np.array([1.0, 2.0, 0.125])).tolist() == [0.0, 1.0, -3.0]
    y = random.uniform(-900, 900, 20_000)
    assert np.abs(exp2(y) / np.exp2(y) - 1).max() <= 1e-15
    assert exp2(np.array([0.0, 5.0, -2.0])).tolist() == [1, 32, 0.25]


#: Numbers whose mean and deviation float64 can hold in full; what lies below is `scaled_moments`' affair.
NORMAL = st.floats(-1e9, 1e9).map(lambda v: v if abs(v) > 1e-290 else 0.0)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(NORMAL, min_size=1, max_size=30), min_size=1, max_size=5))
def test_moments_agree_with_numpy_and_not_with_their_neighbours(runs: list[list[float]]) -> None:
    borders = np.cumsum([0, *[len(r) for r in runs]])
    flat = np.concatenate([np.array(r) for r in runs])
    mean, deviation = mean_and_deviation(flat, borders)
    rms = root_mean_square(flat, borders)
    for i, run in enumerate(runs):
        alone = np.array(run), np.array([0, len(run)])
        assert mean[i] == mean_and_deviation(*alone)[0][0] and rms[i] == root_mean_square(*alone)[0]
        scale = np.abs(run).max() or 1.0
        unit = np.array(run) / scale  # numpy's squares of tiny values would be 0
        assert mean[i] / scale == pytest.approx(np.mean(unit), rel=1e-12, abs=1e-14)
        assert deviation[i] / scale == pytest.approx(np.std(unit), rel=1e-9, abs=1e-14)
        assert rms[i] / scale == pytest.approx(np.sqrt(np.mean(np.square(unit))), rel=1e-9)


@given(st.lists(st.integers(-(2**63) + 1, 2**63 - 1), max_size=20), st.sampled_from([256, 1024]))
def test_integers_spell_and_read_back(values: list[int], base: int) -> None:
    ids = IntegerIds(77, base)
    spelled = ids.spell(*values)
    tokens, lengths = ids.spell_array(np.array(values, np.int64))
    assert tokens.tolist() == spelled and all(77 <= t < 77 + ids.size for t in spelled)
    assert list(ids.reader(np.array(spelled, np.int64)).numbers(len(values))) == values
    at = np.cumsum(lengths) - lengths
    assert np.flatnonzero(ids.is_head(tokens)).tolist() == at.tolist()
    assert ids.read_heads(tokens, at)[0].tolist() == values


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([2, 8]), st.integers(1, 3))
@settings(deadline=None)
def test_patches_cover_everything_once(height: int, width: int, patch: int, depth: int) -> None:
    pixels = np.random.default_rng(height * width).integers(0, 255, (height, width, depth), np.uint8)
    assert np.array_equal(join_picture(cut_picture(pixels, patch), height, width, patch), pixels)
    tile = np.ascontiguousarray(np.moveaxis(pixels, -1, 0))
    assert np.array_equal(join_raster(cut_raster(tile, patch), depth, height, width, patch), tile)
    mask = inside(height, width, patch)
    assert (mask is None) == (height % patch == 0 and width % patch == 0)
    assert mask is None or mask.sum() == height * width


@given(st.integers(1, 9), st.integers(1, 3), st.integers(0, 2**32), st.sampled_from([0.0, 0.1, 0.9, 1.0]))
@settings(deadline=None)
def test_masks_spell_and_read_back(count: int, stages: int, seed: int, share: float) -> None:
    random = np.random.default_rng(seed)
    ids = MaskIds(100, 101, 102)
    codes = random.integers(0, 100, (count, stages))
    valid = (random.random((count, 64)) >= share) & (random.random((count, 1)) > 0.3)
    tokens = ids.write(codes, valid)
    back, mask, used = ids.read(np.append(tokens, 5), count, 64, stages)
    assert used == len(tokens) and np.array_equal(mask, valid)
    assert np.array_equal(back[valid.any(axis=1)], codes[valid.any(axis=1)])


def test_a_picture_keeps_its_size_and_the_stored_error_is_the_true_one() -> None:
    batch = images(picture(64, 48, 1), picture(37, 21, 2), picture(3, 100, 3), picture(1, 1, 4))
    encoded, decoded = through(fitted(batch, type="pca-fsq"), batch)
    for given_, back, error in zip(payload_views(batch), payload_views(decoded), encoded.error, strict=True):
        assert back.shape == given_.shape and error == pytest.approx(true_psnr(given_, back, 255.0), abs=1e-3)
    counts = np.diff(encoded.offsets)
    assert counts.tolist() == [8 * 6 + 4, 5 * 3 + 4, 1 * 13 + 4, 1 + 4]
    assert decoded.column("mode").to_pylist() == ["RGB"] * 4


def test_more_tokens_a_patch_give_a_better_picture() -> None:
    batch = images(*(picture(64, 64, s) for s in range(4)))
    errors = [fitted(batch, type="pca-fsq", stages=n).encode(batch).error.mean() for n in (1, 2, 4)]
    assert errors[0] + 1 < errors[1] and errors[1] + 1 < errors[2]


def test_given_levels_are_used_as_they_are() -> None:
    batch = images(picture(64, 64, 0))
    tokenizer = fitted(batch, type="pca-fsq", levels=[28, 7, 7, 7, 3, 2])
    assert tokenizer.artefact.arrays["levels"].tolist() == [28, 7, 7, 7, 3, 2]
    with pytest.raises(ConfigError, match="product"):
        choose({"type": "pca-fsq", "levels": [300, 300]})


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((8, 8, 1), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((8, 8, 3), np.uint16),
        np.zeros((8, 8, 3), np.float32),
        np.zeros((8, 8), np.uint8),
    ],
)
def test_other_pictures_are_a_mismatch_and_not_an_encode(pixels: Any) -> None:
    tokenizer = fitted(images(picture(16, 16, 0)), type="pca-fsq")
    with pytest.raises(SchemaMismatch, match="3 channels"):
        tokenizer.encode(images(pixels))


def test_gray_pictures_can_have_their_own_tokenizer_and_others_do_not_disturb_its_fit() -> None:
    gray, colour = np.ascontiguousarray(picture(32, 32, 1)[..., :1]), picture(32, 32, 2)
    mixed = fitted(images(gray, colour), type="pca-fsq", channels=1)
    _, decoded = through(mixed, images(gray))
    assert decoded.column("mode").to_pylist() == ["L"] and next(payload_views(decoded)).shape == (32, 32, 1)
    with pytest.raises(TokenizerError, match="1 of uint8 with 1 channels"):
        fitted(images(gray), type="pca-fsq")


@pytest.mark.parametrize("pixels", [np.full((8, 8, 3), 7, np.uint8), np.zeros((1, 1, 3), np.uint8), picture(9, 3, 1)])
def test_a_fit_on_almost_nothing_works(pixels: Any) -> None:
    batch = images(pixels)
    encoded, decoded = through(fitted(batch, type="pca-fsq"), batch)
    assert np.isfinite(encoded.error).all() and next(payload_views(decoded)).shape == pixels.shape
    other = images(picture(40, 40, 9))
    assert np.isfinite(fitted(batch, type="pca-fsq").encode(other).error).all()


def test_coefficients_beyond_the_fit_are_counted() -> None:
    dull = images(*((picture(64, 64, s) // 8 + 100).astype(np.uint8) for s in range(4)))
    tokenizer = fitted(dull, type="pca-fsq")
    assert tokenizer.encode(dull).clip_fraction.max() < 0.02
    stripes = np.tile(np.array([[[255] * 3, [0] * 3]], np.uint8), (32, 16, 1))
    assert tokenizer.encode(images(stripes)).clip_fraction[0] > 0.1


def test_a_fit_says_what_it_read_and_how_good_it_is() -> None:
    batch = images(*(picture(40, 40, s) for s in range(20)))
    card = fitted(batch, type="pca-fsq").artefact.card
    assert card["records"] == 20 and card["held_out"] == 2 and len(card["records_digest"]) == 64
    assert card["held_out_result"]["error"] > 15 and 0 < card["entropy_bits"][0] < 16 and 0 < card["code_usage"][0] <= 1


def test_video_frames_and_stamps_come_back() -> None:
    frames = np.stack([picture(20, 30, s) for s in range(4)])
    pts = [-(2**62), 0, 3003, 2**62]
    batch = video(frames, pts, (1001, 30_000))
    encoded, decoded = through(fitted(batch, type="pca-fsq"), batch)
    assert decoded.column("pts").to_pylist() == [pts]
    back = next(payload_views(decoded))
    assert back.shape == frames.shape and encoded.error[0] == pytest.approx(true_psnr(frames, back, 255.0), abs=1e-3)
    with pytest.raises(RecordError, match="4 frames with 3"):
        fitted(batch, type="pca-fsq").encode(video(frames, pts[:3]))
    empty = video(frames[:0], [])
    encoded, decoded = through(fitted(batch, type="pca-fsq"), empty)
    assert decoded.column("shape").to_pylist() == [[0, 20, 30, 3]] and np.isnan(encoded.error[0])


def test_one_artefact_serves_one_modality() -> None:
    with pytest.raises(TokenizerError, match="one modality"):
        choice = choose({"type": "pca-fsq"})
        assert choice.cls is not None
        choice.cls.fit(choice.config, [images(picture(8, 8, 1)), video(picture(8, 8, 1)[None], [0])], 0)
    tokenizer = fitted(images(picture(8, 8, 1)), type="pca-fsq")
    with pytest.raises(SchemaMismatch, match="fitted to image"):
        tokenizer.encode(video(picture(8, 8, 1)[None], [0]))
    with pytest.raises(TokenizerError, match="for rasters"):
        fitted(images(picture(8, 8, 1)), type="pca-fsq", scaling="sqrt")


@pytest.mark.parametrize("kind", ["sqrt", "linear", "asinh", "base"])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "float32", "float64"])
def test_every_scaling_undoes_itself(kind: Any, dtype: str) -> None:
    values = smooth((3, 16, 16), 4, 240.0)
    values = (values - (120 if dtype.startswith(("int", "float")) else 0)).astype(dtype).astype(np.float64)
    scaling = RasterScaling.fit(kind, values.reshape(3, -1))
    scaled = scaling.forward(values, np.ones(values.shape, np.bool_))
    assert scaled.outside == 0 and np.array_equal(scaled.integers, np.rint(scaled.integers))
    assert np.abs(scaled.integers).max() <= 1 << 15
    assert np.abs(scaling.inverse(scaled.integers, scaled.header) - values).max() < 240 / 400
    again = RasterScaling.from_params({"scaling": kind, "exponents": scaling.exponents, "offsets": scaling.offsets})
    assert again == scaling


@pytest.mark.parametrize("kind", ["sqrt", "linear", "asinh", "base"])
def test_extreme_values_do_not_break_a_scaling(kind: Any) -> None:
    values = np.array([[0.0, 1e308, -1e308, 5e-324, -0.0, 1.0]])
    valid = np.ones(values.shape, np.bool_)
    for scaling in (RasterScaling.fit(kind, np.zeros((1, 4))), RasterScaling.fit(kind, np.array([[1.0, 2.0, 5e3]]))):
        scaled = scaling.forward(values, valid)
        assert np.isfinite(scaled.integers).all() and np.isfinite(scaling.inverse(scaled.integers, scaled.header)).all()


def test_joint_rasters_keep_mask_dtype_and_true_error() -> None:
    mask = np.random.default_rng(0).random((24, 20)) > 0.3
    mask[:8, :8] = False
    tiles = [smooth((3, 24, 20), s, 5000.0).astype(np.uint16) for s in range(4)]
    batch = rasters(*tiles, masks=[None, mask, ~mask, np.zeros_like(mask)], unit="1")
    tokenizer = fitted(batch, type="pca-fsq", stages=4, peak=10_000)
    encoded, decoded = through(tokenizer, batch)
    assert decoded.column("valid").to_pylist() == batch.column("valid").to_pylist()
    assert decoded.column("dtype").to_pylist() == ["uint16"] * 4
    for i, (a, b) in enumerate(zip(payload_views(batch), payload_views(decoded), strict=True)):
        known = np.frombuffer(batch.column("valid")[i].as_buffer(), np.uint8).reshape(24, 20) != 0
        if known.any():
            assert encoded.error[i] == pytest.approx(true_psnr(a[:, known], b[:, known], 10_000.0), abs=2e-3)
            assert (b[:, ~known] == 0).all()
        else:
            assert np.isnan(encoded.error[i])
    assert [b["name"] for b in decoded.column("bands")[0].as_py()] == ["B0", "B1", "B2"]


@pytest.mark.parametrize(
    "other",
    [
        rasters(np.zeros((2, 8, 8), np.uint16)),
        rasters(np.zeros((3, 8, 8), np.int16)),
        rasters(np.zeros((3, 8, 8), np.uint16), names=["B0", "B2", "B1"]),
        rasters(np.zeros((3, 8, 8), np.uint16), unit="m"),
    ],
)
def test_other_bands_dtypes_and_units_are_a_mismatch(other: pa.RecordBatch) -> None:
    tokenizer = fitted(rasters(smooth((3, 16, 16), 0, 900).astype(np.uint16)), type="pca-fsq")
    with pytest.raises(SchemaMismatch, match="made for uint16 bands"):
        tokenizer.encode(other)


def test_a_bright_tile_is_in_range_because_the_fit_saw_it_brighter() -> None:
    dark = rasters(*(smooth((4, 64, 64), s, 1500.0).astype(np.uint16) for s in range(4)))
    cloud = rasters((smooth((4, 64, 64), 9, 1500.0) * 4 + 1500).astype(np.uint16))
    jittered = fitted(dark, type="pca-fsq", stages=4, peak=10_000).encode(cloud)
    plain = fitted(dark, type="pca-fsq", stages=4, peak=10_000, gain_jitter=False).encode(cloud)
    assert jittered.error[0] > plain.error[0] + 5 and jittered.clip_fraction[0] < plain.clip_fraction[0]


def test_heights_far_from_the_fit_are_coded_from_their_own_base() -> None:
    low = rasters(*(smooth((1, 64, 64), s, 40.0).astype(np.int16) for s in range(4)))
    high = rasters((smooth((1, 64, 64), 9, 25.0) + 1200).astype(np.int16))
    _, decoded = through(fitted(low, type="pca-fsq", scaling="base"), high)
    missed = np.abs(next(payload_views(decoded)).astype(float) - next(payload_views(high)))
    assert missed.mean() < 2.5


def test_bands_alone_take_any_bands_and_dtypes() -> None:
    kinds = [("uint8", 255), ("int8", 127), ("uint16", 65_535), ("int16", 32_767), ("uint32", 2**32 - 1)]
    kinds += [("int32", 2**31 - 1), ("float32", 1e30), ("float64", 1e300), ("float16", 60_000)]
    tiles = [smooth((1 + i % 3, 24, 24), i, float(high)).astype(name) for i, (name, high) in enumerate(kinds)]
    batch = rasters(*tiles)
    encoded, decoded = through(fitted(batch, type="band-pca-fsq"), batch)
    for a, b, error in zip(payload_views(batch), payload_views(decoded), encoded.error, strict=True):
        assert b.shape == a.shape
        assert b.dtype == (np.float64 if a.dtype.name in ("uint32", "int32", "float64") else np.float32)
        scale = float(np.abs(a.astype(float)).max())
        x, y = a.astype(float) / scale, b.astype(float) / scale
        relative = [np.sqrt(((p - q) ** 2).mean()) / p.std() for p, q in zip(x, y, strict=True)]
        assert error == pytest.approx(np.sqrt(np.mean(np.square(relative))), rel=5e-3) and error < 0.5
    with pytest.raises(SchemaMismatch, match="bool"):
        fitted(batch, type="band-pca-fsq").encode(rasters(np.zeros((1, 8, 8), np.bool_)))


def test_a_band_is_coded_the_same_in_another_unit() -> None:
    tile = smooth((1, 32, 32), 1, 200.0)
    tokenizer = fitted(rasters(tile), type="band-pca-fsq")
    plain = tokenizer.encode(rasters(tile)).values[-16:]  # its sixteen patches, after the header
    assert np.array_equal(tokenizer.encode(rasters(tile * 4 - 8192)).values[-16:], plain)


def test_a_raster_whose_mask_does_not_fit_is_a_bad_record() -> None:
    tokenizer = fitted(rasters(smooth((1, 8, 8), 0, 9.0)), type="band-pca-fsq")
    with pytest.raises(RecordError, match="mask bytes"):
        tokenizer.encode(rasters(smooth((1, 8, 8), 0, 9.0), masks=[np.ones((2, 2), np.bool_)]))


def test_bodies_that_ask_for_too_much_are_refused_before_memory_is() -> None:
    ids = IntegerIds(64_000 + 3)
    tokenizer = fitted(images(picture(16, 16, 0)), type="pca-fsq")
    with pytest.raises(TokenizerError, match="tokens are expected"):
        tokenizer.decode([np.array(ids.spell(1 << 20, 1 << 20))])
    with pytest.raises(TokenizerError, match="cannot be"):
        tokenizer.decode([np.array(ids.spell(-8, 8))])
    band = fitted(rasters(smooth((1, 8, 8), 0, 9.0)), type="band-pca-fsq")
    with pytest.raises(TokenizerError, match="patches are expected"):
        band.decode([np.array(ids.spell(0, 1 << 20, 1 << 20, 1, 0, 1, 0))])
    with pytest.raises(TokenizerError, match="cannot be"):
        band.decode([np.array(ids.spell(0, 8, 8, 1, 10**9, 1, 0))])


def test_too_many_bands_are_sent_to_the_tokenizer_for_them() -> None:
    with pytest.raises(TokenizerError, match="band-pca-fsq"):
        fitted(rasters(np.zeros((70, 8, 8), np.uint8)), type="pca-fsq")


def test_the_prior_orders_the_components() -> None:
    values = np.linalg.eigvalsh(grid_prior(8, 8, 3))
    assert (np.diff(values) > 1e-9).all() and values[0] > 0
