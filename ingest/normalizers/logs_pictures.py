"""Pictures of logged messages: raw pixels by their ROS encoding, and coded ones through the image normalizer.

Encodings are those of sensor_msgs/image_encodings.hpp; packed and planar YUV, and unknown ones, are no picture here and
pass as a tensor of their bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from headrace.connectors.contract import BytesBlob, Item
from headrace.connectors.sniff import HEAD_BYTES, sniff
from headrace.ingest.normalizers.contract import Bad, Limits
from headrace.schemas.errors import RecordError
from headrace.schemas.record import modality_of, payload_views

#: encoding → (dtype, channels, mode, order of the channels where it is not that of the mode)
_ENCODINGS: dict[str, tuple[str, int, str, tuple[int, ...] | None]] = {
    "rgb8": ("u1", 3, "RGB", None),
    "bgr8": ("u1", 3, "RGB", (2, 1, 0)),
    "rgba8": ("u1", 4, "RGBA", None),
    "bgra8": ("u1", 4, "RGBA", (2, 1, 0, 3)),
    "rgb16": ("u2", 3, "RGB", None),
    "bgr16": ("u2", 3, "RGB", (2, 1, 0)),
    "mono8": ("u1", 1, "L", None),
    "mono16": ("u2", 1, "I;16", None),
    "8UC1": ("u1", 1, "L", None),
    "8UC3": ("u1", 3, "RGB", (2, 1, 0)),
    "8UC4": ("u1", 4, "RGBA", (2, 1, 0, 3)),
    "16UC1": ("u2", 1, "I;16", None),
    "32FC1": ("f4", 1, "F", None),
    "bayer_rggb8": ("u1", 1, "BAYER_RGGB", None),
    "bayer_bggr8": ("u1", 1, "BAYER_BGGR", None),
    "bayer_gbrg8": ("u1", 1, "BAYER_GBRG", None),
    "bayer_grbg8": ("u1", 1, "BAYER_GRBG", None),
}
_PICTURES = frozenset({"jpeg", "png", "webp", "bmp", "tiff", "gif", "ppm"})
#: Columns of an image record that a message's picture keeps; place and time come from the message.
_KEPT = ("mode", "transforms", "flags", "valid_fraction", "extra", "frame")


def raw_picture(message: Mapping[str, Any], data: bytes) -> tuple[npt.NDArray[Any], str] | None:
    """((height, width, channels), mode) of sensor_msgs/Image or foxglove.RawImage; None for other encodings.

    Raises: RecordError `inconsistent` if the bytes do not hold what height, width and step say.
    """
    encoding = str(message.get("encoding", ""))
    known = _ENCODINGS.get(encoding)
    if known is None:
        return None
    kind, channels, mode, order = known
    height, width = int(message.get("height") or 0), int(message.get("width") or 0)
    dtype = np.dtype(kind).newbyteorder(">" if message.get("is_bigendian") else "<")
    row = width * channels * dtype.itemsize
    step = int(message.get("step") or row)
    if height <= 0 or width <= 0 or step < row or step * (height - 1) + row > len(data):
        raise RecordError(
            "inconsistent", f"an {encoding} image of {width} x {height}, {step} bytes a row, in {len(data)} bytes"
        )
    rows = np.lib.stride_tricks.as_strided(np.frombuffer(data, np.uint8), (height, row), (step, 1), writeable=False)
    pixels = np.ascontiguousarray(rows).view(dtype).reshape(height, width, channels).astype(np.dtype(kind))
    return (pixels[:, :, list(order)] if order else pixels), mode


def coded_pictures(data: bytes, limits: Limits) -> Iterator[dict[str, Any] | Bad] | None:
    """Columns of the image records of a coded picture; None if it is no picture that is known here.

    Raises (while iterated): RecordError.
    """
    name = sniff(data[:HEAD_BYTES], "").name
    return _records(data, name, limits) if name in _PICTURES else None


def _records(data: bytes, name: str, limits: Limits) -> Iterator[dict[str, Any] | Bad]:
    from headrace.ingest.normalizers.image import ImageNormalizer

    normalizer = ImageNormalizer(ImageNormalizer.Config(), limits)
    for batch in normalizer.open(Item(BytesBlob("", data), None, headers={"format": name})):
        if isinstance(batch, Bad):
            yield batch
        elif modality_of(batch) == "image":
            kept = {column: batch.column(column).to_pylist() for column in _KEPT}
            for i, pixels in enumerate(payload_views(batch)):
                yield {"pixels": pixels, **{column: values[i] for column, values in kept.items()}}
