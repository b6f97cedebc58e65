"""Live video from real senders: what comes is what was sent, packet for packet; what is lost is said."""

from __future__ import annotations

import json
import socket
import time
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headrace.connectors.contract import Gap, Idle, Item

from ..servers import live_video as servers
from ..servers.live_video import HttpServer, RtspServer, Sender, UdpRelay, free_port, wait_for_port
from .live_video_reading import TICK, Reading, assert_same_packets, connector, frames_of, joined, packets_of, ts_of

pytest.importorskip("av")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("live")


@pytest.fixture(scope="module")
def clip(folder: Path) -> Path:
    """6 s of H.264 with B pictures, a key frame each 1.001 s, and AAC."""
    return servers.make_clip(folder / "clip.mp4", seconds=6)


@pytest.mark.server
@pytest.mark.parametrize(
    ("scheme", "format", "tolerance", "more"),
    [
        ("rtmp://127.0.0.1:{port}/live/cam", "flv", Fraction(1, 1000), ()),
        ("rtsp://127.0.0.1:{port}/cam", "rtsp", TICK, ("-rtsp_transport", "tcp")),
        ("tcp://127.0.0.1:{port}", "mpegts", TICK / 2, ()),
    ],
)
def test_each_packet_that_a_sender_pushes_arrives_unchanged_and_on_one_clock(
    clip: Path, scheme: str, format: str, tolerance: Fraction, more: tuple[str, ...]
) -> None:
    port = free_port()
    url = scheme.format(port=port)
    with Reading(connector(url, listen=True)) as reading:
        wait_for_port(port)
        with Sender(clip, format, url, speed=3, more=more):
            reading.wait(lambda r: r.gaps)
        assert reading.gaps[0].reason.startswith("reconnected: ")
        assert "the last packet came at 20" in reading.gaps[0].reason
        items = reading.items
    # libav gives the first picture of RTSP no time, so that a session begins with the second key frame; and of the last
    # RTP packet, which holds several frames of sound, it gives one when the connection ends
    skipped, missing = (30, 10) if format == "rtsp" else (0, 2)
    sent = packets_of(ts_of(clip) if format == "mpegts" else clip)
    assert_same_packets(joined(items), sent, tolerance, skipped=skipped, missing=missing)
    assert len(items) >= 2
    assert [item.headers["segment"] for item in items] == [str(n) for n in range(len(items))]
    assert {item.headers["session"] for item in items} == {"1"}
    assert [item.headers.get("truncated") is None for item in items] == [True] * (len(items) - 1) + [False]
    for item in items:
        first = packets_of(item.data)["video"][0]
        assert first[0] == int(item.headers["first_pts"]) * Fraction(item.headers["time_base"])
        assert any(unit[0] & 31 == 5 for unit in first[1]), "a segment begins with a key frame"


@pytest.mark.server
def test_each_packet_over_udp_arrives_and_the_end_is_a_stall(clip: Path) -> None:
    port = free_port(socket.SOCK_DGRAM)
    with Reading(connector(f"udp://127.0.0.1:{port}", stall_s=1)) as reading:
        wait_for_port(port, "udp")
        with Sender(clip, "mpegts", f"udp://127.0.0.1:{port}?pkt_size=1316", speed=3):
            reading.wait(lambda r: r.gaps)
        assert reading.gaps[0].reason.startswith("stalled: no packet for 1 s; the last packet came at ")
        items = reading.items
    assert_same_packets(joined(items), packets_of(ts_of(clip)), TICK / 2, skipped=0)


@pytest.mark.server
def test_each_frame_of_the_normalizer_is_the_sources_frame_at_that_time(clip: Path) -> None:
    port = free_port()
    with Reading(connector(f"tcp://127.0.0.1:{port}", listen=True)) as reading:
        wait_for_port(port)
        with Sender(clip, "mpegts", f"tcp://127.0.0.1:{port}", speed=4):
            reading.wait(lambda r: r.gaps)
        items = reading.items
    source = frames_of(Item(clip.read_bytes(), 0, headers={"format": "mp4"}))
    came: dict[Fraction, Any] = {}
    for item in items:
        assert isinstance(item.data, bytes)
        assert item.headers["format"] == "mp4"
        ours = frames_of(item)
        assert ours, "each segment decodes alone"
        came |= ours
    zero = min(source)
    assert sorted(came) == sorted(when - zero for when in source)
    for when, frame in came.items():
        np.testing.assert_array_equal(frame, source[when + zero])


# -- losses are declared, and it goes on by itself --------------------------------------------------------------------


