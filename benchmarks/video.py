"""H.264 video to two frames a second, against a bare loop of PyAV on the same cores.

    python benchmarks/video.py [--quick] [--scaling] [--json] [WORK …]

    one     one file of 1080p: the bare loop gives its decoder two frame threads, a build decodes on one (frame threads
            decide what damaged streams look like)
    four    four such files: the bare loop has a process for each core
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from media_race import Work, arguments, main

from headrace.schemas.record import RecordBuilder

RATE = 25
FRAMES_A_WINDOW = 16


def write_clip(path: Path, seconds: int, width: int = 1920, height: int = 1080, seed: int = 3) -> None:
    """A camera that pans over a textured plane, with grain: H.264, 25 frames a second."""
    import av
    from PIL import Image

    rng = np.random.default_rng(seed)
    plane = np.zeros((height + 400, width + 600, 3), np.float32)
    for k in range(2, 10):
        noise = Image.fromarray(rng.integers(0, 255, (2**k, 2**k, 3), np.uint8))
        plane += np.asarray(noise.resize(plane.shape[1::-1], Image.Resampling.BICUBIC), np.float32) / 2.0 ** (k - 1)
    texture = (plane / plane.max() * 200).astype(np.uint8)
    grain = [rng.integers(0, 9, (height, width, 3), np.uint8) for _ in range(5)]
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream("libx264", rate=RATE, options={"preset": "veryfast", "crf": "23"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for i in range(RATE * seconds):
            y, x = i * 2 % 380, i * 3 % 580
            picture = texture[y : y + height, x : x + width] + grain[i % 5]
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "rgb24")
            for packet in stream.encode(frame):
                out.mux(packet)
        for packet in stream.encode(None):
            out.mux(packet)


def make_clips(count: int, folder: Path, seconds: int) -> float:
    """`count` clips; in frames."""
    for number in range(count):
        write_clip(folder / f"{number}.mp4", seconds, seed=3 + number)
    return float(count * RATE * seconds)


def bare(files: Sequence[Path], tokenizer: Any, threads: int) -> int:
    """Linear decode, the frames that are due scaled to 256 x 144, tokens of 16 frames at a time."""
    import av

    kept = []
    for path in files:
        with av.open(str(path), format="mp4") as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = threads
            stream.codec_context.thread_type = "AUTO" if threads > 1 else "NONE"
            base: Any = stream.time_base
            due, window, pts = Fraction(0), [], []
            for frame in container.decode(stream):
                if frame.pts * base < due:
                    continue
                due += Fraction(1, 2)
                window.append(frame.reformat(256, 144, "rgb24", threads=1).to_ndarray())
                pts.append(frame.pts)
                if len(window) == FRAMES_A_WINDOW:
                    kept.append(_tokens(window, pts, base, tokenizer))
                    window, pts = [], []
            if window:
                kept.append(_tokens(window, pts, base, tokenizer))
    return sum(kept)


def _tokens(window: list[Any], pts: list[int], base: Fraction, tokenizer: Any) -> int:
    builder = RecordBuilder("video")
    builder.add(
        locator="", pixels=np.stack(window), pts=pts, time_base_num=base.numerator, time_base_den=base.denominator
    )
    return len(tokenizer.encode(builder.finish()).values)


WORKS = [
    Work("one", "video", "frames", partial(make_clips, 1), (5, 20), {}, bare),
    Work("four", "video", "frames", partial(make_clips, 4), (2, 8), {}, bare),
]

if __name__ == "__main__":
    main(arguments(__doc__, [work.name for work in WORKS]).parse_args(), WORKS)
