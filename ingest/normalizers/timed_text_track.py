"""Subtitle tracks inside a video file → cues: the packets' own bytes, not what a renderer would make of them.

    mov_text   [u16 length][text, UTF-8, or UTF-16 with a byte order mark][style boxes]      3GPP TS 26.245
    subrip     text                               webvtt   text, settings aside              Matroska: S_TEXT/*
    ass, ssa   ReadOrder,Layer,Style,Name,MarginL,MarginR,MarginV,Effect,Text               Matroska: S_TEXT/ASS
    wvtt       boxes: vttc (payl: text) per cue, vtte for silence                            ISO/IEC 14496-30
    ttml, stpp a TTML document a packet, its times on the track's clock

Left out: pictures of text (DVD, DVB, Blu-ray) and captions inside video frames (CEA-608/708).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from typing import Any

from headrace.ingest.normalizers.contract import Bad, Normalized
from headrace.ingest.normalizers.media import Media
from headrace.ingest.normalizers.media_language import bcp47
from headrace.ingest.normalizers.timed_text_cues import Cue, Transcript, text_records
from headrace.ingest.normalizers.timed_text_srt import strip_srt, strip_webvtt
from headrace.ingest.normalizers.timed_text_ttml import parse_ttml
from headrace.schemas.canonical import canonical_json
from headrace.schemas.errors import RecordError

#: Characters of one track; the subtitles of a film take 100,000.
MAX_CHARACTERS = 64 << 20


class TextTrack:
    """Feeds on the packets of one subtitle stream, yields its transcript at the end."""

    def __init__(self, media: Media, stream: Any) -> None:
        self.media = media
        self.stream = stream
        self.codec = media.codec(stream)
        self.emitted = 0
        self.done = False
        self._cues: list[Cue] = []
        self._problems: list[str] = []
        self._language = bcp47(stream.metadata.get("language"))
        self._characters = 0

    def feed(self, packet: Any) -> Iterator[Normalized]:
        """Take one packet; nothing comes out before the end. Raises: RecordError if there is too much text."""
        start = packet.pts if packet.pts is not None else packet.dts
        try:
            if self.codec in ("ttml", "stpp"):
                found = parse_ttml(bytes(packet))
                self._language = self._language or found.language
                self._problems += found.problems
                cues = [cue for cue in found.cues if cue not in self._cues[-64:]]  # a document may be sent again
            else:
                texts = _READERS[self.codec](bytes(packet))
                cues = [self._cue(start, packet.duration, text) for text in texts if text.strip()]
        except (ValueError, struct.error, RecordError) as exc:
            self._problems.append(f"packet at {packet.pts}: {exc}")
            return iter(())
        self._cues += cues
        self._characters += sum(len(cue.text) for cue in cues)
        if self._characters > MAX_CHARACTERS:
            raise RecordError("too_large", f"more than {MAX_CHARACTERS} characters of subtitles")
        return iter(())

    def cut(self) -> str | None:
        """A transcript may end at any time: only the file can say that it was cut."""
        return None

    def finish(self) -> Iterator[Normalized]:
        """The transcript, and a Bad if some cues could not be read."""
        place = {"stream": self.stream.index}
        flags = ["truncated"] if self.media.facts.cut is not None or self.media.read_error is not None else []
        transcript = Transcript(self._cues, self._language, tuple(self._problems))
        for record in text_records(transcript, place, clock_us=self.media.creation_us(), flags=flags, codec=self.codec):
            self.emitted += 1
            yield record
        if self._problems:
            locator = canonical_json({**place, "cues_left_out": len(self._problems)}).decode()
            message = f"{len(self._problems)} cues cannot be read, first: {self._problems[0]}"
            yield Bad("corrupt", message, locator)

    def _cue(self, start: int | None, duration: int | None, text: str) -> Cue:
        if start is None:
            raise ValueError("a subtitle packet without a time")
        base = self.stream.time_base
        return Cue(round(start * base * 1_000_000), round((start + max(duration or 0, 0)) * base * 1_000_000), text)


def _utf8(data: bytes) -> str:
    """Text up to the first NUL, behind which some muxers leave padding."""
    return data.split(b"\0", 1)[0].decode("utf-8")


def _mov_text(data: bytes) -> list[str]:
    (length,) = struct.unpack_from(">H", data)
    text = data[2 : 2 + length]
    if len(text) < length:
        raise ValueError(f"{length} bytes of text are promised, {len(text)} are there")
    if text[:2] in (b"\xfe\xff", b"\xff\xfe"):
        return [text.decode("utf-16").strip()]
    return [text.decode("utf-8").strip()]


def _ass(data: bytes) -> list[str]:
    fields = _utf8(data).split(",", 8)
    if len(fields) < 9:
        raise ValueError(f"an ASS event has nine fields, this one has {len(fields)}")
    return [strip_ass(fields[8])]


def strip_ass(text: str) -> str:
    """Text of an ASS event: without {override} blocks and drawings, \\N and \\n as line breaks, \\h as a blank."""
    drawing, out = False, []
    for piece in re.split(r"(\{[^}]*\})", text):
        if piece.startswith("{"):
            for mode in re.findall(r"\\p(\d+)", piece):
                drawing = mode != "0"
        elif not drawing:
            out.append(piece)
    return re.sub(r"\\[Nn]", "\n", "".join(out)).replace("\\h", " ").strip()


def _wvtt(data: bytes) -> list[str]:
    cues = [box for kind, box in _boxes(data) if kind == b"vttc"]
    return [strip_webvtt(text.decode("utf-8")) for cue in cues for kind, text in _boxes(cue) if kind == b"payl"]


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    while at < len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        if size < 8 or at + size > len(data):
            raise ValueError(f"a box of {size} bytes in a sample of {len(data)}")
        yield kind, data[at + 8 : at + size]
        at += size


_READERS: dict[str, Callable[[bytes], list[str]]] = {
    "mov_text": _mov_text,
    "subrip": lambda data: [strip_srt(_utf8(data))],
    "srt": lambda data: [strip_srt(_utf8(data))],
    "text": lambda data: [_utf8(data).strip()],
    "webvtt": lambda data: [strip_webvtt(_utf8(data))],
    "S_TEXT/WEBVTT": lambda data: [strip_webvtt(_utf8(data))],
    "ass": _ass,
    "ssa": _ass,
    "wvtt": _wvtt,
}
