"""`headrace doctor` finds before a run what would fail in it, and says what to do."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from headrace.cli import app
from headrace.ingest import checkup

PIPELINE = """
streams:
  here:
    source: {{type: files, root: {root}}}
    record: {{type: text}}
    tokenizer: {{type: bytes}}
  away:
    source: {{type: redis, url: "redis://127.0.0.1:{port}/0", streams: [s]}}
    record: {{type: text}}
    tokenizer: {{type: bytes}}
  pictures:
    source: {{type: files, root: {root}}}
    record: {{type: image}}
"""


def asked(*arguments: str) -> tuple[int, dict[str, dict[str, Any]]]:
    told = CliRunner().invoke(app, ["doctor", "--json", *arguments])
    return told.exit_code, {check["check"]: check for check in json.loads(told.stdout)}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as s:
        return int(s.getsockname()[1])


def test_sources_and_tokenizers_of_a_pipeline_are_asked(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("hello")
    (tmp_path / "p.yaml").write_text(PIPELINE.format(root=tmp_path / "in", port=free_port()))
    code, checks = asked(str(tmp_path / "p.yaml"), "--out", str(tmp_path / "out"))
    assert code == 1
    assert checks["source here"]["verdict"] == "ok"
    assert checks["source away"]["verdict"] == "bad"
    assert "127.0.0.1" in checks["source away"]["found"]
    assert checks["tokenizer pictures"]["verdict"] == "warn"
    assert "headrace fit" in checks["tokenizer pictures"]["remedy"]
    assert not (tmp_path / "out").exists(), "looking made a dataset"


def test_a_taken_port_and_a_store_are_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        busy = f"127.0.0.1:{taken.getsockname()[1]}"
        code, checks = asked("--listen", busy, "--storage", str(tmp_path / "store"))
    assert code == 1
    assert checks[f"port {busy}"]["verdict"] == "bad"
    assert checks[f"storage {tmp_path / 'store'}"]["verdict"] == "ok"


def test_a_source_that_never_answers_costs_its_time_and_no_more(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(checkup, "_SOURCE_S", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        (tmp_path / "in").mkdir()
        (tmp_path / "p.yaml").write_text(PIPELINE.format(root=tmp_path / "in", port=silent.getsockname()[1]))
        _, checks = asked(str(tmp_path / "p.yaml"), "--out", str(tmp_path / "out"))
    assert checks["source away"]["verdict"] == "bad"
    assert "no answer" in checks["source away"]["found"]


@pytest.mark.ray
def test_ray_is_started_and_stopped(tmp_path: Path) -> None:
    check = checkup.ray_start(None)
    assert check.verdict == "ok", check
    assert "1 nodes" in check.found
