"""WARC and ARC: the payloads that were fetched, with their evidence; one bad record costs one record."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from warcio.archiveiterator import ArchiveIterator

from headrace.connectors.contract import Broken, Item
from headrace.connectors.files import Files


def reads_of(root: Path, glob: str = "**/*", after: Any = None) -> list[Any]:
    connector = Files(Files.Config(root=str(root), glob=glob))
    (split,) = connector.splits()
    return list(connector.read(split, after))


def record(
    body: bytes,
    kind: str = "response",
    uri: str = "http://example.com/",
    date: str = "2024-05-06T07:08:09Z",
    **fields: str,
) -> bytes:
    head = {"WARC-Type": kind, "WARC-Target-URI": uri, "WARC-Date": date, "Content-Length": str(len(body))}
    head |= {"Content-Type": "application/http; msgtype=response"} if kind == "response" else {}
    head |= {name.replace("_", "-"): value for name, value in fields.items()}
    return b"WARC/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in head.items()).encode() + b"\r\n" + body + b"\r\n\r\n"


def http(body: bytes, status: str = "200 OK", **fields: str) -> bytes:
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status}\r\n{lines}\r\n".encode() + body


HTML = b"<html><body>Hello</body></html>"


def archive(tmp_path: Path, records: list[bytes], gzipped: bool = False) -> Path:
    path = tmp_path / ("a.warc.gz" if gzipped else "a.warc")
    path.write_bytes(b"".join(gzip.compress(r, mtime=0) if gzipped else r for r in records))
    return path


@pytest.mark.data
@pytest.mark.parametrize(
    "name",
    [
        "example.warc",
        "example.warc.gz",
        "example-resource.warc.gz",
        "post-test.warc.gz",
        "example.arc",
        "example.arc.gz",
    ],
)
def test_payloads_are_those_that_warcio_reads(corpus: Path, name: str) -> None:
    expected = []
    with open(corpus / "text/warc" / name, "rb") as stream:
        for one in ArchiveIterator(stream, arc2warc=False):
            if one.rec_type in ("response", "resource", "conversion"):
                uri = one.rec_headers.get_header("WARC-Target-URI") or one.rec_headers.get_header("uri")
                expected.append((uri, one.content_stream().read()))
    got = [(read.headers["uri"], read.data) for read in reads_of(corpus / "text/warc", name)]
    assert got == expected and expected


@pytest.mark.data
def test_an_archive_of_requests_only_says_that_it_is_empty(corpus: Path) -> None:
    (read,) = reads_of(corpus / "text/warc", "example-digest.warc")
    assert isinstance(read, Broken) and read.reason == "empty"


@pytest.mark.data
def test_damaged_real_archives_give_what_is_whole(corpus: Path) -> None:
    root = corpus / "text/bad/warc"
    kinds = {
        name: [r.reason if isinstance(r, Broken) else r.headers["format"] for r in reads_of(root, name)]
        for name in ("bad.arc", "example-bad-non-chunked.warc.gz", "example-wrong-chunks.warc.gz")
    }
    assert kinds == {
        "bad.arc": ["corrupt", "text", "corrupt"],
        "example-bad-non-chunked.warc.gz": ["html"],
        "example-wrong-chunks.warc.gz": ["truncated", "corrupt"],
    }


def test_evidence_of_rights_time_and_place_goes_with_the_payload(tmp_path: Path) -> None:
    fields = {"Content-Type": "text/html; charset=utf-8", "TDM-Reservation": "1", "X-Robots-Tag": "noai"}
    archive(tmp_path, [record(http(HTML, **fields), date="2024-05-06T07:08:09.123456789Z")])
    (read,) = reads_of(tmp_path)
    assert read.data == HTML
    assert read.event_time == 1_714_979_289_123_456
    assert json.loads(read.headers["rights"]) == {
        "status": 200, "content-type": "text/html; charset=utf-8", "tdm-reservation": "1", "x-robots-tag": "noai",
    }  # fmt: skip
    assert (read.headers["format"], read.headers["media_type"], read.headers["object"]) == (
        "html",
        "text/html",
        "a.warc/0",
    )


def test_the_servers_word_decides_where_the_bytes_leave_it_open(tmp_path: Path) -> None:
    bodies = [
        (b"plain words", "text/html", "html"),
        (b"\x89PNG\r\n\x1a\n", "text/html", "png"),
        (b"a,b\n1,2\n", "text/csv", "csv"),
    ]
    archive(tmp_path, [record(http(body, Content_Type=kind)) for body, kind, _ in bodies])
    assert [read.headers["format"] for read in reads_of(tmp_path)] == [name for _, _, name in bodies]


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        (b"5\r\nHello\r\n6;x=y\r\n world\r\n0\r\nTrailer: x\r\n\r\n", {"Transfer-Encoding": "chunked"}),
        (b"Hello world", {"Transfer-Encoding": "chunked"}),
        (gzip.compress(b"Hello world", mtime=0), {"Content-Encoding": "gzip"}),
        (b"Hello world", {"Content-Encoding": "gzip"}),
        (zlib.compress(b"Hello world"), {"Content-Encoding": "deflate"}),
        (zlib.compress(b"Hello world")[2:-4], {"Content-Encoding": "deflate"}),
        (b"1f\r\n" + gzip.compress(b"Hello world", mtime=0) + b"\r\n0\r\n\r\n",
         {"Transfer-Encoding": "chunked", "Content-Encoding": "gzip"}),
    ],
)  # fmt: skip
def test_transfer_and_content_codings_are_undone(tmp_path: Path, body: bytes, fields: dict[str, str]) -> None:
    archive(tmp_path, [record(http(body, **fields))])
    (read,) = reads_of(tmp_path)
    assert read.data == b"Hello world"


def test_an_unknown_coding_costs_its_record_only(tmp_path: Path) -> None:
    archive(tmp_path, [record(http(b"\x0b\x05\x80", Content_Encoding="br")), record(http(HTML))])
    first, second = reads_of(tmp_path)
    assert isinstance(first, Broken) and first.reason == "unsupported"
    assert second.data == HTML


def test_a_uri_that_is_none_costs_nothing(tmp_path: Path) -> None:
    archive(tmp_path, [record(http(HTML), uri="http://[::bad/a.html"), record(http(HTML), uri="")])
    assert [read.headers["uri"] for read in reads_of(tmp_path)] == ["http://[::bad/a.html", ""]


def test_redirects_requests_and_dns_are_passed_over(tmp_path: Path) -> None:
    archive(
        tmp_path,
        [
            record(b"GET / HTTP/1.1\r\n\r\n", "request"), record(http(b"", "301 Moved", Location="/x")),
            record(b"software: x\r\n", "warcinfo"), record(b"x", "response", "dns:example.com"),
            record(b"plain", "conversion", Content_Type="text/plain"), record(b"", "revisit"),
        ],
    )  # fmt: skip
    (read,) = reads_of(tmp_path)
    assert (read.data, read.headers["rights"]) == (b"plain", '{"content-type":"text/plain"}')


@pytest.mark.parametrize("spelled", ["base32", "hex", "wrong"])
def test_block_digests_are_checked(tmp_path: Path, spelled: str) -> None:
    block = http(HTML)
    digest = hashlib.sha1(block).digest()
    value = {"base32": base64.b32encode(digest).decode(), "hex": digest.hex(), "wrong": "A" * 32}[spelled]
    archive(tmp_path, [record(block, WARC_Block_Digest=f"sha1:{value}"), record(http(b"next"))])
    first, second = reads_of(tmp_path)
    assert (first.reason if isinstance(first, Broken) else first.data) == ("checksum" if spelled == "wrong" else HTML)
    assert second.data == b"next"


@pytest.mark.parametrize("gzipped", [False, True])
def test_reading_on_after_each_record_gives_the_rest(tmp_path: Path, gzipped: bool) -> None:
    records = [record(http(b"<html>%d" % n), uri=f"http://example.com/{n}") for n in range(20)]
    records.insert(5, record(b"GET / HTTP/1.1\r\n\r\n", "request"))
    archive(tmp_path, records, gzipped)
    reads = reads_of(tmp_path)
    assert len(reads) == 20
    data = (tmp_path / ("a.warc.gz" if gzipped else "a.warc")).read_bytes()
    begins = {index for index in range(len(data)) if data.startswith((b"WARC/", b"\x1f\x8b\x08"), index)} | {len(data)}
    assert all(read.position[0] in begins and read.position[1] == 0 for read in reads), "reading on seeks to a record"
    for k, read in enumerate(reads):
        assert reads_of(tmp_path, after=read.position) == reads[k + 1 :]


def test_an_archive_gzipped_as_a_whole_is_read_and_read_on(tmp_path: Path) -> None:
    records = [record(http(b"<html>%d" % n)) for n in range(5)]
    (tmp_path / "a.warc.gz").write_bytes(gzip.compress(b"".join(records), mtime=0))
    reads = reads_of(tmp_path)
    assert [read.data for read in reads] == [b"<html>%d" % n for n in range(5)]
    for k, read in enumerate(reads):
        assert reads_of(tmp_path, after=read.position) == reads[k + 1 :]


@pytest.mark.parametrize("gzipped", [False, True])
@pytest.mark.parametrize("victim", [0, 3, 9])
def test_one_damaged_record_costs_one_record(tmp_path: Path, gzipped: bool, victim: int) -> None:
    records = [record(http(b"<html>%d " % n + b"word " * 500)) for n in range(10)]
    packed = [gzip.compress(r, mtime=0) if gzipped else r for r in records]
    hurt = bytearray(packed[victim])
    hurt[len(hurt) // 2 if gzipped else 2] ^= 0xFF
    packed[victim] = bytes(hurt)
    (tmp_path / "a.warc").write_bytes(b"".join(packed))
    if victim == 0 and not gzipped:
        return  # without its first word it is no WARC at all
    reads = reads_of(tmp_path)
    good = [read.data.split(b" ")[0] for read in reads if isinstance(read, Item) and "truncated" not in read.headers]
    assert good == [b"<html>%d" % n for n in range(10) if n != victim]
    assert sum(isinstance(read, Broken) for read in reads) == 1
    for k, read in enumerate(reads):
        assert reads_of(tmp_path, after=read.position) == reads[k + 1 :]


def test_a_wrong_content_length_is_told(tmp_path: Path) -> None:
    wrong = record(http(HTML)).replace(b"Content-Length: ", b"Content-Length: x")
    long = record(http(HTML)).replace(b"Content-Length: ", b"Content-Length: 9999")
    archive(tmp_path, [record(http(b"<html>1")), wrong, record(http(b"<html>2")), long])
    reads = reads_of(tmp_path)
    kinds = [read.reason if isinstance(read, Broken) else read.headers.get("truncated", "whole") for read in reads]
    assert kinds == ["whole", "corrupt", "whole", "1", "truncated"]


@settings(max_examples=60, deadline=None)
@given(
    gzipped=st.booleans(),
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 7)), max_size=4),
    cut=st.floats(0.1, 1),
)
def test_no_damage_makes_reading_fail(
    tmp_path_factory: pytest.TempPathFactory, gzipped: bool, flips: list[tuple[float, int]], cut: float
) -> None:
    records = [record(http(b"<html>%d " % n + b"word " * 50)) for n in range(6)]
    data = bytearray(b"".join(gzip.compress(r, mtime=0) if gzipped else r for r in records))
    for share, bit in flips:
        data[int(len(data) * share)] ^= 1 << bit
    root = tmp_path_factory.mktemp("warc")
    (root / "a.warc").write_bytes(data[: int(len(data) * cut)])
    reads = reads_of(root)
    positions = [repr(read.position) for read in reads]
    assert reads and len(set(positions)) == len(positions)
    for k, read in enumerate(reads):
        rest = reads_of(root, after=read.position)
        assert (
            [repr(r) for r in rest] == [repr(r) for r in reads[k + 1 :]]
            or not isinstance(read, Item)
            or isinstance(read.data, bytes)
        )
        assert [r.position for r in rest] == [r.position for r in reads[k + 1 :]]


def test_arc_records_are_read_with_spaces_in_their_urls(tmp_path: Path) -> None:
    body = http(HTML, Content_Type="text/html")
    info = b"1 0 x\nURL IP-address Archive-date Content-type Archive-length\n"
    head = f"filedesc://a.arc 0.0.0.0 20240101000000 text/plain {len(info)}\n".encode() + info
    line = f"http://example.com/a b 10.0.0.1 20240506070809 text/html {len(body)}\n".encode()
    (tmp_path / "a.arc").write_bytes(head + b"\n" + line + body + b"\n" + line + body + b"\n")
    reads = reads_of(tmp_path)
    assert [(read.headers["uri"], read.data, read.event_time) for read in reads] == [
        ("http://example.com/a b", HTML, 1_714_979_289_000_000)
    ] * 2


def test_a_selection_takes_only_its_payloads(tmp_path: Path) -> None:
    archive(tmp_path, [record(http(HTML)), record(http(b"\x89PNG\r\n\x1a\n")), record(http(b"\0\1\2"))])
    seen = {}
    for select in ("text", "image", "none", "audio"):
        connector = Files(Files.Config(root=str(tmp_path), select=select))
        seen[select] = [r.headers["format"] for s in connector.splits() for r in connector.read(s, None)]
    assert seen == {"text": ["html"], "image": ["png"], "none": ["unknown"], "audio": []}


def test_memory_stays_flat_over_a_large_block(tmp_path: Path) -> None:
    import tracemalloc

    body = http(b"x" * (80 << 20), Content_Type="application/octet-stream")
    archive(tmp_path, [record(body)])
    del body
    tracemalloc.start()
    (read,) = reads_of(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert read.data.size == 80 << 20 and read.data.local_path()
    assert peak < 100 << 20


def test_streams_of_records_are_closed_with_the_reading(tmp_path: Path) -> None:
    archive(tmp_path, [record(http(HTML))] * 3)
    connector = Files(Files.Config(root=str(tmp_path)))
    (split,) = connector.splits()
    reads = connector.read(split, None)
    assert isinstance(next(reads), Item)
    reads.close()
    assert isinstance(io.BytesIO(), io.BytesIO)
