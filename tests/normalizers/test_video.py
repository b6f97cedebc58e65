"""Video files with known pixels and pts: which frames are taken, how they are turned, what damage costs."""

from __future__ import annotations

import io
import json
import socket
import struct
from collections.abc import Sequence
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from headrace.connectors.contract import BytesBlob, Item, PathBlob
from headrace.ingest.normalizers.contract import Bad, Limits
from headrace.ingest.normalizers.video import VideoNormalizer
from headrace.ingest.normalizers.video_picture import Turn, display_turn, fit
from headrace.schemas.errors import RecordError, SourceChanged
from headrace.schemas.record import modality_of

Pixels = npt.NDArray[np.uint8]


def picture(seed: int, height: int = 16, width: int = 16) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def movie(
    frames: Sequence[Pixels],
    pts: Sequence[int],
    *,
    base: Fraction = Fraction(1, 600),
    codec: str = "png",
    container: str = "mov",
    options: dict[str, str] | None = None,
    metadata: dict[str, str] | None = None,
    aspect: Fraction | None = None,
    rate: int = 30,
) -> bytes:
    """A file of these frames at these pts; png in mov keeps each pixel, h264 and mpeg2 are lossy."""
    import av

    out = io.BytesIO()
    with av.open(out, "w", format=container) as file:
        file.metadata.update(metadata or {})
        stream = file.add_stream(codec, rate=rate)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "rgb24" if codec == "png" else "yuv420p"
        stream.codec_context.time_base = base
        stream.time_base = base
        stream.options = options or {}
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        for pixels, time in zip(frames, pts):
            frame = av.VideoFrame.from_ndarray(pixels, "rgb24")
            frame.pts, frame.time_base = time, base
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return out.getvalue()


def read(
    data: Any, *, limits: Limits | None = None, headers: dict[str, str] | None = None, **config: Any
) -> tuple[list[dict[str, Any]], list[Bad]]:
    """(records with their modality, Bads)."""
    normalizer = VideoNormalizer(VideoNormalizer.Config(**config), limits)
    item = Item(BytesBlob("clip", data) if isinstance(data, bytes) else data, None, headers=headers or {})
    made = list(normalizer.open(item))
    records = [{"modality": modality_of(m), **m.to_pylist()[0]} for m in made if not isinstance(m, Bad)]
    return records, [m for m in made if isinstance(m, Bad)]


def pixels_of(record: dict[str, Any]) -> Pixels:
    return np.frombuffer(record["pixels"], np.uint8).reshape(record["shape"])


def seconds(record: dict[str, Any]) -> list[Fraction]:
    return [pts * Fraction(record["time_base_num"], record["time_base_den"]) for pts in record["pts"]]


def chosen_by_hand(times: Sequence[Fraction], fps: Fraction) -> list[Fraction]:
    """For every tick n/fps the first frame at or after it, each frame once."""
    first, last = times[0] * fps // 1, times[-1] * fps // 1
    found = [next(t for t in times if t >= n / fps) for n in range(first, last + 1)]
    return list(dict.fromkeys(found))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    steps=st.lists(st.integers(1, 900), min_size=1, max_size=12),
    fps=st.sampled_from(["2", "1", "7", "0.3", "30000/1001", "24", "1000"]),
    segment_s=st.sampled_from([8, 1, 0.5, 2.5]),
)
@example(steps=[300] * 12, fps="2", segment_s=1)
def test_of_any_irregular_clock_the_first_frame_after_each_tick_is_taken(
    steps: list[int], fps: str, segment_s: float
) -> None:
    pts = [sum(steps[:i]) for i in range(len(steps) + 1)]
    frames = [picture(i) for i in range(len(pts))]
    records, bads = read(movie(frames, pts), fps=fps, segment_s=segment_s, max_side="none")
    times = [p * Fraction(1, 600) for p in pts]
    wanted = chosen_by_hand(times, Fraction(fps))
    got = [(t, p) for r in records for t, p in zip(seconds(r), pixels_of(r))]
    assert bads == [] and [t for t, _ in got] == wanted
    for time, pixels in got:
        assert np.array_equal(pixels, frames[times.index(time)])
    for record in records:
        window = json.loads(record["locator"])["window"]
        assert all(window <= t / Fraction(str(segment_s)) < window + 1 for t in seconds(record))


