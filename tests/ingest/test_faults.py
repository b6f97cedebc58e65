"""What goes wrong around a build: the disk, the sources, other writers. A clear error, and a rerun completes."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from headrace.ingest.build import BuildFailed, build
from headrace.schemas.errors import SourceChanged, StorageError

from .conftest import lines_pipeline, reasons, write_lines
from .test_cli import headrace


@pytest.fixture
def small_disk(tmp_path: Path):
    """A file system of 3 MiB; skips where it cannot be mounted."""
    folder = tmp_path / "small"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)], capture_output=True)
    if done.returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_told_and_a_rerun_with_room_completes(tmp_path: Path, small_disk: Path, checked) -> None:
    (tmp_path / "in").mkdir()
    for i in range(8):
        rows = [json.dumps({"text": os.urandom(600).hex()}) for _ in range(400)]
        (tmp_path / "in" / f"{i}.jsonl").write_text("\n".join(rows))
    (tmp_path / "p.yaml").write_text(
        "streams:\n  t:\n    source: {type: files, root: in}\n    record: {type: text}\n    tokenizer: {type: bytes}\n"
        "    shards: {target_mib: 0.5}\n"
    )
    told = headrace("build", str(tmp_path / "p.yaml"), "--out", str(small_disk / "out"), "--workers", "1", code=3)
    assert told.splitlines()[-1].startswith("headrace: ") and "space" in told
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    headrace("build", str(tmp_path / "p.yaml"), "--out", str(small_disk / "out"), "--workers", "1")
    _, report = checked(small_disk / "out")
    assert report.samples == 3200


def files_pipeline(folder: Path) -> str:
    (folder / "p.yaml").write_text(
        "streams:\n  t:\n    source: {type: files, root: in}\n    record: {type: text}\n    tokenizer: {type: bytes}\n"
    )
    return str(folder / "p.yaml")


def test_a_file_that_changes_before_it_is_read_is_read_as_it_is_now(tmp_path: Path, checked) -> None:
    from headrace.connectors.files import Files
    from headrace.ingest.pipeline_file import load_pipeline

    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("first")
    pipeline = load_pipeline(Path(files_pipeline(tmp_path)))
    real = Files.splits
    changed = []

    def splits(self):
        listed = list(real(self))
        if not changed:  # between planning and reading
            changed.append((tmp_path / "in" / "a.txt").write_text("second, and longer"))
        return listed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Files, "splits", splits)
        with pytest.raises(BuildFailed, match=r"a\.txt"):
            build(pipeline, str(tmp_path / "out"), base=tmp_path, workers=1, engine="inline")
    build(pipeline, str(tmp_path / "out"), base=tmp_path, workers=1, engine="inline")
    dataset, report = checked(tmp_path / "out")
    assert report.samples == 1 and reasons(dataset) == {}


def test_a_file_that_changes_after_it_was_committed_is_refused(tmp_path: Path) -> None:
    from headrace.ingest.pipeline_file import load_pipeline

    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("first")
    pipeline = load_pipeline(Path(files_pipeline(tmp_path)))
    build(pipeline, str(tmp_path / "out"), base=tmp_path, workers=1, engine="inline")
    (tmp_path / "in" / "a.txt").write_text("changed")
    with pytest.raises(SourceChanged, match=r"a\.txt changed after it was committed"):
        build(pipeline, str(tmp_path / "out"), base=tmp_path, workers=1, engine="inline")


def test_an_output_that_is_a_file_is_refused(tmp_path: Path) -> None:
    write_lines(tmp_path / "in", files=1, lines=3)
    (tmp_path / "out").write_text("not a folder")
    with pytest.raises(StorageError, match="out"):
        build(lines_pipeline(tmp_path), str(tmp_path / "out"), base=tmp_path, workers=1, engine="inline")


def test_no_temporary_files_or_processes_are_left(tmp_path: Path, monkeypatch) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", None)
    write_lines(tmp_path / "in", files=2, lines=20, orders={(0, 3): "SEGFAULT"})
    build(lines_pipeline(tmp_path), str(tmp_path / "out"), base=tmp_path, workers=2, engine="inline")
    assert list(temporary.iterdir()) == []
    assert "headrace.ingest.child" not in " ".join(_children())


def _children() -> list[str]:
    out = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                if parent == os.getpid():
                    out.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
            except OSError:
                continue
    return out
