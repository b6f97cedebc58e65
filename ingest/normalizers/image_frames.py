"""The frames of one picture file, decoded one after the other, each with what was found about it.

What fails costs what it must: a damaged first frame gives the rows before the damage, a later frame ends an animation,
a page of a TIFF costs that page, and a companion picture of a camera's JPEG (gain map, depth, preview) is a finding of
the main one.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from headrace.ingest.normalizers import image_tiff
from headrace.ingest.normalizers.contract import Bad, Limits
from headrace.ingest.normalizers.image_damage import decoded_part, has_gray_tail
from headrace.ingest.normalizers.image_depth import is_cut_to_8_bits, wide_pixels
from headrace.ingest.normalizers.image_exif import Exif, read_exif
from headrace.ingest.normalizers.image_open import (
    Source,
    at_pixels,
    check_size,
    decoder_errors,
    open_image,
    warnings_of_pillow,
)
from headrace.ingest.normalizers.image_pixels import Array, Crop, Picture, finished, target_size, turn_note
from headrace.ingest.normalizers.image_structure import Structure
from headrace.schemas.errors import RecordError

#: Formats whose frames are pictures of their own. The layers of a PSD and the sizes of an icon are not.
_FRAMED = frozenset({"GIF", "PNG", "TIFF", "WEBP", "AVIF", "FLI", "SPIDER", "MPO"})
_KEEP_BYTES = 16 << 20  # a damaged file up to this size goes to quarantine whole


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the settings want of the frames."""

    native: bool
    max_side: int | None
    max_frames: int | None
    spare: int | None  #: let a JPEG decoder scale down by itself, to no less than this many times the target; None: no
    keep_tags: bool
    keep_gps: bool
    crop: Crop | None = None  #: instead of `max_side`


