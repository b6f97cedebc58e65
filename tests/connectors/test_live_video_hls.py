"""HLS from a real HTTP server: each packet, the dates, what left the playlist, and where it may not lead."""

from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path

import pytest

from headrace.connectors.live_video_playlist import parse_playlist
from headrace.schemas.errors import ConfigError

from ..servers import live_video as servers
from ..servers.live_video import HttpServer
from .live_video_reading import TICK, Reading, assert_same_packets, connector, joined, packets_of

pytest.importorskip("av")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("live")


@pytest.fixture(scope="module")
def clip(folder: Path) -> Path:
    """6 s of H.264 with B pictures, a key frame each 1.001 s, and AAC."""
    return servers.make_clip(folder / "clip.mp4", seconds=6)


@pytest.fixture(scope="module")
def hls(folder: Path, clip: Path) -> dict[str, Path]:
    """The clip as HLS, in MPEG-TS and in fragmented MP4, with a date at each segment."""
    out = {}
    for kind in ("mpegts", "fmp4"):
        place = folder / kind
        place.mkdir()
        flags = "program_date_time+independent_segments"
        more = ["-f", "hls", "-hls_time", "1", "-hls_list_size", "0", "-hls_flags", flags, "-hls_segment_type", kind]
        servers.remux(clip, place / "live.m3u8", *more)
        out[kind] = place
    return out


def live_lists(place: Path) -> list[bytes]:
    """The playlist as a server would show it over time: ever more of it, without its end."""
    lines = (place / "live.m3u8").read_text().splitlines()
    ends = [i for i, line in enumerate(lines) if line and not line.startswith("#")]
    return ["\n".join([*lines[: end + 1], ""]).encode() for end in ends]


@pytest.mark.server
@pytest.mark.parametrize("kind", ["mpegts", "fmp4"])
def test_hls_gives_each_packet_and_the_date_of_each_segment(folder: Path, hls: dict[str, Path], kind: str) -> None:
    lists = live_lists(hls[kind])
    with HttpServer(hls[kind]) as web:
        web.files["/live.m3u8"] = lists[1]
        web.files["/master.m3u8"] = (
            b"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=900000000\nabsent.m3u8\n"
            b"#EXT-X-STREAM-INF:BANDWIDTH=500000,RESOLUTION=320x240\nlive.m3u8\n"
        )
        with Reading(connector(f"{web.url}/master.m3u8?token=hidden", stall_s=2)) as reading:
            for number, text in enumerate(lists[2:], 3):
                web.files["/live.m3u8"] = text
                asked = f"{number - 1}."
                reading.wait(lambda r, asked=asked: any(asked in path for path in web.asked))
            reading.wait(lambda r: r.gaps)
            assert reading.gaps[0].reason.startswith("stalled: no packet for 2 s")
            items = reading.items
    whole = folder / f"hls-{kind}"  # the segments end to end, as the file that they are together
    parts = re.findall(r'URI="([^"]+)"|^(\w+\.\w+)$', lists[-1].decode(), re.M)
    whole.write_bytes(b"".join((hls[kind] / (a or b)).read_bytes() for a, b in parts))
    assert_same_packets(joined(items), packets_of(whole), TICK, skipped=0)
    dates = re.findall(r"PROGRAM-DATE-TIME:(\S+)", (hls[kind] / "live.m3u8").read_text())
    first = parse_playlist(lists[-1].decode(), "http://h/").pieces[0].clock_us
    assert len(dates) == len(lists) and first is not None
    for item in items:
        first_us = round(int(item.headers["first_pts"]) * Fraction(item.headers["time_base"]) * 1_000_000)
        assert item.headers["clock_source"] == "hls"
        assert item.event_time is not None and abs(item.event_time - first - first_us) < 2000


@pytest.mark.server
def test_segments_that_left_an_hls_playlist_are_counted(hls: dict[str, Path]) -> None:
    lists = live_lists(hls["mpegts"])
    head, *rest = re.split(r"(?=#EXTINF)", re.sub("#EXT-X-PROGRAM.*\n", "", lists[-1].decode()))
    with HttpServer(hls["mpegts"]) as web:
        web.files["/live.m3u8"] = (head + "".join(rest[:2])).encode()
        with Reading(connector(f"{web.url}/live.m3u8", segment_s=1)) as reading:
            reading.wait(lambda r: any("1.ts" in path for path in web.asked))
            late = head.replace("MEDIA-SEQUENCE:0", "MEDIA-SEQUENCE:4") + "".join(rest[4:])
            web.files["/live.m3u8"] = late.encode()
            reading.wait(lambda r: r.gaps)
            gap = reading.gaps[0]
            assert gap.lost == 2 and gap.reason.startswith("reconnected: 2 segments left the playlist before")
            reading.wait(lambda r: r.items[-1].headers["session"] == "2")


