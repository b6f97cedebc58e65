"""Sound with known samples: windows, rates, gaps and damage; real files against ffmpeg and Python's `wave`."""

from __future__ import annotations

import io
import json
import shutil
import struct
import subprocess
import wave
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from headrace.connectors.contract import BytesBlob, Item
from headrace.ingest.normalizers.audio import AudioNormalizer
from headrace.ingest.normalizers.contract import Bad, Limits
from headrace.ingest.normalizers.video import VideoNormalizer
from headrace.schemas.errors import RecordError
from headrace.schemas.record import modality_of

Samples = npt.NDArray[np.int16]

needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="the ffmpeg program is the oracle")


def noise(count: int, channels: int = 1, seed: int = 0) -> Samples:
    """Band-limited noise, loud enough to show a wrong sample and far from clipping."""
    rough = np.random.default_rng(seed).normal(0, 1, (count + 16, channels))
    smooth = np.apply_along_axis(np.convolve, 0, rough, np.ones(8) / 8, "same")[:count]
    return np.clip(smooth * 8000, -32768, 32767).astype(np.int16)


def wav(samples: Samples, rate: int = 16_000) -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())
    return out.getvalue()


def encoded(samples: Samples, codec: str, container: str, rate: int = 16_000, layout: str = "mono") -> bytes:
    import av

    out = io.BytesIO()
    with av.open(out, "w", format=container) as file:
        stream = file.add_stream(codec, rate=rate, layout=layout)
        for at in range(0, len(samples), 1000):
            part = np.ascontiguousarray(samples[at : at + 1000]).reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(part, format="s16", layout=layout)
            frame.rate, frame.pts, frame.time_base = rate, at, Fraction(1, rate)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return out.getvalue()


def read(
    data: bytes, *, limits: Limits | None = None, headers: dict[str, str] | None = None, **config: Any
) -> tuple[list[dict[str, Any]], list[Bad]]:
    normalizer = AudioNormalizer(AudioNormalizer.Config(**config), limits)
    made = list(normalizer.open(Item(BytesBlob("sound", data), None, headers=headers or {})))
    assert all(isinstance(m, Bad) or modality_of(m) == "audio" for m in made)
    return [m.to_pylist()[0] for m in made if not isinstance(m, Bad)], [m for m in made if isinstance(m, Bad)]


def samples_of(record: dict[str, Any]) -> Samples:
    assert record["dtype"] == "int16"
    return np.frombuffer(record["samples"], np.int16).reshape(record["shape"])


def joined(records: list[dict[str, Any]]) -> Samples:
    return np.concatenate([samples_of(r) for r in records])


NATIVE: dict[str, Any] = {"rate": "native", "channels": "native"}


@settings(max_examples=40, deadline=None)
@given(
    count=st.integers(1, 40_000),
    rate=st.sampled_from([8_000, 11_025, 44_100]),
    channels=st.sampled_from([1, 2, 3, 6]),
    window_s=st.sampled_from([10, 1, 0.25, 0.333]),
)
def test_windows_tile_the_track_and_change_no_sample(count: int, rate: int, channels: int, window_s: float) -> None:
    original = noise(count, channels)
    records, bads = read(wav(original, rate), window_s=window_s, **NATIVE)
    size = round(Fraction(str(window_s)) * rate)
    assert bads == [] and np.array_equal(joined(records), original)
    assert [r["start_sample"] for r in records] == list(range(0, count, size))
    assert [json.loads(r["locator"]) for r in records] == [{"stream": 0, "window": k} for k in range(len(records))]
    assert all(r["shape"][0] == size for r in records[:-1]) and {r["rate"] for r in records} == {rate}
    assert {f for r in records for f in r["flags"]} == set() and {t for r in records for t in r["transforms"]} == set()


