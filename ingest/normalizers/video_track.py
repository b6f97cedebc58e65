"""The picture track of a file → one record a window: which frames are taken, and into which record they go.

All times are exact: a frame's time is pts · time_base, a Fraction. Windows and slots lie on one grid from time 0 of the
container's own clock, so a frame's place depends on its pts alone, never on how many frames came before it:

    window k = [k·segment, (k+1)·segment)          one record
    slot   n = [n/fps, (n+1)/fps)                  one frame: the first in presentation order whose pts lies in the slot

which is "the first frame with pts ≥ n/fps", each frame once: a slot without a frame gives none, nothing is repeated.
`fps: native` takes every frame. Variable rates, reordered B-frames and first frames at any pts need no special case.

- No pts: the frame follows the one before by its duration (or one average frame); flag `pts_missing:N`.
- A pts behind the one before, by up to a second: the frame is out of order and passed over; `frames_out_of_order:N`.
- By more: the clock was set back (joined recordings). A new run begins, with windows of its own; `clock_backward`.
- The picture changes size, colour or orientation inside a window: the window goes on in a second piece.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from headrace.ingest.normalizers.contract import Limits, Normalized
from headrace.ingest.normalizers.media import Media
from headrace.ingest.normalizers.media_track import Track
from headrace.ingest.normalizers.video_picture import HDR, Look, MaxSide, Pictures, look_of
from headrace.schemas.canonical import canonical_json
from headrace.schemas.errors import RecordError
from headrace.schemas.record import as_draft

#: Seconds by which pts may fall behind without the clock having been set back.
RESET = 1
#: A stated average rate above this is a container's tick, not a camera (FLV and Matroska say 1000).
MAX_CREDIBLE_RATE = 240


@dataclass(frozen=True)
class FrameRule:
    """Which frames are taken. fps None: every frame."""

    fps: Fraction | None
    segment: Fraction
    max_side: MaxSide

    def slot(self, time: Fraction) -> int:
        """The slot that a time lies in."""
        assert self.fps is not None
        return time * self.fps // 1

    def window(self, time: Fraction) -> int:
        """The window that a time lies in."""
        return time // self.segment


@dataclass(frozen=True)
class Span:
    """The windows [first, last) that a part of a divided file emits; None: no bound on this side."""

    first: int | None = None
    last: int | None = None

    def __contains__(self, window: object) -> bool:
        assert isinstance(window, int)
        return (self.first is None or window >= self.first) and (self.last is None or window < self.last)


class _Window:
    """The frames of one record while they come in."""

    def __init__(self, run: int, number: int, piece: int, look: Look, shape: tuple[int, int, int]) -> None:
        self.run, self.number, self.piece = run, number, piece
        self.look, self.shape = look, shape
        self.pts: list[int] = []
        self.seen = 0
        self.counts: dict[str, int] = {}
        self._pixels: npt.NDArray[np.uint8] = np.empty((0, *shape), np.uint8)

    def count(self, flag: str) -> None:
        """One more finding of a kind."""
        self.counts[flag] = self.counts.get(flag, 0) + 1

    def add(self, pts: int, pixels: npt.NDArray[np.uint8], room: int, max_bytes: int) -> None:
        """Copy one frame in. Raises: RecordError if the record would grow over `max_bytes`."""
        n = len(self.pts)
        if n == len(self._pixels):
            frame_bytes = int(np.prod(self.shape))
            if (n + 1) * frame_bytes > max_bytes:
                height, width, _ = self.shape
                raise RecordError(
                    "too_large",
                    f"window {self.number}: more than {n} frames of {width}x{height} do not fit {max_bytes} bytes: "
                    "lower fps, max_side or segment_s",
                )
            grown = np.empty((min(max(room, 2 * n, 1), max_bytes // frame_bytes), *self.shape), np.uint8)
            grown[:n] = self._pixels
            self._pixels = grown
        self._pixels[n] = pixels
        self.pts.append(pts)

    def pixels(self) -> npt.NDArray[np.uint8]:
        """(frames, height, width, 3)."""
        return self._pixels[: len(self.pts)]


class VideoTrack(Track):
    """Feeds on packets, yields a draft batch of one row per window."""

    def __init__(
        self, media: Media, stream: Any, rule: FrameRule, limits: Limits, *, span: Span, left_out: list[str]
    ) -> None:
        """Raises: RecordError if a frame would be too large or the decoder cannot be set up."""
        super().__init__(media, stream, limits)
        self.rule = rule
        self.done = False
        self.emitted = 0
        self._span = span
        self._left_out = left_out
        self._clock = media.creation_us()
        self._pictures = Pictures(rule.max_side)
        self._window: _Window | None = None
        self._run = 0
        self._slot: int | None = None
        self._last: int | None = None  # pts of the frame before
        self._step = 0  # its duration in time-base units
        self._start = stream.start_time * self.time_base if stream.start_time is not None else None
        self._end = Fraction(0)
        self._pending: dict[str, int] = {}
        self._check_header()

    def _check_header(self) -> None:
        width, height = self.context.width, self.context.height
        if width * height > self.limits.max_pixels:
            raise RecordError("too_large", f"frames of {width}x{height} are more than {self.limits.max_pixels} pixels")
        if 4 * width * height * 3 > self.limits.max_bytes:  # a decoder holds a few frames to refer to
            raise RecordError("too_large", f"frames of {width}x{height} need more than {self.limits.max_bytes} bytes")

    @property
    def average_step(self) -> int:
        """Time-base units from one frame to the next by the container's average rate, at least 1."""
        rate = self.stream.average_rate
        if not rate or rate > MAX_CREDIBLE_RATE:
            rate = self.stream.guessed_rate or Fraction(25)
        return max(1, round(1 / (rate * self.time_base)))

    def key(self, pts: int | None) -> tuple[int, int]:
        """(run, window) of a time stamp; of the frame before if there is none."""
        found = pts if pts is not None else self._last
        return self._run, self.rule.window(found * self.time_base) if found is not None else 0

    def feed(self, packet: Any | None) -> Iterator[Normalized]:
        """Decode one packet, or what is left at the end for None."""
        for frame in self.decode(packet, self.key(packet.pts if packet is not None else None)):
            yield from self._take(frame)
            if self.done:
                return

    def finish(self) -> Iterator[Normalized]:
        """What is left once all packets are in."""
        if not self.done:
            yield from self.feed(None)
        if not self.emitted and self._window is None and self._span == Span():
            raise self.nothing_decoded()
        flags: list[str] = []
        if not self.done:  # the file's end was reached, so findings about the end are made here
            if self.cut() is not None:
                flags.append("truncated")
            elif self._start is not None:
                flags += self.duration_flags(self._end - self._start)
                flags += ["length_mismatch"] if self.media.facts.cut is not None else []
        yield from self._close(flags, closed_by_data=self.done)
        for (run, number), loss in self.losses_left():
            if number in self._span:
                yield self.bad(loss, window=number, **({"run": run} if run else {}))

    def _take(self, frame: Any) -> Iterator[Normalized]:
        pts = frame.pts
        if pts is None:
            pts = self._last + self._step if self._last is not None else self.stream.start_time or 0
            self._pending["pts_missing"] = self._pending.get("pts_missing", 0) + 1
        if self._last is not None and pts < self._last:
            if (self._last - pts) * self.time_base <= RESET:
                self._pending["frames_out_of_order"] = self._pending.get("frames_out_of_order", 0) + 1
                return
            yield from self._close(["clock_backward"])
            self._run += 1
            self._slot = None
        self._last = pts
        self._step = frame.duration or self.average_step
        time = pts * self.time_base
        self._start = time if self._start is None else self._start
        self._end = max(self._end, (pts + self._step) * self.time_base)
        number = self.rule.window(time)
        chosen = self._chosen(time)
        if number not in self._span:
            self._pending.clear()
            self.done = self._span.last is not None and number >= self._span.last
            return
        if self._window is not None and (self._window.run, self._window.number) != (self._run, number):
            yield from self._close([], closed_by_data=self._window.run == self._run)
        look = look_of(frame)
        if self._window is not None and self._window.look != look:
            yield from self._close([], piece=True)
        if self._window is None:
            piece = self._next_piece if self._next_piece_of == (self._run, number) else 0
            self._window = _Window(self._run, number, piece, look, self._pictures.shape(look))
        window = self._window
        window.seen += 1
        for flag, count in self._pending.items():
            window.counts[flag] = window.counts.get(flag, 0) + count
        self._pending.clear()
        if frame.is_corrupt:
            window.count("corrupt_frames")
        if chosen:
            if frame.interlaced_frame:
                window.count("interlaced")
            window.add(pts, self._pictures.pixels(frame, look), self._room(), self.limits.max_bytes)

    _next_piece = 0
    _next_piece_of: tuple[int, int] | None = None

    def _chosen(self, time: Fraction) -> bool:
        if self.rule.fps is None:
            return True
        slot = self.rule.slot(time)
        new, self._slot = slot != self._slot, slot
        return new

    def _room(self) -> int:
        """Frames to reserve at first; a track that is shorter than its window wastes address space, not memory."""
        return 16 if self.rule.fps is None else min(1024, self.rule.segment * self.rule.fps // 1 + 1)

    def _close(self, flags: list[str], *, closed_by_data: bool = False, piece: bool = False) -> Iterator[Normalized]:
        window, self._window = self._window, None
        if window is None:
            return
        key = (window.run, window.number)
        self._next_piece_of, self._next_piece = (key, window.piece + 1) if piece else (None, 0)
        loss = None if piece else self.take_loss(key)
        place: dict[str, Any] = {"window": window.number}
        if window.run:
            place["run"] = window.run
        if window.piece:
            place["piece"] = window.piece
        if window.pts:
            found = [name if name == "interlaced" else f"{name}:{count}" for name, count in window.counts.items()]
            found += [f"corrupt_packets:{loss.count}"] if loss else []
            self.emitted += 1
            yield as_draft("video", self._row(window, place, sorted(found) + flags, closed_by_data))
        if loss is not None:
            yield self.bad(loss, **place)

    def _row(self, window: _Window, place: dict[str, Any], flags: list[str], closed_by_data: bool) -> dict[str, Any]:
        look, size = window.look, self._pictures.size(window.look)
        start = window.number * self.rule.segment
        end = start + self.rule.segment
        if not closed_by_data:
            end = min(end, max(self._end, start))
        aspect = self.context.sample_aspect_ratio
        extra: dict[str, Any] = {"codec": self.codec, "frames_seen": window.seen, "stream": self.stream.index}
        if aspect and aspect != 1:
            extra["sample_aspect_ratio"] = [aspect.numerator, aspect.denominator]
            flags = [*flags, "anamorphic"]
        if look.transfer in HDR:
            extra["transfer"] = HDR[look.transfer]
            flags = [*flags, "hdr"]
        if look.turn is None:
            flags = [*flags, "display_matrix_not_applied"]
        if self._left_out:
            extra["left_out"] = self._left_out
        transforms = look.transforms(size)
        if self.rule.fps is not None:
            transforms.append(f"first frame of each {1 / self.rule.fps} s by pts")
        clock = self._clock if window.run == 0 else None  # nobody knows when a clock that was set back ran on
        return {
            "locator": canonical_json({"stream": self.stream.index, **place}).decode(),
            "event_time": clock + round(start * 1_000_000) if clock is not None else None,
            "event_end": clock + round(end * 1_000_000) if clock is not None else None,
            "time_source": "container:creation_time" if clock is not None else None,
            "flags": flags,
            "transforms": transforms,
            "extra": canonical_json(extra).decode(),
            "pixels": window.pixels(),
            "pts": window.pts,
            "time_base_num": self.time_base.numerator,
            "time_base_den": self.time_base.denominator,
            "rotation": look.turn.degrees if look.turn else 0,
        }
