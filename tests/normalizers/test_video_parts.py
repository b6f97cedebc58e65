"""A divided video: all parts together give what the whole file gives, frame for frame and byte for byte."""

from __future__ import annotations

import functools
import io
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from headrace.connectors.contract import BytesBlob, Item
from headrace.ingest.normalizers.contract import Bad
from headrace.ingest.normalizers.video import VideoNormalizer
from headrace.ingest.normalizers.video_track import VideoTrack
from headrace.schemas.errors import RecordError
from headrace.schemas.record import modality_of

#: codec, container, options: closed and open groups, gradual refresh, one key frame only, no index.
FILES = {
    "h264": ("libx264", "mp4", {"g": "50", "bf": "3", "x264-params": "scenecut=0"}),
    "h264 open groups": ("libx264", "mp4", {"g": "50", "bf": "3", "x264-params": "open-gop=1:scenecut=0"}),
    "h264 gradual refresh": ("libx264", "mp4", {"x264-params": "intra-refresh=1:keyint=40"}),
    "h264 one key frame": ("libx264", "mp4", {"g": "9999"}),
    "h264 fragmented": ("libx264", "mp4", {"g": "25", "movflags": "frag_keyframe+empty_moov"}),
    "hevc open groups": ("libx265", "mp4", {"x265-params": "keyint=48:open-gop=1:log-level=none"}),
    "h264 in matroska": ("libx264", "matroska", {"g": "60", "bf": "2"}),
    "vp9": ("libvpx-vp9", "webm", {"g": "40", "deadline": "realtime", "cpu-used": "8"}),
    "mpeg4 in avi": ("mpeg4", "avi", {"g": "30"}),
    "h264 in ts": ("libx264", "mpegts", {"g": "50", "bf": "3"}),
}
SECONDS, RATE = 10, 25


@functools.cache
def movie(name: str, *, sound: bool = False) -> bytes:
    import av

    codec, container, options = FILES[name]
    rng = np.random.default_rng(5)
    scene = rng.integers(0, 256, (96, 160, 3), np.uint8)
    out = io.BytesIO()
    muxer = {key: options[key] for key in options if key == "movflags"}
    with av.open(out, "w", format=container, container_options=muxer) as file:
        stream = file.add_stream(codec, rate=RATE)
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        stream.options = {key: value for key, value in options.items() if key not in muxer}
        voice = file.add_stream("aac", rate=16_000, layout="mono") if sound else None
        for i in range(SECONDS * RATE):
            frame = av.VideoFrame.from_ndarray(np.roll(scene, 3 * i, axis=1) >> (i % 2), "rgb24")
            frame.pts, frame.time_base = i, Fraction(1, RATE)
            file.mux(stream.encode(frame))
            if voice is not None:
                samples = rng.integers(-9000, 9000, (1, 16_000 // RATE), np.int16)
                noise = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
                noise.rate, noise.pts, noise.time_base = 16_000, i * 16_000 // RATE, Fraction(1, 16_000)
                file.mux(voice.encode(noise))
        for each in [stream, *([voice] if voice is not None else [])]:
            file.mux(each.encode(None))
    return out.getvalue()


def read(data: bytes, part: str | None = None, **config: Any) -> list[tuple[str, dict[str, Any]]]:
    normalizer = VideoNormalizer(VideoNormalizer.Config(**config))
    made = normalizer.open(Item(BytesBlob("clip", data), None, headers={"part": part} if part else {}))
    records = []
    for each in made:
        assert not isinstance(each, Bad), each
        records.append((modality_of(each), each.to_pylist()[0]))
    return records


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("config", [{"segment_s": 1.5, "fps": 0.7}, {"segment_s": 1, "fps": "native"}])
def test_all_parts_together_are_the_whole(name: str, config: dict[str, Any]) -> None:
    whole = read(movie(name), max_side=48, **config)
    assert len(whole) >= SECONDS // 2 - 1
    for count in (3,) if name != "h264" else (2, 5):
        parts = [read(movie(name), f"{i + 1}/{count}", max_side=48, **config) for i in range(count)]
        assert [record for part in parts for record in part] == whole
        assert all(parts), "each part of an even file has something to do"


def test_sound_comes_whole_and_once_with_the_first_part() -> None:
    data = movie("h264", sound=True)
    whole = read(data, segment_s=2)
    parts = [read(data, f"{i + 1}/3", segment_s=2) for i in range(3)]
    for modality, number in (("video", 5), ("audio", 2)):
        expected = [record for kind, record in whole if kind == modality]
        assert [record for part in parts for kind, record in part if kind == modality] == expected
        assert len(expected) == number
    assert {kind for part in parts[1:] for kind, _ in part} == {"video"}


def test_more_parts_than_windows_lose_nothing_and_repeat_nothing() -> None:
    whole = read(movie("h264"), segment_s=8)
    parts = [read(movie("h264"), f"{i + 1}/7", segment_s=8) for i in range(7)]
    assert [record for part in parts for record in part] == whole and len(whole) == 2


@pytest.mark.parametrize(("name", "seeks"), [("h264", True), ("h264 in matroska", True), ("h264 in ts", False)])
def test_a_late_part_decodes_only_what_it_needs(name: str, seeks: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = []
    plain = VideoTrack.decode

    def counted(self: VideoTrack, packet: Any) -> list[Any]:
        decoded.append(packet)
        return plain(self, packet)

    monkeypatch.setattr(VideoTrack, "decode", counted)
    read(movie(name), "5/5", segment_s=2)
    assert (len(decoded) < SECONDS * RATE * 2 // 3) == seeks


@pytest.mark.parametrize("part", ["0/2", "3/2", "2", "a/b", "1/0", "-1/2"])
def test_a_part_that_is_none_is_refused(part: str) -> None:
    with pytest.raises(RecordError, match="i/n"):
        read(movie("h264"), part)
