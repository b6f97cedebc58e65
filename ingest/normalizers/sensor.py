"""Sensor readings of every kind: tables, tracks, flight logs and recordings of many topics, as windows of one channel.

What it yields: `sensor` records; `text` for what is no number (rows as JSON lines, log messages); from recordings
also `image`, `audio` and `tensor`. See sensor_series.py for the windows, sensor_clock.py for time, sensor_plan.py for
columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from headrace.connectors.contract import Blob, Item
from headrace.ingest.normalizers.contract import Bad, Limits, Normalized, Normalizer, blob_of
from headrace.ingest.normalizers.logs_mcap import McapLog
from headrace.ingest.normalizers.logs_rosbag1 import RosBag1
from headrace.ingest.normalizers.logs_rosbag2 import RosBag2
from headrace.ingest.normalizers.payload import OWN, Payloads
from headrace.ingest.normalizers.payload_rows import sensor_events
from headrace.ingest.normalizers.sensor_config import SensorConfig
from headrace.ingest.normalizers.sensor_csv import CsvTable
from headrace.ingest.normalizers.sensor_gpx import GpxLog
from headrace.ingest.normalizers.sensor_ipc import IpcTable
from headrace.ingest.normalizers.sensor_json import json_document, json_lines, lines_in, lines_of
from headrace.ingest.normalizers.sensor_messages import Messages, Reading, reading_batch
from headrace.ingest.normalizers.sensor_output import batches
from headrace.ingest.normalizers.sensor_parquet import ParquetTable
from headrace.ingest.normalizers.sensor_rows import BadRow
from headrace.ingest.normalizers.sensor_series import Draft
from headrace.ingest.normalizers.sensor_table import Chunk, Source, Table
from headrace.ingest.normalizers.sensor_ulog import UlogLog
from headrace.schemas.canonical import canonical_json
from headrace.schemas.errors import RecordError

Events = Iterator[Draft | Bad]


class SensorNormalizer(Normalizer):
    """`record: {type: sensor, time: t, channels: {level: m}}`."""

    Config = SensorConfig
    modality = "sensor"
    derived = ("text", "image", "audio", "tensor")
    whole_objects = True  # a window reaches over as many lines as it takes

    def __init__(self, config: Any, limits: Limits | None = None) -> None:
        super().__init__(config, limits)
        self._messages = Messages(config)
        self._payloads = Payloads(config.payload, self.limits)

    def open(self, item: Item) -> Iterator[Normalized]:
        """The records of one table, track or recording. Raises: RecordError."""
        yield from batches(_checked(self._events(item)))

    def rows(self, item: Item) -> Sequence[Reading] | None:
        """The records of a message that is one plain object."""
        data, name = item.data, self._payloads.name(item.headers.get("format") or "")
        if not isinstance(data, bytes) or len(data) > self.limits.max_bytes:
            return None
        if name == "json":
            return self._messages.read(data)
        value = self._payloads.single(name, data) if name in OWN else None
        return None if value is None else self._messages.read_object(value)

    def gather(self, rows: Sequence[Reading]) -> pa.RecordBatch:
        """The draft batch of records of one sample each."""
        return reading_batch(rows)

    def _events(self, item: Item) -> Events:
        if isinstance(item.data, pa.RecordBatch) and {"line", "byte"} <= set(item.data.schema.names):
            return json_lines(lines_in(item.data), self.config)
        if isinstance(item.data, pa.RecordBatch):
            return self._table(_Batch(item.data))
        blob = blob_of(item)
        name = self._payloads.name(item.headers.get("format") or "")
        if name in OWN:
            rows = self._payloads.rows(name, item, blob, points=True)
            return sensor_events(rows, self.config, time_source=self._payloads.time_source(name))
        reader = self._readers().get(name)
        if reader is None:
            raise RecordError(
                f"unsupported:{name or 'unknown'}",
                f"{name or 'a file without a known format'} holds no sensor readings that are known",
            )
        return reader(blob)

    def _readers(self) -> Mapping[str, Callable[[Blob], Events]]:
        return {
            "csv": lambda blob: self._csv(blob, tabs=False),
            "tsv": lambda blob: self._csv(blob, tabs=True),
            "text": lambda blob: self._csv(blob, tabs=False),
            "parquet": self._parquet,
            "arrow_file": lambda blob: self._ipc(blob, file=True),
            "arrow_stream": lambda blob: self._ipc(blob, file=False),
            "jsonl": lambda blob: json_lines(lines_of(blob), self.config),
            "json": lambda blob: json_document(blob, self.config, self.limits),
            "gpx": self._gpx,
            "ulog": self._ulog,
            "mcap": self._mcap,
            "rosbag1": self._rosbag1,
            "rosbag2": lambda blob: RosBag2(blob, self.config, self.limits).events(),
        }

    def _csv(self, blob: Blob, *, tabs: bool) -> Events:
        with blob.open() as stream:
            table = CsvTable(stream, self.config, tabs=tabs)
            if table.dialect.preamble.strip() and self.config.keeps_text:
                locator = canonical_json({"preamble": True}).decode()
                yield Draft("text", {"locator": locator, "text": table.dialect.preamble}, -1)
            yield from self._table(table)

    def _parquet(self, blob: Blob) -> Events:
        with ParquetTable(blob, self.limits) as table:
            for event in self._table(table):
                yield event
                while table.bad:
                    yield table.bad.pop(0)
            yield from table.bad

    def _ipc(self, blob: Blob, *, file: bool) -> Events:
        with IpcTable(blob, self.limits, file=file) as table:
            yield from self._table(table)

    def _gpx(self, blob: Blob) -> Events:
        with blob.open() as stream:
            yield from GpxLog(stream, self.config).events()

    def _ulog(self, blob: Blob) -> Events:
        with blob.open() as stream:
            yield from UlogLog(stream, blob.size, self.config).events()

    def _mcap(self, blob: Blob) -> Events:
        with blob.open() as stream:
            yield from McapLog(stream, blob.size, self.config, self.limits).events()

    def _rosbag1(self, blob: Blob) -> Events:
        with blob.open() as stream:
            yield from RosBag1(stream, blob.size, self.config, self.limits).events()

    def _table(self, source: Source) -> Events:
        """The records of a table; where its chunks end in damage, what is open gets the flag `truncated`."""
        table: Table | None = None
        waiting: list[BadRow] = []
        try:
            for chunk in source.chunks():
                if table is None:
                    if chunk.batch.num_rows == 0:
                        waiting += chunk.bad
                        continue
                    chunk.bad = [*waiting, *chunk.bad]
                    table = Table(chunk.batch, self.config, source)
                yield from table.add(chunk)
        except RecordError:
            if table is not None:
                yield from table.finish(("truncated",))
            raise
        if table is not None:
            yield from table.finish()
        elif waiting:
            raise RecordError(waiting[0].reason, f"no row can be read; {waiting[0].message}")


class _Batch:
    """A record batch of a connector as a table of one chunk."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        self.flags: tuple[str, ...] = ()
        self.units: dict[str, str] = {}
        self.position: tuple[str, str] | None = None
        self.max_text = 1 << 40
        self._batch = batch

    def chunks(self) -> Iterator[Chunk]:
        """The one chunk."""
        yield Chunk(self._batch, np.arange(self._batch.num_rows, dtype=np.int64))


def _checked(events: Events) -> Events:
    """The events, of which there must be one; what Arrow could not do becomes a RecordError."""
    count = 0
    try:
        for event in events:
            count += 1
            yield event
    except pa.ArrowNotImplementedError as exc:
        raise RecordError("unsupported:type", f"a column cannot be converted: {exc}") from exc
    except (pa.ArrowException, OverflowError) as exc:
        raise RecordError("corrupt", f"a column cannot be converted: {exc}") from exc
    except MemoryError as exc:
        raise RecordError("too_large", f"it asks for more memory than there is: {exc}") from exc
    if count == 0:
        raise RecordError("empty", "there is no row, message or point in it")
