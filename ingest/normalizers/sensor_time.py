"""Time stamps as text: which layout they have, and their nanoseconds since 1970.

    2016-07-01 00:00:00    2016-07-01T00:00:00.123456789+02:00    20160701T000000Z    2016/7/1 0:00
    1/13/15 10:00 PM (mdy) 13.1.2015 22:00 (dmy)                  13-Jan-2015 22:00   Mon, 02 Jan 2006 15:04:05 +0000

ISO stamps go through Arrow's cast, which is 40 times as fast; everything else, and any block where the cast meets one
stamp it refuses, through one regular expression a layout and numpy arithmetic. Arrow's own `strptime` is not used: it
turns 30 February into 1 March. Whether 1/2/15 is in January or in February is told by the data (a component above 12);
where the sample does not tell, month first is taken and the caller flags `ambiguous_date_order`.
Two-digit years are 1969–2068, as POSIX has it. 24:00 is the next midnight; second 60 is the second after 59.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

_CLOCK = (
    r"(?P<h>\d{1,2}):(?P<mi>\d{2})(?::(?P<s>\d{2})(?:[.,](?P<f>\d{1,9})\d*)?)?\s*(?P<ap>[AaPp]\.?[Mm]\.?)?"
    r"\s*(?P<z>[Zz]|UTC|GMT|[+-]\d{2}:?\d{2}|[+-]\d{2})?(?:\[[A-Za-z_/+-]+\])?"
)
_DAY = r"(?:[A-Za-z]{3,9}\.?,?\s+)?"
#: Layout → pattern. Unnamed parts of a date stay empty, and empty counts as the start of the larger part.
LAYOUTS: dict[str, str] = {
    "ymd": r"^\s*(?P<y>\d{4})[-/.](?P<mo>\d{1,2})(?:[-/.](?P<d>\d{1,2}))?(?:[T \t_]+" + _CLOCK + r")?\s*$",
    "compact": r"^\s*(?P<y>\d{4})(?P<mo>\d{2})(?P<d>\d{2})"
    r"(?:[T _-]?(?P<h>\d{2})(?P<mi>\d{2})(?:(?P<s>\d{2})(?:[.,](?P<f>\d{1,9})\d*)?)?"
    r"(?P<z>[Zz]|[+-]\d{2}:?\d{2})?)?\s*$",
    "mdy": r"^\s*(?P<mo>\d{1,2})[-/.](?P<d>\d{1,2})[-/.](?P<y>\d{4}|\d{2})(?:[T ,]+" + _CLOCK + r")?\s*$",
    "dmy": r"^\s*(?P<d>\d{1,2})[-/.](?P<mo>\d{1,2})[-/.](?P<y>\d{4}|\d{2})(?:[T ,]+" + _CLOCK + r")?\s*$",
    "d-month-y": r"^\s*"
    + _DAY
    + r"(?P<d>\d{1,2})[- ](?P<mon>[A-Za-z]{3,9})\.?[- ,]+(?P<y>\d{4}|\d{2})(?:[T ,:]+"
    + _CLOCK
    + r")?\s*$",
    "month-d-y": r"^\s*"
    + _DAY
    + r"(?P<mon>[A-Za-z]{3,9})\.?\s+(?P<d>\d{1,2}),?\s+(?P<y>\d{4})(?:[T ,]+"
    + _CLOCK
    + r")?\s*$",
    "ctime": r"^\s*[A-Za-z]{3}\s+(?P<mon>[A-Za-z]{3})\s+(?P<d>\d{1,2})\s+" + _CLOCK + r"\s+(?P<y>\d{4})\s*$",
}
_FEW = 64  #: stamps that are tried before all are
_ENDS_IN_ZONE = re.compile(r"(?:[Zz]|:\d\d[+-]\d\d(?::?\d\d)?)$")
_ORDER = ("ymd", "compact", "d-month-y", "month-d-y", "ctime", "mdy", "dmy")
_MONTHS = {
    name: i + 1
    for i, name in enumerate(["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"])
}

#: strptime directive → pattern, for `time_format` patterns.
_DIRECTIVES = {
    "Y": r"(?P<y>\d{4})",
    "y": r"(?P<y>\d{2})",
    "m": r"(?P<mo>\d{1,2})",
    "d": r"(?P<d>\d{1,2})",
    "e": r"\s?(?P<d>\d{1,2})",
    "H": r"(?P<h>\d{1,2})",
    "I": r"(?P<h>\d{1,2})",
    "M": r"(?P<mi>\d{1,2})",
    "S": r"(?P<s>\d{1,2})",
    "f": r"(?P<f>\d{1,9})\d*",
    "p": r"(?P<ap>[AaPp]\.?[Mm]\.?)",
    "b": r"(?P<mon>[A-Za-z]{3,9})",
    "B": r"(?P<mon>[A-Za-z]{3,9})",
    "z": r"(?P<z>[Zz]|[+-]\d{2}:?\d{2})",
    "Z": r"(?P<z>UTC|GMT|Z)",
    "a": r"[A-Za-z]+",
    "A": r"[A-Za-z]+",
    "j": r"(?P<j>\d{1,3})",
    "%": "%",
    "T": r"(?P<h>\d{1,2}):(?P<mi>\d{2}):(?P<s>\d{2})",
    "F": r"(?P<y>\d{4})-(?P<mo>\d{1,2})-(?P<d>\d{1,2})",
}


@dataclass(frozen=True)
class Stamps:
    """Parsed stamps: `ns` since 1970 (local where not `zoned`), `ok` where it parsed and fits 1677–2262."""

    ns: Int64
    ok: Bool
    zoned: Bool


def pattern_of(time_format: str) -> str:
    """The regular expression of a layout's name or of a strptime pattern. Raises: ValueError naming the directive."""
    if time_format in LAYOUTS:
        return LAYOUTS[time_format]
    out, position = ["^\\s*"], 0
    while position < len(time_format):
        char = time_format[position]
        if char == "%":
            position += 1
            directive = time_format[position : position + 1]
            if directive not in _DIRECTIVES:
                raise ValueError(
                    f"time_format {time_format!r}: %{directive} is not known; {' '.join(sorted(_DIRECTIVES))} are"
                )
            out.append(_DIRECTIVES[directive])
        else:
            out.append(r"\s+" if char == " " else re.escape(char))
        position += 1
    return "".join([*out, r"\s*$"])


