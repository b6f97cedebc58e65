"""Sound files to windows of tokens, against a bare loop of PyAV.

    python benchmarks/audio.py [--quick] [--scaling] [--json] [WORK …]

Four files each: FLAC and WAV of 48 kHz stereo, MP3 of 44.1 kHz stereo, to 16 kHz mono and mu-law tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from media_race import Work, arguments, main

from headrace.schemas.record import RecordBuilder

RATE = 16_000
WINDOW = 10 * RATE
FILES = 4
CODECS = {"flac": ("flac", 48_000, "s16"), "wav": ("pcm_s16le", 48_000, "s16"), "mp3": ("libmp3lame", 44_100, "s16p")}


def make_sound(kind: str, folder: Path, seconds: int) -> float:
    """Tones and noise in four files of `seconds` each; in minutes of sound."""
    import av

    codec, rate, layout = CODECS[kind]
    for number in range(FILES):
        rng = np.random.default_rng(3 + number)
        with av.open(str(folder / f"{number}.{kind}"), "w", format=kind) as out:
            stream: Any = out.add_stream(codec, rate=rate, layout="stereo", format=layout)
            t = np.arange(rate) / rate
            for _ in range(seconds):
                tone = np.sin(t * 2 * np.pi * rng.uniform(100, 2000)) * 9000 + rng.normal(0, 300, rate)
                both = np.stack([tone, tone * 0.5 + rng.normal(0, 100, rate)]).astype(np.int16)
                pixels = both if layout == "s16p" else both.T.reshape(1, -1)
                frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(pixels), format=layout, layout="stereo")
                frame.rate = rate
                for packet in stream.encode(frame):
                    out.mux(packet)
            for packet in stream.encode(None):
                out.mux(packet)
    return FILES * seconds / 60


def bare(files: Sequence[Path], tokenizer: Any, threads: int) -> int:
    """Decode, mix and resample, tokens of ten seconds at a time."""
    import av

    kept = []
    for path in files:
        parts = []
        with av.open(str(path), format=path.suffix[1:]) as container:
            resampler = av.AudioResampler("s16", "mono", RATE)
            for frame in container.decode(audio=0):
                parts += [f.to_ndarray()[0] for f in resampler.resample(frame)]
            parts += [f.to_ndarray()[0] for f in resampler.resample(None)]
        mono = np.concatenate(parts)
        for at in range(0, len(mono), WINDOW):
            builder = RecordBuilder("audio")
            builder.add(locator="", samples=mono[at : at + WINDOW, None], rate=RATE)
            kept.append(tokenizer.encode(builder.finish()).values)
    return sum(map(len, kept))


SIZES = (60, 240)
WORKS = [Work(kind, "audio", "minutes", partial(make_sound, kind), SIZES, {}, bare) for kind in CODECS]

if __name__ == "__main__":
    main(arguments(__doc__, [work.name for work in WORKS]).parse_args(), WORKS)
