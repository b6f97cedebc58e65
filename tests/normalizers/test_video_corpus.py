"""Every real audio and video file arrives or says why not; frames and pts agree with an older, separate ffmpeg."""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headrace.connectors.contract import Item, PathBlob
from headrace.connectors.sniff import sniff_stream
from headrace.ingest.normalizers.audio import AudioNormalizer
from headrace.ingest.normalizers.contract import Bad
from headrace.ingest.normalizers.video import VideoNormalizer
from headrace.schemas.errors import REASONS, RecordError
from headrace.schemas.record import modality_of

pytestmark = pytest.mark.data

needs_ffmpeg = pytest.mark.skipif(
    shutil.which("ffmpeg") is None or shutil.which("ffprobe") is None, reason="the ffmpeg program is the oracle"
)

#: Where a chroma sample lies, in 1/256 of a chroma sample, as ffmpeg's scale filter wants to be told.
SITES = {"left": (0, 128), "center": (128, 128), "topleft": (0, 0), "top": (128, 0)}

#: Each codec and container once, without those that only differ in size.
FRAMES = [
    "video/exoplayer/avi/sample.avi",
    "video/exoplayer/flv/sample-with-key-frame-index.flv",
    "video/exoplayer/mp4/dolbyVision-hdr.MOV",
    "video/exoplayer/mp4/h265_with_metadata_track.mp4",
    "video/exoplayer/mp4/sample_av1.mp4",
    "video/exoplayer/mp4/testvid_1022ms.mp4",
    "video/exoplayer/ts/sample_h262_mpeg_audio.ts",
    "video/exoplayer/ts/sample_h265_rps_pred.ts",
    "video/exoplayer/vp9/roadtrip-vp92-10bit.webm",
    "video/hf/test_video_66x50.mov",
    "video/torchcodec/nasa_13013.mp4",
]


def read(path: Path, modality: str, **config: Any) -> tuple[list[dict[str, Any]], list[Bad], RecordError | None]:
    """(records with their modality, Bads, the error that ended the item)."""
    kind: Any = VideoNormalizer if modality == "video" else AudioNormalizer
    with open(path, "rb") as stream:
        headers = {"format": sniff_stream(stream, path.name).name}
    records: list[dict[str, Any]] = []
    bads: list[Bad] = []
    try:
        for made in kind(kind.Config(**config)).open(Item(PathBlob(path.name, path), None, headers=headers)):
            if isinstance(made, Bad):
                bads.append(made)
            else:
                records.append({"modality": modality_of(made), **made.to_pylist()[0]})
    except RecordError as exc:
        return records, bads, exc
    return records, bads, None


@functools.cache
def read_once(path: Path, modality: str) -> tuple[list[dict[str, Any]], list[Bad], RecordError | None]:
    """`read` with default settings; several tests look at the same answer."""
    return read(path, modality)


def of_class(manifest: list[dict[str, str]], *classes: str) -> list[dict[str, str]]:
    return [row for row in manifest if row["modality"] in ("video", "audio") and row["class"] in classes]


def test_all_good_files_arrive(corpus: Path, manifest: list[dict[str, str]]) -> None:
    lost = {}
    for row in of_class(manifest, "good"):
        records, _, error = read_once(corpus / row["path"], row["modality"])
        if error is not None or not records:
            lost[row["path"]] = str(error)
    assert lost == {}


def test_a_good_file_is_flagged_for_what_is_wrong_alone(corpus: Path, manifest: list[dict[str, str]]) -> None:
    """These three ends were looked at by hand: a torn transport packet, bad AC-3 checksums, wrong sample times."""
    damage = {"truncated", "corrupt_packets", "corrupt_frames", "gap", "clock_backward", "duration_mismatch"}
    found: dict[str, set[str]] = {}
    for row in of_class(manifest, "good"):
        flags = {
            f.split(":")[0] for r in read_once(corpus / row["path"], row["modality"])[0] for f in r["flags"]
        } & damage
        if flags:
            found[row["path"].rsplit("/", 1)[-1]] = flags
    assert found == {
        "sample_ait.ts": {"truncated", "corrupt_frames"},
        "sample_ac3.mp4": {"corrupt_frames"},
        "sample_ac3_aac.mp4": {"corrupt_frames"},
        "sample_ac3_fragmented.mp4": {"corrupt_frames"},
        "sample_eac3.mp4": {"duration_mismatch"},
    }


