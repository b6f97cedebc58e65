"""A Sentinel-2 SAFE folder as a product: band files at 10, 20 and 60 m, and the metadata that comes with them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from headrace.connectors.contract import Blob
from headrace.ingest.normalizers.raster_sentinel2 import (
    BANDS,
    MAX_XML_BYTES,
    NODATA,
    SafeMetadata,
    band_file,
    baseline_in,
    has_offset,
    read_metadata,
)
from headrace.ingest.normalizers.raster_sources import Product, Source
from headrace.ingest.normalizers.raster_times import iso_text
from headrace.schemas.errors import RecordError

_FOLDER = re.compile(r"(?:^|/)S2[A-Z]_[^/]*\.SAFE/", re.IGNORECASE)
_METADATA = re.compile(r"^MTD_(?:MSIL[12][AC]|TL)\.xml$|^S2[A-Z]_.*_MTD_.*\.xml$", re.IGNORECASE)
_PRODUCT_METADATA = re.compile(r"^MTD_MSIL|_MTD_SAFL", re.IGNORECASE)
_GRANULE = re.compile(r"(?:^|/)GRANULE/([^/]+)/", re.IGNORECASE)
_SECOND = ("SCL", "AOT", "WVP", "TCI")  # not reflectances: only by name


def is_safe(blobs: Sequence[Blob]) -> bool:
    """Whether these files are a Sentinel-2 SAFE folder: its metadata is among them, or the folder is named so."""
    return any(_METADATA.match(blob.name) or _FOLDER.search(blob.id) for blob in blobs)


def safe_products(blobs: Sequence[Blob], harmonize: bool) -> list[Product]:
    """One product per granule; products before 2016 have several. Raises: RecordError."""
    shared = SafeMetadata()
    granules: dict[str, SafeMetadata] = {}
    bands: dict[str, dict[str, tuple[float, Blob]]] = {}
    for blob in blobs:
        match = _GRANULE.search(blob.id)
        granule = match[1] if match else ""
        if _METADATA.match(blob.name):
            if blob.size > MAX_XML_BYTES:
                raise RecordError("too_large", f"{blob.name} has {blob.size} bytes; {MAX_XML_BYTES} are allowed")
            found = read_metadata(blob.read(MAX_XML_BYTES))
            if _PRODUCT_METADATA.search(blob.name):
                shared = found.merged(shared)
            else:
                granules[granule] = found.merged(granules.get(granule, SafeMetadata()))
        elif "/QI_DATA/" not in f"/{blob.id}".upper() and (named := band_file(blob.name)):
            band, metres = named
            metres = metres or (BANDS[band].gsd_m if band in BANDS else 10.0)
            # Of a band that comes in several resolutions the finest is its own.
            if metres < bands.setdefault(granule, {}).get(band, (float("inf"), blob))[0]:
                bands[granule][band] = (metres, blob)
    if not bands:
        raise RecordError("no_signal", f"no band file among {len(blobs)} files of a SAFE folder")
    name = next((part for part in blobs[0].id.split("/") if part.endswith(".SAFE")), "")
    products = []
    for granule in sorted(bands):
        about = granules.get(granule, granules.get("", SafeMetadata())).merged(shared)
        about = replace(about, baseline=shared.baseline or about.baseline or baseline_in(name) or baseline_in(granule))
        products.append(_product(about, bands[granule], granule if len(bands) > 1 else "", harmonize))
    return products


def _product(
    about: SafeMetadata, files: dict[str, tuple[float, Blob]], granule: str, harmonize: bool
) -> Product:
    names = [band for band in BANDS if band in files]
    sources = [reflectance(files[band][1], band, about, harmonize) for band in names]
    sources += [_second(files[band][1], band) for band in _SECOND if band in files]
    year = "" if about.sensing is None else f" {iso_text(about.sensing)[:4]}"
    extra: dict[str, Any] = {
        "product": "safe",
        "processing_baseline": about.baseline,
        "radiometric_offset_applied": harmonize and has_offset(about.baseline),
        "processing_level": about.level,
        "platform": about.platform,
        "product_uri": about.product,
        "tile": about.tile,
    }
    return Product(
        sources, len(names), {"granule": granule} if granule else {}, about.sensing, None, about.time_source,
        attribution=f"Contains modified Copernicus Sentinel data{year}",
        extra={key: value for key, value in extra.items() if value is not None},
    )  # fmt: skip


def reflectance(blob: Blob, band: str, about: SafeMetadata, harmonize: bool) -> Source:
    """A band of the instrument: with its offset taken out, or with the offset told."""
    scale = 1 / (about.quantification or 10_000)
    shift = about.offset_of(band)
    return Source(
        blob, band, aliases=BANDS[band].names,
        wavelength_nm=about.wavelengths.get(band, BANDS[band].wavelength_nm), gsd_m=BANDS[band].gsd_m,
        scale=scale, offset=0.0 if harmonize else shift * scale, nodata=NODATA, shift=shift if harmonize else 0,
    )  # fmt: skip


def _second(blob: Blob, band: str) -> Source:
    return Source(blob, band, nearest=band == "SCL", nodata=None if band == "TCI" else NODATA)
