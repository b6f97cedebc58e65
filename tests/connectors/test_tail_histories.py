"""Any history of a growing file, against the list of the lines that were written."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from headrace.connectors.contract import Broken, Gap, Item, Position, Split
from headrace.schemas.canonical import position_json

from .growing_log import Log, lines, read_some, tail

# -- any history ------------------------------------------------------------------------------------------------------


class Histories(RuleBasedStateMachine):
    """Appends, rotations, truncations and restarts at any position, against the list of lines that were written."""

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="headrace-tail-"))
        self.log = Log(self.folder / "app.log")
        self.written: list[tuple[bytes, int]] = []  # (line, file it lies in)
        self.gone: set[int] = set()  # files that were truncated
        self.file = 0
        self.partial = b""
        self.count = 0
        # (position, lines up to it)
        self.marks: list[tuple[Position, int]] = [(tail(self.folder).start_of(Split("app.log")), 0)]

    def teardown(self) -> None:
        shutil.rmtree(getattr(self, "folder", "none"), ignore_errors=True)

    def _new_line(self, size: int) -> bytes:
        self.count += 1
        return b"%d " % self.count + b"x" * size

    def _next_file(self) -> None:
        if self.partial:
            self.written.append((self.partial, self.file))
            self.partial = b""
        self.file += 1

    @rule(sizes=st.lists(st.sampled_from([0, 5, 60, 700, 5000]), min_size=1, max_size=5))
    def append(self, sizes: list[int]) -> None:
        for size in sizes:
            line = self._new_line(size)
            self.written.append((self.partial + line, self.file))
            self.partial = b""
            self.log.write(line + b"\n")

    @rule(size=st.sampled_from([0, 30, 4096]))
    def append_part(self, size: int) -> None:
        part = self._new_line(size)
        self.partial += part
        self.log.write(part)

    @rule()
    def rename(self) -> None:
        self._next_file()
        self.log.rename()

    @rule()
    def copytruncate(self) -> None:
        self._next_file()
        self.log.copytruncate()

    @rule(number=st.integers(1, 3))
    def compress(self, number: int) -> None:
        if self.log.sibling(number).exists():
            self.log.compress(number)

    @rule()
    def truncate(self) -> None:
        self.gone.add(self.file)
        self.partial = b""
        self.file += 1
        self.log.truncate()

    @rule(data=st.data(), most=st.integers(1, 8))
    def read_a_little(self, data: st.DataObject, most: int) -> None:
        self._read(data.draw(st.integers(0, len(self.marks) - 1)), most)

    @rule(data=st.data())
    def read_all(self, data: st.DataObject) -> None:
        self._read(data.draw(st.integers(0, len(self.marks) - 1)), 10**9)

    def _read(self, mark: int, most: int) -> None:
        after, index = self.marks[mark]
        reads = read_some(tail(self.folder), after, most=most)
        gaps = [read for read in reads if isinstance(read, Gap)]
        there = [(n, line) for n, (line, file) in enumerate(self.written) if n >= index and file not in self.gone]
        got = lines(reads)
        whole = most == 10**9
        assert got == [line for _, line in there][: None if whole else len(got)]
        assert not any(isinstance(read, Broken) for read in reads)
        if not self.gone:
            assert not gaps
        if whole and index and self.written[index - 1][1] in self.gone:
            assert gaps, "the file of this position was truncated and nothing said so"
        assert len({position_json(read.position) for read in reads}) == len(reads)  # type: ignore[union-attr]
        numbers = iter(n + 1 for n, _ in there)
        for read in reads:
            if isinstance(read, Item):
                self.marks.append((read.position, next(numbers)))


    @rule(steps=st.integers(1, 12))
    def run_on(self, steps: int) -> None:
        """A reader that is never restarted: it may give lines that it read before they were cut off."""
        if not hasattr(self, "running"):
            self.running, self.reached = tail(self.folder).read(Split("app.log"), self.marks[0][0]), 0
        for read in (next(self.running) for _ in range(steps)):
            assert not isinstance(read, Broken) and (self.gone or not isinstance(read, Gap))
            if isinstance(read, Item):
                number = next(n for n, (line, _) in enumerate(self.written) if line == read.data)
                passed = self.written[self.reached : number]
                assert number >= self.reached and all(file in self.gone for _, file in passed)
                self.reached = number + 1
                self.marks.append((read.position, number + 1))


TestHistories = Histories.TestCase
TestHistories.settings = settings(
    max_examples=60, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
