"""What the bands of an open dataset mean: name, wavelength, unit, scale and offset, nodata, and the time they show."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from headrace.ingest.normalizers.raster_times import Moment, cf_moment, epoch_moment

_MAX_NAME = 128
_NAMED_COLOURS = frozenset({"red", "green", "blue", "alpha", "hue", "saturation", "lightness"})
_DIMENSION = re.compile(r"^NETCDF_DIM_(.+)$")
_NANOMETRES = {"nanometer": 1.0, "nm": 1.0, "micrometer": 1e3, "um": 1e3, "micron": 1e3}
_TYPES = {"complex_int16": "complex64", "complex_int32": "complex64"}  # what rasterio reads them as


@dataclass(frozen=True)
class Band:
    """One band of a dataset. `index` counts from 1, as GDAL does."""

    index: int
    name: str
    dtype: str
    wavelength_nm: float | None = None
    unit: str | None = None
    scale: float = 1.0
    offset: float = 0.0
    nodata: float | None = None
    bits: int | None = None  #: significant bits, where they are fewer than the dtype's
    stored: str | None = None  #: the type in the file, where the reader gives another
    moment: Moment | None = None
    is_grib: bool = False
    masks: frozenset[str] = frozenset()  #: where its mask comes from: all_valid, per_dataset, alpha, nodata

    @property
    def variable(self) -> str:
        """The name without what tells its levels apart: `ta` of `ta[level=500]`."""
        return self.name.split("[", 1)[0]

    def row(self, gsd_m: float | None, resampling: str | None = None) -> dict[str, Any]:
        """The band as a value of the records' `bands` column."""
        return {
            "name": self.name, "wavelength_nm": self.wavelength_nm, "gsd_m": gsd_m, "unit": self.unit,
            "scale": self.scale, "offset": self.offset, "nodata": self.nodata, "resampling": resampling,
        }  # fmt: skip


def bands_of(dataset: Any) -> list[Band]:
    """All bands of an open rasterio dataset, in file order."""
    tags = dataset.tags()
    # rasterio makes each of these anew, for all bands, whenever it is asked.
    facts = zip(
        dataset.indexes, dataset.dtypes, dataset.nodatavals, dataset.descriptions, dataset.units, dataset.scales,
        dataset.offsets, dataset.colorinterp, dataset.mask_flag_enums,
    )  # fmt: skip
    bands = []
    for index, stored, nodata, description, unit, scale, offset, colour, flags in facts:
        own = dataset.tags(index)
        bits = _number(dataset.tags(index, ns="IMAGE_STRUCTURE").get("NBITS"))
        bands.append(
            Band(
                index=index,
                name=_name(own, tags, description, colour.name, index),
                dtype=_TYPES.get(stored, stored),
                wavelength_nm=_wavelength(own, dataset.tags(index, ns="IMAGERY")),
                unit=_unit(own, unit),
                scale=_finite(scale, 1.0),
                offset=_finite(offset, 0.0),
                nodata=None if nodata is None else float(nodata),
                bits=int(bits) if bits else None,
                stored=stored if stored in _TYPES else None,
                moment=_moment(own, tags),
                is_grib="GRIB_ELEMENT" in own,
                masks=frozenset(flag.name for flag in flags),
            )
        )
    return bands


def _name(own: dict[str, str], tags: dict[str, str], description: str | None, colour: str, index: int) -> str:
    if "GRIB_ELEMENT" in own:
        return f"{own['GRIB_ELEMENT']}:{own.get('GRIB_SHORT_NAME', '')}".rstrip(":")
    if "NETCDF_VARNAME" in own:
        dims = [
            f"{match[1]}={value}"
            for key, value in own.items()
            if (match := _DIMENSION.match(key)) and not _is_time(match[1], tags)
        ]
        return own["NETCDF_VARNAME"] + (f"[{','.join(dims)}]" if dims else "")
    text = (description or "").strip()
    if text and len(text) <= _MAX_NAME:
        return text
    return colour if colour in _NAMED_COLOURS else f"b{index}"


def _unit(own: dict[str, str], declared: str | None) -> str | None:
    text = own.get("GRIB_UNIT") or declared or ""
    text = text.strip().removeprefix("[").removesuffix("]")
    return text if text and text != "-" else None


def _wavelength(own: dict[str, str], imagery: dict[str, str]) -> float | None:
    """Nanometres, from ENVI's band tags or GDAL's IMAGERY domain; numbers without a unit are told by their size."""
    low = {key.lower(): value for key, value in own.items()}
    value = _number(low.get("wavelength"))
    if value:
        unit = low.get("wavelength_units", "").strip().lower().removesuffix("s")
        return value * _NANOMETRES.get(unit, 1.0 if value > 100 else 1e3)
    central = _number(imagery.get("CENTRAL_WAVELENGTH_UM"))
    return central * 1e3 if central else None


def _moment(own: dict[str, str], tags: dict[str, str]) -> Moment | None:
    if "GRIB_VALID_TIME" in own:
        return epoch_moment(own["GRIB_VALID_TIME"], "grib:valid_time")
    for key, value in own.items():
        match = _DIMENSION.match(key)
        if match and _is_time(match[1], tags):
            units, calendar = tags.get(f"{match[1]}#units", ""), tags.get(f"{match[1]}#calendar")
            return cf_moment(value, units, calendar, f"netcdf:{match[1]}")
    return None


def _is_time(dimension: str, tags: dict[str, str]) -> bool:
    """CF: a time coordinate is known by its unit, `days since 2000-01-01`."""
    return " since " in tags.get(f"{dimension}#units", "")


def _number(text: str | None) -> float | None:
    try:
        value = float((text or "").split()[0])
    except (ValueError, IndexError):
        return None
    return value if math.isfinite(value) else None


def _finite(value: float, default: float) -> float:
    return float(value) if value is not None and math.isfinite(value) else default
