"""Which normalizer bears which name: built in, an entry point, a file beside the pipeline, or a module."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from headrace.ingest.normalizers.contract import Normalizer
from headrace.schemas.plugins import builtin, resolve_class

GROUP = "headrace.normalizers"

#: name → module:class; the modules import their codecs when they open something, not before.
BUILTIN: dict[str, str] = {
    "text": "headrace.ingest.normalizers.text:TextNormalizer",
    "image": "headrace.ingest.normalizers.image:ImageNormalizer",
    "video": "headrace.ingest.normalizers.video:VideoNormalizer",
    "audio": "headrace.ingest.normalizers.audio:AudioNormalizer",
    "sensor": "headrace.ingest.normalizers.sensor:SensorNormalizer",
    "raster": "headrace.ingest.normalizers.raster:RasterNormalizer",
    "timed_text": "headrace.ingest.normalizers.timed_text:TimedTextNormalizer",
    "unrecognised": "headrace.ingest.normalizers.unrecognised:UnrecognisedNormalizer",
}

#: Libraries that a worker imports before its memory base is measured, so that their size is not charged to a record.
LIBRARIES: dict[str, tuple[str, ...]] = {
    "image": ("PIL.Image",),
    "video": ("av", "PIL.Image"),
    "audio": ("av",),
    "raster": ("rasterio",),
    "sensor": ("pyarrow.csv", "pyarrow.parquet"),
}


def normalizer_class(type_name: str, base: Path | None = None) -> type[Normalizer]:
    """The class named in a pipeline's `record: {type: …}`. Raises: ConfigError with the nearest known name."""
    found: Any = resolve_class(type_name, group=GROUP, known=BUILTIN, base=base, kind="record type", parent=Normalizer)
    return found


def all_normalizers() -> dict[str, type[Normalizer]]:
    """Every built-in normalizer by name."""
    return {name: builtin(spec) for name, spec in BUILTIN.items()}
