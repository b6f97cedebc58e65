"""One segment: packets laid unchanged into an MP4 in memory, a complete file whenever it is closed.

MP4 (or its elder, QuickTime, for what MP4 has no code for: the G.711 sound of cameras), because it keeps what others
round: Matroska counts milliseconds, MPEG-TS knows neither MJPEG nor PCM. A track counts in the ticks of its source, and
the movie in their least common multiple, so that the edit list places the first packet exactly. The file has an index
at its end; nothing in it depends on a clock. Sound counts in samples, so its times are exact to one sample.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

#: Tried in turn. All but the last keep ticks as they are.
_MUXERS = ("mp4", "mov", "matroska")
_FORMATS = {"mp4": "mp4", "mov": "mp4", "matroska": "matroska"}
_MEDIA_TYPES = {"mp4": "video/mp4", "mov": "video/quicktime", "matroska": "video/x-matroska"}
#: The largest tick rate that fits an MP4 header.
_MAX_SCALE = (1 << 31) - 1


@dataclass(frozen=True)
class Segment:
    """A finished segment."""

    data: bytes
    headers: dict[str, str]
    event_time: int | None  #: µs since 1970 UTC by the source's clock, of its first picture
    corrupt: int = 0  #: packets that the demuxer marked as damaged


@dataclass(frozen=True)
class Tracks:
    """Which streams are kept, and in what."""

    muxer: str
    kept: tuple[Any, ...]
    main: Any  #: the stream whose key frames begin segments
    left_out: tuple[str, ...]

    @property
    def format(self) -> str:
        """As `connectors/sniff.py` names it."""
        return _FORMATS[self.muxer]

    @property
    def media_type(self) -> str:
        """As HTTP names it."""
        return _MEDIA_TYPES[self.muxer]


def choose_tracks(streams: Sequence[Any]) -> Tracks:
    """The largest picture and all sound, in the first container that holds all of them, or else most.

    Raises: ValueError if there is neither picture nor sound that can be kept.
    """
    pictures = [s for s in streams if s.type == "video" and s.codec_context is not None]
    sounds = [s for s in streams if s.type == "audio" and s.codec_context is not None]
    picture = max(pictures, key=lambda s: (s.codec_context.width * s.codec_context.height, -s.index), default=None)
    wanted = ([picture] if picture is not None else []) + sounds
    if not wanted:
        raise ValueError(f"it has neither picture nor sound ({', '.join(_word(s) for s in streams) or 'no streams'})")
    fits = {muxer: [s for s in wanted if _holds(muxer, s)] for muxer in _MUXERS}
    # the first of those that hold most; none is any good without the picture
    muxer = max(_MUXERS, key=lambda name: (picture is None or picture in fits[name], len(fits[name])))
    kept = fits[muxer]
    if not kept or (picture is not None and picture not in kept):
        raise ValueError(f"no container that headrace reads holds {_word(wanted[0])}")
    left = tuple(_word(s) for s in streams if s not in kept)
    return Tracks(muxer, tuple(kept), kept[0], left)


class SegmentWriter:
    """Packets → the bytes of one file."""

    def __init__(self, tracks: Tracks) -> None:
        import av

        self._buffer = io.BytesIO()
        options = {"fflags": "+bitexact"}
        if tracks.format == "mp4":
            scales = [s.time_base.denominator for s in tracks.kept]
            scales += [s.codec_context.sample_rate for s in tracks.kept if s.type == "audio"]
            options["movie_timescale"] = str(min(math.lcm(*(scale or 1 for scale in scales)), _MAX_SCALE))
        self._container = av.open(self._buffer, "w", format=tracks.muxer, container_options=options)
        self._out = {s.index: self._container.add_stream_from_template(s, opaque=True) for s in tracks.kept}
        self.packets = 0
        self.bytes = 0

    def add(self, packet: Any, index: int) -> None:
        """Append a packet of input stream `index`; its times are this file's from now on."""
        self.packets += 1
        self.bytes += packet.size
        packet.stream = self._out[index]
        self._container.mux_one(packet)

    def close(self) -> bytes:
        """The whole file."""
        self._container.close()
        return self._buffer.getvalue()


@dataclass
class Notes:
    """What one open segment is about, for its headers."""

    first_pts: int | None = None  #: of the main stream
    flags: dict[str, int] = field(default_factory=dict)
    clock_us: int | None = None  #: the source's clock at pts 0 of the session
    end_pts: int = 0
    corrupt: int = 0

    def flag(self, name: str) -> None:
        """Count something out of the ordinary."""
        self.flags[name] = self.flags.get(name, 0) + 1


def _holds(muxer: str, stream: Any) -> bool:
    """Whether a container has a code for what a stream is encoded with."""
    import av

    with av.open(io.BytesIO(), "w", format=muxer) as container:
        try:
            container.add_stream_from_template(stream, opaque=True)
            container.start_encoding()
        except (ValueError, av.error.FFmpegError):
            return False
    return True


def _word(stream: Any) -> str:
    """ "2:data:klv"."""
    context = stream.codec_context
    codec = context.codec.canonical_name if context is not None else getattr(stream, "name", None) or "unknown"
    return f"{stream.index}:{stream.type}:{codec}"
