"""Decoded samples for the status page: text, PNG pictures and frames, WAV, and series to plot.

Only what the dataset itself holds is decoded: sources are not read again here, so no hostile file meets a codec in the
service's own process. One sample is decoded at a time, and the last few are kept.
"""

from __future__ import annotations

import tempfile
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from headrace.ingest.render import quicklook, render, save_png, to_rgb
from headrace.ingest.status_samples import following, previous
from headrace.ingest.status_shapes import Decoded, SampleLook, TokensLook
from headrace.ingest.view import Address, DatasetView
from headrace.schemas.errors import ConfigError, HeadraceError
from headrace.schemas.record import list_views, payload_views

_KEPT = 8
_SHOWN_TOKENS = 256
_SHOWN_TEXT = 20_000
_SHOWN_FRAMES = 12
_SIDE = 1024
#: The largest payload that is decoded for a look, in values.
_MAX_VALUES = 256 << 20


@dataclass(frozen=True)
class Opened:
    """A sample with what its tokens decode to; `refused` says why there is nothing."""

    address: Address
    modality: str
    sample: pa.RecordBatch
    draft: pa.RecordBatch | None
    refused: str | None


class SampleDesk:
    """Opens samples of a view and draws them. Every method may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._opened: OrderedDict[Address, Opened] = OrderedDict()

    def open(self, view: DatasetView, address: Address) -> Opened:
        """The sample at an address, decoded. Raises: ConfigError if there is none; ShardError, StorageError."""
        sample = view.sample(address)  # also where it was decoded before: it may have been deleted since
        with self._lock:
            known = self._opened.get(address)
            if known is None:
                known = self._opened[address] = self._decode(view, address, sample)
                while len(self._opened) > _KEPT:
                    self._opened.popitem(last=False)
            self._opened.move_to_end(address)
            return known

    def _decode(self, view: DatasetView, address: Address, sample: pa.RecordBatch) -> Opened:
        modality = view.dataset.state.settings[address.stream].modality
        shape = sample.column("shape")[0].as_py() if "shape" in sample.schema.names else []
        if shape and np.prod(shape, dtype=np.float64) > _MAX_VALUES:
            return Opened(address, modality, sample, None, f"{shape} is too large to show here: use `headrace decode`")
        try:
            return Opened(address, modality, sample, view.decode(sample, address.stream), None)
        except (HeadraceError, ValueError, ArithmeticError) as exc:
            return Opened(address, modality, sample, None, f"it cannot be decoded here: {exc}")

    def look(self, view: DatasetView, address: Address, url: str = "/api/v1") -> SampleLook:
        """All about one sample; pictures and sound as addresses under `url`. Raises as `open`."""
        opened = self.open(view, address)
        before, after = previous(view.dataset.state, address), following(view.dataset.state, address)
        return {
            "address": str(address),
            "stream": address.stream,
            "modality": opened.modality,
            "provenance": view.why(address),
            "tokens": _tokens(view, opened),
            "decoded": describe(opened, url),
            "previous": None if before is None else str(before),
            "following": None if after is None else str(after),
        }


def sample_url(address: Address, base: str) -> str:
    """`BASE/samples/stream/L0003/17`, escaped."""
    return f"{base}/samples/{quote(str(address))}"


def describe(opened: Opened, url: str) -> Decoded:
    """What a sample decodes to, in words and numbers; large things as addresses."""
    draft, at = opened.draft, sample_url(opened.address, url)
    if draft is None:
        return {"kind": "none", "reason": opened.refused or "there is nothing to show"}
    if opened.modality == "text":
        text = draft.column("text")[0].as_py()
        return {"kind": "text", "text": text[:_SHOWN_TEXT], "shortened": len(text) > _SHOWN_TEXT}
    if opened.modality == "image":
        height, width = next(payload_views(draft)).shape[:2]
        return {"kind": "picture", "url": f"{at}/picture.png", "width": width, "height": height}
    if opened.modality == "raster":
        height, width = next(payload_views(draft)).shape[1:3]
        return {"kind": "picture", "url": f"{at}/picture.png", "width": width, "height": height}
    if opened.modality == "video":
        pts, num, den = (draft.column(name)[0].as_py() for name in ("pts", "time_base_num", "time_base_den"))
        return {
            "kind": "frames",
            "frames": [
                {"url": f"{at}/frame-{i}.png", "seconds": round(pts[i] * num / den, 3)} for i in chosen_frames(len(pts))
            ],
        }
    if opened.modality == "audio":
        samples, rate = next(payload_views(draft)), draft.column("rate")[0].as_py()
        return {
            "kind": "sound",
            "url": f"{at}/sound.wav",
            "seconds": round(len(samples) / rate, 3),
            "rate": rate,
            "channels": samples.shape[1] if samples.ndim == 2 else 1,
        }
    if opened.modality == "sensor":
        t, value, valid = (next(list_views(draft, name)) for name in ("t", "value", "valid"))
        return {
            "kind": "series",
            "channel": draft.column("channel")[0].as_py(),
            "unit": draft.column("unit")[0].as_py(),
            "times": [f"{np.datetime64(int(at_ns), 'ns')}Z" for at_ns in t],
            "values": [float(v) if ok and np.isfinite(v) else None for v, ok in zip(value, valid)],
        }
    array = next(payload_views(draft))
    return {"kind": "array", "shape": list(array.shape), "dtype": array.dtype.name}


def chosen_frames(count: int) -> list[int]:
    """Up to 12 frame numbers, evenly chosen, the first and the last among them."""
    return (
        sorted(set(np.linspace(0, count - 1, min(count, _SHOWN_FRAMES)).round().astype(int).tolist())) if count else []
    )


def picture_png(opened: Opened, frame: int | None = None) -> bytes:
    """An image, a raster's quicklook or a frame as PNG, thinned to at most 1024 pixels a side.

    Raises: ConfigError if the sample is none of these; MissingExtra without Pillow.
    """
    draft = _draft(opened)
    array = next(payload_views(draft)) if opened.modality in ("image", "raster", "video") else None
    if array is None or (opened.modality == "video") != (frame is not None):
        raise ConfigError(f"{opened.address} is {opened.modality}: it has no such picture")
    if opened.modality == "raster":
        image = _thinned(quicklook(array, draft))
    elif frame is None:
        image = to_rgb(_thinned(array))
    elif 0 <= frame < len(array):
        image = to_rgb(_thinned(array[frame]))
    else:
        raise ConfigError(f"{opened.address} has frames 0 to {len(array) - 1}, not {frame}")
    with tempfile.TemporaryDirectory(prefix="headrace-look-") as folder:
        return save_png(image, Path(folder) / "picture.png").read_bytes()


def sound_wav(opened: Opened) -> bytes:
    """The sound as 16 bit WAV. Raises: ConfigError if the sample is no sound."""
    draft = _draft(opened)
    if opened.modality != "audio":
        raise ConfigError(f"{opened.address} is {opened.modality}: it has no sound")
    with tempfile.TemporaryDirectory(prefix="headrace-look-") as folder:
        return render(draft, Path(folder) / "sound")[0].read_bytes()


def envelope(opened: Opened, columns: int) -> list[tuple[float, float]]:
    """(lowest, highest) of a sound for each of up to `columns` slices, scaled so that full scale is 1."""
    samples = next(payload_views(_draft(opened)))
    full = float(np.iinfo(samples.dtype).max) if samples.dtype.kind in "iu" else 1.0
    mono = samples.astype(np.float64).mean(axis=1) if samples.ndim == 2 else samples.astype(np.float64)
    if not mono.size:
        return []
    parts = np.array_split(mono / full, min(columns, mono.size))
    return [(float(part.min()), float(part.max())) for part in parts]


def _draft(opened: Opened) -> pa.RecordBatch:
    if opened.draft is None:
        raise ConfigError(f"{opened.address}: {opened.refused}")
    return opened.draft


def _thinned(image: npt.NDArray[Any]) -> npt.NDArray[Any]:
    step = max(1, -(-max(image.shape[:2]) // _SIDE))
    return image[::step, ::step]


def _tokens(view: DatasetView, opened: Opened) -> TokensLook | None:
    if "tokens" not in opened.sample.schema.names:
        return None
    tokens = next(list_views(opened.sample, "tokens"))
    size = view.dataset.state.settings[opened.address.stream].vocab_size
    return {"count": len(tokens), "vocab_size": size, "first": np.asarray(tokens[:_SHOWN_TOKENS]).tolist()}
