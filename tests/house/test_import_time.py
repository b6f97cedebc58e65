"""A command that decodes nothing starts without the libraries that decode."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {
    "ray",
    "PIL",
    "av",
    "rasterio",
    "torch",
    "sentencepiece",
    "pandas",
    "scipy",
    "matplotlib",
    "transformers",
    "botocore",
}


def modules_of(arguments: list[str], repository: Path) -> set[str]:
    """The top names of all modules that a fresh interpreter imports."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments],
        capture_output=True,
        text=True,
        cwd=repository / "docs",  # anywhere but the root, whose folders bear names of other packages
        env={
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": str(repository / "src"),
            "HOME": str(repository),
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip().split(".")[0] for line in lines}


@pytest.mark.parametrize(
    "arguments",
    [["-c", "import headrace"], ["-m", "headrace", "--help"], ["-c", "import headrace.schemas.sample"]],
    ids=["import headrace", "headrace --help", "import headrace.schemas.sample"],
)
def test_no_heavy_library_is_imported(arguments: list[str], repository: Path) -> None:
    modules = modules_of(arguments, repository)
    assert "headrace" in modules
    assert modules & HEAVY == set()


def test_the_measure_sees_what_is_imported(repository: Path) -> None:
    assert "json" in modules_of(["-c", "import json.decoder"], repository)
