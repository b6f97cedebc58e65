"""The example trainer: what it resumes is what it would have done, and it learns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "train_tiny.py"


def run(*arguments: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    # Small matrices gain nothing from the GPU, and only the CPU promises the same bits.
    return subprocess.run(
        command, capture_output=True, text=True, timeout=300, env={**os.environ, "CUDA_VISIBLE_DEVICES": "", **env}
    )


def test_a_resumed_run_has_the_losses_of_the_unbroken_one_to_the_last_bit_and_they_fall(
    tiny: Path, tmp_path: Path
) -> None:
    done = run("--data", tiny, "--steps", "20", "--threads", "1", "--out", tmp_path, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["equal"] and told["compared"] == 10 and told["device"] == "cpu"
    assert list(told["resumed"]) == [str(step) for step in range(10, 20)]
    assert all(told["resumed"][step] == told["losses"][step] for step in told["resumed"])
    assert told["first_loss"] == told["losses"]["0"] > 4
    assert told["final_loss"] < 0.8 * told["first_loss"], "20 steps are enough to learn which ids occur"
    assert {found["license"] for found in told["worst"]} == {"CC-BY-4.0"} and told["worst"][0]["commit"] > 0
    assert [sorted(line["streams"]) for line in told["sources"]] == [["letters", "reports"], ["sounds"]]
    saved = sorted(path.name for path in tmp_path.iterdir())
    assert saved[:2] == ["half.pt", "losses.png"] or told["plot"] is None


def test_without_torch_it_says_so_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('no torch here')\n")
    done = run("--data", tmp_path, PYTHONPATH=str(tmp_path))
    assert done.returncode != 0
    assert done.stderr.strip() == "train_tiny.py needs PyTorch: pip install 'headrace[torch]'"
