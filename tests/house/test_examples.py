"""The example packages install, are found by their entry points, and do what their pages say."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGES = ["tide_gauge_connector", "codepoint_tokenizer"]


def run(code: str, *paths: Path) -> str:
    """What a fresh interpreter prints that sees `paths` first."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def installed(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both packages, installed by pip into a folder of their own."""
    pytest.importorskip("setuptools", minversion="77")
    work = tmp_path_factory.mktemp("examples")
    for name in PACKAGES:  # pip leaves a build folder behind, so it gets a copy
        shutil.copytree(
            repository / "examples" / name, work / name, ignore=shutil.ignore_patterns("*.egg-info", "build")
        )
    target = work / "installed"
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            *options,
            "--target",
            str(target),
            *(str(work / name) for name in PACKAGES),
        ],
        check=True,
        timeout=300,
    )
    return target


@pytest.mark.parametrize(
    ("group", "name", "value"),
    [
        ("headrace.connectors", "tide_gauge", "headrace_tide_gauge:TideGauge"),
        ("headrace.tokenizers", "codepoints", "headrace_codepoints:CodePoints"),
    ],
)
def test_an_installed_example_is_found_by_its_entry_point(installed: Path, group: str, name: str, value: str) -> None:
    found = {
        (entry.group, entry.name): entry.value
        for distribution in importlib.metadata.distributions(path=[str(installed)])
        for entry in distribution.entry_points
    }
    assert found[group, name] == value


def test_the_engine_resolves_both_by_name(installed: Path, repository: Path) -> None:
    code = (
        "from headrace.connectors.registry import connector_class\n"
        "from headrace.tokenizers.registry import tokenizer_class\n"
        "print(connector_class('tide_gauge').__name__, tokenizer_class('codepoints').__name__)"
    )
    assert run(code, installed, repository / "src").split() == ["TideGauge", "CodePoints"]


def test_the_connector_reads_on_from_any_position(installed: Path, repository: Path, tmp_path: Path) -> None:
    code = f"""
import struct
from pathlib import Path
from headrace_tide_gauge import TideGauge
root = Path({str(tmp_path)!r})
readings = [struct.pack("<Iff", 1749859200 + 30 * i, i / 8, 2.5) for i in range(1300)]
root.joinpath("06.tide").write_bytes(b"".join(readings))
gauge = TideGauge(TideGauge.Config(root=str(root)))
split, = gauge.splits()
items = list(gauge.read(split, None))
assert [item.data.num_rows for item in items] == [512, 512, 276]
assert [item.position for item in items] == [6144, 12288, 15600]
for k, item in enumerate(items):
    rest = list(gauge.read(split, item.position))
    assert [r.data for r in rest] == [i.data for i in items[k + 1:]]
first = items[0].data.to_pylist()[1]
assert (first["t"].isoformat(), first["level"], first["wind"]) == ("2025-06-14T00:00:30+00:00", 0.125, 2.5)
"""
    run(code, installed, repository / "src")


def test_the_tokenizer_gives_every_text_back(installed: Path, repository: Path) -> None:
    code = """
import numpy as np, pytest
from headrace_codepoints import CodePoints
from headrace.schemas.errors import TokenizerError
from headrace.schemas.record import RecordBuilder
texts = ["", "Hamnen är öppen.", "Σήμερα δεν χάλασε τίποτα", "\\U0001f6a2 a\\u0301", "<|endoftext|>"]
builder = RecordBuilder("text")
for i, text in enumerate(texts):
    builder.add(locator=str(i), text=text)
tokenizer = CodePoints(CodePoints.Config())
encoded = tokenizer.encode(builder.finish())
rows = [encoded.values[a:b] for a, b in zip(encoded.offsets, encoded.offsets[1:])]
assert tokenizer.token_dtype == "uint32" and [len(r) for r in rows] == [len(t) for t in texts]
assert tokenizer.decode(rows).column("text").to_pylist() == texts
with pytest.raises(TokenizerError, match="55296 is not a code point"):
    tokenizer.decode([np.array([65, 0xD800], np.uint32)])
"""
    run(code, installed, repository / "src")


def test_the_single_file_is_the_package(repository: Path) -> None:
    """One class, two ways to use it; if they drift apart one of the two pages is wrong."""
    examples = repository / "examples"
    package = examples / "tide_gauge_connector" / "src" / "headrace_tide_gauge" / "__init__.py"
    assert (examples / "harbour" / "tide.py").read_text() == package.read_text()


def test_the_connector_takes_fifteen_lines_and_the_tokenizer_twenty(repository: Path) -> None:
    """Counted as the pages promise: the class, without blank lines."""
    for name, limit in (
        ("tide_gauge_connector/src/headrace_tide_gauge", 15),
        ("codepoint_tokenizer/src/headrace_codepoints", 20),
    ):
        source = (repository / "examples" / name / "__init__.py").read_text()
        body = [line for line in source[source.index("class ") :].splitlines() if line.strip()]
        assert len(body) <= limit, name
