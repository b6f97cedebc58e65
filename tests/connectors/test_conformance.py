"""The files connector passes the conformance kit for every layout, and the kit catches the classic bugs."""

from __future__ import annotations

import gzip
import io
import tarfile
import threading
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from headrace.connectors.contract import Connector, ConnectorConfig, Idle, Item, Position, Read, Split
from headrace.connectors.files import Files
from headrace.connectors.testing import ConnectorKit

LINES = b"".join(b'{"n":%d,"text":"%s"}\n' % (n, b"word " * (n % 250)) for n in range(4_000))


class LocalKit(ConnectorKit):
    """The kit over a folder that `fill` fills."""

    settings: dict[str, Any] = {}
    root: Path

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def folder(cls, tmp_path_factory: pytest.TempPathFactory) -> None:
        cls.root = tmp_path_factory.mktemp("kit")
        cls.fill(cls.root)

    @classmethod
    def fill(cls, root: Path) -> None:
        raise AssertionError("each layout fills its own folder")

    def make(self) -> Connector:
        return Files(Files.Config(root=str(self.root), **self.settings))


class TestLines(LocalKit):
    @classmethod
    def fill(cls, root: Path) -> None:
        (root / "a.jsonl").write_bytes(LINES * 2)


class TestCompressedLines(LocalKit):
    @classmethod
    def fill(cls, root: Path) -> None:
        (root / "a.jsonl.gz").write_bytes(gzip.compress(LINES * 2, 1, mtime=0)[:-1000])


class TestByteRanges(LocalKit):
    settings = {"divide_bytes": 2 << 20}

    @classmethod
    def fill(cls, root: Path) -> None:
        (root / "a.jsonl").write_bytes(LINES)


class TestTar(LocalKit):
    @classmethod
    def fill(cls, root: Path) -> None:
        with tarfile.open(root / "a.tar", "w") as archive:
            for n in range(12):
                data = LINES[: 3 << 20] if n == 5 else b"text %d" % n
                info = tarfile.TarInfo(f"{n}.jsonl" if n == 5 else f"{n}.txt")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))


class TestWebDataset(LocalKit):
    @classmethod
    def fill(cls, root: Path) -> None:
        with tarfile.open(root / "a.tar.gz", "w:gz") as archive:
            for n in range(20):
                for extension in ("txt", "json"):
                    info = tarfile.TarInfo(f"{n:03}.{extension}")
                    info.size = 2
                    archive.addfile(info, io.BytesIO(b"{}"))


