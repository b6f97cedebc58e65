"""Growing files that are rotated in every way, also by the real logrotate, and what is said when lines are lost."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from headrace.connectors.contract import Broken, Gap, Idle, Item, Split
from headrace.schemas.canonical import position_json

from .growing_log import ROTATIONS, Log, lines, only_lines, read_some, tail


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path / "app.log")


# -- rotation ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("how", ROTATIONS)
@pytest.mark.parametrize("size", [10, 9000], ids=["short", "long"])
def test_the_rest_of_a_rotated_file_is_read_first(tmp_path: Path, log: Log, how: str, size: int) -> None:
    want = [b"%d " % n + b"x" * size for n in range(40)]
    log.write(b"".join(line + b"\n" for line in want[:10]))
    begun = read_some(tail(tmp_path), most=6)
    ROTATIONS[how](log)
    log.write(b"".join(line + b"\n" for line in want[10:20]))
    ROTATIONS[how](log)
    ROTATIONS[how](log)  # an empty file is rotated, too
    log.write(b"".join(line + b"\n" for line in want[20:]))
    rest = read_some(tail(tmp_path), begun[-1].position)  # type: ignore[union-attr]
    assert only_lines([*begun, *rest]) == want
    for number in range(len(rest)):
        again = read_some(tail(tmp_path), rest[number].position)  # type: ignore[union-attr]
        assert [position_json(one.position) for one in again] == [  # type: ignore[union-attr]
            position_json(one.position) for one in rest[number + 1 :]  # type: ignore[union-attr]
        ]


@pytest.mark.parametrize("how", ROTATIONS)
def test_a_running_reader_goes_through_rotations(tmp_path: Path, log: Log, how: str) -> None:
    connector, got = tail(tmp_path), []
    reads = connector.read(Split("app.log"), None)
    want = [b"line %d" % n for n in range(60)]
    for number, line in enumerate(want):
        log.write(line + b"\n")
        if number % 7 == 6:
            got += [read for read in (next(reads) for _ in range(number % 5)) if not isinstance(read, Idle)]
            ROTATIONS[how](log)
    idle = 0
    while idle < 4:
        read = next(reads)
        idle = idle + 1 if isinstance(read, Idle) else 0
        got += [] if isinstance(read, Idle) else [read]
    assert only_lines(got) == want


@pytest.mark.parametrize(("suffix", "pack"), [(".bz2", bz2.compress), (".xz", lzma.compress), (".zst", None)])
def test_other_compressions_are_read(tmp_path: Path, log: Log, suffix: str, pack: Any) -> None:
    pack = pack or pytest.importorskip("zstandard").ZstdCompressor().compress
    log.write(b"one\ntwo\n")
    (one,) = read_some(tail(tmp_path), most=1)
    log.rename()
    found = log.sibling(1).stat()
    log.sibling(1, suffix).write_bytes(pack(log.sibling(1).read_bytes()))
    os.utime(log.sibling(1, suffix), ns=(found.st_mtime_ns, found.st_mtime_ns))
    log.sibling(1).unlink()
    log.write(b"three\n")
    assert only_lines(read_some(tail(tmp_path), one.position)) == [b"two", b"three"]  # type: ignore[union-attr]


def test_a_compressed_file_beside_its_original_is_not_read_as_well(tmp_path: Path, log: Log) -> None:
    log.write(b"one\ntwo\n")
    (one,) = read_some(tail(tmp_path), most=1)
    log.rename()
    log.sibling(1, ".gz").write_bytes(gzip.compress(b"one\ntwo\n")[:9])
    log.write(b"three\n")
    assert only_lines(read_some(tail(tmp_path), one.position)) == [b"two", b"three"]  # type: ignore[union-attr]


def test_a_damaged_compressed_file_costs_its_end(tmp_path: Path, log: Log) -> None:
    log.write(b"".join(b"%064d\n" % n for n in range(3000)))
    begun = read_some(tail(tmp_path), most=10)
    log.rename()
    log.compress()
    packed = log.sibling(1, ".gz")
    found = packed.stat()
    packed.write_bytes(packed.read_bytes()[:-2000])
    os.utime(packed, ns=(found.st_mtime_ns, found.st_mtime_ns))
    log.write(b"next\n")
    rest = read_some(tail(tmp_path), begun[-1].position)  # type: ignore[union-attr]
    assert [type(read) for read in rest[-2:]] == [Broken, Item] and lines(rest)[-1] == b"next"
    assert rest[-2].reason == "truncated"  # type: ignore[union-attr]
    got = lines(rest)[:-1]
    assert got == [b"%064d" % n for n in range(10, 10 + len(got))] and len(got) > 100
    assert only_lines(read_some(tail(tmp_path), rest[-2].position)) == [b"next"]  # type: ignore[union-attr]


def test_the_last_line_of_a_rotated_file_needs_no_end(tmp_path: Path, log: Log) -> None:
    log.write(b"one\nlast words")
    (one,) = read_some(tail(tmp_path))
    log.rename()
    log.write(b"hello\n")
    assert only_lines(read_some(tail(tmp_path), one.position)) == [b"last words", b"hello"]  # type: ignore[union-attr]


def test_what_its_writer_adds_to_a_renamed_file_within_the_time_is_read(tmp_path: Path, log: Log) -> None:
    reads = tail(tmp_path, linger="1s").read(Split("app.log"), None)
    with open(log.path, "ab", buffering=0) as held:
        held.write(b"one\n")
        got = [next(reads)]
        log.rename()
        log.write(b"new\n")
        got += [next(reads) for _ in range(5)]
        held.write(b"late\n")
        deadline = time.monotonic() + 10
        while len(lines(got)) < 3 and time.monotonic() < deadline:
            got.append(next(reads))
    assert lines(got) == [b"one", b"late", b"new"]


def test_a_renamed_file_that_is_written_to_too_late_is_not_read_twice(tmp_path: Path, log: Log) -> None:
    reads = tail(tmp_path).read(Split("app.log"), None)
    with open(log.path, "ab", buffering=0) as held:
        held.write(b"one\n")
        log._stamp(log.path)
        got = [next(reads)]
        log.rename()
        got += [next(reads) for _ in range(6)]  # the new file is open by now, and empty
        held.write(b"too late\n")
        log._stamp(log.sibling(1))
        got += [next(reads) for _ in range(6)]
        log.write(b"new\n")
        got += [next(reads) for _ in range(6)]
    assert lines(got) == [b"one", b"new"]


def test_an_empty_file_that_is_filled_and_copied_away_unseen_is_not_skipped(tmp_path: Path, log: Log) -> None:
    log.write(b"one\n")
    reads = tail(tmp_path).read(Split("app.log"), None)
    got = [next(reads)]
    log.copytruncate()
    got += [read for read in (next(reads) for _ in range(8)) if not isinstance(read, Idle)]
    log.write(b"two\n")
    log.copytruncate()
    log.write(b"six\n")  # as long as what was there before, under the same inode
    got += [read for read in (next(reads) for _ in range(8)) if not isinstance(read, Idle)]
    assert only_lines(got) == [b"one", b"two", b"six"]


def test_a_copy_that_is_made_before_the_truncation_is_not_read_as_well(tmp_path: Path, log: Log) -> None:
    start = tail(tmp_path).start_of(Split("app.log"))
    reads = tail(tmp_path).read(Split("app.log"), start)
    assert isinstance(next(reads), Idle)
    log.write(b"one\ntwo\n")
    log.sibling(1).write_bytes(b"one\n")  # logrotate is at it
    log._stamp(log.sibling(1))
    got = [read for read in (next(reads) for _ in range(6)) if not isinstance(read, Idle)]
    assert only_lines(got) == only_lines(read_some(tail(tmp_path), start)) == [b"one", b"two"]
    log.sibling(1).write_bytes(b"one\ntwo\n")
    log._stamp(log.sibling(1))
    log.truncate()
    log.write(b"three\n")
    got += [read for read in (next(reads) for _ in range(8)) if not isinstance(read, Idle)]
    assert only_lines(got) == [b"one", b"two", b"three"]
    assert only_lines(read_some(tail(tmp_path), start)) == [b"one", b"two", b"three"]


def test_a_file_that_is_away_for_a_while_is_waited_for(tmp_path: Path, log: Log) -> None:
    log.write(b"one\ntwo\n")
    (one,) = read_some(tail(tmp_path), most=1)
    log.rename(create=False)
    (two,) = read_some(tail(tmp_path), one.position)  # type: ignore[union-attr]
    assert only_lines([two]) == [b"two"]
    assert read_some(tail(tmp_path), two.position) == []  # type: ignore[union-attr]
    log.create()
    log.write(b"three\n")
    assert only_lines(read_some(tail(tmp_path), two.position)) == [b"three"]  # type: ignore[union-attr]


def test_a_file_rotated_before_its_first_line_was_read_is_read_whole(tmp_path: Path, log: Log) -> None:
    log.write(b"old\n")
    log.rename()
    log.write(b"one\n")
    connector = tail(tmp_path)
    start = connector.start_of(Split("app.log"))
    log.write(b"two\n")
    for how in ("rename, create and compress", "copytruncate"):
        ROTATIONS[how](log)
        log.write(how.encode() + b"\n")
    want = [b"one", b"two", b"rename, create and compress", b"copytruncate"]
    assert only_lines(read_some(tail(tmp_path), start)) == want


# -- loss -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("regrown", [b"", b"new\n", b"one\nnew, and much longer than before\n"])
def test_truncation_in_place_is_a_gap_and_the_new_lines_follow(tmp_path: Path, log: Log, regrown: bytes) -> None:
    log.write(b"one\ntwo\n")
    for running in (True, False):
        reads = tail(tmp_path).read(Split("app.log"), None)
        got = [next(reads), next(reads)]
        if running:
            got += [next(reads) for _ in range(2)]
        log.truncate()
        log.write(regrown)
        rest = [next(reads) for _ in range(6)] if running else read_some(tail(tmp_path), got[1].position)  # type: ignore[union-attr]
        rest = [read for read in rest if not isinstance(read, Idle)]
        assert isinstance(rest[0], Gap) and "truncated" in rest[0].reason and rest[0].lost is None
        assert only_lines(rest[1:]) == regrown.splitlines()
        assert only_lines(read_some(tail(tmp_path), rest[0].position)) == regrown.splitlines()
        log.truncate()
        log.write(b"one\ntwo\n")


def test_a_file_that_is_begun_anew_with_the_same_first_lines_is_noticed(tmp_path: Path, log: Log) -> None:
    banner = b"# a banner that each start of the program writes " + b"-" * 5000 + b"\n"
    reads = tail(tmp_path).read(Split("app.log"), None)
    log.write(banner + b"one\ntwo\n")
    got = [next(reads), next(reads), next(reads)]
    log.truncate()
    log.write(banner + b"three, longer\n")
    got += [read for read in (next(reads) for _ in range(8)) if not isinstance(read, Idle)]
    assert isinstance(got[3], Gap)
    assert lines(got) == [banner[:-1], b"one", b"two", banner[:-1], b"three, longer"]


def test_a_rotated_file_that_is_gone_is_a_gap_and_nothing_else_is_missed(tmp_path: Path, log: Log) -> None:
    log.write(b"old\n")
    log.rename()
    log.write(b"one\ntwo\n")
    (one,) = read_some(tail(tmp_path), most=1)
    log.rename()
    log.write(b"three\n")
    log.rename()
    log.write(b"four\n")
    log.sibling(2).unlink()
    rest = read_some(tail(tmp_path), one.position)  # type: ignore[union-attr]
    assert isinstance(rest[0], Gap) and only_lines(rest[1:]) == [b"three", b"four"]
    assert only_lines(read_some(tail(tmp_path), rest[0].position)) == [b"three", b"four"]


def test_lines_that_were_read_before_a_copy_was_taken_are_not_read_again(tmp_path: Path, log: Log) -> None:
    log.write(b"one\ntwo\n")
    log.shift()
    shutil.copyfile(log.path, log.sibling(1))
    log._stamp(log.sibling(1))
    log.write(b"three\n")
    got = read_some(tail(tmp_path))
    log.truncate()
    log.write(b"four\n")
    # `three` came after the copy and before the truncation: logrotate loses such lines, unless they were read.
    rest = read_some(tail(tmp_path), got[-1].position)  # type: ignore[union-attr]
    assert lines([*got, *rest]) == [b"one", b"two", b"three", b"four"]


def test_an_inode_that_is_used_again_is_not_taken_for_the_old_file(tmp_path: Path, log: Log) -> None:
    log.write(b"one\ntwo\n")
    (one, _) = read_some(tail(tmp_path))
    log.path.unlink()
    log.create()  # the file system gives the inode anew, often at once
    log.write(b"three, in a longer file\n")
    rest = read_some(tail(tmp_path), one.position)  # type: ignore[union-attr]
    assert isinstance(rest[0], Gap) and only_lines(rest[1:]) == [b"three, in a longer file"]


# -- the real logrotate -----------------------------------------------------------------------------------------------


@pytest.mark.server
@pytest.mark.parametrize("how", ["create", "copytruncate", "create\ncompress", "create\ncompress\ndelaycompress",
                                 "copytruncate\ncompress", "create\ndateext\ndateformat .%s"])  # fmt: skip
def test_logrotate_loses_and_doubles_nothing(tmp_path: Path, how: str) -> None:
    binary = shutil.which("logrotate", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if binary is None:
        pytest.skip("logrotate is not installed: apt-get install logrotate")
    folder = tmp_path / "logs"
    folder.mkdir(mode=0o755)
    path = folder / "app.log"
    (tmp_path / "conf").write_text(f"{path} {{\nrotate 20\nsize 1\nmissingok\n{how}\n}}\n")
    want, got, after = [], [], None
    path.touch()
    after = tail(folder).start_of(Split("app.log"))
    for round in range(4):
        new = [b"round %d line %d " % (round, n) + b"x" * (n % 50) for n in range(100)]
        want += new
        with open(path, "ab") as file:
            file.write(b"".join(line + b"\n" for line in new[:70]))
        part = read_some(tail(folder), after, most=40)
        got, after = [*got, *part], part[-1].position  # type: ignore[union-attr]
        with open(path, "ab") as file:
            file.write(b"".join(line + b"\n" for line in new[70:]))
        command = [binary, "-f", "-s", str(tmp_path / "state"), str(tmp_path / "conf")]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr
        path.touch()
        time.sleep(1.1 if "dateext" in how else 0.02)
    got += read_some(tail(folder), after)
    assert only_lines(got) == want
