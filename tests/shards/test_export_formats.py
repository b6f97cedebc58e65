"""Every format against its layout on paper: read by hand, by Python's own modules or by Arrow, and compared."""

from __future__ import annotations

import io
import itertools
import json
import sqlite3
import struct
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.schemas.record import MODALITIES, PAYLOAD_COLUMN
from headrace.shards.dataset import Dataset
from headrace.shards.exports.export import ExportResult, export
from headrace.shards.exports.options import NO_EMPTY, TARGETS, TOKENS_ONLY, ExportOptions, Target
from headrace.shards.exports.tar_file import ending, header, part
from headrace.shards.store_local import LocalStore
from headrace.shards.testing import MemoryStore

from .exporting import Maker, bodies, full_dataset, settings_for

SIZES: dict[str, int] = {"webdataset": 20_000, "energon": 40_000, "megatron": 1000, "litdata": 2000}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return full_dataset(LocalStore(str(tmp_path_factory.mktemp("full") / "dataset"), create=True))


@pytest.fixture(scope="module")
def made(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """made(target) → (folder, result) of an export in small shards, made once."""
    done: dict[str, tuple[Path, ExportResult]] = {}

    def make(target: Target) -> tuple[Path, ExportResult]:
        if target not in done:
            out = tmp_path_factory.mktemp(target) / "out"
            options = ExportOptions(to=target, max_shard_bytes=SIZES.get(target, 6000))
            done[target] = (out, export(dataset, out, options))
        return done[target]

    return make


# ---- readers by hand: each gives (tokens or payload, what is known of the sample) in order ----


def offset_table(data: bytes) -> list[int]:
    (count,) = struct.unpack_from("<I", data)
    return list(struct.unpack_from(f"<{count + 1}I", data, 4))


def read_mds(folder: Path) -> Iterator[tuple[dict[str, bytes], dict[str, Any]]]:
    index = json.loads((folder / "index.json").read_bytes())
    for shard in index["shards"]:
        data = (folder / shard["raw_data"]["basename"]).read_bytes()
        assert len(data) == shard["raw_data"]["bytes"]
        offsets = offset_table(data)
        assert len(offsets) == shard["samples"] + 1
        config = json.loads(data[4 * len(offsets) + 4 : offsets[0]])
        assert config == {k: v for k, v in shard.items() if k not in ("samples", "raw_data", "zip_data")}
        names = config["column_names"]
        for start, stop in itertools.pairwise(offsets):
            sizes = struct.unpack_from(f"<{len(names)}I", data, start)
            at, row = start + 4 * len(names), {}
            for name, size in zip(names, sizes):
                row[name] = data[at : at + size]
                at += size
            assert at == stop
            yield row, json.loads(row["meta"])


def mds_array(data: bytes, dtype: str) -> list[int]:
    width = 1 << (data[0] & 3)
    assert data[0] >> 2 == 1
    length = int.from_bytes(data[1 : 1 + width], "little")
    values = np.frombuffer(data[1 + width :], dtype)
    assert len(values) == length
    return values.tolist()


def read_tars(folder: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            now: tuple[str, dict[str, bytes]] | None = None
            for member in tar:
                assert (member.mtime, member.uid, member.gid, member.uname, member.mode) == (0, 0, 0, "", 0o644)
                assert member.offset_data - member.offset == 512
                key, _, name = member.name.partition(".")
                file = tar.extractfile(member)
                assert file is not None
                if now is None or now[0] != key:
                    if now is not None:
                        yield now
                    now = key, {}
                now[1][name] = file.read()
            if now is not None:
                yield now


def read_megatron(prefix: Path) -> list[list[int]]:
    idx, data = prefix.with_name(prefix.name + ".idx").read_bytes(), prefix.with_name(prefix.name + ".bin").read_bytes()
    assert idx[:9] == b"MMIDIDX\0\0"
    version, code, count, documents = struct.unpack_from("<QBQQ", idx, 9)
    assert version == 1 and documents == count + 1
    dtype = np.dtype({4: "<i4", 8: "<u2"}[code])
    lengths = np.frombuffer(idx, "<i4", count, 34)
    pointers = np.frombuffer(idx, "<i8", count, 34 + 4 * count)
    begins = np.frombuffer(idx, "<i8", count + 1, 34 + 12 * count)
    assert len(idx) == 34 + 20 * count + 8 and begins.tolist() == list(range(count + 1))
    rows = []
    for length, pointer in zip(lengths.tolist(), pointers.tolist()):
        rows.append(np.frombuffer(data, dtype, length, pointer).tolist())
    assert sum(map(len, rows)) * dtype.itemsize == len(data)
    return rows


def read_litdata(folder: Path) -> list[list[int]]:
    index = json.loads((folder / "index.json").read_bytes())
    assert index["config"]["data_format"] == ["no_header_tensor:16"]
    rows: list[list[int]] = []
    for chunk in index["chunks"]:
        data = (folder / chunk["filename"]).read_bytes()
        offsets = offset_table(data)
        assert (len(data), len(offsets) - 1) == (chunk["chunk_bytes"], chunk["chunk_size"])
        found = [np.frombuffer(data[a:b], "<i4").tolist() for a, b in itertools.pairwise(offsets)]
        assert sum(map(len, found)) == chunk["dim"]
        rows += found
    return rows


def read_table(folder: Path, pattern: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for path in sorted(folder.glob(pattern)):
        if path.suffix == ".parquet":
            table = pq.read_table(path, page_checksum_verification=True)
        else:
            with pa.ipc.open_stream(path) as stream:
                table = stream.read_all()
        rows += table.to_pylist()
    return rows


def tokens_of(target: Target, out: Path, stream: str, dtype: str) -> list[list[int]]:
    """What an export holds of a stream, by the readers above."""
    folder = out / stream
    if target == "mds":
        return [mds_array(row["tokens"], dtype) for row, _ in read_mds(folder)]
    if target in ("webdataset", "energon"):
        return [np.load(io.BytesIO(parts["tokens.npy"])).tolist() for _, parts in read_tars(folder)]
    if target == "megatron":
        return [row for path in sorted(folder.glob("*.bin")) for row in read_megatron(path.with_suffix(""))]
    if target == "litdata":
        return read_litdata(folder)
    return [row["tokens"] for row in read_table(folder, "*.parquet" if target == "parquet" else "*.arrow")]


# ---- tests ----


@pytest.mark.parametrize("target", TARGETS)
def test_every_format_holds_the_tokens_of_the_dataset_in_order(target: Target, dataset: Dataset, made: Any) -> None:
    out, result = made(target)
    for stream in ("tide", "quay.audio"):
        told = result.manifest["streams"][stream]
        wanted = list(bodies(dataset, stream, empty=target not in NO_EMPTY))
        assert tokens_of(target, out, stream, told["dtype"]) == wanted
    files = {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()}
    assert files == {f["path"] for f in result.manifest["files"]} | {"headrace-export.json"}
    shards = [f for f in result.manifest["files"] if f.get("samples", 0) > 1]
    framed = target in ("parquet", "huggingface")  # where a size is that of the rows
    assert len(shards) > 3 and all(f["bytes"] <= SIZES.get(target, 6000) or framed for f in shards)


@pytest.mark.parametrize("target", [t for t in TARGETS if t not in TOKENS_ONLY])
@pytest.mark.parametrize("modality", MODALITIES)
def test_raw_payloads_come_back_in_shape_and_dtype(
    target: Target, modality: Any, dataset: Dataset, made: Any
) -> None:
    out, _ = made(target)
    stream, column = f"raw.{modality}", PAYLOAD_COLUMN[modality]
    wanted = [row for batch in dataset.batches(stream) for row in batch.to_pylist()]
    folder = out / stream
    if target in ("parquet", "huggingface"):
        rows = read_table(folder, "*.parquet" if target == "parquet" else "*.arrow")
        for have, want in zip(rows, wanted, strict=True):
            assert {**have, "error": None} == {
                **want, "error": None, "stream": stream, "lane": 0, "seq": have["seq"]
            } or modality in ("sensor", "raster")  # fmt: skip
            assert str(have[column]) == str(want[column])
        assert [row["seq"] for row in rows] == list(range(7))
        return
    if target == "mds":
        found = [(row[column], meta) for row, meta in read_mds(folder)]
        for (data, meta), want in zip(found, wanted, strict=True):
            if modality == "text":
                assert data.decode() == want["text"]
            elif modality == "sensor":
                assert np.array_equal(np.frombuffer(data), want["value"], equal_nan=True)
            else:
                array = np.frombuffer(data, meta["dtype"]).reshape(meta["shape"])
                assert (array.tobytes(), list(array.shape)) == (want[column], want["shape"])
        return
    for (key, parts), want in zip(read_tars(folder), wanted, strict=True):
        meta = json.loads(parts["json"])
        assert meta["record_id"] == want["record_id"].hex() and key == f"raw+{modality}-L0000-{meta['seq']:012d}"
        if modality == "text":
            assert parts["txt"].decode() == want["text"]
        elif modality == "sensor":
            arrays = {name: np.load(io.BytesIO(parts[f"{name}.npy"])) for name in ("t", "value", "valid")}
            assert arrays["valid"].tolist() == want["valid"] and len(arrays["t"]) == len(want["t"])
            assert np.array_equal(arrays["value"], want["value"], equal_nan=True)
        else:
            array = np.load(io.BytesIO(parts[f"{column}.npy"]))
            found = (array.tobytes(), list(array.shape), array.dtype.name)
            assert found == (want[column], want["shape"], want["dtype"])
            if modality == "raster":
                assert ("cloud.npy" in parts) == (want["cloud"] is not None)
                assert np.load(io.BytesIO(parts["valid.npy"])).shape == tuple(want["shape"][-2:])
                assert meta["bands"][0]["nodata"] == "nan" and meta["bands"][1]["nodata"] is None


@pytest.mark.parametrize("target", ["mds", "webdataset"])
def test_json_tells_where_each_sample_came_from(target: Target, dataset: Dataset, made: Any) -> None:
    out, _ = made(target)
    if target == "mds":
        told = [meta for _, meta in read_mds(out / "tide")]
    else:
        told = [json.loads(parts["json"]) for _, parts in read_tars(out / "tide")]
    assert len({(m["lane"], m["seq"]) for m in told}) == len(told)
    for meta in told:
        row = dataset.sample(meta["stream"], meta["lane"], meta["seq"]).to_pylist()[0]
        assert meta["record_id"] == row["record_id"].hex() and meta["license"] == row["license"]
        assert meta["content_sha256"] == row["content_sha256"].hex() and meta["uri"] == row["uri"]
        event = row["event_time"]
        assert meta.get("event_time") == (None if event is None else event.strftime("%Y-%m-%dT%H:%M:%S.%fZ"))
        assert meta.get("error") == ("nan" if row["error"] is not None and np.isnan(row["error"]) else row["error"])
        assert meta.get("flags") == row["flags"] and meta.get("geometry") == (row["geometry"] and row["geometry"].hex())
        assert not {"tokens", "value", "t"} & meta.keys() and None not in meta.values()


@pytest.mark.parametrize("target", ["megatron", "litdata"])
def test_lineage_points_at_the_tokens_of_each_sample(target: Target, dataset: Dataset, made: Any) -> None:
    out, _ = made(target)
    for stream in ("tide", "quay.audio"):
        rows = read_table(out / stream / "lineage", "*.parquet")
        written = tokens_of(target, out, stream, "")
        assert [r["length"] for r in rows] == [len(w) for w in written]
        place: dict[int, list[int]] = {}
        for row, tokens in zip(rows, written, strict=True):
            shard = place.setdefault(row["shard"], [0, 0])
            assert [row["index"], row["offset"]] == shard
            shard[0], shard[1] = shard[0] + 1, shard[1] + row["length"]
            sample = dataset.sample(stream, row["lane"], row["seq"]).to_pylist()[0]
            assert sample["tokens"] == tokens and sample["record_id"].hex() == row["record_id"]
            assert (row["license"], row["source"], row["uri"]) == (sample["license"], sample["source"], sample["uri"])


def test_energons_index_points_at_samples_and_parts(made: Any) -> None:
    out, result = made("energon")
    folder = out / "tide"
    tars = sorted(folder.glob("*.tar"))
    info = json.loads((folder / ".nv-meta" / ".info.json").read_text())
    assert list(info["shard_counts"]) == [t.name for t in tars]
    assert sum(info["shard_counts"].values()) == result.manifest["streams"]["tide"]["samples"]
    with sqlite3.connect(folder / ".nv-meta" / "index.sqlite") as db:
        samples = db.execute("SELECT * FROM samples ORDER BY tar_file_id, sample_index").fetchall()
        parts = db.execute("SELECT * FROM sample_parts").fetchall()
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    at = 0
    for number, tar in enumerate(tars):
        starts = np.frombuffer(tar.with_suffix(".tar.idx").read_bytes(), "<u8").tolist()
        for index, (start, stop) in enumerate(itertools.pairwise(starts)):
            assert samples[at][0] == number and samples[at][2:] == (index, start, stop - start)
            at += 1
    assert at == len(samples) == len({s[1] for s in samples})
    data = [t.read_bytes() for t in tars]
    for number, _, name, offset, size in parts:
        body = data[number][offset : offset + size]
        assert json.loads(body) if name == "json" else body.startswith(b"\x93NUMPY")


def test_tar_headers_are_those_of_pythons_tarfile() -> None:
    for name, size in (("a.json", 0), ("x" * 95 + ".npy", 1), ("é.txt", (1 << 33) - 1), ("k.tokens.npy", 511)):
        info = tarfile.TarInfo(name)
        info.size = size
        assert header(name, size) == info.tobuf(tarfile.USTAR_FORMAT)
    assert len(part("a", b"x" * 513)) == 512 + 1024
    assert all((n + len(ending(n))) % 10_240 == 0 and len(ending(n)) >= 1024 for n in range(0, 30_000, 512))
    with pytest.raises(Exception, match="does not fit into a USTAR archive"):
        header("x" * 101, 1)
    with pytest.raises(Exception, match="does not fit into a USTAR archive"):
        header("x", 1 << 33)


def test_hugging_faces_files_name_each_other(made: Any) -> None:
    out, _ = made("huggingface")
    folder = out / "raw.raster"
    features = json.loads((folder / "dataset_info.json").read_text())["features"]
    state = json.loads((folder / "state.json").read_text())
    assert [f["filename"] for f in state["_data_files"]] == sorted(p.name for p in folder.glob("*.arrow"))
    with pa.ipc.open_stream(folder / "data-00000.arrow") as stream:
        assert list(features) == sorted(stream.schema.names) or set(features) == set(stream.schema.names)
        assert json.loads(stream.schema.metadata[b"huggingface"])["info"]["features"] == features
    assert features["record_id"] == {"dtype": "binary", "_type": "Value"}
    assert features["bands"]["feature"]["nodata"] == {"dtype": "float64", "_type": "Value"}


documents = st.lists(st.lists(st.integers(0, 65_535), max_size=12), min_size=1, max_size=12)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    documents=documents,
    target=st.sampled_from(TARGETS),
    size=st.integers(200, 3000),
    block=st.integers(100, 1000),
    eod=st.sampled_from(["none", 0, 65_535, 70_000]),
    wide=st.booleans(),
)
def test_any_documents_come_back_in_shards_of_any_size(
    documents: list[list[int]], target: Target, size: int, block: int, eod: Any, wide: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:  # fmt: skip
    kind = settings_for("s", "text", "uint32" if wide else "uint16", 65_536)
    maker = Maker(MemoryStore(), {"s": kind})
    half = len(documents) // 2
    maker.add("s", [{"tokens": d} for d in documents[:half]], lane=0, block_bytes=block) if half else None
    maker.add("s", [{"tokens": d} for d in documents[half:]], lane=3, block_bytes=block)
    dataset, out = Dataset(maker.store), tmp_path_factory.mktemp("any") / "out"
    options = ExportOptions(to=target, max_shard_bytes=size, eod=eod)
    empty = target not in NO_EMPTY
    if not empty and not any(documents):
        return
    result = export(dataset, out, options)
    mark = [] if eod == "none" else [eod]
    wanted = [d + mark for d in documents if d or empty]
    told = result.manifest["streams"]["s"]
    assert tokens_of(target, out, "s", told["dtype"]) == wanted
    assert told["samples"] == len(wanted) and told["tokens"] == sum(map(len, wanted))
    assert told["left_out"] == {"deleted": 0, "fold": 0, "empty": 0 if empty else documents.count([])}
    assert told["sum"] == sum(map(sum, wanted))
    assert told["end_of_document_inside"] == (0 if eod in ("none", 70_000) else sum(d.count(eod) for d in documents))
