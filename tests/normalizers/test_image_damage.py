"""Damaged and hostile pictures: what decodes is kept and flagged, the rest is refused, nothing else is raised."""

from __future__ import annotations

import io
import json
import random
import struct
import threading
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageFile

from headrace.connectors.contract import BytesBlob, Item
from headrace.ingest.normalizers.contract import Bad, Limits
from headrace.ingest.normalizers.image import ImageConfig, ImageNormalizer
from headrace.ingest.normalizers.image_open import PLUGINS
from headrace.schemas.errors import REASONS, RecordError
from headrace.schemas.record import payload_views

Array = npt.NDArray[Any]
Opened = tuple[list[dict[str, Any]], list[Bad]]


def opened(data: bytes, name: str, limits: Limits | None = None, **settings: Any) -> Opened:
    settings = {"max_side": "none", **settings}
    item = Item(BytesBlob("p", data), 1, headers={"format": name})
    rows: list[dict[str, Any]] = []
    bad: list[Bad] = []
    for got in ImageNormalizer(ImageConfig(**settings), limits).open(item):
        if isinstance(got, Bad):
            bad.append(got)
            continue
        for row, array in zip(got.to_pylist(), payload_views(got)):
            rows.append({**row, "array": array})
    return rows, bad


def saved(image: Image.Image, format_name: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, format_name, **options)
    return out.getvalue()


def scene(width: int = 160, height: int = 128) -> Image.Image:
    """A picture in which every row differs and nothing is black, white or gray."""
    y, x = np.mgrid[0:height, 0:width]
    noise = np.random.default_rng(9).integers(0, 24, (height, width))
    return Image.fromarray(
        np.stack([40 + x % 150 + noise, 60 + y, 90 + (x * y) % 60], axis=2).clip(1, 254).astype(np.uint8)
    )


def refusal(data: bytes, name: str, **settings: Any) -> RecordError:
    with pytest.raises(RecordError) as caught:
        opened(data, name, **settings)
    return caught.value


CUTTABLE: list[tuple[str, str, dict[str, Any], bool]] = [
    ("png", "PNG", {}, True),
    ("bmp", "BMP", {}, True),
    ("ppm", "PPM", {}, True),
    ("tga", "TGA", {}, True),
    ("tiff", "TIFF", {}, True),
    ("gif", "GIF", {}, True),
    ("sgi", "SGI", {}, False),
    ("jpeg", "JPEG", {"quality": 90}, False),
    ("jpeg", "JPEG", {"progressive": True}, False),
    ("webp", "WEBP", {"lossless": True}, False),
    ("avif", "AVIF", {}, False),
    ("jp2", "JPEG2000", {}, False),
    ("ico", "ICO", {}, False),
    ("dds", "DDS", {}, False),
    ("pcx", "PCX", {}, False),
    ("tiff", "TIFF", {"compression": "tiff_deflate"}, False),
]


@pytest.mark.parametrize(("name", "format_name", "options", "rows_survive"), CUTTABLE)
def test_a_file_that_ends_early_is_never_taken_for_whole(
    name: str, format_name: str, options: dict[str, Any], rows_survive: bool
) -> None:
    whole = saved(scene(), format_name, **options)
    want = opened(whole, name)[0][0]["array"]
    kept = 0
    for share in (0.02, 0.3, 0.6, 0.9, 0.99):
        cut = whole[: int(len(whole) * share)]
        try:
            rows, bad = opened(cut, name)
        except RecordError as exc:
            assert exc.reason.split(":")[0] in ("truncated", "corrupt", "unsupported", "bomb"), (share, exc)
            continue
        (row,) = rows
        assert {"truncated", "damaged"} & set(row["flags"]), share
        if options.get("progressive"):
            assert row["array"].shape == want.shape  # all rows, each a little worse
            continue
        assert bad or row["array"].shape == want.shape
        kept = max(kept, len(row["array"]))
        if bad:
            start, end = json.loads(bad[0].locator)["rows"]
            held = want[:start] if start else want[end:]
            assert row["array"].shape == held.shape
            if name == "jpeg":  # its last rows are smoothed with the ones that are missing
                assert np.array_equal(row["array"][:-16], held[:-16])
            else:
                assert np.array_equal(row["array"], held), share
    if rows_survive or (name == "jpeg" and not options.get("progressive")):
        assert kept > 64


