"""The environment of decoding processes: set before any codec library loads, since several read it only then."""

from __future__ import annotations

import os
from pathlib import Path

#: Credentials and proxies stay out of processes that parse foreign bytes, save what object stores need.
_KEPT_PREFIXES = ("AWS_", "HEADRACE_", "PYTHON", "LC_", "COV_")
_KEPT = {"PATH", "HOME", "LANG", "LD_LIBRARY_PATH", "SSL_CERT_FILE", "SSL_CERT_DIR", "VIRTUAL_ENV", "TZ"}


def child_environment(scratch: Path) -> dict[str, str]:
    """One thread a library, no drivers that reach out, temporary files in `scratch`."""
    from headrace.ingest.normalizers.raster_environment import gdal_environment

    kept = {k: v for k, v in os.environ.items() if k in _KEPT or k.startswith(_KEPT_PREFIXES)}
    return {
        **kept,
        **gdal_environment(),
        "TMPDIR": str(scratch),
        # Lanes are the parallelism. More threads would only take turns on the same cores.
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        # glibc reserves an arena a thread, and mimalloc never gives back: both would be charged to a record's memory.
        "MALLOC_ARENA_MAX": "2",
        "ARROW_DEFAULT_MEMORY_POOL": "system",
        "PYTHONUNBUFFERED": "1",
    }
