"""Opens audio and video files with libav, and nothing but the one file: the only door to PyAV's demuxers.

What is chosen by us and never by the data: the demuxer (from the sniffed format), the file (a Python object without a
name, so there is nothing to resolve a relative reference against), no protocol at all (`protocol_whitelist` names none,
and a request to open anything else is refused and remembered), one thread. Playlists, concat scripts and movies that
refer to other files therefore cannot reach them. Errors of libav leave as RecordError.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any, BinaryIO

from headrace.connectors.contract import Blob
from headrace.connectors.sniff import sniff_stream
from headrace.ingest.normalizers.contract import Limits
from headrace.ingest.normalizers.media_facts import Facts, read_facts
from headrace.schemas.errors import HeadraceError, MissingExtra, RecordError

#: Sniffed format → libav demuxer.
DEMUXERS: dict[str, str] = {
    "mp4": "mov,mp4,m4a,3gp,3g2,mj2",
    "matroska": "matroska,webm",
    "mpegts": "mpegts",
    "mpegps": "mpeg",
    "mxf": "mxf",
    "avi": "avi",
    "flv": "flv",
    "wav": "wav",
    "flac": "flac",
    "mp3": "mp3",
    "ogg": "ogg",
    "aac": "aac",
    "ac3": "ac3",
    "eac3": "eac3",
    "amr": "amr",
}
#: Bytes that libav asks for at once. Its own 32 KiB cost a call into Python each.
BUFFER_BYTES = 1 << 18


class _Reader:
    """The one file libav may read. It has no name, and keeps the first error of the source beneath it."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.failure: Exception | None = None
        self.refused: str | None = None

    def read(self, size: int) -> bytes:
        try:
            return self._stream.read(size)
        except (OSError, HeadraceError) as exc:
            self.failure = self.failure or exc
            raise

    def seek(self, offset: int, whence: int = 0) -> int:
        try:
            return self._stream.seek(offset, whence)
        except (OSError, HeadraceError) as exc:
            self.failure = self.failure or exc
            raise

    def tell(self) -> int:
        return self._stream.tell()

    def refuse(self, url: str, flags: int, options: dict[str, str]) -> Any:
        """Called when data asks libav to open something else."""
        self.refused = self.refused or url
        raise RecordError("external_reference", f"it asks for {url[:200]!r}; a file may not open other files or hosts")


@dataclass
class Media:
    """An open file."""

    container: Any
    format: str
    facts: Facts
    size: int
    reader: _Reader
    limits: Limits
    #: Why reading packets stopped before the end; set by `packets`.
    read_error: RecordError | None = field(default=None)

    def codec(self, stream: Any) -> str:
        """The codec's common name ("mp3", not "mp3float"); for one without a decoder, the container's tag."""
        if stream.codec_context is not None:
            return str(stream.codec_context.codec.canonical_name)
        return getattr(stream, "name", None) or self.facts.track(stream.index).tag or stream.type

    def creation_us(self) -> int | None:
        """`creation_time` of the container in µs since 1970 UTC.

        libav gives it in UTC, with or without a Z. The zero of either clock (1904, 1970) means that nobody set it.
        """
        value = self.container.metadata.get("creation_time", "")
        try:
            when = datetime.fromisoformat(value)
        except ValueError:
            return None
        when = when.replace(tzinfo=UTC) if when.tzinfo is None else when
        us = (when - datetime(1970, 1, 1, tzinfo=UTC)) // _MICROSECOND
        return us if us > 0 else None

    def packets(self, streams: Sequence[Any]) -> Iterator[Any]:
        """The packets of some streams, in file order. Where reading fails it stops and `read_error` says why."""
        import av

        wanted = {stream.index for stream in streams}
        for stream in self.container.streams:
            stream.discard = av.stream.Discard.default if stream.index in wanted else av.stream.Discard.all
        try:
            for packet in self.container.demux(list(streams)):
                if packet.size:  # the empty ones at the end only mean: flush
                    yield packet
        except (av.error.FFmpegError, OSError, HeadraceError) as exc:
            self.read_error = self._failed(exc)
        if self.reader.failure is not None:
            raise self._failed(self.reader.failure)

    def _failed(self, exc: Exception) -> RecordError:
        return translate(self.reader.failure or exc, self.format, self.facts, "its packets cannot be read further")


