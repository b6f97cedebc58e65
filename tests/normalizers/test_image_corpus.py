"""Every picture of the corpus: good ones arrive exactly, bad and unsupported ones end with a reason."""

from __future__ import annotations

import io
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from headrace.connectors.contract import BytesBlob, Item
from headrace.connectors.sniff import sniff
from headrace.ingest.normalizers.contract import Bad, Limits
from headrace.ingest.normalizers.image import ImageConfig, ImageNormalizer
from headrace.ingest.normalizers.image_open import PLUGINS
from headrace.schemas.errors import REASONS, RecordError
from headrace.schemas.record import draft_schema, payload_views

Opened = tuple[list[dict[str, Any]], list[Bad]]

#: Good files that arrive with other pixels than Pillow's, and why ours are right.
PILLOW_MISREADS = {
    "image/pillow/8bit.s.tif": "signed bytes, which Pillow takes for unsigned ones; tifffile agrees with us"
}


def opened(data: bytes, name: str, limits: Limits | None = None, **settings: Any) -> Opened:
    """Rows (with `array`) and refusals of one file."""
    item = Item(BytesBlob("folder/picture", data), 1, headers={"format": name})
    rows: list[dict[str, Any]] = []
    bad: list[Bad] = []
    for got in ImageNormalizer(ImageConfig(**settings), limits).open(item):
        if isinstance(got, Bad):
            assert got.reason.split(":")[0] in REASONS and json.loads(got.locator)
            bad.append(got)
            continue
        assert got.schema == draft_schema("image")
        got.validate(full=True)
        for row, array in zip(got.drop_columns(["pixels"]).to_pylist(), payload_views(got)):
            rows.append({**row, "array": array})
    return rows, bad


def sniffed(path: Path) -> tuple[bytes, str]:
    """(bytes, format) of a file, read as a picture where it is one."""
    data = path.read_bytes()
    name = sniff(data[: 1 << 16], path.name, lambda offset, size: data[offset : offset + size]).name
    return data, {"geotiff": "tiff", "jp2-geo": "jp2"}.get(name, name)


def pictures(manifest: list[dict[str, str]], *classes: str) -> list[str]:
    return [row["path"] for row in manifest if row["modality"] == "image" and row["class"] in classes]


def by_pillow(data: bytes, name: str, frames: int) -> list[np.ndarray[Any, Any]]:
    """Every frame as Pillow itself gives it, the right way up."""
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(io.BytesIO(data), formats=[PLUGINS[name]]) as image:
            for number in range(frames):
                if frames > 1:
                    image.seek(number)
                image.load()
                upright = image if image.format == "TIFF" else ImageOps.exif_transpose(image)
                array = np.array(upright)
                found.append(array if array.ndim == 3 else array[:, :, None])
    return found


@pytest.mark.data
def test_every_good_picture_arrives_with_the_pixels_that_pillow_decodes(
    corpus: Path, manifest: list[dict[str, str]]
) -> None:
    paths = pictures(manifest, "good")
    assert len(paths) > 300
    wide = 0
    for path in paths:
        data, name = sniffed(corpus / path)
        rows, bad = opened(data, name, mode="native", max_side="none")
        assert rows and not bad, path
        assert all("truncated" not in (row["flags"] or []) for row in rows), path
        for row, want in zip(rows, by_pillow(data, name, len(rows)), strict=True):
            got = row["array"]
            if path in PILLOW_MISREADS:
                assert not np.array_equal(got, want), "Pillow has learnt it"
                continue
            if got.dtype == np.uint16 and want.dtype == np.uint8:  # Pillow cut it to 8 bits
                wide += 1
                got = (got >> 8).astype(np.uint8)
            assert got.shape == want.shape and np.array_equal(got, want), path
            assert row["frame"] == (None if len(rows) == 1 else json.loads(row["locator"])["frame"]), path
    assert wide >= 3


@pytest.mark.data
def test_every_good_picture_becomes_small_rgb(corpus: Path, manifest: list[dict[str, str]]) -> None:
    for path in pictures(manifest, "good"):
        data, name = sniffed(corpus / path)
        rows, bad = opened(data, name, frames=2)
        assert rows and not bad, path
        for row in rows:
            height, width, channels = row["shape"]
            assert channels == 3 and row["dtype"] == "uint8" and row["mode"] == "RGB", path
            assert max(height, width) <= 512, path