class TestZip(LocalKit):
    @classmethod
    def fill(cls, root: Path) -> None:
        with zipfile.ZipFile(root / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for n in range(12):
                archive.writestr(f"{n}.txt", f"text {n}" * 100)


class TestWebArchive(LocalKit):
    @classmethod
    def fill(cls, root: Path) -> None:
        out = b""
        for n in range(15):
            body = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<html>%d</html>" % n
            head = (
                f"WARC-Type: response\r\nWARC-Target-URI: http://example.com/{n}\r\nWARC-Date: 2024-01-01T00:00:{n:02}Z"
            )
            record = f"WARC/1.1\r\n{head}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body + b"\r\n\r\n"
            out += gzip.compress(record, mtime=0)[: 50 if n == 7 else None]
        (root / "a.warc.gz").write_bytes(out)


class TestSeveralFiles(LocalKit):
    settings = {"group": "stem"}

    @classmethod
    def fill(cls, root: Path) -> None:
        for name in ("a.png", "a.txt", "b.bin"):
            (root / name).write_bytes(b"\x89PNG\r\n\x1a\n" if name == "a.png" else b"\0\1text")


# -- the kit catches what it is there to catch ------------------------------------------------------------------------


class Numbers(Connector):
    """Counts to twenty; subclasses get one thing wrong."""

    class Config(ConnectorConfig):
        last: int = 20

    def splits(self) -> Iterable[Split]:
        return [Split("numbers")]

    def read(self, split: Split, after: Position) -> Iterator[Read]:
        for n in range((after or 0) + 1, self.config.last + 1):
            yield Item(b"%d" % n, position=n)


class OffByOne(Numbers):
    def read(self, split: Split, after: Position) -> Iterator[Read]:
        for n in range(after or 1, self.config.last + 1):
            yield Item(b"%d" % n, position=n)


class CountsFromResume(Numbers):
    def read(self, split: Split, after: Position) -> Iterator[Read]:
        for place, n in enumerate(range((after or 0) + 1, self.config.last + 1), 1):
            yield Item(b"%d" % n, position=place)


class SkipsOne(Numbers):
    def read(self, split: Split, after: Position) -> Iterator[Read]:
        for n in range((after or -1) + 2, self.config.last + 1):
            yield Item(b"%d" % n, position=n)


_HIDDEN: dict[str, int] = {}


class HiddenState(Numbers):
    def read(self, split: Split, after: Position) -> Iterator[Read]:
        begin = _HIDDEN.get(str(after), 0)
        for n in range(begin + 1, self.config.last + 1):
            _HIDDEN[f"token{n}"] = n
            yield Item(b"%d" % n, position=f"token{n}")


class Forgetful(Numbers):
    """Says it can be replayed, but goes on from now."""

    def read(self, split: Split, after: Position) -> Iterator[Read]:
        if after is None:
            yield from super().read(split, after)


class SamePositions(Numbers):
    def read(self, split: Split, after: Position) -> Iterator[Read]:
        for n in range(1, 5):
            yield Item(b"%d" % n, position=n // 2)


class FloatPositions(Numbers):
    def read(self, split: Split, after: Position) -> Iterator[Read]:
        yield Item(b"1", position=0.5)


class LeavesThreads(Numbers):
    def read(self, split: Split, after: Position) -> Iterator[Read]:
        threading.Thread(target=threading.Event().wait, args=(20,), daemon=True).start()
        yield from super().read(split, after)


class LeavesFiles(Numbers):
    kept: list[Any] = []

    def read(self, split: Split, after: Position) -> Iterator[Read]:
        self.kept.append(open("/dev/null", "rb"))  # noqa: SIM115
        yield from super().read(split, after)


class AcknowledgesItself(Numbers):
    def read(self, split: Split, after: Position) -> Iterator[Read]:
        for item in super().read(split, after):
            yield item
            self.ack(split, item.position)


class ReadsAhead(Numbers):
    def read(self, split: Split, after: Position) -> Iterator[Read]:
        everything = [bytes(1 << 20) + b"%d" % n for n in range(300)]
        for n, data in enumerate(everything):
            yield Item(data[-8:], position=n)


class NewIds(Numbers):
    count = 0

    def splits(self) -> Iterable[Split]:
        NewIds.count += 1
        return [Split(f"numbers-{NewIds.count}")]


class Lenient(Numbers):
    class Config(ConnectorConfig):
        model_config = {"extra": "ignore"}
        last: int = 20


BUGS = [
    (OffByOne, "test_reading_on_after_each_position_gives_the_rest"),
    (OffByOne, "test_the_declared_guarantee_is_not_more_than_what_is_observed"),
    (CountsFromResume, "test_reading_on_after_each_position_gives_the_rest"),
    (SkipsOne, "test_reading_on_after_each_position_gives_the_rest"),
    (SkipsOne, "test_the_declared_guarantee_is_not_more_than_what_is_observed"),
    (HiddenState, "test_reading_on_in_a_fresh_process_gives_the_rest"),
    (Forgetful, "test_the_declared_guarantee_is_not_more_than_what_is_observed"),
    (SamePositions, "test_positions_are_small_json_and_unique_in_a_split"),
    (FloatPositions, "test_positions_are_small_json_and_unique_in_a_split"),
    (LeavesThreads, "test_close_frees_threads_and_files"),
    (LeavesFiles, "test_close_frees_threads_and_files"),
    (AcknowledgesItself, "test_read_never_acknowledges"),
    (ReadsAhead, "test_memory_is_bounded_under_a_slow_consumer"),
    (NewIds, "test_split_ids_are_unique_relative_and_stable"),
    (Lenient, "test_unknown_settings_are_refused"),
]


def kit_of(cls: type[Numbers]) -> ConnectorKit:
    class Kit(ConnectorKit):
        def make(self) -> Connector:
            return cls(cls.Config())

    return Kit()


@pytest.mark.parametrize(("cls", "test"), BUGS)
def test_the_kit_catches(cls: type[Numbers], test: str) -> None:
    with pytest.raises((AssertionError, ValueError)):
        getattr(kit_of(cls), test)()
    while LeavesFiles.kept:
        LeavesFiles.kept.pop().close()


class TestNumbers(ConnectorKit):
    """The right version of the buggy ones passes, as a class of a test file."""

    def make(self) -> Connector:
        return Numbers(Numbers.Config())


class Ticker(Numbers):
    """Unbounded: it has nothing more for now, and says so."""

    bounded = False

    def read(self, split: Split, after: Position) -> Iterator[Read]:
        yield from super().read(split, after)
        while True:
            yield Idle()


class TestTicker(ConnectorKit):
    def make(self) -> Connector:
        return Ticker(Ticker.Config())


@pytest.mark.parametrize(
    ("cls", "guarantee"), [(Numbers, "exactly once"), (OffByOne, "at least once"), (Forgetful, "at most once")]
)
def test_the_observed_guarantee_is_computed(cls: type[Numbers], guarantee: str) -> None:
    assert kit_of(cls).observed_guarantee() == guarantee
