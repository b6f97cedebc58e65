"""What happens to pixels: depth, colour, transparency, size and orientation, each against known values."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from headrace.connectors.contract import BytesBlob, Item
from headrace.ingest.normalizers.contract import Bad
from headrace.ingest.normalizers.image import ImageConfig, ImageNormalizer
from headrace.ingest.normalizers.image_pixels import target_size
from headrace.schemas.record import payload_views

Array = npt.NDArray[Any]


def rows_of(data: bytes, name: str, **settings_: Any) -> list[dict[str, Any]]:
    item = Item(BytesBlob("p", data), 1, headers={"format": name})
    rows = []
    for got in ImageNormalizer(ImageConfig(**settings_)).open(item):
        assert not isinstance(got, Bad), got
        for row, array in zip(got.to_pylist(), payload_views(got)):
            rows.append({**row, "array": array})
    return rows


def native(data: bytes, name: str) -> dict[str, Any]:
    return rows_of(data, name, mode="native", max_side="none")[0]


def rgb(data: bytes, name: str) -> dict[str, Any]:
    return rows_of(data, name, max_side="none")[0]


def saved(image: Image.Image, format_name: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, format_name, **options)
    return out.getvalue()


PNG_COLOUR = {1: 0, 2: 4, 3: 2, 4: 6}
ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))


def png16(array: Array, *, interlaced: bool = False, extra: bytes = b"") -> bytes:
    """A PNG of 16 bits per sample, written by hand: every row with another filter (PNG third edition, 9)."""
    height, width, channels = array.shape
    passes = [array[y::dy, x::dx] for y, x, dy, dx in ADAM7] if interlaced else [array]
    raw = b"".join(_filtered(part) for part in passes if part.size)
    header = struct.pack(">IIBBBBB", width, height, 16, PNG_COLOUR[channels], 0, 0, int(interlaced))
    chunks = [chunk(b"IHDR", header), extra, chunk(b"IDAT", zlib.compress(raw)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def chunk(kind: bytes, body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")


def _filtered(part: Array) -> bytes:
    lines = np.frombuffer(part.astype(">u2").tobytes(), np.uint8).reshape(part.shape[0], -1).astype(int)
    step = part.shape[2] * 2
    out = b""
    above = np.zeros(lines.shape[1], int)
    for number, line in enumerate(lines):
        kind = number % 5
        left = np.concatenate([np.zeros(step, int), line[:-step]])
        corner = np.concatenate([np.zeros(step, int), above[:-step]])
        distance = [np.abs(left + above - corner - near) for near in (left, above, corner)]
        paeth = np.where(
            (distance[0] <= distance[1]) & (distance[0] <= distance[2]),
            left,
            np.where(distance[1] <= distance[2], above, corner),
        )
        guess = [0, left, above, (left + above) // 2, paeth][kind]
        out += bytes([kind]) + ((line - guess) % 256).astype(np.uint8).tobytes()
        above = line
    return out


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("interlaced", [False, True])
def test_all_sixteen_bits_of_a_png_arrive(channels: int, interlaced: bool) -> None:
    array = np.random.default_rng(channels).integers(0, 65536, (13, 11, channels), np.uint16)
    row = native(png16(array, interlaced=interlaced), "png")
    assert row["dtype"] == "uint16" and np.array_equal(row["array"], array)
    assert row["mode"] == {1: "I;16", 2: "LA", 3: "RGB", 4: "RGBA"}[channels]


@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_become_eight_to_the_nearest(channels: int) -> None:
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1).repeat(channels, axis=2)
    row = rgb(png16(ramp), "png")
    want = np.rint(ramp.astype(float) * 255 / 65535).astype(int)
    assert np.array_equal(row["array"].astype(int), np.broadcast_to(want, (256, 256, 3)))
    assert row["transforms"] == (["I;16->RGB [0,65535]->[0,255]"] if channels == 1 else ["depth 16->8 linear"])


def test_a_transparent_colour_of_sixteen_bits_is_white_by_all_its_bits() -> None:
    array = np.zeros((1, 3, 3), np.uint16)
    array[0] = [[1000, 2000, 3000], [1000, 2000, 3001], [0, 0, 0]]
    key = chunk(b"tRNS", struct.pack(">HHH", 1000, 2000, 3000))
    assert rgb(png16(array, extra=key), "png")["array"][0].tolist() == [[255, 255, 255], [4, 8, 12], [0, 0, 0]]
    gray = chunk(b"tRNS", struct.pack(">H", 1000))
    assert rgb(png16(array[:, :, :1], extra=gray), "png")["array"][0, :, 0].tolist() == [255, 255, 0]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("layout", ["contig", "separate", "big-endian", "deflate", "tiled"])
def test_tiffs_written_by_tifffile_arrive_exactly(dtype: Any, channels: int, layout: str) -> None:
    tifffile = pytest.importorskip("tifffile")
    array = np.random.default_rng(7).integers(0, np.iinfo(dtype).max, (33, 47, channels), dtype)
    options: dict[str, Any] = {"photometric": "minisblack" if channels == 1 else "rgb"}
    if channels == 4:
        options["extrasamples"] = ["unassalpha"]
    if layout == "deflate":
        options |= {"compression": "zlib"}
    if layout == "tiled":
        options |= {"tile": (16, 16)}
    stored = array[:, :, 0] if channels == 1 else array
    if layout == "separate":
        options["planarconfig"] = "separate"
        stored = array.transpose(2, 0, 1) if channels > 1 else stored
    out = io.BytesIO()
    tifffile.imwrite(out, stored, byteorder=">" if layout == "big-endian" else "<", metadata=None, **options)
    row = native(out.getvalue(), "tiff")
    assert row["dtype"] == np.dtype(dtype).name and np.array_equal(row["array"], array)


def test_tiffs_that_only_gdal_reads_arrive_as_well() -> None:
    rasterio = pytest.importorskip("rasterio")
    import warnings

    array = np.random.default_rng(3).integers(0, 4, (3, 20, 30), np.uint8)
    for bits, top in ((2, 3), (4, 15)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with rasterio.MemoryFile() as memory:
                with memory.open(
                    driver="GTiff",
                    width=30,
                    height=20,
                    count=3,
                    dtype="uint8",
                    NBITS=bits,
                    photometric="RGB",
                    interleave="pixel",
                ) as file:
                    file.write(array)
                data = bytes(memory.getbuffer())
        row = rgb(data, "tiff")
        want = np.rint(array.transpose(1, 2, 0) * (255 / top)).astype(np.uint8)
        assert np.array_equal(row["array"], want)
        assert row["transforms"] == ["read by GDAL", f"depth {bits}->8 linear"]


def test_floats_are_scaled_by_their_own_range_which_is_recorded() -> None:
    values = np.array([[-2.5, 0.0, 7.5], [np.nan, np.inf, 2.5]], np.float32)
    row = rgb(saved(Image.fromarray(values), "TIFF"), "tiff")
    assert row["array"][:, :, 0].tolist() == [[0, 64, 255], [0, 0, 128]]
    assert row["transforms"] == ["F->RGB [-2.5,7.5]->[0,255]"] and row["flags"] == ["not_finite"]
    kept = native(saved(Image.fromarray(values), "TIFF"), "tiff")
    assert kept["dtype"] == "float32" and np.array_equal(kept["array"][:, :, 0], values, equal_nan=True)
    same = rgb(saved(Image.new("F", (2, 2), 3.5), "TIFF"), "tiff")
    assert not same["array"].any() and same["transforms"] == ["F->RGB [3.5,3.5]->[0,255]"]


def test_a_white_is_zero_picture_of_sixteen_bits_is_inverted() -> None:
    tifffile = pytest.importorskip("tifffile")
    out = io.BytesIO()
    tifffile.imwrite(out, np.array([[0, 65535]], np.uint16), photometric="miniswhite", metadata=None)
    row = rgb(out.getvalue(), "tiff")
    assert row["array"][0, :, 0].tolist() == [255, 0] and "invert: 0 is white" in row["transforms"]


COLOURS = [
    ("1", 1, [255, 255, 255], "1->RGB"),
    ("L", 100, [100, 100, 100], "L->RGB"),
    ("LA", (100, 51), [224, 224, 224], "LA->RGB alpha over white"),
    ("RGB", (1, 2, 3), [1, 2, 3], None),
    ("RGBA", (0, 100, 255, 51), [204, 224, 255], "RGBA->RGB alpha over white"),
    ("CMYK", (255, 0, 0, 0), [0, 255, 255], "CMYK->RGB without profile"),
    ("LAB", (255, 128, 128), [255, 255, 255], "LAB->RGB"),
]


@pytest.mark.parametrize(("mode", "value", "want", "transform"), COLOURS)
def test_every_colour_becomes_rgb_in_a_way_that_is_told(
    mode: str, value: Any, want: list[int], transform: str | None
) -> None:
    row = rgb(saved(Image.new(mode, (4, 3), value), "TIFF"), "tiff")
    got = row["array"][0, 0].astype(int)
    assert np.abs(got - want).max() <= (2 if mode == "LAB" else 0)
    assert row["transforms"] == (None if transform is None else [transform])
    kept = native(saved(Image.new(mode, (4, 3), value), "TIFF"), "tiff")
    assert kept["mode"] == mode and kept["transforms"] is None


def test_a_palette_is_spread_out_or_kept_beside_its_indices() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putdata([0, 1])
    plain = saved(image, "PNG")
    assert rgb(plain, "png")["array"][0].tolist() == [[10, 20, 30], [40, 50, 60]]
    assert rgb(plain, "png")["transforms"] == ["P->RGB palette"]
    kept = native(plain, "png")
    assert kept["mode"] == "P" and kept["array"][0, :, 0].tolist() == [0, 1]
    assert '"palette_rgb":"0a141e28323c' in kept["extra"]
    seen = rgb(saved(image, "PNG", transparency=0), "png")
    assert seen["array"][0].tolist() == [[255, 255, 255], [40, 50, 60]]
    assert seen["transforms"] == ["P->RGB alpha over white"]
    assert '"transparency":' in native(saved(image, "PNG", transparency=0), "png")["extra"]


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 20_000), st.integers(1, 20_000), st.integers(1, 2000))
def test_a_size_keeps_its_ratio_and_never_grows(width: int, height: int, side: int) -> None:
    w, h = target_size(width, height, side)
    assert 1 <= w <= width and 1 <= h <= height and max(w, h) <= max(side, 1)
    if max(width, height) > side:
        assert max(w, h) == side
        assert abs(w - width * side / max(width, height)) <= 0.5 or w == 1
        assert abs(h - height * side / max(width, height)) <= 0.5 or h == 1
    else:
        assert (w, h) == (width, height)


def test_scaling_is_recorded_and_small_pictures_are_left_alone() -> None:
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, (300, 900, 3), np.uint8))
    row = rows_of(saved(noise, "PNG"), "png")[0]
    assert row["shape"] == [171, 512, 3]
    assert row["transforms"] == ["resize 900x300->512x171 lanczos after box"]
    want = noise.resize((512, 171), Image.Resampling.LANCZOS, reducing_gap=2.0)
    assert np.array_equal(row["array"], np.asarray(want))
    assert rows_of(saved(noise, "PNG"), "png", max_side=900)[0]["transforms"] is None
    labels = Image.fromarray(np.random.default_rng(1).integers(0, 3, (40, 90), np.uint8), "L").convert("P")
    small = rows_of(saved(labels, "PNG"), "png", mode="native", max_side=30)[0]
    assert small["transforms"] == ["resize 90x40->30x13 nearest"] and set(np.unique(small["array"])) <= {0, 1, 2}
    wide = np.random.default_rng(5).integers(0, 65536, (20, 40, 3), np.uint16)
    deep = rows_of(png16(wide), "png", mode="native", max_side=10)[0]
    assert deep["dtype"] == "uint16" and deep["shape"] == [5, 10, 3]


def test_a_jpeg_may_be_scaled_by_its_decoder_where_that_is_asked_for() -> None:
    x = np.linspace(0, 255, 1600)
    smooth = Image.fromarray(np.stack([np.outer(x, np.ones(1200))] * 3, axis=2).astype(np.uint8))
    data = saved(smooth, "JPEG", quality=95)
    exact, fast = rows_of(data, "jpeg", max_side=200)[0], rows_of(data, "jpeg", max_side=200, scaled="fast")[0]
    assert fast["transforms"] == ["jpeg scale 1200x1600->300x400", "resize 300x400->150x200 lanczos after box"]
    assert exact["transforms"] == ["resize 1200x1600->150x200 lanczos after box"]
    assert np.abs(exact["array"].astype(int) - fast["array"]).max() <= 4


@pytest.mark.parametrize("format_name", ["TIFF", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_stored_in_any_orientation_comes_out_upright(format_name: str, orientation: int) -> None:
    upright = np.random.default_rng(2).integers(0, 256, (5, 9, 3), np.uint8)
    undo = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]
    image = Image.fromarray(upright)
    stored = image if undo is None else image.transpose(Image.Transpose(undo))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, Any] = {"lossless": True} if format_name == "WEBP" else {}
    row = rgb(saved(stored, format_name, exif=exif, **options), format_name.lower())
    assert np.array_equal(row["array"], upright)
    assert (row["transforms"] or [""])[-1].startswith("" if orientation == 1 else f"orientation {orientation} ")


def test_wide_pixels_are_turned_like_others() -> None:
    tifffile = pytest.importorskip("tifffile")
    array = np.random.default_rng(4).integers(0, 65536, (4, 7, 3), np.uint16)
    for orientation in range(1, 9):
        out = io.BytesIO()
        tifffile.imwrite(out, array, photometric="rgb", metadata=None, extratags=[(274, "H", 1, orientation, True)])
        small = (array >> 8).astype(np.uint8)
        plain = io.BytesIO()
        tifffile.imwrite(plain, small, photometric="rgb", metadata=None, extratags=[(274, "H", 1, orientation, True)])
        wide, narrow = native(out.getvalue(), "tiff"), native(plain.getvalue(), "tiff")
        assert np.array_equal(wide["array"] >> 8, narrow["array"])
        gdal = io.BytesIO()
        tifffile.imwrite(
            gdal, array.transpose(2, 0, 1), photometric="rgb", planarconfig="separate", metadata=None,
            extratags=[(274, "H", 1, orientation, True)],
        )  # fmt: skip
        assert np.array_equal(native(gdal.getvalue(), "tiff")["array"], wide["array"])


@pytest.mark.parametrize(
    ("settings_", "words"),
    [
        ({"max_side": 0}, "greater than or equal to 1"),
        ({"frames": -1}, "greater than"),
        ({"mode": "bgr"}, "rgb"),
        ({"size": 1}, "Extra"),
    ],
)
def test_a_wrong_setting_is_refused(settings_: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        ImageConfig(**settings_)


@pytest.mark.parametrize("crop", [224, (320, 100), (60, 200), 2000])
@pytest.mark.parametrize("draft", [False, True])
def test_a_crop_is_what_pillow_fits(crop: Any, draft: bool) -> None:
    from PIL import ImageOps

    scene = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    data = saved(Image.fromarray(scene).resize((1024, 768), Image.Resampling.BICUBIC), "JPEG", quality=90)
    size = (crop, crop) if isinstance(crop, int) else crop
    other = Image.open(io.BytesIO(data))
    if draft:
        other.draft("RGB", (max(size), max(size)))
    (row,) = rows_of(data, "jpeg", crop=crop, scaled="fastest" if draft else "exact")
    assert row["array"].shape == (size[1], size[0], 3)
    if isinstance(crop, int) or not draft:
        assert np.array_equal(row["array"], ImageOps.fit(other, size, Image.Resampling.LANCZOS))


def test_a_short_side_leaves_a_border_around_the_crop() -> None:
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None], 256, 0)
    (row,) = rows_of(saved(Image.fromarray(ramp), "PNG"), "png", crop=224, short_side=256)
    assert np.array_equal(row["array"][:, :, 0], ramp[16:240, 16:240])


@pytest.mark.parametrize(
    "wrong", [{"crop": 224, "max_side": 100}, {"short_side": 256}, {"crop": 224, "short_side": 100}, {"crop": 0}]
)
def test_settings_of_size_that_contradict_each_other_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ImageConfig(**wrong)


def test_crops_enter_no_digest_where_there_are_none() -> None:
    from headrace.schemas.pipeline import bytes_settings

    assert not {"crop", "short_side"} & bytes_settings(ImageConfig()).keys()
