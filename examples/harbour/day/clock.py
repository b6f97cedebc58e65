"""The one clock of the day: seconds since 2025-06-14T00:00Z, and its spellings."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

MIDNIGHT = datetime(2025, 6, 14, tzinfo=UTC)
LOCAL = timezone(timedelta(hours=3))  #: Eastern European Summer Time, on cameras and in bulletins


def moment(t: float) -> datetime:
    """The UTC time of second `t`."""
    return MIDNIGHT + timedelta(seconds=t)


def iso(t: float, *, local: bool = False) -> str:
    """ "2025-06-14T09:50:29Z", or with the offset of local time."""
    if local:
        return moment(t).astimezone(LOCAL).isoformat(timespec="seconds")
    return moment(t).isoformat(timespec="seconds").replace("+00:00", "Z")


def local_time(t: float) -> str:
    """ "12.50" as people there write it."""
    return moment(t).astimezone(LOCAL).strftime("%H.%M")
