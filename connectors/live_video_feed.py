"""Opens a live stream and gives its packets, each with the time the source's own clock says it was taken.

RTSP, RTMP and SRT are opened by libav, which may use the protocols of that one scheme and no other (so no files), and
whose waits end after `stall_s`; everything else comes through sockets of our own. Errors name the source without its
secrets: libav's own messages repeat the address, so they are not chained.
"""

from __future__ import annotations

import errno
import logging
import math
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from struct import unpack_from
from typing import Any
from urllib.parse import urlsplit

from headrace.connectors.live_video_bytes import ByteStream, HttpBytes, accept_tcp, open_tcp, open_udp
from headrace.connectors.live_video_hls import HlsBytes, Place
from headrace.connectors.live_video_http import Http
from headrace.connectors.live_video_segment import Tracks, choose_tracks
from headrace.connectors.live_video_url import PROTOCOLS, Address
from headrace.schemas.errors import ConfigError, MissingExtra, SourceError

log = logging.getLogger(__name__)
#: Clocks outside 2000..2200 were never set.
_CREDIBLE_US = range(946_684_800_000_000, 7_258_118_400_000_000)
#: libav reads this much at once from a stream of ours: a small piece keeps the delay small.
_PIECE_BYTES = 1 << 15


#: Demuxers that one demuxer may call upon: RTP carries its descriptions, and MPEG-TS too.
_FORMATS = {"rtsp": "rtsp,sdp,rtp,mpegts"}
#: What is our own trouble with a port; any other error of a listening port is a stranger's that came and went.
_CANNOT_LISTEN = frozenset({errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES})


class _NoSender(Exception):
    """Who connected was no sender of video."""


@dataclass(frozen=True)
class FeedSettings:
    """How to open a stream."""

    transport: str
    listen: bool
    interface: str | None
    allow_hosts: tuple[str, ...]
    open_timeout_s: float
    stall_s: float
    max_streams: int
    max_bits_s: float
    max_segment_bytes: int


@dataclass
class Feed:
    """An open stream."""

    container: Any
    tracks: Tracks
    source: ByteStream | None
    stop: threading.Event
    clock_source: str
    ended: str = "closed"  #: why `packets` came to an end
    lost: int | None = None  #: items known to be lost at that end
    _anchor: tuple[int, int] | None = field(default=None, repr=False)  #: (pts, µs)

    def packets(self) -> Iterator[tuple[Any, int | None]]:
        """Packets and their times in µs since 1970 UTC, where the source tells; ends with `ended` set."""
        import av

        try:
            for packet in self.container.demux(list(self.tracks.kept)):
                if self.stop.is_set():
                    self.ended = "closed"
                    return
                if packet.size:
                    yield packet, self._clock(packet)
            self.ended = "the sender closed the connection"
        except av.error.ExitError:
            self.ended = "stalled"
        except (av.error.FFmpegError, ValueError, OSError) as exc:
            self.ended = f"the connection broke: {_words(exc)}"
        if self.source is not None and self.source.ended is not None:
            self.ended = self.source.ended
            if isinstance(self.source, HlsBytes):
                self.lost = self.source.lost
        if self.stop.is_set():
            self.ended = "closed"

    def close(self) -> None:
        """Free what libav and the socket hold."""
        self.container.close()
        if self.source is not None:
            self.source.close()

    def _clock(self, packet: Any) -> int | None:
        if packet.has_sidedata("prft"):  # AVProducerReferenceTime: int64 wallclock in µs, int flags
            found: int = unpack_from("=q", bytes(packet.get_sidedata("prft")))[0]
            return found if found in _CREDIBLE_US else None
        if not isinstance(self.source, HlsBytes) or packet.stream_index != self.tracks.main.index or packet.pts is None:
            return None
        marks = self.source.marks
        while marks and packet.pos is not None and packet.pos >= marks[0].byte:
            self._anchor = (packet.pts, marks.popleft().clock_us)
        if self._anchor is None:
            return None
        pts, clock_us = self._anchor
        clock_us += round((packet.pts - pts) * self.tracks.main.time_base * 1_000_000)
        return clock_us if clock_us in _CREDIBLE_US else None