def detect(sample: pa.Array, least: float = 0.9) -> tuple[str, bool] | None:
    """(layout, ambiguous) that reads at least this share of the strings that are not blank, or None.

    `iso` names the fast path of `ymd`. Ambiguous: mdy and dmy read the sample equally well.
    """
    texts = pc.drop_null(sample)
    texts = texts.filter(pc.not_equal(pc.utf8_trim_whitespace(texts), "")).slice(0, 4096)
    if len(texts) == 0:
        return None
    if _cast_iso(texts) is not None:  # the first of all layouts reads every stamp: no other can be better
        return "iso", False
    few = texts.slice(0, 64)
    shares = {x: float(read(texts, x).ok.mean()) for x in _ORDER if read(few, x).ok.mean() >= least / 2}
    best = max(shares, key=lambda layout: shares[layout], default="")
    if not best or shares[best] < least:
        return None
    ambiguous = best == "mdy" and shares.get("dmy") == shares["mdy"]
    if ambiguous and mask_of(pc.match_substring_regex(texts, r"^\s*\d+\.")).all():
        return "dmy", False  # with dots the day comes first everywhere
    return ("iso" if best == "ymd" else best), ambiguous


def has_clock(sample: pa.Array, layout: str) -> bool:
    """Whether any of the stamps names a time of day."""
    parts = pc.extract_regex(pc.drop_null(sample), LAYOUTS["ymd" if layout == "iso" else layout])
    return bool(pc.any(pc.not_equal(pc.struct_field(parts, "h"), "")).as_py())


def read(texts: pa.Array, layout: str) -> Stamps:
    """The stamps of a string array in a layout of `LAYOUTS`, `iso`, or a strptime pattern. Null is not ok."""
    if layout == "iso":
        fast = _cast_iso(texts)
        if fast is not None:
            return fast
        layout = "ymd"
    return _read_pattern(texts, pattern_of(layout))


def _cast_iso(texts: pa.Array) -> Stamps | None:
    """Stamps that all name a zone, or that all name none; either of Arrow's casts refuses the other kind.

    A refusal costs forty times as much as a cast (an error is made of every stamp), so the likely one goes first.
    """
    first = texts[int(pc.index(pc.is_valid(texts), True).as_py())].as_py() if texts.null_count < len(texts) else ""
    zones = ("UTC", None) if _ENDS_IN_ZONE.search(first) else (None, "UTC")
    if len(texts) > 2 * _FEW and not any(_casts(texts.slice(0, _FEW), zone) for zone in zones):
        return None
    for zone in zones:
        try:
            cast = pc.cast(texts, pa.timestamp("ns", tz=zone))
        except pa.ArrowInvalid:
            continue
        return Stamps(int64_of(cast), valid_of(cast), np.full(len(texts), zone is not None))
    return None


def _casts(texts: pa.Array, zone: str | None) -> bool:
    try:
        pc.cast(texts, pa.timestamp("ns", tz=zone))
    except pa.ArrowInvalid:
        return False
    return True


def int64_of(array: pa.Array) -> Int64:
    """The 64-bit values of a timestamp, duration or int64 array; 0 where null."""
    values = (
        np.frombuffer(array.buffers()[1], dtype=np.int64)[array.offset : array.offset + len(array)]
        if len(array)
        else np.empty(0, np.int64)
    )
    return np.where(valid_of(array), values, 0) if array.null_count else values


def valid_of(array: pa.Array) -> Bool:
    """True where an array is not null."""
    if array.null_count == 0:
        return np.ones(len(array), dtype=np.bool_)
    return mask_of(pc.is_valid(array))


