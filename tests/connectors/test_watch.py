"""Watched folders, prefixes and URLs: only whole files are listed, each once, and listing again is cheap."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.connectors import watch_wakeup
from headrace.connectors.contract import Connector, Item, Split
from headrace.connectors.files import Files
from headrace.connectors.testing import ConnectorKit
from headrace.connectors.watch_config import WatchConfig, seconds
from headrace.schemas.errors import ConfigError, SourceChanged, SourceError

from .watching import RENAME, Clock, listed, watched

# -- settled ----------------------------------------------------------------------------------------------------------


def test_a_file_is_listed_once_it_stayed_the_same_for_the_time(tmp_path: Path) -> None:
    clock = Clock()
    connector = watched(tmp_path, clock)
    assert listed(connector) == []
    (tmp_path / "a.txt").write_text("one")
    assert listed(connector) == []
    clock.now += 4.9
    assert listed(connector) == []
    clock.now += 0.2
    assert listed(connector) == ["a.txt"]
    assert listed(connector) == ["a.txt"]


def test_a_file_that_grows_or_is_touched_waits_anew(tmp_path: Path) -> None:
    clock = Clock()
    connector = watched(tmp_path, clock, watch={"settled": "10s"})
    path = tmp_path / "a.txt"
    for size in range(1, 5):
        path.write_text("x" * size)
        assert listed(connector) == []
        clock.now += 9
    os.utime(path, ns=(1, 1))  # an old time of change is not believed to mean old
    assert listed(connector) == []
    clock.now += 9
    assert listed(connector) == []
    clock.now += 2
    assert listed(connector) == ["a.txt"]


def test_one_listing_alone_never_shows_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("old, but who knows")
    os.utime(tmp_path / "a.txt", (0, 0))
    assert listed(watched(tmp_path)) == []


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["grow", "list", "wait"]), st.floats(0.1, 9)), max_size=25))
def test_a_settling_file_agrees_with_the_rule_said_plainly(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, float]]
) -> None:
    folder, clock = tmp_path_factory.mktemp("settle"), Clock()
    connector, path = watched(folder, clock), folder / "a"
    path.write_bytes(b"")
    size, first_seen, whole = 0, None, False
    for step, seconds_ in steps:
        if step == "grow":
            size += 1
            path.write_bytes(b"x" * size)
            first_seen = None
        elif step == "wait":
            clock.now += seconds_
        else:
            # What was found whole is not looked at again before the next full pass.
            whole = whole or (first_seen is not None and clock.now - first_seen >= 5)
            first_seen = clock.now if first_seen is None else first_seen
            assert listed(connector) == (["a"] if whole else [])


def test_a_build_lists_what_is_there(tmp_path: Path) -> None:
    for name in ("a.txt", ".b", "_c", "d.tmp"):
        (tmp_path / name).write_text("x")
    assert listed(Files(Files.Config(root=str(tmp_path)))) == [".b", "_c", "a.txt", "d.tmp"]


# -- names ------------------------------------------------------------------------------------------------------------


def test_names_in_progress_are_passed_over_and_a_renamed_file_is_there_at_once(tmp_path: Path) -> None:
    connector = watched(tmp_path, **RENAME)
    (tmp_path / "_temporary").mkdir()
    names = (".a", "_b", "c.tmp", "d.part", "e.partial", "f.crdownload", "g~", "_temporary/h.txt")
    for name in names:
        (tmp_path / name).write_text("x")
    assert listed(connector) == []
    (tmp_path / "c.tmp").rename(tmp_path / "c.txt")
    (tmp_path / "_temporary/h.txt").rename(tmp_path / "h.txt")
    assert listed(connector) == ["c.txt", "h.txt"]


def test_the_names_in_progress_can_be_chosen(tmp_path: Path) -> None:
    for name in (".a", "b.uploading", "c"):
        (tmp_path / name).write_text("x")
    assert listed(watched(tmp_path, watch={"rename": True, "in_progress": "*.uploading"})) == [".a", "c"]
    assert listed(watched(tmp_path, watch={"rename": True, "in_progress": []})) == [".a", "b.uploading", "c"]


@pytest.mark.parametrize(
    ("template", "marker"), [("{name}.done", "d/a.tif.done"), ("{stem}.ok", "d/a.ok"), ("_SUCCESS", "d/_SUCCESS")]
)
def test_a_marker_says_that_a_file_is_whole_and_is_never_data(tmp_path: Path, template: str, marker: str) -> None:
    connector = watched(tmp_path, watch={"marker": template}, glob="**/*.tif*")
    (tmp_path / "d").mkdir()
    (tmp_path / "d/a.tif").write_text("x")
    (tmp_path / "b.tif").write_text("x")
    assert listed(connector) == []
    (tmp_path / marker).write_text("")
    assert listed(connector) == ["d/a.tif"]
    build = Files(Files.Config(root=str(tmp_path), watch={"marker": template}))
    assert listed(build) == ["b.tif", "d/a.tif"]


@pytest.mark.parametrize(
    "watch",
    [
        {"settled": "5s", "marker": "{name}.done"},
        {"rename": True, "settled": "1s"},
        {"marker": "{name}"},
        {"marker": "done/{name}"},
        {"marker": "{nam}.done"},
        {"settled": "5"},
        {"settled": 5},
        {"in_progress": ["a/*"]},
        {"ordered_names": True},
        {"polling": True},
    ],
)
def test_settings_that_cannot_be_meant_are_refused(tmp_path: Path, watch: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        Files.Config(root=str(tmp_path), watch=watch)


def test_durations_have_units() -> None:
    assert [seconds(text) for text in ("200ms", "5s", "1.5m", "2h")] == [0.2, 5, 90, 7200]
    assert WatchConfig().rule("s3://bucket/x") == WatchConfig().rule("gs://bucket") == "rename"
    assert WatchConfig().rule("data") == WatchConfig().rule("sftp://host/x") == WatchConfig().rule("file:///x")


# -- groups -----------------------------------------------------------------------------------------------------------


def test_a_group_waits_for_its_slowest_file(tmp_path: Path) -> None:
    clock = Clock()
    connector = watched(tmp_path, clock, group="safe")
    (tmp_path / "S2A.SAFE").mkdir()
    for band in ("b02", "b03"):
        (tmp_path / f"S2A.SAFE/{band}").write_text("x")
    assert listed(connector) == []
    clock.now += 4
    (tmp_path / "S2A.SAFE/b04").write_text("x")
    assert listed(connector) == []
    clock.now += 4
    assert listed(connector) == []
    clock.now += 4
    assert listed(connector) == ["S2A.SAFE"]


def test_one_marker_closes_a_group(tmp_path: Path) -> None:
    connector = watched(tmp_path, group="stem", watch={"marker": "{name}.done"})
    for name in ("clip.mp4", "clip.srt", "two.mp4", "two.srt", "alone.mp4"):
        (tmp_path / name).write_text("x")
    (tmp_path / "clip.done").write_text("")
    (tmp_path / "two.mp4.done").write_text("")
    assert listed(connector) == ["clip.*"]
    (tmp_path / "two.srt.done").write_text("")
    (tmp_path / "alone.mp4.done").write_text("")
    assert listed(connector) == ["alone.mp4", "clip.*", "two.*"]


@pytest.mark.parametrize("watch", [None, {"rename": True}, {"marker": "{name}.done"}])
def test_a_group_is_read_by_a_process_that_never_listed(tmp_path: Path, watch: dict[str, Any] | None) -> None:
    clock = Clock()
    connector = watched(tmp_path, clock, group="stem", watch=watch)
    for name in ("clip.mp4", "clip.srt", "clip.mp4.part", "clip.done"):
        (tmp_path / name).write_text("x")
    if watch is None:
        (tmp_path / "clip.done").unlink()
        listed(connector)
        clock.now += 6
    (split,) = [split for split in connector.splits() if split.id == "clip.*"]
    reader = Files(Files.Config(root=str(tmp_path), group="stem", watch=watch))
    (item,) = reader.read(split, None)
    assert isinstance(item, Item) and isinstance(item.data, list)
    expected = ["clip.mp4", "clip.srt"] if watch != {"rename": True} else ["clip.done", "clip.mp4", "clip.srt"]
    assert [blob.id for blob in item.data] == expected


def test_an_item_document_and_its_assets_make_one_split_and_are_read_once(tmp_path: Path) -> None:
    clock = Clock()
    connector = watched(tmp_path, clock, group="stac")
    document = {"type": "Feature", "stac_version": "1.0.0", "assets": {"b": {"href": "./b.tif"}}}
    (tmp_path / "item.json").write_text(json.dumps(document))
    (tmp_path / "b.tif").write_text("x")
    (tmp_path / "other.json").write_text("{}")
    listed(connector)
    clock.now += 6
    opened: list[str] = []
    store = connector._store
    original = store.open
    store.open = lambda id, *rest: opened.append(id) or original(id, *rest)  # type: ignore[method-assign, func-returns-value]
    assert listed(connector) == ["item.json", "other.json"]
    assert listed(connector) == ["item.json", "other.json"]
    assert opened == []  # both documents had been read by the first listing


# -- what happens afterwards ------------------------------------------------------------------------------------------


def test_a_file_that_grew_over_the_dividing_size_is_still_the_same_object(tmp_path: Path) -> None:
    connector = watched(tmp_path, **RENAME, divide_bytes=1024)
    line = b'{"text": "x"}\n'
    (tmp_path / "a.jsonl").write_bytes(line * 70)
    (small,) = connector.splits()
    (tmp_path / "a.jsonl").write_bytes(line * 200)
    anew = watched(tmp_path, **RENAME, divide_bytes=1024)
    parts = list(anew.splits())
    assert len(parts) > 1 and {connector.object_of(part) for part in parts} == {connector.object_of(small)}
    with pytest.raises(SourceChanged):
        list(connector.read(small, None))


def test_a_file_that_vanished_before_it_was_read_says_so(tmp_path: Path) -> None:
    connector = watched(tmp_path, **RENAME)
    (tmp_path / "a.txt").write_text("x")
    (split,) = connector.splits()
    (tmp_path / "a.txt").unlink()
    assert listed(connector) == []
    with pytest.raises(SourceChanged, match="missing"):
        list(connector.read(split, None))


def test_a_rewritten_file_shows_its_new_pin_at_the_next_full_pass(tmp_path: Path) -> None:
    clock = Clock()
    connector = watched(tmp_path, clock, watch={"rename": True, "recheck": "1m"})
    (tmp_path / "a.txt").write_text("x")
    (first,) = connector.splits()
    (tmp_path / "a.txt").write_text("longer")
    (second,) = connector.splits()
    assert second.pin == first.pin
    clock.now += 61
    (third,) = connector.splits()
    assert third.pin != first.pin and third.id == first.id


def test_a_folder_that_goes_away_is_an_error_that_may_pass(tmp_path: Path) -> None:
    folder = tmp_path / "mount"
    with pytest.raises(ConfigError):
        listed(watched(folder))
    folder.mkdir()
    connector = watched(folder, **RENAME)
    assert listed(connector) == []
    folder.rmdir()
    with pytest.raises(SourceError):
        listed(connector)
    folder.mkdir()
    (folder / "a").write_text("x")
    assert listed(connector) == ["a"]


def test_names_links_and_folders_are_told_as_a_build_tells_them(tmp_path: Path) -> None:
    (tmp_path / "d/e").mkdir(parents=True)
    for name in ("a#part=1/2".replace("/", "-"), "d/e/b", "x#bytes=0-5", "new\nline"):
        (tmp_path / name).write_text("x")
    (tmp_path / "link").symlink_to("d")
    (tmp_path / "out").symlink_to("/etc")
    (tmp_path / "dangling").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    for follow in (False, True):
        build = Files(Files.Config(root=str(tmp_path), follow_symlinks=follow))
        connector = watched(tmp_path, follow_symlinks=follow, **RENAME)
        want = list(build.splits())
        assert list(connector.splits()) == want  # a full pass
        assert list(connector.splits()) == want  # from memory
        (tmp_path / "d/late").write_text(str(follow))
        assert list(connector.splits()) == list(build.splits())
        (tmp_path / "d/late").unlink()


def test_a_file_that_changes_while_it_is_listed_waits_for_the_next_listing(tmp_path: Path) -> None:
    connector = watched(tmp_path, **RENAME, select="text")
    (tmp_path / "a.txt").write_text("hello")
    (tmp_path / "b.txt").write_text("hello")
    store = connector._store
    original = store.open

    def open_(id: str, *rest: Any) -> Any:
        if id == "a.txt" and (tmp_path / "a.txt").read_text() == "hello":
            (tmp_path / "a.txt").write_text("hello again")
        return original(id, *rest)

    store.open = open_  # type: ignore[method-assign]
    assert listed(connector) == ["b.txt"]


# -- cost -------------------------------------------------------------------------------------------------------------


def test_listing_again_looks_only_at_what_is_new(tmp_path: Path) -> None:
    for number in range(300):
        (tmp_path / f"{number:04}.txt").write_text("text")
    connector = watched(tmp_path, **RENAME, select="text")
    assert len(listed(connector)) == 300
    looked: list[str] = []
    store = connector._store
    for name in ("entry", "open"):
        original = getattr(store, name)
        setattr(store, name, lambda id, *rest, original=original: looked.append(id) or original(id, *rest))
    assert len(listed(connector)) == 300
    assert looked == []
    (tmp_path / "9999.txt").write_text("text")
    assert len(listed(connector)) == 301
    assert set(looked) == {"9999.txt"}


# -- waking up --------------------------------------------------------------------------------------------------------


def test_a_change_wakes_and_silence_does_not(tmp_path: Path) -> None:
    pytest.importorskip("watchfiles", reason="the package watchfiles wakes a service up")
    connector = watched(tmp_path, **RENAME)
    try:
        assert not connector.wait_for_change(0.3)
        timer = threading.Timer(0.3, (tmp_path / "a.txt").write_text, ("x",))
        begin = time.monotonic()
        timer.start()
        assert connector.wait_for_change(20)
        assert time.monotonic() - begin < 10
        (tmp_path / "folder").mkdir()
        assert connector.wait_for_change(20)
        (tmp_path / "folder/b.txt").write_text("x")
        assert connector.wait_for_change(20)
        assert listed(connector) == ["a.txt", "folder/b.txt"]
    finally:
        connector.close()


def test_closing_ends_a_wait_and_leaves_no_thread(tmp_path: Path) -> None:
    threads = threading.active_count()
    connector = watched(tmp_path, **RENAME)
    answers: list[bool] = []
    waiter = threading.Thread(target=lambda: answers.append(connector.wait_for_change(60)))
    waiter.start()
    time.sleep(0.5)
    connector.close()
    waiter.join(10)
    assert answers == [False]
    assert threading.active_count() == threads


def test_a_wait_ends_when_the_first_file_is_due(tmp_path: Path) -> None:
    connector = Files(Files.Config(root=str(tmp_path), watch={"settled": "700ms"}))
    connector.watch()
    (tmp_path / "a.txt").write_text("x")
    try:
        begin = time.monotonic()
        while not listed(connector):
            connector.wait_for_change(30)
        assert 0.6 < time.monotonic() - begin < 10
    finally:
        connector.close()


def test_without_the_library_or_on_a_network_file_system_only_time_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = watch_wakeup.file_system_of(str(tmp_path))
    assert kind
    monkeypatch.setattr(watch_wakeup, "_NETWORK", frozenset([kind]))
    connector = watched(tmp_path, **RENAME)
    connector_2 = watched(tmp_path, **RENAME)
    (tmp_path / "a").write_text("x")
    assert not connector.wait_for_change(0.2)
    monkeypatch.setattr(watch_wakeup, "_NETWORK", frozenset())
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    assert not connector_2.wait_for_change(0.2)
    connector.close()
    connector_2.close()


# -- conformance ------------------------------------------------------------------------------------------------------


class TestWatchedFolder(ConnectorKit):
    root: Path

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def folder(cls, tmp_path_factory: pytest.TempPathFactory) -> None:
        cls.root = tmp_path_factory.mktemp("watched")
        (cls.root / "a.jsonl").write_bytes(b'{"text": "word"}\n' * 5000)
        (cls.root / "b.bin").write_bytes(b"\0\1")
        (cls.root / "c.jsonl.tmp").write_bytes(b"half")

    def make(self) -> Connector:
        return watched(self.root, **RENAME)


def test_splits_are_those_of_a_build(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "word"}\n' * 5000)
    config = Files.Config(root=str(tmp_path), divide_bytes=20_000)
    build, service = Files(config), Files(Files.Config(root=str(tmp_path), divide_bytes=20_000, **RENAME))
    service.watch()
    want: list[Split] = list(build.splits())
    assert list(service.splits()) == want


# -- the page ---------------------------------------------------------------------------------------------------------


def test_the_page_names_every_setting() -> None:
    page = (Path(__file__).parents[2] / "docs" / "connectors" / "watch.md").read_text(encoding="utf-8")
    rows = {line.split("|")[1].strip(" `") for line in page.splitlines() if line.startswith("| `")}
    assert set(WatchConfig.model_fields) <= rows