@pytest.mark.data
def test_no_bad_or_unsupported_picture_ends_without_a_record_or_a_reason(
    corpus: Path, manifest: list[dict[str, str]]
) -> None:
    reasons: dict[str, int] = {}
    for path in pictures(manifest, "bad", "unsupported"):
        data, name = sniffed(corpus / path)
        try:
            rows, bad = opened(data, name)
        except RecordError as exc:
            assert exc.message and "object at 0x" not in exc.message, path
            reasons[exc.reason] = reasons.get(exc.reason, 0) + 1
            continue
        assert rows or bad, path
        for refused in bad:
            reasons[refused.reason] = reasons.get(refused.reason, 0) + 1
    assert (
        reasons["truncated"] > 10
        and reasons["corrupt"] > 30
        and reasons["bomb"] > 5
        and reasons["unsupported:heif"] == 3
    )
    assert not [reason for reason in reasons if reason in ("internal", "crash", "oom", "hang")]


@pytest.mark.data
def test_the_quiet_damage_of_the_corpus_is_found(corpus: Path) -> None:
    rows, _ = opened(*sniffed(corpus / "image/bad/exif/corrupted.jpg"))
    assert "gray_tail" in rows[0]["flags"]
    with pytest.raises(RecordError) as refusal:
        opened(*sniffed(corpus / "image/bad/pillow/broken_data_stream.png"))
    assert refusal.value.reason == "checksum"
    rows, bad = opened(*sniffed(corpus / "image/bad/pillow/truncated_image.png"), max_side="none")
    assert rows[0]["flags"] == ["truncated"] and rows[0]["shape"] == [400, 640, 3]
    assert [(b.reason, b.locator) for b in bad] == [("truncated", '{"frame":0,"rows":[400,480]}')]
    rows, bad = opened(*sniffed(corpus / "image/bad/pillow/sugarshack_no_data.mpo"))
    assert len(rows) == 1 and "companion_lost" in rows[0]["flags"] and not bad


@pytest.mark.data
def test_the_same_scene_in_eight_orientations_comes_out_alike(corpus: Path) -> None:
    scene = {
        orientation: opened(*sniffed(corpus / f"image/exif/orientation/landscape_{orientation}.jpg"))[0][0]
        for orientation in range(1, 9)
    }
    for orientation, row in scene.items():
        # the first was written with other colours than the seven
        near, reference = (20, 2) if orientation == 1 else (4, 3)
        assert row["array"].shape == (384, 512, 3)
        assert np.abs(row["array"].astype(int) - scene[reference]["array"]).mean() < near, orientation
        if orientation > 1:
            assert row["transforms"][-1].startswith(f"orientation {orientation} ")
    hopper = opened(*sniffed(corpus / "image/pillow/hopper.jpg"))[0][0]["array"].astype(int)
    for name in ("hopper_orientation_3.jpg", "hopper_orientation_6.webp", "hopper_orientation_8.jpg"):
        turned = opened(*sniffed(corpus / f"image/pillow/{name}"))[0][0]["array"]
        assert turned.shape == hopper.shape and np.abs(turned - hopper).mean() < 6, name


@pytest.mark.data
def test_the_tiffs_of_the_corpus_are_those_that_tifffile_reads(corpus: Path, manifest: list[dict[str, str]]) -> None:
    tifffile = pytest.importorskip("tifffile")
    compared = 0
    for path in pictures(manifest, "good"):
        data, name = sniffed(corpus / path)
        if name != "tiff":
            continue
        try:
            with tifffile.TiffFile(io.BytesIO(data)) as file:
                page = file.pages[0]
                if page.photometric not in (1, 2) or page.bitspersample not in (8, 16) or 1 in page.extrasamples:
                    continue  # tifffile gives stored values of the others, Pillow their meaning
                want = page.asarray()
                separate = int(page.planarconfig) == 2
        except ValueError:
            continue  # its codec is not installed
        rows, _ = opened(data, name, mode="native", max_side="none", frames="first")
        got = rows[0]["array"]
        want = want.transpose(1, 2, 0) if separate and want.ndim == 3 else want
        want = want if want.ndim == 3 else want[:, :, None]
        if got.shape != want.shape or rows[0]["transforms"]:
            continue  # turned, or with samples that are no colours
        assert np.array_equal(got.astype(np.int64), want.astype(np.int64)), path
        compared += 1
    assert compared >= 15
