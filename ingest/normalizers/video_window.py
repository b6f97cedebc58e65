"""Where a frame belongs: the grid of windows and slots on exact time, and the frames of one window while they come in.

    window k = [k·segment, (k+1)·segment)          one record
    slot   n = [n/fps, (n+1)/fps)                  one frame: the first in presentation order whose pts lies in the slot

That is "the first frame with pts ≥ n/fps", each frame once: a slot without a frame gives none, nothing is repeated.
Both are whole-number arithmetic on pts: floor(pts · time_base · fps), never an index times a rate.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from headrace.ingest.normalizers.video_picture import Look, MaxSide
from headrace.schemas.errors import RecordError


@dataclass(frozen=True)
class FrameRule:
    """Which frames are taken. fps None: every frame."""

    fps: Fraction | None
    segment: Fraction
    max_side: MaxSide


class Grid:
    """Windows and slots in the pts of one stream."""

    def __init__(self, rule: FrameRule, time_base: Fraction) -> None:
        per_window = time_base / rule.segment
        per_slot = time_base * (rule.fps or 0)
        self.every = rule.fps is None
        self._window = per_window.numerator, per_window.denominator
        self._slot = per_slot.numerator, per_slot.denominator

    def window(self, pts: int) -> int:
        """k of the window that a time stamp lies in."""
        return pts * self._window[0] // self._window[1]

    def slot(self, pts: int) -> int:
        """n of the slot that a time stamp lies in."""
        return pts * self._slot[0] // self._slot[1]


@dataclass(frozen=True)
class Span:
    """The windows [first, last) that a part of a divided file emits; None: no bound on this side."""

    first: int | None = None
    last: int | None = None

    def __contains__(self, window: object) -> bool:
        assert isinstance(window, int)
        return (self.first is None or window >= self.first) and (self.last is None or window < self.last)


class Window:
    """The frames of one window while they come in; where their look changes, one piece after another."""

    def __init__(self, run: int, number: int) -> None:
        self.run = run
        self.number = number
        self.piece = 0
        self.look: Look | None = None
        self._begin()

    def _begin(self) -> None:
        self.pts: list[int] = []
        self.seen = 0
        self.counts: dict[str, int] = {}
        self._pixels: npt.NDArray[np.uint8] | None = None

    def count(self, flag: str, by: int = 1) -> None:
        """More findings of a kind."""
        self.counts[flag] = self.counts.get(flag, 0) + by

    def next_piece(self) -> None:
        """Begin another record of this window."""
        self.piece += 1
        self.look = None
        self._begin()

    def add(self, pts: int, pixels: npt.NDArray[np.uint8], room: int, max_bytes: int) -> None:
        """Copy one frame in. room: frames to reserve at first. Raises: RecordError over `max_bytes`."""
        n, have = len(self.pts), self._pixels
        if have is None or n == len(have):
            most = max_bytes // max(1, pixels.size)
            if n >= most:
                height, width, _ = pixels.shape
                raise RecordError(
                    "too_large",
                    f"window {self.number}: more than {n} frames of {width}x{height} do not fit {max_bytes} bytes: "
                    "lower fps, max_side or segment_s",
                )
            grown = np.empty((min(max(room, 2 * n), most), *pixels.shape), np.uint8)
            if have is not None:
                grown[:n] = have
            have = self._pixels = grown
        have[n] = pixels
        self.pts.append(pts)

    def pixels(self) -> npt.NDArray[np.uint8]:
        """(frames, height, width, 3)."""
        assert self._pixels is not None
        return self._pixels[: len(self.pts)]

    def findings(self) -> list[str]:
        """The counts as flags, in one order."""
        return sorted(name if name == "interlaced" else f"{name}:{count}" for name, count in self.counts.items())
