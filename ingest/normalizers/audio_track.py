"""One sound track → one record a window of int16 samples.

Windows lie on a grid of the track's own samples at the output rate: window k = [k·window_s·rate, (k+1)·window_s·rate),
sample 0 being the first that the decoder gives out. Encoder delay and padding are removed as libav does: by the
container's edit list, LAME tag or pre-skip where it has one, else not at all (raw AAC).

- Where time stamps jump ahead by more than 100 ms from one frame to the next (or by what a packet that did not decode
  held), samples are missing. Nothing is filled in: the record ends there, and the next begins at its own
  `start_sample`, as a second `piece` if in the same window; flag `gap`. In FLAC and Ogg, whose frames are numbered
  without a break, a gap is damage and gives a `Bad` as well; elsewhere a recording may have been paused.
- Where they fall back as far, the clock was set back: samples go on without a gap; flag `clock_backward`.
- Where they drift apart from the count of samples without a jump, the count is believed; flag `clock_drift` at the end.
- Rate, layout or format change inside a track: the converter is set up again. At `rate: native` a new run begins.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from headrace.ingest.normalizers.audio_convert import Converter, Samples, SoundFormat
from headrace.ingest.normalizers.contract import Limits, Normalized
from headrace.ingest.normalizers.media import Media, wall_clock
from headrace.ingest.normalizers.media_language import bcp47
from headrace.ingest.normalizers.media_track import Track, WindowKey
from headrace.schemas.canonical import canonical_json
from headrace.schemas.errors import RecordError
from headrace.schemas.record import as_draft

#: Seconds that a time stamp may be off before it means something; Vorbis in Matroska moves by 11 ms a frame.
GAP_TOLERANCE = Fraction(1, 10)
#: Seconds by which time stamps may drift from the count of samples over a whole track.
DRIFT_TOLERANCE = Fraction(1, 2)
#: Samples of the longest gap: eight months at 48 kHz. A time stamp beyond it is not one.
MAX_GAP_SAMPLES = 1 << 40
#: Formats whose frames follow one another without a break, so that a missing one was lost.
_CONTINUOUS = frozenset({"flac", "ogg"})
#: Decoders that look at frame checksums only when asked to. AC-3 then marks the frame, FLAC must be told to refuse it.
_CHECKED = {"flac": "crccheck+explode", "ac3": "crccheck", "eac3": "crccheck"}


@dataclass(frozen=True)
class SoundRule:
    """How samples come out. rate None: the track's own; mono False: its own channels."""

    rate: int | None
    mono: bool
    window_s: Fraction