def test_a_picture_that_lacks_only_its_end_mark_is_whole_and_says_so() -> None:
    want = opened(saved(scene(), "PNG"), "png")[0][0]["array"]
    rows, bad = opened(saved(scene(), "PNG")[:-12], "png")
    assert np.array_equal(rows[0]["array"], want) and rows[0]["flags"] == ["truncated"] and not bad
    rows, bad = opened(saved(scene(), "GIF")[:-1], "gif")
    assert rows[0]["flags"] == ["no_trailer"] and not bad


def test_a_jpeg_whose_scan_is_too_short_is_found_although_it_ends_properly() -> None:
    whole = saved(scene(), "JPEG", quality=90)
    rows, bad = opened(whole[: len(whole) // 2] + b"\xff\xd9", "jpeg")
    assert not bad and "gray_tail" in rows[0]["flags"]
    assert "gray_tail" not in (opened(whole, "jpeg")[0][0]["flags"] or [])
    restarts = saved(scene(), "JPEG", restart_marker_blocks=2)
    assert opened(restarts, "jpeg")[0][0]["flags"] is None
    middle = len(restarts) // 2
    start = restarts.index(b"\xff\xd1", middle)
    end = restarts.index(b"\xff\xd6", start)
    assert "missing_restarts" in opened(restarts[:start] + restarts[end:], "jpeg")[0][0]["flags"]


def test_a_wrong_checksum_in_a_png_costs_what_lies_behind_it() -> None:
    data = saved(scene(), "PNG")
    at = data.index(b"IDAT")
    broken = data[: at + 40] + bytes([data[at + 40] ^ 1]) + data[at + 41 :]
    assert refusal(broken, "png").reason == "checksum"
    raw = b"".join(b"\0" + row.tobytes() for row in np.asarray(scene()))
    body = zlib.compress(raw, 1)
    half = len(body) // 2

    def chunk(kind: bytes, content: bytes, wrong: int = 0) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content) ^ wrong)

    head = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 160, 128, 8, 2, 0, 0, 0))
    two = head + chunk(b"IDAT", body[:half]) + chunk(b"IDAT", body[half:], wrong=1) + chunk(b"IEND", b"")
    rows, bad = opened(two, "png")
    count = len(rows[0]["array"])
    assert 40 < count < 90 and np.array_equal(rows[0]["array"], np.asarray(scene())[:count])
    assert [(b.reason, b.locator) for b in bad] == [("checksum", f'{{"frame":0,"rows":[{count},128]}}')]
    text = head + chunk(b"tEXt", b"a\0b", wrong=1) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    assert opened(text, "png")[0][0]["flags"] == ["checksum"]


@pytest.mark.parametrize(
    ("name", "format_name"),
    [("png", "PNG"), ("jpeg", "JPEG"), ("gif", "GIF"), ("webp", "WEBP"), ("bmp", "BMP"), ("jp2", "JPEG2000")],
)
def test_what_stands_behind_a_picture_is_a_finding(name: str, format_name: str) -> None:
    rows, bad = opened(saved(scene(), format_name) + b"PK\3\4" * 25, name)
    assert not bad and "trailing_bytes" in rows[0]["flags"]
    assert json.loads(rows[0]["extra"])["trailing_bytes"] == 100
    assert "trailing_bytes" not in (opened(saved(scene(), format_name), name)[0][0]["flags"] or [])


def animation(count: int = 5, format_name: str = "GIF") -> bytes:
    frames = [Image.new("RGB", (20, 10), (n * 40, 5, 9)) for n in range(count)]
    return saved(frames[0], format_name, save_all=True, append_images=frames[1:], duration=50, lossless=True)


@pytest.mark.parametrize(("name", "format_name"), [("gif", "GIF"), ("png", "PNG"), ("webp", "WEBP"), ("tiff", "TIFF")])
def test_every_frame_is_a_record_up_to_the_number_asked_for(name: str, format_name: str) -> None:
    data = animation(5, format_name)
    rows, bad = opened(data, name)
    assert not bad and [row["frame"] for row in rows] == [0, 1, 2, 3, 4]
    assert [row["array"][0, 0, 0] for row in rows] == [0, 40, 80, 120, 160]
    assert [row["locator"] for row in rows] == [f'{{"frame":{n}}}' for n in range(5)]
    (first,) = opened(data, name, frames="first")[0]
    assert first["frame"] is None and first["locator"] == '{"frame":0}'
    three = opened(data, name, frames=3)[0]
    assert [row["flags"] for row in three] == [None, None, ["frames_capped"]]
    assert [row["flags"] for row in opened(data, name, frames=5)[0]] == [None] * 5
    assert len(opened(data, name, frames="all")[0]) == 5
    if name != "tiff":
        assert json.loads(rows[1]["extra"])["duration_ms"] == 50


