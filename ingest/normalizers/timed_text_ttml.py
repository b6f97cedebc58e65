"""TTML (.ttml, .dfxp; IMSC, EBU-TT-D, SMPTE-TT profiles) → cues, by the timing rules of W3C TTML2.

Times are relative to the parent's begin (or, inside `timeContainer="seq"`, to the sibling's end before) and cannot
outlast the parent. Text of a `p` that has no timed spans is one cue; a timed span is a cue of its own. Regions and
styles are not looked at. The XML parser takes no document type, so there are no entities and nothing is fetched.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from headrace.ingest.normalizers.media_language import bcp47
from headrace.ingest.normalizers.timed_text_cues import Cue, Transcript
from headrace.schemas.errors import MissingExtra, RecordError

_CLOCK = re.compile(r"^(\d{2,}):(\d{2}):(\d{2})(?:\.(\d+)|:(\d{2,})(?:\.(\d+))?)?$")
_OFFSET = re.compile(r"^(\d+(?:\.\d+)?)(h|m|s|ms|f|t)$")
_XML = "{http://www.w3.org/XML/1998/namespace}"
#: Elements may be nested this deep; real files take six.
MAX_DEPTH = 64


@dataclass(frozen=True)
class Clock:
    """What a second is in a document: the `ttp:` parameters."""

    frame_rate: Fraction
    sub_frames: int
    tick_rate: Fraction

    def seconds(self, value: str) -> Fraction:
        """A time expression, exactly. Raises: ValueError."""
        value = value.strip()
        if found := _CLOCK.match(value):
            hours, minutes, seconds, fraction, frames, sub = found.groups()
            time = Fraction(int(hours) * 3600 + int(minutes) * 60 + int(seconds))
            if fraction:
                time += Fraction(int(fraction), 10 ** len(fraction))
            if frames:
                time += (int(frames) + Fraction(int(sub or 0), self.sub_frames)) / self.frame_rate
            return time
        if found := _OFFSET.match(value):
            number, unit = Fraction(found[1]), found[2]
            scale = {"h": Fraction(3600), "m": Fraction(60), "s": Fraction(1), "ms": Fraction(1, 1000)}
            if unit in scale:
                return number * scale[unit]
            return number / (self.frame_rate if unit == "f" else self.tick_rate)
        raise ValueError(f"{value[:40]!r} is not a TTML time")


def parse_ttml(data: bytes) -> Transcript:
    """The cues of a document. Raises: RecordError if it is not TTML, not well-formed, or has a document type."""
    try:
        from defusedxml import ElementTree
        from defusedxml.common import DefusedXmlException
    except ImportError as exc:
        raise MissingExtra("defusedxml", "text", need="reading TTML") from exc
    try:
        root = ElementTree.fromstring(data, forbid_dtd=True)
    except DefusedXmlException as exc:
        raise RecordError("bomb", f"TTML that declares a document type or entities is not read ({exc})") from exc
    except (ElementTree.ParseError, ValueError, LookupError) as exc:
        raise RecordError("corrupt", f"not well-formed XML: {exc}") from exc
    if _name(root) != "tt":
        raise RecordError("corrupt", f"a TTML document begins with <tt>, not <{_name(root)[:40]}>")
    reader = _Reader(_clock(root))
    for child in root:
        if _name(child) == "body":
            reader.read(child, Fraction(0), None, preserve=root.get(f"{_XML}space") == "preserve", depth=0)
    return Transcript(reader.cues, bcp47(root.get(f"{_XML}lang")), tuple(reader.problems))


def _name(element: Any) -> str:
    tag = element.tag
    return tag.rsplit("}", 1)[-1] if isinstance(tag, str) else ""  # comments have a function for a tag


def _parameter(root: Any, name: str) -> str | None:
    """A `ttp:` attribute, in whichever year's namespace."""
    named = (value for key, value in root.attrib.items() if "parameter" in key and key.endswith("}" + name))
    return next(named, None)


