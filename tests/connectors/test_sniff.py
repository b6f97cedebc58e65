"""Formats are told by content: every real file lands where it belongs, and no bytes make the sniffer fail."""

from __future__ import annotations

import io
import json
import struct
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.connectors.sniff import FORMATS, HEAD_BYTES, Format, sniff, sniff_stream


def sniffed(path: Path, name: str) -> Format:
    with open(path, "rb") as stream:
        return sniff_stream(stream, name)


#: Good files whose content is of another modality than the folder they were filed under, and why.
ELSEWHERE = {
    ("raster", "image"): "plain TIFF, JP2 and J2K without georeference are pictures",
    ("raster", "text"): "STAC items, world files and metadata XML are text until a raster names them",
    ("image", "raster"): "float, integer and many-band TIFF are rasters",
    ("video", "audio"): "MP4 and Matroska files with sound only",
    ("raster", None): "byte.tif.gz is a gzip file",
    ("text", None): "gzip files and a SentencePiece model",
}


@pytest.mark.data
def test_every_good_file_lands_in_a_sensible_modality(corpus: Path, manifest: list[dict[str, str]]) -> None:
    strange = []
    for row in manifest:
        if row["class"] == "good":
            found = sniffed(corpus / row["path"], row["path"])
            if found.modality != row["modality"] and (row["modality"], found.modality) not in ELSEWHERE:
                strange.append((row["path"], found))
    assert not strange


@pytest.mark.data
def test_the_counts_of_formats_among_good_files_are_these(corpus: Path, manifest: list[dict[str, str]]) -> None:
    counts: Counter[str] = Counter()
    for row in manifest:
        if row["class"] == "good":
            counts[sniffed(corpus / row["path"], row["path"]).name] += 1
    assert {name: counts[name] for name in ("png", "jpeg", "mcap", "parquet", "hdf5", "netcdf3", "grib", "vrt")} == {
        "png": 102, "jpeg": 76, "mcap": 55, "parquet": 52, "hdf5": 30, "netcdf3": 31, "grib": 28, "vrt": 49,
    }  # fmt: skip
    assert counts["unknown"] == 1, "only the SentencePiece model has no format of ours"


@pytest.mark.data
def test_the_name_is_not_needed_for_files_with_magic_bytes(corpus: Path, manifest: list[dict[str, str]]) -> None:
    by_name_only = {"csv", "tsv", "markdown", "text", "xml", "json", "jsonl", "tga"}
    for row in manifest:
        if row["class"] == "good":
            named = sniffed(corpus / row["path"], row["path"])
            blind = sniffed(corpus / row["path"], "0001")
            assert blind.name == named.name or named.name in by_name_only, row["path"]


@pytest.mark.data
def test_lfs_pointers_are_told_from_what_they_point_to(corpus: Path) -> None:
    path = "sensor/bad/lfs_pointer/OneMessage/OneMessage.mcap"
    assert sniffed(corpus / path, path) == Format("lfs_pointer", None)


@pytest.mark.data
def test_service_descriptions_are_not_rasters_to_open(corpus: Path, manifest: list[dict[str, str]]) -> None:
    for row in manifest:
        if row["path"].startswith(("raster/bad/gdal_ssrf/wms/", "raster/bad/gdal_ssrf/geoserver")):
            assert sniffed(corpus / row["path"], row["path"]).name == "wcs-xml"


def tiff(order: str, big: bool, tags: list[tuple[int, int, int, bytes]], ifd_at: int | None = None) -> bytes:
    """A TIFF of one directory; each tag is (id, type, count, value bytes no longer than the field)."""
    width = 8 if big else 4
    at = ifd_at or (16 if big else 8)
    body = struct.pack(order + ("Q" if big else "H"), len(tags))
    for tag, kind, count, value in tags:
        body += struct.pack(order + ("HHQ" if big else "HHI"), tag, kind, count) + value.ljust(width, b"\0")
    mark = b"II" if order == "<" else b"MM"
    head = mark + (struct.pack(order + "HHHQ", 43, 8, 0, at) if big else struct.pack(order + "HI", 42, at))
    return head.ljust(at, b"\0") + body + b"\0" * width


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("far", [None, HEAD_BYTES + 1000])
@pytest.mark.parametrize(
    ("tags", "name"),
    [
        ([(258, 8), (277, 3)], "tiff"),
        ([(258, 16), (277, 4)], "tiff"),
        ([(258, 8), (277, 2)], "geotiff"),
        ([(258, 8), (277, 13)], "geotiff"),
        ([(258, 32), (277, 1)], "geotiff"),
        ([(258, 16), (277, 1), (339, 2)], "geotiff"),
        ([(258, 8), (277, 1), (33550, 1)], "geotiff"),
        ([(258, 8), (277, 1), (34735, 1)], "geotiff"),
        ([(258, 8), (277, 1), (42113, 1)], "geotiff"),
    ],
)
def test_a_tiff_is_a_raster_by_its_tags(
    order: str, big: bool, far: int | None, tags: list[tuple[int, int]], name: str
) -> None:
    data = tiff(order, big, [(tag, 3, 1, struct.pack(order + "H", value)) for tag, value in tags], far)
    assert sniff_stream(io.BytesIO(data), "x").name == name


