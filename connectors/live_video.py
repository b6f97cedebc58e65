"""Live video and sound: RTSP, RTMP, HLS, MPEG-TS over UDP, TCP or HTTP, and SRT where libav has it.

Packets are remuxed and never encoded anew, into segments of some seconds that begin with a key frame and decode alone.
There is no going back in such a source: it is read at most once. What is known to be lost is a `Gap` that says from
when on, and the connector opens the stream again by itself, since waiting longer would only lose more.

A position counts what was read: `{"read": 17, "session": 2}`. It tells items apart; nothing can be read again by it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from fractions import Fraction
from typing import Literal

from pydantic import ConfigDict, SecretStr, field_validator, model_validator

from headrace.connectors.contract import Connector, ConnectorConfig, Gap, Idle, Item, Lag, Position, Read, Split
from headrace.connectors.live_video_buffer import Loss, Shed
from headrace.connectors.live_video_cutter import Rule
from headrace.connectors.live_video_feed import FeedSettings, Opener, try_port
from headrace.connectors.live_video_receiver import Receiver, ReceiverSettings
from headrace.connectors.live_video_segment import Segment
from headrace.connectors.live_video_url import Address, parse
from headrace.schemas.errors import ConfigError, SourceError
from headrace.schemas.pipeline import bytes_field, run_field

_IDLE_S = 0.5


class LiveVideo(Connector):
    """Live video and sound from a camera or an encoder: RTSP, RTMP, HLS, MPEG-TS over UDP, TCP or HTTP, SRT."""

    class Config(ConnectorConfig):
        """Settings of `type: live_video`."""

        # An address holds a password: a refused one may not be repeated in the message.
        model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, hide_input_in_errors=True)

        url: SecretStr = run_field(
            description="rtsp(s)://, rtmp(s)://, http(s):// (HLS or MPEG-TS), udp://, tcp:// or srt://"
        )
        name: str = bytes_field(
            "live", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$", description="name of the split: tells cameras apart"
        )
        listen: bool = run_field(False, description="wait at this address for a sender that pushes (rtsp, rtmp, tcp)")
        transport: Literal["tcp", "udp"] = run_field("tcp", description="how RTSP carries packets; udp loses some")
        interface: str | None = run_field(
            None, description="address (IPv6: name) of the interface that joins a UDP group"
        )
        allow_hosts: tuple[str, ...] = run_field(
            (), description="further hosts that playlists and redirects may lead to"
        )
        segment_s: float = bytes_field(8, gt=0, le=600, description="seconds of one segment, to the next key frame")
        max_gop_s: float = bytes_field(
            30, gt=0, le=600, description="cut without a key frame when none came for so long, and flag it"
        )
        max_segment_mib: float = bytes_field(
            64, gt=0, le=1024, description="cut a segment that grows to this, and flag it"
        )
        buffer_mib: float = run_field(
            256, gt=0, description="segments that may wait for a slow reader; more are shed and declared as a gap"
        )
        max_mbit_s: float = run_field(200, gt=0, description="a source that sends more, over 10 s, is refused")
        max_streams: int = run_field(16, ge=1, le=256, description="a source with more pictures and sounds is refused")
        open_timeout_s: float = run_field(15, gt=0, le=300, description="seconds to connect and to find the streams")
        stall_s: float = run_field(
            10, gt=0, le=300, description="seconds without a packet after which it is opened anew"
        )
        max_failures: int = run_field(5, ge=1, description="openings that fail one after another before it is an error")

        @field_validator("url")
        @classmethod
        def _url(cls, value: SecretStr) -> SecretStr:
            parse(value.get_secret_value())
            return value

        @model_validator(mode="after")
        def _listens(self) -> LiveVideo.Config:
            kind = parse(self.url.get_secret_value()).kind
            if self.listen and kind not in ("rtsp", "rtmp", "tcp"):
                raise ValueError(f"`listen` is for rtsp, rtmp and tcp; {kind} is not that (udp always listens)")
            return self

        def receiver(self) -> ReceiverSettings:
            """The settings as the receiver takes them."""
            most = int(self.max_segment_mib * (1 << 20))
            feed = FeedSettings(
                transport=self.transport,
                listen=self.listen,
                interface=self.interface,
                allow_hosts=self.allow_hosts,
                open_timeout_s=self.open_timeout_s,
                stall_s=self.stall_s,
                max_streams=self.max_streams,
                max_bits_s=self.max_mbit_s * 1e6,
                max_segment_bytes=most,
            )
            rule = Rule(Fraction(str(self.segment_s)), Fraction(str(self.max_gop_s)), most)
            address = parse(self.url.get_secret_value())
            return ReceiverSettings(address, feed, rule, int(self.buffer_mib * (1 << 20)), self.max_failures)

    bounded = False
    replay = "none"
    acknowledges = False
    example = '{type: live_video, url: "${env:QUAY_URL}"}'

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._settings = config.receiver()
        self._receivers: set[Receiver] = set()
        self._lock = threading.Lock()
        self._closed = False

    @property
    def _address(self) -> Address:
        return self._settings.address

    def splits(self) -> list[Split]:
        """One: a camera is one stream."""
        return [Split(self.config.name, bounded=False)]

    def read(self, split: Split, after: Position) -> Iterator[Read]:
        """Segments as they come, gaps where some were lost, Idle in between; ends when the connector is closed.

        Raises: SourceError once `max_failures` openings failed one after another; ConfigError where trying again is no
        use (a refused password, a protocol that libav lacks, a playlist that leads to other hosts).
        """
        number, session = _counted(after)
        receiver = Receiver(self._settings, session, resumed=after is not None)
        with self._lock:
            if self._closed:
                return
            self._receivers.add(receiver)
        receiver.start()
        try:
            while not receiver.buffer.closed:
                entry = receiver.buffer.take(_IDLE_S)
                if entry is None:
                    yield Idle()
                    continue
                if isinstance(entry, Exception):
                    raise entry
                number += 1
                if isinstance(entry, Segment):
                    session = int(entry.headers["session"])
                    place = {"read": number, "session": session}
                    yield Item(entry.data, place, event_time=entry.event_time, headers=entry.headers)
                else:
                    yield _gap(entry, {"read": number, "session": session})
        finally:
            receiver.stop()
            with self._lock:
                self._receivers.discard(receiver)

    def describe(self) -> str:
        """`live_video rtsp://host/path`, without user, password, query or stream key."""
        return f"live_video {self._address.masked}"

    def probe(self) -> None:
        """Open the stream and close it again; a listening address is only tried for its port."""
        if self.config.listen:
            try_port(self._address)
            return
        feed = Opener(self._address, self._settings.feed, threading.Event()).open()
        if feed is not None:
            feed.close()

    def lag(self, split: Split, after: Position) -> Lag | None:
        """Bytes of the segments that wait to be read; None while nobody reads. What the source holds is not known."""
        with self._lock:
            held = [receiver.buffer.held_bytes for receiver in self._receivers]
        return Lag(bytes=sum(held)) if held else None

    def end_of(self, split: Split) -> Position:
        """Raises: ConfigError: what was sent is gone, so there is no last item to read up to."""
        raise ConfigError(
            f"{self.describe()} cannot be read up to an end: a live stream keeps nothing; let `headrace serve` spool it"
        )

    def close(self) -> None:
        """End all reading: each `read` returns within its next wait."""
        with self._lock:
            self._closed = True
            receivers = list(self._receivers)
        for receiver in receivers:
            receiver.stop()


def _counted(after: Position) -> tuple[int, int]:
    """(what was read before, last session). Raises: SourceError for a position of another connector."""
    if after is None:
        return 0, 0
    if isinstance(after, dict) and isinstance(after.get("read"), int) and isinstance(after.get("session"), int):
        return after["read"], after["session"]
    raise SourceError(f"{after!r} is no position of live video: {{\"read\": 17, \"session\": 2}} is expected")


def _gap(entry: Loss | Shed, position: Position) -> Gap:
    if isinstance(entry, Loss):
        return Gap(entry.reason, position, entry.lost)
    what = f"{entry.count} segments ({entry.bytes} bytes) were shed between {entry.first} and {entry.last}"
    what += f", and {entry.others} other losses" if entry.others else ""
    return Gap(f"shed: the reader is slower than the source: {what}; see `buffer_mib`", position, entry.count)