@pytest.mark.parametrize(("name", "format_name"), [("gif", "GIF"), ("png", "PNG"), ("webp", "WEBP")])
def test_an_animation_that_ends_early_gives_its_whole_frames_and_names_the_rest(name: str, format_name: str) -> None:
    data = animation(5, format_name)
    for share in (0.5, 0.7, 0.9):
        try:
            rows, bad = opened(data[: int(len(data) * share)], name)
        except RecordError as exc:
            assert exc.reason == "truncated"
            continue
        assert "truncated" in rows[0]["flags"]
        assert [(b.reason, b.locator) for b in bad] == [("truncated", f'{{"from_frame":{len(rows)}}}')]
        assert [row["array"][0, 0, 0] for row in rows] == [0, 40, 80, 120, 160][: len(rows)]


def test_a_broken_page_costs_a_page_and_a_smaller_copy_is_no_page() -> None:
    tifffile = pytest.importorskip("tifffile")
    pages = [np.full((8, 8), value, np.uint8) for value in (10, 20, 30, 40)]
    out = io.BytesIO()
    with tifffile.TiffWriter(out) as file:
        for number, page in enumerate(pages):
            file.write(
                page,
                photometric="minisblack",
                compression="zlib",
                subfiletype=int(number == 2),
                metadata=None,
                contiguous=False,
            )
    data = bytearray(out.getvalue())
    with tifffile.TiffFile(io.BytesIO(bytes(data))) as file:
        offset = file.pages[1].dataoffsets[0]
    data[offset : offset + 4] = b"\xff\xff\xff\xff"
    rows, bad = opened(bytes(data), "tiff")
    assert [(row["frame"], row["array"][0, 0, 0]) for row in rows] == [(0, 10), (3, 40)]
    assert [(b.reason, b.locator) for b in bad] == [("corrupt", '{"frame":1}')]


def test_a_tiff_that_lists_too_few_strips_is_truncated() -> None:
    tifffile = pytest.importorskip("tifffile")
    out = io.BytesIO()
    array = np.asarray(scene())
    tifffile.imwrite(out, array, photometric="rgb", rowsperstrip=16, metadata=None)
    data = bytearray(out.getvalue())
    with tifffile.TiffFile(io.BytesIO(bytes(data))) as file:
        for tag in (273, 279):
            entry = file.pages[0].tags[tag]
            struct.pack_into("<I", data, entry.offset + 4, 5)
    rows, bad = opened(bytes(data), "tiff")
    assert rows[0]["flags"] == ["truncated"] and np.array_equal(rows[0]["array"], array[:80])
    assert [(b.reason, b.locator) for b in bad] == [("truncated", '{"frame":0,"rows":[80,128]}')]


def tiff_header(width: int, height: int, samples: int) -> bytes:
    tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8)]
    tags += [(277, 4, 1, samples), (278, 4, 1, height), (279, 4, 1, 16)]
    body = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(tags)) + body + bytes(4)


def bmp_header(width: int, height: int) -> bytes:
    return (
        b"BM"
        + struct.pack("<IHHI", 70, 0, 0, 54)
        + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
        + bytes(16)
    )


