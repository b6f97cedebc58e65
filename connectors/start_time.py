"""The setting `start` of live connectors: earliest, latest, or a time with its zone."""

from __future__ import annotations

from datetime import UTC, datetime

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def check_start(value: str) -> str:
    """The value itself. Raises: ValueError that says what would be right."""
    if value not in ("earliest", "latest"):
        start_us(value)
    return value


def start_us(value: str) -> int:
    """A time as microseconds since 1970 UTC. Raises: ValueError if it is none, or names no zone."""
    try:
        moment = datetime.fromisoformat(value)
    except ValueError as exc:
        raise ValueError("earliest, latest, or an ISO 8601 time such as 2026-11-01T06:00:00Z is expected") from exc
    if moment.tzinfo is None:
        raise ValueError("a time with its zone is expected, such as 2026-11-01T06:00:00Z")
    since = moment - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
