"""A STAC item with its files as a product: what each asset says of its bands, and the item's time, place and rights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from headrace.connectors.contract import Blob
from headrace.ingest.normalizers.raster_clouds import kind_of
from headrace.ingest.normalizers.raster_errors import translated
from headrace.ingest.normalizers.raster_open import environment
from headrace.ingest.normalizers.raster_sentinel2 import (
    BANDS,
    NODATA,
    OFFSET,
    band_of,
    baseline_in,
    dark_share,
    has_offset,
    is_shifted_already,
)
from headrace.ingest.normalizers.raster_sources import Product, Source
from headrace.ingest.normalizers.raster_warp import ProductFiles
from headrace.ingest.normalizers.stac import (
    MAX_BYTES,
    StacAsset,
    StacBand,
    StacDocument,
    StacItem,
    read_stac,
    resolve,
    with_collection,
)
from headrace.schemas.errors import RecordError

_NOT_DATA = {"thumbnail", "overview", "visual", "metadata", "preview", "rendered_preview"}
_CLASSES = {"scl", "qa_pixel", "qa", "lulc", "classification", "fmask"}
_PREFIXES = ("s2:", "sentinel2:", "sentinel:")
_BASELINE_KEYS = (*(f"{prefix}processing_baseline" for prefix in _PREFIXES), "processing_baseline")
_NAME_KEYS = ("s2:product_uri", "sentinel2:product_uri", "sentinel:product_id", "s2:granule_id")
_FLAG_KEYS = ("earthsearch:boa_offset_applied", "sentinel:boa_offset_applied")
_KEPT = ("platform", "constellation", "instruments", "eo:cloud_cover", "processing:level", "view:sun_elevation")
_SAMPLE = 64  # pixels along a side of the windows that tell whether an offset is still there
_SAMPLED_BANDS = 3


def stac_of(blobs: Sequence[Blob]) -> StacItem | None:
    """The STAC item among these documents, completed by its collection; None if there is none.

    Raises: RecordError `inconsistent` if there are several.
    """
    items: list[StacItem] = []
    collection: StacDocument | None = None
    for blob in blobs:
        if b'"stac_version"' not in blob.read(1 << 20):
            continue
        if blob.size > MAX_BYTES:
            raise RecordError("too_large", f"{blob.name} has {blob.size} bytes; {MAX_BYTES} are allowed")
        document = read_stac(blob.read())
        if document.kind == "Collection":
            collection = document
        items += document.items
    if len(items) > 1:
        raise RecordError("inconsistent", f"{len(items)} STAC items in one group: {items[0].id!r}, {items[1].id!r} …")
    if not items:
        return None
    return with_collection(items[0], collection) if collection else items[0]


def stac_product(item: StacItem, rasters: Sequence[Blob], files: ProductFiles, config: Any) -> Product:
    """The bands of an item whose files came with it. Raises: RecordError."""
    spectral: list[Source] = []
    first: list[Source] = []
    second: list[Source] = []
    taken: set[int] = set()
    for asset in item.assets:
        blob = resolve(asset.href, rasters)
        if blob is None or id(blob) in taken:
            continue
        taken.add(id(blob))
        kind = first
        if asset.roles & _NOT_DATA or asset.key.lower() in _CLASSES | _NOT_DATA:
            kind = second
        elif any(band.common_name or band.wavelength_nm for band in asset.bands):
            kind = spectral
        kind.extend(_sources(asset, blob, files))
    if spectral:  # what an instrument saw is the product; what was computed from it is there by name
        first, second = spectral, first + second
    if not first and not second:
        hrefs = ", ".join(asset.href.rsplit("/", 1)[-1] for asset in item.assets[:5])
        raise RecordError("missing_field", f"no file of STAC item {item.id!r} came with it; it names {hrefs}")
    extra: dict[str, Any] = {"product": "stac", "stac_id": item.id, "collection": item.collection}
    extra.update({key: item.properties[key] for key in _KEPT if _is_plain(item.properties.get(key))})
    if _is_sentinel2(item):
        first = _harmonised(item, first, files, config, extra)
    return Product(
        first + second, len(first) or len(second), {}, item.event_time, item.event_end, item.time_source,
        item.license, item.attribution, {key: value for key, value in extra.items() if value is not None},
    )  # fmt: skip


def _sources(asset: StacAsset, blob: Blob, files: ProductFiles) -> list[Source]:
    """One source per band of the asset's file. An asset that says nothing of its bands is asked itself."""
    bands: Sequence[StacBand] = asset.bands
    if not bands:
        _, found, _ = files.open(blob)
        # A file of one band is known by its asset; of several, each by its own name.
        bands = [StacBand(name=None if len(found) == 1 else band.name) for band in found]
    sources = []
    for i, band in enumerate(bands):
        name = band.name or band.common_name or (asset.key if len(bands) == 1 else f"b{i + 1}")
        others = [band.common_name, asset.key if len(bands) == 1 else None]
        low = name.lower()
        sources.append(
            Source(
                blob, name, i + 1, tuple(other for other in others if other and other != name),
                band.wavelength_nm, band.gsd_m, None if band.unit in ("none", "1") else band.unit,
                band.scale, band.offset, band.nodata,
                nearest=low in _CLASSES or asset.key.lower() in _CLASSES or kind_of(name) is not None,
            )
        )  # fmt: skip
    return sources


