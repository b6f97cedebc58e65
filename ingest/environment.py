"""What a run is made of: library versions, recorded in the claim so that a difference of bytes can be traced."""

from __future__ import annotations

import importlib.metadata
import platform

_LIBRARIES = (
    "headrace", "numpy", "pyarrow", "pillow", "av", "rasterio", "sentencepiece", "orjson", "mcap", "pyulog", "rosbags",
    "warcio", "ray", "tokenizers", "tiktoken", "torch", "onnxruntime",
)  # fmt: skip


def library_versions() -> dict[str, str]:
    """Name → version of everything that may shape bytes, with the Python version and the machine type."""
    versions = {"python": platform.python_version(), "machine": platform.machine()}
    for name in _LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
