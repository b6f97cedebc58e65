"""The command that measures headrace against its peers runs: on a small input, with our side only."""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> Any:
    """benchmarks/peers/report.py."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.syspath_prepend(str(BENCHMARKS / "peers"))
    import report

    return report


def test_the_comparison_runs_with_our_side_alone_and_all_give_the_same_tokens(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / "compare.py"), "text-bytes", "--quick", "--scale", "0.05"]
    command += ["--who", "ours,bare", "--folder", str(tmp_path / "data"), "--json", str(tmp_path / "rows.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "rows.json").read_text())["text-bytes"]
    rows = {row["kind"]: row for row in found["rows"]}
    assert found["absent"] == [] and rows.keys() == {"ours", "bare"}
    assert rows["ours"]["values"] == rows["bare"]["values"] > 10_000
    assert rows["ours"]["cpu_s"] > 0 and rows["ours"]["peak_mb"] > 50
    assert "| **headrace build** * |" in done.stdout
    assert list((tmp_path / "data").glob("out-*")) == []


def _found(report: Any, module: str, kind: str, small: list[float], large: list[float]) -> Any:
    from job import Sums
    from race import Run
    from works import Contender

    runs = {
        amount: [Run(1.0, seconds, seconds, 2 * seconds, 100.0, Sums(int(amount * 1000), 5)) for seconds in measured]
        for amount, measured in ((10.0, small), (50.0, large))
    }
    return report.Found(Contender(module, module, kind), runs)


def test_a_slope_tells_start_up_inside_a_run_from_work_and_ratios_are_within_rounds(report: Any) -> None:
    from works import WORKS

    ours = _found(report, "ours", "ours", [1.0, 1.0, 1.0], [5.0, 10.0, 5.0])  # 0.1 s a unit, none to start
    peer = _found(report, "peer", "peer", [6.0, 6.0, 6.0], [14.0, 28.0, 14.0])  # 0.2 s a unit, 4 s to start
    row = report.row_of(peer, ours, WORKS["text-bpe"], [10.0, 50.0], 0.04)
    assert row["slope"] == pytest.approx(0.2) and row["slope_ratio"] == pytest.approx(2.0)
    assert row["ratio"] == pytest.approx(2.8)  # a slow round was slow for both
    assert row["rate"] == pytest.approx(50 / 14)
    # 0.4 CPU seconds for a unit of 1,000 tokens, at 0.04 an hour
    assert row["price"] == pytest.approx(0.4 / 3600 * 0.04 / 1000 * 1e12)


def test_a_peer_that_is_ahead_is_shown_ahead(report: Any) -> None:
    from works import WORKS

    work, ours = WORKS["text-bpe"], _found(report, "ours", "ours", [1.0], [5.0])
    peer = _found(report, "quicker", "peer", [0.5], [2.5])
    rows = [report.row_of(f, ours, work, [10.0, 50.0], 0.04) for f in (ours, peer)]
    lines = list(report.table(work, rows, [10.0, 50.0], [("other", "it is not there")]))
    assert lines[4].startswith("| quicker * | 0.50 | 2.50 | 20.0 | 0.50 |") and lines[5].startswith("| ours *")
    assert "- skipped: other: it is not there" in lines
    assert "**the peer**" in "\n".join(report.summary({"text-bpe": (work, rows)}))


def test_the_picture_is_xml_with_a_bar_for_each(report: Any) -> None:
    from chart import svg

    rates = {"ours": 9.0, "bare": 10.0, "peer": 3.0}
    rows = [{"who": "a <b> & c", "kind": kind, "rate": rate} for kind, rate in rates.items()]
    root = ElementTree.fromstring(svg([("work & more", rows)]))
    widths = [float(e.get("width", 0)) for e in root.iter("{http://www.w3.org/2000/svg}rect") if e.get("rx")]
    assert widths[0] > widths[1] > widths[2] > 0 and widths[1] / widths[0] == pytest.approx(0.9, abs=0.01)