def test_bad_files_give_records_or_reasons(corpus: Path, manifest: list[dict[str, str]]) -> None:
    for row in of_class(manifest, "bad", "unsupported"):
        records, bads, error = read_once(corpus / row["path"], row["modality"])
        assert records or error is not None, row["path"]
        for reason in [bad.reason for bad in bads] + ([error.reason] if error else []):
            assert reason.split(":")[0] in REASONS and reason != "internal", (row["path"], reason)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("video/bad/exoplayer/drm/sample_fragmented_clearkey.mp4", "encrypted"),
        ("video/bad/exoplayer/mp4/sample_fragmented_sideloaded_track.mp4", "corrupt"),
        ("video/unsupported/exoplayer/mp4/sample_ac4_fragmented.mp4", "unsupported:ac-4"),
        ("video/unsupported/exoplayer/mp4/sample_mpegh_mhm1.mp4", "unsupported:mhm1"),
        ("audio/bad/exoplayer/ogg/vorbis_header", "truncated"),
        ("audio/bad/exoplayer/mp3/play-trimmed.mp3", "corrupt"),
    ],
)
def test_a_refused_file_says_why(corpus: Path, path: str, reason: str) -> None:
    records, _, error = read_once(corpus / path, path.split("/")[0])
    assert records == [] and error is not None and error.reason == reason


def test_a_torn_last_frame_is_truncation_and_one_bad(corpus: Path) -> None:
    records, bads, error = read_once(corpus / "audio/bad/exoplayer/ts/sample_cbs_truncated.adts", "audio")
    assert error is None and "truncated" in records[-1]["flags"]
    assert [bad.reason for bad in bads] == ["corrupt", "truncated"]


def test_metadata_that_is_not_utf8_does_not_matter(corpus: Path) -> None:
    records, bads, error = read_once(corpus / "video/bad/exoplayer/video_desks.3gp", "video")
    assert (bads, error) == ([], None)
    assert [r["modality"] for r in records] == ["video", "audio"]
    assert json.loads(records[0]["extra"])["sample_aspect_ratio"] == [12, 11] and "anamorphic" in records[0]["flags"]


def test_the_best_streams_of_nasa_13013_are_not_the_first(corpus: Path) -> None:
    records, _, _ = read_once(corpus / "video/torchcodec/nasa_13013.mp4", "video")
    video = [r for r in records if r["modality"] == "video"]
    assert [json.loads(r["locator"]) for r in video] == [{"stream": 3, "window": 0}, {"stream": 3, "window": 1}]
    assert [r["shape"] for r in video] == [[16, 144, 256, 3], [10, 144, 256, 3]]
    assert {json.loads(r["locator"])["stream"] for r in records if r["modality"] == "audio"} == {4}
    text = [r for r in records if r["modality"] == "text"]
    assert [json.loads(r["locator"])["stream"] for r in text] == [2, 5]
    cues = json.loads(text[0]["extra"])["cues"]
    assert [cue[:2] for cue in cues[:2]] == [[210_000, 4_260_000], [4_260_000, 8_350_000]]
    assert text[0]["text"][cues[2][2] : cues[2][3]] == "at NASA’s Goddard Space Flight Center in Greenbelt, Maryland."
    assert text[0]["language"] == "en"
    assert json.loads(video[0]["extra"])["left_out"] == ["0:video:h264:320x180", "1:audio:aac:8000Hz"]


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("video/exoplayer/mkv/sample_with_srt.mkv", "This is the first subtitle."),
        ("video/exoplayer/mkv/sample_with_ssa_subtitles.mkv", "This is the first subtitle."),
        ("video/exoplayer/mkv/sample_with_vtt_subtitles.mkv", "This is the first subtitle."),
        ("video/exoplayer/mkv/sample_with_null_terminated_srt.mkv", "This is the first"),
        (
            "video/unsupported/exoplayer/dash/webvtt-in-mp4/sample.text.mp4",
            "This is the first subtitle.\nThis is the second subtitle.",
        ),
    ],
)
def test_subtitle_tracks_become_text(corpus: Path, path: str, text: str) -> None:
    records, bads, error = read_once(corpus / path, "video")
    assert (bads, error) == ([], None)
    assert [r["text"] for r in records if r["modality"] == "text"] == [text]


def test_a_phone_video_stands_upright_and_names_its_hour(corpus: Path) -> None:
    records, _, _ = read_once(corpus / "video/exoplayer/mp4/dolbyVision-hdr.MOV", "video")
    video, sound = records
    assert video["shape"] == [1, 256, 144, 3] and video["rotation"] == 90
    assert "rotate 90 clockwise" in video["transforms"] and "hdr" in video["flags"]
    assert video["event_time"].isoformat() == "2023-05-09T11:48:30+00:00" == sound["event_time"].isoformat()
    assert video["time_source"] == "container:creation_time"
    assert "51.5" not in video["extra"] + sound["extra"], "where it was filmed is nobody's business"


def test_the_zero_of_a_clock_is_no_time(corpus: Path) -> None:
    records, _, _ = read_once(corpus / "video/exoplayer/video_big_buck_bunny.mp4", "video")  # 1970-01-01
    assert {(r["event_time"], r["time_source"]) for r in records} == {(None, None)}


