"""`put_new` on a POSIX file system: one winner, whole content, clear errors, nothing lost to a full disk."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from headrace.schemas.errors import ConfigError, NotExclusive, StorageError
from headrace.shards import race, store_local
from headrace.shards.dataset import Dataset
from headrace.shards.log import CommitLog
from headrace.shards.race import exclusive_race
from headrace.shards.store import Missing, check_name, open_store
from headrace.shards.store_local import LocalStore
from headrace.shards.testing import LaneDouble, MemoryStore
from headrace.shards.verify import verify


def test_a_name_is_created_once_and_keeps_its_first_content(store: LocalStore) -> None:
    assert store.put_new("log/1.json", b"first")
    assert not store.put_new("log/1.json", b"second")
    assert store.get("log/1.json") == b"first"
    assert store.size("log/1.json") == 5
    assert store.get_range("log/1.json", 1, 3) == b"irs"
    assert os.listdir(os.path.join(store.root, "log")) == ["1.json"]


def test_of_many_threads_one_wins_each_name(store: LocalStore) -> None:
    wins: list[tuple[int, int]] = []

    def run(me: int) -> None:
        for n in range(40):
            if store.put_new(f"x/{n}", f"{me}".encode() * 1000):
                wins.append((n, me))

    threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(n for n, _ in wins) == list(range(40))
    assert all(store.get(f"x/{n}") == f"{me}".encode() * 1000 for n, me in wins)


def test_racing_processes_find_a_local_folder_exclusive(store: LocalStore) -> None:
    result = exclusive_race(store, processes=3, names=20)
    assert (result.processes, result.names) == (3, 20)
    assert list(store.list()) == []


def test_a_race_with_two_winners_or_a_changed_content_is_told() -> None:
    memory = MemoryStore()
    memory.put_new("d/0", race._content(1, 0))
    race._judge(memory, "d", [[], [0]], 1)
    with pytest.raises(NotExclusive, match="2 of 2 racing processes"):
        race._judge(memory, "d", [[0], [0]], 1)
    with pytest.raises(NotExclusive, match="0 of 2"):
        race._judge(memory, "d", [[], []], 1)
    with pytest.raises(NotExclusive, match="overwritten"):
        race._judge(memory, "d", [[0], []], 1)


def test_a_link_whose_reply_was_lost_counts_as_created(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.link

    def link(source: str, target: str) -> None:
        real(source, target)
        raise FileExistsError(errno.EEXIST, "the server had done it already", target)

    monkeypatch.setattr(store_local.os, "link", link)
    assert store.put_new("a", b"1")


def test_data_are_durable_before_their_name_and_the_name_before_the_answer(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put_new("log/0", b"makes the folder")
    calls: list[str] = []

    def watch(name: str) -> None:
        real = getattr(os, name)

        def call(*arguments: object) -> object:
            on_folder = name == "fsync" and os.path.isdir(f"/proc/self/fd/{arguments[0]}")
            calls.append(f"{name} folder" if on_folder else name)
            return real(*arguments)

        monkeypatch.setattr(store_local.os, name, call)

    for name in ("write", "fsync", "link", "unlink"):
        watch(name)
    assert store.put_new("log/1", b"data")
    assert calls == ["write", "fsync", "link", "unlink", "fsync folder"]
    calls.clear()
    assert store.put_new("new/folder/1", b"data")
    assert calls == ["fsync folder", "fsync folder", "write", "fsync", "link", "unlink", "fsync folder"]


def test_a_file_system_without_hard_links_is_refused_by_name(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(source: str, target: str) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted", target)

    monkeypatch.setattr(store_local.os, "link", link)
    with pytest.raises(NotExclusive, match="refuses hard links"):
        store.put_new("a", b"1")
    assert list(store.leftovers()) == []


def test_a_writer_publishes_on_close_and_leaves_nothing_on_abort(store: LocalStore) -> None:
    with store.writer("data/x") as writer:
        writer.write(b"ab")
        assert writer.tell() == 2 and not store.exists("data/x")
        assert list(store.list()) == [] and [name for name, _ in store.leftovers()] == ["data/x"]
    assert store.get("data/x") == b"ab"
    with pytest.raises(RuntimeError, match="stop"), store.writer("data/y") as writer:
        writer.write(b"cd")
        raise RuntimeError("stop")
    assert list(store.list()) == ["data/x"] and list(store.leftovers()) == []


def test_a_second_writer_of_a_name_is_told_that_it_existed(store: LocalStore) -> None:
    one, two = store.writer("data/x"), store.writer("data/x")
    one.write(b"1")
    two.write(b"2")
    assert two.close() and not one.close()
    assert store.get("data/x") == b"2"


def test_missing_objects_and_short_ranges_are_errors_with_names(store: LocalStore) -> None:
    for read in (store.get, store.size, lambda n: store.get_range(n, 0, 1)):
        with pytest.raises(Missing, match=r"none\.json: it does not exist"):
            read("log/none.json")
    assert not store.exists("log/none.json")
    store.delete("log/none.json")
    store.put_new("a", b"12345")
    with pytest.raises(StorageError, match="ends 2 bytes before byte 7"):
        store.get_range("a", 3, 4)
    with pytest.raises(Missing, match="no dataset folder"):
        open_store(os.path.join(store.root, "nowhere"))


def test_a_file_where_a_folder_should_be_is_told(store: LocalStore) -> None:
    store.put_new("data", b"a file")
    with pytest.raises(StorageError, match=r"a file, not a folder|a file of that name exists"):
        store.put_new("data/x", b"1")


@pytest.mark.parametrize(
    "name", ["", "/a", "../a", "a/../b", "a//b", "a/", "./a", "a\\b", "a b", "a\n", "é", "x" * 901]
)
def test_names_that_leave_the_folder_or_differ_between_stores_are_refused(store: LocalStore, name: str) -> None:
    with pytest.raises(StorageError, match="cannot name an object"):
        check_name(name)
    with pytest.raises(StorageError):
        store.get(name)


def test_a_url_that_headrace_does_not_write_to_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"not to gs://"):
        open_store("gs://bucket/x")
    with pytest.raises(ConfigError, match="takes no options"):
        open_store("/tmp", {"anon": True})


@pytest.mark.parametrize(
    ("code", "words"),
    [(errno.ENOSPC, "no space left"), (errno.EDQUOT, "quota"), (errno.EROFS, "read-only"), (errno.EIO, "input/output")],
)
@pytest.mark.parametrize("step", ["open", "write", "fsync", "link"])
def test_an_error_at_any_step_is_told_and_leaves_no_object(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, step: str, code: int, words: str
) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(code, os.strerror(code), "x")

    with monkeypatch.context() as patch:
        patch.setattr(store_local.os, step, fail)
        with pytest.raises(StorageError, match=words):
            store.put_new("log/1.json", b"data")
    assert list(store.list()) == [] and list(store.leftovers()) == []
    assert store.put_new("log/1.json", b"data")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], str]]:
    """small_disk(n): a file system of n kibibytes; called again it grows. Skips where one may not mount."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(kibibytes: int) -> str:
        again = ",remount" if os.path.ismount(place) else ""
        command = ["mount", "-t", "tmpfs", "-o", f"size={kibibytes}k{again}", "tmpfs", str(place)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"no right to mount a small disk: {done.stderr.strip()}")
        return str(place)

    yield mount
    if os.path.ismount(place):
        subprocess.run(["umount", str(place)], check=True)


