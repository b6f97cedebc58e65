"""Films of the harbour's cameras: one at a constant rate, one whose rate varies with what happens, one of the day."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from day.camera import Camera
from day.clock import iso
from day.noise import Array
from day.picture import Studio, View
from day.ships import clock
from day.sound import Horn, record

SIZE = (432, 240)
RATE = 44_100
MORNING, EVENING = clock("06:02:06"), clock("17:51:16")

LIGHTHOUSE = Camera(50, -480, 19, 66, 58, *SIZE, 0.5, mirror=30)
QUAY = Camera(-64, 84, 14, 207, 66, *SIZE, 0.5, mirror=45)
BASIN = Camera(150, -60, 9, 352, 58, *SIZE, 0.6, mirror=6)

MORNING_HORN = Horn(MORNING + 9.0, 2.4)

#: (from, to, text) in seconds of the film.
MORNING_CAPTIONS = [
    (0.4, 4.2, "06:02 UTC, camera of the lighthouse, Tuulisalmi."),
    (4.8, 8.6, "The ferry Aava rounds the breakwater with 46 passengers."),
    (9.0, 11.6, "[one long blast of the horn]"),
    (12.0, 13.9, "Wind south-west 2 m/s, water 64 cm above datum."),
    (14.0, 15.9, "[gulls]\nShe will be at the east pier in two minutes."),
]
EVENING_CAPTIONS = [
    (0.5, 5.0, "17:51 UTC, camera of the west quay. Kaleva Trader casts off."),
    (6.0, 12.0, "The tug Jehu lets go the line."),
    (13.0, 19.5, "[engines]\nNext port: Travemünde."),
    (20.0, 23.6, "The light is lit at 19:50."),
]


def srt(captions: list[tuple[float, float, str]]) -> str:
    """The captions as a SubRip file."""

    def stamp(seconds: float) -> str:
        ms = round(seconds * 1000)
        return f"{ms // 3_600_000:02d}:{ms // 60_000 % 60:02d}:{ms // 1000 % 60:02d},{ms % 1000:03d}"

    return "\n".join(f"{i}\n{stamp(a)} --> {stamp(b)}\n{text}\n" for i, (a, b, text) in enumerate(captions, 1))


def _h264() -> str:
    """The H.264 encoder of this build of PyAV."""
    for name in ("libx264", "libopenh264"):
        try:
            av.codec.Codec(name, "w")
        except av.error.FFmpegError:
            continue
        return name
    return "mpeg4"


def write(
    path: Path, frames: Iterator[tuple[float, Array]], started: float, sound: Array | None, *, rate: int = 1000
) -> None:
    """An MP4 of (seconds, RGB) frames, each shown from its own second on. `rate` is ticks a second of the time base."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options={"movflags": "+faststart"}) as out:
        out.metadata["creation_time"] = iso(started).replace("Z", ".000000Z")
        out.metadata["title"] = path.stem
        encoder = _h264()
        options = {"preset": "veryfast", "crf": "24"} if encoder == "libx264" else {}
        stream = out.add_stream(encoder, rate=min(rate, 25), options=options)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, rate)
        stream.codec_context.thread_count = 1  # one thread: the same bytes on every machine
        if not options:
            stream.bit_rate = 480_000
        voice = None
        if sound is not None:
            voice = out.add_stream("aac", rate=RATE, layout="mono")
            voice.bit_rate = 72_000
        for seconds, pixels in frames:
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = round(seconds * rate), Fraction(1, rate)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
        if voice is not None and sound is not None:
            for start in range(0, len(sound), 1024):
                part = sound[start : start + 1024][None]
                block = av.AudioFrame.from_ndarray(np.ascontiguousarray(part), format="fltp", layout="mono")
                block.sample_rate, block.pts, block.time_base = RATE, start, Fraction(1, RATE)
                out.mux(voice.encode(block))
            out.mux(voice.encode(None))


def _film(view: View, started: float, times: list[float]) -> Iterator[tuple[float, Array]]:
    for seconds in times:
        yield seconds, np.asarray(view.image(started + seconds))


def morning(folder: Path, studio: Studio, seconds: float = 16.0) -> None:
    """The ferry comes in past the breakwater: 6 frames a second, with sound and captions."""
    view = View(studio, LIGHTHOUSE, MORNING, seconds=seconds, scale=1.25)
    sound = record(
        studio.place.seed,
        "morning",
        MORNING,
        seconds,
        RATE,
        (LIGHTHOUSE.x, LIGHTHOUSE.y),
        studio.ships,
        [MORNING_HORN],
        gulls=9,
    )
    write(
        folder / "lighthouse_morning.mp4",
        _film(view, MORNING, [k / 6 for k in range(round(seconds * 6))]),
        MORNING,
        sound,
        rate=6,
    )
    (folder / "lighthouse_morning.srt").write_text(srt(MORNING_CAPTIONS), encoding="utf-8")


def evening(folder: Path, studio: Studio, seconds: float = 24.0) -> None:
    """The freighter leaves: a camera that takes two frames a second until something moves near it, then up to five."""
    times, t = [], 0.0
    while t < seconds:
        times.append(round(t, 3))
        near = min(
            (
                np.hypot(s.x - QUAY.x, s.y - QUAY.y)
                for s in (ship.at(EVENING + t) for ship in studio.ships)
                if s is not None and s.speed > 0.5
            ),
            default=1e9,
        )
        t += 0.5 if near > 136 else 0.25 if near > 126 else 0.2
    view = View(studio, QUAY, EVENING, seconds=seconds, scale=1.25)
    sound = record(studio.place.seed, "evening", EVENING, seconds, RATE, (QUAY.x, QUAY.y), studio.ships, [], gulls=5)
    write(folder / "quay_evening.mp4", _film(view, EVENING, times), EVENING, sound)
    (folder / "quay_evening.srt").write_text(srt(EVENING_CAPTIONS), encoding="utf-8")


def whole_day(folder: Path, studio: Studio, frames: int = 72) -> None:
    """From before sunrise to after sunset in twelve seconds, silent; the frames follow the light, not the clock."""
    first, last = clock("00:36"), clock("21:12")
    # More frames where the light changes fast, fewer at noon.
    share = np.linspace(0, 1, frames)
    times = first + (last - first) * (share + 0.11 * np.sin(2 * np.pi * share))
    view = View(studio, BASIN, first, scale=1.0)

    def film() -> Iterator[tuple[float, Array]]:
        for k, t in enumerate(times):
            yield k / 6, np.asarray(view.image(float(t)))

    write(folder / "basin_day.mp4", film(), first, None, rate=6)
