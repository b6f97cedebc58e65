"""Recordings without pictures: a horn in the mist, gulls at breakfast, the ferry's engines, rain on the quay."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from day.noise import Array
from day.ships import Ship, clock
from day.sound import Horn, record

RATE = 22_050


def _write(path: Path, samples: Array, codec: str, *, bitrate: int = 0) -> None:
    """One mono track: PCM or FLAC of 16 bits, or a lossy codec of `bitrate`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lossy = bool(bitrate)
    # Without these Ogg would number its streams at random.
    with av.open(
        str(path), "w", options={"fflags": "+bitexact", **({"serial_offset": "7"} if codec == "libopus" else {})}
    ) as out:
        stream = out.add_stream(codec, rate=48_000 if codec == "libopus" else RATE, layout="mono")
        if lossy:
            stream.bit_rate = bitrate
        kind = "fltp" if codec in ("aac", "libmp3lame") else "flt" if codec == "libopus" else "s16"
        values = samples if kind != "s16" else np.round(samples * 32767).astype(np.int16)
        resampler = av.AudioResampler(
            format=stream.format.name,
            layout="mono",
            rate=stream.rate,
            frame_size=stream.codec_context.frame_size or None,
        )
        step = stream.codec_context.frame_size or 4096
        for start in range(0, len(values), step):
            block = av.AudioFrame.from_ndarray(
                np.ascontiguousarray(values[start : start + step][None]), format=kind, layout="mono"
            )
            block.sample_rate, block.pts, block.time_base = RATE, start, Fraction(1, RATE)
            for ready in resampler.resample(block):
                out.mux(stream.encode(ready))
        for ready in resampler.resample(None):
            out.mux(stream.encode(ready))
        out.mux(stream.encode(None))


def write_all(folder: Path, seed: int, ships: list[Ship]) -> None:
    """Four recordings, named by their hour."""
    horn = [Horn(clock("02:20:02") + k * 7.0, 2.0, (118.0, 149.0, 177.0), 0.26) for k in range(3)]
    _write(
        folder / "0220_foghorn.wav",
        record(seed, "fog", clock("02:20"), 18, RATE, (48, -500), ships, horn, gulls=1),
        "pcm_s16le",
    )
    _write(
        folder / "0600_ferry_engines.flac",
        record(seed, "ferry", clock("06:03:05"), 16, RATE, (60, 40), ships, [], gulls=3),
        "flac",
    )
    _write(
        folder / "0715_gulls.mp3",
        record(seed, "gulls", clock("07:15"), 20, RATE, (430, 300), ships, [], gulls=22),
        "libmp3lame",
        bitrate=64_000,
    )
    _write(
        folder / "1753_freighter.opus",
        record(seed, "freighter", clock("17:52:20"), 20, RATE, (40, -80), ships, [], gulls=4),
        "libopus",
        bitrate=40_000,
    )
