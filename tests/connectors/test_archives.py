"""tar and zip: every member in order, none extracted, none followed, damage told where it is."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.connectors.byte_source import ByteSource
from headrace.connectors.containers import Bounds, tar_parts
from headrace.connectors.contract import Blob, Broken, Item
from headrace.connectors.expand import Budget
from headrace.connectors.files import Files
from headrace.connectors.tar_reader import TarMember, tar_members


def connector_on(path: Path, **settings: Any) -> Files:
    return Files(Files.Config(root=str(path), **settings))


def reads_of(path: Path, **settings: Any) -> list[Any]:
    connector = connector_on(path, **settings)
    (split,) = connector.splits()
    return list(connector.read(split, None))


def told(reads: list[Any]) -> list[tuple[str, Any]]:
    """(object or reason, bytes or lines) of each read."""
    out: list[tuple[str, Any]] = []
    for read in reads:
        if isinstance(read, Broken):
            out.append((read.reason, None))
        elif isinstance(read.data, Blob):
            out.append((read.headers["object"], read.data.read()))
        elif isinstance(read.data, list):
            out.append((read.headers["object"], [(blob.id, blob.read()) for blob in read.data]))
        else:
            out.append((read.headers["object"], read.data.column("line").to_pylist()))
    return out


def make_tar(members: dict[str, bytes], mode: str = "w", format: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode, format=format) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def make_zip(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


MEMBERS = {
    "notes/one.txt": b"first",
    "notes/two.txt.gz": gzip.compress(b"second", mtime=0),
    "rows.jsonl": b'{"a":1}\n{"a":2}\n',
    "rows2.jsonl.gz": gzip.compress(b'{"a":3}\n', mtime=0),
    "big.bin": bytes(range(256)) * 2000,
}
EXPECTED = [
    ("a/notes/one.txt", b"first"),
    ("a/notes/two.txt.gz", b"second"),
    ("a/rows.jsonl", [b'{"a":1}', b'{"a":2}']),
    ("a/rows2.jsonl.gz", [b'{"a":3}']),
    ("a/big.bin", MEMBERS["big.bin"]),
]


@pytest.mark.parametrize(
    "pack",
    [
        make_tar,
        lambda m: make_tar(m, format=tarfile.GNU_FORMAT),
        lambda m: make_tar(m, format=tarfile.USTAR_FORMAT),
        lambda m: make_tar(m, mode="w:gz"),
        lambda m: make_tar(m, mode="w:xz"),
        lambda m: make_tar(m, mode="w:bz2"),
        make_zip,
        lambda m: make_zip(m, zipfile.ZIP_STORED),
        lambda m: make_zip(m, zipfile.ZIP_LZMA),
        lambda m: make_zip(m, zipfile.ZIP_BZIP2),
    ],
)
def test_members_come_in_order_with_one_level_of_compression_undone(
    tmp_path: Path, pack: Callable[[dict[str, bytes]], bytes]
) -> None:
    (tmp_path / "a").write_bytes(pack(MEMBERS))
    reads = reads_of(tmp_path)
    assert told(reads) == EXPECTED
    assert [read.position for read in reads] == [1, 2, 3, 4, 5]
    assert [read.headers["format"] for read in reads] == ["text", "text", "jsonl", "jsonl", "unknown"]


@pytest.mark.parametrize("pack", [make_tar, make_zip, lambda m: make_tar(m, mode="w:gz")])
def test_reading_on_after_each_member_gives_the_rest(tmp_path: Path, pack: Callable[[dict[str, bytes]], bytes]) -> None:
    (tmp_path / "a").write_bytes(pack(MEMBERS))
    connector = connector_on(tmp_path)
    (split,) = connector.splits()
    for number in range(6):
        assert told(list(connector.read(split, number))) == EXPECTED[number:]


def test_lines_inside_a_member_can_be_read_on_from_the_middle(tmp_path: Path) -> None:
    lines = [b'{"n":%d,"s":"%s"}' % (n, b"x" * 1000) for n in range(3000)]
    (tmp_path / "a.tar").write_bytes(make_tar({"one.txt": b"x", "rows.jsonl": b"\n".join(lines), "two.txt": b"y"}))
    connector = connector_on(tmp_path)
    (split,) = connector.splits()
    reads = list(connector.read(split, None))
    assert len(reads) > 4
    assert [line for read in reads[1:-1] for line in read.data.column("line").to_pylist()] == lines
    for k, read in enumerate(reads):
        assert told(list(connector.read(split, read.position))) == told(reads[k + 1 :])


def test_stored_members_are_windows_into_the_archive(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(make_tar({"big.bin": bytes(range(256)) * 1000}))
    (read,) = reads_of(tmp_path)
    with read.data.open() as stream:
        stream.seek(-3, io.SEEK_END)
        assert stream.read() == b"\xfd\xfe\xff"
        stream.seek(255)
        assert stream.read(2) == b"\xff\x00"


def test_names_are_never_ways_out(tmp_path: Path) -> None:
    names = ["../../evil.txt", "/etc/evil.txt", "a/./b//c.txt", "..\\win.txt", "new\nline.txt"]
    (tmp_path / "a.tar").write_bytes(make_tar(dict.fromkeys(names, b"x")))
    objects = [read.headers["object"] for read in reads_of(tmp_path)]
    assert objects == [
        "a.tar/__/__/evil.txt", "a.tar/etc/evil.txt", "a.tar/a/b/c.txt", "a.tar/__/win.txt", "a.tar/new_line.txt",
    ]  # fmt: skip
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.tar"]


def test_links_devices_and_sparse_files_are_told(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for kind, target in (
            (tarfile.SYMTYPE, "/etc/passwd"), (tarfile.LNKTYPE, "a"), (tarfile.CHRTYPE, ""), (tarfile.FIFOTYPE, ""),
            (tarfile.DIRTYPE, ""),
        ):  # fmt: skip
            info = tarfile.TarInfo(f"entry-{kind.decode()}")
            info.type, info.linkname = kind, target
            archive.addfile(info)
        info = tarfile.TarInfo("last.txt")
        info.size = 1
        archive.addfile(info, io.BytesIO(b"x"))
    (tmp_path / "a.tar").write_bytes(buffer.getvalue())
    reads = reads_of(tmp_path)
    reasons = [read.reason if isinstance(read, Broken) else read.headers["object"] for read in reads]
    assert reasons == ["external_reference", "external_reference", "unsupported", "unsupported", "a.tar/last.txt"]


def test_long_names_and_large_sizes_are_read(tmp_path: Path) -> None:
    name = "d/" * 200 + "ä" * 100 + ".txt"
    for format in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        (member,) = tar_members(ByteSource(iter([make_tar({name: b"x"}, format=format)])))
        assert isinstance(member, TarMember) and (member.name, member.size) == (name, 1)


def test_an_archive_in_an_archive_is_told_and_its_neighbours_arrive(tmp_path: Path) -> None:
    for outer in (make_tar, make_zip):
        (tmp_path / "a").write_bytes(
            outer({"in.zip": make_zip({"x": b"1"}), "in.tar.gz": make_tar({"x": b"1"}, "w:gz"), "t": b"x"})
        )
        assert [name for name, _ in told(reads_of(tmp_path))] == ["unsupported", "unsupported", "a/t"]


def test_an_archive_of_nothing_is_told_as_empty(tmp_path: Path) -> None:
    for data in (make_zip({}), make_zip({"folder/": b""})):
        (tmp_path / "a").write_bytes(data)
        (read,) = reads_of(tmp_path)
        assert isinstance(read, Broken) and read.reason == "empty"


# -- damage -----------------------------------------------------------------------------------------------------------

SIX = {f"{n}.txt": (f"text {n} " * 200).encode() for n in range(6)}


@pytest.mark.parametrize("cut", [1, 511, 513, 5000, 9000, 10240 - 1024, 10240 - 1])
def test_a_cut_tar_gives_its_beginning_and_says_so(tmp_path: Path, cut: int) -> None:
    data = make_tar(SIX)
    (tmp_path / "a.tar").write_bytes(data[: len(data) - len(data) % 10240][:-cut] if cut < 10240 else data[:-cut])
    whole = [(f"a.tar/{name}", text) for name, text in SIX.items()]
    got = told(reads_of(tmp_path))
    reasons = [name for name, value in got if value is None]
    complete = [pair for pair in got if pair in whole]
    assert complete == whole[: len(complete)]
    if len(complete) < 6:
        assert reasons == ["truncated"]


def told_parts(source: ByteSource) -> Iterator[str]:
    """Names of whole members, or the reason of the damage."""
    for part in tar_parts(source, "a", None, 0, Bounds(Budget(), 1 << 20, 1 << 30)):
        if isinstance(part, Broken):
            yield part.reason
        else:
            for _ in part.source.chunks():
                pass
            yield part.source.damage.reason if part.source.damage else part.name


@settings(max_examples=60, deadline=None)
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_tar_cut_anywhere_before_its_end_mark_says_so(share: float) -> None:
    data = make_tar(SIX)
    content = sum(512 + -(-len(text) // 512) * 512 for text in SIX.values())
    cut = int(content * share)
    parts = list(told_parts(ByteSource(iter([data[:cut]]))))
    assert parts[-1] == "truncated"
    assert parts[:-1] == list(SIX)[: len(parts) - 1]


def test_a_damaged_tar_header_costs_its_member_only(tmp_path: Path) -> None:
    data = bytearray(make_tar(SIX))
    second = 512 + -(-len(SIX["0.txt"]) // 512) * 512
    data[second + 10] ^= 0xFF
    (tmp_path / "a.tar").write_bytes(data)
    names = [name for name, _ in told(reads_of(tmp_path))]
    assert names == ["a.tar/0.txt", "corrupt", "a.tar/2.txt", "a.tar/3.txt", "a.tar/4.txt", "a.tar/5.txt"]


def test_a_cut_zip_gives_the_members_that_are_whole(tmp_path: Path) -> None:
    for method in (zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED):
        data = make_zip(SIX, method)
        for share in (0.3, 0.6, 0.8):
            (tmp_path / "a.zip").write_bytes(data[: int(len(data) * share)])
            got = told(reads_of(tmp_path))
            whole = [(f"a.zip/{name}", text) for name, text in SIX.items()]
            complete = [pair for pair in got if pair in whole]
            assert complete == whole[: len(complete)] and len(complete) >= 1
            assert "truncated" in [name for name, value in got if value is None]


def test_a_streamed_zip_that_lost_its_directory_is_followed_by_its_descriptors(tmp_path: Path) -> None:
    class Unseekable(io.RawIOBase):
        def __init__(self) -> None:
            self.data = bytearray()

        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            self.data += data
            return len(data)

    sink = Unseekable()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in SIX.items():
            archive.writestr(name, text)
    directory = bytes(sink.data).index(b"PK\1\2")
    (tmp_path / "a.zip").write_bytes(bytes(sink.data[:directory]))
    got = told(reads_of(tmp_path))
    assert got == [*((f"a.zip/{name}", text) for name, text in SIX.items()), ("truncated", None)]


def test_a_member_that_fails_its_crc_is_not_given(tmp_path: Path) -> None:
    data = bytearray(make_zip(SIX, zipfile.ZIP_STORED))
    data[data.index(b"text 3") + 5] ^= 1
    (tmp_path / "a.zip").write_bytes(data)
    got = told(reads_of(tmp_path))
    assert [name for name, _ in got] == [
        *(f"a.zip/{n}.txt" for n in range(3)),
        "checksum",
        "a.zip/4.txt",
        "a.zip/5.txt",
    ]


def test_a_directory_that_points_nowhere_costs_its_member(tmp_path: Path) -> None:
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_LZMA):
        data = bytearray(make_zip(SIX, method))
        entry = data.index(b"PK\1\2")
        data[entry + 42 : entry + 46] = b"\xf0\xff\xff\xff"  # offset of the local header
        (tmp_path / "a.zip").write_bytes(data)
        assert [name for name, _ in told(reads_of(tmp_path))] == ["corrupt", *(f"a.zip/{n}.txt" for n in range(1, 6))]


def test_an_encrypted_member_is_named_so(tmp_path: Path) -> None:
    data = bytearray(make_zip({"a.txt": b"hello", "b.txt": b"hello"}, zipfile.ZIP_STORED))
    for mark, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        at = data.index(mark) + offset
        struct.pack_into("<H", data, at, 1)
    (tmp_path / "a.zip").write_bytes(data)
    assert [name for name, _ in told(reads_of(tmp_path))] == ["encrypted", "a.zip/b.txt"]


def test_bombs_in_archives_are_told(tmp_path: Path) -> None:
    zeros = b"\0" * (70 << 20)
    (tmp_path / "a").write_bytes(make_zip({"bomb.bin": zeros, "good.txt": b"x"}))
    assert ("bomb", None) in told(reads_of(tmp_path, max_ratio=100))
    (tmp_path / "a").write_bytes(make_tar({"bomb.bin.gz": gzip.compress(zeros, mtime=0), "good.txt": b"x"}))
    assert told(reads_of(tmp_path, max_ratio=100)) == [("bomb", None), ("a/good.txt", b"x")]


@settings(max_examples=60, deadline=None)
@given(
    pack=st.sampled_from([make_tar, *(partial(make_zip, method=method) for method in (0, 8, 12, 14))]),
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 7)), max_size=5),
    cut=st.floats(0.2, 1),
)
def test_no_damage_makes_reading_fail_and_positions_stay_unique(
    tmp_path_factory: pytest.TempPathFactory,
    pack: Callable[[dict[str, bytes]], bytes],
    flips: list[tuple[float, int]],
    cut: float,
) -> None:
    data = bytearray(pack(SIX))
    for share, bit in flips:
        data[int(len(data) * share)] ^= 1 << bit
    root = tmp_path_factory.mktemp("damaged")
    (root / "a").write_bytes(data[: int(len(data) * cut)])
    connector = connector_on(root)
    (split,) = connector.splits()
    reads = list(connector.read(split, None))
    positions = [repr(read.position) for read in reads]
    assert len(set(positions)) == len(positions)
    assert reads, "something is always said"
    for k, read in enumerate(reads):
        assert told(list(connector.read(split, read.position))) == told(reads[k + 1 :])


# -- WebDataset -------------------------------------------------------------------------------------------------------

WEB = {
    "d/000.jpg": b"\xff\xd8\xff0",
    "d/000.json": b"{}",
    "d/001.jpg": b"\xff\xd8\xff1",
    "d/001.seg.png": b"\x89PNG\r\n\x1a\n",
}


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_webdataset_is_recognised_and_its_keys_become_items(tmp_path: Path, mode: str) -> None:
    (tmp_path / "a.tar").write_bytes(make_tar(WEB, mode))
    reads = reads_of(tmp_path)
    assert [(read.key, read.position, [blob.id for blob in read.data]) for read in reads] == [
        ("d/000", 2, ["a.tar/d/000.jpg", "a.tar/d/000.json"]),
        ("d/001", 4, ["a.tar/d/001.jpg", "a.tar/d/001.seg.png"]),
    ]
    assert [blob.read() for read in reads for blob in read.data] == list(WEB.values())
    assert reads[0].headers["formats"] == '["jpeg","json"]' and reads[0].headers["format"] == "jpeg"
    assert reads[1].headers["object"] == "a.tar/d/001"


def test_a_tar_of_single_files_is_no_webdataset(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(make_tar({"a.txt": b"x", "b.txt": b"y", "b.md": b"z"}))
    assert all(isinstance(read.data, Blob) for read in reads_of(tmp_path))
    forced = reads_of(tmp_path, group="webdataset")
    assert [len(read.data) for read in forced] == [1, 2]


def test_a_broken_part_of_a_key_is_told_behind_its_item(tmp_path: Path) -> None:
    members = {
        **WEB,
        "d/000.json": b"",
        "d/002.jpg": b"\xff\xd8\xff2",
        "d/002.txt.gz": gzip.compress(b"caption" * 99, mtime=0)[:30],
    }
    (tmp_path / "a.tar").write_bytes(make_tar(members))
    connector = connector_on(tmp_path)
    (split,) = connector.splits()
    reads = list(connector.read(split, None))
    kinds = [len(read.data) if isinstance(read, Item) else read.reason for read in reads]
    assert kinds == [1, "empty", 2, 2, "truncated"]
    for k, read in enumerate(reads):
        assert told(list(connector.read(split, read.position))) == told(reads[k + 1 :])


# -- selection --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pack", [make_tar, make_zip])
def test_members_of_a_mixed_archive_go_to_exactly_one_selection(
    tmp_path: Path, pack: Callable[[dict[str, bytes]], bytes]
) -> None:
    members = {f"{n:03}.txt": b"text" for n in range(70)}
    members |= {"p.png": b"\x89PNG\r\n\x1a\n", "late.flac": b"fLaC", "x.bin": b"\0\1\2\3", "empty.txt": b""}
    members = {"first.png": b"\x89PNG\r\n\x1a\n", **members}
    (tmp_path / "a").write_bytes(pack(members))
    seen: dict[str, list[str]] = {}
    for select in ("text", "image", "audio", "video", "sensor", "raster", "none"):
        connector = connector_on(tmp_path, select=select)
        seen[select] = [name for split in connector.splits() for name, _ in told(list(connector.read(split, None)))]
    assert len(seen["text"]) == 70
    # What the first members did not show goes with the first modality, and so does the damage.
    assert seen["image"] == ["a/first.png", "a/p.png", "a/late.flac", "a/x.bin", "empty"]
    assert not any(seen[other] for other in ("audio", "video", "sensor", "raster", "none"))
