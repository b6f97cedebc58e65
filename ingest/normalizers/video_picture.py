"""One decoded frame → RGB as it should be looked at: one swscale pass, then the display matrix.

Deterministic: bit-exact flags, one thread, the colour matrix and range named by us and not left to a default. Recorded
as transforms: the conversion, the resize, the rotation. Not done: the sample aspect ratio is recorded, pixels are not
stretched; HDR transfer curves are recorded, not tone-mapped; interlaced frames are flagged, not deinterlaced.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from headrace.schemas.errors import RecordError

MaxSide = int | Literal["none"]

#: AVColorSpace (ITU-T H.273 matrix coefficients) → name and the matrix that swscale has for it.
_MATRICES: dict[int, tuple[str, int | None]] = {
    0: ("rgb", None),
    1: ("bt709", 1),
    2: ("bt601 (assumed)", 5),  # unspecified: what ffmpeg assumes, whatever the size
    4: ("fcc", 4),
    5: ("bt601", 5),
    6: ("bt601", 5),
    7: ("smpte240m", 7),
    9: ("bt2020", 9),
    10: ("bt2020", 9),
}
_FULL = 2  # AVCOL_RANGE_JPEG
#: Curves that show wrong on a plain display (H.273 transfer characteristics).
HDR = {16: "pq", 18: "hlg"}


@dataclass(frozen=True)
class Turn:
    """How to lay a decoded frame on the display: transpose, then flip columns, then rows."""

    transpose: bool = False
    flip_columns: bool = False
    flip_rows: bool = False

    def apply(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """A view of (height, width, 3) pixels, turned."""
        if self.transpose:
            pixels = pixels.transpose(1, 0, 2)
        if self.flip_columns:
            pixels = pixels[:, ::-1]
        return pixels[::-1] if self.flip_rows else pixels

    @property
    def degrees(self) -> int:
        """The clockwise part: a mirrored picture is turned and then flipped left to right."""
        if self.transpose:
            return 90 if self.flip_columns != self._mirrored else 270
        return 180 if self.flip_rows else 0

    @property
    def _mirrored(self) -> bool:
        return self.transpose == (self.flip_columns == self.flip_rows)

    def words(self) -> list[str]:
        """The transforms, as records name them."""
        out = [f"rotate {self.degrees} clockwise"] if self.degrees else []
        return out + (["flip left-right"] if self._mirrored else [])


_TURNS = {
    (1, 0, 0, 1): Turn(),
    (-1, 0, 0, 1): Turn(flip_columns=True),
    (1, 0, 0, -1): Turn(flip_rows=True),
    (-1, 0, 0, -1): Turn(flip_columns=True, flip_rows=True),
    (0, 1, 1, 0): Turn(transpose=True),
    (0, 1, -1, 0): Turn(transpose=True, flip_columns=True),
    (0, -1, 1, 0): Turn(transpose=True, flip_rows=True),
    (0, -1, -1, 0): Turn(transpose=True, flip_columns=True, flip_rows=True),
}


def display_turn(matrix: bytes) -> Turn | None:
    """The turn that a display matrix asks for; None if it is not one of the eight that move whole pixels.

    Matrix: nine i32, rows (a b u)(c d v)(x y w), a to d in 16.16: x' = a·x + c·y, y' = b·x + d·y, y downwards
    (ISO/IEC 14496-12, 6.2.2).
    """
    a, b, _, c, d = struct.unpack("=5i", matrix[:20])
    unit = max(abs(a), abs(b), abs(c), abs(d))
    if unit == 0:
        return None
    return _TURNS.get(tuple(round(v / unit) if abs(v) in (0, unit) else 2 for v in (a, b, c, d)))  # type: ignore[arg-type]


def fit(width: int, height: int, max_side: MaxSide) -> tuple[int, int]:
    """The size whose long side is at most `max_side`, rounded half up, at least 1; never larger than it was."""
    long = max(width, height)
    if max_side == "none" or long <= max_side:
        return width, height
    return max(1, (2 * width * max_side + long) // (2 * long)), max(1, (2 * height * max_side + long) // (2 * long))


@dataclass(frozen=True)
class Look:
    """All that decides how frames become pixels; frames of one record share it."""

    width: int
    height: int
    pixel_format: str
    matrix: int
    full_range: bool
    turn: Turn | None
    transfer: int


def look_of(frame: Any) -> Look:
    """The look of one decoded frame. Raises: RecordError for a colour matrix that swscale does not have."""
    matrix = int(frame.colorspace)
    name = frame.format.name
    if matrix not in _MATRICES:
        what = f"a {name} frame of ITU-T H.273 colour matrix {matrix}, which has no conversion to RGB"
        raise RecordError(f"unsupported:colour matrix {matrix}", what)
    side_data = frame.side_data.get("DISPLAYMATRIX")
    turn = display_turn(bytes(side_data)) if side_data is not None else Turn()
    full = int(frame.color_range) == _FULL or name.startswith("yuvj") or frame.format.is_rgb
    return Look(frame.width, frame.height, name, matrix, full, turn, int(frame.color_trc))


class Pictures:
    """Converts frames; keeps swscale's tables from one frame to the next."""

    def __init__(self, max_side: MaxSide) -> None:
        from av.video.reformatter import Interpolation as Flag
        from av.video.reformatter import VideoReformatter

        self._max_side = max_side
        self._reformatter = VideoReformatter()
        self._flags = Flag.BICUBIC | Flag.ACCURATE_RND | Flag.BITEXACT | Flag.FULL_CHR_H_INT

    def fitted(self, width: int, height: int) -> tuple[int, int, int]:
        """(height, width, 3) after the resize and before the turn."""
        width, height = fit(width, height, self._max_side)
        return height, width, 3

    def transforms(self, look: Look) -> list[str]:
        """What is done to a frame, in order."""
        height, width, _ = self.fitted(look.width, look.height)
        out = []
        if look.pixel_format != "rgb24":
            what = f"{_MATRICES[look.matrix][0]} {'full' if look.full_range else 'limited'} range"
            out.append(f"{look.pixel_format} {what} -> rgb24")
        if (width, height) != (look.width, look.height):
            out.append(f"resize {look.width}x{look.height}->{width}x{height} bicubic")
        return out + (look.turn.words() if look.turn else [])

    def pixels(self, frame: Any, look: Look) -> npt.NDArray[np.uint8]:
        """(height, width, 3) uint8, a view that lives as long as libav's own frame. Raises: RecordError."""
        import av

        height, width, _ = self.fitted(look.width, look.height)
        try:
            rgb = self._reformatter.reformat(
                frame,
                width=width,
                height=height,
                format="rgb24",
                src_colorspace=_MATRICES[look.matrix][1],
                src_color_range=_FULL if look.full_range else 1,
                dst_color_range=_FULL,
                interpolation=self._flags,
                threads=1,
            )
        except (av.error.FFmpegError, ValueError) as exc:
            what = f"{look.pixel_format} cannot be made RGB: {exc}"
            raise RecordError(f"unsupported:{look.pixel_format}", what) from exc
        plane = rgb.planes[0]
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)[:height, : width * 3]
        flat = rows.reshape(height, width, 3)
        return look.turn.apply(flat) if look.turn else flat
