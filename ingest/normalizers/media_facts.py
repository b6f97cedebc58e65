"""What a media file says of itself, read before libav sees it: its own length, its codecs, encryption, outside data.

libav opens a cut file without a word and plays what is left; it names no codec that it cannot decode; it hands
encrypted samples to the decoder. The few header fields that tell are read here, by seeking, never by loading a file.

Left out: everything needed to decode. A header that makes no sense gives no facts, and libav will say what is wrong.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import BinaryIO

from headrace.ingest.normalizers import media_facts_boxes, media_facts_streams
from headrace.ingest.normalizers.media_facts_boxes import TrackFacts


@dataclass(frozen=True)
class Facts:
    """What the headers say."""

    #: Why the file is known to be cut, as a sentence; None when it is whole or does not say.
    cut: str | None = None
    #: Bytes that the file should have; None when unknown.
    declared_bytes: int | None = None
    #: Frames of the only track, by its own header (MP3).
    frames: int | None = None
    #: In the order in which libav numbers streams; empty when the format does not list them.
    tracks: tuple[TrackFacts, ...] = field(default=())
    #: The whole file is scrambled (MPEG-TS conditional access).
    scrambled: bool = False

    def track(self, index: int) -> TrackFacts:
        """What is known of one stream."""
        return self.tracks[index] if index < len(self.tracks) else TrackFacts()


def read_facts(stream: BinaryIO, size: int, format: str) -> Facts:
    """The facts of an open file of `size` bytes in a sniffed format; the stream's position is left anywhere."""
    if format == "mp4":
        declared, tracks = media_facts_boxes.iso(stream, size)
        return Facts(_beyond(declared, size), declared, tracks=tracks)
    if format == "matroska":
        declared, tracks = media_facts_boxes.matroska(stream, size)
        return Facts(_beyond(declared, size), declared, tracks=tracks)
    if format in ("wav", "avi"):
        declared = media_facts_streams.riff_end(stream, size)
        return Facts(_beyond(declared, size), declared)
    if format == "mxf":
        declared = media_facts_streams.mxf_end(stream)
        return Facts(_beyond(declared, size), declared)
    if format == "ogg":
        return Facts(*media_facts_streams.ogg_cut(stream, size))
    if format == "flv":
        return Facts(*media_facts_streams.flv_cut(stream, size))
    if format == "amr":
        declared = media_facts_streams.amr_end(stream, size)
        return Facts(_beyond(declared, size), declared)
    if format == "mpegts":
        declared, scrambled = media_facts_streams.transport(stream, size)
        return Facts(_beyond(declared, size), declared, scrambled=scrambled)
    if format in ("mp3", "aac", "ac3", "eac3"):
        frames = media_facts_streams.mp3_frames(stream) if format == "mp3" else None
        return Facts(*media_facts_streams.frames_cut(stream, size, format), frames)
    return Facts()


def _beyond(declared: int | None, size: int) -> str | None:
    if declared is None or declared <= size:
        return None
    return f"its headers account for {declared} bytes, it has {size}"
