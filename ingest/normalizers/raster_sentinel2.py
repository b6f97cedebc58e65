"""Sentinel-2 products: what the metadata of a SAFE folder says, and the radiometric offset of newer baselines.

From processing baseline 04.00 on (January 2022, and everything reprocessed since) 1000 was added to all reflectances,
so that negative ones can be stored. Harmonising takes it out again: where a pixel is data, its offset (-1000) is added
and what is below zero becomes zero, as in all products before; 0 stays "no data". The baseline decides, never the
date: old acquisitions were reprocessed.

Source: Sentinel-2 Products Specification Document, issue 14.9 and later; ESA, "Processing baseline", 04.00.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from headrace.ingest.normalizers.raster_times import iso_micros
from headrace.schemas.errors import MissingExtra, RecordError

MAX_XML_BYTES = 64 << 20
OFFSET = -1000  #: of every band, where a baseline has one and the metadata does not say it
NODATA = 0
_FIRST_WITH_OFFSET = (4, 0)


@dataclass(frozen=True)
class Spectral:
    """A band of the instrument: metres, nanometres (of Sentinel-2A), and the names others give it."""

    gsd_m: float
    wavelength_nm: float
    names: tuple[str, ...]


#: In the order of `band_id` in the metadata.
BANDS: dict[str, Spectral] = {
    "B01": Spectral(60, 442.7, ("coastal",)),
    "B02": Spectral(10, 492.4, ("blue",)),
    "B03": Spectral(10, 559.8, ("green",)),
    "B04": Spectral(10, 664.6, ("red",)),
    "B05": Spectral(20, 704.1, ("rededge1", "rededge071")),
    "B06": Spectral(20, 740.5, ("rededge2", "rededge075")),
    "B07": Spectral(20, 782.8, ("rededge3", "rededge078")),
    "B08": Spectral(10, 832.8, ("nir",)),
    "B8A": Spectral(20, 864.7, ("nir08",)),
    "B09": Spectral(60, 945.1, ("nir09",)),
    "B10": Spectral(60, 1373.5, ("cirrus",)),
    "B11": Spectral(20, 1613.7, ("swir16",)),
    "B12": Spectral(20, 2202.4, ("swir22",)),
}
_BY_NAME = {name: band for band, about in BANDS.items() for name in (band.lower(), *about.names)}
_BAND_FILE = re.compile(
    r"(?:^|_)(B0?[1-9]|B8A|B1[0-2]|SCL|AOT|WVP|TCI)(?:_(10|20|60)m)?\.(?:jp2|tiff?)$", re.IGNORECASE
)
_BASELINE = re.compile(r"(\d{1,2})\.(\d{2})$")
_BASELINE_IN_NAME = re.compile(r"_N(\d{2})\.?(\d{2})(?:_|$)")
_DARK = 900  # values that the offset leaves to negative reflectances alone


def band_of(name: str) -> str | None:
    """`B02` for B2, b02, blue …; None if no band of Sentinel-2 is called so."""
    low = name.lower()
    return _BY_NAME.get(low) or (_BY_NAME.get(f"b0{low[1]}") if len(low) == 2 and low[0] == "b" else None)


def band_file(name: str) -> tuple[str, float | None] | None:
    """(band, metres) of a file in a SAFE folder, metres None where the name does not say them; None for others."""
    match = _BAND_FILE.search(name)
    if match is None or name.upper().startswith("MSK_"):
        return None
    return band_of(match[1]) or match[1].upper(), float(match[2]) if match[2] else None


@dataclass(frozen=True)
class SafeMetadata:
    """What MTD_MSIL*.xml and MTD_TL.xml say, as far as they were there."""

    level: str | None = None
    baseline: str | None = None
    quantification: float | None = None
    offsets: Mapping[str, int] = field(default_factory=dict)
    wavelengths: Mapping[str, float] = field(default_factory=dict)
    platform: str | None = None
    product: str | None = None
    tile: str | None = None
    sensing: int | None = None  #: microseconds since 1970
    time_source: str | None = None

    def merged(self, other: SafeMetadata) -> SafeMetadata:
        """This, completed by what only the other says."""
        mine = {k: v for k, v in vars(self).items() if v not in (None, {})}
        return SafeMetadata(**{**vars(other), **mine})

    def offset_of(self, band: str) -> int:
        """What must be added to a band's values; 0 before baseline 04.00."""
        if not has_offset(self.baseline):
            return 0
        return self.offsets.get(band, OFFSET)