def _read_pattern(texts: pa.Array, pattern: str) -> Stamps:
    parts = pc.extract_regex(texts, pattern)
    names = {parts.type.field(i).name for i in range(parts.type.num_fields)}
    ok = valid_of(parts)

    def text(name: str) -> pa.Array:
        return pc.fill_null(pc.struct_field(parts, name), "")

    def number(name: str, default: int) -> Int64:
        if name not in names:
            return np.full(len(parts), default, dtype=np.int64)
        found = text(name)
        return int64_of(pc.cast(pc.if_else(pc.equal(found, ""), str(default), found), pa.int64()))

    year = number("y", 1970)
    short = mask_of(pc.equal(pc.utf8_length(text("y")), 2)) if "y" in names else np.zeros(len(parts), np.bool_)
    year = np.where(short, year + np.where(year < 69, 2000, 1900), year)
    month = _months(text("mon")) if "mon" in names else number("mo", 1)
    day, hour, minute, second = number("d", 1), number("h", 0), number("mi", 0), number("s", 0)
    if "j" in names:
        day, month = number("j", 1), np.ones(len(parts), dtype=np.int64)
        ok = ok & (day >= 1) & (day <= 365 + _leap(year))
    else:
        ok = ok & (month >= 1) & (month <= 12) & (day >= 1)
        ok &= day <= _days_in_month(year, np.clip(month, 1, 12))
    if "ap" in names:
        half = pc.utf8_lower(pc.utf8_slice_codeunits(text("ap"), 0, 1))
        noon = {kind: mask_of(pc.equal(half, kind)) for kind in "ap"}
        ok &= ~(noon["a"] | noon["p"]) | ((hour >= 1) & (hour <= 12))
        hour = np.where(noon["a"] | noon["p"], hour % 12, hour) + 12 * noon["p"]
    ok &= ((hour < 24) | ((hour == 24) & (minute == 0) & (second == 0))) & (minute < 60) & (second <= 60)
    fraction = np.zeros(len(parts), dtype=np.int64)
    if "f" in names:
        fraction = int64_of(pc.cast(pc.utf8_rpad(pc.utf8_slice_codeunits(text("f"), 0, 9), 9, "0"), pa.int64()))
    offset, zoned = (
        _offsets(text("z")) if "z" in names else (np.zeros(len(parts), np.int64), np.zeros(len(parts), np.bool_))
    )
    seconds = _days(year, np.clip(month, 1, 12), day) * 86400 + hour * 3600 + minute * 60 + second - offset
    ok &= np.abs(seconds) < 9_223_372_036
    return Stamps(np.where(ok, seconds, 0) * 1_000_000_000 + np.where(ok, fraction, 0), ok, zoned)


def mask_of(array: pa.Array) -> Bool:
    """A boolean array without nulls as numpy."""
    if len(array) == 0:
        return np.empty(0, np.bool_)
    bits = np.frombuffer(array.buffers()[1], dtype=np.uint8)
    return np.unpackbits(bits, bitorder="little", count=array.offset + len(array))[array.offset :].astype(np.bool_)


def _by_spelling(texts: pa.Array, value: Any) -> Int64:
    """value(text) for every text, computed once a spelling."""
    coded = texts.dictionary_encode()
    table = np.array([value(text) for text in coded.dictionary.to_pylist()] or [0], dtype=np.int64)
    return (
        table[np.frombuffer(coded.indices.buffers()[1], dtype=np.int32)[: len(texts)]]
        if len(texts)
        else np.empty(0, np.int64)
    )


def _months(texts: pa.Array) -> Int64:
    return _by_spelling(texts, lambda text: _MONTHS.get(text[:3].lower(), 0))


def _offsets(texts: pa.Array) -> tuple[Int64, Bool]:
    def seconds(text: str) -> int:
        if text[:1] not in ("+", "-"):
            return 0
        digits = text[1:].replace(":", "")
        size = int(digits[:2]) * 3600 + int(digits[2:4] or 0) * 60
        return -size if text[0] == "-" else size

    return _by_spelling(texts, seconds), _by_spelling(texts, lambda text: int(text != "")).astype(np.bool_)


def _leap(year: Int64) -> Int64:
    return ((year % 4 == 0) & ((year % 100 != 0) | (year % 400 == 0))).astype(np.int64)


def _days_in_month(year: Int64, month: Int64) -> Int64:
    table = np.array([0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31], dtype=np.int64)
    days: Int64 = table[month] + ((month == 2) & (_leap(year) == 1))
    return days


def _days(year: Int64, month: Int64, day: Int64) -> Int64:
    """Days from 1970-01-01 to a Gregorian date.

    Source: "chrono-Compatible Low-Level Date Algorithms" (Howard Hinnant), days_from_civil: years begin in March, so
    that the leap day is the last of its year.
    """
    y = year - (month <= 2)
    era = y // 400
    yoe = y - era * 400
    doy = (153 * ((month + 9) % 12) + 2) // 5 + day - 1
    days: Int64 = era * 146097 + yoe * 365 + yoe // 4 - yoe // 100 + doy - 719468
    return days
