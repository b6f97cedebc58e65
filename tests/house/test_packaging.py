"""A wheel built from an sdist holds all that the repository holds, although its folders are links."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

FOLDERS = ["schemas", "connectors", "tokenizers", "shards", "ingest"]
LEFT_OUT = {
    ".git",
    ".venv",
    "demo-out",
    "out",
    "build",
    "dist",
    "__pycache__",
    ".mypy_cache",
    ".ruff_cache",
    ".pytest_cache",
    ".hypothesis",
}


def build(step: str, source: Path, out: Path) -> Path:
    """Run one PEP 517 hook of setuptools in `source`, as pip and build do. Returns the file it made."""
    out.mkdir()
    code = f"import sys; from setuptools import build_meta; print(build_meta.{step}(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(out)], cwd=source, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return next(out.iterdir())


@pytest.fixture(scope="module")
def wheel(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel made from the sdist made from a copy of the checkout."""
    pytest.importorskip("setuptools", minversion="77")
    work = tmp_path_factory.mktemp("packaging")

    def ignore(folder: str, names: list[str]) -> set[str]:
        return {n for n in names if n in LEFT_OUT or n.endswith(".egg-info")}

    copy = Path(shutil.copytree(repository, work / "checkout", symlinks=True, ignore=ignore))
    sdist = build("build_sdist", copy, work / "sdist")
    with tarfile.open(sdist) as archive:
        archive.extractall(work / "unpacked", filter="data")
    return build("build_wheel", next((work / "unpacked").iterdir()), work / "wheel")


def test_the_wheel_holds_every_file_of_the_linked_folders(wheel: Path, repository: Path) -> None:
    held = set(zipfile.ZipFile(wheel).namelist())
    wanted = set()
    for folder in FOLDERS:
        for path in (repository / folder).rglob("*"):
            if path.suffix in {".py", ".json", ".html", ".css", ".js", ".svg"} and "__pycache__" not in path.parts:
                wanted.add(f"headrace/{path.relative_to(repository).as_posix()}")
    wanted |= {
        f"headrace/{p.name}"
        for p in (repository / "src" / "headrace").iterdir()
        if p.suffix == ".py" or p.name == "py.typed"
    }
    assert len(wanted) > 5
    assert wanted - held == set()


def test_the_wheel_holds_nothing_but_the_package(wheel: Path) -> None:
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"headrace"}


def test_the_installed_wheel_imports_and_leaves_other_packages_alone(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.namelist():
            archive.extract(member, tmp_path)
    code = "import headrace.tokenizers.contract as c, headrace.schemas.record; print(c.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(tmp_path))
