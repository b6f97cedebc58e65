"""Cues of timed text, and the text record they become: one document a track, with each cue's time and place in `extra`.

A whole track is one document because that is what a transcript is to read; a segment's cues are found by their times.
Text is the cues' texts in order of time, one line break between them; over 1 Mi characters it is divided between cues.

    extra = {"cues": [[start µs, end µs, first character, character after the last], ...], ...}
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import pyarrow as pa

from headrace.ingest.normalizers.media import wall_clock
from headrace.schemas.canonical import canonical_json
from headrace.schemas.record import as_draft

#: Characters of one record (DESIGN: a document is divided only above this).
MAX_CHARACTERS = 1 << 20


@dataclass(frozen=True, order=True)
class Cue:
    """A text and when it is shown, in µs from the file's start; `end_us` equals `start_us` where no end is known."""

    start_us: int
    end_us: int
    text: str


@dataclass(frozen=True)
class Transcript:
    """What a parser found: cues in file order, a language if the file says so, and what it could not read."""

    cues: list[Cue]
    language: str | None = None
    problems: tuple[str, ...] = ()


def in_order(cues: Sequence[Cue]) -> list[Cue]:
    """Cues by start, in file order where they start together; without those that say nothing."""
    return sorted((cue for cue in cues if cue.text.strip()), key=lambda cue: cue.start_us)


def text_records(
    transcript: Transcript, locator: dict[str, Any], *, clock_us: int | None, flags: Sequence[str] = (), **extra: Any
) -> Iterator[pa.RecordBatch]:
    """The text record of a transcript, or several if it is very long; none if no cue says anything.

    clock_us: wall time of the file's start, where known.
    """
    parts = list(_divide(in_order(transcript.cues)))
    for number, cues in enumerate(parts):
        text, places = _join(cues)
        start, end = min(c.start_us for c in cues), max(c.end_us for c in cues)
        place = {**locator, "part": number} if len(parts) > 1 else locator
        row: dict[str, Any] = {
            "locator": canonical_json(place).decode(),
            "text": text,
            "language": transcript.language,
            "flags": [*flags, *([f"cues_left_out:{len(transcript.problems)}"] if transcript.problems else [])],
            "extra": canonical_json({**extra, "cues": places}).decode(),
        }
        row |= wall_clock(clock_us, Fraction(start, 1_000_000), Fraction(end, 1_000_000))
        if len(parts) > 1:
            row |= {"part": number, "parts": len(parts)}
        yield as_draft("text", row)


def _divide(cues: list[Cue]) -> Iterator[list[Cue]]:
    part: list[Cue] = []
    size = 0
    for cue in cues:
        if part and size + len(cue.text) + 1 > MAX_CHARACTERS:
            yield part
            part, size = [], 0
        part.append(cue)
        size += len(cue.text) + 1
    if part:
        yield part


def _join(cues: list[Cue]) -> tuple[str, list[list[int]]]:
    places, at = [], 0
    for cue in cues:
        places.append([cue.start_us, cue.end_us, at, at + len(cue.text)])
        at += len(cue.text) + 1
    return "\n".join(cue.text for cue in cues), places