def test_native_takes_every_frame_and_counts_what_it_saw() -> None:
    pts = [0, 20, 600, 601, 4799, 4800]
    frames = [picture(i) for i in range(6)]
    records, _ = read(movie(frames, pts), fps="native", max_side="none")
    assert [[t * 600 for t in seconds(r)] for r in records] == [pts[:5], pts[5:]]
    assert np.array_equal(np.concatenate([pixels_of(r) for r in records]), np.stack(frames))
    assert [json.loads(r["extra"])["frames_seen"] for r in records] == [5, 1]


def test_a_file_that_starts_late_keeps_its_own_clock() -> None:
    """Windows lie on the container's clock: pieces of one broadcast fit together."""
    records, _ = read(
        movie([picture(i) for i in range(4)], [4500, 4700, 4900, 5100], container="matroska", codec="ffv1")
    )
    assert [json.loads(r["locator"])["window"] for r in records] == [0, 1]
    assert [t for r in records for t in seconds(r)] == [Fraction(15, 2), Fraction(8167, 1000), Fraction(17, 2)]


def test_reordered_frames_come_in_order_of_presentation() -> None:
    data = movie(
        [picture(i, 64, 64) for i in range(40)],
        [i * 20 for i in range(40)],
        codec="libx264",
        container="mp4",
        options={"bf": "3", "b-adapt": "0", "g": "20"},
    )
    records, _ = read(data, fps="native")
    times = [t for r in records for t in seconds(r)]
    assert times == [Fraction(i, 30) for i in range(40)]


TURNS = {  # the matrix that asks for it: a b c d in 16.16
    "as it is": ((1, 0, 0, 1), lambda p: p, 0),
    "90 clockwise": ((0, 1, -1, 0), lambda p: np.rot90(p, -1), 90),
    "180": ((-1, 0, 0, -1), lambda p: np.rot90(p, 2), 180),
    "270 clockwise": ((0, -1, 1, 0), lambda p: np.rot90(p, 1), 270),
    "mirrored": ((-1, 0, 0, 1), lambda p: p[:, ::-1], 0),
    "90 and mirrored": ((0, 1, 1, 0), lambda p: np.rot90(p, -1)[:, ::-1], 90),
}


@pytest.mark.parametrize("name", TURNS)
def test_the_display_matrix_is_applied_and_recorded(name: str) -> None:
    (a, b, c, d), turn, degrees = TURNS[name]
    data = bytearray(movie([picture(7, 20, 32)], [0]))
    at = data.index(b"tkhd") + 4 + 40  # version and flags, times, ids, layer … then the matrix
    one = 1 << 16
    tail = (turn(np.zeros((20, 32))).shape[1] * one * (a + c < 0), 0)
    data[at : at + 36] = struct.pack(">9i", a * one, b * one, 0, c * one, d * one, 0, *tail, 1 << 30)
    (record,), _ = read(bytes(data), max_side="none")
    assert np.array_equal(pixels_of(record)[0], turn(picture(7, 20, 32)))
    assert record["rotation"] == degrees
    assert any("rotate" in t for t in record["transforms"]) == bool(degrees)
    assert any("flip" in t for t in record["transforms"]) == ("mirrored" in name)


def test_a_matrix_that_is_no_quarter_turn_is_flagged_and_left_alone() -> None:
    data = bytearray(movie([picture(7)], [0]))
    at = data.index(b"tkhd") + 4 + 40
    data[at : at + 20] = struct.pack(">5i", 46341, 46341, 0, -46341, 46341)
    (record,), _ = read(bytes(data), max_side="none")
    assert "display_matrix_not_applied" in record["flags"]
    assert np.array_equal(pixels_of(record)[0], picture(7))
    assert display_turn(struct.pack("=9i", 0, 0, 0, 0, 0, 0, 0, 0, 0)) is None
    assert display_turn(struct.pack("=9i", 1 << 17, 0, 0, 0, 1 << 17, 0, 0, 0, 1)) == Turn()


