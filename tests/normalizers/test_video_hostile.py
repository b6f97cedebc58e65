"""Bytes that mean harm: a media file gives records, Bads or a RecordError, and never asks for more than is allowed."""

from __future__ import annotations

import functools
import io
import struct
import zlib
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.connectors.contract import BytesBlob, Item
from headrace.ingest.normalizers.audio import AudioNormalizer
from headrace.ingest.normalizers.contract import Bad
from headrace.ingest.normalizers.media import DEMUXERS
from headrace.ingest.normalizers.media_facts import read_facts
from headrace.ingest.normalizers.video import VideoNormalizer
from headrace.schemas.errors import REASONS, RecordError

MOVIES = {
    "mp4": "mpeg4",
    "matroska": "ffv1",
    "mpegts": "mpeg2video",
    "avi": "mpeg4",
    "flv": "flv1",
    "mxf": "mpeg2video",
    "mov": "png",
}
SOUNDS = {"wav": "pcm_s16le", "flac": "flac", "mp3": "libmp3lame", "ogg": "libopus", "adts": "aac", "ac3": "ac3"}


#: What the sniffer calls them.
FORMATS = {"adts": "aac", "mov": "mp4"}


@functools.cache
def movie(container: str) -> bytes:
    import av

    out, rng = io.BytesIO(), np.random.default_rng(1)
    with av.open(out, "w", format=container) as file:
        stream = file.add_stream(MOVIES[container], rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "rgb24" if container == "mov" else "yuv420p"
        for i in range(30):
            frame = av.VideoFrame.from_ndarray(rng.integers(0, 256, (48, 64, 3), np.uint8), "rgb24")
            frame.pts, frame.time_base = i, Fraction(1, 25)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return out.getvalue()


@functools.cache
def sound(container: str) -> bytes:
    import av

    out, rng = io.BytesIO(), np.random.default_rng(1)
    with av.open(out, "w", format=container) as file:
        stream = file.add_stream(SOUNDS[container], rate=48_000, layout="mono")
        for at in range(0, 48_000, 960):
            samples = rng.integers(-9000, 9000, (1, 960), np.int16)
            frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
            frame.rate, frame.pts, frame.time_base = 48_000, at, Fraction(1, 48_000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return out.getvalue()


def outcome(kind: Any, data: bytes, format: str) -> list[str]:
    """The reasons given; anything but records, Bads and RecordError escapes and fails the test."""
    reasons = []
    try:
        for made in kind(kind.Config()).open(Item(BytesBlob("clip", data), None, headers={"format": format})):
            if isinstance(made, Bad):
                reasons.append(made.reason)
    except RecordError as exc:
        reasons.append(exc.reason)
    assert all(reason.split(":")[0] in REASONS and reason != "internal" for reason in reasons)
    return reasons


@st.composite
def damage(draw: st.DrawFn) -> tuple[list[tuple[float, int]], float]:
    """(places and bytes to overwrite, share of the file to keep)."""
    spots = draw(st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), max_size=12))
    return spots, draw(st.one_of(st.just(1.0), st.floats(0.01, 1)))


def hurt(data: bytes, how: tuple[list[tuple[float, int]], float]) -> bytes:
    spots, keep = how
    broken = bytearray(data[: max(1, int(len(data) * keep))])
    for place, value in spots:
        broken[int(place * len(broken))] = value
    return bytes(broken)


@settings(max_examples=15, deadline=None)
@given(damage())
@pytest.mark.parametrize("container", MOVIES)
def test_a_damaged_movie_ends_in_records_or_reasons(container: str, how: Any) -> None:
    outcome(VideoNormalizer, hurt(movie(container), how), FORMATS.get(container, container))


@settings(max_examples=15, deadline=None)
@given(damage())
@pytest.mark.parametrize("container", SOUNDS)
def test_damaged_sound_ends_in_records_or_reasons(container: str, how: Any) -> None:
    outcome(AudioNormalizer, hurt(sound(container), how), FORMATS.get(container, container))


@settings(max_examples=40, deadline=None)
@given(damage(), st.sampled_from(sorted(DEMUXERS)))
def test_the_wrong_format_for_a_file_is_no_accident(how: Any, format: str) -> None:
    outcome(VideoNormalizer, hurt(movie("mp4"), how), format)


HEADS = [
    b"",
    b"RIFF\xff\xff\xff\xffWAVEdata",
    b"RIFF\4\0\0\0AVI ",
    b"OggS\0\4",
    b"FLV\1\5\0\0\0\x09\0\0\0\0",
    b"\x1a\x45\xdf\xa3\x80",
]
HEADS += [
    b"\0\0\0\x08ftyp\0\0\0\x01moov\0\0\0\0\0\0\0\x10",
    b"G" * 600,
    b"#!AMR\n",
    b"ID3\4\0\0\x7f\x7f\x7f\x7f",
    b"\xff\xfb\x90\x64" * 40,
]


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300), st.sampled_from(HEADS), st.sampled_from(sorted(DEMUXERS)))
def test_reading_what_a_file_says_of_itself_never_fails(data: bytes, head: bytes, format: str) -> None:
    whole = head + data
    facts = read_facts(io.BytesIO(whole), len(whole), format)
    assert facts.cut is None or facts.declared_bytes is None or facts.declared_bytes > len(whole)


@pytest.mark.parametrize("container", [*MOVIES, *SOUNDS])
def test_a_whole_file_says_nothing_of_being_cut(container: str) -> None:
    data = movie(container) if container in MOVIES else sound(container)
    facts = read_facts(io.BytesIO(data), len(data), FORMATS.get(container, container))
    assert facts.cut is None


def test_frames_of_4_gigapixels_are_refused_before_they_are_decoded() -> None:
    data = bytearray(movie("mov"))
    at = data.index(b"png ") + 4 + 24  # reserved, data reference, pre-defined …, then u16 width and height
    assert struct.unpack_from(">HH", data, at) == (64, 48)
    struct.pack_into(">HH", data, at, 65_000, 65_000)
    at = data.find(b"IHDR")
    while at >= 0:
        struct.pack_into(">II", data, at + 4, 65_000, 65_000)
        struct.pack_into(">I", data, at + 17, zlib.crc32(data[at : at + 17]))
        at = data.find(b"IHDR", at + 1)
    assert outcome(VideoNormalizer, bytes(data), "mp4") == ["too_large"]


@pytest.mark.parametrize("seconds", [2**31 - 1, 2**32 - 1])
def test_absurd_durations_and_dates_stay_harmless(seconds: int) -> None:
    data = bytearray(movie("mp4"))
    for name in (b"mvhd", b"mdhd"):
        at = data.index(name) + 8
        struct.pack_into(">II", data, at, seconds, seconds)  # creation and modification time
        struct.pack_into(">I", data, at + 12, 2**31 - 1)  # duration
    outcome(VideoNormalizer, bytes(data), "mp4")