def _clock(root: Any) -> Clock:
    rate = _parameter(root, "frameRate")
    try:
        frames = Fraction(rate or 30)
        multiplier = re.split(r"[ :]+", (_parameter(root, "frameRateMultiplier") or "1 1").strip())
        frames *= Fraction(int(multiplier[0]), int(multiplier[1]) if len(multiplier) > 1 else 1)
        sub = int(_parameter(root, "subFrameRate") or 1)
        ticks = _parameter(root, "tickRate")
        tick_rate = Fraction(ticks) if ticks else frames * sub if rate else Fraction(1)
    except (ValueError, ZeroDivisionError) as exc:
        raise RecordError("corrupt", f"ttp:frameRate, subFrameRate, tickRate … are numbers: {exc}") from exc
    if frames <= 0 or sub <= 0 or tick_rate <= 0:
        raise RecordError("corrupt", f"rates are above 0, not {frames} frames, {sub} subframes, {tick_rate} ticks")
    return Clock(frames, sub, tick_rate)


class _Reader:
    """Walks the body and collects cues."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.cues: list[Cue] = []
        self.problems: list[str] = []

    def read(
        self, element: Any, reference: Fraction, limit: Fraction | None, *, preserve: bool, depth: int
    ) -> Fraction:
        """Collect an element's cues; answers when it ends, for a sibling in sequence. limit: when its parent ends."""
        try:
            begin, end = self._span(element, reference, limit)
        except ValueError as exc:
            self.problems.append(f"<{_name(element)}>: {exc}")
            return reference
        if depth > MAX_DEPTH:
            self.problems.append(f"<{_name(element)}> is nested deeper than {MAX_DEPTH}")
            return begin
        preserve = element.get(f"{_XML}space", "preserve" if preserve else "default") == "preserve"
        if _name(element) in ("p", "span"):
            text = self._text(element, begin, end, preserve, depth)
            if text := (text if preserve else _collapse(text)).strip("\n" if preserve else None):
                self._add(begin, end, text)
            return end if end is not None else begin
        at, sequence, last = begin, element.get("timeContainer") == "seq", begin
        for child in element:
            if _name(child) in ("div", "p", "body"):
                stop = self.read(child, at, end, preserve=preserve, depth=depth + 1)
                last = max(last, stop)
                at = stop if sequence else begin
        return end if end is not None else last

    def _span(self, element: Any, reference: Fraction, limit: Fraction | None) -> tuple[Fraction, Fraction | None]:
        given = {name: self.clock.seconds(value) for name in ("begin", "end", "dur") if (value := element.get(name))}
        begin = reference + given.get("begin", Fraction(0))
        ends = [limit] if limit is not None else []
        ends += [reference + given["end"]] if "end" in given else []
        ends += [begin + given["dur"]] if "dur" in given else []
        end = min(ends, default=None)
        if end is not None and end < begin:
            raise ValueError(f"it ends at {float(end):.3f} s, before it begins at {float(begin):.3f} s")
        return begin, end

    def _text(self, element: Any, begin: Fraction, end: Fraction | None, preserve: bool, depth: int) -> str:
        parts = [element.text or ""]
        for child in element:
            name = _name(child)
            if name == "br":
                parts.append("\u2028")
            elif name == "span" and (child.get("begin") or child.get("end") or child.get("dur")):
                self.read(child, begin, end, preserve=preserve, depth=depth + 1)
            elif name == "span" and depth <= MAX_DEPTH:
                parts.append(self._text(child, begin, end, preserve, depth + 1))
            parts.append(child.tail or "")
        text = "".join(parts)
        return text.replace("\u2028", "\n") if preserve else text

    def _add(self, begin: Fraction, end: Fraction | None, text: str) -> None:
        start = round(begin * 1_000_000)
        self.cues.append(Cue(start, round(end * 1_000_000) if end is not None else start, text))


def _collapse(text: str) -> str:
    """White space to single blanks; a <br/> (kept as a line separator until here) becomes the only line break."""
    lines = [" ".join(line.split(None)) for line in text.split("\u2028")]
    return "\n".join(lines)
