"""Opens one image with Pillow under our terms: only the sniffed format, sizes from the header, every failure named.

Pillow keeps its switches in module globals. None of them is turned for one image, because other threads decode at the
same time: the pixel limit is only ever raised, warnings are caught per thread, and damaged files are decoded without
`LOAD_TRUNCATED_IMAGES` (see image_damage.py).
"""

from __future__ import annotations

import io
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from headrace.ingest.normalizers.contract import Limits
from headrace.schemas.errors import MissingExtra, RecordError

#: Sniffed format → name of the one Pillow plugin that may see the bytes.
PLUGINS = {
    "jpeg": "JPEG", "png": "PNG", "webp": "WEBP", "tiff": "TIFF", "geotiff": "TIFF", "gif": "GIF", "avif": "AVIF",
    "bmp": "BMP", "jp2": "JPEG2000", "j2k": "JPEG2000", "jp2-geo": "JPEG2000", "ico": "ICO", "psd": "PSD", "ppm": "PPM",
    "tga": "TGA", "sgi": "SGI", "pcx": "PCX", "dds": "DDS", "blp": "BLP", "icns": "ICNS", "msp": "MSP",
    "spider": "SPIDER", "fli": "FLI",
}  # fmt: skip

#: Known formats that are out of scope, and why.
UNSUPPORTED = {
    "heif": "HEIF needs a licensed decoder",
    "jxl": "JPEG XL has no decoder in Pillow",
    "eps": "PostScript is a program: it would be run, not read",
}

#: Formats whose coding cannot make much of little, so a tiny file with a huge size is a lie (Pillow allocates by size).
_SIMPLE_CODING = frozenset({"BMP", "BLP", "DDS", "TGA", "PCX", "SGI", "PSD", "MSP", "ICNS", "PPM", "SPIDER"})

#: Formats whose decoder is made with the header: what it refuses is broken, not unsupported.
_DECODED_AT_HEADER = frozenset({"WEBP", "AVIF"})

#: Bytes per pixel that a decoder needs besides the image it fills (coefficients, canvases, wide samples).
_DECODER_BYTES = {"JPEG": 6, "MPO": 6, "WEBP": 8, "AVIF": 8, "JPEG2000": 12, "GIF": 4, "PNG": 0}
_MODE_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2, "I;16N": 2}

_PLUGIN_ERRORS: tuple[type[Exception], ...] = (
    OSError, SyntaxError, EOFError, LookupError, ValueError, TypeError, AttributeError, ArithmeticError, AssertionError,
    RuntimeError, struct.error, zlib.error,
)  # fmt: skip


def decoder_errors() -> tuple[type[Exception], ...]:
    """What Pillow raises for bad data, so far as anybody has seen.

    MemoryError is not among them: it is left to the engine, which knows whose memory it was.
    """
    bomb: type[Exception] = pillow().DecompressionBombError
    return (*_PLUGIN_ERRORS, bomb)


class Source(io.BytesIO):
    """The bytes of an image, which remember whether a decoder asked for more than there is."""

    ran_out = False

    def read(self, size: int | None = -1, /) -> bytes:
        """Bytes; sets `ran_out` where they end too early. Decoders read in blocks of 64 KiB, which may end early."""
        data = super().read(size)
        if size is not None and size > 0 and len(data) < size and (size < 1 << 16 or not data):
            self.ran_out = True
        return data


def pillow() -> Any:
    """The module PIL.Image. Raises: MissingExtra."""
    try:
        from PIL import Image
    except ImportError as exc:
        raise MissingExtra("pillow", "image", need="reading images") from exc
    return Image


