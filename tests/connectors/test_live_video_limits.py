"""Secrets that stay secret, limits that hold, nothing that hangs; and the conformance kit."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import ValidationError

from headrace.connectors.contract import Connector, Idle, Read
from headrace.connectors.live_video import LiveVideo
from headrace.connectors.live_video_url import parse
from headrace.connectors.testing import ConnectorKit
from headrace.schemas.errors import ConfigError, SourceError

from ..servers import live_video as servers
from ..servers.live_video import HttpServer, SilentServer, free_port, wait_for_port
from .live_video_reading import Reading, connector

pytest.importorskip("av")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("live")


@pytest.fixture(scope="module")
def clip(folder: Path) -> Path:
    """6 s of H.264 with B pictures, a key frame each 1.001 s, and AAC."""
    return servers.make_clip(folder / "clip.mp4", seconds=6)


def test_no_secret_of_an_address_is_ever_shown() -> None:
    addresses = {
        "rtsp://eye:opensesame@10.0.0.7:554/h264": "rtsp://10.0.0.7/h264",
        "rtmp://eye:opensesame@h/live/opensesame": "rtmp://h/live/…",
        "https://h/live.m3u8?sig=opensesame": "https://h/live.m3u8",
        "rtsp://eye:open%73esame@[::1]:8554/": "rtsp://[::1]:8554/",
    }
    for url, masked in addresses.items():
        config = LiveVideo.Config(url=url)
        source = LiveVideo(config)
        assert source.describe() == f"live_video {masked}"
        for text in (repr(config), str(config), config.model_dump_json(), source.describe(), repr(parse(url))):
            assert "opensesame" not in text and "open%73esame" not in text
    with pytest.raises(ValidationError) as caught:
        LiveVideo.Config(url="gopher://eye:opensesame@h/")
    assert "opensesame" not in str(caught.value) and "rtsp" in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"url": "rtsp://"}, "names no host"),
        ({"url": "udp://127.0.0.1"}, "names no port"),
        ({"url": "file:///etc/passwd"}, "scheme is 'file'"),
        ({"url": "concat:a|b"}, "scheme is"),
        ({"url": "rtsp://h/a b"}, "encode it"),
        ({"url": "rtsp://h:99999/"}, "cannot be parsed"),
        ({"url": "http://h/x.m3u8", "listen": True}, "`listen` is for"),
        ({"url": "rtsp://h/", "name": "/etc"}, "pattern"),
    ],
)
def test_wrong_settings_are_refused_with_what_would_be_right(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(words)):
        LiveVideo.Config(**settings)


@pytest.mark.server
def test_a_refused_password_parks_the_split_and_is_not_repeated() -> None:
    answer = b'RTSP/1.0 401 Unauthorized\r\nCSeq: {cseq}\r\nWWW-Authenticate: Basic realm="x"\r\n\r\n'
    with SilentServer(answer) as camera:
        url = f"rtsp://eye:opensesame@127.0.0.1:{camera.port}/cam"
        with Reading(connector(url, open_timeout_s=5)) as reading:
            reading.wait(lambda r: r.error)
        assert isinstance(reading.error, ConfigError)
        chain: BaseException | None = reading.error
        while chain is not None:
            assert "opensesame" not in str(chain) + repr(chain)
            chain = chain.__cause__
        assert f"rtsp://127.0.0.1:{camera.port}/cam: its user or password is refused" in str(reading.error)


@pytest.mark.server
@pytest.mark.parametrize("scheme", ["rtsp", "rtmp", "tcp", "http"])
def test_a_server_that_says_nothing_does_not_hold_up_a_close(scheme: str) -> None:
    with SilentServer() as server:
        source = connector(f"{scheme}://127.0.0.1:{server.port}/cam/x", open_timeout_s=4, stall_s=4)
        reading = Reading(source)
        reading.wait(lambda r: r.idle >= 1)
        began = time.monotonic()
        with reading:
            source.close()
        assert time.monotonic() - began < 2
        assert reading.error is None
    _gone("live-video", 6)


@pytest.mark.server
@pytest.mark.parametrize("scheme", ["rtsp", "rtmp", "tcp"])
def test_closing_a_listener_frees_its_port_at_once(scheme: str) -> None:
    port = free_port()
    with Reading(connector(f"{scheme}://127.0.0.1:{port}/a/b", listen=True, open_timeout_s=60)):
        wait_for_port(port)
    _gone("live-video", 3)
    socket.create_server(("127.0.0.1", port)).close()


def _gone(name: str, timeout_s: float) -> None:
    end = time.monotonic() + timeout_s
    while any(thread.name == name for thread in threading.enumerate()):
        assert time.monotonic() < end, threading.enumerate()
        time.sleep(0.05)


@pytest.mark.server
def test_failures_one_after_another_become_an_error_with_their_number() -> None:
    with Reading(connector(f"rtsp://127.0.0.1:{free_port()}/cam", max_failures=2)) as reading:
        reading.wait(lambda r: r.error)
    assert isinstance(reading.error, SourceError) and not isinstance(reading.error, ConfigError)
    assert "Connection refused (2 tries one after another)" in str(reading.error)


def test_srt_is_refused_with_a_reason_where_libav_has_it_not() -> None:
    with Reading(connector("srt://127.0.0.1:9", open_timeout_s=2, max_failures=1)) as reading:
        reading.wait(lambda r: r.error)
    if isinstance(reading.error, ConfigError):
        assert "this build of libav cannot read srt" in str(reading.error)


@pytest.mark.server
def test_more_streams_or_bits_than_agreed_are_refused(clip: Path, folder: Path) -> None:
    with HttpServer() as web:
        web.files["/live.ts"] = servers.remux(clip, folder / "limits.ts").read_bytes()
        with Reading(connector(f"{web.url}/live.ts", max_streams=1)) as reading:
            reading.wait(lambda r: r.error)
        assert isinstance(reading.error, ConfigError) and "`max_streams` allows 1" in str(reading.error)
        with Reading(connector(f"{web.url}/live.ts", max_mbit_s=0.2)) as reading:
            reading.wait(lambda r: r.gaps)
        assert "more than 0.2 Mbit/s (`max_mbit_s`) came" in reading.gaps[0].reason


@pytest.mark.server
def test_probe_tells_whether_there_is_a_stream(clip: Path, folder: Path) -> None:
    with HttpServer() as web:
        web.files["/live.ts"] = servers.remux(clip, folder / "probe.ts").read_bytes()
        connector(f"{web.url}/live.ts").probe()
        with pytest.raises(SourceError, match="HTTP 404"):
            connector(f"{web.url}/absent.ts").probe()
        web.files["/text"] = b"no video at all" * 100
        with pytest.raises(SourceError, match=r"cannot be opened|neither picture nor sound"):
            connector(f"{web.url}/text").probe()
        with pytest.raises(SourceError, match="cannot listen there"):
            connector(f"tcp://127.0.0.1:{web.port}", listen=True).probe()
    with pytest.raises(ConfigError, match="keeps nothing"):
        connector("rtsp://h/").end_of(next(iter(connector("rtsp://h/").splits())))


# -- the kit ----------------------------------------------------------------------------------------------------------


@pytest.mark.server
class TestLiveVideoKit(ConnectorKit):
    """On an endless MPEG-TS over HTTP. Idle ticks are passed over: a live source has some before its first item."""

    max_reads: ClassVar[int] = 3
    web: HttpServer

    @pytest.fixture(autouse=True)
    def _serve(self, folder: Path, clip: Path) -> Iterator[None]:
        path = folder / "kit.ts"
        data = (path if path.exists() else servers.remux(clip, path)).read_bytes()

        def endless(out: Any) -> None:
            while True:
                out.write(data)

        with HttpServer() as self.web:
            self.web.files["/live.ts"] = endless
            yield

    def make(self) -> Connector:
        return connector(f"{self.web.url}/live.ts", segment_s=2, max_mbit_s=10_000)

    def _take(self, connector: Connector, split: Any, after: Any) -> Iterator[Read]:
        reads = connector.read(split, after)
        try:
            count = 0
            for read in reads:
                if not isinstance(read, Idle):
                    yield read
                    count += 1
                if count == self.max_reads:
                    return
        finally:
            reads.close()  # type: ignore[attr-defined]

    def _declared(self) -> Any:
        """The kit compares readings of a source that stays as it is, and a live one does not. For its guarantee see
        test_what_is_sent_between_two_readings_is_lost_and_nothing_comes_twice."""
        return "none"
