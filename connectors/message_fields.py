"""What a sender says of a payload beside it: media type, event time, message id, as headers and properties spell them.

Shared by the receivers `http_push` and `mqtt`, whose messages carry the same three things under other names.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any, Literal

import orjson

TimeUnit = Literal["iso", "s", "ms", "us", "ns"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DIGITS = {"s": 6, "ms": 3, "us": 0, "ns": -3}
#: Media types whose format (a name of connectors/sniff.py) follows from the type alone.
_FORMATS = {
    "application/json": "json", "application/geo+json": "json", "application/senml+json": "json",
    "application/x-ndjson": "jsonl", "application/ndjson": "jsonl", "application/jsonl": "jsonl",
    "application/json-lines": "jsonl", "text/plain": "text", "text/markdown": "markdown", "text/html": "html",
    "text/csv": "csv", "text/tab-separated-values": "tsv", "text/xml": "xml", "application/xml": "xml",
    "text/vtt": "webvtt", "application/ttml+xml": "ttml", "application/gpx+xml": "gpx",
    "image/jpeg": "jpeg", "image/png": "png", "image/webp": "webp", "image/gif": "gif", "image/bmp": "bmp",
    "image/avif": "avif", "image/jp2": "jp2", "audio/wav": "wav", "audio/vnd.wave": "wav", "audio/flac": "flac",
    "audio/mpeg": "mp3", "audio/ogg": "ogg", "audio/aac": "aac", "video/mp4": "mp4", "video/mp2t": "mpegts",
    "video/x-matroska": "matroska", "video/webm": "matroska", "application/vnd.apache.parquet": "parquet",
    "application/vnd.apache.arrow.stream": "arrow_stream", "application/vnd.apache.arrow.file": "arrow_file",
}  # fmt: skip
_MEDIA_TYPE = re.compile(r"^[a-z0-9!#$&^_.+-]{1,127}/[a-z0-9!#$&^_.+-]{1,127}$")


def media_type_of(value: str) -> str | None:
    """`type/subtype` in lower case, without parameters; None if the value is no media type (RFC 6838 section 4.2)."""
    found = value.split(";", 1)[0].strip().lower()
    return found if _MEDIA_TYPE.match(found) else None


def format_of(media_type: str) -> str | None:
    """The format that a media type promises, as connectors/sniff.py names it; None where the bytes must tell."""
    known = _FORMATS.get(media_type)
    return known or ("json" if media_type.endswith("+json") else None)


def event_time_us(value: str, unit: TimeUnit) -> int | None:
    """Microseconds since 1970 UTC of a sender's stamp; None if it is not one, or names no time zone.

    `iso` is ISO 8601 with an offset or Z; the others are decimal numbers since 1970. Finer than a microsecond is cut.
    """
    text = value.strip()
    if len(text) > 40:
        return None
    if unit == "iso":
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            return None
        return None if moment.tzinfo is None else (moment - _EPOCH) // timedelta(microseconds=1)
    try:
        number = Decimal(text)
    except InvalidOperation:
        return None
    if not number.is_finite() or abs(number.adjusted()) > 24:
        return None
    micros = int(number.scaleb(_DIGITS[unit]).to_integral_value("ROUND_FLOOR"))
    # What has no calendar date (years 1 to 9999) is a broken clock, not a time.
    return micros if -62_135_596_800_000_000 <= micros <= 253_402_300_799_999_999 else None


def json_field(payload: bytes, path: str) -> str | None:
    """The string, integer or boolean at a dotted path of a JSON object, as text; None if there is none.

    Floats are no identities, since one number may be printed in two ways.
    """
    try:
        value: Any = orjson.loads(payload)
    except orjson.JSONDecodeError:
        return None
    for name in path.split("."):
        if not isinstance(value, dict) or name not in value:
            return None
        value = value[name]
    if isinstance(value, str):
        return value or None
    return orjson.dumps(value).decode() if isinstance(value, (int, bool)) else None