def test_a_tiff_directory_out_of_reach_is_guessed_from_the_name() -> None:
    head = b"II*\0" + struct.pack("<I", 1 << 30)
    assert sniff(head, "a.tif").name == "tiff"
    assert sniff(head, "a.ovr").name == "geotiff"


def box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", len(content) + 8, kind) + content


def test_a_jp2_is_a_raster_by_its_boxes() -> None:
    start = b"\0\0\0\x0cjP  \r\n\x87\n" + box(b"ftyp", b"jp2 \0\0\0\0jp2 ")
    uuid = bytes.fromhex("b14bf8bd083d4b43a5ae8cd7d5a6ce03")
    codestream = box(b"jp2c", b"\xff\x4f" + b"\0" * HEAD_BYTES)
    assert sniff_stream(io.BytesIO(start + codestream), "a.jp2").name == "jp2"
    assert sniff_stream(io.BytesIO(start + box(b"uuid", uuid + b"II*\0") + codestream), "a.jp2").name == "jp2-geo"
    assert sniff_stream(io.BytesIO(start + codestream + box(b"uuid", uuid)), "a.jp2").name == "jp2-geo"
    gml = box(b"asoc", box(b"lbl ", b"gml.data") + box(b"xml ", b"<gml:FeatureCollection/>"))
    assert sniff_stream(io.BytesIO(start + gml + codestream), "a.jp2").name == "jp2-geo"


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        ('{"a": 1}\n{"a": 2}\n', "x", Format("jsonl", "text")),
        ('{"a": 1}\n{"a": 2}\n', "x.json", Format("jsonl", "text")),
        ('{\n "a": 1\n}\n', "x.json", Format("json", "text")),
        ('{"a": 1}\n', "x.jsonl", Format("jsonl", "text")),
        ('{"a": 1}\n', "x", Format("json", "text")),
        ('{"t": "2024-01-01T00:00:00Z", "level": 1.5}\n{"t": "2024-01-01T00:01:00Z", "level": 1.6}\n', "x.jsonl",
         Format("jsonl", "sensor")),
        ('{"time": 1, "text": "one two three four five six seven eight nine ten"}\n', "x.jsonl",
         Format("jsonl", "text")),
        ("time,level\n2024-01-01,1.5\n2024-01-02,1.6\n", "x.csv", Format("csv", "sensor")),
        ("id,comment\n1,good\n2,bad\n", "x.csv", Format("csv", "text")),
        ("time\tlevel\n2024-01-01\t1.5\n", "x.tsv", Format("tsv", "sensor")),
        ("# Title\n\nText\n", "x.md", Format("markdown", "text")),
        ("<p align=center>\n\n# Title", "x.md", Format("markdown", "text")),
        ("<!DOCTYPE html><html><body>x", "x", Format("html", "text")),
        ("<html><head>", "x.php", Format("html", "text")),
        ('<?xml version="1.0"?>\n<!-- c -->\n<gpx version="1.1"/>', "x.xml", Format("gpx", "sensor")),
        ('<?xml version="1.0"?><tt xmlns="http://www.w3.org/ns/ttml"/>', "x.xml", Format("ttml", "text")),
        ("<VRTDataset rasterXSize='1'/>", "x.tif", Format("vrt", "raster")),
        ("<WCS_GDAL></WCS_GDAL>", "x.tif", Format("wcs-xml", "raster")),
        ("1\n00:00:01,000 --> 00:00:02,000\nHello\n", "x", Format("srt", "text")),
        ("WEBVTT\n\n00:01.000 --> 00:02.000\nHello\n", "x", Format("webvtt", "text")),
        ("ENVI\nsamples = 3\n", "x.hdr", Format("envi", "raster")),
        ("Just a line of prose, with a comma.\n", "x", Format("text", "text")),
        ("a,b\n1,2\n3,4\n5,6\n", "x", Format("csv", "sensor")),
        ("P2 and P3 are prose, not pictures.\n", "x.txt", Format("text", "text")),
        ("BM is how some sentences begin.\n", "x.txt", Format("text", "text")),
    ],
)  # fmt: skip
def test_text_is_told_apart_by_its_beginning(text: str, name: str, expected: Format) -> None:
    assert sniff(text.encode(), name) == expected


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-le"])
def test_text_of_any_unicode_encoding_is_text(encoding: str) -> None:
    data = "Größe, мир, 世界\n".encode(encoding)
    expected = "unknown" if encoding == "utf-16-le" else "text"  # without a mark it is not told from binary
    assert sniff(data, "a").name == expected