@given(st.integers(1, 9000), st.integers(1, 9000), st.integers(1, 9000))
def test_the_long_side_fits_and_nothing_is_enlarged(width: int, height: int, side: int) -> None:
    w, h = fit(width, height, side)
    assert (w, h) == (width, height) if max(width, height) <= side else max(w, h) == side
    assert min(w, h) >= 1
    if max(width, height) > side:
        assert (
            abs(Fraction(min(w, h)) - Fraction(min(width, height) * side, max(width, height))) <= Fraction(1, 2)
            or min(w, h) == 1
        )


def test_a_resize_and_the_sample_aspect_ratio_are_recorded() -> None:
    data = movie([picture(1, 288, 352)], [0], codec="mpeg4", container="mp4", aspect=Fraction(12, 11))
    (record,), _ = read(data, max_side=100)
    assert record["shape"] == [1, 82, 100, 3]
    assert "resize 352x288->100x82 bicubic" in record["transforms"]
    assert json.loads(record["extra"])["sample_aspect_ratio"] == [12, 11] and "anamorphic" in record["flags"]


def test_creation_time_dates_the_windows() -> None:
    data = movie([picture(i) for i in range(3)], [0, 3000, 6000], metadata={"creation_time": "2024-05-01T10:00:07Z"})
    records, _ = read(data)
    start = datetime(2024, 5, 1, 10, 0, 7, tzinfo=UTC)
    assert [(r["event_time"] - start).total_seconds() for r in records] == [0, 8]
    assert (records[0]["event_end"] - start).total_seconds() == 8
    assert 10 <= (records[1]["event_end"] - start).total_seconds() <= 16
    assert {r["time_source"] for r in records} == {"container:creation_time"}


def test_of_two_videos_the_larger_is_taken_unless_one_is_named() -> None:
    import av

    out = io.BytesIO()
    with av.open(out, "w", format="matroska") as file:
        streams = [file.add_stream("ffv1", rate=10) for _ in range(2)]
        for stream, size in zip(streams, (16, 32)):
            stream.width = stream.height = size
            stream.pix_fmt = "yuv420p"
        for stream, size in zip(streams, (16, 32)):
            frame = av.VideoFrame.from_ndarray(picture(size, size, size), "rgb24")
            frame.pts = 0
            file.mux(stream.encode(frame))
        for stream in streams:
            file.mux(stream.encode(None))
    (best,), _ = read(out.getvalue())
    assert best["shape"] == [1, 32, 32, 3]
    assert json.loads(best["extra"])["left_out"] == ["0:video:ffv1:16x16"]
    (named,), _ = read(out.getvalue(), track=0)
    assert named["shape"] == [1, 16, 16, 3]
    with pytest.raises(RecordError, match="missing_field"):
        read(out.getvalue(), track=9)


def test_a_clock_that_was_set_back_begins_a_new_run() -> None:
    frames = [picture(i, 64, 64) for i in range(60)]
    once = movie(frames, range(60), base=Fraction(1, 30), codec="mpeg2video", container="mpegts")
    alone, _ = read(once, fps="native")
    twice, bads = read(once + once, fps="native")
    runs = [json.loads(r["locator"]).get("run", 0) for r in twice]
    assert bads == [] and sorted(set(runs)) == [0, 1]
    assert sum(r["shape"][0] for r in twice) >= 2 * sum(r["shape"][0] for r in alone) - 2
    assert any("clock_backward" in r["flags"] for r in twice)
    assert len({r["locator"] for r in twice}) == len(twice)


def test_a_picture_that_changes_size_goes_on_in_a_second_piece() -> None:
    def part(size: int, start: int) -> bytes:
        frames = [picture(i, size, size) for i in range(30)]
        pts = range(start, start + 30)
        return movie(frames, pts, base=Fraction(1, 30), codec="mpeg2video", container="mpegts")

    records, _ = read(part(64, 0) + part(96, 30), max_side="none", fps="native")
    places = [(json.loads(r["locator"]), r["shape"][1]) for r in records]
    assert {size for _, size in places} == {64, 96}
    assert [place.get("piece", 0) for place, _ in places] == [0, 1] and len({p["window"] for p, _ in places}) == 1