def fill(store: LocalStore, log: CommitLog, items: int) -> None:
    lane = LaneDouble(store, log, "tide", length=400)
    while (lane.place.position if lane.place else 0) < items:
        log.append(lane.cut(20))


def test_a_full_disk_is_told_and_after_space_returned_a_rerun_completes(
    small_disk: Callable[[int], str], claimed: Callable[..., CommitLog]
) -> None:
    root = small_disk(96)
    store = LocalStore(root + "/dataset", create=True)
    log = claimed(store)
    with pytest.raises(StorageError, match="no space left on the device"):
        fill(store, log, 400)
    had = log.state.streams["tide"].samples
    assert 0 < had < 400 and verify(store).ok
    small_disk(4096)
    fill(store, claimed(store), 400)
    whole = MemoryStore()
    log = claimed(whole)
    lane = LaneDouble(whole, log, "tide", length=400)
    log.append(lane.cut(400))
    found = verify(store)
    assert found.ok and found.content_digest == verify(whole).content_digest and found.samples == 400


def test_a_read_only_file_system_is_told(small_disk: Callable[[int], str]) -> None:
    root = small_disk(96)
    store = LocalStore(root)
    subprocess.run(["mount", "-o", "remount,ro", root], check=True)
    with pytest.raises(StorageError, match="read-only"):
        store.put_new("a", b"1")
    with pytest.raises(StorageError, match="read-only"):
        LocalStore(root + "/dataset", create=True)


def test_a_file_size_limit_is_told(store: LocalStore) -> None:
    script = (
        "import resource, sys\n"
        "from headrace.shards.store_local import LocalStore\n"
        "from headrace.schemas.errors import StorageError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "store = LocalStore(sys.argv[1])\n"
        "try:\n    store.put_new('a', bytes(2000))\n"
        "except StorageError as exc:\n    print(exc, list(store.list()), list(store.leftovers()))\n"
    )
    done = subprocess.run([sys.executable, "-c", script, store.root], capture_output=True, text=True, check=True)
    assert "larger than this process or file system allows" in done.stdout and done.stdout.endswith("[] []\n")


def test_reading_opens_no_file_for_long(store: LocalStore) -> None:
    store.put_new("a", bytes(100))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        store.get("a")
        store.get_range("a", 0, 10)
        assert not store.put_new("a", b"")
    assert len(os.listdir("/proc/self/fd")) == before and (soft, hard) == resource.getrlimit(resource.RLIMIT_NOFILE)


def test_a_dataset_without_a_log_is_not_a_dataset(store: LocalStore) -> None:
    with pytest.raises(Missing, match="it has no log"):
        Dataset(store)
