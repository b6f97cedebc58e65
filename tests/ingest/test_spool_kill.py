"""SIGKILL of real writing processes at random moments, and two that race for one spool.

This file is also the program that is killed: it tells each batch on its standard output once `append` has returned.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from headrace.connectors.contract import Idle, Item
from headrace.ingest.spool import SpoolSettings
from headrace.ingest.spool_reader import SpoolReader
from headrace.ingest.spool_writer import SpoolWriter
from headrace.schemas.errors import Fenced

SETTINGS = SpoolSettings(segment_bytes=20_000)


def write(folder: str, name: str, go_on: Any = lambda: True, out: int = 1) -> None:
    """Append batches for ever, telling each."""
    writer = SpoolWriter(folder, SETTINGS)
    number = 0
    dice = random.Random(name)
    while go_on():
        batch = [f"{name}-{number + i}".encode() for i in range(dice.randint(1, 20))]
        writer.append([Item(b.ljust(dice.choice([20, 20, 3000]), b"."), None) for b in batch])
        number += len(batch)
        os.write(out, (" ".join(b.decode() for b in batch) + "\n").encode())


class Lane:
    """Reads what there is, as a lane that commits after each look."""

    def __init__(self, folder: str) -> None:
        self.reader = SpoolReader(folder, SETTINGS, poll_s=0.001, idle_s=0.001)
        self.after: dict[str, Any] = {}
        self.got: list[str] = []
        self.ended: set[str] = set()

    def look(self) -> None:
        for split in self.reader.runs():
            if split.id in self.ended:
                continue
            for read in self.reader.read(split, self.after.get(split.id)):
                if isinstance(read, Idle):
                    break
                assert isinstance(read, Item) and isinstance(read.data, bytes), read
                self.after[split.id] = read.position
                self.got.append(read.data.rstrip(b".").decode())
            else:
                self.ended.add(split.id)
            if split.id in self.after:
                self.reader.release(split, self.after[split.id])


def check(acked: list[str], lane: Lane, folder: str) -> None:
    SpoolWriter(folder, SETTINGS).close()
    lane.look()
    assert len(set(lane.got)) == len(lane.got)
    assert set(acked) <= set(lane.got), sorted(set(acked) - set(lane.got))[:5]
    for name in {a.split("-")[0] for a in lane.got}:
        numbers = [int(a.split("-")[1]) for a in lane.got if a.split("-")[0] == name]
        assert numbers == list(range(len(numbers)))
    assert lane.reader.size() == 0


def test_a_killed_writer_leaves_exactly_what_it_acknowledged_and_perhaps_one_batch_more(tmp_path: Path) -> None:
    folder = str(tmp_path / "spool")
    dice = random.Random(5)
    acked: list[str] = []
    lane = Lane(folder)
    unsaid = 0
    program = subprocess.Popen(
        [sys.executable, __file__, folder, "40"], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    )
    assert program.stdout is not None and program.stdin is not None
    with program:
        for _ in range(40):
            said: list[str] = []
            child = int(program.stdout.readline())
            time.sleep(dice.choice([0, dice.uniform(0, 0.03), dice.uniform(0, 0.1)]))
            if dice.random() < 0.5:
                lane.look()
            os.kill(child, signal.SIGKILL)
            program.stdin.write("\n")
            program.stdin.flush()
            while (line := program.stdout.readline()) != "dead\n":
                said += line.split() if line.endswith("\n") else []
            acked += said
            unsaid += not said
    assert program.returncode == 0
    check(acked, lane, folder)
    assert acked and unsaid < 40


def _fork_children(folder: str, count: int) -> None:
    """Start a writer, say its number, wait for the word that it was killed, pass on what it said; and again."""
    for number in range(count):
        end, begin = os.pipe()
        pid = os.fork()
        if not pid:
            os.close(end)
            write(folder, f"w{number}", out=begin)
            os._exit(0)
        os.close(begin)
        os.write(1, f"{pid}\n".encode())
        said = bytearray()
        while more := os.read(end, 1 << 16):
            said += more
        os.waitpid(pid, 0)
        os.close(end)
        sys.stdin.readline()
        os.write(1, bytes(said[: said.rfind(b"\n") + 1]) + b"dead\n")


def test_of_two_racing_writers_one_goes_on_and_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    folder = str(tmp_path / "spool")
    lane = Lane(folder)
    acked: list[str] = []
    for turn in range(3):
        programs = [
            subprocess.Popen([sys.executable, __file__, folder, "race", f"{turn}x{i}"], stdout=subprocess.PIPE)
            for i in range(3)
        ]
        codes = []
        for program in programs:
            while program.poll() is None and lane is not None:
                lane.look()
                if sum(p.poll() is None for p in programs) <= 1:
                    break
        for program in programs:
            if program.poll() is None:
                program.send_signal(signal.SIGTERM)
            out, _ = program.communicate(timeout=60)
            codes.append(program.returncode)
            acked += out.decode().split()
        assert sorted(codes) == [0, 3, 3]
    check(acked, lane, folder)


@pytest.mark.parametrize("call", ["fdatasync", "write", "fsync"])
def test_a_writer_killed_at_every_kind_of_system_call_loses_nothing(tmp_path: Path, call: str) -> None:
    """The process ends at its n-th call, before it or just after."""
    folder = str(tmp_path / "spool")
    lane = Lane(folder)
    acked: list[str] = []
    program = subprocess.run(
        [sys.executable, __file__, folder, "doomed", call, "60"], stdout=subprocess.PIPE, text=True, check=True
    )
    acked += program.stdout.split()
    check(acked, lane, folder)


def _doomed(folder: str, call: str, count: int) -> None:
    """Children that kill themselves around their n-th call of a function of the module `os`."""
    real = getattr(os, call)
    for number in range(count):
        end, begin = os.pipe()
        pid = os.fork()
        if not pid:
            left = [number // 2]

            def counted(*arguments: Any, left: list[int] = left, late: bool = number % 2 == 1) -> Any:
                left[0] -= 1
                if left[0] < 0 and not late:
                    os.kill(os.getpid(), signal.SIGKILL)
                done = real(*arguments)
                if left[0] < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return done

            setattr(os, call, counted)
            write(folder, f"w{number}", out=begin)
            os._exit(1)
        os.close(begin)
        said = bytearray()
        while more := os.read(end, 1 << 16):
            said += more
        os.close(end)
        os.waitpid(pid, 0)
        real_write(1, bytes(said[: said.rfind(b"\n") + 1]))


real_write = os.write

if __name__ == "__main__":
    if sys.argv[2] == "race":
        running = [True]
        signal.signal(signal.SIGTERM, lambda *_: running.clear())
        try:
            write(sys.argv[1], sys.argv[3], go_on=lambda: bool(running))
        except Fenced:
            os._exit(3)
    elif sys.argv[2] == "doomed":
        _doomed(sys.argv[1], sys.argv[3], int(sys.argv[4]))
    else:
        _fork_children(sys.argv[1], int(sys.argv[2]))
