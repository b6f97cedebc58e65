"""The picture track of a file → one record a window, by the grid of video_window.py.

A frame's place depends on its pts alone, never on how many came before it, so variable rates, reordered B-frames and a
first frame at any pts need no special case. What is out of the ordinary is flagged:

- No pts: the frame follows the one before by its duration (or one average frame); `pts_missing:N`.
- A pts behind the one before, by up to a second: the frame is out of order and passed over; `frames_out_of_order:N`.
- By more: the clock was set back (joined recordings). A new run begins, with windows of its own; `clock_backward`.
- The picture changes size, colour or orientation inside a window: the window goes on in a second piece.
- The decoder marks a frame as damaged and patched up: it is kept; `corrupt_frames:N`. (HEVC: `corrupt_packets:N`.)
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

from headrace.ingest.normalizers.contract import Limits, Normalized
from headrace.ingest.normalizers.media import Media, wall_clock
from headrace.ingest.normalizers.media_track import Track, WindowKey
from headrace.ingest.normalizers.video_picture import HDR, Look, Pictures, look_of
from headrace.ingest.normalizers.video_window import FrameRule, Grid, Span, Window
from headrace.schemas.canonical import canonical_json
from headrace.schemas.errors import RecordError
from headrace.schemas.record import as_draft

#: Seconds by which pts may fall behind without the clock having been set back.
RESET_S = 1
#: A stated average rate above this is a container's tick, not a camera (FLV and Matroska say 1000).
MAX_CREDIBLE_RATE = 240


class VideoTrack(Track):
    """Feeds on packets, yields a draft batch of one row per window."""

    def __init__(
        self, media: Media, stream: Any, rule: FrameRule, limits: Limits, *, span: Span, left_out: list[str]
    ) -> None:
        """Raises: RecordError if frames would be too large or the decoder cannot be set up."""
        super().__init__(media, stream, limits)
        self.rule = rule
        self._span = span
        self._left_out = left_out
        self._clock = media.creation_us()
        self._grid = Grid(rule, self.time_base)
        self._pictures = Pictures(rule.max_side)
        self._window: Window | None = None
        self._run = 0
        self._slot: int | None = None
        self._last: int | None = None  # pts of the frame before
        self._step = 0  # its duration
        self._first: int | None = stream.start_time
        self._end = 0  # of the last frame of this run
        self._reset = RESET_S // self.time_base
        self._pending: dict[str, int] = {}
        self._check_header()

    def decoder_options(self) -> dict[str, str]:
        """HEVC hides damage unless told to speak of it, and gives out the frame all the same."""
        return {"err_detect": "explode"} if self.codec == "hevc" else {}

    def _check_header(self) -> None:
        """Sizes by the header: one frame, and the frames of one window where its rate can be believed."""
        width, height = self.context.width, self.context.height
        if width * height > self.limits.max_pixels:
            raise RecordError("too_large", f"frames of {width}x{height} are more than {self.limits.max_pixels} pixels")
        if 4 * width * height * 3 > self.limits.max_bytes:  # a decoder keeps a few frames to refer to
            raise RecordError("too_large", f"frames of {width}x{height} need more than {self.limits.max_bytes} bytes")
        stated = self.stream.average_rate
        if not stated or stated > MAX_CREDIBLE_RATE or not self.stream.duration:
            return
        rate = min(stated, self.rule.fps) if self.rule.fps is not None else stated
        frames = int(rate * min(self.rule.segment, self.stream.duration * self.time_base))
        out_height, out_width, _ = self._pictures.fitted(width, height)
        if frames * out_height * out_width * 3 > self.limits.max_bytes:
            raise RecordError(
                "too_large",
                f"{frames} frames of {out_width}x{out_height} a window are more than {self.limits.max_bytes} bytes: "
                "lower fps, max_side or segment_s",
            )

    def window_of(self, packet: Any | None) -> WindowKey:
        """By the packet's pts; where it has none, the window of the frame before."""
        pts = packet.pts if packet is not None and packet.pts is not None else self._last
        return self._run, self._grid.window(pts) if pts is not None else 0

    def feed(self, packet: Any | None) -> Iterator[Normalized]:
        """Decode one packet, or what is left at the end for None."""
        for frame in self.decode(packet):
            pts = self._stamp(frame)
            if pts is None:
                continue
            number = self._grid.window(pts)
            chosen = self._grid.every or self._slot != self._grid.slot(pts)
            self._slot = self._grid.slot(pts)
            if number not in self._span:
                self._pending.clear()
                if self._span.last is not None and number >= self._span.last:
                    self.done = True
                    return
                continue
            window = self._window
            if window is None or window.number != number or window.run != self._run:
                if window is not None:
                    yield from self._close(window, [], more=True)
                window = self._window = Window(self._run, number)
            window.seen += 1
            if self._pending:
                self._absorb(window)
            if frame.is_corrupt:
                window.count("corrupt_frames")
            if chosen:
                look = look_of(frame)
                if window.look is not None and window.look != look:
                    yield from self._emit(window, [], more=False)
                    window.next_piece()
                window.look = look
                if frame.interlaced_frame:
                    window.count("interlaced")
                window.add(pts, self._pictures.pixels(frame, look), self._room(), self.limits.max_bytes)

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
            else:
                if self._first is not None and self._run == 0:
                    flags += self.duration_flags((self._end - self._first) * self.time_base)
                flags += ["length_mismatch"] if self.media.facts.cut is not None else []
        if self._window is not None:
            yield from self._close(self._window, flags, more=self.done)
        for (run, number), loss in self.losses_left():
            if number in self._span:
                yield self.bad(loss, window=number, **({"run": run} if run else {}))

    def _stamp(self, frame: Any) -> int | None:
        """The frame's pts, made up if it has none; None for a frame out of order. A clock set back begins a run."""
        pts: int | None = frame.pts
        if pts is None:
            pts = self._last + self._step if self._last is not None else self.stream.start_time or 0
            self._pending["pts_missing"] = self._pending.get("pts_missing", 0) + 1
        if self._last is not None and pts < self._last:
            if self._last - pts <= self._reset:
                self._pending["frames_out_of_order"] = self._pending.get("frames_out_of_order", 0) + 1
                return None
            self._run += 1
            self._slot = None
            self._end = pts
        self._last = pts
        self._step = frame.duration or self._average_step()
        self._first = pts if self._first is None else self._first
        self._end = max(self._end, pts + self._step)
        return pts

    def _average_step(self) -> int:
        rate = self.stream.average_rate
        if not rate or rate > MAX_CREDIBLE_RATE:
            rate = self.stream.guessed_rate or Fraction(25)
        return max(1, round(1 / (rate * self.time_base)))

    def _absorb(self, window: Window) -> None:
        for flag, count in self._pending.items():
            window.count(flag, count)
        self._pending.clear()

    def _room(self) -> int:
        """Frames to reserve at first: what a steady stream fills; a shorter one wastes address space, not memory."""
        return 16 if self.rule.fps is None else min(1024, int(self.rule.segment * self.rule.fps) + 1)

    def _close(self, window: Window, flags: list[str], *, more: bool) -> Iterator[Normalized]:
        """The window's record and what it lost. more: frames of later windows are here."""
        self._window = None
        loss = self.take_loss((window.run, window.number))
        found = [f"corrupt_packets:{loss.count}"] if loss is not None else []
        found += ["clock_backward"] if window.run != self._run else []
        yield from self._emit(window, found + flags, more=more and window.run == self._run)
        if loss is not None:
            yield self.bad(loss, **self._place(window))

    def _emit(self, window: Window, flags: list[str], *, more: bool) -> Iterator[Normalized]:
        if window.pts:
            assert window.look is not None
            self.emitted += 1
            yield as_draft("video", self._row(window, window.look, window.findings() + flags, more))

    @staticmethod
    def _place(window: Window) -> dict[str, Any]:
        place = {"window": window.number}
        if window.run:
            place["run"] = window.run
        if window.piece:
            place["piece"] = window.piece
        return place

    def _row(self, window: Window, look: Look, flags: list[str], more: bool) -> dict[str, Any]:
        start = window.number * self.rule.segment
        end = start + self.rule.segment
        if not more:
            end = min(end, max(self._end * self.time_base, start))
        extra: dict[str, Any] = {"codec": self.codec, "frames_seen": window.seen, "stream": self.stream.index}
        aspect = self.context.sample_aspect_ratio
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
        transforms = self._pictures.transforms(look)
        if self.rule.fps is not None:
            transforms.append(f"first frame of each {1 / self.rule.fps} s by pts")
        clock = self._clock if window.run == 0 else None  # nobody knows when a clock that was set back ran on
        return {
            "locator": canonical_json({"stream": self.stream.index, **self._place(window)}).decode(),
            **wall_clock(clock, start, end),
            "flags": flags,
            "transforms": transforms,
            "extra": canonical_json(extra).decode(),
            "pixels": window.pixels(),
            "pts": window.pts,
            "time_base_num": self.time_base.numerator,
            "time_base_den": self.time_base.denominator,
            "rotation": look.turn.degrees if look.turn else 0,
        }