_MICROSECOND = datetime.resolution
#: Last microsecond that a date can name (year 9999).
_LAST_US = (datetime.max.replace(tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)) // _MICROSECOND


def wall_clock(clock_us: int | None, start: Fraction, end: Fraction) -> dict[str, Any]:
    """Time columns of a record in [start, end) seconds after `clock_us`; none where that is unknown or absurd."""
    if clock_us is None:
        return {}
    begin, stop = clock_us + round(start * 1_000_000), clock_us + round(end * 1_000_000)
    if not 0 < begin <= stop <= _LAST_US:
        return {}
    return {"event_time": begin, "event_end": stop, "time_source": "container:creation_time"}


@contextmanager
def open_media(blob: Blob, format: str | None, limits: Limits) -> Iterator[Media]:
    """A file, opened for reading packets. `format` is the sniffed one; without it the first bytes decide.

    Raises: RecordError; SourceError as the blob raises it.
    """
    try:
        import av
    except ImportError as exc:
        raise MissingExtra("av", "media", need="reading audio and video") from exc

    size = blob.size
    if size == 0:
        raise RecordError("empty", "the file has no bytes")
    with blob.open() as stream:
        if format not in DEMUXERS:
            format = sniff_stream(stream, blob.name).name
        if format not in DEMUXERS:
            known = format != "unknown"
            reason = f"unsupported:{format}" if known else "unknown_format"
            raise RecordError(reason, f"audio or video is expected ({', '.join(DEMUXERS)}), this looks like {format}")
        facts = read_facts(stream, size, format)
        if facts.scrambled:
            raise RecordError("encrypted", "its transport packets are scrambled")
        stream.seek(0)
        reader = _Reader(stream)
        try:
            container = av.open(
                reader,
                mode="r",
                format=_single_name(DEMUXERS[format]),
                options={
                    "format_whitelist": DEMUXERS[format],
                    "protocol_whitelist": "none",
                    "max_pixels": str(limits.max_pixels),
                    "threads": "1",
                },
                metadata_errors="ignore",
                buffer_size=BUFFER_BYTES,
                io_open=reader.refuse,
            )
        except (av.error.FFmpegError, OSError, ValueError, MemoryError, HeadraceError) as exc:
            raise translate(reader.failure or exc, format, facts, "its header cannot be read") from exc
        with container:
            if reader.refused is not None:
                raise RecordError("external_reference", f"it asks for {reader.refused[:200]!r}")
            yield Media(container, format, facts, size, reader, limits)


def _single_name(demuxer: str) -> str:
    """PyAV looks a demuxer up by one of its names."""
    return demuxer.split(",")[0]


def translate(exc: Exception, format: str, facts: Facts, what: str) -> RecordError:
    """The RecordError that says what an error of libav or of the source means for this file."""
    import av

    if isinstance(exc, HeadraceError):
        if isinstance(exc, RecordError):
            return exc
        raise exc
    if facts.tracks and all(track.encrypted for track in facts.tracks):
        return RecordError("encrypted", f"{what}: every track is encrypted ({exc})")
    if isinstance(exc, MemoryError):
        return RecordError("too_large", f"{what}: it asks for more memory than there is ({exc})")
    if isinstance(exc, (av.error.DecoderNotFoundError, av.error.DemuxerNotFoundError)):
        return RecordError(f"unsupported:{format}", f"{what}: this build of libav cannot read it ({exc})")
    if isinstance(exc, (av.error.PatchWelcomeError, av.error.NotImplementedError)):
        return RecordError(f"unsupported:{format}", f"{what}: libav does not implement it ({exc})")
    if isinstance(exc, OSError) and not isinstance(exc, av.error.FFmpegError):
        return RecordError("io_error", f"{what}: {exc}")
    if facts.cut is not None:
        return RecordError("truncated", f"{what}: {facts.cut} ({exc})")
    if any(track.encrypted for track in facts.tracks):
        return RecordError("encrypted", f"{what}: a track is encrypted ({exc})")
    if isinstance(exc, EOFError):
        return RecordError("truncated", f"{what}: it ends too early ({exc})")
    return RecordError("corrupt", f"{what}: {exc}")