@dataclass(slots=True)
class Frame:
    """A finished frame: (height, width, channels), and its story."""

    number: int
    pixels: Array
    mode: str
    transforms: list[str]
    flags: list[str]
    exif: Exif
    info: dict[str, Any]
    warnings: list[str]
    palette: str | None = None  #: of a native frame of mode P or PA: RGB bytes in hex
    single: bool = True  #: the file has no other frame


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
        self._lost: Bad | None = None  # what of the first frame could not be had
        #: Bytes a stored pixel takes in the output; of a large image that is scaled down hardly any are left.
        self._out_bytes = 8 if wishes.max_side is None and wishes.crop is None else 0

    def frames(self) -> Iterator[Frame | Bad]:
        """Frames in order, and what could not be had. Raises: RecordError if not even the first can be had."""
        first = self._first()
        if self._lost is not None:
            yield first
            yield self._lost
            return
        if not self._has_more():
            yield first
            return
        first.single = False
        if self._image.format == "MPO":
            yield from self._with_companions(first)
            return
        yield first
        damage = self._structure.damage
        last = 0
        for got in self._later(first.exif):
            if isinstance(got, Bad):
                damage = None  # it has been told
            else:
                last = got.number
            yield got
        if damage is not None:
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
            if self._image is not None and self._image.format == "MPO":
                self._structure.no_trailing()  # the companions stand behind the main picture
            if damage is not None and "truncated" not in picture.flags:
                picture.flags.append("truncated")
            return self._finished(0, picture, exif, messages)

    def _finished(self, number: int, picture: Picture, exif: Exif, messages: list[str]) -> Frame:
        wishes = self._wishes
        pixels, mode = finished(
            picture,
            native=wishes.native,
            max_side=wishes.max_side,
            orientation=exif.orientation,
            crop=wishes.crop,
        )
        palette = None
        if mode in ("P", "PA"):
            palette = bytes(picture.image.getpalette("RGB") or []).hex()
        info = dict(picture.info)
        return Frame(number, pixels, mode, picture.transforms, picture.flags, exif, info, messages, palette)

    def _decoded_first(self) -> tuple[Picture, Exif]:
        damage = self._structure.damage
        if damage is not None and damage.reason != "truncated":
            self._data = self._data[: damage.at]  # what lies behind it is not to be believed
        for start, end in reversed(self._structure.left_out):
            self._data = self._data[:start] + self._data[end:]
        try:
            self._image, self._source = self._open()
        except RecordError as exc:
            if self._name not in ("tiff", "geotiff") or exc.reason == "too_large":
                raise
            try:
                return self._by_gdal()
            except RecordError as other:
                raise (exc if other.reason == "corrupt" else other) from exc
        image = self._image
        tiff = image.format == "TIFF"
        if tiff and image_tiff.is_misread(image):
            return self._by_gdal()
        exif = self._read_exif() if tiff else Exif()  # loading a TIFF turns it, and reading that of a PNG loads it
        if tiff and image_tiff.lacks_strips(image):
            return self._part(exif, RecordError("truncated", "the TIFF lists fewer strips than it has rows for")), exif
        note = self._draft()
        try:
            picture = self._loaded(0, exif)
        except decoder_errors() as exc:
            if tiff and image_tiff.compression_of(image) in image_tiff.RARE_CODECS:
                return self._by_gdal()
            if tiff and damage is None:
                with contextlib.suppress(RecordError):  # sparse and oddly tiled files that only GDAL reads whole
                    return self._by_gdal()
            picture = self._part(exif, at_pixels(exc, self._name, self._source))
            return picture, exif if tiff or "exif" not in image.info else self._read_exif()
        if image.format == "JPEG" and has_gray_tail(image):
            picture.flags.append("gray_tail")
        picture.transforms[:0] = note
        return picture, exif if tiff else self._read_exif()

    def _open(self) -> tuple[Any, Source]:
        return open_image(self._data, self._name, self._limits, out_bytes=self._out_bytes)

    def _again(self, number: int) -> Any:
        """The same file opened once more at a frame."""
        image, _ = self._open()
        if number:
            image.seek(number)
        return image

    def _read_exif(self) -> Exif:
        return read_exif(self._image, keep_tags=self._wishes.keep_tags, keep_gps=self._wishes.keep_gps)

    def _by_gdal(self) -> tuple[Picture, Exif]:
        picture, orientation = image_tiff.by_gdal(self._data, self._limits, self._out_bytes)
        self._image = None  # one page is all that is read this way
        return picture, Exif(orientation=orientation)

    def _draft(self) -> list[str]:
        """Let the JPEG decoder scale by powers of two, if asked to, so far that Lanczos has enough left to do."""
        wishes, image = self._wishes, self._image
        spare, before = wishes.spare, image.size
        if spare is None or image.format != "JPEG":
            return []
        if wishes.crop is not None:
            left, top, right, bottom = wishes.crop.box(*before)
            # Which way up it is stands in the EXIF behind; a square window, the common one, is the same either way.
            side = spare * max(wishes.crop.width, wishes.crop.height)
            scale = min(1.0, side / min(right - left, bottom - top))
            target = math.ceil(before[0] * scale), math.ceil(before[1] * scale)
        elif wishes.max_side is not None:
            target = target_size(before[0], before[1], spare * wishes.max_side)
        else:
            return []
        image.draft(image.mode, target)
        if image.size == before:
            return []
        return [f"jpeg scale {before[0]}x{before[1]}->{image.size[0]}x{image.size[1]}"]

    def _loaded(self, number: int, exif: Exif) -> Picture:
        """The pixels of the frame that the image stands at. Raises: what decoding raises."""
        image = self._image
        tiff = image.format == "TIFF"
        cut = self._structure.deep or is_cut_to_8_bits(image)
        wide = wide_pixels(image, lambda: self._again(number)) if cut else None
        image.load()
        picture = Picture(image=image, wide=wide, mode=image.mode, info=image.info)
        if wide is not None and wide.shape[2] == 2:
            picture.mode = "LA"
        if image.mode.startswith("I;16") or (image.format == "PPM" and image.mode == "I"):
            picture.top = 65535  # Pillow scales PGM of any depth beyond 8 bits to 16
        elif cut and wide is None and image.mode not in ("I", "F"):
            picture.transforms.append("depth to 8 by the decoder")
        if tiff:
            image_tiff.describe(picture, image)
            if exif.orientation != 1:  # Pillow has turned it while loading
                picture.transforms.append(turn_note(exif.orientation))
                exif.orientation = 1
        return picture

    def _part(self, exif: Exif, failure: RecordError) -> Picture:
        """What decodes of the first frame; the rest goes to `_lost`. Raises: `failure` if nothing does."""
        width, height = self._image.size
        part = None
        if self._image.format != "TIFF" or exif.orientation == 1:  # else rows are no longer rows
            progressive = self._structure.progressive
            part = decoded_part(
                self._data, self._name, self._limits, out_bytes=self._out_bytes, progressive=progressive
            )
        if part is None:
            raise failure
        image, start, end = part
        cut = end - start < height
        flag = "truncated" if cut or failure.reason == "truncated" else "damaged"
        picture = Picture(image=image, mode=image.mode, info=image.info, flags=[flag])
        if image.mode.startswith("I;16") or (self._name == "ppm" and image.mode == "I"):
            picture.top = 65535
        if cut:
            picture.transforms.append(f"crop {width}x{height}->{width}x{end - start} to what decodes")
            damage = self._structure.damage
            reason, message = (damage.reason, damage.message) if damage else (failure.reason, failure.message)
            lost = [end, height] if start == 0 else [0, start]
            self._lost = Bad(reason, message, f'{{"frame":0,"rows":[{lost[0]},{lost[1]}]}}', self._kept())
        return picture

    def _kept(self) -> bytes | None:
        return self._data if len(self._data) <= _KEEP_BYTES else None

    def _has_more(self) -> bool:
        image = self._image
        if self._wishes.max_frames == 1 or image is None or image.format not in _FRAMED:
            return False
        try:
            return bool(getattr(image, "is_animated", False))
        except decoder_errors():
            return True  # going there will say what is wrong

    def _later(self, first: Exif) -> Iterator[Frame | Bad]:
        """The second frame and those behind it."""
        tiff = self._image.format == "TIFF"
        taken = 1
        for number in itertools.count(1):
            arrived = False
            try:
                with warnings_of_pillow() as messages:
                    self._image.seek(number)
                    arrived = True
                    if tiff and image_tiff.is_no_picture(self._image):
                        continue
                    frame = self._at(number, first, messages)
            except EOFError as exc:
                if arrived:
                    yield self._refused(number, at_pixels(exc, self._name, self._source))
                return
            except RecordError as exc:
                yield self._refused(number, exc)
                if not tiff:
                    return
                continue
            except decoder_errors() as exc:
                yield self._refused(number, at_pixels(exc, self._name, self._source))
                if not (tiff and arrived):
                    return
                continue
            taken += 1
            full = taken == self._wishes.max_frames
            if full and self._can_seek(number + 1):
                frame.flags.append("frames_capped")
            yield frame
            if full:
                return

    def _at(self, number: int, first: Exif, messages: list[str]) -> Frame:
        image = self._image
        check_size(image, len(self._data), self._limits, self._out_bytes)
        if image.format == "TIFF" and (image_tiff.is_misread(image) or image_tiff.lacks_strips(image)):
            raise RecordError("unsupported:tiff", f"page {number} has a layout that is only read on the first page")
        if image.format in ("TIFF", "MPO"):  # each of their pages has its own
            exif = self._read_exif()
        else:
            exif = Exif(first.orientation, first.event_time, first.time_source, first.geometry)
            exif.flags = [flag for flag in first.flags if flag not in ("bad_exif", "bad_orientation")]
        frame = self._finished(number, self._loaded(number, exif), exif, messages)
        frame.single = False
        return frame

    def _refused(self, number: int, exc: RecordError) -> Bad:
        whole = f'{{"frame":{number}}}' if self._image.format == "TIFF" else f'{{"from_frame":{number}}}'
        return Bad(exc.reason, f"frame {number}: {exc.message}", whole, self._kept())

    def _can_seek(self, number: int) -> bool:
        try:
            self._image.seek(number)
        except EOFError:
            return False
        except decoder_errors():
            return True
        return True

    def _with_companions(self, first: Frame) -> Iterator[Frame | Bad]:
        """The main picture of a camera's file first, although it must wait to hear whether its companions decode."""
        waiting: list[Frame] = [first]
        held = first.pixels.nbytes
        for got in self._later(first.exif):
            if isinstance(got, Bad):
                if not waiting:
                    yield got  # too late for a finding
                elif "companion_lost" not in first.flags:
                    first.flags.append("companion_lost")
                continue
            if not waiting:
                yield got
                continue
            waiting.append(got)
            held += got.pixels.nbytes
            if held > self._limits.max_bytes // 8:
                yield from waiting
                waiting = []
        yield from waiting
