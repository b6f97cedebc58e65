"""Nanoseconds since 1970 of columns of every type: Arrow times, numbers, parts of dates, and wall clocks of a zone."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from headrace.ingest.normalizers import sensor_time
from headrace.ingest.normalizers.sensor_time import Bool, Int64, int64_of, valid_of
from headrace.schemas.errors import ConfigError

#: Unit → nanoseconds.
NS: dict[str, int] = {
    "ns": 1, "us": 1_000, "ms": 1_000_000, "s": 1_000_000_000, "min": 60_000_000_000, "h": 3_600_000_000_000,
    "d": 86_400_000_000_000,
}  # fmt: skip
PARTS = ("year", "month", "day", "hour", "minute", "second")


def is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def strings(array: pa.Array) -> pa.Array:
    if not is_text(array.type):
        if pa.types.is_floating(array.type):
            array = pc.cast(array, pa.int64(), safe=False)  # the number of a compact date
        return pc.cast(array, pa.string())
    return array if pa.types.is_string(array.type) else pc.cast(array, pa.string())


def loose_numbers(array: pa.Array) -> pa.Array:
    """float64 for looking at; strings that are no numbers become null."""
    if is_text(array.type):
        texts = pc.utf8_trim_whitespace(strings(array))
        good = pc.match_substring_regex(texts, r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$")
        return pc.cast(pc.if_else(good, texts, None), pa.float64())
    return pc.cast(array, pa.float64(), safe=False)


def from_arrow(array: pa.Array) -> tuple[Int64, Bool, Bool]:
    kind = array.type
    if pa.types.is_date(kind):
        seconds = int64_of(pc.cast(pc.cast(array, pa.timestamp("s")), pa.int64()))
        unit, zoned = "s", False
    else:
        seconds, unit, zoned = int64_of(array), kind.unit, kind.tz is not None
    ns, ok = scaled(seconds, NS[unit])
    return ns, ok & valid_of(array), np.full(len(array), zoned)


def scaled(values: Int64, factor: int) -> tuple[Int64, Bool]:
    """values × factor, and where that fits 64 bits."""
    limit = (2**63 - 1) // factor
    ok = (values <= limit) & (values >= -limit)
    return np.where(ok, values, 0) * factor, ok


def from_numbers(array: pa.Array, factor: int) -> tuple[Int64, Bool]:
    """Nanoseconds of numbers that count `factor` ns each; integers and decimal strings exactly."""
    kind = array.type
    if pa.types.is_integer(kind):
        ok = valid_of(array)
        wide = int64_of(pc.cast(array, pa.int64(), safe=False))
        ns, fits = scaled(wide, factor)
        return ns, ok & fits & ~((wide < 0) & pa.types.is_unsigned_integer(kind))
    if is_text(kind):
        exact = _exact(array, factor)
        if exact is not None:
            return exact
    values = loose_numbers(array)
    ok = valid_of(values)
    numbers = (
        np.frombuffer(values.buffers()[1], np.float64)[values.offset : values.offset + len(values)]
        if len(values)
        else np.empty(0)
    )
    ok = ok & np.isfinite(numbers)
    numbers = np.where(ok, numbers, 0.0)
    whole = np.floor(numbers)
    ok &= np.abs(whole) <= (2**63 - 1) // factor - 1
    whole, part = np.where(ok, whole, 0.0), np.where(ok, numbers - whole, 0.0)
    return whole.astype(np.int64) * factor + np.rint(part * factor).astype(np.int64), ok


def _exact(array: pa.Array, factor: int) -> tuple[Int64, Bool] | None:
    """Decimal strings as scaled integers (float64 holds a present-day epoch second only to 0.2 µs)."""
    digits = len(str(factor)) - 1
    if factor != 10**digits:
        return None
    try:
        decimals = pc.cast(pc.utf8_trim_whitespace(strings(array)), pa.decimal128(38, digits))
    except pa.ArrowInvalid:
        return None
    words = (
        np.frombuffer(decimals.buffers()[1], np.int64)[2 * decimals.offset : 2 * (decimals.offset + len(decimals))]
        if len(decimals)
        else np.empty(0, np.int64)
    )
    low, high = words[0::2], words[1::2]
    return np.where(valid_of(decimals), low, 0), valid_of(decimals) & (high == low >> 63)


def from_excel(array: pa.Array) -> tuple[Int64, Bool]:
    """Days since 1899-12-30, as spreadsheets count, rounded to the millisecond they are good for."""
    ns, ok = from_numbers(pc.multiply(pc.subtract(loose_numbers(array), 25569.0), 86_400_000.0), 1)
    ms, fits = scaled(ns, 1_000_000)
    return ms, ok & fits


def from_parts(parts: Mapping[str, pa.Array]) -> tuple[Int64, Bool]:
    ok = np.logical_and.reduce([valid_of(a) for a in parts.values()])
    texts = []
    for name in PARTS:
        column = parts.get(name)
        if column is None:
            texts.append(pa.array(["01" if name in ("month", "day") else "00"] * len(ok)))
            continue
        whole = pc.cast(pc.round(pc.fill_null(loose_numbers(column), -1.0)), pa.int64(), safe=False)
        texts.append(pc.utf8_lpad(pc.cast(whole, pa.string()), 4 if name == "year" else 2, "0"))
    joined = pc.binary_join_element_wise(*texts, " ")
    stamps = sensor_time.read(joined, "%Y %m %d %H %M %S")
    return stamps.ns, stamps.ok & ok


def from_date_and_clock(date: pa.Array, clock: pa.Array, layout: str) -> tuple[Int64, Bool, Bool]:
    if pa.types.is_date(date.type):
        date, layout = pc.strftime(pc.cast(date, pa.timestamp("s")), "%Y-%m-%d"), "iso"
    if not is_text(clock.type):
        clock = pc.cast(clock, pa.string())
    dotted = pc.replace_substring_regex(strings(clock), r"^\s*(\d{1,2})\.(\d{2})(?:\.(\d{2}))?\s*$", r"\1:\2:\3")
    joined = pc.binary_join_element_wise(
        pc.utf8_trim_whitespace(strings(date)), pc.utf8_trim(pc.utf8_trim_whitespace(dotted), ":"), " "
    )
    stamps = sensor_time.read(joined, layout)
    return stamps.ns, stamps.ok, stamps.zoned


def to_utc(ns: Int64, local: Bool, zone: str, last: int | None, repeats: bool) -> tuple[Int64, Bool, Bool, Bool]:
    """(UTC, ambiguous, skipped, fits) of stamps of which the `local` ones are wall clock readings in `zone`.

    last: UTC of the row before. repeats: a reading equal to the one before it comes an hour later, too.
    """
    naive = pa.Array.from_buffers(pa.timestamp("ns"), len(ns), [None, pa.py_buffer(np.where(local, ns, 0))])
    try:
        earlier, later = (
            int64_of(pc.assume_timezone(naive, zone, ambiguous=which, nonexistent=which))
            for which in ("earliest", "latest")
        )
    except pa.ArrowInvalid as exc:
        raise ConfigError(
            f"time zone {zone} cannot be used: {exc} (is the system's tzdata installed?)", field="record.timezone"
        ) from exc
    differ = local & (earlier != later)
    # Where a reading does not exist, Arrow gives the borders of the jump; going on by the hour keeps the spacing.
    skipped = differ & (later - earlier <= 1)
    out = np.where(local, earlier, ns)
    if skipped.any():
        before = ns - 86_400_000_000_000
        earlier_day = pa.Array.from_buffers(
            pa.timestamp("ns"), len(ns), [None, pa.py_buffer(np.where(skipped, before, 0))]
        )
        offset = before - int64_of(pc.assume_timezone(earlier_day, zone, ambiguous="earliest", nonexistent="earliest"))
        out = np.where(skipped, ns - offset, out)
    ambiguous = differ & ~skipped
    for i in np.flatnonzero(ambiguous):
        previous = int(out[i - 1]) if i else last
        if previous is not None and out[i] - repeats < previous < later[i]:
            out[i] = later[i]
    return out, ambiguous, skipped, np.abs(ns) < 2**63 - 10**14


def numbers_of(array: pa.Array) -> npt.NDArray[np.float64]:
    """float64 values of a float64 array, NaN where null."""
    values = (
        np.frombuffer(array.buffers()[1], np.float64)[array.offset : array.offset + len(array)]
        if len(array)
        else np.empty(0)
    )
    return np.where(valid_of(array), values, np.nan) if array.null_count else values