def _is_sentinel2(item: StacItem) -> bool:
    properties = item.properties
    names = [properties.get("constellation"), properties.get("platform"), item.collection]
    return any(isinstance(name, str) and name.lower().startswith("sentinel-2") for name in names) or any(
        key in properties for key in _BASELINE_KEYS[: len(_PREFIXES)]
    )


def _harmonised(
    item: StacItem, sources: list[Source], files: ProductFiles, config: Any, extra: dict[str, Any]
) -> list[Source]:
    """The sources with Sentinel-2's offset judged: by the baseline, then by the pixels; flags alone decide nothing."""
    properties = item.properties
    baseline = next((str(properties[key]) for key in _BASELINE_KEYS if properties.get(key)), None)
    if baseline is None:
        names = [properties.get(key) for key in _NAME_KEYS] + [item.id]
        baseline = next((found for name in names if isinstance(name, str) and (found := baseline_in(name))), None)
    flag = next((properties[key] for key in _FLAG_KEYS if isinstance(properties.get(key), bool)), None)
    named = [(_band(source), source) for source in sources]
    dark = 0.0
    gone = False
    if has_offset(baseline):
        wanted = [source for band, source in named if band in ("B02", "B03", "B04")] or [s for band, s in named if band]
        dark = max((dark_share(_sample(source, files)) for source in wanted[:_SAMPLED_BANDS]), default=0.0)
        gone = is_shifted_already(dark, flag)
    applies = has_offset(baseline) and not gone
    extra["processing_baseline"] = baseline
    extra["radiometric_offset_applied"] = applies and config.harmonize
    if flag is not None or gone:
        extra["offset_evidence"] = {"flag": flag, "share_under_900": round(dark, 4), "removed_by_provider": gone}
    out = []
    for band, source in named:
        if band is None or not _is_whole(source, files):
            out.append(source)
            continue
        scale = source.scale if source.scale is not None else 1e-4
        shift = OFFSET if applies else 0
        out.append(
            replace(
                source, scale=scale, nodata=NODATA if source.nodata is None else source.nodata,
                wavelength_nm=source.wavelength_nm or BANDS[band].wavelength_nm,
                shift=shift if config.harmonize else 0, offset=0.0 if config.harmonize else shift * scale,
                aliases=tuple(dict.fromkeys((*source.aliases, band, *BANDS[band].names))),
            )
        )  # fmt: skip
    return out


def _band(source: Source) -> str | None:
    return next((found for name in (source.name, *source.aliases) if (found := band_of(name))), None)


def _is_whole(source: Source, files: ProductFiles) -> bool:
    """Whether the values are digital numbers; reflectances as fractions have no offset any more."""
    _, bands, _ = files.open(source.blob)
    return source.index <= len(bands) and bands[source.index - 1].dtype in ("uint16", "int16", "uint32", "int32")


def _sample(source: Source, files: ProductFiles) -> Any:
    """Values of nine small windows, spread evenly; never an overview, which is an average."""
    import numpy as np
    from rasterio.windows import Window

    dataset, _, _ = files.open(source.blob)
    width, height = min(_SAMPLE, dataset.width), min(_SAMPLE, dataset.height)
    lefts = sorted({(dataset.width - width) * k // 4 for k in (1, 2, 3)})
    tops = sorted({(dataset.height - height) * k // 4 for k in (1, 2, 3)})
    with translated(f"sampling {source.blob.name}"), environment():
        windows = [Window(left, top, width, height) for top in tops for left in lefts]
        return np.concatenate([dataset.read(source.index, window=window).ravel() for window in windows])


def _is_plain(value: Any) -> bool:
    return isinstance(value, (str, int, float)) or (isinstance(value, list) and all(isinstance(v, str) for v in value))
