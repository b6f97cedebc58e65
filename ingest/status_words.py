"""Numbers, sizes, ages and times as people read them; every function takes None and answers an en dash."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from headrace.ingest.engine_report import in_words

#: Shown where a value is unknown.
UNKNOWN = "–"


def count(value: float | None) -> str:
    """1,204; from ten million on 12.3 M."""
    if value is None:
        return UNKNOWN
    if abs(value) >= 10_000_000:
        return _short(value)
    return f"{value:,.0f}"


def _short(value: float) -> str:
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            scaled = value / size
            return f"{scaled:.1f} {letter}" if abs(scaled) < 100 else f"{scaled:.0f} {letter}"
    return f"{value:.0f}"


def rate(value: float | None) -> str:
    """42.1, 830, 12.4 k; small rates keep two digits."""
    if value is None:
        return UNKNOWN
    if abs(value) >= 1000:
        return _short(value)
    if abs(value) >= 100 or value == 0:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 1 else f"{value:.2g}"


def size(value: float | None) -> str:
    """512 B, 1.4 MB (powers of ten, as disks are sold)."""
    if value is None:
        return UNKNOWN
    if abs(value) < 1000:
        return f"{value:.0f} B"
    for unit, letters in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if abs(value) >= unit:
            scaled = value / unit
            return f"{scaled:.1f} {letters}" if scaled < 100 else f"{scaled:.0f} {letters}"
    return UNKNOWN


def duration(seconds: float | None) -> str:
    """0.8 s, 42 s, 3 min, 2 h 5 min, 4 d 3 h."""
    if seconds is None:
        return UNKNOWN
    if seconds < 0:
        return f"−{duration(-seconds)}"
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes, hours, days = int(seconds // 60), int(seconds // 3600), int(seconds // 86400)
    if minutes < 120:
        return f"{minutes} min"
    if hours < 48:
        return f"{hours} h {minutes % 60} min" if minutes % 60 else f"{hours} h"
    return f"{days} d {hours % 24} h" if hours % 24 else f"{days} d"


def milliseconds(seconds: float | None) -> str:
    """23 ms, 1.4 s."""
    if seconds is None:
        return UNKNOWN
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def percent(share: float | None) -> str:
    """96.8 %."""
    return UNKNOWN if share is None else f"{share * 100:.1f} %"


def clock(us: int | None) -> str:
    """2025-06-14 12:03:20 UTC."""
    at = _time(us)
    return UNKNOWN if at is None else f"{at:%Y-%m-%d %H:%M:%S} UTC"


def iso(us: int | None) -> str:
    """2025-06-14T12:03:20Z, for machines."""
    at = _time(us)
    return "" if at is None else f"{at:%Y-%m-%dT%H:%M:%SZ}"


def short_clock(us: int | None, now_us: int) -> str:
    """12:03:20 on the same day, else 14 Jun 12:03."""
    at, now = _time(us), _time(now_us)
    if at is None or now is None:
        return UNKNOWN
    return f"{at:%H:%M:%S}" if at.date() == now.date() else f"{at.day} {at:%b %H:%M}"


def age(us: int | None, now_us: int) -> str:
    """3 s ago; in 4 s for what is to come."""
    if us is None:
        return UNKNOWN
    seconds = (now_us - us) / 1e6
    return f"{duration(seconds)} ago" if seconds >= 0 else f"in {duration(-seconds)}"


def plural(value: int, one: str, many: str | None = None) -> str:
    """1 split, 3 splits."""
    return f"{count(value)} {one if value == 1 else many or one + 's'}"


def plain_json(value: Any) -> str:
    """A value as JSON that people read: nothing escaped that need not be."""
    return json.dumps(value, ensure_ascii=False)


def _time(us: int | None) -> datetime | None:
    if us is None:
        return None
    try:
        return datetime.fromtimestamp(us / 1e6, UTC)
    except (OverflowError, ValueError, OSError):
        return None  # a source may stamp a year that no calendar holds


def engine(one: dict[str, Any] | None) -> str:
    """The engine of a stream, and those that it may not use any more."""
    return in_words(one) if one else UNKNOWN
