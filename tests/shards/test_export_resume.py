"""Exports that are killed, interrupted or run out of disk go on, and end with the bytes of a run that was not."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace.schemas.errors import ConfigError, SettingsDiffer, StorageError
from headrace.shards.dataset import Dataset
from headrace.shards.exports import export as engine
from headrace.shards.exports.export import export, pinned_version
from headrace.shards.exports.journal import MANIFEST
from headrace.shards.exports.options import TARGETS, ExportOptions
from headrace.shards.store_local import LocalStore

from .exporting import Maker, digest_of_folder, raw_rows, settings_for, token_rows

SCRIPT = Path(__file__).parent / "export_killing.py"
SIZES = {"mds": 3000, "webdataset": 20_000, "energon": 40_000, "megatron": 0, "litdata": 2000} | {
    "parquet": 12_000,
    "huggingface": 12_000,
}


@pytest.fixture
def memory_disk() -> Iterator[Path]:
    """A folder on which fsync costs nothing, where there is one."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as folder:
        yield Path(folder)


def small(folder: Path) -> Dataset:
    store = LocalStore(str(folder), create=True)
    maker = Maker(store, {"tide": settings_for("tide"), "raw": settings_for("raw", tokens=None)})
    for lane in (0, 1):
        maker.add("tide", token_rows(30, lane), lane=lane, block_bytes=1500)
    maker.add("raw", raw_rows("text", 5))
    return Dataset(store)


def test_killed_at_any_step_the_next_run_ends_with_equal_bytes(memory_disk: Path) -> None:
    dataset = small(memory_disk / "dataset")
    runs = [f"{target}:{SIZES[target]}" for target in TARGETS] + ["megatron:1500"]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), dataset.store.url, str(memory_disk / "out"), "4", *runs],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    for run in runs:
        of_run = [r for r in results if r["run"] == run]
        assert len(of_run) == 5
        assert len({r["digest"] for r in of_run}) == 1, run
        assert all(r["codes"] == [-9, 0] for r in of_run), of_run


