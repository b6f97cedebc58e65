"""One sound track → one record a window of int16 samples, by libav's own resampler.

Windows lie on a grid of the track's own samples at the output rate: window k = [k·window_s·rate, (k+1)·window_s·rate),
sample 0 being the first that the decoder gives out. Encoder delay and padding are removed as libav does: by the
container's edit list, LAME tag or pre-skip where it has one, else not at all (raw AAC).

- Where time stamps jump ahead by more than 100 ms from one frame to the next (or by what a packet that did not decode
  held), samples are missing. Nothing is filled in: the record ends there, and the next begins at its own
  `start_sample`, as a second `piece` if in the same window; flag `gap`.
- Where they fall back as far, the clock was set back: samples go on without a gap; flag `clock_backward`.
- Where they drift apart from the count of samples without a jump, the count is believed; flag `clock_drift` at the end.
- Rate, layout or format change inside a track: the converter is set up again. At `rate: native` a new run begins.
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
from headrace.ingest.normalizers.media_language import bcp47
from headrace.ingest.normalizers.media_track import Track
from headrace.schemas.canonical import canonical_json
from headrace.schemas.errors import RecordError
from headrace.schemas.record import as_draft

#: Seconds that a time stamp may be off before it means something; Vorbis in Matroska moves by 11 ms a frame.
GAP_TOLERANCE = Fraction(1, 10)
#: Seconds by which time stamps may drift from the count of samples over a whole track.
DRIFT_TOLERANCE = Fraction(1, 2)
#: Decoders that look at frame checksums only when asked to. AC-3 then marks the frame, FLAC must be told to refuse it.
_CHECKED = {"flac": "crccheck+explode", "ac3": "crccheck", "eac3": "crccheck"}

Template = tuple[str, str, int]  #: sample format, layout, rate


@dataclass(frozen=True)
class SoundRule:
    """How samples come out. rate None: the track's own; mono False: its own channels."""

    rate: int | None
    mono: bool
    window_s: Fraction