@pytest.mark.server
def test_a_killed_sender_is_a_gap_and_a_new_session_begins_when_it_is_back(clip: Path) -> None:
    port = free_port()
    url = f"rtmp://127.0.0.1:{port}/live/cam"
    with Reading(connector(url, listen=True, segment_s=1)) as reading:
        wait_for_port(port)
        with Sender(clip, "flv", url, speed=2, loop=True) as sender:
            reading.wait(lambda r: len(r.items) >= 2)
            sender.kill()
            reading.wait(lambda r: r.gaps)
            assert reading.gaps[0].reason.startswith("reconnected: ") and reading.gaps[0].lost is None
            assert reading.items[-1].headers["truncated"].startswith("reconnected: ")
            frames_of(reading.items[-1])
            before = len(reading.items)
            wait_for_port(port)
            sender.restart()
            reading.wait(lambda r: len(r.items) > before)
        again = reading.items[before]
        assert again.headers["session"] == "2" and again.headers["segment"] == "0" and again.headers["first_pts"] == "0"
        positions = [json.dumps(read.position, sort_keys=True) for read in reading.reads]
        assert len(set(positions)) == len(positions)


@pytest.mark.server
def test_a_camera_that_freezes_is_a_stall_and_is_opened_again(clip: Path) -> None:
    with RtspServer(clip) as camera, Reading(connector(camera.url, segment_s=1, stall_s=1, max_failures=50)) as reading:
        reading.wait(lambda r: r.items)
        camera.freeze()
        reading.wait(lambda r: r.gaps)
        assert reading.gaps[0].reason.startswith("stalled: no packet for 1 s; the last packet came at 20")
        before = len(reading.items)
        camera.thaw()
        reading.wait(lambda r: len(r.items) > before and r.items[-1].headers["session"] != "1")
        assert reading.idle, "an idle tick comes while nothing does"


@pytest.mark.server
def test_an_rtsp_camera_tells_the_time_and_comes_back_after_it_was_killed(clip: Path) -> None:
    with RtspServer(clip) as camera, Reading(connector(camera.url, segment_s=1, max_failures=50)) as reading:
        reading.wait(lambda r: len([item for item in r.items if item.event_time]) >= 2)
        camera.kill()
        reading.wait(lambda r: r.gaps)
        items = reading.items
        camera.restart()
        reading.wait(lambda r: len(r.items) > len(items))
    # each sender report moves the clocks of picture and sound against each other by what they drifted
    came, sent = joined(items), packets_of(clip)
    assert_same_packets(came, sent, 2 * TICK, skipped=30, missing=1000, sound=Fraction(1, 1000))
    timed = [item for item in items if "clock_source" in item.headers]
    assert items[-len(timed) :] == timed, "only before the camera's first sender report is there no time"
    for item in timed:
        assert item.headers["clock_source"] == "rtcp"
        assert item.event_time is not None and abs(item.event_time / 1e6 - time.time()) < 60
        first_s = int(item.headers["first_pts"]) * Fraction(item.headers["time_base"])
        assert item.event_time == int(item.headers["clock_zero_us"]) + round(first_s * 1_000_000)
    for one, other in pairwise(timed):
        assert other.event_time and one.event_time and other.event_time > one.event_time


@pytest.mark.server
def test_rtsp_over_udp_and_jpeg_with_g711_are_read() -> None:
    launch = (
        "( videotestsrc is-live=true ! video/x-raw,format=I420,width=160,height=120,framerate=10/1 ! jpegenc "
        "! rtpjpegpay name=pay0 audiotestsrc is-live=true ! audio/x-raw,rate=8000,channels=1 ! mulawenc "
        "! rtppcmupay name=pay1 )"
    )
    with RtspServer(launch=launch) as camera:
        for transport in ("tcp", "udp"):
            with Reading(connector(camera.url, transport=transport, segment_s=1)) as reading:
                reading.wait(lambda r: len(r.items) >= 2)
                item = reading.items[1]
            assert item.headers["streams"] == "0:video:mjpeg 1:audio:pcm_mulaw"
            assert item.headers["media_type"] == "video/quicktime"
            frames = frames_of(item)
            assert len(frames) in (9, 10, 11) and next(iter(frames.values())).shape == (120, 160, 3)