def test_a_character_cut_by_the_head_is_still_text() -> None:
    for shift in range(4):
        data = (" " * shift + "世" * HEAD_BYTES).encode()[:HEAD_BYTES]
        assert sniff(data, "a").name == "text"


def test_older_encodings_are_believed_of_what_calls_itself_text() -> None:
    data = "Größe und Übel\n".encode("latin-1") * 10
    assert sniff(data, "a.txt").name == "text"
    assert sniff(data, "a").name == "unknown"
    assert sniff(b"<html><body>" + data, "a").name == "html"


def test_arrow_and_parquet_need_no_name() -> None:
    import pyarrow.parquet as pq

    table = pa.table({"a": [1, 2, 3]})
    file, stream, parquet = io.BytesIO(), io.BytesIO(), io.BytesIO()
    with pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    with pa.ipc.new_stream(stream, table.schema) as writer:
        writer.write_table(table)
    pq.write_table(table, parquet)
    names = [sniff(buffer.getvalue(), "x").name for buffer in (file, stream, parquet)]
    assert names == ["arrow_file", "arrow_stream", "parquet"]


def test_documents_in_zip_clothes_are_no_archives() -> None:
    import zipfile

    for first, expected in (("[Content_Types].xml", "unknown"), ("mimetype", "unknown"), ("a.jpg", "zip")):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr(first, "x")
        assert sniff(buffer.getvalue(), "a.docx").name == expected


def test_sound_in_film_containers_is_audio() -> None:
    handler = box(b"hdlr", b"\0" * 8 + b"soun" + b"\0" * 12)
    movie = box(b"moov", box(b"trak", box(b"mdia", handler)))
    assert sniff(box(b"ftyp", b"isom\0\0\0\0") + movie, "a.mp4") == Format("mp4", "audio")
    assert sniff(box(b"ftyp", b"isom\0\0\0\0"), "a.mp4") == Format("mp4", "video")
    assert sniff(box(b"ftyp", b"M4A \0\0\0\0"), "a") == Format("mp4", "audio")
    assert sniff(box(b"ftyp", b"isom\0\0\0\0"), "a.m4a") == Format("mp4", "audio")
    matroska = b"\x1a\x45\xdf\xa3\x80" + b"\x18\x53\x80\x67\x88" + b"\x16\x54\xae\x6b\x83" + b"\xae\x81\x83"
    assert sniff(matroska, "a.mka") == Format("matroska", "audio")


@settings(max_examples=120, deadline=None)
@given(st.binary(max_size=3000), st.text(max_size=20))
def test_no_bytes_make_it_fail(head: bytes, name: str) -> None:
    assert sniff(head, name).name in FORMATS


@pytest.mark.data
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_damaged_real_heads_do_not_make_it_fail(
    corpus: Path, manifest: list[dict[str, str]], data: st.DataObject
) -> None:
    row = data.draw(st.sampled_from(manifest))
    with open(corpus / row["path"], "rb") as stream:
        head = bytearray(stream.read(HEAD_BYTES))
    for _ in range(data.draw(st.integers(0, 8))):
        if head:
            head[data.draw(st.integers(0, min(len(head), 4096) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(head[: data.draw(st.integers(0, len(head)))])
    first = sniff(cut, row["path"])
    assert first == sniff(cut, row["path"])
    assert first.name in FORMATS


@pytest.mark.parametrize(
    "head",
    [
        b"<!--" * 16000,
        b"<!-- -->" * 8000,
        b"<?x?>" * 13000,
        b"[" * 65536,
        b'{"a":' * 13000,
        b"<!DOCTYPE [" + b"]" * 65000,
        b"\xff" * 65536,
        b"GRIB" * 16000,
        b",\n" * 32000,
        b"," * 65536,
        b"time_" * 13000 + b",a\n1,2\n",
        b"\0\0\0\x08free" * 8192,
    ],
)
def test_hostile_heads_cost_no_time(head: bytes) -> None:
    import time

    started = time.process_time()
    for name in ("x", "x.csv", "x.json", "x.jsonl", "x.xml"):
        sniff(head, name)
    assert time.process_time() - started < 2


def test_format_names_are_those_of_the_contract() -> None:
    assert json.dumps(sorted(FORMATS)).count('"') == 2 * len(FORMATS)
    assert all(FORMATS[name].container for name in ("zip", "tar", "gzip", "zstd", "xz", "bzip2"))
    assert FORMATS["unknown"].modality is None