class AudioTrack(Track):
    """Feeds on packets, yields a draft batch of one row per window."""

    def __init__(self, media: Media, stream: Any, rule: SoundRule, limits: Limits, *, left_out: list[str]) -> None:
        """Raises: RecordError if a window would be too large or the decoder cannot be set up."""
        super().__init__(media, stream, limits)
        self.rule = rule
        self.emitted = 0
        self.done = False
        self._left_out = left_out
        self._clock = media.creation_us()
        self._template: Template | None = None
        self._resampler: Any = None
        self._mono_already = False
        self._layout = ""
        self._rate = 0  # of what comes out
        self._channels = 0
        self._run = 0
        self._origin: Fraction | None = None  # container time of sample 0 of this run
        self._at = 0  # next sample, counted from the run's first, at the output rate
        self._decoded = 0  # samples out of the decoder, at its own rate, in all
        self._next: Fraction | None = None  # container time at which the next frame should begin
        self._lost_before = 0  # packets lost when the last frame came
        self._buffer: npt.NDArray[np.int16] = np.empty((0, 0), np.int16)
        self._piece_start = 0
        self._filled = 0
        self._piece = 0
        self._piece_of: int | None = None
        self._flags: dict[str, int] = {}
        self._gap = 0

    def decoder_options(self) -> dict[str, str]:
        """A checksum that does not match is damage, not a matter of taste."""
        return {"err_detect": _CHECKED[self.codec]} if self.codec in _CHECKED else {}

    @property
    def window_samples(self) -> int:
        """Samples of a whole window."""
        return max(1, round(self.rule.window_s * self._rate))

    def key(self) -> tuple[int, int]:
        """(run, window) that the next sample falls in."""
        return self._run, self._at // self.window_samples if self._rate else 0

    def feed(self, packet: Any | None) -> Iterator[Normalized]:
        """Decode one packet, or what is left at the end for None."""
        for frame in self.decode(packet, self.key()):
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
        elif self._template is not None:
            flags += self.duration_flags(Fraction(self._at, self._rate)) if self._run == 0 else []
            flags += ["length_mismatch"] if self.media.facts.cut is not None else []
        yield from self._close([*flags, "clock_drift"] if self._drifted() else flags)
        for (run, number), loss in self.losses_left():
            yield self.bad(loss, window=number, **({"run": run} if run else {}))

    def cut(self) -> str | None:
        """As for every track; FLAC also says how many samples there should be."""
        declared = self.stream.duration
        if self.media.format == "flac" and declared is not None and self._decoded < declared:
            return f"its header promises {declared} samples, {self._decoded} came"
        return super().cut()

    def _take(self, frame: Any) -> Iterator[Normalized]:
        template = (frame.format.name, frame.layout.name, frame.sample_rate)
        if template != self._template:
            yield from self._drain()
            yield from self._set_up(template, frame)
        yield from self._keep_time(frame)
        self._decoded += frame.samples
        if frame.is_corrupt:
            self._flags["corrupt_frames"] = self._flags.get("corrupt_frames", 0) + 1
        for out in self._resample(frame):
            yield from self._push(out)

    def _set_up(self, template: Template, frame: Any) -> Iterator[Normalized]:
        _, layout, rate = template
        self._mono_already = frame.layout.nb_channels == 1
        out_layout = "mono" if self.rule.mono and not self._mono_already else layout
        channels = 1 if self.rule.mono else frame.layout.nb_channels
        out_rate = self.rule.rate or rate
        if rate <= 0 or channels <= 0:
            raise RecordError("corrupt", f"stream {self.stream.index}: {rate} Hz and {channels} channels make no sound")
        needed = round(self.rule.window_s * out_rate) * channels * 2
        if needed > self.limits.max_bytes:
            raise RecordError(
                "too_large",
                f"stream {self.stream.index}: {self.rule.window_s} s at {out_rate} Hz and {channels} channels "
                f"take {needed} bytes, {self.limits.max_bytes} are allowed",
            )
        if self._rate and (out_rate, channels) != (self._rate, self._channels):
            yield from self._close(["format_change"])
            self._run += 1
            self._at = 0
            self._origin = self._next = None
        self._template, self._rate, self._channels, self._layout = template, out_rate, channels, out_layout
        self._resampler = self._converter()

    def _resample(self, frame: Any | None) -> list[npt.NDArray[np.int16]]:
        """(samples, channels) arrays that come out for a frame, or at the end of a stretch for None."""
        import av

        try:
            frames = self._resampler.resample(frame) if self._resampler is not None else [frame]
        except (av.error.FFmpegError, ValueError) as exc:
            assert self._template is not None
            _, layout, rate = self._template
            raise RecordError(
                f"unsupported:{layout}",
                f"stream {self.stream.index}: {layout} at {rate} Hz cannot become {self._layout} at {self._rate} Hz "
                f"({exc}); set channels: native, rate: native",
            ) from exc
        out = []
        for made in frames:
            if made is not None and made.samples:
                flat = np.frombuffer(memoryview(made.planes[0]), np.int16, count=made.samples * self._channels)
                out.append(flat.reshape(made.samples, self._channels))
        return out

    def _keep_time(self, frame: Any) -> Iterator[Normalized]:
        """Compare the frame's time stamp with the count of samples, and begin anew where they part."""
        if frame.pts is None:
            return
        time = frame.pts * self.time_base
        lasts = Fraction(frame.samples, frame.sample_rate)
        lost, self._lost_before = self._lost > self._lost_before, self._lost
        expected, self._next = self._next, time + lasts
        if self._origin is None or expected is None:
            self._origin = time - Fraction(self._at, self._rate) if self._origin is None else self._origin
            return
        away = time - expected
        if away > (lasts / 2 if lost else GAP_TOLERANCE):
            yield from self._drain()
            yield from self._close([])
            self._gap = max(1, round(away * self._rate))
            self._at += self._gap
        elif away < -GAP_TOLERANCE:
            yield from self._drain()
            self._flags["clock_backward"] = self._flags.get("clock_backward", 0) + 1
            self._origin = time - Fraction(self._at, self._rate)
            self._clock = None  # nobody knows when a clock that was set back ran on
        else:
            return
        self._resampler = self._converter()

    def _drifted(self) -> bool:
        """Whether time stamps and samples ended up at different times."""
        if self._origin is None or self._next is None:
            return False
        return abs(self._next - self._origin - Fraction(self._at, self._rate)) > DRIFT_TOLERANCE

    def _converter(self) -> Any:
        """A fresh converter to what comes out, or None where samples are that already."""
        import av

        assert self._template is not None
        sample_format, layout, rate = self._template
        if sample_format == "s16" and rate == self._rate and (layout == self._layout or self._mono_already):
            return None
        to = "mono" if self._mono_already else None if layout == self._layout else self._layout
        return av.AudioResampler(format="s16", layout=to, rate=self._rate)

    def _drain(self) -> Iterator[Normalized]:
        """What the resampler still holds."""
        if self._resampler is not None:
            for out in self._resample(None):
                yield from self._push(out)
            self._resampler = None

    def _push(self, samples: npt.NDArray[np.int16]) -> Iterator[Normalized]:
        size = self.window_samples
        while len(samples):
            if not self._filled:
                self._piece_start = self._at
                if len(self._buffer) != size or self._buffer.shape[1] != self._channels:
                    self._buffer = np.empty((size, self._channels), np.int16)
            number = self._piece_start // size
            room = (number + 1) * size - self._at
            part, samples = samples[:room], samples[room:]
            self._buffer[self._filled : self._filled + len(part)] = part
            self._filled += len(part)
            self._at += len(part)
            if self._at == (number + 1) * size:
                yield from self._close([])

    def _close(self, flags: list[str]) -> Iterator[Normalized]:
        if not self._filled:
            return
        number = self._piece_start // self.window_samples
        self._piece = self._piece + 1 if self._piece_of == number else 0
        self._piece_of = number
        loss = self.take_loss((self._run, number))
        place: dict[str, Any] = {"window": number}
        if self._run:
            place["run"] = self._run
        if self._piece:
            place["piece"] = self._piece
        found = [name if name == "clock_backward" else f"{name}:{count}" for name, count in self._flags.items()]
        found += [f"corrupt_packets:{loss.count}"] if loss else []
        found += ["gap"] if self._gap else []
        row = self._row(place, sorted(found) + flags)
        self._filled = self._gap = 0
        self._flags = {}
        self._buffer = np.empty((0, 0), np.int16)  # the record owns the old one now
        self.emitted += 1
        yield as_draft("audio", row)
        if loss is not None:
            yield self.bad(loss, **place)

    def _row(self, place: dict[str, Any], flags: list[str]) -> dict[str, Any]:
        assert self._template is not None
        sample_format, layout, rate = self._template
        origin = self._origin or Fraction(0)
        start = origin + Fraction(self._piece_start, self._rate)
        end = start + Fraction(self._filled, self._rate)
        extra: dict[str, Any] = {"codec": self.codec, "stream": self.stream.index}
        extra |= {"layout": layout, "source_rate": rate}
        extra["track_start_us"] = round(origin * 1_000_000)  # on the container's clock, where frames' pts lie too
        if self._gap:
            extra["gap_samples"] = self._gap
        if self._left_out:
            extra["left_out"] = self._left_out
        if language := bcp47(self.stream.metadata.get("language")):
            extra["language"] = language
        clock = self._clock
        return {
            "locator": canonical_json({"stream": self.stream.index, **place}).decode(),
            "event_time": clock + round(start * 1_000_000) if clock is not None else None,
            "event_end": clock + round(end * 1_000_000) if clock is not None else None,
            "time_source": "container:creation_time" if clock is not None else None,
            "flags": flags,
            "transforms": self._transforms(sample_format, layout, rate),
            "extra": canonical_json(extra).decode(),
            "samples": self._buffer[: self._filled],
            "rate": self._rate,
            "start_sample": self._piece_start,
        }

    def _transforms(self, sample_format: str, layout: str, rate: int) -> list[str]:
        out = []
        if self.rule.mono and layout != self._layout:
            out.append(f"mix {layout}->mono swresample")
        if rate != self._rate:
            out.append(f"resample {rate}->{self._rate} swresample")
        if sample_format not in ("s16", "s16p"):
            out.append(f"{sample_format}->int16")
        return out
