"""HLS as one byte stream: playlists are polled, the segments fetched and laid end to end for one demuxer.

Ours and not libav's, because only so are the hosts limited, missed segments counted by their sequence numbers, and
EXT-X-PROGRAM-DATE-TIME seen. `marks` says at which byte a segment with a known date begins.

A stream ends (and the connector opens it anew, with a session of its own) at a discontinuity, at another EXT-X-MAP, and
where segments left the playlist before they were fetched. Encrypted segments and packed audio are refused.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass

from headrace.connectors.live_video_bytes import ByteStream
from headrace.connectors.live_video_http import Http
from headrace.connectors.live_video_playlist import Piece, Playlist, parse_playlist
from headrace.connectors.live_video_url import Address
from headrace.schemas.errors import ConfigError, SourceError

#: RFC 8216, 6.3.3: a client starts at least three target durations from the end.
_FROM_END = 3
_MAX_PLAYLIST = 8 << 20
_TS_SYNC = 0x47


@dataclass
class Place:
    """What the next session of the same stream goes on from; kept by the connector over reconnects."""

    next_sequence: int | None = None


@dataclass(frozen=True)
class Mark:
    """From this byte of the stream on, the first picture was taken at this time."""

    byte: int
    clock_us: int


class HlsBytes(ByteStream):
    """The segments of one media playlist, from near its end on."""

    def __init__(
        self,
        http: Http,
        source: Address,
        url: str,
        *,
        place: Place,
        stall_s: float,
        max_segment_bytes: int,
        max_bandwidth: float,
        stop: threading.Event,
    ) -> None:
        """Fetch the playlist and choose a variant: the most pixels, then the most bits, within `max_bandwidth`.

        Raises: SourceError, ConfigError.
        """
        super().__init__(stall_s, stop)
        self._http = http
        self._source = source
        self._place = place
        self._max_bytes = max_segment_bytes
        self.marks: deque[Mark] = deque()
        self.lost: int | None = None  #: segments that went by unread, once that is the reason of the end
        self.sound_apart = False
        self._held = memoryview(b"")
        self._given = 0  # bytes fetched so far
        self._init: tuple[str, tuple[int, int] | None] | None = None
        self._started = False
        self._polled = 0.0
        self._url = url
        self._playlist = self._fetch(url)
        if self._playlist.variants:
            fitting = [v for v in self._playlist.variants if v.bandwidth <= max_bandwidth]
            if not fitting:
                raise ConfigError(f"{source.masked}: each of its variants has more bits a second than `max_mbit_s`")
            best = max(fitting, key=lambda v: (v.pixels, v.bandwidth))
            self.sound_apart = best.sound_apart
            self._url = http.allowed(best.url)
            self._playlist = self._fetch(self._url)
        if not self._playlist.pieces:
            raise SourceError(f"{source.masked}: its playlist lists no segment yet")
        self._start()
        self._first = self._next_piece()
        if self._first is None:
            raise SourceError(f"{source.masked}: its playlist has nothing new" + self._why_over())
        self.format = "mp4" if self._first.init else "mpegts"
        if not self._load(self._first):
            raise SourceError(f"{source.masked}: its first segment cannot be had: {self.ended}")
        if self.format == "mpegts" and self._held[0] != _TS_SYNC:
            raise ConfigError(
                f"{source.masked}: its segments are neither MPEG-TS nor MP4 (packed audio is not read): they begin "
                f"with {bytes(self._held[:8]).hex()}"
            )

    def read(self, size: int) -> bytes:
        if not self._held:
            piece = self._wait() if self.ended is None else None
            if piece is None or not self._load(piece):
                return b""
        given, self._held = bytes(self._held[:size]), self._held[size:]
        return given

    def close(self) -> None:
        self._http.stop()

    # -- which segment comes next -------------------------------------------------------------------------------------

    def _start(self) -> None:
        """Where to begin: where the session before ended if the playlist still has it, else near the end."""
        pieces = self._playlist.pieces
        if self._place.next_sequence is None or not (
            pieces[0].sequence <= self._place.next_sequence <= pieces[-1].sequence + 1
        ):
            self._place.next_sequence = pieces[max(0, len(pieces) - _FROM_END)].sequence

    def _next_piece(self) -> Piece | None:
        """The segment to fetch now; None if it is not listed yet, or the stream ends here (`ended`)."""
        wanted = self._place.next_sequence
        pieces = self._playlist.pieces
        assert wanted is not None
        if not pieces or wanted > pieces[-1].sequence + _FROM_END:
            if pieces:
                self._place.next_sequence = None
                self._end("the playlist began to count anew")
            return None
        if wanted > pieces[-1].sequence:
            if self._playlist.ended:
                self._end("the stream is over (EXT-X-ENDLIST)")
            return None
        if wanted < pieces[0].sequence:
            self.lost = pieces[0].sequence - wanted
            self._place.next_sequence = pieces[0].sequence
            self._end(f"{self.lost} segments left the playlist before they were read")
            return None
        piece = pieces[wanted - pieces[0].sequence]
        if piece.encrypted:
            raise ConfigError(f"{self._source.masked}: its segments are encrypted (EXT-X-KEY), which is not read")
        if self._started and piece.discontinuity:
            self._end("discontinuity")
            return None
        if self._started and piece.init != self._init:
            self._end("parameters changed: another EXT-X-MAP")
            return None
        return piece

    def _wait(self) -> Piece | None:
        """The next segment, polled for at most `stall_s`."""
        deadline = time.monotonic() + self.stall_s
        trouble = ""
        while self.ended is None:
            if self.stop.is_set():
                self._end("closed")
            elif (piece := self._next_piece()) is not None:
                return piece
            elif self.ended is None and time.monotonic() > deadline:
                self._end(f"stalled{trouble}")
            elif self.ended is None:
                # RFC 8216, 6.3.4: after an unchanged playlist wait half a target duration
                pause = max(0.1, self._polled + self._playlist.target_s / 2 - time.monotonic())
                if not self.stop.wait(min(pause, max(0.0, deadline - time.monotonic()) + 0.01)):
                    try:
                        self._playlist = self._fetch(self._url)
                    except SourceError as exc:  # the next try may do; `stalled` says what came of it
                        trouble = f" ({exc})"
        return None

    # -- fetching -----------------------------------------------------------------------------------------------------

    def _fetch(self, url: str) -> Playlist:
        self._polled = time.monotonic()
        data = self._http.fetch(url, _MAX_PLAYLIST)
        try:
            return parse_playlist(data.decode("utf-8"), url)
        except (UnicodeDecodeError, ValueError) as exc:
            raise SourceError(f"{self._source.masked}: not a playlist: {exc}") from exc

    def _load(self, piece: Piece) -> bool:
        """Fetch a segment; False if it cannot be had, which ends the stream."""
        header = b""
        try:
            if not self._started and piece.init is not None:
                header = self._http.fetch(piece.init[0], self._max_bytes, piece.init[1])
            data = self._http.fetch(piece.url, self._max_bytes, piece.byte_range)
        except SourceError as exc:
            self._place.next_sequence = piece.sequence + 1
            self.lost = 1
            self._end("closed" if self.stop.is_set() else f"segment {piece.sequence} cannot be read: {exc}")
            return False
        self._place.next_sequence = piece.sequence + 1
        if piece.clock_us is not None:
            self.marks.append(Mark(self._given + len(header), piece.clock_us))
        self._init, self._started = piece.init, True
        self._held = memoryview(header + data)
        self._given += len(self._held)
        if not self._held:
            self._end(f"segment {piece.sequence} is empty")
        return bool(self._held)

    def _why_over(self) -> str:
        return f": {self.ended}" if self.ended else ""