def test_mixing_is_the_mean_and_resampling_keeps_the_duration() -> None:
    left = noise(44_100, seed=1)
    both = np.concatenate([left, noise(44_100, seed=2)], axis=1)
    mixed, _ = read(wav(both, 44_100), rate="native")
    mean = both.astype(np.int32).sum(axis=1, keepdims=True) / 2
    assert np.abs(joined(mixed) - mean).max() <= 1
    assert mixed[0]["transforms"] == ["mix 2 channels->mono swresample"]
    slow, _ = read(wav(left, 44_100))
    assert slow[0]["shape"] == [16_000, 1] and slow[0]["transforms"] == ["resample 44100->16000 swresample"]


def test_resampling_does_not_depend_on_how_packets_are_cut() -> None:
    """FLAC packets of 1,152 samples, WAV packets of 2,048: the same samples, the same record."""
    samples = noise(100_000)
    flac = encoded(samples, "flac", "flac", 44_100)
    assert [samples_of(r).tobytes() for r in read(wav(samples, 44_100), window_s=1)[0]] == [
        samples_of(r).tobytes() for r in read(flac, window_s=1)[0]
    ]


def test_a_resampled_tone_stays_a_tone() -> None:
    time = np.arange(44_100 * 2) / 44_100
    tone = (np.sin(2 * np.pi * 1000 * time) * 16_000).astype(np.int16).reshape(-1, 1)
    (record,), _ = read(wav(tone, 44_100))
    expected = np.sin(2 * np.pi * 1000 * np.arange(32_000) / 16_000) * 16_000
    inside = slice(200, -200)
    assert np.abs(samples_of(record)[:, 0] - expected)[inside].max() < 40


def test_24_bit_sound_becomes_16_bit_and_says_so() -> None:
    wide = np.arange(-400_000, 400_000, 100, dtype=np.int32)
    body = b"".join(struct.pack("<i", v)[:3] for v in wide)
    data = bytearray(wav(noise(1), 16_000)[:44]) + body
    struct.pack_into("<I", data, 4, len(data) - 8)
    struct.pack_into("<IHH", data, 28, 48_000, 3, 24)
    struct.pack_into("<I", data, 40, len(body))
    (record,), _ = read(bytes(data), **NATIVE)
    assert np.abs(samples_of(record)[:, 0] - wide / 256).max() <= 1 and record["transforms"] == ["s32->int16"]


@pytest.mark.parametrize("share", [0.2, 0.5, 0.97])
@pytest.mark.parametrize(
    ("codec", "container"),
    [
        ("pcm_s16le", "wav"),
        ("flac", "flac"),
        ("libmp3lame", "mp3"),
        ("libopus", "ogg"),
        ("aac", "adts"),
        ("ac3", "ac3"),
        ("flac", "matroska"),
    ],
)
def test_a_cut_file_never_looks_complete(codec: str, container: str, share: float) -> None:
    rate = 48_000
    data = encoded(noise(rate * 6), codec, container, rate)
    whole, bads = read(data, window_s=1)
    assert bads == [] and not any("truncated" in r["flags"] for r in whole)
    records, bads = read(data[: int(len(data) * share) + 1], window_s=1)
    assert "truncated" in records[-1]["flags"] and bads[-1].reason == "truncated"
    assert len(records) < len(whole) or records[-1]["shape"] != whole[-1]["shape"] or share > 0.9
    for ours, theirs in zip(records[:-1], whole):
        if not ours["flags"]:
            assert ours["samples"] == theirs["samples"]


def test_a_wav_that_was_never_closed_is_read_to_its_end() -> None:
    """A recorder that streams writes 0 or 2^32-1 for the length: nothing says that anything is missing."""
    for length in (0, 0xFFFFFFFF):
        data = bytearray(wav(noise(5000)))
        struct.pack_into("<I", data, 4, length)
        struct.pack_into("<I", data, 40, length)
        (record,), bads = read(bytes(data), **NATIVE)
        assert bads == [] and record["shape"] == [5000, 1] and "truncated" not in record["flags"]


