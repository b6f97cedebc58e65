"""Decoded frames → int16 samples at one rate and layout, by libav's own resampler.

Frames are gathered to `BATCH_SAMPLES` before they are converted: the result does not depend on how a stream is cut up
(the resampler is a filter over all of it), and a call for every 20 ms of sound would cost more than the sound.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from headrace.schemas.errors import RecordError

BATCH_SAMPLES = 1 << 15

Samples = npt.NDArray[np.int16]  #: (samples, channels)


@dataclass(frozen=True)
class SoundFormat:
    """What comes out of a decoder."""

    sample_format: str  #: libav's name: "s16", "fltp"
    layout: str  #: "mono", "5.1(side)", or "6 channels" where the file does not say which
    channels: int
    rate: int


class Converter:
    """One contiguous stretch of sound in one format."""

    def __init__(self, source: SoundFormat, *, rate: int, mono: bool) -> None:
        import av
        from av.audio.fifo import AudioFifo

        self._source = source
        self._rate = rate
        self.channels = 1 if mono else source.channels
        self._fifo = AudioFifo()
        self._resampler: Any = None
        mix = mono and source.channels > 1
        if mix or source.sample_format != "s16" or rate != source.rate:
            layout = "mono" if self.channels == 1 else None  # None: as it is
            self._resampler = av.AudioResampler(format="s16", layout=layout, rate=rate)

    def add(self, frame: Any) -> list[Samples]:
        """What comes out now. The frame's pts is taken off it. Raises: RecordError."""
        frame.pts = None
        self._fifo.write(frame)
        return self._convert(self._fifo.read(0, partial=True)) if self._fifo.samples >= BATCH_SAMPLES else []

    def drain(self) -> list[Samples]:
        """All that is left; the converter is used up. Raises: RecordError."""
        left = self._fifo.read(0, partial=True) if self._fifo.samples else None
        out = self._convert(left) if left is not None else []
        return out + self._convert(None) if self._resampler is not None else out

    def _convert(self, frame: Any | None) -> list[Samples]:
        import av

        try:
            frames = self._resampler.resample(frame) if self._resampler is not None else [frame]
        except (av.error.FFmpegError, ValueError) as exc:
            source = self._source
            raise RecordError(
                f"unsupported:{source.layout}",
                f"{source.layout} at {source.rate} Hz cannot become {self.channels} channels at {self._rate} Hz "
                f"({exc}); set channels: native, rate: native",
            ) from exc
        out = []
        for made in frames:
            if made is not None and made.samples:
                flat = np.frombuffer(memoryview(made.planes[0]), np.int16, count=made.samples * self.channels)
                out.append(flat.reshape(made.samples, self.channels))
        return out

    def transforms(self) -> list[str]:
        """What is done to the samples, in order."""
        source, out = self._source, []
        if self.channels != source.channels:
            out.append(f"mix {source.layout}->mono swresample")
        if self._rate != source.rate:
            out.append(f"resample {source.rate}->{self._rate} swresample")
        if source.sample_format not in ("s16", "s16p"):
            out.append(f"{source.sample_format}->int16")
        return out
