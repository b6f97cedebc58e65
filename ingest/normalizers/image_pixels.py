"""Pixels as a record wants them: RGB of 8 bits, or the channels and the depth of the file; smaller; the right way up.

Everything that changes a value is told in the list of transforms, in order, with its numbers. Turning comes last,
because it costs a fraction of the time on the smaller image; it moves pixels and changes none.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from headrace.ingest.normalizers.image_open import pillow
from headrace.schemas.errors import RecordError

Array = npt.NDArray[Any]

_WHITE = 255
#: Modes whose values are names or single bits: a mean of two of them would be another thing.
_NOMINAL = frozenset({"P", "PA", "1"})
_NOT_REDUCIBLE = frozenset({"I;16", "I;16L", "I;16B", "I;16N"})
_TURNS = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE"}
_TURNS |= {6: "ROTATE_270", 7: "TRANSVERSE", 8: "ROTATE_90"}
REDUCING_GAP = (
    2.0  #: a box filter takes an image down to this many times its size, then Lanczos; as Pillow's thumbnails
)


@dataclass(slots=True)
class Picture:
    """A decoded image: Pillow's, or an array of (height, width, channels) where Pillow cannot hold its depth."""

    image: Any = None
    wide: Array | None = None  #: uint16
    mode: str = ""  #: what the channels mean, as Pillow's modes name it
    top: int | None = None  #: the value that is white, where the header tells: 4095, 65535
    inverted: bool = False  #: 0 is white
    info: dict[str, Any] = field(default_factory=dict)  #: what Pillow keeps beside the pixels
    transforms: list[str] = field(default_factory=list)
    flags: list[str] = field(default_factory=list)

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) as stored."""
        if self.wide is not None:
            return self.wide.shape[1], self.wide.shape[0]
        width, height = self.image.size
        return int(width), int(height)


@dataclass(frozen=True, slots=True)
class Crop:
    """A window of exactly this size out of the middle of a picture that was scaled so far."""

    width: int
    height: int
    short_side: int | None  #: of the picture before the cut; None: as small as covers the window

    def turned(self) -> Crop:
        """The same window on a picture whose rows are yet to become columns."""
        return Crop(self.height, self.width, self.short_side)

    def box(self, width: int, height: int) -> tuple[float, float, float, float]:
        """(left, top, right, bottom) of the part of a picture of this size that becomes the window.

        The scale is that of the short side, or what covers the window; never so small that the window is not covered.
        """
        scale = max(self.width / width, self.height / height)
        if self.short_side is not None:
            scale = max(scale, self.short_side / min(width, height))
        across, down = min(float(width), self.width / scale), min(float(height), self.height / scale)
        left, top = (width - across) / 2, (height - down) / 2
        return left, top, left + across, top + down


def finished(
    picture: Picture, *, native: bool, max_side: int | None, orientation: int, crop: Crop | None = None
) -> tuple[Array, str]:
    """(array of (height, width, channels), mode) of a picture, whose `transforms` and `flags` grow."""
    if not native:
        _to_rgb(picture)
    if crop is not None:
        _cut(picture, crop.turned() if orientation >= 5 else crop)
    elif max_side is not None:
        _resize(picture, max_side)
    if not native and picture.image.mode == "L":
        picture.image = picture.image.convert("RGB")
    _turn(picture, orientation)
    if picture.wide is not None:
        return np.ascontiguousarray(picture.wide), picture.mode
    array = np.asarray(picture.image)
    if array.dtype.byteorder == ">":
        array = array.astype(array.dtype.newbyteorder("<"))
    return array if array.ndim == 3 else array[:, :, None], picture.mode if native else "RGB"


def target_size(width: int, height: int, max_side: int) -> tuple[int, int]:
    """The size with its long side at most `max_side` and the ratio kept to the nearest pixel; never larger."""
    long = max(width, height)
    if long <= max_side:
        return width, height
    return tuple(max(1, (2 * side * max_side + long) // (2 * long)) for side in (width, height))  # type: ignore[return-value]


def _resize(picture: Picture, max_side: int) -> None:
    width, height = picture.size
    size = target_size(width, height, max_side)
    if size == (width, height):
        return
    name = _scale(picture, size, None)
    picture.transforms.append(f"resize {width}x{height}->{size[0]}x{size[1]} {name}")


def _cut(picture: Picture, crop: Crop) -> None:
    width, height = picture.size
    size = crop.width, crop.height
    if size == (width, height) and crop.short_side in (None, min(size)):
        return
    box = crop.box(width, height)
    name = _scale(picture, size, box)
    part = ",".join(f"{edge:g}" for edge in box)
    picture.transforms.append(f"crop {width}x{height}[{part}]->{size[0]}x{size[1]} {name}")


def _scale(picture: Picture, size: tuple[int, int], box: tuple[float, float, float, float] | None) -> str:
    """Make the picture, or the part of it in `box`, this large; how that was done, in words."""
    image = pillow()
    lanczos = image.Resampling.LANCZOS
    if picture.wide is not None:
        bands = [image.fromarray(np.ascontiguousarray(picture.wide[:, :, n])) for n in range(picture.wide.shape[2])]
        picture.wide = np.stack([np.asarray(band.resize(size, lanczos, box)) for band in bands], axis=2)
        return "lanczos"
    if picture.image.mode in _NOMINAL:
        picture.image = picture.image.resize(size, image.Resampling.NEAREST, box)
        return "nearest"
    if picture.image.mode in _NOT_REDUCIBLE:
        picture.image = picture.image.resize(size, lanczos, box)
        return "lanczos"
    picture.image = picture.image.resize(size, lanczos, box, REDUCING_GAP)
    return "lanczos after box"


def _turn(picture: Picture, orientation: int) -> None:
    name = _TURNS.get(orientation)
    if name is None:
        return
    picture.transforms.append(turn_note(orientation))
    if picture.wide is not None:
        picture.wide = _turned(picture.wide, orientation)
    else:
        picture.image = picture.image.transpose(pillow().Transpose[name])


def turn_note(orientation: int) -> str:
    """What `transforms` says of a turn by EXIF orientation."""
    return f"orientation {orientation} {_TURNS[orientation].lower()}"


def _turned(array: Array, orientation: int) -> Array:
    """An array by EXIF orientation (EXIF 2.3, 4.6.4, tag 274: where the stored rows and columns begin)."""
    if orientation >= 5:
        array = array.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return array


def _to_rgb(picture: Picture) -> None:
    """Make `picture.image` RGB, or L that is yet to be spread over three channels."""
    if picture.wide is not None:
        _narrow(picture)
    image = picture.image
    mode = image.mode
    note = picture.transforms.append
    if mode in ("I", "F") or mode in _NOT_REDUCIBLE:
        picture.image = _scaled(picture)
    elif mode in ("RGBA", "LA", "PA", "RGBa", "La") or (
        mode in ("1", "L", "P", "RGB") and "transparency" in image.info
    ):
        note(f"{mode}->RGB alpha over white")
        picture.image = _over_white(image)
    elif mode == "P":
        note("P->RGB palette")
        picture.image = image.convert("RGB")
    elif mode == "1":
        note("1->RGB")
        picture.image = image.convert("L")
    elif mode == "L":
        note("L->RGB")
    elif mode == "CMYK":
        note("CMYK->RGB without profile")
        picture.image = image.convert("RGB")
    elif mode != "RGB":
        note(f"{mode}->RGB")
        picture.image = image.convert("RGB")
    picture.mode = "RGB"


def _over_white(image: Any) -> Any:
    if image.mode in ("La", "RGBa"):
        image = image.convert({"La": "LA", "RGBa": "RGBA"}[image.mode])
    rgba = image.convert("RGBA")
    white = pillow().new("RGB", rgba.size, (_WHITE, _WHITE, _WHITE))
    white.paste(rgba, mask=rgba.getchannel("A"))
    return white


def _narrow(picture: Picture) -> None:
    """16 bits to 8, to the nearest: v·255/65535 = v/257."""
    wide = picture.wide
    assert wide is not None
    narrow = ((wide.astype(np.uint32) + 128) // 257).astype(np.uint8)
    picture.transforms.append("depth 16->8 linear")
    image = pillow()
    transparent = picture.info.get("transparency")
    if isinstance(transparent, tuple) and wide.shape[2] == len(transparent) == 3:
        alpha = np.where((wide == np.array(transparent, np.uint16)).all(axis=2), 0, 255).astype(np.uint8)
        narrow = np.dstack([narrow, alpha])
        picture.mode = "RGBA"
    picture.image = image.fromarray(np.ascontiguousarray(narrow), mode_of(narrow, picture.mode))
    picture.wide = None


def mode_of(array: Array, mode: str) -> str:
    """The mode of an 8-bit array of channels that mean `mode`."""
    return mode if mode in ("RGB", "RGBA", "CMYK", "LA") else {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[array.shape[2]]


def _scaled(picture: Picture) -> Any:
    """Gray of more than 8 bits as L: linearly from the range the header tells, else from the values' own range."""
    image = picture.image
    values = np.asarray(image)
    transparent = picture.info.get("transparency")
    name = f"{image.mode}->RGB"
    if picture.top is not None and values.dtype.kind in "ui":
        top = picture.top
        clipped = np.clip(values, 0, top).astype(np.uint32)
        gray = ((clipped * 255 + top // 2) // top).astype(np.uint8)
        picture.transforms.append(f"{name} [0,{top}]->[0,255]")
    else:
        gray = _by_own_range(values, name, picture)
    if picture.inverted:
        gray = 255 - gray
        picture.transforms.append("invert: 0 is white")
    if isinstance(transparent, int) and values.dtype.kind == "u":
        gray = np.where(values == transparent, np.uint8(_WHITE), gray)
        picture.transforms.append("transparent value over white")
    return pillow().fromarray(np.ascontiguousarray(gray))


def _by_own_range(values: Array, name: str, picture: Picture) -> Array:
    finite = np.isfinite(values)
    if not finite.all():
        picture.flags.append("not_finite")
        if not finite.any():
            raise RecordError("corrupt", "no pixel of the image is a finite number")
    low, high = float(values[finite].min()), float(values[finite].max())
    picture.transforms.append(f"{name} [{low!r},{high!r}]->[0,255]")
    if low == high:
        return np.zeros(values.shape, np.uint8)
    known = np.where(finite, values, low).astype(np.float64)
    return np.rint((known - low) * (255.0 / (high - low))).astype(np.uint8)