@pytest.mark.server
@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("http://localhost:{port}/live0.ts", "points to the host 'localhost'"),
        ("file:///etc/passwd", "'file' address"),
        ("https://169.254.169.254/x.ts", "points to the host '169.254.169.254'"),
        ('#EXT-X-KEY:METHOD=AES-128,URI="k"\nlive0.ts', "encrypted"),
    ],
)
def test_an_hls_playlist_may_not_lead_elsewhere(hls: dict[str, Path], line: str, words: str) -> None:
    with HttpServer(hls["mpegts"]) as web:
        place = line.format(port=web.port) if "{" in line else line
        uri = place if place.startswith("#") else f"#EXTINF:1,\n{place}"
        web.files["/live.m3u8"] = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n{uri}\n".encode()
        with Reading(connector(f"{web.url}/live.m3u8", max_failures=1)) as reading:
            reading.wait(lambda r: r.error)
        assert isinstance(reading.error, ConfigError) and words in str(reading.error)
        assert [path for path in web.asked if "live0" in path] == []


@pytest.mark.server
def test_a_redirect_goes_to_allowed_hosts_only_and_takes_no_password_there(hls: dict[str, Path]) -> None:
    with HttpServer(hls["mpegts"]) as web, HttpServer(hls["mpegts"]) as other:
        other.files["/live.m3u8"] = live_lists(hls["mpegts"])[-1]
        web.redirects["/live.m3u8"] = f"http://localhost:{other.port}/live.m3u8"
        url = f"http://eye:opensesame@127.0.0.1:{web.port}/live.m3u8"
        with Reading(connector(url)) as reading:
            reading.wait(lambda r: r.error)
        assert isinstance(reading.error, ConfigError) and "localhost" in str(reading.error)
        assert other.asked == []
        assert "Authorization" in web.headers[0]
        with Reading(connector(url, allow_hosts=["localhost"], max_failures=1)) as reading:
            reading.wait(lambda r: other.asked)
        assert all("Authorization" not in headers for headers in other.headers)


def test_playlists_are_read_as_the_standard_says() -> None:
    text = """#EXTM3U
#EXT-X-TARGETDURATION:4
#EXT-X-MEDIA-SEQUENCE:7
#EXT-X-MAP:URI="init.mp4",BYTERANGE="100@5"
#EXT-X-PROGRAM-DATE-TIME:2025-01-01T00:00:00.500Z
#EXTINF:4.004,title
#EXT-X-BYTERANGE:50@200
a.mp4
#EXTINF:4,
#EXT-X-BYTERANGE:60
a.mp4
#EXT-X-DISCONTINUITY
#EXTINF:2,
sub/b.mp4?x=1
#EXT-X-ENDLIST
"""
    playlist = parse_playlist(text, "https://h/p/list.m3u8")
    first, second, third = playlist.pieces
    assert [p.sequence for p in playlist.pieces] == [7, 8, 9] and playlist.ended and playlist.target_s == 4
    assert first.url == "https://h/p/a.mp4" and third.url == "https://h/p/sub/b.mp4?x=1"
    assert (first.byte_range, second.byte_range, third.byte_range) == ((200, 50), (250, 60), None)
    assert first.clock_us == 1735689600_500_000 and second.clock_us == first.clock_us + 4_004_000
    assert third.discontinuity and third.clock_us is None and not second.discontinuity
    assert first.init == ("https://h/p/init.mp4", (5, 100))
    for wrong in ("EXTINF:x,\na", "EXT-X-MEDIA-SEQUENCE:-1", "EXT-X-MAP:A=1", "EXT-X-BYTERANGE:1@x\na"):
        with pytest.raises(ValueError):
            parse_playlist(f"#EXTM3U\n#{wrong}", "http://h/")
    for wrong in ("", "hello"):
        with pytest.raises(ValueError, match="#EXTM3U"):
            parse_playlist(wrong, "http://h/")