def test_a_flipped_bit_in_flac_costs_a_frame_and_leaves_a_gap() -> None:
    samples = noise(100_000)
    data = bytearray(encoded(samples, "flac", "flac"))
    data[len(data) // 2] ^= 0x10
    records, bads = read(bytes(data), **NATIVE)
    assert bads[0].reason == "corrupt" and json.loads(bads[0].locator)["lost_packets"] == 1
    assert any(f.startswith("corrupt_packets") for r in records for f in r["flags"])
    assert [json.loads(r["locator"]).get("piece", 0) for r in records] == [0, 1]
    for record in records:  # what is left lies where it was
        start = record["start_sample"]
        assert np.array_equal(samples_of(record), samples[start : start + record["shape"][0]])
    gap = records[1]["start_sample"] - records[0]["shape"][0]
    assert "gap" in records[1]["flags"] and json.loads(records[1]["extra"])["gap_samples"] == gap == 1152
    assert not any("truncated" in r["flags"] for r in records) and len(bads) == 1


def test_a_jump_of_the_clock_is_a_gap_and_not_silence() -> None:
    import av

    out, rate = io.BytesIO(), 16_000
    samples = noise(rate * 2)
    with av.open(out, "w", format="matroska") as file:
        stream = file.add_stream("pcm_s16le", rate=rate, layout="mono")
        for at in range(0, len(samples), 1000):
            frame = av.AudioFrame.from_ndarray(samples[at : at + 1000].reshape(1, -1), format="s16", layout="mono")
            frame.rate, frame.time_base = rate, Fraction(1, rate)
            frame.pts = at + (3 * rate if at >= rate else 0)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    records, _ = read(out.getvalue(), window_s=10)
    assert [(r["start_sample"], r["shape"][0], "gap" in r["flags"]) for r in records] == [
        (0, rate, False),
        (4 * rate, rate, True),
    ]
    assert np.array_equal(joined(records), samples)
    short, _ = read(out.getvalue(), window_s=1.5)  # the second stretch begins inside a window and crosses a border
    places = [(r["start_sample"], r["shape"][0], json.loads(r["locator"])["window"]) for r in short]
    assert places == [(0, 16_000, 0), (64_000, 8_000, 2), (72_000, 8_000, 3)]


def test_a_window_that_would_not_fit_is_refused() -> None:
    data = bytearray(wav(noise(100)))
    struct.pack_into("<I", data, 24, 2_000_000_000)
    with pytest.raises(RecordError) as caught:
        read(bytes(data), **NATIVE)
    assert caught.value.reason == "too_large"
    with pytest.raises(RecordError, match="too_large"):
        read(wav(noise(100)), limits=Limits(max_bytes=319_999))


def test_of_a_divided_file_the_first_part_gives_all_sound() -> None:
    data = wav(noise(16_000))
    assert len(read(data, headers={"part": "1/3"})[0]) == 1
    assert read(data, headers={"part": "2/3"}) == ([], [])


def test_tracks_are_chosen_by_number_or_all() -> None:
    import av

    out = io.BytesIO()
    with av.open(out, "w", format="matroska") as file:
        streams = [file.add_stream("pcm_s16le", rate=rate, layout="mono") for rate in (8_000, 16_000)]
        for stream, rate in zip(streams, (8_000, 16_000)):
            frame = av.AudioFrame.from_ndarray(noise(1000).reshape(1, -1), format="s16", layout="mono")
            frame.rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
            file.mux(stream.encode(frame))
    data = out.getvalue()
    assert [r["rate"] for r in read(data, **NATIVE)[0]] == [16_000]
    assert [r["rate"] for r in read(data, track=0, **NATIVE)[0]] == [8_000]
    assert sorted(r["rate"] for r in read(data, track="all", **NATIVE)[0]) == [8_000, 16_000]


@pytest.mark.parametrize("config", [{"rate": 0}, {"rate": "fast"}, {"channels": "5.1"}, {"window_s": 0}, {"hz": 1}])
def test_wrong_settings_name_the_field(config: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(config))):
        AudioNormalizer.Config(**config)


