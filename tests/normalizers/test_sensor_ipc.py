"""Arrow IPC files and streams: round trips, cut files, and bodies that declare more than they are."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.ingest.normalizers import sensor_ipc
from headrace.ingest.normalizers.sensor_testing import read


def batches(count: int = 5, rows: int = 700) -> list[pa.RecordBatch]:
    out = []
    for k in range(count):
        index = np.arange(k * rows, (k + 1) * rows)
        columns = [
            pa.array((index * 1000).tolist(), pa.timestamp("ms", "UTC")),
            pa.array(np.sin(index).tolist()),
            pa.array([f"w{i % 3}" for i in index]).dictionary_encode(),
        ]
        out.append(pa.RecordBatch.from_arrays(columns, names=["t", "v", "s"]))
    return out


def ipc(parts: list[pa.RecordBatch], *, file: bool, compression: str | None = None) -> bytes:
    sink = io.BytesIO()
    options = pa.ipc.IpcWriteOptions(compression=compression, emit_dictionary_deltas=not file)
    new = pa.ipc.new_file if file else pa.ipc.new_stream
    with new(sink, parts[0].schema, options=options) as writer:
        for part in parts:
            writer.write_batch(part)
    return sink.getvalue()


@pytest.mark.parametrize("file", [True, False])
@pytest.mark.parametrize("compression", [None, "zstd", "lz4"])
def test_files_and_streams_give_every_row(file: bool, compression: str | None) -> None:
    parts = batches(count=1) if file else batches()
    out = read(ipc(parts, file=file, compression=compression), "arrow_file" if file else "arrow_stream")
    table = pa.Table.from_batches(parts)
    assert out.error is None and out.bad == []
    assert out.channel("v")[1].tolist() == table["v"].to_pylist()
    assert out.channel("v")[0].tolist() == [t * 10**9 for t in range(table.num_rows)]
    assert len(out.text.splitlines()) == table.num_rows


@settings(max_examples=30, deadline=None)
@given(st.floats(0.3, 1.0, exclude_max=True))
def test_a_cut_stream_gives_its_whole_batches_and_says_that_it_was_cut(share: float) -> None:
    parts = [b.select(["t", "v"]) for b in batches()]
    data = ipc(parts, file=True)
    out = read(data[: int(len(data) * share)], "arrow_file")
    assert out.error is not None and out.error.reason in ("truncated", "corrupt")
    value = out.channel("v")[1].tolist() if out.records else []
    assert len(value) % 700 == 0 and value == pa.Table.from_batches(parts)["v"].to_pylist()[: len(value)]
    if len(value) % 512:
        assert "truncated" in out.records[-1]["flags"]


def test_a_compressed_body_that_declares_gigabytes_is_a_bomb() -> None:
    part = pa.RecordBatch.from_arrays([pa.array(np.zeros(1 << 16))], names=["v"])
    data = bytearray(ipc([part], file=False, compression="zstd"))
    at = data.find(struct.pack("<q", 8 << 16))
    assert at > 0
    data[at : at + 8] = struct.pack("<q", 1 << 40)
    out = read(bytes(data), "arrow_stream")
    assert out.error is not None and out.error.reason == "bomb" and str(1 << 40) in out.error.message


def test_a_real_bomb_of_zeros_is_refused_before_it_expands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensor_ipc, "FLOOR", 1 << 20)
    part = pa.RecordBatch.from_arrays([pa.array(np.zeros(4 << 20))], names=["v"])
    for file in (True, False):
        data = ipc([part], file=file, compression="zstd")
        assert len(data) < 10_000
        out = read(data, "arrow_file" if file else "arrow_stream")
        assert out.records == [] and out.error is not None and out.error.reason == "bomb"


def test_unusual_types_become_text() -> None:
    columns: dict[str, Any] = {
        "u": pa.UnionArray.from_sparse(pa.array([0, 1], pa.int8()), [pa.array([1, 2]), pa.array(["a", "b"])]),
        "m": pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int8())),
        "l": pa.array([[1.5], None], pa.list_(pa.float64(), 1)),
        "v": pa.array(["long enough to be out of line", None], pa.string_view()),
        "r": pa.RunEndEncodedArray.from_arrays(pa.array([2], pa.int32()), pa.array([7])),
    }
    out = read(
        ipc([pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))], file=False), "arrow_stream"
    )
    assert out.channel("r")[1].tolist() == [7, 7]
    assert (
        out.text
        == '{"l":[1.5],"m":{"k":1},"u":1,"v":"long enough to be out of line"}\n{"l":null,"m":null,"u":"b","v":null}\n'
    )
