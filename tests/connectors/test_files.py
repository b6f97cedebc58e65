"""The files connector on local folders: what is listed, what is opened, what is refused."""

from __future__ import annotations

import gzip
import os
import time
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from headrace.connectors.contract import Blob, Broken, Item, Split
from headrace.connectors.files import Files
from headrace.connectors.path_glob import PathGlob
from headrace.schemas.errors import ConfigError, SourceChanged
from headrace.schemas.pipeline import digest_of_field


def files(root: Path, **settings: Any) -> Files:
    return Files(Files.Config(root=str(root), **settings))


def ids(connector: Files) -> list[str]:
    return [split.id for split in connector.splits()]


def only(connector: Files, id: str | None = None) -> list[Any]:
    split = next(s for s in connector.splits() if id is None or s.id == id)
    return list(connector.read(split, None))


def test_splits_are_sorted_relative_and_include_hidden_and_empty_files(tmp_path: Path) -> None:
    for name in ("b.txt", "a/.hidden", "a/x.txt", "empty"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("" if name == "empty" else "text")
    assert ids(files(tmp_path)) == ["a/.hidden", "a/x.txt", "b.txt", "empty"]


def test_an_empty_file_is_told_as_empty(tmp_path: Path) -> None:
    (tmp_path / "a.csv").touch()
    (read,) = only(files(tmp_path))
    assert isinstance(read, Broken) and read.reason == "empty"


def test_globs_choose_and_leave_out(tmp_path: Path) -> None:
    for name in ("a.txt", "d/b.txt", "d/e/c.txt", "d/c.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    assert ids(files(tmp_path, glob="*.txt")) == ["a.txt"]
    assert ids(files(tmp_path, glob="**/*.txt")) == ["a.txt", "d/b.txt", "d/e/c.txt"]
    assert ids(files(tmp_path, glob=["d/*.txt", "*.txt"])) == ["a.txt", "d/b.txt"]
    assert ids(files(tmp_path, exclude="d/**")) == ["a.txt"]
    assert ids(files(tmp_path, glob="**/*.{csv,txt}", exclude="**/c.*")) == ["a.txt", "d/b.txt"]


@pytest.mark.parametrize(
    ("pattern", "id", "expected"),
    [
        ("**/*", "a", True), ("**/*", "a/b/c", True), ("*", "a/b", False), ("a?c", "abc", True), ("a?c", "a/c", False),
        ("[ab]x", "bx", True), ("[!ab]x", "bx", False), ("[!a]b", "/b", False), ("a/**", "a/b/c", True),
        ("a/**/b", "a/b", True), ("a/**/b", "a/x/y/b", True), ("a**", "ab/c", True), ("x.{a,b}", "x.b", True),
        ("x{", "x{", True), ("a+b", "a+b", True), ("*", ".hidden", True),
    ],
)  # fmt: skip
def test_globs_mean_what_they_say(pattern: str, id: str, expected: bool) -> None:
    assert PathGlob(pattern).matches(id) is expected


@pytest.mark.parametrize("pattern", ["", "/etc/*", "../*", "a/../b", "{a,{b}"])
def test_a_glob_that_cannot_be_meant_is_refused(pattern: str) -> None:
    with pytest.raises(ConfigError):
        PathGlob(pattern)


def test_a_single_file_may_be_the_root(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("hello")
    (read,) = only(files(tmp_path / "a.txt"))
    assert isinstance(read.data, Blob) and read.data.read() == b"hello" and read.headers["object"] == "a.txt"


def test_a_missing_root_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        list(files(tmp_path / "absent").splits())
    with pytest.raises(ConfigError):
        files(tmp_path / "absent").probe()


def test_the_description_names_no_host_path(tmp_path: Path) -> None:
    assert files(tmp_path).describe() == f"files {tmp_path.name}"
    remote = Files(Files.Config(root="https://user:secret@host/data", urls="a.txt?signature=secret"))
    assert remote.describe() == "files https://host/data/"


def test_a_blob_knows_its_local_path_and_opens_more_than_once(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"\0\1\2")
    (read,) = only(files(tmp_path))
    assert read.data.local_path() == str(tmp_path / "a.bin")
    with read.data.open() as one, read.data.open() as other:
        assert (one.read(1), other.read(), one.read()) == (b"\0", b"\0\1\2", b"\1\2")
    assert read.position == "end"
    assert list(files(tmp_path).read(Split("a.bin"), "end")) == []


# -- pins -------------------------------------------------------------------------------------------------------------


def test_a_file_that_changed_since_planning_is_refused_with_both_pins(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"a":1}\n')
    connector = files(tmp_path)
    (split,) = connector.splits()
    path.write_text('{"a":22}\n')
    (now,) = files(tmp_path).splits()
    with pytest.raises(SourceChanged) as raised:
        list(connector.read(split, None))
    assert str(split.pin) in str(raised.value) and str(now.pin) in str(raised.value)


def test_a_file_that_vanished_since_planning_is_a_changed_source(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("x")
    connector = files(tmp_path)
    (split,) = connector.splits()
    path.unlink()
    with pytest.raises(SourceChanged, match="missing"):
        list(connector.read(split, None))


def test_a_blob_opened_late_still_compares_its_pin(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one")
    (read,) = only(files(tmp_path))
    path.write_text("other")
    with pytest.raises(SourceChanged):
        read.data.open()


def test_a_file_rewritten_while_it_is_read_is_told_at_its_end(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"n":1}\n' * 400_000)
    connector = files(tmp_path)
    (split,) = connector.splits()
    reads = connector.read(split, None)
    next(reads)
    time.sleep(0.01)
    with open(path, "r+b") as stream:
        stream.write(b'{"n":2}\n')
    with pytest.raises(SourceChanged):
        list(reads)


# -- what is not opened -----------------------------------------------------------------------------------------------


def test_links_are_told_and_not_followed_unless_asked(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    (outside / "secret.txt").write_text("secret")
    (root / "a.txt").write_text("text")
    (root / "inner.txt").symlink_to("a.txt")
    (root / "outer.txt").symlink_to(outside / "secret.txt")
    (root / "folder").symlink_to(outside)
    (root / "dangling").symlink_to("nowhere")
    (root / "loop").symlink_to(".")
    for follow in (False, True):
        connector = files(root, follow_symlinks=follow)
        told = {split.id: next(iter(connector.read(split, None))) for split in connector.splits()}
        assert sorted(told) == ["a.txt", "dangling", "folder", "inner.txt", "loop", "outer.txt"]
        refused = {name for name, read in told.items() if isinstance(read, Broken)}
        assert refused == {"dangling", "folder", "loop", "outer.txt"} | (set() if follow else {"inner.txt"})
        outer = told["outer.txt"]
        assert isinstance(outer, Broken) and outer.reason == "external_reference" and outer.data is None


def test_linked_folders_inside_the_root_are_walked_once_when_asked(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.txt").write_text("x")
    (tmp_path / "real" / "up").symlink_to("..")
    (tmp_path / "alias").symlink_to("real")
    connector = files(tmp_path, follow_symlinks=True)
    assert ids(connector) == ["alias/a.txt", "alias/up", "real/a.txt", "real/up"]


@pytest.mark.parametrize("id", ["../outside.txt", "/etc/hostname", "a/../../outside.txt", "a//b", "./a"])
def test_an_id_that_leads_out_of_the_root_is_not_opened(tmp_path: Path, id: str) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "outside.txt").write_text("secret")
    with pytest.raises(ValueError, match="not a path inside the root"):
        list(files(tmp_path / "root").read(Split(id), None))


def test_a_link_that_takes_a_files_place_after_planning_is_not_followed(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret").write_text("secret")
    (root / "a.txt").write_text("text")
    connector = files(root)
    (split,) = connector.splits()
    (root / "a.txt").unlink()
    (root / "a.txt").symlink_to(tmp_path / "secret")
    with pytest.raises(SourceChanged):
        list(connector.read(split, None))


def test_a_pipe_is_told_and_never_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (read,) = only(files(tmp_path))
    assert isinstance(read, Broken) and read.reason == "unsupported"


def test_a_file_that_may_not_be_read_is_told_and_the_others_arrive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "b.txt").write_text("x")
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).endswith("a.txt") and real(path, mode))
    first, second = (next(iter(files(tmp_path).read(split, None))) for split in files(tmp_path).splits())
    assert isinstance(first, Broken) and first.reason == "io_error"
    assert isinstance(second, Item)


def test_folders_nested_deeper_than_calls_are_listed(tmp_path: Path) -> None:
    here, depth = os.getcwd(), 1200  # beyond Python's limit of calls, below the system's limit of path length
    try:
        os.chdir(tmp_path)
        for _ in range(depth):
            os.mkdir("d")
            os.chdir("d")
        Path("a.txt").write_text("x")
        (split,) = files(tmp_path).splits()
        assert split.id == "d/" * depth + "a.txt"
        os.unlink("a.txt")
        for _ in range(depth):  # pytest could not remove it: it recurses
            os.chdir("..")
            os.rmdir("d")
    finally:
        os.chdir(here)


def test_names_that_are_no_text_or_look_like_parts_have_ids_of_their_own(tmp_path: Path) -> None:
    names = [b"caf\xe9.txt", b"x.jsonl#bytes=0-5", b"%", b"new\nline", "naïve.txt".encode()]
    for name in names:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_bytes(name)
    (tmp_path / "%").unlink()
    (tmp_path / "%").mkdir()
    (tmp_path / "%" / "caf%E9.txt").write_bytes(b"other")
    connector = files(tmp_path)
    found = {split.id: only(connector, split.id)[0].data.read() for split in connector.splits()}
    assert len(found) == 5
    assert set(found.values()) == {*names, b"other"} - {b"%"}
    assert all(id.encode() and "\n" not in id for id in found)
    assert found["naïve.txt"] == "naïve.txt".encode()


# -- division ---------------------------------------------------------------------------------------------------------


def test_large_files_are_divided_by_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"a":1}\n' * 400)
    (tmp_path / "b.txt").write_bytes(b"prose\n" * 500)
    (tmp_path / "c.nc").write_bytes(b"CDF\1" + b"\0" * 3000)
    (tmp_path / "d.mp4").write_bytes(b"\0\0\0\x18ftypisom\0\0\0\0isommp42" + b"\0" * 2000)
    (tmp_path / "e.jsonl.gz").write_bytes(gzip.compress(os.urandom(3000), mtime=0))
    connector = files(tmp_path, divide_bytes=1024)
    assert ids(connector) == [
        "a.jsonl#bytes=0-1024", "a.jsonl#bytes=1024-2048", "a.jsonl#bytes=2048-3072", "a.jsonl#bytes=3072-3200",
        "b.txt", "c.nc#part=1/3", "c.nc#part=2/3", "c.nc#part=3/3", "d.mp4#part=1/2", "d.mp4#part=2/2", "e.jsonl.gz",
    ]  # fmt: skip
    (part,) = only(connector, "c.nc#part=2/3")
    assert part.headers["part"] == "2/3" and part.headers["object"] == "c.nc" and part.data.id == "c.nc"
    weights = [split.weight for split in connector.splits() if split.id.startswith("a.jsonl")]
    assert sum(weights) == 3200


# -- selection --------------------------------------------------------------------------------------------------------


@pytest.mark.data
def test_selections_together_hold_every_file_once(corpus: Path) -> None:
    some = ["{audio,text,video}/**", "raster/gdal_gtiff/*", "sensor/bad/**", "image/bad/**"]
    everything = set(ids(files(corpus, glob=some)))
    parts = {
        modality: ids(files(corpus, glob=some, select=modality))
        for modality in ("text", "image", "video", "audio", "sensor", "raster", "none")
    }
    # Containers with several modalities stand in several selections; the corpus has none.
    assert sum(map(len, parts.values())) == len(everything)
    assert set().union(*map(set, parts.values())) == everything
    assert "raster/gdal_gtiff/byte.tif.gz" in parts["raster"], "a compressed file counts as what is inside"
    assert "text/warc/example.warc.gz" in parts["text"]
    counted = files(corpus, glob=some).modalities()
    assert {m: n for m, (n, _) in counted.items()} == {m: len(found) for m, found in parts.items()}


# -- compressed files -------------------------------------------------------------------------------------------------


@pytest.mark.data
def test_a_compressed_file_is_given_as_what_is_inside(corpus: Path) -> None:
    (read,) = only(files(corpus / "raster/gdal_gtiff", glob="byte.tif.gz"))
    assert read.headers["format"] == "geotiff"
    with gzip.open(corpus / "raster/gdal_gtiff/byte.tif.gz") as stream:
        assert read.data.read() == stream.read()
    assert (read.data.id, read.headers["object"]) == ("byte.tif.gz/byte.tif", "byte.tif.gz")


def test_a_cut_compressed_file_gives_its_beginning_and_then_the_damage(tmp_path: Path) -> None:
    data = os.urandom(100_000)
    (tmp_path / "a.bin.gz").write_bytes(gzip.compress(data, mtime=0)[:60_000])
    connector = files(tmp_path)
    item, broken = only(connector)
    assert data.startswith(item.data.read()) and item.data.size > 50_000
    assert item.headers["truncated"] == "1"
    assert isinstance(broken, Broken) and broken.reason == "truncated" and broken.position == "end"
    (split,) = connector.splits()
    assert list(connector.read(split, item.position)) == [broken]


def test_a_large_decompressed_file_lies_in_a_temporary_file_that_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from headrace.connectors import blobs

    monkeypatch.setattr(blobs, "MEMORY_BYTES", 1000)
    (tmp_path / "a.bin.gz").write_bytes(gzip.compress(b"\0\1" * 5000, mtime=0))
    (read,) = only(files(tmp_path))
    path = read.data.local_path()
    assert Path(path).read_bytes() == b"\0\1" * 5000 == read.data.read()
    del read
    assert not Path(path).exists()


def test_an_object_over_its_limit_is_refused_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tempfile

    from headrace.connectors import blobs

    monkeypatch.setattr(blobs, "MEMORY_BYTES", 1000)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.bin.gz").write_bytes(gzip.compress(b"\0\1" * 500_000, mtime=0))
    (read,) = only(files(tmp_path / "data", max_object_bytes=2000))
    assert isinstance(read, Broken) and read.reason == "too_large"
    assert list((tmp_path / "temporary").iterdir()) == []


def test_a_container_in_a_compression_in_a_container_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "a.gz").write_bytes(gzip.compress(gzip.compress(b"hello"), mtime=0))
    (read,) = only(files(tmp_path))
    assert isinstance(read, Broken) and read.reason == "unsupported"


# -- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "hint"),
    [
        ({"root": "x", "globb": "*"}, "globb"),
        ({"root": "https://host/"}, "urls"),
        ({"root": "x", "urls": ["a"]}, "urls"),
        ({"root": "x", "select": "picture"}, "select"),
        ({"root": "x", "group": "folder"}, "group"),
        ({"root": "x", "endpoint_url": "http://localhost"}, "endpoint_url"),
        ({"root": "zip::s3://a/b"}, "chained"),
        ({"root": ""}, "root"),
        ({"root": "x", "divide_bytes": 10}, "divide_bytes"),
    ],
)
def test_wrong_settings_name_the_field(settings: dict[str, Any], hint: str) -> None:
    with pytest.raises(ValidationError, match=hint):
        Files.Config.model_validate(settings)


def test_every_setting_says_whether_it_shapes_bytes() -> None:
    for name, info in Files.Config.model_fields.items():
        assert isinstance(info.json_schema_extra, dict), name
        assert digest_of_field(info) in ("bytes", "run")
        assert info.description, name


def test_credentials_do_not_show() -> None:
    config = Files.Config(root="s3://b/p", storage_options={"secret": "canary"})
    assert "canary" not in repr(config)


def test_items_carry_no_truncated_header_when_all_is_well(tmp_path: Path) -> None:
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"hello", mtime=0))
    (read,) = only(files(tmp_path))
    assert isinstance(read, Item) and "truncated" not in read.headers


def test_the_page_names_every_setting_with_its_default() -> None:
    page = (Path(__file__).parents[2] / "docs" / "connectors-files.md").read_text(encoding="utf-8")
    rows = {line.split("|")[1].strip(" `"): line for line in page.splitlines() if line.startswith("| `")}
    for name in Files.Config.model_fields:
        assert name in rows, name