def test_one_broken_packet_costs_one_frame() -> None:
    frames, pts = [picture(i) for i in range(8)], [i * 300 for i in range(8)]
    data = bytearray(movie(frames, pts))
    second = data.index(b"\x89PNG", data.index(b"\x89PNG", data.index(b"\x89PNG") + 1) + 1)
    data[second + 12 : second + 16] = b"IHXX"
    (record,), (bad,) = read(bytes(data), max_side="none")
    assert "corrupt_packets:1" in record["flags"]
    assert np.array_equal(pixels_of(record), np.stack([f for i, f in enumerate(frames) if i != 2]))
    place = json.loads(bad.locator)
    assert bad.reason == "corrupt" and place["window"] == 0 and place["first_byte"] == second


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.999])
@pytest.mark.parametrize("container", ["matroska", "mp4", "avi", "flv", "mpegts"])
def test_a_cut_file_never_looks_complete(container: str, share: float) -> None:
    codec = {"matroska": "ffv1", "avi": "mpeg4", "flv": "flv1", "mpegts": "mpeg2video"}.get(container, "libx264")
    frames = [picture(i, 64, 64) for i in range(100)]
    options = {"movflags": "faststart"} if container == "mp4" else {}
    data = movie(frames, range(100), base=Fraction(1, 30), codec=codec, container=container, options=options)
    whole, _ = read(data, segment_s=1)
    cut = data[: int(len(data) * share)]
    try:
        records, bads = read(cut, segment_s=1)
    except RecordError as exc:
        assert exc.reason == "truncated"
        return
    if "length_mismatch" in records[-1]["flags"]:  # only the index at the end is cut, all frames are there
        assert [r["pixels"] for r in records] == [r["pixels"] for r in whole] and container == "avi"
        return
    assert "truncated" in records[-1]["flags"] and all("truncated" not in r["flags"] for r in records[:-1])
    assert [bad.reason for bad in bads][-1] == "truncated"
    complete = [r for r in records[:-1] if not r["flags"]]
    assert [(r["locator"], r["pixels"]) for r in complete] == [
        (r["locator"], r["pixels"]) for r in whole[: len(complete)]
    ]


def test_sizes_are_refused_from_the_header() -> None:
    data = movie([picture(i, 64, 64) for i in range(30)], [i * 20 for i in range(30)])
    for limits, config in [
        (Limits(max_pixels=64 * 64 - 1), {}),
        (Limits(max_bytes=64 * 64 * 3 * 4 - 1), {}),
        (Limits(max_bytes=64 * 64 * 3 * 20), {"fps": "native", "max_side": "none"}),
    ]:
        with pytest.raises(RecordError) as caught:
            read(data, limits=limits, **config)
        assert caught.value.reason == "too_large"


def test_frames_beyond_what_the_header_says_are_refused_too() -> None:
    """A rate of 30 a second is stated; a million ticks a second are used."""
    frames = [picture(0, 32, 32)] * 200
    data = movie(frames, list(range(200)), base=Fraction(1, 1000), container="matroska", codec="ffv1")
    with pytest.raises(RecordError) as caught:
        read(data, limits=Limits(max_bytes=32 * 32 * 3 * 100), fps="native", max_side="none")
    assert caught.value.reason == "too_large"


def test_playlists_and_scripts_open_nothing(tmp_path: Path) -> None:
    secret = tmp_path / "secret.ts"
    clip = movie([picture(0, 64, 64)] * 9, range(9), base=Fraction(1, 30), codec="mpeg2video", container="mpegts")
    secret.write_bytes(clip)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.settimeout(0.05)
        port = listener.getsockname()[1]
        traps = [
            f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{uri}\n#EXT-X-ENDLIST\n"
            for uri in (secret, f"http://127.0.0.1:{port}/a.ts", "secret.ts")
        ]
        traps += [f"ffconcat version 1.0\nfile {secret}\n", f"ffconcat version 1.0\nfile http://127.0.0.1:{port}/\n"]
        traps += [f"v=0\nc=IN IP4 127.0.0.1\nm=video {port} RTP/AVP 96\na=rtpmap:96 H264/90000\n"]
        for trap in traps:
            path = tmp_path / "trap.mp4"
            path.write_text(trap)
            for format in ("mp4", "mpegts", "matroska", "flv", "avi", "unknown"):
                with pytest.raises(RecordError) as caught:
                    read(PathBlob("trap.mp4", path), headers={"format": format})
                assert caught.value.reason.split(":")[0] in ("corrupt", "unsupported", "unknown_format", "truncated")
        with pytest.raises(TimeoutError):
            listener.accept()


