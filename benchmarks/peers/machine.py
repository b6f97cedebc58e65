"""What the numbers were measured on: processor, memory, system, load, versions."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import time
from pathlib import Path

_OURS = ("headrace", "pyarrow", "numpy", "sentencepiece", "tiktoken", "pillow", "av", "rasterio", "ray", "tifffile", "polars", "pandas")
_PEERS = (
    "tokenizers", "sentencepiece", "datasets", "mosaicml-streaming", "megatron-core", "litdata", "webdataset", "torch",
    "decord", "torchcodec", "async-tiff", "xbatcher", "rioxarray", "datatrove", "daft", "dolma",
)  # fmt: skip
_ASK = """
import importlib.metadata as m, sys
for name in sys.argv[1:]:
    try: print(name, m.version(name))
    except m.PackageNotFoundError: pass
"""


def facts(load_before: float, seconds: float, peers: Path) -> list[str]:
    """Lines of Markdown."""
    memory = int(_line("/proc/meminfo", "MemTotal").split()[0]) / 1e6
    return [
        f"- {time.strftime('%Y-%m-%d')}, {seconds / 60:.0f} minutes; load {load_before:.1f} before and"
        f" {os.getloadavg()[0]:.1f} after ({os.cpu_count()} would be all of this run's own)",
        f"- {os.cpu_count()} cores of {_line('/proc/cpuinfo', 'model name') or platform.machine()}, {memory:.0f} GB,"
        f" {platform.system()} {platform.release()}, Python {platform.python_version()}",
        f"- headrace's environment: {', '.join(_versions(_OURS))}",
        f"- the peers': {', '.join(_peers(peers)) or 'not there'}",
        *_skipped(peers),
    ]


def _line(path: str, name: str) -> str:
    for line in Path(path).read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""


def _versions(names: tuple[str, ...]) -> list[str]:
    found = []
    for name in names:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _peers(venv: Path) -> list[str]:
    found: dict[str, str] = {}
    for home in [venv, *sorted((venv / "alone").glob("*"))]:
        python = home / "bin/python"
        if not python.exists():
            continue
        asked = _PEERS if home == venv else (home.name,)
        told = subprocess.run([python, "-c", _ASK, *asked], capture_output=True, text=True, check=False).stdout
        found |= {line.split()[0]: line for line in told.splitlines()}
    return list(found.values())


def _skipped(venv: Path) -> list[str]:
    path = venv / "skipped"
    return [f"- not installed: {line}" for line in path.read_text().splitlines() if line] if path.exists() else []