def has_offset(baseline: str | None) -> bool:
    """Whether products of a baseline carry the offset."""
    match = _BASELINE.search(baseline or "")
    return match is not None and (int(match[1]), int(match[2])) >= _FIRST_WITH_OFFSET


def baseline_in(name: str) -> str | None:
    """The baseline in a product's or granule's name (`…_N0509_…`)."""
    match = _BASELINE_IN_NAME.search(name.removesuffix(".SAFE"))
    return f"{match[1]}.{match[2]}" if match else None


def read_metadata(data: bytes) -> SafeMetadata:
    """One metadata file of a SAFE folder, product or granule. Raises: RecordError `corrupt`, `too_large`."""
    root = _parse(data)
    texts: dict[str, str] = {}
    offsets: dict[str, int] = {}
    wavelengths: dict[str, float] = {}
    names = list(BANDS)
    for element in root.iter():
        tag = element.tag.rsplit("}", 1)[-1]
        text = (element.text or "").strip()
        if tag in ("BOA_ADD_OFFSET", "RADIO_ADD_OFFSET"):
            number = _whole(element.get("band_id"))
            value = _whole(text)
            if number is not None and value is not None and 0 <= number < len(names):
                offsets[names[number]] = value
        elif tag == "Spectral_Information":
            number = _whole(element.get("bandId"))
            central = next((_number(e.text) for e in element.iter() if e.tag.rsplit("}", 1)[-1] == "CENTRAL"), None)
            if number is not None and central and 0 <= number < len(names):
                wavelengths[names[number]] = central
        elif text and len(text) <= 256:
            texts.setdefault(tag, text)
    time_tag = next((t for t in ("SENSING_TIME", "DATATAKE_SENSING_START", "PRODUCT_START_TIME") if t in texts), None)
    sensing = iso_micros(texts.get(time_tag or ""))
    granule = texts.get("TILE_ID", "")
    tile = re.search(r"_T(\d{2}[A-Z]{3})(?:_|$)", texts.get("PRODUCT_URI", "") or granule)
    return SafeMetadata(
        level=texts.get("PROCESSING_LEVEL"),
        baseline=texts.get("PROCESSING_BASELINE") or baseline_in(texts.get("PRODUCT_URI", "")) or baseline_in(granule),
        quantification=_number(texts.get("BOA_QUANTIFICATION_VALUE") or texts.get("QUANTIFICATION_VALUE")),
        offsets=offsets,
        wavelengths=wavelengths,
        platform=texts.get("SPACECRAFT_NAME"),
        product=texts.get("PRODUCT_URI"),
        tile=tile[1] if tile else None,
        sensing=sensing,
        time_source=f"safe:{time_tag}" if sensing is not None else None,
    )


def _parse(data: bytes) -> Any:
    if len(data) > MAX_XML_BYTES:
        raise RecordError("too_large", f"{len(data)} bytes of XML metadata; {MAX_XML_BYTES} are allowed")
    try:
        from defusedxml import DefusedXmlException
        from defusedxml.ElementTree import ParseError, fromstring
    except ImportError as exc:
        raise MissingExtra("defusedxml", "raster", need="reading the metadata of a SAFE folder") from exc
    try:
        return fromstring(data, forbid_dtd=True)
    except (ParseError, DefusedXmlException, ValueError, LookupError) as exc:
        raise RecordError("corrupt", f"the XML metadata cannot be parsed: {exc or type(exc).__name__}") from exc


def is_shifted_already(dark_share: float, flag: bool | None) -> bool:
    """Whether whoever distributes a product has taken the offset out of its pixels, against what its flag says.

    dark_share: of a band's data, the share between 0 and 900, the largest of the sampled bands. With the offset in
    place these are reflectances under -0.01, which a band has few of; without it they are all that is dark. The flags
    of known catalogues are wrong in both directions, so a flag only decides how much the pixels have to say.
    """
    return dark_share >= (0.01 if flag else 0.5)


def dark_share(values: Any) -> float:
    """The share of data (not 0) under 900; 0 without data."""
    data = int((values > NODATA).sum())
    return float(((values > NODATA) & (values < _DARK)).sum()) / data if data else 0.0


def _whole(text: str | None) -> int | None:
    value = _number(text)
    return int(value) if value is not None and value == int(value) else None


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if abs(value) < 1e12 else None  # NaN compares false
