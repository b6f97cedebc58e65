"""The example plug-ins do real work: installed as packages, and from one file beside the pipeline on Ray."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both example packages, installed by pip into a folder of their own."""
    pytest.importorskip("setuptools", minversion="77")
    work = tmp_path_factory.mktemp("packages")
    names = ("tide_gauge_connector", "codepoint_tokenizer")
    for name in names:  # pip leaves a build folder behind, so it gets a copy
        ignored = shutil.ignore_patterns("*.egg-info", "build")
        shutil.copytree(REPOSITORY / "examples" / name, work / name, ignore=ignored)
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(work / "site")]
    subprocess.run([*command, *(str(work / name) for name in names)], check=True, timeout=300)
    return work / "site"


def gauge(folder: Path) -> None:
    """Two quarters of a day of a tide gauge: u32 seconds, f32 level, f32 wind."""
    folder.mkdir(parents=True)
    for quarter in range(2):
        rows = [struct.pack("<Iff", 1_749_859_200 + quarter * 21600 + i * 10, i % 90 / 10, i % 7) for i in range(2000)]
        (folder / f"{quarter:02d}.tide").write_bytes(b"".join(rows))


def run(arguments: list[str], path: Path | None = None) -> str:
    env = {**os.environ, **({"PYTHONPATH": str(path)} if path else {})}
    done = subprocess.run([sys.executable, "-m", "headrace", *arguments], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def test_installed_plugins_build_by_their_names(installed: Path, tmp_path: Path) -> None:
    gauge(tmp_path / "gauge")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("vesi nousee 🌊", encoding="utf-8")
    (tmp_path / "p.yaml").write_text(
        "streams:\n"
        "  tide:\n"
        "    source: {type: tide_gauge, root: gauge}\n"
        "    record: {type: sensor, time: t, channels: {level: m, wind: m/s}}\n"
        "  notes:\n"
        "    source: {type: files, root: notes}\n"
        "    record: {type: text}\n"
        "    tokenizer: {type: codepoints}\n"
    )
    run(["build", str(tmp_path / "p.yaml"), "--out", str(tmp_path / "out"), "--workers", "1"], installed)
    found = json.loads(run(["inspect", str(tmp_path / "out"), "--json"], installed))
    streams = {s["stream"]: s for s in found["streams"]}
    assert streams["tide"]["samples"] >= 8 and streams["tide"]["error_worst"] < 0.01
    assert streams["notes"]["tokens"] == len("vesi nousee 🌊")
    out = ["decode", str(tmp_path / "out"), "--stream", "notes", "--out", str(tmp_path / "seen"), "--json"]
    written = json.loads(run(out, installed))
    assert Path(written[0]["files"][0]).read_text(encoding="utf-8") == "vesi nousee 🌊"


@pytest.mark.ray
def test_the_single_file_beside_the_pipeline_runs_on_ray(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    gauge(tmp_path / "gauge")
    shutil.copy(REPOSITORY / "examples" / "harbour" / "tide.py", tmp_path / "tide.py")
    (tmp_path / "p.yaml").write_text(
        "streams:\n"
        "  tide:\n"
        "    source: {type: ./tide.py:TideGauge, root: gauge}\n"
        "    record: {type: sensor, time: t, channels: {level: m, wind: m/s}}\n"
    )
    digests = set()
    for engine in ("ray", "inline"):
        out = str(tmp_path / engine)
        run(["build", str(tmp_path / "p.yaml"), "--out", out, "--engine", engine, "--workers", "2"])
        digests.add(json.loads(run(["verify", out, "--json"]))["content_digest"])
    assert len(digests) == 1
