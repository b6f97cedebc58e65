"""Same input, same content: whatever the engine, the number of workers, and whoever is killed on the way."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from headrace.ingest.build import build

from .conftest import lines_pipeline, write_lines

ORDERS = {(0, 3): "TWO", (1, 50): "REFUSE", (2, 9): "TWO HALF", (3, 60): "ENCODE-NO"}


def digest(checked, out: Path) -> str:
    _, report = checked(out)
    assert report.samples > 400
    return report.content_digest


def descendants(pid: int, word: str) -> list[int]:
    """Processes below `pid` whose command line holds `word`."""
    parents, lines = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
                lines[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    found = []
    for candidate in parents:
        at = candidate
        while at in parents and at != pid:
            at = parents[at]
        if at == pid and candidate != pid and word in lines.get(candidate, ""):
            found.append(candidate)
    return found


class Killer(threading.Thread):
    """Kills one process below us that matches `word`, again and again, at random moments."""

    def __init__(self, word: str, times: int, seed: int, pause_s: float = 0.6) -> None:
        super().__init__(daemon=True)
        self.word, self.times, self.killed, self.pause_s = word, times, 0, pause_s
        self._rng = random.Random(seed)
        self._over = threading.Event()

    def run(self) -> None:
        while self.killed < self.times and not self._over.is_set():
            time.sleep(self._rng.uniform(0.05, self.pause_s))
            victims = descendants(os.getpid(), self.word)
            if victims:
                try:
                    os.kill(self._rng.choice(victims), signal.SIGKILL)
                    self.killed += 1
                except ProcessLookupError:
                    continue

    def stop(self) -> None:
        self._over.set()
        self.join(5)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_lines(tmp_path / "in", orders=ORDERS)
    return tmp_path


@pytest.fixture
def expected(source: Path, checked) -> str:
    build(lines_pipeline(source), str(source / "reference"), base=source, workers=1, engine="inline")
    return digest(checked, source / "reference")


def test_one_and_two_inline_workers_write_the_same_shards(source: Path, expected: str, checked) -> None:
    build(lines_pipeline(source), str(source / "two"), base=source, workers=2, engine="inline")
    assert digest(checked, source / "two") == expected
    shards = [
        sorted(p.read_bytes() for p in (source / name / "data").rglob("*.arrow")) for name in ("reference", "two")
    ]
    assert shards[0] == shards[1]


def test_children_killed_at_random_moments_change_nothing(source: Path, expected: str, checked) -> None:
    killer = Killer("headrace.ingest.child", times=10, seed=3)
    killer.start()
    build(
        lines_pipeline(source, record={"slow_s": 0.005}),
        str(source / "killed"),
        base=source,
        workers=2,
        engine="inline",
    )
    killer.stop()
    assert killer.killed >= 3
    build(
        lines_pipeline(source, record={"slow_s": 0.005}), str(source / "calm"), base=source, workers=2, engine="inline"
    )
    assert digest(checked, source / "killed") == digest(checked, source / "calm")


DRIVER = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from headrace.ingest.build import build
from conftest import lines_pipeline
base = Path({base!r})
build(lines_pipeline(base, record={{"slow_s": 0.004}}), str(base / "driven"), base=base, workers=2, engine="inline")
"""


def test_a_driver_killed_and_started_again_ends_with_the_same_content(source: Path, checked) -> None:
    script = DRIVER.format(tests=str(Path(__file__).parent), base=str(source))
    rng = random.Random(5)
    kills = 0
    while True:
        driver = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        try:
            out, _ = driver.communicate(timeout=rng.uniform(1.5, 4) if kills < 5 else 120)
        except subprocess.TimeoutExpired:
            driver.kill()
            driver.communicate()
            kills += 1
            continue
        assert driver.returncode == 0, out.decode()
        break
    assert kills >= 1
    build(
        lines_pipeline(source, record={"slow_s": 0.004}), str(source / "calm"), base=source, workers=2, engine="inline"
    )
    assert digest(checked, source / "driven") == digest(checked, source / "calm")


@pytest.mark.ray
def test_ray_with_one_two_and_four_workers_and_ten_kills_gives_the_same_content(
    source: Path, expected: str, checked
) -> None:
    ray = pytest.importorskip("ray")
    ray.init(
        address="local",
        num_cpus=4,
        include_dashboard=False,
        object_store_memory=128 << 20,
        log_to_driver=False,
        logging_level="ERROR",
    )
    try:
        for workers in (1, 2, 4):
            out = source / f"ray{workers}"
            build(lines_pipeline(source), str(out), base=source, workers=workers, engine="ray")
            assert digest(checked, out) == expected
        killer = Killer("ray::_Worker", times=10, seed=7)
        killer.start()
        build(
            lines_pipeline(source, record={"slow_s": 0.005}),
            str(source / "rayed"),
            base=source,
            workers=2,
            engine="ray",
        )
        killer.stop()
        assert killer.killed >= 2
    finally:
        ray.shutdown()
    build(
        lines_pipeline(source, record={"slow_s": 0.005}), str(source / "calm"), base=source, workers=2, engine="inline"
    )
    assert digest(checked, source / "rayed") == digest(checked, source / "calm")
