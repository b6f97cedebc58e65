"""Hugging Face datasets: `datasets.load_from_disk("OUT/<stream>")`.

    OUT/<stream>/data-00000.arrow …      Arrow IPC streams, columns as in the shards, address first
    OUT/<stream>/dataset_info.json       features          OUT/<stream>/state.json       the files in order

Layout: Dataset.save_to_disk of datasets 4.8.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from headrace.schemas.errors import ConfigError, StorageError
from headrace.shards.exports.contract import Cut, FileLine
from headrace.shards.exports.mds import written
from headrace.shards.exports.outfile import OutFile, write_file
from headrace.shards.exports.parquet import fitting, main_column, sizes_of, totals_of
from headrace.shards.exports.pieces import Piece
from headrace.shards.exports.plan import StreamPlan
from headrace.shards.exports.tables import table_rows, table_schema
from headrace.shards.exports.totals import Totals

Rows = tuple[pa.RecordBatch, npt.NDArray[np.int64], Piece]


class HuggingFaceSink:
    """Writes one stream; see the module."""

    def __init__(self, plan: StreamPlan, out: Path, work: Path) -> None:
        self._plan, self._out, self._work = plan, out, work
        schema = table_schema(plan)
        self._features = features_of(schema)
        about = json.dumps({"info": {"features": self._features}}, sort_keys=True)
        self._schema = schema.with_metadata({**(plan.schema.metadata or {}), b"huggingface": about.encode()})
        self._limit = plan.options.shard_bytes or 0
        self._number = 0
        self._file: OutFile | None = None
        self._stream: Any = None
        self._size = 0
        self._totals = Totals()

    def restore(self, shards: int, open: dict[str, int]) -> None:
        self._number = shards

    def encode(self, piece: Piece) -> Rows:
        batch = table_rows(piece, self._plan, self._schema)
        return batch, sizes_of(batch), piece

    def add(self, rows: Rows, start: int) -> int:
        batch, sizes, piece = rows
        if self._file is None:
            self._file = OutFile(self._out, f"{self._plan.name}/data-{self._number:05d}.arrow", self._work / "arrow")
            self._stream = pa.ipc.new_stream(pa.PythonFile(self._file, mode="w"), self._schema)
        stop = fitting(sizes, start, self._limit - self._size, empty=not self._totals.samples)
        if stop > start:
            self._stream.write_batch(batch.slice(start, stop - start))
            self._size += int(sizes[start:stop].sum())
            self._totals = self._totals.plus(written(self._plan, piece, start, stop))
        return stop

    def cut(self, last: bool) -> Cut:
        if self._file is None:
            return Cut([])
        file, stream, totals = self._file, self._stream, self._totals
        self._file, self._stream, self._size, self._totals = None, None, 0, Totals()
        self._number += 1
        with file:
            stream.close()
            return Cut([file.publish(lambda path: read_arrow(path, main_column(self._plan)), totals)])

    def finish(self, shards: list[FileLine]) -> list[FileLine]:
        plan = self._plan
        info = {
            "citation": "",
            "description": f"The stream {plan.name} of a headrace dataset; see headrace-export.json beside its folder.",
            "features": self._features,
            "homepage": "",
            "license": plan.settings.license,
        }
        state: dict[str, Any] = {
            "_data_files": [{"filename": Path(line.path).name} for line in shards],
            "_fingerprint": plan.export_id[:16],
            "_format_columns": None,
            "_format_kwargs": {},
            "_format_type": None,
            "_output_all_columns": False,
            "_split": "train" if plan.options.fold == "all" else plan.options.fold,
        }
        files = (("dataset_info.json", info), ("state.json", state))
        texts = [(name, json.dumps(value, indent=2, sort_keys=True).encode()) for name, value in files]
        return [write_file(self._out, f"{plan.name}/{name}", self._work / name, text) for name, text in texts]


def features_of(schema: pa.Schema) -> dict[str, Any]:
    """The schema in the words of `datasets.Features`. Raises: ConfigError for a type that it does not know."""
    return {field.name: _feature(field.type, field.name) for field in schema}


def _feature(kind: pa.DataType, name: str) -> dict[str, Any]:
    if pa.types.is_struct(kind):
        return {kind.field(i).name: _feature(kind.field(i).type, name) for i in range(kind.num_fields)}
    if pa.types.is_large_list(kind):
        return {"feature": _feature(kind.value_type, name), "_type": "LargeList"}
    if pa.types.is_list(kind):
        return {"feature": _feature(kind.value_type, name), "_type": "List"}
    renamed = {"float": "float32", "double": "float64", "halffloat": "float16"}
    if pa.types.is_fixed_size_binary(kind) or pa.types.is_dictionary(kind) or pa.types.is_map(kind):
        raise ConfigError(f"column `{name}` has the type {kind}, which Hugging Face datasets do not hold", field="--to")
    return {"dtype": renamed.get(str(kind), str(kind)), "_type": "Value"}


def read_arrow(path: Path, main: str) -> Totals:
    """Totals of a file. Raises: StorageError."""
    totals = Totals()
    try:
        with pa.memory_map(str(path)) as file, pa.ipc.open_stream(file) as stream:
            for batch in stream:
                totals = totals.plus(totals_of(batch, main))
    except (pa.ArrowException, OSError) as exc:
        raise StorageError(f"{path} cannot be read back: {exc}") from exc
    return totals