def grow(data: bytes, at: int, cut: int, new: bytes, path: Sequence[bytes]) -> bytes:
    """Replace data[at:at+cut] and lengthen the boxes of `path` around it."""
    out, inside = bytearray(data), 0
    for name in path:
        inside = data.index(name, inside)
        (size,) = struct.unpack_from(">I", data, inside - 4)
        struct.pack_into(">I", out, inside - 4, size + len(new) - cut)
    out[at : at + cut] = new
    return bytes(out)


def test_a_movie_whose_samples_lie_in_another_file_is_refused() -> None:
    data = movie([picture(0)], [0], container="mp4", codec="mpeg4")
    at = data.index(b"url \0\0\0\1") - 4
    name = b"file:///etc/passwd\0"
    entry = struct.pack(">I4sI", 12 + len(name), b"url ", 0) + name
    trap = grow(data, at, 12, entry, [b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"])
    with pytest.raises(RecordError) as caught:
        read(trap)
    assert caught.value.reason == "external_reference" and "/etc/passwd" in caught.value.message


def test_an_encrypted_track_says_so_and_its_neighbours_come() -> None:
    data = movie([picture(0)], [0], container="mp4", codec="mpeg4").replace(b"mp4v", b"encv")
    with pytest.raises(RecordError) as caught:
        read(data)
    assert caught.value.reason == "encrypted"


def test_what_is_no_video_says_what_it_looks_like() -> None:
    for data, reason in [
        (b"", "empty"),
        (b"\0" * 64, "unknown_format"),
        (b"\x89PNG\r\n\x1a\n" + bytes(64), "unsupported:png"),
    ]:
        with pytest.raises(RecordError) as caught:
            read(data)
        assert caught.value.reason == reason


def test_an_error_of_the_source_stays_one() -> None:
    class Changed(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if size is not None and size > 1 << 16:  # libav's own reads
                raise SourceChanged("clip: the file is not the one that was planned")
            return super().read(size)

    class Blob(BytesBlob):
        def open(self) -> Any:
            return Changed(movie([picture(0)], [0]))

    with pytest.raises(SourceChanged):
        read(Blob("clip", b"x" * 2000), headers={"format": "mp4"})


def test_subtitles_beside_a_video_are_text_of_the_same_item() -> None:
    video = BytesBlob("clip.mov", movie([picture(0)], [0]))
    srt = BytesBlob("clip.fi.srt", b"1\n00:00:01,000 --> 00:00:02,000\nHei maailma\n")
    torn = BytesBlob("clip.vtt", b"not a WebVTT file")
    records, bads = read([torn, video, srt], max_side="none")
    assert [(r["modality"], json.loads(r["locator"])) for r in records] == [
        ("text", {"member": "clip.fi.srt"}),
        ("video", {"stream": 0, "window": 0}),
    ]
    assert (records[0]["text"], records[0]["language"]) == ("Hei maailma", "fi")
    assert [(b.reason, json.loads(b.locator)) for b in bads] == [("corrupt", {"member": "clip.vtt"})]
    assert len(read([torn, video, srt], subtitles=False)[0]) == 1
    with pytest.raises(RecordError, match="inconsistent"):
        read([video, BytesBlob("other.mov", b"")])


@pytest.mark.parametrize(
    "config", [{"fps": 0}, {"fps": "fast"}, {"fps": "1/0"}, {"max_side": 0}, {"segment_s": 0}, {"colour": 1}]
)
def test_wrong_settings_name_the_field(config: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(config))):
        VideoNormalizer.Config(**config)
