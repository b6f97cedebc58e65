"""Parts of a divided video: which windows part i of n emits, and where decoding has to start for them.

All parts together emit each window once, with the same bytes as the undivided file. Windows are numbered by the
duration in the header, which need not be right: the first part is open towards the start, the last towards the end.

Decoding starts at a key frame that is shown no later than the part's first slot, and one key frame before that: what
is decoded from the nearest one may still refer to frames in front of it (open groups, gradual refresh). Only MP4 and
Matroska have the index that makes this exact; other formats are decoded from the start, which costs time but no truth.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from headrace.ingest.normalizers.media import Media
from headrace.ingest.normalizers.media_parts import Part
from headrace.ingest.normalizers.video_window import FrameRule, Span

_INDEXED = frozenset({"mp4", "matroska"})
#: Tries to find an earlier key frame before decoding from the start.
_TRIES = 8


def span_of(media: Media, stream: Any, rule: FrameRule, part: Part) -> Span:
    """The windows of a part."""
    if part.count == 1:
        return Span()
    base = stream.time_base
    start = (stream.start_time or 0) * base
    length = stream.duration * base if stream.duration else Fraction(media.container.duration or 0, 1_000_000)
    first = start // rule.segment
    count = (start + length) // rule.segment + 1 - first
    borders = [first + count * i // part.count for i in range(part.count + 1)]
    return Span(
        borders[part.number - 1] if part.number > 1 else None,
        borders[part.number] if part.number < part.count else None,
    )


def seek_before(media: Media, stream: Any, rule: FrameRule, span: Span) -> bool:
    """Go to where decoding of a span has to start; False if the file must be opened anew and read from its start."""
    if span.first is None or media.format not in _INDEXED or media.facts.cut is not None:
        return True
    begin = span.first * rule.segment
    if rule.fps is not None:
        begin = (begin * rule.fps // 1) / rule.fps  # the slot that the part begins in
    key = _key_before(media, stream, begin)
    if key is None:
        return False
    earlier = _key_before(media, stream, (key - 1) * stream.time_base)
    if earlier is None:
        return False
    media.container.seek(earlier, stream=stream)
    return True


def _key_before(media: Media, stream: Any, time: Fraction) -> int | None:
    """A seek target whose key frame is shown at `time` or before; None if there seems to be none.

    Indices are by decoding time, so the key frame found may be shown after the target: then an earlier one is tried.
    """
    import av

    target, step = time // stream.time_base, max(1, 1 // stream.time_base)
    for _ in range(_TRIES):
        if target <= (stream.start_time or 0):
            return None
        try:
            media.container.seek(target, stream=stream)
        except av.error.FFmpegError:
            return None
        found = next((p for p in media.packets([stream]) if p.is_keyframe), None)
        if found is None or found.pts is None:
            return None
        if found.pts * stream.time_base <= time:
            return int(min(target, found.pts))
        target, step = target - step, step * 2
    return None