def open_image(data: bytes, name: str, limits: Limits, *, out_bytes: int) -> tuple[Any, Source]:
    """An image whose header was read and whose pixels were not, and its source.

    `name` is the sniffed format; `out_bytes` is what one pixel takes in the output. Raises: RecordError.
    """
    image = pillow()
    plugin = PLUGINS[name]
    pixels = limits.max_pixels
    # Pillow refuses above twice this, also for pictures inside pictures (ICNS), which ours below does not see.
    image.MAX_IMAGE_PIXELS = max(pixels // 2 + 1, 1 << 16)
    if plugin == "WEBP":
        _refuse_webp_canvas(data, limits)
    elif plugin == "AVIF":
        from PIL import AvifImagePlugin

        AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # the engine spreads work over cores; a decoder would crowd them
    source = Source(data)
    try:
        opened = image.open(source, formats=[plugin])
    except image.UnidentifiedImageError as exc:
        reason = "truncated" if source.ran_out else "corrupt"
        raise RecordError(reason, f"its header does not parse as {plugin}") from exc
    except decoder_errors() as exc:
        raise at_header(exc, name, source) from exc
    check_size(opened, len(data), limits, out_bytes)
    return opened, source


def at_header(exc: Exception, name: str, source: Source) -> RecordError:
    """What a failure while the header was read says: there Pillow raises OSError for what it does not support."""
    if isinstance(exc, pillow().DecompressionBombError):
        return RecordError("too_large", str(exc))
    if source.ran_out or isinstance(exc, EOFError):
        return RecordError("truncated", f"the file ends inside its header: {said(exc)}")
    if isinstance(exc, (OSError, NotImplementedError)) and PLUGINS[name] not in _DECODED_AT_HEADER:
        return RecordError(f"unsupported:{name}", said(exc))
    return RecordError("corrupt", f"its header is wrong: {said(exc)}")


def at_pixels(exc: Exception, name: str, source: Source) -> RecordError:
    """What a failure while pixels were decoded says."""
    if isinstance(exc, pillow().DecompressionBombError):
        return RecordError("too_large", str(exc))
    if isinstance(exc, NotImplementedError):
        return RecordError(f"unsupported:{name}", said(exc))
    if source.ran_out or isinstance(exc, EOFError):
        return RecordError("truncated", f"the file ends before its pixels do: {said(exc)}")
    return RecordError("corrupt", f"its pixels do not decode: {said(exc)}")


def said(exc: Exception) -> str:
    """An exception in one line."""
    return f"{exc} ({type(exc).__name__})" if str(exc) else type(exc).__name__


def check_size(image: Any, file_bytes: int, limits: Limits, out_bytes: int) -> None:
    """Refuse what would not fit before memory is asked for. Raises: RecordError `too_large`, `bomb`."""
    width, height = image.size
    pixels = width * height
    if pixels > limits.max_pixels:
        raise RecordError("too_large", f"{width}x{height} pixels; the limits allow {limits.max_pixels}")
    if image.format in _SIMPLE_CODING and 4 * pixels > limits.max_ratio * max(file_bytes, 1024):
        raise RecordError("bomb", f"{width}x{height} pixels cannot come out of {file_bytes} bytes of {image.format}")
    needed = pixels * (_MODE_BYTES.get(image.mode, 4) + _DECODER_BYTES.get(image.format or "", 0) + out_bytes)
    if needed > limits.max_bytes:
        raise RecordError(
            "too_large", f"{width}x{height} pixels take {needed} bytes; the limits allow {limits.max_bytes}"
        )


def _refuse_webp_canvas(data: bytes, limits: Limits) -> None:
    """libwebp allocates its canvas when the file is opened, so the header is read here first (RFC 9649, 2.7)."""
    chunk = data[12:16]
    if chunk == b"VP8X" and len(data) >= 30:
        width = int.from_bytes(data[24:27], "little") + 1
        height = int.from_bytes(data[27:30], "little") + 1
    elif chunk == b"VP8L" and len(data) >= 25:
        bits = int.from_bytes(data[21:25], "little")
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif chunk == b"VP8 " and len(data) >= 30:
        width, height = (int.from_bytes(data[at : at + 2], "little") & 0x3FFF for at in (26, 28))
    else:
        return  # the plugin says what is wrong
    if width * height > limits.max_pixels or 12 * width * height > limits.max_bytes:
        raise RecordError("too_large", f"{width}x{height} pixels; the limits allow {limits.max_pixels}")


_caught = threading.local()
_shown_before: Any = None


@contextmanager
def warnings_of_pillow() -> Iterator[list[str]]:
    """What Pillow (and rasterio) warned of in this thread, in order and without repeats.

    `warnings.catch_warnings` would change the filters of all threads and mix what they say.
    """
    _listen()
    said_before = getattr(_caught, "messages", None)
    messages: list[str] = []
    _caught.messages = messages
    try:
        yield messages
    finally:
        _caught.messages = said_before


def _listen() -> None:
    """Route warnings of threads that listen to them; installed again where somebody (a test runner) replaced it."""
    global _shown_before
    if warnings.showwarning is not _show:
        _shown_before, warnings.showwarning = warnings.showwarning, _show
    if not any(
        entry[0] == "always" and entry[3] is not None and entry[3].pattern == _MODULES for entry in warnings.filters
    ):
        warnings.filterwarnings("always", module=_MODULES)


_MODULES = r"(PIL|rasterio)(\.|$)"
#: What Pillow says of a size within our own limit, and GDAL of a picture that is no map.
_NO_FINDING = frozenset({"DecompressionBombWarning", "NotGeoreferencedWarning"})


def _show(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: Any = None,
    line: str | None = None,
) -> None:
    messages = getattr(_caught, "messages", None)
    if messages is None:
        _shown_before(message, category, filename, lineno, file, line)
    elif category.__name__ not in _NO_FINDING and str(message) not in messages:
        messages.append(str(message))