def test_the_command_killed_by_sigkill_goes_on_where_it_was(memory_disk: Path) -> None:
    store = LocalStore(str(memory_disk / "dataset"), create=True)
    maker = Maker(store, {"tide": settings_for("tide")})
    for lane in range(4):
        maker.add("tide", token_rows(500, lane), lane=lane, block_bytes=20_000)
    command = [sys.executable, "-m", "headrace", "export", store.url, "--to", "mds", "--max-shard-size", "4000"]
    unbroken = export(Dataset(store), memory_disk / "whole", ExportOptions(to="mds", max_shard_bytes=4000))
    out = memory_disk / "out"
    running = subprocess.Popen([*command, "--out", str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    journal = out / ".headrace-export" / "journal"
    while running.poll() is None and not (journal.exists() and journal.stat().st_size > 4000):
        time.sleep(0.001)
    running.kill()
    assert running.wait() == -signal.SIGKILL
    noted = journal.read_bytes().count(b"\n")
    assert not (out / MANIFEST).exists() and noted > 3
    done = subprocess.run([*command, "--out", str(out), "--json"], capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)
    assert told["resumed"] and not told["found"] and told["samples"] == unbroken.manifest["samples"]
    assert digest_of_folder(out) == digest_of_folder(memory_disk / "whole")


def test_interrupted_it_says_how_to_go_on_and_does(memory_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, out = small(memory_disk / "dataset"), memory_disk / "out"
    options = ExportOptions(to="litdata", max_shard_bytes=2000)
    seen = []

    def watch(progress: object) -> None:
        seen.append(progress)
        if len(seen) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(dataset, out, options, watch=watch)
    assert export(dataset, out, options).resumed
    whole = export(dataset, memory_disk / "whole", options)
    assert not whole.resumed and digest_of_folder(out) == digest_of_folder(memory_disk / "whole")


def test_a_finished_export_is_left_as_it_is(tmp_path: Path) -> None:
    dataset, out, options = small(tmp_path / "d"), tmp_path / "out", ExportOptions(to="parquet")
    first = export(dataset, out, options)
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    again = export(dataset, out, options)
    assert again.found and again.manifest == first.manifest
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*")} == before
    (out / "tide" / "tide-00000.parquet").unlink()
    with pytest.raises(StorageError, match=r"tide-00000\.parquet is missing"):
        export(dataset, out, options)


def test_a_run_that_goes_on_keeps_the_version_it_began_with(tmp_path: Path) -> None:
    dataset, out = small(tmp_path / "d"), tmp_path / "out"
    options = ExportOptions(to="mds", max_shard_bytes=3000)
    with pytest.raises(KeyboardInterrupt):
        export(dataset, out, options, watch=interrupt)
    maker = Maker(dataset.store, {"tide": settings_for("tide"), "raw": settings_for("raw", tokens=None)})
    maker.add("tide", token_rows(5, 9), lane=7)
    grown = Dataset(dataset.store)
    with pytest.raises(SettingsDiffer, match=r"version was .*, now"):
        export(grown, out, options)
    assert pinned_version(out) == dataset.version < grown.version
    result = export(Dataset.open(dataset.store, pinned_version(out)), out, options)
    assert result.resumed and result.manifest["version"] == dataset.version


def test_other_settings_are_refused_with_what_differs(tmp_path: Path) -> None:
    dataset, out = small(tmp_path / "d"), tmp_path / "out"
    export(dataset, out, ExportOptions(to="mds"))
    with pytest.raises(SettingsDiffer, match=r"other settings \(eod\): eod was 'auto', now 5"):
        export(dataset, out, ExportOptions(to="mds", eod=5))
    with pytest.raises(SettingsDiffer, match="of another dataset"):
        export(small(tmp_path / "d2"), out, ExportOptions(to="mds"))


def test_two_runs_at_once_are_refused(tmp_path: Path) -> None:
    dataset, out, options = small(tmp_path / "d"), tmp_path / "out", ExportOptions(to="mds")

    def second(progress: object) -> None:
        with pytest.raises(ConfigError, match="another process is writing"):
            export(dataset, out, options)

    export(dataset, out, options, watch=second)


def test_a_torn_journal_line_and_a_lost_file_are_made_again(tmp_path: Path) -> None:
    dataset, out = small(tmp_path / "d"), tmp_path / "out"
    options = ExportOptions(to="mds", max_shard_bytes=2000)
    whole = export(dataset, tmp_path / "whole", options)
    for damage in ("torn", "lost", "altered"):
        with pytest.raises(KeyboardInterrupt):
            export(dataset, out, options, watch=lambda progress: interrupt() if progress["samples"] > 20 else None)
        journal = out / ".headrace-export" / "journal"
        lines = journal.read_bytes().splitlines(keepends=True)
        assert len(lines) >= 3
        if damage == "torn":
            journal.write_bytes(b"".join(lines)[:-7])
        elif damage == "lost":
            (out / "tide" / "shard.00001.mds").unlink()
        else:
            journal.write_bytes(lines[0] + lines[1].replace(b"tide", b"tidy") + b"".join(lines[2:]))
        assert export(dataset, out, options).manifest["files"] == whole.manifest["files"]
        assert digest_of_folder(out) == digest_of_folder(tmp_path / "whole")
        for path in sorted(out.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()


def test_a_full_disk_stops_with_the_file_and_the_export_goes_on_later(memory_disk: Path) -> None:
    dataset, out = small(memory_disk / "dataset"), memory_disk / "out"
    options = ExportOptions(to="webdataset")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
        with pytest.raises(StorageError, match=r"cannot write .*tar: the file would be larger"):
            export(dataset, out, options)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert not list(out.rglob("*.tar"))
    assert export(dataset, out, options).resumed
    export(dataset, memory_disk / "whole", options)
    assert digest_of_folder(out) == digest_of_folder(memory_disk / "whole")


def test_equal_datasets_give_equal_exports_wherever_they_lie(memory_disk: Path) -> None:
    for target in TARGETS:
        for turn in ("a", "b"):
            dataset = small(memory_disk / turn / "dataset") if not (memory_disk / turn / "dataset").exists() else None
            opened = dataset or Dataset(LocalStore(str(memory_disk / turn / "dataset")))
            export(opened, memory_disk / turn / target, ExportOptions(to=target, ids="unified", max_shard_bytes=8000))
        # What names the dataset differs: two logs of equal content have ids of their own.
        same = [
            digest_of_folder(memory_disk / turn / target, but=lambda name: name in (MANIFEST, "README.md"))
            for turn in ("a", "b")
        ]
        named_after_the_export = {"index.uuid", "state.json", "index.json"}
        for name, digest in same[0].items():
            assert same[1][name] == digest or Path(name).name in named_after_the_export, (target, name)


def interrupt(progress: object = None) -> None:
    raise KeyboardInterrupt


def test_the_engine_notices_a_format_that_loses_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bug is planted where a format joins rows; what is read back does not agree, and nothing is published."""
    from headrace.shards.exports import offset_file

    dataset = small(tmp_path / "d")
    right = offset_file.joined
    monkeypatch.setattr("headrace.shards.exports.mds.joined", lambda parts: right([*parts[:-1], parts[0]]))
    with pytest.raises(StorageError, match="reads back as"):
        export(dataset, tmp_path / "out", ExportOptions(to="mds"))
    assert not list((tmp_path / "out").rglob("*.mds")) and engine.pinned_version(tmp_path / "out") == dataset.version
