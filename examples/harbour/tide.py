"""A connector for a tide gauge, which stores 12 bytes a reading: u32 seconds since 1970, f32 level, f32 wind."""

import struct
from pathlib import Path

import pyarrow as pa

from headrace.connectors.contract import Connector, ConnectorConfig, Item, Split
from headrace.schemas.pipeline import bytes_field

READING = struct.Struct("<Iff")


class TideGauge(Connector):
    class Config(ConnectorConfig):
        root: str = bytes_field(description="folder of the gauge's .tide files")

    def splits(self):
        for path in sorted(Path(self.config.root).glob("*.tide")):
            yield Split(path.name, weight=path.stat().st_size)

    def read(self, split, after):
        with open(Path(self.config.root) / split.id, "rb") as f:
            f.seek(after or 0)
            while block := f.read(512 * READING.size):
                rows = [{"t": t * 1000, "level": level, "wind": wind} for t, level, wind in READING.iter_unpack(block)]
                schema = pa.schema(
                    [("t", pa.timestamp("ms", tz="UTC")), ("level", pa.float32()), ("wind", pa.float32())]
                )
                yield Item(pa.RecordBatch.from_pylist(rows, schema), position=f.tell())