class AudioTrack(Track):
    """Feeds on packets, yields a draft batch of one row per window."""

    def __init__(self, media: Media, stream: Any, rule: SoundRule, limits: Limits, *, left_out: list[str]) -> None:
        """Raises: RecordError if the decoder cannot be set up."""
        super().__init__(media, stream, limits)
        self.rule = rule
        self._left_out = left_out
        self._clock = media.creation_us()
        self._source: SoundFormat | None = None
        self._converter: Converter | None = None
        self._transforms: list[str] = []
        self._rate = self._channels = self._size = 0  # of what comes out; samples of a whole window
        self._run = 0
        self._origin: Fraction | None = None  # container time of sample 0 of this run
        self._at = 0  # next sample to come out, counted from the run's first
        self._ahead = 0  # samples that went into the converter since, at the source's rate
        self._decoded = self._missing = 0  # samples out of the decoder, and in gaps, at its own rate
        self._next: int | None = None  # when the next frame should begin, in units of time_base / rate
        self._lost_before = 0  # packets lost when the last frame came
        self._buffer: Samples = np.empty((0, 0), np.int16)
        self._start = self._filled = 0  # of the record that is being filled
        self._piece = 0
        self._piece_of: int | None = None
        self._flags: dict[int, dict[str, int]] = {}  # by window
        self._gap = 0

    def decoder_options(self) -> dict[str, str]:
        """A checksum that does not match is damage, not a matter of taste."""
        return {"err_detect": _CHECKED[self.codec]} if self.codec in _CHECKED else {}

    def window_of(self, packet: Any | None) -> WindowKey:
        """(run, window) that the next sample to be decoded falls in."""
        if self._source is None:
            return self._run, 0
        return self._run, (self._at + self._ahead * self._rate // self._source.rate) // self._size

    def feed(self, packet: Any | None) -> Iterator[Normalized]:
        """Decode one packet, or what is left at the end for None."""
        for frame in self.decode(packet):
            if frame.samples:
                yield from self._take(frame)

    def finish(self) -> Iterator[Normalized]:
        """What is left once all packets are in."""
        yield from self.feed(None)
        yield from self._drain()
        if not self.emitted and not self._filled:
            raise self.nothing_decoded()
        flags: list[str] = []
        if self.cut() is not None:
            flags.append("truncated")
        else:
            flags += self.duration_flags(Fraction(self._at, self._rate)) if self._run == 0 else []
            flags += ["length_mismatch"] if self.media.facts.cut is not None else []
        yield from self._close([*flags, "clock_drift"] if self._drifted() else flags)
        for (run, number), loss in self.losses_left():
            yield self.bad(loss, window=number, **({"run": run} if run else {}))

    def cut(self) -> str | None:
        """As for every track; FLAC also says how many samples there should be."""
        declared = self.stream.duration
        if self.media.format == "flac" and declared is not None and self._decoded + self._missing < declared:
            return f"its header promises {declared} samples, {self._decoded} came"
        return super().cut()

    def _take(self, frame: Any) -> Iterator[Normalized]:
        source = SoundFormat(frame.format.name, frame.layout.name, frame.layout.nb_channels, frame.sample_rate)
        if source != self._source:
            yield from self._set_up(source)
        if frame.pts is None:
            self._next = self._next + frame.samples * self.time_base.denominator if self._next is not None else None
        elif jump := self._jump(frame.pts, frame.samples, source.rate):
            yield from self._leap(jump, frame.pts)
        if frame.is_corrupt:
            self._count("corrupt_frames")
        self._decoded += frame.samples
        self._ahead += frame.samples
        if self._converter is None:
            self._converter = Converter(source, rate=self._rate, mono=self.rule.mono)
        if arrays := self._converter.add(frame):
            yield from self._push(arrays)

    def _set_up(self, source: SoundFormat) -> Iterator[Normalized]:
        """Get ready for another format. Raises: RecordError if a window of it would be too large."""
        if source.rate <= 0 or source.channels <= 0:
            raise RecordError("corrupt", f"{source.rate} Hz and {source.channels} channels make no sound")
        rate, channels = self.rule.rate or source.rate, 1 if self.rule.mono else source.channels
        size = max(1, round(self.rule.window_s * rate))
        if size * channels * 2 > self.limits.max_bytes:
            raise RecordError(
                "too_large",
                f"{self.rule.window_s} s at {rate} Hz and {channels} channels take {size * channels * 2} bytes, "
                f"{self.limits.max_bytes} are allowed",
            )
        yield from self._drain()
        if self._source is not None and (rate, channels) != (self._rate, self._channels):
            yield from self._close(["format_change"])
            self._run += 1
            self._at = 0
            self._origin = None
        self._source, self._rate, self._channels, self._size = source, rate, channels, size
        self._next = None
        self._transforms = Converter(source, rate=rate, mono=self.rule.mono).transforms()

    def _jump(self, pts: int, samples: int, rate: int) -> int:
        """By how much a frame is off the time at which it should begin, if that is more than jitter; else 0.

        In units of time_base / rate, in which both pts and samples are whole numbers.
        """
        per_pts, per_sample = self.time_base.numerator * rate, self.time_base.denominator
        begin, lasts = pts * per_pts, samples * per_sample
        lost, self._lost_before = self._lost > self._lost_before, self._lost
        expected, self._next = self._next, begin + lasts
        if self._origin is None:
            self._origin = pts * self.time_base - Fraction(self._at, self._rate)
        if expected is None:
            return 0
        away = begin - expected
        exact = lost or (self.codec == "flac" and self.media.format in _CONTINUOUS)
        allowed = lasts // 2 if exact and away > 0 else GAP_TOLERANCE * per_sample * rate
        return away if abs(away) > allowed else 0

    def _leap(self, jump: int, pts: int) -> Iterator[Normalized]:
        """Begin anew behind a gap, or after the clock was set back."""
        assert self._source is not None and self._origin is not None
        yield from self._drain()
        if jump > 0:
            missing = jump // self.time_base.denominator
            if missing > MAX_GAP_SAMPLES:
                raise RecordError("corrupt", f"its time stamps leap by {missing} samples, which no recording does")
            if self.media.format in _CONTINUOUS and not self.has_loss(self.window_of(None)):
                self.note_loss(self.window_of(None), None, ValueError(f"{missing} samples are missing"))
            yield from self._close([])
            self._missing += missing
            at = self._at + max(1, round(Fraction(missing * self._rate, self._source.rate)))
            stamped = round((pts * self.time_base - self._origin) * self._rate)  # without the last stamp's rounding
            at = stamped if stamped > self._at and abs(stamped - at) <= GAP_TOLERANCE * self._rate else at
            self._gap, self._at = at - self._at, at
        else:
            self._count("clock_backward")
            self._origin = pts * self.time_base - Fraction(self._at, self._rate)
            self._clock = None  # nobody knows when a clock that was set back ran on

    def _drifted(self) -> bool:
        """Whether time stamps and samples ended up at different times."""
        if self._origin is None or self._next is None or self._source is None:
            return False
        stamped = Fraction(self._next, self.time_base.denominator * self._source.rate)
        return abs(stamped - self._origin - Fraction(self._at, self._rate)) > DRIFT_TOLERANCE

    def _count(self, flag: str) -> None:
        flags = self._flags.setdefault(self.window_of(None)[1], {})
        flags[flag] = flags.get(flag, 0) + 1

    def _drain(self) -> Iterator[Normalized]:
        """What the converter still holds."""
        if self._converter is not None:
            converter, self._converter = self._converter, None
            yield from self._push(converter.drain())

    def _push(self, arrays: Iterable[Samples]) -> Iterator[Normalized]:
        for samples in arrays:
            while len(samples):
                if not self._filled:
                    self._start = self._at
                    self._buffer = np.empty((self._size, self._channels), np.int16)
                room = self._size - self._start % self._size - self._filled
                part, samples = samples[:room], samples[room:]
                self._buffer[self._filled : self._filled + len(part)] = part
                self._filled += len(part)
                self._at += len(part)
                if len(part) == room:
                    yield from self._close([])
        self._ahead = 0

    def _close(self, flags: list[str]) -> Iterator[Normalized]:
        if not self._filled:
            return
        number = self._start // self._size
        self._piece = self._piece + 1 if self._piece_of == number else 0
        self._piece_of = number
        loss = self.take_loss((self._run, number))
        place: dict[str, Any] = {"window": number}
        if self._run:
            place["run"] = self._run
        if self._piece:
            place["piece"] = self._piece
        found = [f"{name}:{count}" for name, count in self._flags.pop(number, {}).items()]
        found += [f"corrupt_packets:{loss.count}"] if loss else []
        found += ["gap"] if self._gap else []
        row = self._row(place, sorted(found) + flags)
        self._filled = self._gap = 0
        self.emitted += 1
        yield as_draft("audio", row)
        if loss is not None:
            yield self.bad(loss, **place)

    def _row(self, place: dict[str, Any], flags: list[str]) -> dict[str, Any]:
        assert self._source is not None
        origin = self._origin or Fraction(0)
        start = origin + Fraction(self._start, self._rate)
        end = start + Fraction(self._filled, self._rate)
        extra: dict[str, Any] = {"codec": self.codec, "stream": self.stream.index}
        extra |= {"layout": self._source.layout, "source_rate": self._source.rate}
        extra["track_start_us"] = round(origin * 1_000_000)  # on the container's clock, where frames' pts lie too
        if self._gap:
            extra["gap_samples"] = self._gap
        if self._left_out:
            extra["left_out"] = self._left_out
        if language := bcp47(self.stream.metadata.get("language")):
            extra["language"] = language
        return {
            "locator": canonical_json({"stream": self.stream.index, **place}).decode(),
            **wall_clock(self._clock, start, end),
            "flags": flags,
            "transforms": self._transforms,
            "extra": canonical_json(extra).decode(),
            "samples": self._buffer[: self._filled],
            "rate": self._rate,
            "start_sample": self._start,
        }
