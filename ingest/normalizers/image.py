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

from pydantic import Field

from headrace.connectors.contract import Item
from headrace.connectors.sniff import sniff_stream
from headrace.ingest.normalizers.contract import Bad, Limits, Normalized, Normalizer, NormalizerConfig, blob_of
from headrace.ingest.normalizers.image_frames import Frame, FrameReader, Wishes
from headrace.ingest.normalizers.image_group import group_records
from headrace.ingest.normalizers.image_open import PLUGINS, UNSUPPORTED
from headrace.ingest.normalizers.image_structure import Structure, walk
from headrace.schemas.canonical import canonical_json
from headrace.schemas.errors import RecordError
from headrace.schemas.pipeline import bytes_field
from headrace.schemas.record import RecordBuilder

DEFAULT_FRAMES = 64
_BATCH_BYTES = 8 << 20

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
    scaled: Literal["exact", "fast"] = bytes_field(
        "exact",
        description="fast: let the JPEG decoder scale down first; about twice as fast for photographs, less sharp",
    )
    exif: Literal["orientation", "all"] = bytes_field(
        "orientation", description="what EXIF leaves besides the time: nothing, or its plain tags in `extra`"
    )
    gps: Literal["drop", "keep"] = bytes_field("drop", description="keep: the place in EXIF becomes `geometry`")


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
            max_side=None if config.max_side == "none" else config.max_side,
            max_frames=1 if frames == "first" else None if frames == "all" else frames,
            fast=config.scaled == "fast",
            keep_tags=config.exif == "all",
            keep_gps=config.gps == "keep",
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
