"""Record payloads as files that people open: text, PNG, WAV, a plot, GeoTIFF.

One function per modality takes a draft (or record) row and writes files whose names begin with `stem`; it gives back
what it wrote. The same functions draw an original and its reconstruction, so the two can be laid side by side.
"""

from __future__ import annotations

import warnings
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from headrace.schemas.errors import MissingExtra
from headrace.schemas.record import Modality, list_views, modality_of, payload_views

_CONTACT_FRAMES = 12


def render(row: pa.RecordBatch, stem: Path) -> list[Path]:
    """Write the row's payload as files `stem.*`. Raises: MissingExtra, OSError."""
    return _RENDERERS[modality_of(row)](row, stem)


def picture(row: pa.RecordBatch) -> npt.NDArray[np.uint8] | None:
    """A picture of the payload, (height, width, 3) uint8, or None for text and tensors."""
    modality = modality_of(row)
    if modality == "image":
        return to_rgb(next(payload_views(row)))
    if modality == "video":
        return contact_sheet(next(payload_views(row)))
    if modality == "raster":
        return quicklook(next(payload_views(row)), row)
    if modality == "audio":
        return _plot([_audio_curve(row)], "seconds", "amplitude")
    if modality == "sensor":
        return _plot([_sensor_curve(row)], "", row.column("channel")[0].as_py() or "")
    return None


def to_rgb(pixels: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """(height, width[, channels]) of any dtype as RGB uint8; other ranges are stretched from minimum to maximum."""
    image = pixels if pixels.ndim == 3 else pixels[..., None]
    if image.dtype != np.uint8:
        image = _stretch(image.astype(np.float64), np.isfinite(image))
    if image.shape[2] in (1, 2):
        image = np.repeat(image[..., :1], 3, axis=2)
    return np.ascontiguousarray(image[..., :3])


def contact_sheet(frames: npt.NDArray[Any], columns: int = 4) -> npt.NDArray[np.uint8]:
    """(frames, height, width, channels) as a sheet of up to 12 frames, evenly chosen."""
    chosen = np.linspace(0, len(frames) - 1, min(len(frames), _CONTACT_FRAMES)).round().astype(int)
    tiles = [to_rgb(frames[i]) for i in chosen]
    columns = min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    height, width = tiles[0].shape[:2]
    sheet = np.full((rows * height, columns * width, 3), 255, np.uint8)
    for n, tile in enumerate(tiles):
        y, x = divmod(n, columns)
        sheet[y * height : (y + 1) * height, x * width : (x + 1) * width] = tile
    return sheet


def quicklook(bands: npt.NDArray[Any], row: pa.RecordBatch) -> npt.NDArray[np.uint8]:
    """(bands, height, width) as a picture: red, green and blue where bands are so named, else the first one or three.

    Stretched from the 2nd to the 98th percentile of valid pixels; pixels without data are drawn light grey.
    """
    names = [(b or {}).get("name") or "" for b in row.column("bands")[0].as_py() or []]
    lower = [n.lower() for n in names]
    wanted = next(
        (
            pick
            for pick in (("red", "green", "blue"), ("b04", "b03", "b02"), ("b4", "b3", "b2"))
            if all(p in lower for p in pick)
        ),
        None,
    )
    index = [lower.index(p) for p in wanted] if wanted else list(range(3)) if len(bands) == 3 else [0]
    image = np.moveaxis(np.abs(bands[index]) if np.iscomplexobj(bands) else bands[index].astype(np.float64), 0, -1)
    flat = np.frombuffer(row.column("valid")[0].as_buffer(), np.uint8) if row.column("valid")[0].is_valid else None
    valid: npt.NDArray[np.bool_] = np.all(np.isfinite(image), axis=2)
    if flat is not None and flat.size == valid.size:
        valid &= flat.reshape(valid.shape) > 0
    rgb = to_rgb(_stretch(image, valid[..., None] & np.isfinite(image), low=2, high=98))
    rgb[~valid] = 210
    return rgb


def _stretch(
    values: npt.NDArray[np.float64], valid: npt.NDArray[np.bool_], low: float = 0, high: float = 100
) -> npt.NDArray[np.uint8]:
    good = values[np.broadcast_to(valid, values.shape)]
    if good.size == 0:
        return np.zeros(values.shape, np.uint8)
    least, most = np.percentile(good, [low, high])
    span = most - least if most > least else 1.0
    scaled = np.clip((np.where(np.isfinite(values), values, least) - least) / span, 0, 1)
    return (scaled * 255).round().astype(np.uint8)


def save_png(image: npt.NDArray[np.uint8], path: Path) -> Path:
    """Write (height, width, 3) uint8 as PNG."""
    try:
        from PIL import Image
    except ImportError as exc:
        raise MissingExtra("pillow", "image", need="writing PNG") from exc
    Image.fromarray(image).save(path)
    return path


def _text(row: pa.RecordBatch, stem: Path) -> list[Path]:
    path = stem.with_suffix(".txt")
    path.write_text(row.column("text")[0].as_py(), encoding="utf-8", newline="")
    return [path]


def _image(row: pa.RecordBatch, stem: Path) -> list[Path]:
    return [save_png(to_rgb(next(payload_views(row))), stem.with_suffix(".png"))]


def _video(row: pa.RecordBatch, stem: Path) -> list[Path]:
    return [save_png(contact_sheet(next(payload_views(row))), stem.with_suffix(".png"))]


def _audio(row: pa.RecordBatch, stem: Path) -> list[Path]:
    samples = next(payload_views(row))
    if samples.dtype != np.int16:
        samples = np.clip(
            samples.astype(np.float64) * (32767 if samples.dtype.kind == "f" else 1), -32768, 32767
        ).astype(np.int16)
    path = stem.with_suffix(".wav")
    with wave.open(str(path), "wb") as out:
        out.setnchannels(samples.shape[1] if samples.ndim == 2 else 1)
        out.setsampwidth(2)
        out.setframerate(row.column("rate")[0].as_py())
        out.writeframes(np.ascontiguousarray(samples, "<i2").tobytes())
    return [path]


def _sensor(row: pa.RecordBatch, stem: Path) -> list[Path]:
    image = picture(row)
    lines = ["t,value"]
    for t, value, valid in zip(
        next(list_views(row, "t")), next(list_views(row, "value")), next(list_views(row, "valid"))
    ):
        lines.append(f"{np.datetime64(int(t), 'ns')}Z,{repr(float(value)) if valid else ''}")
    table = stem.with_suffix(".csv")
    table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return [table] if image is None else [save_png(image, stem.with_suffix(".png")), table]


def _raster(row: pa.RecordBatch, stem: Path) -> list[Path]:
    bands = next(payload_views(row))
    paths = [save_png(quicklook(bands, row), stem.with_suffix(".png"))]
    try:
        import rasterio
        import rasterio.errors
        from rasterio.transform import Affine
    except ImportError as exc:
        raise MissingExtra("rasterio", "raster", need="writing GeoTIFF") from exc
    path = stem.with_suffix(".tif")
    transform = row.column("transform")[0].as_py()
    profile: dict[str, Any] = {
        "driver": "GTiff",
        "count": bands.shape[0],
        "height": bands.shape[1],
        "width": bands.shape[2],
    }
    if transform:
        profile["transform"] = Affine(*transform[:6])
    crs = row.column("crs")[0].as_py()
    if crs:
        profile["crs"] = crs
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)  # many tiles have no place, and say so
        out = rasterio.open(path, "w", dtype=bands.dtype.name, compress="deflate", **profile)
    with out:
        out.write(bands)
        for i, band in enumerate(row.column("bands")[0].as_py() or []):
            if band and band.get("name"):
                out.set_band_description(i + 1, band["name"])
    return [*paths, path]


