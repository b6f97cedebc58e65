"""Image records: every frame of a picture file as RGB, or as it was stored, with what was done to it.

The order is: walk the structure (image_structure.py), open by the sniffed format alone (image_open.py), decode frame by
frame (image_frames.py), take what a damaged file still holds (image_damage.py), read the time and the orientation
(image_exif.py), convert, scale, turn (image_pixels.py). A frame is one record; its locator is `{"frame":n}` also where
there is only one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from headrace.connectors.contract import Item
from headrace.connectors.sniff import sniff_stream
from headrace.ingest.normalizers.contract import Bad, Limits, Normalized, Normalizer, NormalizerConfig, blob_of
from headrace.ingest.normalizers.image_frames import Frame, FrameReader, Wishes
from headrace.ingest.normalizers.image_group import group_records
from headrace.ingest.normalizers.image_open import PLUGINS, UNSUPPORTED
from headrace.ingest.normalizers.image_pixels import Crop
from headrace.ingest.normalizers.image_structure import Structure, walk
from headrace.schemas.canonical import canonical_json
from headrace.schemas.errors import RecordError
from headrace.schemas.pipeline import bytes_field, later_field
from headrace.schemas.record import RecordBuilder

DEFAULT_FRAMES = 64
_BATCH_BYTES = 8 << 20
#: How many times the target a JPEG decoder that scales must leave.
_SPARE = {"exact": None, "fast": 2, "fastest": 1}

Count = Annotated[int, Field(ge=1)]


class ImageConfig(NormalizerConfig):
    """What a picture becomes."""

    max_side: Count | Literal["none"] = bytes_field(
        512, description="longest side in pixels; larger images are scaled down, smaller ones never up; none keeps all"
    )
    mode: Literal["rgb", "native"] = bytes_field(
        "rgb", description="rgb: 8-bit RGB of everything; native: the channels and the depth of the file"
    )
    frames: Count | Literal["first", "all"] = bytes_field(
        DEFAULT_FRAMES, description="frames of an animation or pages of a document: first, all, or at most so many"
    )
    crop: Count | tuple[Count, Count] | None = later_field(
        description="exactly this size, one side or [width, height]: scaled to cover it, then cut out of the middle;"
        " instead of max_side, and smaller images are scaled up"
    )
    short_side: Count | None = later_field(
        description="with crop: the short side before the cut, as 256 for a crop of 224; default: as the crop covers"
    )
    scaled: Literal["exact", "fast", "fastest"] = bytes_field(
        "exact",
        description="fast: let the JPEG decoder scale down first, to no less than twice the size, about twice as fast"
        " for photographs and less sharp; fastest: to no less than the size",
    )
    exif: Literal["orientation", "all"] = bytes_field(
        "orientation", description="what EXIF leaves besides the time: nothing, or its plain tags in `extra`"
    )
    gps: Literal["drop", "keep"] = bytes_field("drop", description="keep: the place in EXIF becomes `geometry`")

    @model_validator(mode="after")
    def _one_size(self) -> ImageConfig:
        if self.crop is not None and self.max_side != 512:
            raise ValueError("`crop` gives the size: leave `max_side` out")
        if self.short_side is not None:
            if self.crop is None:
                raise ValueError("`short_side` belongs to `crop`: give that too")
            if self.short_side < min(self.window):
                raise ValueError(f"a picture with a short side of {self.short_side} has no {self.window} in it")
        return self

    @property
    def window(self) -> tuple[int, int]:
        """(width, height) of `crop`."""
        assert self.crop is not None
        return (self.crop, self.crop) if isinstance(self.crop, int) else self.crop


class ImageNormalizer(Normalizer):
    """Makes image records of picture files."""

    Config = ImageConfig
    modality = "image"
    derived = ("text",)  #: captions of a group

    def __init__(self, config: Any, limits: Limits | None = None) -> None:
        super().__init__(config, limits)
        frames = config.frames
        self._wishes = Wishes(
            native=config.mode == "native",
            max_side=None if config.max_side == "none" or config.crop is not None else config.max_side,
            max_frames=1 if frames == "first" else None if frames == "all" else frames,
            spare=_SPARE[config.scaled],
            keep_tags=config.exif == "all",
            keep_gps=config.gps == "keep",
            crop=None if config.crop is None else Crop(config.window[0], config.window[1], config.short_side),
        )

    def open(self, item: Item) -> Iterator[Normalized]:
        """Drafts of one item. Raises: RecordError."""
        if isinstance(item.data, list):
            return group_records(item, item.data, self.open)
        blob = blob_of(item)
        name = item.headers.get("format")
        if name is None:
            with blob.open() as stream:
                name = sniff_stream(stream, blob.name).name
        if name in UNSUPPORTED:
            raise RecordError(f"unsupported:{name}", UNSUPPORTED[name])
        if name not in PLUGINS:
            reason = "unknown_format" if name == "unknown" else f"unsupported:{name}"
            raise RecordError(reason, "the first bytes are those of no image format that is read")
        if blob.size == 0:
            raise RecordError("empty", "the file has no bytes")
        if blob.size > self.limits.max_bytes // 2:
            raise RecordError("too_large", f"{blob.size} bytes; the limits allow {self.limits.max_bytes // 2}")
        return self._records(blob.read(), name, cut="truncated" in item.headers)

    def _records(self, data: bytes, name: str, *, cut: bool) -> Iterator[Normalized]:
        structure = walk(data, name)
        if cut and structure.damage is None:
            structure.flag("truncated")  # the connector could unpack it only in part, and its format does not show it
        builder = RecordBuilder("image")
        for got in FrameReader(data, name, structure, self._wishes, self.limits).frames():
            if isinstance(got, Bad):
                if len(builder):
                    yield builder.finish()
                yield got
                continue
            builder.add(**self._row(got, structure))
            if got.single or builder.payload_bytes >= _BATCH_BYTES:
                yield builder.finish()
        if len(builder):
            yield builder.finish()

    def _row(self, frame: Frame, structure: Structure) -> dict[str, Any]:
        exif = frame.exif
        extra: dict[str, Any] = dict(structure.extra)
        if frame.warnings:
            extra["warnings"] = frame.warnings
        if exif.tags:
            extra["exif"] = exif.tags
        profile = frame.info.get("icc_profile")
        if isinstance(profile, bytes):
            extra["icc_sha256"] = hashlib.sha256(profile).hexdigest()  # colours were not converted by it
        duration = frame.info.get("duration")
        if not frame.single and isinstance(duration, (int, float)):
            extra["duration_ms"] = duration
        if self._wishes.native:
            extra.update(_meaning(frame))
        warned = ["decoder_warning"] if frame.warnings else []
        return {
            "locator": f'{{"frame":{frame.number}}}',
            "event_time": exif.event_time,
            "time_source": exif.time_source,
            "geometry": exif.geometry,
            "flags": [*frame.flags, *structure.flags, *exif.flags, *warned] or None,
            "transforms": frame.transforms or None,
            "extra": canonical_json(extra).decode() if extra else None,
            "pixels": frame.pixels,
            "mode": frame.mode,
            "frame": None if frame.single else frame.number,
        }


def _meaning(frame: Frame) -> dict[str, Any]:
    """What native values need to be understood: the colours of a palette, and what is transparent."""
    found: dict[str, Any] = {}
    if frame.palette is not None:
        found["palette_rgb"] = frame.palette
    transparent = frame.info.get("transparency")
    if isinstance(transparent, bytes):
        found["transparency"] = transparent.hex()
    elif isinstance(transparent, int):
        found["transparency"] = transparent
    elif isinstance(transparent, tuple):
        found["transparency"] = list(transparent)
    return found
