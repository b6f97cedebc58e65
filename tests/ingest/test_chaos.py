"""The whole corpus, built by every engine and through every death: the same content each time. `make chaos`."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from .test_same_bytes import Killer

pytestmark = [pytest.mark.chaos, pytest.mark.data]


def start(corpus: Path, out: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "headrace", "build", str(corpus), "--out", str(out), "--json", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def digest(process: subprocess.Popen[str]) -> str:
    stdout, stderr = process.communicate(timeout=1800)
    assert process.returncode == 0, stderr
    found: str = json.loads(stdout)["content_digest"]
    return found


@pytest.fixture(scope="module")
def expected(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    return digest(start(corpus, tmp_path_factory.mktemp("reference") / "out", "--engine", "inline", "--workers", "2"))


@pytest.mark.parametrize(
    ("engine", "workers"), [("inline", 1), ("ray", 1), ("ray", 2), ("ray", 4)], ids=["inline1", "ray1", "ray2", "ray4"]
)
def test_every_engine_gives_the_same_content(
    corpus: Path, tmp_path: Path, expected: str, engine: str, workers: int
) -> None:
    assert digest(start(corpus, tmp_path / "out", "--engine", engine, "--workers", str(workers))) == expected


@pytest.mark.parametrize(
    ("engine", "victim"),
    [("inline", "headrace.ingest.child"), ("ray", "ray::_Worker")],
    ids=["children", "ray-workers"],
)
def test_ten_deaths_at_random_moments_change_nothing(
    corpus: Path, tmp_path: Path, expected: str, engine: str, victim: str
) -> None:
    process = start(corpus, tmp_path / "out", "--engine", engine, "--workers", "2")
    killer = Killer(victim, times=10, seed=11, pause_s=6)
    killer.start()
    found = digest(process)
    killer.stop()
    assert killer.killed >= 5
    assert found == expected


def test_the_command_killed_and_run_again_ends_with_the_same_content(
    corpus: Path, tmp_path: Path, expected: str
) -> None:
    rng = random.Random(13)
    for _ in range(5):
        process = start(corpus, tmp_path / "out", "--engine", "inline", "--workers", "2")
        try:
            process.communicate(timeout=rng.uniform(5, 40))
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
    assert digest(start(corpus, tmp_path / "out", "--engine", "inline", "--workers", "2")) == expected
