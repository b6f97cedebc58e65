"""Raster files that belong together by their names alone: every band of each of them."""

from __future__ import annotations

from collections.abc import Sequence

from headrace.connectors.contract import Blob
from headrace.ingest.normalizers.raster_clouds import kind_of
from headrace.ingest.normalizers.raster_sources import Product, Source
from headrace.ingest.normalizers.raster_warp import ProductFiles


def stem_product(blobs: Sequence[Blob], files: ProductFiles) -> Product:
    """All bands of all files, in the order of the files. Raises: RecordError.

    A file of one band is named by what sets its name apart (`scene_B02.tif` beside `scene_B03.tif`: B02), unless the
    band has a name of its own.
    """
    labels = _labels([blob.name for blob in blobs])
    sources = []
    times = []
    for blob, label in zip(blobs, labels):
        _, bands, _ = files.open(blob)
        for band in bands:
            unnamed = band.name == f"b{band.index}"
            name = label if len(bands) == 1 and unnamed else band.name if len(bands) == 1 else f"{label}:{band.name}"
            aliases = tuple(dict.fromkeys(other for other in (label, band.name) if other != name and len(bands) == 1))
            sources.append(Source(blob, name, band.index, aliases, nearest=kind_of(name) is not None))
            times.append(band.moment)
    same = {moment.micros for moment in times if moment} if times else set()
    first = next((moment for moment in times if moment), None)
    known = first is not None and len(same) == 1
    return Product(
        sources, len(sources), event_time=first.micros if first and known else None,
        time_source=first.source if first and known else None, extra={"product": "stem"},
    )  # fmt: skip


def _labels(names: Sequence[str]) -> list[str]:
    """Names without extension and without what they begin with in common, up to a separator."""
    stems = [name.rsplit(".", 1)[0] for name in names]
    same = next((i for i, column in enumerate(zip(*stems)) if len(set(column)) > 1), min(len(stem) for stem in stems))
    cut = max(stems[0].rfind(mark, 0, same) + 1 for mark in "_-. ")
    labels = [stem[cut:] or stem for stem in stems]
    return labels if len(set(labels)) == len(labels) else list(names)