@functools.cache
def probe(path: Path, stream: int) -> tuple[list[int], str]:
    """(pts of all frames, chroma site) by ffprobe."""
    command = ["ffprobe", "-v", "error", "-select_streams", str(stream), "-of", "json"]
    command += ["-show_entries", "frame=best_effort_timestamp:stream=chroma_location", str(path)]
    answer = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    return [f["best_effort_timestamp"] for f in answer["frames"]], answer["streams"][0].get("chroma_location", "")


def ffmpeg_frames(path: Path, stream: int, site: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """All frames of a stream as RGB, not turned, flat."""
    scale = "scale=flags=bicubic+accurate_rnd+bitexact+full_chroma_int"
    if site in SITES:
        scale += ":in_h_chr_pos={}:in_v_chr_pos={}".format(*SITES[site])
    command = ["ffmpeg", "-v", "error", "-bitexact", "-noautorotate", "-i", str(path), "-map", f"0:{stream}"]
    command += ["-vsync", "passthrough", "-vf", scale, "-pix_fmt", "rgb24", "-f", "rawvideo", "-"]
    return np.frombuffer(subprocess.run(command, capture_output=True, check=True).stdout, np.uint8)


@needs_ffmpeg
@pytest.mark.parametrize("path", FRAMES)
def test_native_frames_and_pts_equal_ffmpegs(corpus: Path, path: str) -> None:
    records, _, _ = read(corpus / path, "video", fps="native", max_side="none", audio=False, subtitles=False)
    stream = json.loads(records[0]["locator"])["stream"]
    pts, site = probe(corpus / path, stream)
    assert [p for r in records for p in r["pts"]] == pts
    turned = [np.frombuffer(r["pixels"], np.uint8).reshape(r["shape"]) for r in records]
    ours = np.concatenate([np.rot90(t, records[0]["rotation"] // 90, axes=(1, 2)) for t in turned])
    theirs = ffmpeg_frames(corpus / path, stream, site).reshape(ours.shape)
    worst = int(np.abs(ours.astype(np.int16) - theirs).max())
    assert worst <= (1 if "10le" in records[0]["transforms"][0] else 0), f"{worst} levels apart"


@needs_ffmpeg
@pytest.mark.parametrize("path", FRAMES)
@pytest.mark.parametrize(("fps", "segment_s"), [(2, 8), ("24000/1001", 0.7)])
def test_the_chosen_frames_are_the_first_at_or_after_each_tick(
    corpus: Path, path: str, fps: float | str, segment_s: float
) -> None:
    config = {"fps": fps, "segment_s": segment_s, "max_side": 16, "audio": False, "subtitles": False}
    records, _, _ = read(corpus / path, "video", **config)
    pts, _ = probe(corpus / path, json.loads(records[0]["locator"])["stream"])
    base = Fraction(records[0]["time_base_num"], records[0]["time_base_den"])
    rate, segment = Fraction(str(fps)), Fraction(str(segment_s))
    first, last = int(pts[0] * base * rate) - 1, int(pts[-1] * base * rate) + 1
    ticks = (next((p for p in pts if p * base >= Fraction(n) / rate), None) for n in range(first, last + 1))
    wanted = list(dict.fromkeys(p for p in ticks if p is not None))
    assert [p for r in records for p in r["pts"]] == wanted
    for record in records:
        window = json.loads(record["locator"])["window"]
        assert all(window * segment <= p * base < (window + 1) * segment for p in record["pts"])


@pytest.mark.parametrize("path", ["video/torchcodec/nasa_13013.mp4", "video/exoplayer/mp4/sample_with_color_info.mp4"])
def test_threads_of_decoder_and_scaler_change_no_pixel(corpus: Path, path: str) -> None:
    import av
    from av.video.reformatter import Interpolation as Flag

    records, _, _ = read(corpus / path, "video", fps="native", max_side=100, audio=False, subtitles=False)
    ours = np.concatenate([np.frombuffer(r["pixels"], np.uint8) for r in records])
    flags = Flag.BICUBIC | Flag.ACCURATE_RND | Flag.BITEXACT | Flag.FULL_CHR_H_INT
    with av.open(str(corpus / path)) as container:
        stream = container.streams[json.loads(records[0]["locator"])["stream"]]
        stream.codec_context.thread_count, stream.codec_context.thread_type = 4, "AUTO"
        turns = records[0]["rotation"] // 90
        height, width = records[0]["shape"][1:3] if not turns % 2 else records[0]["shape"][2:0:-1]
        frames = [
            f.reformat(width=width, height=height, format="rgb24", interpolation=flags, threads=4).to_ndarray()
            for f in container.decode(stream)
        ]
    theirs = np.concatenate([np.rot90(f, -turns).reshape(-1) for f in frames])
    assert np.array_equal(ours, theirs)


def test_reading_twice_gives_the_same_records(corpus: Path) -> None:
    path = corpus / "video/torchcodec/nasa_13013.mp4"
    assert read(path, "video") == read_once(path, "video")