def _tensor(row: pa.RecordBatch, stem: Path) -> list[Path]:
    path = stem.with_suffix(".npy")
    np.save(path, next(payload_views(row)), allow_pickle=False)
    return [path]


_RENDERERS: dict[Modality, Callable[[pa.RecordBatch, Path], list[Path]]] = {
    "text": _text, "image": _image, "video": _video, "audio": _audio, "sensor": _sensor, "raster": _raster,
    "tensor": _tensor,
}  # fmt: skip


def _audio_curve(row: pa.RecordBatch) -> tuple[Any, Any]:
    samples = next(payload_views(row)).astype(np.float64)
    mono = samples.mean(axis=1) if samples.ndim == 2 else samples
    return np.arange(len(mono)) / row.column("rate")[0].as_py(), mono


def _sensor_curve(row: pa.RecordBatch) -> tuple[Any, Any]:
    t = next(list_views(row, "t")).astype("datetime64[ns]")
    value = np.where(next(list_views(row, "valid")), next(list_views(row, "value")), np.nan)
    return t, value


def _plot(curves: list[tuple[Any, Any]], x_label: str, y_label: str) -> npt.NDArray[np.uint8] | None:
    """Curves as a picture of 960 x 320, or None where matplotlib is not installed."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return None
    figure = Figure(figsize=(9.6, 3.2), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    for x, y in curves:
        axes.plot(x, y, linewidth=0.8, color="#1f5a7a")
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(alpha=0.25)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()  # type: ignore[no-untyped-call]


def side_by_side(left: npt.NDArray[np.uint8], right: npt.NDArray[np.uint8], gap: int = 8) -> npt.NDArray[np.uint8]:
    """Two pictures on one white sheet, tops aligned."""
    height = max(left.shape[0], right.shape[0])
    sheet = np.full((height, left.shape[1] + gap + right.shape[1], 3), 255, np.uint8)
    sheet[: left.shape[0], : left.shape[1]] = left
    sheet[: right.shape[0], left.shape[1] + gap :] = right
    return sheet
