"""Opens admitted files with GDAL: one driver, our names, no company.

GDAL looks for side files next to a file and splits names at colons, quotes and `/vsi`. So it never gets a file's own
name: a local file is opened through a link in a private folder, bytes from memory, and a large object either by
ranges through its stream or, where a library insists on a real file, from a copy in that folder.
"""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from headrace.connectors.contract import Blob
from headrace.ingest.normalizers.raster_environment import runtime_options
from headrace.ingest.normalizers.raster_errors import failures, rasterio_module, translated
from headrace.ingest.normalizers.raster_gate import Admitted

_IN_MEMORY = 32 << 20  #: objects without a local path up to this size are held in memory
_COPY = 8 << 20
_numbers = itertools.count()
_warning_lock = threading.Lock()  # Python's warning filters belong to the process


@contextmanager
def environment(**more: str) -> Iterator[None]:
    """GDAL's run-time options for this thread. Never held across a yield of records."""
    rasterio = rasterio_module()
    from rasterio.session import DummySession

    # An explicit session: else rasterio would look for cloud credentials in the process environment.
    with rasterio.Env(session=DummySession(), **{**runtime_options(), **more}):
        yield


@lru_cache
def can_decode(codec: str) -> bool:
    """Whether this build of GDAL has a TIFF codec; told by a round trip. What GDAL never writes counts as missing."""
    rasterio_module()
    from rasterio.io import MemoryFile

    profile: dict[str, Any] = {"driver": "GTiff", "width": 16, "height": 16, "count": 3, "dtype": "uint8"}
    if codec == "jpeg-12bit":
        profile.update(compress="JPEG", dtype="uint16", NBITS=12)
    elif codec in ("jxl", "lerc", "zstd", "webp", "lzma"):
        profile["compress"] = codec.upper()
    else:
        return False
    try:
        with environment(), quiet(), MemoryFile() as memory:
            with memory.open(**profile) as out:
                out.write(np.full((3, 16, 16), 100, dtype=profile["dtype"]))
            with memory.open() as back:
                return bool((abs(back.read().astype(int) - 100) < 8).all())  # some are lossy
    except failures():
        return False


class RasterFile:
    """One admitted file. `open` gives rasterio datasets of it; close it to remove what it left on disk."""

    def __init__(self, blob: Blob, admitted: Admitted, header: Blob | None = None) -> None:
        self.admitted = admitted
        self._stack = ExitStack()
        self._opener: Any = None
        self._more: dict[str, str] = {}
        with translated(f"opening {blob.name}", "io_error"):
            self.path = self._place(blob)
            if header is not None:  # ENVI: the driver finds the header by its name, in a folder that holds nothing else
                Path(self.path + ".hdr").write_bytes(header.read())
                self._more = {"GDAL_DISABLE_READDIR_ON_OPEN": "TRUE"}

    def _place(self, blob: Blob) -> str:
        suffix = {"GTiff": ".tif", "JP2OpenJPEG": ".jp2", "netCDF": ".nc", "GRIB": ".grb"}.get(self.admitted.driver, "")
        usable = self.admitted.usable
        local = blob.local_path() if usable is None else None
        if local is None and self.admitted.driver != "ENVI":
            if self.admitted.size <= _IN_MEMORY:
                return self._in_memory(blob, suffix)
            pages = self.admitted.pages
            if self.admitted.driver == "JP2OpenJPEG" or (pages is not None and len(pages.grids) == 1):
                return self._as_stream(blob)
        folder = Path(tempfile.mkdtemp(prefix="headrace-raster-"))
        self._stack.callback(shutil.rmtree, folder, ignore_errors=True)
        place = folder / f"raster{suffix}"
        if local is not None:
            place.symlink_to(os.path.abspath(local))
        else:
            left = self.admitted.size if usable is None else usable
            with blob.open() as source, open(place, "wb") as copy:
                while left > 0 and (piece := source.read(min(left, _COPY))):
                    copy.write(piece)
                    left -= len(piece)
        return str(place)

    def _in_memory(self, blob: Blob, suffix: str) -> str:
        rasterio_module()
        from rasterio.io import MemoryFile

        with environment():
            memory = MemoryFile(blob.read(self.admitted.usable), filename=f"raster{suffix}")
        self._stack.callback(memory.close)
        return str(memory.name)

    def _as_stream(self, blob: Blob) -> str:
        """A name under which GDAL reads the object by ranges, and finds nothing beside it."""
        name = f"headrace-raster-{next(_numbers)}"

        def opener(path: str, mode: str = "rb") -> Any:
            if path != name or mode not in ("r", "rb"):
                raise FileNotFoundError(path)
            return blob.open()

        self._opener = opener
        return name

    @contextmanager
    def open(self, name: str | None = None, driver: str | None = None) -> Iterator[Any]:
        """A rasterio dataset of the file or of a part of it (`name` begins with a prefix and holds `path`).

        Raises: RecordError.
        """
        rasterio = rasterio_module()
        driver = driver or self.admitted.driver
        with translated("opening the raster"), environment(**self._more), quiet():
            more = {"opener": self._opener} if self._opener is not None else {}
            dataset = rasterio.open(name or self.path, driver=driver, sharing=False, **more)
        try:
            yield dataset
        finally:
            with environment():
                dataset.close()

    def close(self) -> None:
        """Free memory, streams and the private folder."""
        self._stack.close()

    def __enter__(self) -> RasterFile:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warning that a file has no georeference: that is no news, records say it."""
    from rasterio.errors import NotGeoreferencedWarning

    with _warning_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield
