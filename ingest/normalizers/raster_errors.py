"""What GDAL raises, as records' reasons. Nothing of rasterio's own errors leaves the raster normalizer."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from headrace.schemas.errors import MissingExtra, RecordError

#: netCDF's error numbers for values that are no numbers: not a type (-45), characters (-56), out of range (-60).
_NOT_NUMBERS = re.compile(r"#-(?:45|56|60)\b")


def rasterio_module() -> Any:
    """rasterio, imported where it is first needed. Raises: MissingExtra."""
    try:
        import rasterio
    except ImportError as exc:
        raise MissingExtra("rasterio", "raster", need="reading rasters") from exc
    return rasterio


def failures() -> tuple[type[BaseException], ...]:
    """Everything that rasterio raises for bytes it cannot use."""
    from rasterio._err import CPLE_BaseError
    from rasterio.errors import RasterioError

    # CRSError and WindowError are ValueErrors; IndexError and TypeError come from headers that contradict themselves.
    return (RasterioError, CPLE_BaseError, OSError, ValueError, IndexError, TypeError, OverflowError, MemoryError)


@contextmanager
def translated(what: str, reason: str = "corrupt") -> Iterator[None]:
    """Turn failures inside into RecordError with `reason`, unless GDAL says something more precise."""
    try:
        yield
    except RecordError:
        raise
    except failures() as exc:
        raise record_error(exc, what, reason) from exc


def record_error(exc: BaseException, what: str, reason: str) -> RecordError:
    """The RecordError for a failure; its message is GDAL's own, without our temporary paths."""
    from rasterio._err import CPLE_BaseError, CPLE_NotSupportedError, CPLE_OutOfMemoryError

    cause: BaseException = exc
    while cause.__cause__ is not None:
        cause = cause.__cause__
    if isinstance(cause, (MemoryError, CPLE_OutOfMemoryError)) or isinstance(exc, MemoryError):
        reason = "oom"
    elif isinstance(cause, CPLE_NotSupportedError) and reason == "corrupt":
        reason = "unsupported:codec"
    text = str(cause.args[2] if isinstance(cause, CPLE_BaseError) and len(cause.args) > 2 else cause or exc)
    if reason == "corrupt" and _NOT_NUMBERS.search(text):
        reason = "unsupported:value-type"
    return RecordError(reason, f"{what}: {_without_paths(text)[:400]}")


def _without_paths(text: str) -> str:
    """GDAL names files by the temporary names we gave them, which differ from run to run."""
    words = [word for word in text.split(" ") if "/vsi" not in word and "headrace-raster-" not in word]
    return " ".join(words).strip() or "no message"
