"""How segments are cut, without a network: packets of files through the cutter."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import pytest

from headrace.connectors.contract import Item
from headrace.connectors.live_video_cutter import Cutter, Rule
from headrace.connectors.live_video_parameters import parameters, starts_closed
from headrace.connectors.live_video_segment import choose_tracks
from headrace.ingest.normalizers.contract import Bad
from headrace.ingest.normalizers.video import VideoNormalizer

from ..servers import live_video as servers
from .live_video_reading import assert_same_packets, frames_of, joined, packets_of, segments_of, ts_of

av = pytest.importorskip("av")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("live")


@pytest.fixture(scope="module")
def clip(folder: Path) -> Path:
    """6 s of H.264 with B pictures, a key frame each 1.001 s, and AAC."""
    return servers.make_clip(folder / "clip.mp4", seconds=6)


def test_a_segment_makes_video_and_audio_records_with_the_normalizers_defaults(clip: Path) -> None:
    items = segments_of(ts_of(clip), 2)
    normalizer = VideoNormalizer(VideoNormalizer.Config())
    for item in items:
        batches = list(normalizer.open(Item(item.data, 1, headers=item.headers)))
        assert not [batch for batch in batches if isinstance(batch, Bad)]
        kinds = {"video" if "pts" in batch.schema.names else "audio" for batch in batches}
        assert kinds == {"video", "audio"}
        flags = {flag for batch in batches for row in batch.to_pylist() for flag in row["flags"] or []}
        assert not flags


@pytest.mark.data
def test_packets_of_real_files_are_the_same_after_cutting(corpus: Path, manifest: list[dict[str, str]]) -> None:
    compared, codecs = 0, set()
    for row in manifest:
        if row["modality"] != "video" or row["class"] != "good":
            continue
        path = corpus / row["path"]
        try:
            segments = segments_of(path, 1, problems=[])
        except ValueError:
            continue  # pictures that no container of ours holds, or none at all
        if not segments or segments[0].headers["format"] != "mp4":
            continue
        with av.open(str(path), metadata_errors="ignore") as file:
            tracks = choose_tracks(list(file.streams))
            kind = tracks.main.type
            sent = [bytes(p) for p in file.demux(tracks.main) if p.size]
            codecs.add(segments[0].headers["streams"])
        came: list[bytes] = []
        times: list[Fraction] = []
        for segment in segments:
            with av.open(io.BytesIO(segment.data)) as file:
                packets = [p for p in file.demux(file.streams[0]) if p.size]
                came += [bytes(p) for p in packets]
                times += [p.pts * p.time_base for p in packets]
        assert came, path
        if kind == "video" and "vp9" not in segments[0].headers["streams"] and not sent[0].startswith(
            (b"\0\0\1", b"\0\0\0\1")
        ):
            first = sent.index(came[0])
            assert came == sent[first : first + len(came)], path
            compared += 1
        assert times[0] == 0 or kind != "video"
    assert compared >= 8
    assert any("hevc" in codec for codec in codecs) and any("av1" in codec for codec in codecs)


@pytest.mark.parametrize(
    ("video", "audio", "suffix", "format"),
    [
        ("mjpeg -pix_fmt yuvj420p", "pcm_mulaw -ar 8000", "mov", "mp4"),
        ("mjpeg -pix_fmt yuvj420p", "pcm_alaw -ar 8000", "mov", "mp4"),
        ("libx264 -preset veryfast", "pcm_s16be -ar 48000", "mov", "mp4"),
        ("libx264 -preset veryfast", "libopus -ar 48000", "mp4", "mp4"),
        ("libx265 -preset veryfast -x265-params log-level=error:pools=1:open-gop=0", "aac", "mp4", "mp4"),
        ("libvpx -deadline realtime", "libvorbis", "mkv", "matroska"),
    ],
)
def test_codecs_of_cameras_keep_their_packets_and_times(
    folder: Path, video: str, audio: str, suffix: str, format: str
) -> None:
    source = folder / f"{video.split()[0]}-{audio.split()[0]}.{suffix}"
    servers.make_clip(source, seconds=3, size="128x96", rate="25", gop=25, video=video, audio=audio)
    segments = segments_of(source, 1)
    assert len(segments) == 3 and {segment.headers["format"] for segment in segments} == {format}
    came, sent = joined(segments, "any"), packets_of(source, "any")
    zero = sent["video"][0][0]
    assert [t for t, _ in came["video"]] == [t - zero for t, _ in sent["video"]]
    if "pcm" not in audio:  # containers divide PCM as they like
        assert [data for _, data in came["audio"]] == [data for t, data in sent["audio"] if t >= zero]
    else:
        sound = b"".join(data for t, data in sent["audio"] if t >= zero)
        assert b"".join(data for _, data in came["audio"]) == sound
    frames = [frames_of(Item(segment.data, 0, headers=segment.headers)) for segment in segments]
    assert sum(map(len, frames)) == len(sent["video"])


def test_segments_meet_multiples_of_their_length_where_key_frames_allow(folder: Path) -> None:
    source = servers.make_clip(folder / "even.mp4", seconds=6, rate="25", gop=25)
    segments = segments_of(source, 2)
    firsts = [int(s.headers["first_pts"]) * Fraction(s.headers["time_base"]) for s in segments]
    assert firsts == [0, 2, 4]
    ends = [int(s.headers["end_pts"]) * Fraction(s.headers["time_base"]) for s in segments]
    assert ends == [2, 4, 6]


def test_a_stream_without_key_frames_is_cut_and_flagged(folder: Path) -> None:
    source = servers.make_clip(folder / "endless.mp4", seconds=6, gop=10_000)
    segments = segments_of(source, 1, max_gop_s=2)
    assert [segment.headers.get("flags") for segment in segments] == [None, "no_key_frame", "no_key_frame"]
    assert_same_packets(joined(segments), packets_of(source), Fraction(0), skipped=0)
    assert len(frames_of(Item(segments[0].data, 0, headers=segments[0].headers))) > 50


def test_a_session_that_begins_without_a_key_frame_waits_for_one_and_then_goes_without(folder: Path) -> None:
    source = servers.make_clip(folder / "late.mp4", seconds=6, gop=90)
    rule = Rule(Fraction(1), Fraction(2), 1 << 26)
    for wait_s, flags, skipped in ((Fraction(30), None, True), (Fraction(1), "no_key_frame", False)):
        rule = Rule(Fraction(1), wait_s, 1 << 26)
        with av.open(str(source)) as file:
            tracks = choose_tracks(list(file.streams))
            cutter, segments, seen = Cutter(tracks, rule, 1, "none"), [], 0
            for packet in file.demux(list(tracks.kept)):
                seen += packet.stream.type == "video"
                if packet.size and seen > 10:  # joined in the middle of a group
                    segments += cutter.add(packet, None)
            segments += cutter.finish("the end")
        assert segments[0].headers.get("flags") == flags
        assert ("skipped_packets" in segments[0].headers) == skipped or flags


def test_a_segment_that_grows_too_large_is_cut_and_flagged(clip: Path) -> None:
    segments = segments_of(clip, 100, max_bytes=60_000)
    assert len(segments) > 3
    assert all(len(segment.data) < 80_000 for segment in segments)
    assert all("cut_by_size" in segment.headers["flags"] for segment in segments[:-1])
    assert_same_packets(joined(segments), packets_of(clip), Fraction(0), skipped=0)


def test_open_groups_are_cut_only_where_no_closed_one_comes_and_flagged(folder: Path) -> None:
    video = "libx264 -preset veryfast -bf 2 -x264-params open-gop=1:keyint=24:min-keyint=24:scenecut=0"
    source = servers.make_clip(folder / "open.mp4", seconds=5, rate="24", video=video)
    segments = segments_of(source, 1)
    assert {segment.headers.get("flags") for segment in segments[1:]} == {"open_gop"}
    assert_same_packets(joined(segments), packets_of(source), Fraction(0), skipped=0)


def test_of_open_groups_only_pictures_that_lean_on_the_segment_before_are_not_shown(folder: Path) -> None:
    video = "libx265 -preset veryfast -x265-params log-level=error:pools=1:open-gop=1"
    source = servers.make_clip(folder / "cra.mp4", seconds=3, size="128x96", rate="25", gop=25, video=video)
    segments = segments_of(source, 1)
    shown = {when for s in segments for when in frames_of(Item(s.data, 0, headers=s.headers))}
    came, sent = [t for t, _ in joined(segments, "any")["video"]], packets_of(source, "any")["video"]
    assert came == [t - sent[0][0] for t, _ in sent], "all packets are there"
    firsts = [int(s.headers["first_pts"]) * Fraction(s.headers["time_base"]) for s in segments[1:]]
    assert {s.headers.get("flags") for s in segments[1:]} == {"open_gop"}
    for when in set(came) - shown:
        assert any(0 <= when - first < Fraction(8, 25) for first in firsts), when


def test_same_packets_give_same_bytes(clip: Path) -> None:
    assert [segment.data for segment in segments_of(clip, 2)] == [segment.data for segment in segments_of(clip, 2)]


def test_a_clock_that_jumps_ends_a_session(clip: Path) -> None:
    rule = Rule(Fraction(2), Fraction(30), 1 << 26)
    with av.open(str(clip)) as file:
        tracks = choose_tracks(list(file.streams))
        cutter = Cutter(tracks, rule, 1, "none")
        packets = [p for p in file.demux(file.streams.video[0]) if p.size]
        assert cutter.problem_with(packets[0]) is None
        packets[1].dts += round(61 / packets[1].time_base)
        problem = cutter.problem_with(packets[1])
        assert problem is not None and problem.clock and "clock jumped: stream 0 went on +61" in problem.message
        problem = cutter.problem_with(packets[2])
        assert problem is not None and "-6" in problem.message


def test_parameters_are_found_in_packets_of_each_codec(folder: Path, clip: Path) -> None:
    other = servers.make_clip(folder / "other.mp4", seconds=1, size="160x120")
    ts = [servers.remux(path, path.with_suffix(".par.ts")) for path in (clip, other)]
    found = []
    for path in ts:
        with av.open(str(path)) as file:
            keys = [bytes(p) for p in file.demux(file.streams.video[0]) if p.is_keyframe]
            found.append({parameters("h264", data) for data in keys})
            assert all(starts_closed("h264", data) for data in keys)
    assert len(found[0]) == len(found[1]) == 1 and None not in found[0] | found[1] and found[0] != found[1]
    assert parameters("h264", b"\0\0\0\1\x41\x9a") is None
    sof = b"\xff\xd8\xff\xe0\0\4ab\xff\xc0\0\x0b\x08\0\x60\0\x80\1\1\x11\0"
    assert parameters("mjpeg", sof) != parameters("mjpeg", sof.replace(b"\x60", b"\x61"))
    assert parameters("aac", b"\xff\xf1\x50\x80\0\0\0") != parameters("aac", b"\xff\xf1\x4c\x80\0\0\0")
    for junk in (b"", b"\0", b"\0\0\1", b"\xff" * 40, bytes(range(64))):
        for codec in ("h264", "hevc", "mjpeg", "av1", "aac", "vp9"):
            parameters(codec, junk)
            starts_closed(codec, junk)
