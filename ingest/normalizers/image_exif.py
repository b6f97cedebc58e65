"""What EXIF says about one image: which way up, when, and, only where the pipeline asks, where and how.

By default nothing but the orientation and the time is kept: the rest (place, owner, serial numbers) is personal data.
Damaged EXIF is a finding, never the end of an image.
"""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from headrace.ingest.normalizers.image_open import decoder_errors
from headrace.ingest.normalizers.text_time import NAIVE

_ORIENTATION, _EXIF_IFD, _GPS_IFD = 0x0112, 0x8769, 0x8825
#: (time, its zone, its fraction), best first: when the shutter opened, when it was digitised, when the file changed.
_TIMES = (
    ("DateTimeOriginal", 0x9003, 0x9011, 0x9291),
    ("DateTimeDigitized", 0x9004, 0x9012, 0x9292),
    ("DateTime", 0x0132, 0x9010, 0x9290),
)
_TIME = re.compile(r"(\d{4})[:-](\d\d)[:-](\d\d)[ T](\d\d):(\d\d):(\d\d)")
_ZONE = re.compile(r"([+-])(\d\d):?(\d\d)|Z")
_MAX_TEXT = 256
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class Exif:
    """The part of EXIF that a record may hold."""

    orientation: int = 1  #: 1 to 8
    event_time: int | None = None  #: microseconds since 1970 UTC
    time_source: str | None = None
    geometry: bytes | None = None  #: WKB point in CRS84
    tags: dict[str, Any] = field(default_factory=dict)
    flags: list[str] = field(default_factory=list)


def read_exif(image: Any, *, keep_tags: bool, keep_gps: bool) -> Exif:
    """The EXIF of an opened image; works before and after its pixels are loaded, and never raises for bad EXIF."""
    found = Exif()
    try:
        tags = image.getexif()
        if not tags:
            if image.info.get("exif"):
                found.flags.append("bad_exif")
            return found
        orientation = tags.get(_ORIENTATION, 1)
        if orientation in range(1, 9):
            found.orientation = int(orientation)
        else:
            found.flags.append("bad_orientation")
        inner = tags.get_ifd(_EXIF_IFD)
        _read_time({**tags, **inner}, found)
        if keep_gps:
            found.geometry = _point(tags.get_ifd(_GPS_IFD))
        if keep_tags:
            found.tags = _plain_tags({**tags, **inner})
    except decoder_errors():
        found.flags.append("bad_exif")
    return found


def _read_time(tags: dict[int, Any], found: Exif) -> None:
    for name, time_tag, zone_tag, fraction_tag in _TIMES:
        match = _TIME.match(_text(tags.get(time_tag)))
        if match is None:
            continue
        try:
            year, month, day, hour, minute, second = (int(part) for part in match.groups())
            moment = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
        except ValueError:
            continue  # "0000:00:00 00:00:00" stands for unknown
        digits = _text(tags.get(fraction_tag))
        if digits.isdigit():
            moment += timedelta(microseconds=int(digits[:6].ljust(6, "0")))
        zone = _ZONE.fullmatch(_text(tags.get(zone_tag)))
        if zone is None:
            found.flags.append(NAIVE)
        elif zone[1]:
            offset = timedelta(hours=int(zone[2]), minutes=int(zone[3]))
            moment -= offset if zone[1] == "+" else -offset
        found.event_time = (moment - _EPOCH) // timedelta(microseconds=1)
        found.time_source = f"exif:{name}"
        return


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    return value.strip(" \0") if isinstance(value, str) else ""


def _point(gps: dict[int, Any]) -> bytes | None:
    """WKB of the GPS position, None if it is not whole (EXIF 2.3, 4.6.6: latitude in tags 1, 2, longitude in 3, 4)."""
    latitude = _degrees(gps.get(2), _text(gps.get(1)), "N", "S", 90)
    longitude = _degrees(gps.get(4), _text(gps.get(3)), "E", "W", 180)
    if latitude is None or longitude is None:
        return None
    return struct.pack("<BIdd", 1, 1, longitude, latitude)


def _degrees(parts: Any, hemisphere: str, positive: str, negative: str, limit: int) -> float | None:
    if not isinstance(parts, tuple) or len(parts) != 3 or hemisphere not in (positive, negative):
        return None
    try:
        degrees = float(parts[0]) + float(parts[1]) / 60 + float(parts[2]) / 3600
    except decoder_errors():
        return None
    if not degrees <= limit:  # also false for NaN, which a fraction of 0/0 is
        return None
    return degrees if hemisphere == positive else -degrees


def _plain_tags(tags: dict[int, Any]) -> dict[str, Any]:
    """Tags with a name whose values are short and plain, by name."""
    from PIL import ExifTags

    plain: dict[str, Any] = {}
    for tag in sorted(tags):
        name = ExifTags.TAGS.get(tag)
        value = tags[tag]
        if name is None or tag in (_EXIF_IFD, _GPS_IFD):
            continue
        if isinstance(value, str):
            plain[name] = value.strip(" \0")[:_MAX_TEXT]
        elif isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
            plain[name] = value
        elif hasattr(value, "numerator"):
            plain[name] = [int(value.numerator), int(value.denominator)]  # as the file has it: no rounding
    return plain
