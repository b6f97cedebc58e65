"""The commands, run as a user runs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


def headrace(*arguments: str, cwd: Path | None = None, code: int = 0) -> str:
    done = subprocess.run([sys.executable, "-m", "headrace", *arguments], capture_output=True, text=True, cwd=cwd)
    assert done.returncode == code, done.stderr + done.stdout
    return done.stdout if code == 0 else done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("folder")
    (root / "in").mkdir()
    for i in range(4):
        rows = [
            json.dumps(
                {"text": f"bulletin {i} {j}: water level {j * 7 % 50} cm at the quay, wind {j % 9} m/s", "id": j}
            )
            for j in range(40)
        ]
        (root / "in" / f"b{i}.jsonl").write_text("\n".join(rows) + "\n")
    (root / "in" / "broken.jsonl").write_text('{"text": "fine"}\n{"text": \n{"text": "fine too"}\n')
    (root / "in" / "noise.bin").write_bytes(bytes(range(128, 256)) * 8)
    csv = ["time,level [m]"] + [
        f"2025-06-14T{h:02d}:{m:02d}:00Z,{(h * 60 + m) % 97 / 10}" for h in range(24) for m in range(60)
    ]
    (root / "in" / "tide.csv").write_text("\n".join(csv) + "\n")
    headrace("build", str(root / "in"), "--out", str(root / "out"), "--workers", "1", "--license", "CC-BY-4.0")
    return root


def test_inspect_shows_streams_and_balanced_books(folder: Path) -> None:
    found = json.loads(headrace("inspect", str(folder / "out"), "--json"))
    streams = {s["stream"]: s for s in found["streams"]}
    assert streams["text"]["samples"] == 162
    assert streams["text"]["quarantined"] == 1
    assert streams["text"]["license"] == "CC-BY-4.0"
    assert streams["sensors"]["samples"] == 3
    for source in found["sources"]:
        assert source["items"] == source["closed"] + source["quarantined"] + source["open"]
    shown = headrace("inspect", str(folder / "out"))
    assert "sentencepiece" in shown and "zscore-mu-law" in shown


def test_verify_is_clean_and_gives_the_digest(folder: Path) -> None:
    found = json.loads(headrace("verify", str(folder / "out"), "--json"))
    assert found["ok"] and found["samples"] == 165 and len(found["content_digest"]) == 64


def test_why_says_where_a_sample_came_from(folder: Path) -> None:
    found = json.loads(headrace("why", str(folder / "out"), "text/L0000/0", "--json"))
    assert found["uri"] == "b0.jsonl"
    assert found["license"] == "CC-BY-4.0"
    assert found["tokenizer"]["type"] == "sentencepiece"


def test_an_address_that_does_not_exist_is_told(folder: Path) -> None:
    assert "text/L0000/99999" in headrace("why", str(folder / "out"), "text/0/99999", code=2)
    assert "STREAM/LANE/SEQ" in headrace("why", str(folder / "out"), "text", code=2)


def test_decode_gives_the_text_back_beside_its_original(folder: Path, tmp_path: Path) -> None:
    written = json.loads(
        headrace("decode", str(folder / "out"), "--stream", "text", "--row", "3", "--out", str(tmp_path), "--json")
    )
    decoded, original = (Path(f).read_text() for f in written[0]["files"])
    assert decoded == original == "bulletin 0 3: water level 21 cm at the quay, wind 3 m/s"


def test_decode_draws_a_sensor_window(folder: Path, tmp_path: Path) -> None:
    written = json.loads(
        headrace("decode", str(folder / "out"), "--stream", "sensors", "--out", str(tmp_path), "--json")
    )
    assert written[0]["error"] < 0.01
    assert any(f.endswith("sensors-00000.png") for f in written[0]["files"])


def test_quarantine_lists_reasons_and_shows_bytes(folder: Path) -> None:
    rows = [json.loads(line) for line in headrace("quarantine", "ls", str(folder / "out"), "--json").splitlines()]
    assert sorted(r["reason"] for r in rows) == ["invalid_json", "unknown_format"]
    number = next(r["number"] for r in rows if r["reason"] == "invalid_json")
    assert '"text": ' in headrace("quarantine", "show", str(folder / "out"), str(number))


def test_a_rerun_has_nothing_to_do_and_new_files_are_added(folder: Path) -> None:
    before = json.loads(headrace("verify", str(folder / "out"), "--json"))
    headrace("build", str(folder / "in"), "--out", str(folder / "out"), "--workers", "1", "--license", "CC-BY-4.0")
    assert json.loads(headrace("verify", str(folder / "out"), "--json"))["content_digest"] == before["content_digest"]
    (folder / "in" / "late.jsonl").write_text('{"text": "one more"}\n')
    headrace("build", str(folder / "in"), "--out", str(folder / "out"), "--workers", "1", "--license", "CC-BY-4.0")
    after = json.loads(headrace("verify", str(folder / "out"), "--json"))
    assert after["ok"] and after["samples"] == before["samples"] + 1
    (folder / "in" / "late.jsonl").unlink()


def test_other_settings_are_refused_by_name(folder: Path) -> None:
    told = headrace("build", str(folder / "in"), "--out", str(folder / "out"), "--license", "MIT", code=2)
    assert "license" in told and "CC-BY-4.0" in told and "MIT" in told


def test_print_pipeline_gives_a_file_that_builds_the_same(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(
        headrace("build", str(folder / "in"), "--print-pipeline", "--license", "CC-BY-4.0")
    )
    headrace("build", str(tmp_path / "p.yaml"), "--out", str(tmp_path / "out"), "--workers", "2")
    headrace("build", str(folder / "in"), "--out", str(tmp_path / "again"), "--workers", "1", "--license", "CC-BY-4.0")
    digests = {
        json.loads(headrace("verify", str(tmp_path / name), "--json"))["content_digest"] for name in ("out", "again")
    }
    assert len(digests) == 1


def test_dry_run_tells_and_writes_nothing(folder: Path, tmp_path: Path) -> None:
    found = json.loads(headrace("build", str(folder / "in"), "--out", str(tmp_path / "none"), "--dry-run", "--json"))
    assert {r["source"] for r in found["sources"]} == {"text", "sensors", "unrecognised"}
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("kind", ["connector", "normalizer", "tokenizer"])
def test_new_plugins_are_green_and_build_at_once(kind: str, tmp_path: Path) -> None:
    headrace("new", kind, "my_part", "--out", str(tmp_path))
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_my_part.py"],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    headrace("build", str(tmp_path / "my_part.yaml"), "--out", str(tmp_path / "out"), "--workers", "1")
    assert json.loads(headrace("verify", str(tmp_path / "out"), "--json"))["samples"] >= 1
    headrace("new", kind, "my_part", "--out", str(tmp_path), code=2)


def test_a_read_only_output_is_one_clear_line(folder: Path, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        out = Path("/proc/headrace-cannot-write-here")
    else:
        (tmp_path / "ro").mkdir(mode=0o500)
        out = tmp_path / "ro" / "out"
    told = headrace("build", str(folder / "in"), "--out", str(out), "--license", "CC-BY-4.0", code=3)
    assert told.startswith("headrace: ") and told.count("\n") == 1


def test_gc_finds_nothing_after_a_clean_build_and_forget_hides_samples(folder: Path, tmp_path: Path) -> None:
    headrace("build", str(folder / "in"), "--out", str(tmp_path / "o"), "--workers", "1")
    assert json.loads(headrace("gc", str(tmp_path / "o"), "--json"))["garbage"] == []
    assert "41 samples" not in headrace("forget", str(tmp_path / "o"), "--where", "uri = 'b1.jsonl'", "--dry-run")
    headrace("forget", str(tmp_path / "o"), "--where", "uri = 'b1.jsonl'")
    assert json.loads(headrace("verify", str(tmp_path / "o"), "--json"))["ok"]
    found = json.loads(headrace("inspect", str(tmp_path / "o"), "--json"))
    assert next(s for s in found["streams"] if s["stream"] == "text")["deleted"] == 40
