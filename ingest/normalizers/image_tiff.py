"""What only TIFF has: depths and layouts that Pillow does not read or would misread, and pages that are no pictures.

Pillow reads the common TIFFs; what it refuses (other depths, rarer codecs) goes to GDAL's GTiff driver alone, from
memory, after the directory was checked here: one of 244 bytes may claim 65,535 bands, and GDAL would believe it.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from headrace.ingest.normalizers.contract import Limits
from headrace.ingest.normalizers.image_open import decoder_errors, pillow, said
from headrace.ingest.normalizers.image_pixels import Picture
from headrace.ingest.normalizers.raster_environment import runtime_options
from headrace.ingest.normalizers.raster_tiff import read_pages
from headrace.schemas.errors import RecordError

_SUBFILE, _WIDTH, _LENGTH, _BITS, _COMPRESSION, _PHOTOMETRIC = 254, 256, 257, 258, 259, 262
_ORIENTATION, _STRIP_OFFSETS, _SAMPLES, _ROWS_PER_STRIP, _PLANAR, _SAMPLE_FORMAT = 274, 273, 277, 278, 284, 339
_MAX_SAMPLES = 16
_BLOCK_BYTES = 64 << 20
_REDUCED, _MASK = 1, 4  #: bits of NewSubfileType (TIFF 6.0, page 36)
#: Codecs that libtiff may have been built without: LERC, zstd, WebP, JPEG XL.
RARE_CODECS = frozenset({34887, 50000, 50001, 50002})


def describe(picture: Picture, image: Any) -> None:
    """Note what the tags of an opened page say about its values."""
    bits = _first(image.tag_v2.get(_BITS))
    if image.mode.startswith("I;16"):
        picture.top = (1 << bits) - 1 if isinstance(bits, int) and 8 < bits <= 16 else 65535
        picture.inverted = image.tag_v2.get(_PHOTOMETRIC) == 0  # Pillow inverts up to 8 bits, not beyond


def is_misread(image: Any) -> bool:
    """Whether Pillow would take the samples for others.

    It reads uncompressed planes of 16 bits as if they had 8, signed bytes as unsigned ones, and unsigned numbers of 32
    bits as signed ones.
    """
    tags = image.tag_v2
    bits, signed = _first(tags.get(_BITS)), _first(tags.get(_SAMPLE_FORMAT, 1)) == 2
    planes = tags.get(_PLANAR) == 2 and compression_of(image) == 1
    if bits == 16:
        return planes and not image.mode.startswith("I")
    if tags.get(_SAMPLES, 1) != 1:
        return False
    return bool((bits == 8 and signed and image.mode == "L") or (bits == 32 and not signed and image.mode == "I"))


def lacks_strips(image: Any) -> bool:
    """Whether the directory lists fewer strips than the picture has; Pillow would leave the rest black."""
    tags = image.tag_v2
    offsets, rows, length = tags.get(_STRIP_OFFSETS), tags.get(_ROWS_PER_STRIP), tags.get(_LENGTH)
    if not isinstance(offsets, tuple) or not isinstance(length, int):
        return False
    strips = -(-length // rows) if isinstance(rows, int) and 0 < rows < length else 1
    planes = tags.get(_SAMPLES, 1) if tags.get(_PLANAR) == 2 else 1
    return len(offsets) < strips * (planes if isinstance(planes, int) else 1)


def is_no_picture(image: Any) -> bool:
    """Whether a page is a smaller copy of another one or its transparency mask."""
    kind = image.tag_v2.get(_SUBFILE, 0)
    return isinstance(kind, int) and bool(kind & (_REDUCED | _MASK))


def compression_of(image: Any) -> int:
    """The code of a page's codec."""
    code = image.tag_v2.get(_COMPRESSION, 1)
    return code if isinstance(code, int) else 1


def by_gdal(data: bytes, limits: Limits, out_bytes: int) -> tuple[Picture, int]:
    """(the first page by GDAL, its orientation, which GDAL leaves to us). Raises: RecordError."""
    bits, photometric, orientation = _checked(data, limits, out_bytes)
    try:
        import rasterio
    except ImportError as exc:
        raise RecordError(
            "unsupported:tiff", "this kind of TIFF needs rasterio: pip install 'headrace[raster]'"
        ) from exc
    from rasterio.errors import RasterioError

    try:
        with (
            rasterio.Env(**runtime_options()),
            rasterio.MemoryFile(data) as memory,
            memory.open(driver="GTiff") as page,
        ):
            bands = page.read()
            colours = page.colormap(1) if photometric == 3 and page.count == 1 else None
    except (RasterioError, *decoder_errors()) as exc:
        raise RecordError("corrupt", f"neither Pillow nor GDAL reads this TIFF: {said(exc)}") from exc
    picture = Picture(transforms=["read by GDAL"])
    if colours is not None:
        table = np.zeros((256, 4), np.uint8)
        for index, colour in colours.items():
            table[index] = colour
        bands = table[bands[0]][:, :, :3].transpose(2, 0, 1)
    _into(picture, bands, bits, photometric)
    return picture, orientation


