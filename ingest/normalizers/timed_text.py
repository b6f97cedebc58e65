"""Normalizer of stand-alone timed text: a SubRip, WebVTT or TTML file becomes one text record with its cues."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from typing import Literal

from pydantic import field_validator

from headrace.connectors.contract import Blob, Item
from headrace.connectors.sniff import sniff_stream
from headrace.ingest.normalizers.contract import Bad, Limits, Normalized, Normalizer, NormalizerConfig, blob_of
from headrace.ingest.normalizers.media_language import bcp47, is_known
from headrace.ingest.normalizers.timed_text_cues import Transcript, text_records
from headrace.ingest.normalizers.timed_text_srt import parse_srt, parse_webvtt
from headrace.ingest.normalizers.timed_text_ttml import parse_ttml
from headrace.schemas.canonical import canonical_json
from headrace.schemas.errors import RecordError
from headrace.schemas.pipeline import bytes_field

TimedFormat = Literal["srt", "webvtt", "ttml"]
#: Extensions of files that lie beside a video.
EXTENSIONS: dict[str, TimedFormat] = {"srt": "srt", "vtt": "webvtt", "ttml": "ttml", "dfxp": "ttml"}
#: Bytes of one file; the subtitles of a film take 100 kB.
MAX_BYTES = 64 << 20


class TimedTextNormalizer(Normalizer):
    """SubRip, WebVTT and TTML files → text."""

    class Config(NormalizerConfig):
        """Settings of `type: timed_text`."""

        encoding: str | None = bytes_field(
            None,
            description="of SubRip files that are neither UTF-8 nor marked UTF-16, such as cp1252",
        )
        language: str | None = bytes_field(None, description="BCP 47; default: the document's, or `name.en.srt`")

        @field_validator("encoding")
        @classmethod
        def _known(cls, value: str | None) -> str | None:
            if value is not None:
                try:
                    codecs.lookup(value)
                except LookupError as exc:
                    raise ValueError(f"{value!r} is not an encoding that Python knows, such as cp1252") from exc
            return value

    modality = "text"

    def open(self, item: Item) -> Iterator[Normalized]:
        """One record, and a Bad if some cues could not be read. Raises: RecordError."""
        blob = blob_of(item)
        yield from timed_text_file(
            blob,
            item.headers.get("format"),
            {"format": "timed_text"},
            self.limits,
            encoding=self.config.encoding,
            language=self.config.language,
        )


def timed_text_file(
    blob: Blob,
    format: str | None,
    locator: dict[str, str],
    limits: Limits,
    *,
    encoding: str | None = None,
    language: str | None = None,
    clock_us: int | None = None,
) -> Iterator[Normalized]:
    """The text record of one file, at `locator`, and a Bad if some cues could not be read. Raises: RecordError."""
    if format not in ("srt", "webvtt", "ttml"):
        with blob.open() as stream:
            format = sniff_stream(stream, blob.name).name
    if format not in ("srt", "webvtt", "ttml"):
        raise RecordError(
            f"unsupported:{format}", f"SubRip, WebVTT or TTML is expected, {blob.name} looks like {format}"
        )
    most = min(MAX_BYTES, limits.max_bytes)
    if blob.size > most:
        raise RecordError("too_large", f"timed text of {blob.size} bytes; {most} are allowed")
    transcript = parse(blob.read(), format, encoding)
    if not any(cue.text.strip() for cue in transcript.cues):
        if transcript.problems:
            raise RecordError("corrupt", f"no cue can be read: {transcript.problems[0]}")
        raise RecordError("empty", f"this {format} file has no cues")
    said = Transcript(
        transcript.cues, language or transcript.language or language_of_name(blob.name), transcript.problems
    )
    yield from text_records(said, locator, clock_us=clock_us, timed_text=format)
    if transcript.problems:
        place = canonical_json({**locator, "cues_left_out": len(transcript.problems)}).decode()
        yield Bad(
            "invalid_row", f"{len(transcript.problems)} cues cannot be read, first: {transcript.problems[0]}", place
        )


def parse(data: bytes, format: str, encoding: str | None = None) -> Transcript:
    """The transcript in a file's bytes. Raises: RecordError."""
    if format == "ttml":
        return parse_ttml(data)
    text = decode(data, encoding if format == "srt" else None)
    if format == "srt":
        return parse_srt(text)
    try:
        return parse_webvtt(text)
    except ValueError as exc:
        raise RecordError("corrupt", str(exc)) from exc


_MARKS = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}


def decode(data: bytes, encoding: str | None = None) -> str:
    """Text of bytes: by their byte order mark, else as UTF-8, else in `encoding`. Raises: RecordError."""
    mark = next((mark for mark in _MARKS if data.startswith(mark)), b"")
    name = _MARKS.get(mark, "utf-8")
    if mark:
        data, encoding = data[len(mark) :], None
    try:
        return data.decode(name)
    except UnicodeDecodeError as exc:
        if encoding is None:
            raise RecordError("bad_encoding", f"not {name} at byte {exc.start}; set its encoding") from exc
    try:
        return data.decode(encoding)
    except (UnicodeDecodeError, LookupError) as exc:
        raise RecordError("bad_encoding", f"not {encoding}: {exc}") from exc


def language_of_name(name: str) -> str | None:
    """ "en" of `clip.en.srt`, None of `clip.srt`."""
    parts = name.rsplit(".", 2)
    return bcp47(parts[1]) if len(parts) == 3 and is_known(parts[1]) else None
