"""The frames of one picture file, decoded one after the other, each with what was found about it.

What fails costs what it must: a damaged first frame gives the rows before the damage, a later frame ends an animation, a
page of a TIFF costs that page, and a companion picture of a camera's JPEG (gain map, depth, preview) is a finding of the
main one.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from headrace.ingest.normalizers import image_tiff
from headrace.ingest.normalizers.contract import Bad, Limits
from headrace.ingest.normalizers.image_damage import decoded_part
from headrace.ingest.normalizers.image_depth import wide_pixels
from headrace.ingest.normalizers.image_exif import Exif, read_exif
from headrace.ingest.normalizers.image_open import (
    DECODER_ERRORS,
    Source,
    at_pixels,
    check_size,
    open_image,
    said,
    warnings_of_pillow,
)
from headrace.ingest.normalizers.image_pixels import TURNS, Picture, target_size
from headrace.ingest.normalizers.image_structure import Structure
from headrace.schemas.errors import RecordError

#: Formats whose frames are pictures of their own. The layers of a PSD and the sizes of an icon are not.
_FRAMED = frozenset({"GIF", "PNG", "TIFF", "WEBP", "AVIF", "FLI", "SPIDER", "MPO"})
_KEEP_BYTES = 16 << 20  # a damaged file up to this size goes to quarantine whole


@dataclass(slots=True)
class Frame:
    """A decoded frame. `picture.flags` and `picture.transforms` begin its story."""

    number: int
    picture: Picture
    exif: Exif
    info: dict[str, Any]
    warnings: list[str]
    single: bool = True  #: the file has no other frame


@dataclass(frozen=True, slots=True)
class Wishes:
    """What of the settings bears on decoding."""

    max_frames: int | None
    fast_side: int | None  #: let a JPEG decoder scale towards this side
    out_bytes: int  #: what a stored pixel takes in the output
    keep_depth: bool
    keep_tags: bool
    keep_gps: bool


class FrameReader:
    """Reads the frames of one file, whose structure was walked."""

    def __init__(self, data: bytes, name: str, structure: Structure, wishes: Wishes, limits: Limits) -> None:
        self._data = data
        self._name = name
        self._structure = structure
        self._wishes = wishes
        self._limits = limits
        self._image: Any = None
        self._source = Source()
        self._lost: Bad | None = None

    def frames(self) -> Iterator[Frame | Bad]:
        """Frames in order, and what could not be had. Raises: RecordError if not even the first can be had."""
        first = self._first()
        damage = self._structure.damage
        if self._lost is not None or not self._has_more():
            yield first
            if self._lost is not None:
                yield self._lost
            return
        first.single = False
        if self._image.format == "MPO":
            yield from self._with_companions(first)
            return
        yield first
        ended_badly = False
        last = 0
        for got in self._later(first.exif):
            ended_badly = ended_badly or isinstance(got, Bad)
            last = last if isinstance(got, Bad) else got.number
            yield got
        if damage is not None and not ended_badly:
            yield Bad(damage.reason, damage.message, f'{{"from_frame":{last + 1}}}', self._kept())

    def _first(self) -> Frame:
        damage = self._structure.damage
        with warnings_of_pillow() as messages:
            try:
                picture, exif = self._decoded_first()
            except RecordError as exc:
                if damage is None or exc.reason.partition(":")[0] in ("unsupported", "too_large", "bomb"):
                    raise
                raise RecordError(damage.reason, f"{damage.message}; nothing before it decodes") from exc
        if damage is not None and "truncated" not in picture.flags:
            picture.flags.append("truncated")
        return Frame(0, picture, exif, self._info(), messages)

    def _decoded_first(self) -> tuple[Picture, Exif]:
        damage = self._structure.damage
        if damage is not None and damage.reason != "truncated":
            self._data = self._data[: damage.at]  # what lies behind it is not to be believed
        try:
            self._image, self._source = self._open()
        except RecordError as exc:
            if self._name not in ("tiff", "geotiff") or exc.reason in ("too_large", "truncated"):
                raise
            return self._by_gdal()
        image = self._image
        if image.format == "TIFF" and image_tiff.is_misread(image):
            return self._by_gdal()
        exif = read_exif(image, keep_tags=self._wishes.keep_tags, keep_gps=self._wishes.keep_gps)
        if image.format == "TIFF" and image_tiff.lacks_strips(image):
            return self._part(exif, RecordError("truncated", "the TIFF lists fewer strips than it has rows for")), exif
        note = self._draft()
        try:
            picture = self._loaded(image, 0, exif)
        except DECODER_ERRORS as exc:
            if image.format == "TIFF" and image_tiff.compression_of(image) in image_tiff.RARE_CODECS:
                return self._by_gdal()
            return self._part(exif, at_pixels(exc, self._name, self._source)), exif
        picture.transforms[:0] = note
        return picture, exif

    def _open(self) -> tuple[Any, Source]:
        return open_image(self._data, self._name, self._limits, out_bytes=self._wishes.out_bytes)

    def _again(self, number: int) -> Any:
        """The same file opened once more at a frame."""
        image, _ = self._open()
        if number:
            image.seek(number)
        return image

    def _by_gdal(self) -> tuple[Picture, Exif]:
        picture, orientation = image_tiff.by_gdal(self._data, self._limits, self._wishes.out_bytes)
        self._image = None
        return picture, Exif(orientation=orientation)

    def _draft(self) -> list[str]:
        """Let the JPEG decoder scale by a power of two, if asked to; never below the target."""
        side, image = self._wishes.fast_side, self._image
        if side is None or image.format != "JPEG":
            return []
        before = image.size
        image.draft(image.mode, target_size(*before, side))
        if image.size == before:
            return []
        return [f"jpeg scale {before[0]}x{before[1]}->{image.size[0]}x{image.size[1]}"]

    def _loaded(self, image: Any, number: int, exif: Exif) -> Picture:
        """The pixels of the frame that an image stands at. Raises: what decoding raises."""
        picture = Picture(image=image)
        tiff = image.format == "TIFF"
        if (self._structure.deep or tiff) and self._wishes.keep_depth:
            picture.wide = wide_pixels(image, lambda: self._again(number))
        image.load()
        picture.mode = image.mode
        if picture.wide is not None and picture.wide.shape[2] == 2:
            picture.mode = "LA"
        if image.format == "PPM" and image.mode == "I":
            picture.top = 65535  # Pillow scales every depth beyond 8 bits to 16
        elif image.mode.startswith("I;16"):
            picture.top = 65535
        if tiff:
            image_tiff.describe(picture, image)
            if exif.orientation != 1:  # Pillow has turned it while loading
                picture.transforms.append(f"orientation {exif.orientation} {TURNS[exif.orientation].lower()}")
                exif.orientation = 1
        if picture.wide is None and (self._structure.deep or (tiff and image_tiff.is_cut_to_8_bits(image))):
            picture.transforms.append("depth to 8 by the decoder")
        return picture

    def _part(self, exif: Exif, failure: RecordError) -> Picture:
        """What decodes of the first frame; the rest goes to `_lost`. Raises: `failure` if nothing does."""
        width, height = self._image.size
        part = None
        if self._image.format != "TIFF" or exif.orientation == 1:
            part = decoded_part(
                self._data,
                self._name,
                self._limits,
                out_bytes=self._wishes.out_bytes,
                progressive=self._structure.progressive,
            )
        if part is None:
            raise failure
        image, rows = part
        picture = Picture(image=image, mode=image.mode, flags=["truncated"])
        if image.mode.startswith("I;16") or (self._name == "ppm" and image.mode == "I"):
            picture.top = 65535
        if rows < height:
            picture.transforms.append(f"crop {width}x{height}->{width}x{rows} to what decodes")
            damage = self._structure.damage
            reason, message = (damage.reason, damage.message) if damage else (failure.reason, failure.message)
            self._lost = Bad(reason, message, f'{{"frame":0,"rows":[{rows},{height}]}}', self._kept())
        return picture

    def _kept(self) -> bytes | None:
        return self._data if len(self._data) <= _KEEP_BYTES else None

    def _info(self) -> dict[str, Any]:
        return dict(self._image.info) if self._image is not None else {}

    def _has_more(self) -> bool:
        image = self._image
        if self._wishes.max_frames == 1 or image is None or image.format not in _FRAMED:
            return False
        try:
            return bool(getattr(image, "is_animated", False))
        except DECODER_ERRORS:
            return True  # going there will say what is wrong

    def _seek(self, number: int) -> bool:
        """Stand at a frame; False behind the last. Raises: what seeking raises."""
        try:
            self._image.seek(number)
        except EOFError:
            return False
        return True

    def _later(self, first: Exif) -> Iterator[Frame | Bad]:
        """The second frame and those behind it."""
        taken, limit = 1, self._wishes.max_frames
        ahead: Frame | None = None
        for number in itertools.count(1):
            if limit is not None and taken >= limit:
                break
            got = self._next(number, first)
            if got is None:
                break
            if isinstance(got, Frame):
                taken += 1
                if ahead is not None:
                    yield ahead
                ahead = got
                continue
            if ahead is not None:
                yield ahead
                ahead = None
            if got.reason == "skip":
                continue
            yield got
            if self._image.format != "TIFF":
                return
        else:
            number = 0
        if ahead is not None:
            if limit is not None and taken >= limit and self._can_seek(number):
                ahead.picture.flags.append("frames_capped")
            yield ahead

    def _can_seek(self, number: int) -> bool:
        try:
            return self._seek(number)
        except DECODER_ERRORS:
            return True