@pytest.mark.parametrize(
    ("data", "name", "reasons"),
    [
        (tiff_header(10, 10, 65535), "tiff", {"unsupported:tiff"}),
        (tiff_header(100_000, 100_000, 1), "tiff", {"too_large"}),
        (tiff_header(0, 5, 1), "tiff", {"corrupt"}),
        (bmp_header(60_000, 60_000), "bmp", {"too_large"}),
        (bmp_header(8000, 8000), "bmp", {"bomb"}),
        (b"P6 9000 9000 255\n123", "ppm", {"bomb"}),
        (b"RIFF\x20\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\xff\xff\xff\xff\xff\xff" + bytes(20), "webp", {"too_large"}),
        (b"GIF89a\xff\xff\xff\xff\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\2\0;", "gif", {"too_large"}),
        (b"\xff\xd8\xff\xd9", "jpeg", {"truncated"}),
        (b"\x89PNG\r\n\x1a\n", "png", {"truncated"}),
        (b"not a picture", "png", {"corrupt", "truncated"}),
        (b"", "png", {"empty"}),
        (b"%!PS", "eps", {"unsupported:eps"}),
        (b"x", "heif", {"unsupported:heif"}),
        (b"x", "jxl", {"unsupported:jxl"}),
        (b"x", "unknown", {"unknown_format"}),
        (b"x", "mp4", {"unsupported:mp4"}),
    ],
)
def test_hostile_and_foreign_files_are_refused_before_memory_is_asked_for(
    data: bytes, name: str, reasons: set[str]
) -> None:
    assert refusal(data, name).reason in reasons


def test_the_limits_are_those_of_the_pipeline() -> None:
    data = saved(scene(), "PNG")
    assert refusal(data, "png", limits=Limits(max_pixels=1000)).reason == "too_large"
    assert refusal(data, "png", limits=Limits(max_bytes=150_000)).reason == "too_large"
    assert opened(data, "png", limits=Limits(max_pixels=1 << 40))[0]


def test_only_the_sniffed_format_sees_the_bytes() -> None:
    assert refusal(saved(scene(), "JPEG"), "png").reason in ("corrupt", "truncated")
    assert refusal(saved(scene(), "GIF"), "bmp").reason == "corrupt"


@pytest.mark.parametrize(
    "name",
    sorted({"jpeg", "png", "gif", "webp", "tiff", "bmp", "jp2", "ico", "ppm", "tga", "avif", "sgi", "pcx", "dds"}),
)
def test_no_mutation_raises_anything_but_a_refusal(name: str) -> None:
    chance = random.Random(name)
    small = scene(24, 20)
    sources = [saved(small, PLUGINS[name])]
    if name in ("gif", "png", "webp", "tiff"):
        sources.append(animation(3, PLUGINS[name]))
    for turn in range(60):
        data = bytearray(chance.choice(sources))
        for _ in range(chance.randint(1, 6)):
            at = chance.randrange(len(data)) if turn % 2 else chance.randrange(min(len(data), 64))
            data[at] = chance.randrange(256)
        try:
            rows, bad = opened(bytes(data), name, max_side=64, frames=4)
        except RecordError as exc:
            assert exc.reason.split(":")[0] in REASONS
            continue
        assert rows or bad


def test_threads_do_not_hear_each_others_warnings_or_change_what_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    good = saved(scene(), "PNG")
    at = good.index(b"IDAT") - 4
    wrong = struct.pack(">I", 8) + b"acTL" + bytes(8)
    warned = good[:at] + wrong + struct.pack(">I", zlib.crc32(wrong[4:])) + good[at:]
    cut = good[: len(good) // 2]
    results: dict[int, list[Any]] = {}

    def work(number: int, data: bytes) -> None:
        results[number] = [opened(data, "png")[0][0] for _ in range(25)]

    jobs = [good, warned, cut, warned, good]
    threads = [threading.Thread(target=work, args=job) for job in enumerate(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    flags = [{tuple(row["flags"] or ()) for row in results[number]} for number in range(len(jobs))]
    assert flags == [{()}, {("decoder_warning",)}, {("truncated",)}, {("decoder_warning",)}, {()}]
    assert len({row["array"].tobytes() for row in results[2]}) == 1
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


def test_a_missing_library_is_named_with_the_extra_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from headrace.schemas.errors import MissingExtra

    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingExtra, match=r"headrace\[image\]"):
        opened(b"\xff\xd8\xff", "jpeg")


@pytest.mark.data
def test_reading_a_picture_never_takes_a_path_or_a_socket(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import builtins
    import socket

    def forbidden(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError(f"reached for {args[:1]}")

    datas = [(path.read_bytes(), "tiff") for path in sorted((corpus / "image/pillow").glob("*.tif"))[:20]]
    opened(*datas[0])  # what is imported on first use
    monkeypatch.setattr(socket.socket, "connect", forbidden)
    monkeypatch.setattr(builtins, "open", forbidden)
    for data, name in datas:
        try:
            opened(data, name, max_side=64)
        except RecordError:
            continue
