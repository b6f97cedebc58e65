"""Growing files: which they are, what a line is, where reading begins and ends; and the conformance kit."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from headrace.connectors.contract import Broken, Connector, Idle, Item, Read, Split
from headrace.connectors.tail import Tail
from headrace.connectors.tail_files import Rotation
from headrace.connectors.testing import ConnectorKit
from headrace.schemas.canonical import position_json
from headrace.schemas.errors import ConfigError

from .growing_log import Log, lines, only_lines, read_some, tail


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path / "app.log")


# -- lines ------------------------------------------------------------------------------------------------------------


def test_whole_lines_are_items_and_the_rest_waits(tmp_path: Path, log: Log) -> None:
    log.write(b"one\ntwo\r\n\nhalf")
    first = read_some(tail(tmp_path))
    assert only_lines(first) == [b"one", b"two"]
    log.write(b" a line\nnext\n")
    assert only_lines(read_some(tail(tmp_path), first[-1].position)) == [b"half a line", b"next"]  # type: ignore[union-attr]


def test_bytes_are_given_as_they_are_save_for_a_byte_order_mark(tmp_path: Path, log: Log) -> None:
    log.write(b"\xef\xbb\xbffirst\n\xff\xfe\0\n\xef\xbb\xbfsecond\n")
    assert only_lines(read_some(tail(tmp_path))) == [b"first", b"\xff\xfe\0", b"\xef\xbb\xbfsecond"]


def test_a_long_line_costs_that_line_only_and_little_memory(tmp_path: Path, log: Log) -> None:
    log.write(b"before\n" + b"x" * 3_000_000 + b"\nafter\n" + b"y" * 1001 + b"\nend\n")
    reads = read_some(tail(tmp_path, max_line_bytes=1000))
    assert lines(reads) == [b"before", b"after", b"end"]
    long, other = (read for read in reads if isinstance(read, Broken))
    assert long.reason == other.reason == "too_large" and long.data == b"x" * len(long.data or b"")
    assert long.locator == '{"byte_begin":7,"byte_end":3000008}' and "3000001 bytes" in long.message
    after = [position_json(read.position) for read in reads]  # type: ignore[union-attr]
    for number, read in enumerate(reads):
        rest = read_some(tail(tmp_path, max_line_bytes=1000), read.position)  # type: ignore[union-attr]
        assert [position_json(one.position) for one in rest] == after[number + 1 :]  # type: ignore[union-attr]


def test_a_long_line_that_grows_slowly_is_passed_over_once(tmp_path: Path, log: Log) -> None:
    reads = tail(tmp_path, max_line_bytes=1000).read(Split("app.log"), None)
    got: list[Read] = []
    for piece in (b"a\n", b"x" * 900, b"x" * 900, b"x" * 900 + b"\nb\n"):
        log.write(piece)
        got += [read for read in (next(reads) for _ in range(8)) if not isinstance(read, Idle)]
    assert lines(got) == [b"a", b"b"] and [type(read) for read in got] == [Item, Broken, Item]


def test_a_format_can_be_stated(tmp_path: Path, log: Log) -> None:
    log.write(b"{}\n")
    (item,) = read_some(tail(tmp_path, format="json"))
    assert isinstance(item, Item) and dict(item.headers) == {"format": "json"}
    assert item.event_time is None and item.key is None


def test_idle_ticks_come_twice_a_second_even_where_there_is_no_file(tmp_path: Path) -> None:
    connector = tail(tmp_path, poll="10s")
    reads = connector.read(Split("none.log"), None)
    begin = time.monotonic()
    assert [next(reads), next(reads)] == [Idle(), Idle()]
    assert time.monotonic() - begin < 2


# -- which files ------------------------------------------------------------------------------------------------------


def test_rotated_names_are_never_splits_even_while_the_live_name_is_away(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    live = ["a.log", "c.log", "d/e.log", "log-7.log"]
    for name in (*live, "a.log.1", "a.log.2.gz", "a.log-20260101", "b.log.1", "f.txt"):
        (tmp_path / name).touch()
    assert [split.id for split in tail(tmp_path, glob="**/*.log*").splits()] == live
    by_stem = tail(tmp_path, rotated=["{stem}-[0-9]*{ext}"])
    assert [split.id for split in by_stem.splits()] == ["a.log", "c.log", "d/e.log"]
    split = next(iter(tail(tmp_path).splits()))
    assert split.pin is None and split.bounded is None and not Tail.bounded


def test_a_single_file_can_be_the_root(tmp_path: Path, log: Log) -> None:
    log.write(b"one\n")
    log.rename()
    log.write(b"two\n")
    connector = tail(tmp_path / "app.log")
    assert [split.id for split in connector.splits()] == ["app.log"]
    assert only_lines(read_some(connector)) == [b"two"]


def test_what_is_no_regular_file_inside_the_root_is_no_split(tmp_path: Path, log: Log) -> None:
    os.mkfifo(tmp_path / "pipe.log")
    (tmp_path / "link.log").symlink_to("app.log")
    log.write(b"x\n")
    assert [split.id for split in tail(tmp_path).splits()] == ["app.log"]
    following = tail(tmp_path, follow_symlinks=True)
    assert [split.id for split in following.splits()] == ["app.log", "link.log"]
    assert only_lines(read_some(following, id="link.log")) == [b"x"]
    for id in ("../x.log", "/etc/passwd", "a//b"):
        with pytest.raises(ConfigError):
            read_some(tail(tmp_path), id=id)


@pytest.mark.parametrize(
    "config",
    [{"rotated": "*.1"}, {"rotated": "{name}"}, {"start": "2026-01-01T00:00:00Z"}, {"root": "s3://x"}, {"poll": "5"}],
)
def test_settings_that_cannot_be_meant_are_refused(tmp_path: Path, config: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        Tail.Config(**{"root": str(tmp_path), **config})


def test_a_root_that_is_not_there_is_a_wrong_setting(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        tail(tmp_path / "none").probe()
    with pytest.raises(ConfigError):
        list(tail(tmp_path / "none").splits())


def test_names_of_rotated_files() -> None:
    rotation = Rotation(["{name}.[0-9]*", "{name}-[0-9]*", "{stem}-[0-9]*{ext}"])
    for name in ("a.log.1", "a.log.10.gz", "a.log-20260101", "a.log.2026-01-01T00:00:00", "a-2026.log"):
        assert rotation.belongs(name, "a.log") and "a.log" in rotation.live_names(name)
    for name in ("a.log", "a.log.bak", "b.log.1", "a.logs.1", "a.log.", "ba.log.1", "a.log.swp"):
        assert not rotation.belongs(name, "a.log")


# -- start, end, lag --------------------------------------------------------------------------------------------------


def test_latest_begins_behind_the_last_line_and_new_files_at_their_first(tmp_path: Path, log: Log) -> None:
    connector = tail(tmp_path, start="latest")
    log.write(b"old\nunfinis")
    assert [split.id for split in connector.splits()] == ["app.log"]
    start = connector.start_of(Split("app.log"))
    log.write(b"hed\n")
    (tmp_path / "new.log").write_bytes(b"first\n")
    assert len(list(connector.splits())) == 2
    assert only_lines(read_some(connector, start)) == [b"unfinished"]
    late = connector.start_of(Split("new.log"))
    assert only_lines(read_some(connector, late, "new.log")) == [b"first"]


def test_the_end_is_the_position_of_the_last_whole_line(tmp_path: Path, log: Log) -> None:
    connector = tail(tmp_path)
    assert connector.end_of(Split("app.log")) is None
    assert connector.end_of(Split("none.log")) is None
    log.write(b"old\n")
    log.rename()
    for size in (3, 5000, 400_000):
        log.write(b"x" * size + b"\n" + b"y\nrest")
        reads = read_some(connector)
        assert position_json(connector.end_of(Split("app.log"))) == position_json(reads[-1].position)  # type: ignore[union-attr]
        assert position_json(tail(tmp_path).end_of(Split("app.log"))) == position_json(reads[-1].position)  # type: ignore[union-attr]
        log.write(b"\n")
    after = read_some(connector)[-1].position  # type: ignore[union-attr]
    log.rename()
    log.write(b"later\nlatest\n")
    rest = read_some(connector, after)
    assert connector.end_of(Split("app.log")) == rest[-1].position  # type: ignore[union-attr]
    assert tail(tmp_path).end_of(Split("app.log"), rest[0].position) == rest[-1].position  # type: ignore[union-attr]


def test_lag_counts_bytes_over_all_files(tmp_path: Path, log: Log) -> None:
    connector = tail(tmp_path)
    log.write(b"one\ntwo\n")
    assert connector.lag(Split("app.log"), None).bytes == 8  # type: ignore[union-attr]
    first = read_some(connector, most=1)[0].position  # type: ignore[union-attr]
    assert connector.lag(Split("app.log"), first).bytes == 4  # type: ignore[union-attr]
    log.rename()
    log.write(b"three\n")
    log.rename()
    log.write(b"four\n")
    assert connector.lag(Split("app.log"), first).bytes == 4 + 6 + 5  # type: ignore[union-attr]
    last = read_some(connector, first)[-1].position  # type: ignore[union-attr]
    assert connector.lag(Split("app.log"), last).bytes == 0  # type: ignore[union-attr]


def test_closing_ends_a_read(tmp_path: Path, log: Log) -> None:
    connector = tail(tmp_path, poll="10s")
    reader = threading.Thread(target=lambda: list(connector.read(Split("app.log"), None)))
    reader.start()
    time.sleep(0.2)
    connector.close()
    reader.join(5)
    assert not reader.is_alive()


# -- conformance ------------------------------------------------------------------------------------------------------


class TestTail(ConnectorKit):
    root: Path

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def folder(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
        cls.root = tmp_path_factory.mktemp("tail")
        log = Log(cls.root / "app.log")
        log.write(b"old\n")
        log.rename()
        for number in range(70):
            log.write(b"line %d " % number + b"x" * (number * 3) + b"\n")
        log.write(b"z" * 3000 + b"\nlast\nunfinished")
        (cls.root / "other.log").write_bytes(b"a\nb\n")
        (cls.root / "empty.log").touch()
        yield

    def make(self) -> Connector:
        return tail(self.root, max_line_bytes=2000)


# -- the page ---------------------------------------------------------------------------------------------------------


def test_the_page_names_every_setting() -> None:
    page = (Path(__file__).parents[2] / "docs" / "connectors" / "tail.md").read_text(encoding="utf-8")
    rows = {line.split("|")[1].strip(" `") for line in page.splitlines() if line.startswith("| `")}
    assert set(Tail.Config.model_fields) <= rows
