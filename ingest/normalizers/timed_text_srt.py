"""SubRip (.srt) and WebVTT (.vtt) files → cues; and the markup of either, taken off.

    1                                     an SRT counter, or a VTT cue's name
    00:00:01,000 --> 00:00:02,500         SRT has a comma, VTT a full stop and optional hours
    text, until an empty line

SRT has no standard and its files are sloppy, so a cue is what follows a line of times; a line with `-->` that is not
one is a problem, and costs that cue.
"""

from __future__ import annotations

import html
import re

from headrace.ingest.normalizers.timed_text_cues import Cue, Transcript

_STAMP = r"(?:(\d{1,4}):)?(\d{1,2}):(\d{1,2})(?:[.,](\d{1,6}))?"
_TIMES = re.compile(rf"^\s*{_STAMP}\s*-->\s*{_STAMP}(?:\s.*)?$")
_MARKUP = re.compile(r"</?(?:[ibusc]|b[ir]|font|ruby|rt|v|lang|span)(?:[ .\t][^<>]*)?/?>|<\d[\d:.]*>", re.IGNORECASE)
_NEWLINE = re.compile(r"\r\n|\n|\r")
_OVERRIDE = re.compile(r"\{\\[^{}]*\}")


def parse_srt(text: str) -> Transcript:
    """The cues of a SubRip file."""
    lines = _NEWLINE.split(text)
    starts = [i for i, line in enumerate(lines) if "-->" in line]
    cues: list[Cue] = []
    problems: list[str] = []
    for i, start in enumerate(starts):
        stop = starts[i + 1] if i + 1 < len(starts) else len(lines)
        if i + 1 < len(starts) and stop - 1 > start and lines[stop - 1].strip().isdigit():
            stop -= 1  # the next cue's counter
        _add(lines[start], strip_srt(_body(lines[start + 1 : stop])), start + 1, cues, problems)
    return Transcript(cues, problems=tuple(problems))


def parse_webvtt(text: str) -> Transcript:
    """The cues of a WebVTT file (W3C WebVTT); its notes, styles and regions hold no text. Raises: ValueError."""
    text = text.replace("\0", "�")
    if not re.match(r"WEBVTT(?:[ \t].*)?(?:\r\n|\n|\r|$)", text):
        raise ValueError("a WebVTT file begins with the line WEBVTT")
    cues: list[Cue] = []
    problems: list[str] = []
    lines = _NEWLINE.split(text)
    at = 1
    while at < len(lines):
        begin = at
        while at < len(lines) and lines[at].strip():
            at += 1
        block = lines[begin:at]
        at += 1
        times = next((i for i in (0, 1) if i < len(block) and "-->" in block[i]), None)
        if times is not None:
            _add(block[times], strip_webvtt("\n".join(block[times + 1 :])), begin + times + 1, cues, problems)
    return Transcript(cues, problems=tuple(problems))


def _body(lines: list[str]) -> str:
    while lines and not lines[0].strip():
        lines = lines[1:]
    while lines and not lines[-1].strip():
        lines = lines[:-1]
    return "\n".join(lines)


def _add(line: str, text: str, number: int, cues: list[Cue], problems: list[str]) -> None:
    found = _TIMES.match(line)
    if found is None:
        problems.append(f"line {number}: {line.strip()[:80]!r} is not `start --> end`")
        return
    start, end = _micros(*found.groups()[:4]), _micros(*found.groups()[4:])
    if end < start:
        problems.append(f"line {number}: the cue ends before it starts ({line.strip()[:80]})")
        return
    cues.append(Cue(start, end, text))


def _micros(hours: str | None, minutes: str, seconds: str, fraction: str | None) -> int:
    whole = int(hours or 0) * 3600 + int(minutes) * 60 + int(seconds)
    return whole * 1_000_000 + int((fraction or "0").ljust(6, "0"))


def strip_srt(text: str) -> str:
    """Text without <i>, <font …> and {\\an8}; `<3` and other loose signs stay."""
    return _OVERRIDE.sub("", _MARKUP.sub("", text)).strip()


def strip_webvtt(text: str) -> str:
    """Text without spans, voices and time marks, character references resolved."""
    return html.unescape(re.sub(r"<[^>]*>", "", text)).strip()
