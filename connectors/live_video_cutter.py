"""Packets of one session → segments: where to cut, on which clock, and what to write beside each.

A session's clock begins at 0 with its first key frame and runs on through all its segments, so frame times can be
compared; `source_pts_zero` leads back to the source's own ticks. Segments begin at the first key frame at or after each
multiple of `segment_s` on that clock, so that windows of the same length meet whole segments. What is out of the
ordinary is flagged:

- `no_key_frame`: it does not begin with a key frame, since none came for `max_gop_s`, or the one before grew too large
  (which then says `cut_by_size`). Decoders show little of it, or nothing; the packets are all there.
- `open_gop`: it begins with a key frame behind which come pictures that are shown before it and lean on the segment
  before. MP4 marks them as not to be shown.
- `retimed:N`: so many packets came with a time not after the one before, and were moved up by as little as can be.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from headrace.connectors.live_video_parameters import parameters, starts_closed
from headrace.connectors.live_video_segment import Notes, Segment, SegmentWriter, Tracks

#: A clock that falls behind by more than this was set back; by less, packets are out of order.
BACKWARD_S = 1
#: A clock that leaps ahead by more than this was set forward (or the sender jumped).
FORWARD_S = 60


@dataclass(frozen=True)
class Rule:
    """How segments are cut."""

    segment_s: Fraction
    max_gop_s: Fraction
    max_segment_bytes: int


@dataclass(frozen=True)
class Problem:
    """Why a session ends: its clock jumped, or (`clock` is false) its parameters changed."""

    message: str
    clock: bool = False


class Cutter:
    """One session."""

    def __init__(self, tracks: Tracks, rule: Rule, session: int, clock_source: str) -> None:
        self.tracks = tracks
        self.rule = rule
        self._base = {
            "format": tracks.format,
            "media_type": tracks.media_type,
            "session": str(session),
            "streams": " ".join(f"{s.index}:{s.type}:{codec_of(s)}" for s in tracks.kept),
        }
        if tracks.left_out:
            self._base["left_out"] = " ".join(tracks.left_out)
        self._clock_source = clock_source
        self._codecs = {s.index: codec_of(s) for s in tracks.kept}
        self._bases: dict[int, Fraction] = {s.index: s.time_base for s in tracks.kept}
        self._main = tracks.main.index
        self._pictures = tracks.main.type == "video"
        self._reorders = self._pictures and bool(tracks.main.codec_context.has_b_frames)
        self._parameters: dict[int, bytes] = {}
        self._seen: dict[int, int] = {}  # last dts by the source's clock
        self._written: dict[int, int] = {}  # last dts by ours
        self._before: list[tuple[Any, int | None]] = []  # packets ahead of the first key frame
        self._before_bytes = 0
        self._skipped = 0
        self._origin: Fraction | None = None
        self._writer: SegmentWriter | None = None
        self._notes = Notes()
        self._number = 0
        self._clock_us: int | None = None  # the source's clock at our zero, as last heard
        self._boundary = self._last_key = Fraction(0)
        self._knows_closed = False
        self._recent: deque[int] = deque(maxlen=32)  # pts of the main stream, more than any decoder reorders

    def problem_with(self, packet: Any) -> Problem | None:
        """Why the session cannot go on with this packet: its parameters changed, or its clock jumped; else None."""
        index = packet.stream_index
        if index not in self._bases:
            return None
        found = bytes(packet.get_sidedata("new_extradata")) if packet.has_sidedata("new_extradata") else None
        if found is None and (packet.is_keyframe or not self._pictures):
            found = parameters(self._codecs[index], bytes(packet))
        if found and self._parameters.setdefault(index, found) != found:
            return Problem(f"parameters changed: stream {index} ({self._codecs[index]}) is encoded otherwise")
        dts = packet.dts if packet.dts is not None else packet.pts
        last = self._seen.get(index)
        if dts is None:
            return None
        self._seen[index] = dts
        if last is not None:
            away = (dts - last) * self._bases[index]
            if not -BACKWARD_S <= away <= FORWARD_S:
                what = f"clock jumped: stream {index} went on {float(away):+.3f} s from the packet before"
                return Problem(what, clock=True)
        return None

    def add(self, packet: Any, clock_us: int | None) -> Iterator[Segment]:
        """The segments that a packet completes. `clock_us`: when it was taken, by the source's own clock."""
        if packet.stream_index not in self._bases or (packet.pts is None and packet.dts is None):
            return
        if self._origin is not None:
            yield from self._place(packet, clock_us)
        elif packet.stream_index == self._main and packet.is_keyframe and self._knows_order(packet):
            self._skipped, self._before = len(self._before), []
            self._begin(packet)
            yield from self._place(packet, clock_us)
        else:
            self._before.append((packet, clock_us))
            self._before_bytes += packet.size
            first = self._before[0][0]
            waited = _time(packet, self._bases) - _time(first, self._bases)
            if waited >= self.rule.max_gop_s or self._before_bytes >= self.rule.max_segment_bytes:
                yield from self._headless()

    def finish(self, why: str) -> Iterator[Segment]:
        """The last segment, of what came; `why` the session ends stands in its header `truncated`."""
        if self._origin is None and self._before:
            yield from self._headless()
        yield from self._close(why)

    def _knows_order(self, packet: Any) -> bool:
        """Whether decoding times are known; where pictures are reordered libav must see some of RTSP's to tell."""
        return packet.dts is not None or not self._reorders

    # -- the session's clock ------------------------------------------------------------------------------------------

    def _begin(self, packet: Any) -> None:
        time = packet.pts if packet.pts is not None else packet.dts
        self._origin = time * self._bases[packet.stream_index]
        self._base["source_pts_zero"] = str(round(self._origin / self._bases[self._main]))
        self._base["time_base"] = str(self._bases[self._main])

    def _headless(self) -> Iterator[Segment]:
        """Begin without a key frame, with all that came before."""
        held, self._before = self._before, []
        mains = [packet for packet, _ in held if packet.stream_index == self._main] or [packet for packet, _ in held]
        times = [packet.pts if packet.pts is not None else packet.dts for packet in mains]
        self._begin(next(packet for i, packet in enumerate(mains) if times[i] == min(times[i:])))
        for packet, clock_us in held:
            yield from self._place(packet, clock_us)

    def _timed(self, packet: Any) -> tuple[int, int, bool] | None:
        """(pts, dts, whether they had to be moved) on the session's clock; None for a packet from before its zero."""
        index = packet.stream_index
        assert self._origin is not None
        zero = round(self._origin / self._bases[index])
        last = self._written.get(index)
        pts = (packet.pts if packet.pts is not None else packet.dts) - zero
        if packet.dts is not None:
            dts = packet.dts - zero
        else:
            dts = pts if last is None else min(pts, last + 1)
        if pts < 0:
            return None
        moved = packet.pts is None
        if last is not None and dts <= last:
            dts, moved = last + 1, True
        if pts < dts:
            pts, moved = dts, True
        return pts, dts, moved

    # -- cutting ------------------------------------------------------------------------------------------------------

    def _place(self, packet: Any, clock_us: int | None) -> Iterator[Segment]:
        index = packet.stream_index
        timed = self._timed(packet)
        if timed is None:
            self._skipped += 1
            return
        pts, dts, moved = timed
        main = index == self._main
        seconds = pts * self._bases[index]
        flag: str | None = None
        if self._writer is not None:
            cut, flag = self._cuts(packet, seconds) if main else (False, None)
            if not cut and self._is_full(packet, main):
                self._notes.flag("cut_by_size")
                cut, flag = True, None if main and packet.is_keyframe else "no_key_frame"
            if cut:
                yield from self._close(None)
        elif main and self._pictures and not packet.is_keyframe:
            flag = "no_key_frame"
        if self._writer is None:
            self._open(seconds, flag)
        if main and packet.is_keyframe:
            self._last_key = seconds
        assert self._writer is not None
        notes = self._notes
        if moved:
            notes.flag("retimed")
        if packet.is_corrupt:
            notes.corrupt += 1
        if main:
            notes.first_pts = pts if notes.first_pts is None else min(notes.first_pts, pts)
            notes.end_pts = max(notes.end_pts, pts + (packet.duration or 0))
            if packet.pts is not None:
                self._recent.append(packet.pts)
        if clock_us is not None and notes.clock_us is None:
            notes.clock_us = self._clock_us = clock_us - round(seconds * 1_000_000)
        self._written[index] = dts
        packet.pts, packet.dts = pts, dts
        self._writer.add(packet, index)

    def _cuts(self, packet: Any, seconds: Fraction) -> tuple[bool, str | None]:
        """Whether a new segment begins with this packet of the main stream, and the flag that it then bears."""
        due = seconds >= self._boundary
        if not self._pictures:
            return due, None
        if packet.is_keyframe:
            closed = starts_closed(self._codecs[self._main], bytes(packet))
            self._knows_closed |= closed
            late = not self._knows_closed or seconds >= self._boundary + self.rule.segment_s
            return due and (closed or late), None if closed else "open_gop"
        waited = seconds - self._last_key - self.rule.max_gop_s
        if due and waited >= 0 and (self._is_shown_next(packet) or waited >= 1):
            self._last_key = seconds
            return True, "no_key_frame"
        return False, None

    def _is_shown_next(self, packet: Any) -> bool:
        """Whether no later packet of the main stream is shown before it, as far as can be told.

        None is shown before it is decoded; and where the picture before it in time is there, nothing lies between.
        """
        if packet.pts is None or packet.dts is None or packet.pts == packet.dts:
            return True
        before = max((pts for pts in self._recent if pts < packet.pts), default=None)
        return before is not None and 0 < packet.pts - before <= (packet.duration or 0) * 3 // 2

    def _is_full(self, packet: Any, main: bool) -> bool:
        """Whether a segment must end before this packet for its size; near the limit a good place to cut is taken."""
        assert self._writer is not None
        size, most = self._writer.bytes + packet.size, self.rule.max_segment_bytes
        return size > most or (size > most * 7 // 8 and main and (packet.is_keyframe or self._is_shown_next(packet)))

    def _open(self, seconds: Fraction, flag: str | None) -> None:
        self._writer = SegmentWriter(self.tracks)
        self._notes = Notes()
        self._boundary = (seconds // self.rule.segment_s + 1) * self.rule.segment_s
        if flag is not None:
            self._notes.flag(flag)
        if self._number == 0:
            self._last_key = seconds

    def _close(self, why: str | None) -> Iterator[Segment]:
        if self._writer is None:
            return
        notes, writer = self._notes, self._writer
        self._writer = None
        clock_us = notes.clock_us if notes.clock_us is not None else self._clock_us  # as the segments before said
        headers = {**self._base, "segment": str(self._number), "packets": str(writer.packets)}
        event_time = None
        if notes.first_pts is not None:
            headers |= {"first_pts": str(notes.first_pts), "end_pts": str(notes.end_pts)}
        if clock_us is not None and notes.first_pts is not None:
            event_time = clock_us + round(notes.first_pts * self._bases[self._main] * 1_000_000)
            headers |= {"clock_zero_us": str(clock_us), "clock_source": self._clock_source}
        if notes.flags:
            headers["flags"] = " ".join(f"{n}:{c}" if n == "retimed" else n for n, c in sorted(notes.flags.items()))
        if notes.corrupt:
            headers["corrupt_packets"] = str(notes.corrupt)
        if self._skipped:
            headers["skipped_packets"] = str(self._skipped)
            self._skipped = 0
        if why is not None:
            headers["truncated"] = why
        self._number += 1
        yield Segment(writer.close(), headers, event_time, notes.corrupt)


def codec_of(stream: Any) -> str:
    """The codec's common name ("av1", not "libdav1d")."""
    return str(stream.codec_context.codec.canonical_name)


def _time(packet: Any, bases: dict[int, Fraction]) -> Fraction:
    value: int = packet.dts if packet.dts is not None else packet.pts
    return value * bases[packet.stream_index]
