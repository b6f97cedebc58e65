"""Image records: every frame of a picture file as RGB, or as it was stored, with what was done to it.

The order is: walk the structure (image_structure.py), open by the sniffed format alone (image_open.py), read the time and
the orientation (image_exif.py), decode, take what a damaged file still holds (image_damage.py), convert, scale, turn
(image_pixels.py). A frame is one record; its locator is `{"frame":n}` also where there is only one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from headrace.connectors.contract import Item
from headrace.connectors.sniff import sniff_stream
from headrace.ingest.normalizers import image_tiff
from headrace.ingest.normalizers.contract import Bad, Limits, Normalized, Normalizer, NormalizerConfig, blob_of
from headrace.ingest.normalizers.image_damage import decoded_part
from headrace.ingest.normalizers.image_depth import wide_pixels
from headrace.ingest.normalizers.image_exif import Exif, read_exif
from headrace.ingest.normalizers.image_open import (
    DECODER_ERRORS, PLUGINS, UNSUPPORTED, at_pixels, check_size, open_image, said, warnings_of_pillow,
)  # fmt: skip
from headrace.ingest.normalizers.image_pixels import Array, Picture, finished, target_size
from headrace.ingest.normalizers.image_structure import Structure, walk
from headrace.schemas.canonical import canonical_json
from headrace.schemas.errors import RecordError
from headrace.schemas.pipeline import bytes_field
from headrace.schemas.record import as_draft

#: Formats whose frames are pictures of their own. The layers of a PSD and the sizes of an icon are not.
_FRAMED = frozenset({"GIF", "PNG", "TIFF", "WEBP", "AVIF", "FLI", "SPIDER", "MPO"})
DEFAULT_FRAMES = 64
_KEEP_BYTES = 16 << 20  #: a damaged file up to this size goes to quarantine whole


class ImageConfig(NormalizerConfig):
    """What a picture becomes."""

    max_side: int | Literal["none"] = bytes_field(
        512, description="longest side in pixels; larger images are scaled down, smaller ones never up; none keeps all"
    )
    mode: Literal["rgb", "native"] = bytes_field(
        "rgb", description="rgb: 8-bit RGB of everything; native: the channels and the depth of the file"
    )
    frames: Literal["first", "all"] | int = bytes_field(
        DEFAULT_FRAMES, description="frames of an animation or pages of a document: first, all, or at most so many"
    )
    scaled: Literal["exact", "fast"] = bytes_field(
        "exact", description="fast: let the JPEG decoder scale down first; about twice as fast for photographs, less sharp"
    )
    exif: Literal["orientation", "all"] = bytes_field(
        "orientation", description="what EXIF leaves besides the time: nothing, or its plain tags in `extra`"
    )
    gps: Literal["drop", "keep"] = bytes_field("drop", description="keep: the place in EXIF becomes `geometry`")
    mpo: Literal["first", "all"] = bytes_field(
        "first", description="whether the further pictures of a camera's JPEG (depth, gain map, preview) are records too"
    )


@dataclass(slots=True)
class _Frame:
    """A decoded frame on its way to a record."""

    number: int
    picture: Picture
    exif: Exif
    info: dict[str, Any]
    warnings: list[str]
    lost: Bad | None = None  #: what of the frame could not be had


class ImageNormalizer(Normalizer):
    """Makes image records of picture files."""

    Config = ImageConfig
    modality = "image"

    def open(self, item: Item) -> Iterator[Normalized]:
        """Drafts of one item. Raises: RecordError."""
        blob = blob_of(item)
        name = item.headers.get("format")
        if name is None:
            with blob.open() as stream:
                name = sniff_stream(stream, blob.name).name
        if name in UNSUPPORTED:
            raise RecordError(f"unsupported:{name}", UNSUPPORTED[name])
        if name not in PLUGINS:
            raise RecordError("unknown_format" if name == "unknown" else f"unsupported:{name}", f"{name} is no image")
        if blob.size == 0:
            raise RecordError("empty", "the file has no bytes")
        if blob.size > self.limits.max_bytes // 2:
            raise RecordError("too_large", f"{blob.size} bytes; the limits allow {self.limits.max_bytes // 2}")
        return _Reading(blob.read(), name, self.config, self.limits).drafts()


class _Reading:
    """One file being read."""

    def __init__(self, data: bytes, name: str, config: ImageConfig, limits: Limits) -> None:
        self._data = data
        self._name = name
        self._config = config
        self._limits = limits
        self._native = config.mode == "native"
        self._max_side = None if config.max_side == "none" else config.max_side
        #: Bytes of one stored pixel in what is made of it: a large image that is scaled down hardly leaves any.
        self._out_bytes = 0 if self._max_side is not None else 8
        self._structure = Structure()
        self._image: Any = None

    def drafts(self) -> Iterator[Normalized]:
        self._structure = walk(self._data, self._name)
        first = self._first()
        more = self._more_frames(first)
        if more is None:
            yield self._record(first)
        elif self._image.format == "MPO":
            yield from self._with_companions(first, more)
        else:
            yield self._record(first)
            yield from self._later(more)
        if first.lost is not None:
            yield first.lost

    def _first(self) -> _Frame:
        with warnings_of_pillow() as messages:
            damage = self._structure.damage
            try:
                frame = self._decoded_first()
            except RecordError as exc:
                if damage is None or exc.reason.startswith(("unsupported", "too_large", "bomb")):
                    raise
                raise RecordError(damage.reason, f"{damage.message}; nothing before it decodes") from exc
            frame.warnings = list(messages)
            if damage is not None and "truncated" not in frame.picture.flags:
                frame.picture.flags.append("truncated")
        return frame