@pytest.mark.server
def test_datagrams_that_are_lost_are_a_gap_and_cost_little_else(clip: Path) -> None:
    port = free_port(socket.SOCK_DGRAM)
    reading = Reading(connector(f"udp://127.0.0.1:{port}", stall_s=1))
    with reading, UdpRelay(port, drop=lambda n: n % 100 == 60) as relay:
        wait_for_port(port, "udp")
        with Sender(clip, "mpegts", f"udp://127.0.0.1:{relay.port}?pkt_size=1316", speed=3):
            reading.wait(lambda r: any(gap.reason.startswith("stalled") for gap in r.gaps))
        assert relay.dropped >= 2
        lost = [gap.reason for gap in reading.gaps if gap.reason.startswith("packets lost: ")]
        assert lost
        items = reading.items
    assert sum(int(item.headers.get("corrupt_packets", "0")) for item in items) >= relay.dropped // 2
    came, sent = joined(items), packets_of(clip)
    whole = {data for _, data in came["video"]} & {data for _, data in sent["video"]}
    assert len(whole) >= len(sent["video"]) - 4 * relay.dropped
    times = {t for t, _ in sent["video"]}
    assert all(t in times for t, _ in came["video"])


@pytest.mark.server
def test_another_resolution_ends_the_session_with_a_gap(folder: Path, clip: Path) -> None:
    other = servers.make_clip(folder / "small.mp4", seconds=3, size="160x120")
    stream = b"".join(servers.remux(p, p.with_suffix(".join.ts")).read_bytes() for p in (clip, other))
    with HttpServer() as web:
        web.files["/live.ts"] = stream
        with Reading(connector(f"{web.url}/live.ts", segment_s=2)) as reading:
            words = "parameters changed: stream 0 (h264) is encoded otherwise; the last packet came at "
            reading.wait(lambda r: any(gap.reason.startswith(words) for gap in r.gaps))
            items = [item for item in reading.items if item.headers["session"] == "1"]
    assert items[-1].headers["truncated"].startswith("parameters changed")
    assert_same_packets(joined(items), packets_of(ts_of(clip)), TICK / 2, skipped=0, missing=2)


@pytest.mark.server
def test_a_slow_reader_costs_whole_segments_and_their_number_is_told(clip: Path) -> None:
    port = free_port()
    url = f"tcp://127.0.0.1:{port}"
    source = connector(url, listen=True, segment_s=1, buffer_mib=0.15)
    reads = source.read(next(iter(source.splits())), None)
    assert isinstance(next(reads), Idle)
    wait_for_port(port)
    with Sender(clip, "mpegts", url, speed=8, loop=True):
        time.sleep(2.5)
        lag = source.lag(next(iter(source.splits())), None)
        assert lag is not None and lag.bytes is not None and 0 < lag.bytes <= 0.15 * (1 << 20)
        seen: list[Any] = []
        while not any(isinstance(read, Gap) for read in seen):
            seen.append(next(reads))
        seen += [next(reads), next(reads)]
        reads.close()
    source.close()
    seen = [read for read in seen if not isinstance(read, Idle)]
    gap = next(read for read in seen if isinstance(read, Gap))
    numbers = [int(read.headers["segment"]) for read in seen if isinstance(read, Item)]
    at = seen.index(gap)
    assert gap.reason.startswith("shed: ") and gap.lost and gap.lost > 3
    assert numbers[:at] == list(range(at)), "what came first is kept"
    assert numbers[at] == at + gap.lost, "and the gap is as wide as it says"


@pytest.mark.server
def test_what_is_sent_between_two_readings_is_lost_and_nothing_comes_twice(clip: Path) -> None:
    port = free_port(socket.SOCK_DGRAM)
    url = f"udp://127.0.0.1:{port}"
    with Sender(clip, "mpegts", f"{url}?pkt_size=1316", speed=2):
        with Reading(connector(url, segment_s=0.5, stall_s=1)) as first:
            first.wait(lambda r: len(r.items) >= 2)
        with Reading(connector(url, segment_s=0.5, stall_s=1), after=first.reads[-1].position) as second:
            second.wait(lambda r: r.items)
            assert isinstance(second.reads[0], Gap)
            assert second.reads[0].reason.startswith("reconnected: reading began again at 20")
            second.wait(lambda r: len(r.gaps) == 2)
    positions = [json.dumps(read.position) for read in [*first.reads, *second.reads]]
    assert len(set(positions)) == len(positions)
    assert second.items[0].headers["session"] == "2"
    one, other, sent = joined(first.items)["video"], joined(second.items)["video"], packets_of(clip)["video"]
    payloads = [data for _, data in [*one, *other]]
    assert len(set(payloads)) == len(payloads), "nothing comes twice"
    assert len(payloads) < len(sent), "what was sent in between is lost"