LOSSLESS = [
    "audio/encodec/test_24k.wav",
    "audio/energon/test_audio.flac",
    "audio/exoplayer/flac/bear_uncommon_sample_rate.flac",
    "audio/exoplayer/flac/bear_with_id3.flac",
    "audio/exoplayer/mka/bear-flac-16bit.mka",
    "audio/exoplayer/mka/bear-flac-24bit.mka",
    "audio/exoplayer/ogg/bear_flac.ogg",
    "audio/exoplayer/wav/sample_rf64.wav",
    "audio/exoplayer/wav/sample_with_trailing_bytes.wav",
    "audio/hf/test_audio_44100.wav",
    "video/exoplayer/mp4/sample_dthd.mp4",
]
#: Float decoders: an older ffmpeg may round the other way.
LOSSY = [
    "audio/exoplayer/amr/sample_wb.amr",
    "audio/exoplayer/mp3/bear-vbr-xing-header.mp3",
    "audio/exoplayer/mp3/test.mp3",
    "audio/hf/test_audio_44100.mp3",
    "audio/exoplayer/mka/bear-opus-negative-gain.mka",
    "audio/exoplayer/ogg/bear_duplicate_header.opus",
    "audio/exoplayer/ogg/bear_vorbis_gap.ogg",
    "audio/exoplayer/ts/sample.adts",
    "audio/exoplayer/ts/sample.eac3",
    "video/exoplayer/ts/bbb_2500ms.ts",
    "video/exoplayer/mp4/sample.mp4",
    "video/exoplayer/mp4/sample_ac3.mp4",
]


@needs_ffmpeg
@pytest.mark.data
@pytest.mark.parametrize("path", LOSSLESS + LOSSY)
def test_native_samples_equal_ffmpegs(corpus: Path, path: str) -> None:
    records, _ = read((corpus / path).read_bytes(), **NATIVE)
    command = ["ffmpeg", "-v", "error", "-i", str(corpus / path), "-map", "0:a:0", "-f", "s16le", "-"]
    theirs = np.frombuffer(subprocess.run(command, capture_output=True, check=True).stdout, np.int16)
    ours = joined(records).reshape(-1)
    assert len(ours) == len(theirs)
    assert np.abs(ours.astype(np.int32) - theirs).max() <= (0 if path in LOSSLESS else 2)


@needs_ffmpeg
@pytest.mark.data
@pytest.mark.parametrize("path", ["audio/hf/test_audio_44100.wav", "audio/exoplayer/mp3/test.mp3"])
def test_default_samples_are_ffmpegs_mono_at_16_khz(corpus: Path, path: str) -> None:
    records, _ = read((corpus / path).read_bytes())
    command = ["ffmpeg", "-v", "error", "-i", str(corpus / path), "-ac", "1", "-ar", "16000", "-f", "s16le", "-"]
    theirs = np.frombuffer(subprocess.run(command, capture_output=True, check=True).stdout, np.int16)
    ours = joined(records)[:, 0]
    assert abs(len(ours) - len(theirs)) <= 1
    both = min(len(ours), len(theirs))
    assert np.abs(ours[:both].astype(np.int32) - theirs[:both]).max() <= 2


@pytest.mark.data
def test_wav_samples_equal_pythons_own_reading(corpus: Path) -> None:
    for path in (corpus / "audio/lhotse").rglob("*.wav"):
        with wave.open(str(path)) as file:
            theirs = np.frombuffer(file.readframes(file.getnframes()), np.int16)
        assert np.array_equal(joined(read(path.read_bytes(), **NATIVE)[0]).reshape(-1), theirs)


@pytest.mark.data
def test_a_cover_picture_is_not_a_video(corpus: Path) -> None:
    data = (corpus / "audio/exoplayer/flac/bear_with_id3.flac").read_bytes()
    (record,), _ = read(data)
    assert json.loads(record["extra"])["left_out"] == ["1:video:mjpeg:452x452"]
    made = list(VideoNormalizer(VideoNormalizer.Config()).open(Item(BytesBlob("bear.flac", data), None)))
    assert [modality_of(m) for m in made if not isinstance(m, Bad)] == ["audio"] and len(made) == 1
