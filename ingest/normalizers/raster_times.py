"""When a raster shows what it shows: the time stamps that rasters carry, as microseconds since 1970 in UTC.

Every stamp keeps the name of its source. A calendar in which a date is no instant of the real world (360-day years of
climate models) gives no instant; its value is kept as text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from functools import lru_cache
from typing import Any

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_GREGORIAN = {"", "standard", "gregorian", "proleptic_gregorian"}
_MICROS = {
    "microsecond": 1, "us": 1, "millisecond": 1000, "msec": 1000, "ms": 1000, "second": 10**6, "sec": 10**6, "s": 10**6,
    "minute": 60 * 10**6, "min": 60 * 10**6, "hour": 3600 * 10**6, "hr": 3600 * 10**6, "h": 3600 * 10**6,
    "day": 86400 * 10**6, "d": 86400 * 10**6,
}  # fmt: skip
_SINCE = re.compile(r"^\s*(\w+)\s+since\s+(.+?)\s*$")
_TIFF = re.compile(r"^(\d{4}):(\d\d):(\d\d)[ T](\d\d):(\d\d):(\d\d)")
_SPACED = re.compile(
    r"^(\d{1,4})-(\d{1,2})-(\d{1,2})"
    r"(?:[T ]+(\d{1,2}):(\d{1,2})(?::(\d{1,2}(?:\.\d+)?))?)?"
    r"\s*(?:Z|UTC|GMT|([+-])(\d{1,2})(?::?(\d\d))?)?$",
    re.IGNORECASE,
)
_EARLIEST = 1583  # before that, standard and proleptic calendars differ


@dataclass(frozen=True)
class Moment:
    """A time with its source. `micros` is None where the value names no instant; `text` is what the file says."""

    micros: int | None
    source: str
    text: str


def micros_of(moment: datetime) -> int:
    """Microseconds since 1970; a time without a zone counts as UTC."""
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return (aware - _EPOCH) // timedelta(microseconds=1)


def iso_micros(text: Any) -> int | None:
    """Of an ISO 8601 or nearly ISO time; None if it is none."""
    if not isinstance(text, str):
        return None
    try:
        return micros_of(datetime.fromisoformat(text.strip()))
    except ValueError:
        match = _SPACED.match(text.strip())
        return _from_parts(match) if match else None


def iso_text(micros: int) -> str:
    """ISO 8601 with Z."""
    return (_EPOCH + timedelta(microseconds=micros)).isoformat().replace("+00:00", "Z")


def iso_moment(text: str | None, source: str) -> Moment | None:
    """The moment of an ISO time; None if there is none."""
    micros = iso_micros(text)
    return Moment(micros, source, str(text)) if micros is not None else None


def tiff_moment(text: str | None) -> Moment | None:
    """Of TIFF's DateTime, which has no zone and counts as UTC; None for the zeros that some writers leave."""
    match = _TIFF.match(text or "")
    if match is None:
        return None
    try:
        found = datetime(*(int(v) for v in match.groups()), tzinfo=UTC)  # type: ignore[arg-type,misc]
    except ValueError:
        return None
    return Moment(micros_of(found), "tiff:DateTime", str(text))


def epoch_moment(text: str, source: str) -> Moment | None:
    """Of GDAL's seconds since 1970, alone or before a unit."""
    try:
        return Moment(int(text.split()[0]) * 1_000_000, source, text)
    except (ValueError, IndexError):
        return None


def cf_moment(value: str, units: str, calendar: str | None, source: str) -> Moment | None:
    """Of a CF time coordinate: a number in `UNIT since DATE`.

    Months and years have no fixed length (CF 4.4), and calendars of models are not ours: then `micros` is None.
    """
    text = f"{value} {units}" + (f" ({calendar})" if calendar else "")
    start, step = _clock(units)
    if start is None or step is None or (calendar or "").lower() not in _GREGORIAN:
        return Moment(None, source, text)
    try:
        micros = start + round(Fraction(value) * step)
        year = (_EPOCH + timedelta(microseconds=micros)).year
    except (ValueError, OverflowError):
        return Moment(None, source, text)
    return Moment(micros if year >= _EARLIEST else None, source, text)


@lru_cache(256)
def _clock(units: str) -> tuple[int | None, int | None]:
    """(start, microseconds a step) of `UNIT since DATE`."""
    match = _SINCE.match(units)
    if match is None:
        return None, None
    unit = match[1].lower()
    return iso_micros(match[2]), _MICROS.get(unit) or _MICROS.get(unit.removesuffix("s"))


def _from_parts(match: re.Match[str]) -> int | None:
    year, month, day, hour, minute, second, sign, zone_hours, zone_minutes = match.groups()
    try:
        found = datetime(int(year), int(month), int(day), int(hour or 0), int(minute or 0), tzinfo=UTC)
        shift = timedelta(hours=int(zone_hours or 0), minutes=int(zone_minutes or 0))
        found += timedelta(seconds=float(second or 0)) + (shift if sign == "-" else -shift)
    except (ValueError, OverflowError):
        return None
    return micros_of(found)