class Opener:
    """Opens one address again and again; `unblock` frees it from waiting for a sender."""

    def __init__(self, address: Address, settings: FeedSettings, stop: threading.Event) -> None:
        self.address = address
        self.settings = settings
        self.stop = stop
        self._place = Place()
        self._http: Http | None = None

    def open(self) -> Feed | None:
        """The stream; None if it listens and no sender came yet. Raises: SourceError, ConfigError."""
        if find_spec("av") is None:
            raise MissingExtra("av", "media", need="reading live video")
        kind = self.address.kind
        if kind in ("rtsp", "rtmp", "srt"):
            return self._by_libav()
        source: ByteStream | None
        settings, format = self.settings, "mpegts"
        if kind == "udp":
            source = datagrams = open_udp(self.address, settings.interface, settings.stall_s, self.stop)
            if datagrams.waits_in_vain():  # it listens, and nobody sends yet: that is no failure
                datagrams.close()
                return None
        elif kind == "http":
            source = self._by_http()
            format = getattr(source, "format", format)
        elif settings.listen:
            end = time.monotonic() + settings.open_timeout_s
            waits = lambda: not self.stop.is_set() and time.monotonic() < end  # noqa: E731 - two names for one test
            source = accept_tcp(self.address, settings.stall_s, self.stop, waits)
            if source is None:
                return None
        else:
            source = open_tcp(self.address, settings.open_timeout_s, settings.stall_s, self.stop)
        try:
            return self._feed(source, source, format=format, options={"protocol_whitelist": "none"})
        except BaseException:
            source.close()
            raise

    def unblock(self) -> None:
        """Make a wait end soon; call it after `stop` is set."""
        if self._http is not None:
            self._http.stop()
        if self.settings.listen and self.address.kind in ("rtsp", "rtmp"):
            host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.address.host, self.address.host)
            try:  # libav waits for a sender: be one, and leave
                socket.create_connection((host, self.address.port or 0), timeout=1).close()
            except OSError:
                return  # it does not listen just now

    def _by_http(self) -> ByteStream:
        settings, address = self.settings, self.address
        url = _without_user(address)
        http = self._http = Http(address, settings.allow_hosts, settings.stall_s)
        if self.stop.is_set():
            http.stop()
        stream = HttpBytes(http, http.open(url), settings.stall_s, self.stop)
        if not stream.head.startswith(b"#EXTM3U"):
            return stream
        stream.close()
        return HlsBytes(
            http,
            address,
            url,
            place=self._place,
            stall_s=settings.stall_s,
            max_segment_bytes=settings.max_segment_bytes,
            max_bandwidth=settings.max_bits_s,
            stop=self.stop,
        )

    def _by_libav(self) -> Feed | None:
        import av

        settings, scheme = self.settings, self.address.scheme
        options = {"protocol_whitelist": PROTOCOLS[scheme]}
        kind = self.address.kind
        if kind == "rtsp":
            options |= {"rtsp_transport": settings.transport, "allowed_media_types": "video+audio"}
            if settings.transport == "udp":
                options["protocol_whitelist"] += ",udp,rtp"
            if settings.listen:
                options |= {"rtsp_flags": "listen", "listen_timeout": str(math.ceil(settings.open_timeout_s))}
            else:  # `timeout` together with listen is refused
                options["timeout"] = str(round(settings.stall_s * 1_000_000))
        elif kind == "rtmp":
            options |= {"listen": "1"} if settings.listen else {"rtmp_live": "live"}
        format = {"rtsp": "rtsp", "rtmp": "flv", "srt": "mpegts"}[kind]
        try:
            return self._feed(self.address.url, None, format=format, options=options)
        except av.error.ProtocolNotFoundError:
            what = f"this build of libav cannot read {scheme}; send MPEG-TS by udp, or RTMP, instead"
            raise ConfigError(f"{self.address.masked}: {what}") from None
        except _NoSender as exc:
            if not self.stop.is_set():
                log.warning("%s: who connected sent no video: %s", self.address.masked, exc)
            self.stop.wait(0.5)
            return None
        except av.error.ExitError:
            if settings.listen:
                return None
            raise SourceError(f"{self.address.masked}: no answer within {settings.open_timeout_s:g} s") from None

    def _feed(self, place: Any, source: ByteStream | None, *, format: str, options: dict[str, str]) -> Feed:
        import av

        masked = self.address.masked
        try:
            container = av.open(
                place,
                mode="r",
                format=format,
                options={"format_whitelist": _FORMATS.get(format, format), "threads": "1", **options},
                metadata_errors="ignore",
                timeout=(self.settings.open_timeout_s, self.settings.stall_s),
                buffer_size=_PIECE_BYTES,
            )
        except (av.error.ProtocolNotFoundError, av.error.ExitError):
            if source is not None:
                raise SourceError(f"{masked}: {source.ended or 'no stream in it'}") from None
            raise
        except (av.error.HTTPUnauthorizedError, av.error.HTTPForbiddenError):
            raise ConfigError(f"{masked}: its user or password is refused") from None
        except (av.error.FFmpegError, OSError, ValueError, OverflowError) as exc:
            if self.settings.listen and source is None and getattr(exc, "errno", None) not in _CANNOT_LISTEN:
                raise _NoSender(_words(exc)) from None
            why = source.ended if source is not None and source.ended else _words(exc)
            raise SourceError(f"{masked}: it cannot be opened: {self.address.without_secrets(why)}") from None
        try:
            return self._check(container, source)
        except BaseException:
            container.close()
            raise

    def _check(self, container: Any, source: ByteStream | None) -> Feed:
        count = len(container.streams)
        if count > self.settings.max_streams:
            limit = self.settings.max_streams
            raise ConfigError(f"{self.address.masked}: it has {count} streams, `max_streams` allows {limit}")
        try:
            tracks = choose_tracks(list(container.streams))
        except ValueError as exc:
            raise SourceError(f"{self.address.masked}: {exc}") from exc
        if isinstance(source, HlsBytes) and source.sound_apart:
            left_out = (*tracks.left_out, "-:audio:rendition")
            tracks = Tracks(tracks.muxer, tracks.kept, tracks.main, left_out)
        return Feed(container, tracks, source, self.stop, "rtcp" if source is None else "hls")


def try_port(address: Address) -> None:
    """Whether one can listen at an address. Raises: SourceError."""
    try:
        socket.create_server((address.host, address.port or 0)).close()
    except OSError as exc:
        raise SourceError(f"{address.masked}: cannot listen there: {exc.strerror or exc}") from exc


def _without_user(address: Address) -> str:
    parts = urlsplit(address.url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment="").geturl()


def _words(exc: Exception) -> str:
    """What libav says, without the address that it adds."""
    return str(getattr(exc, "strerror", None) or type(exc).__name__)
