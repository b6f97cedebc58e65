"""Times as people write them in text records: ISO 8601 with or without a zone, and seconds since 1970 in four units."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

from headrace.schemas.errors import RecordError

NAIVE = "naive_utc"  #: flag: the source gave no zone and the time was taken as UTC

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST_US = -62_135_596_800_000_000  # 0001-01-01
_LAST_US = 253_402_300_799_999_999  # 9999-12-31
#: (largest magnitude, microseconds per unit): a number of seconds stays below 1e11 until the year 5138, and a number
#: of milliseconds is above it since 1973; microseconds and nanoseconds likewise.
_UNITS = ((10**11, 1_000_000), (10**14, 1_000), (10**17, 1))

_NUMBER = re.compile(r"[+-]?\d{9,}(?:\.\d*)?|[+-]?\d+\.\d+")
_REDUCED = re.compile(r"(\d{4})(?:-(\d{2}))?")
_PLAIN = re.compile(r"\d{4}-\d{2}-\d{2}")
_ONE_US = timedelta(microseconds=1)
_FRACTION = re.compile(r"([.,]\d{6})\d+")


def time_us(value: Any) -> tuple[int, list[str]]:
    """(microseconds since 1970 UTC, flags) of a time that stood in a field.

    A fraction beyond the microsecond is cut. Raises: RecordError `no_time` for what is no time, `wrong_type` for a type
    that cannot be one.
    """
    if type(value) is str and _PLAIN.match(value):  # nearly all of them, and the careful way takes ten times as long
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            return _iso(value.strip())
        return _checked_moment(moment, value, 0)
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise RecordError("wrong_type", f"a time is a string or a number, not {type(value).__name__}")
    if isinstance(value, str):
        text = value.strip()
        return (_epoch(text), []) if _NUMBER.fullmatch(text) else _iso(text)
    return _epoch(repr(value)), []


def _epoch(digits: str) -> int:
    try:
        number = Decimal(digits)
    except InvalidOperation as exc:
        raise RecordError("no_time", f"{digits!r} is no number of seconds since 1970") from exc
    if not number.is_finite() or abs(number) >= 10**20:
        raise RecordError("no_time", f"{digits} is no time in seconds, milliseconds, microseconds or nanoseconds")
    for magnitude, per_unit in _UNITS:
        if abs(number) < magnitude:
            return _checked(int((number * per_unit).to_integral_value("ROUND_FLOOR")), digits)
    return _checked(int((number / 1000).to_integral_value("ROUND_FLOOR")), digits)


def _iso(text: str) -> tuple[int, list[str]]:
    reduced = _REDUCED.fullmatch(text)
    if reduced:
        text = f"{reduced[1]}-{reduced[2] or '01'}-01"
    for name in (" UTC", " GMT"):
        text = text[: -len(name)] + "Z" if text.endswith(name) else text
    # 3.11 reads at most six digits of a fraction, and no 60th second
    text = _FRACTION.sub(r"\1", text)
    leap = re.search(r"[T ]\d{2}:?\d{2}:?(60)", text)
    if leap:
        text = text[: leap.start(1)] + "59" + text[leap.end(1) :]
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as exc:
        raise RecordError("no_time", f"{text[:64]!r} is neither ISO 8601 nor seconds since 1970") from exc
    return _checked_moment(moment, text, 1_000_000 if leap else 0)


def _checked_moment(moment: datetime, shown: str, more_us: int) -> tuple[int, list[str]]:
    flags = []
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
        flags = [NAIVE]
    return _checked((moment - _EPOCH) // _ONE_US + more_us, shown), flags


def _checked(us: int, shown: str) -> int:
    if not _FIRST_US <= us <= _LAST_US:
        raise RecordError("no_time", f"{shown} lies outside the years 1 to 9999")
    return us