def _into(picture: Picture, bands: Any, bits: int, photometric: int) -> None:
    """Put (bands, height, width) into a picture, in a mode that says what the bands mean."""
    image = pillow()
    count = bands.shape[0]
    modes = {1: "L", 3: "RGB", 4: "CMYK" if photometric == 5 else "RGBA"}
    mode = modes.get(count)
    kind = bands.dtype.name
    if mode is None or (count > 1 and kind not in ("uint8", "uint16")):
        raise RecordError("unsupported:tiff", f"{count} bands of {kind} are no picture; the raster modality reads them")
    pixels = np.ascontiguousarray(bands.transpose(1, 2, 0))
    if kind == "uint8":
        if 1 <= bits < 8:
            top = (1 << bits) - 1
            pixels = ((pixels.astype(np.uint16) * 255 + top // 2) // top).astype(np.uint8)
            picture.transforms.append(f"depth {bits}->8 linear")
        if photometric == 0:
            pixels = 255 - pixels
            picture.transforms.append("invert: 0 is white")
        picture.image, picture.mode = image.fromarray(pixels[:, :, 0] if count == 1 else pixels, mode), mode
    elif kind == "uint16" and count > 1:
        picture.wide, picture.mode = _stretched(picture, pixels, bits), mode
    elif kind == "uint16":
        picture.image, picture.mode = image.fromarray(pixels[:, :, 0]), "I;16"
        picture.top, picture.inverted = (1 << bits) - 1 if 8 < bits <= 16 else 65535, photometric == 0
    elif kind in ("int8", "int16", "int32"):
        picture.image, picture.mode = image.fromarray(pixels[:, :, 0].astype(np.int32)), "I"
    elif kind in ("uint32", "float16", "float32", "float64"):
        if kind != "float32":
            picture.transforms.append(f"{kind}->float32")
        picture.image, picture.mode = image.fromarray(pixels[:, :, 0].astype(np.float32)), "F"
    else:
        raise RecordError("unsupported:tiff", f"samples of {kind} are no picture")


def _stretched(picture: Picture, pixels: Any, bits: int) -> Any:
    if not 8 < bits < 16:
        return pixels
    top = (1 << bits) - 1
    picture.transforms.append(f"depth {bits}->16 linear")
    return ((pixels.astype(np.uint32) * 65535 + top // 2) // top).astype(np.uint16)


def _checked(data: bytes, limits: Limits, out_bytes: int) -> tuple[int, int, int]:
    """(bits, photometric, orientation) of the first directory, if it is within the limits. Raises: RecordError."""
    pages = read_pages(lambda at, n: data[at : at + n], len(data))
    page = pages.pages[0] if pages.pages else None
    if page is not None and page.blocks_missing:
        raise RecordError("truncated", f"{page.blocks_missing} of {page.blocks} blocks lie behind the end of the file")
    if page is not None:
        block = page.block_width * page.block_height * max(1, page.samples) * max(1, page.bits // 8)
        if block > max(_BLOCK_BYTES, 4 * len(data)):  # GDAL takes a block's memory before it looks at its bytes
            raise RecordError("too_large", f"blocks of {page.block_width}x{page.block_height} in {len(data)} bytes")
    try:
        width, length, samples, bits, photometric, orientation = _tags(data)
    except decoder_errors() as exc:
        if page is None:
            raise RecordError("corrupt", f"the TIFF's directory does not parse: {said(exc)}") from exc
        # Pillow does not read the directory of every BigTIFF; GDAL's colours need no more than the sizes
        width, length, samples, bits, photometric, orientation = page.width, page.height, page.samples, page.bits, 1, 1
    if not all(isinstance(value, int) and value > 0 for value in (width, length, samples, bits)) or bits > 64:
        raise RecordError("corrupt", f"a TIFF of {width}x{length} pixels with {samples} samples of {bits} bits")
    if samples > _MAX_SAMPLES:
        raise RecordError("unsupported:tiff", f"{samples} samples per pixel are no picture; {_MAX_SAMPLES} are read")
    pixels = width * length
    if pixels > limits.max_pixels or pixels * (samples * max(1, bits // 8) * 3 + out_bytes) > limits.max_bytes:
        raise RecordError("too_large", f"{width}x{length} pixels of {samples} samples are beyond the limits")
    return bits, photometric if isinstance(photometric, int) else 0, orientation if orientation in range(1, 9) else 1


def _tags(data: bytes) -> tuple[Any, Any, Any, Any, Any, Any]:
    """(width, length, samples, bits, photometric, orientation) of the first directory as Pillow parses it."""
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    tags = ImageFileDirectory_v2(data[: 16 if data[2:3] == b"+" or data[3:4] == b"+" else 8])
    stream = io.BytesIO(data)
    stream.seek(tags.next)
    tags.load(stream)
    bits, samples = _first(tags.get(_BITS, 1)), tags.get(_SAMPLES, 1)
    return tags[_WIDTH], tags[_LENGTH], samples, bits, tags.get(_PHOTOMETRIC, 0), tags.get(_ORIENTATION, 1)


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, tuple) and value else value
