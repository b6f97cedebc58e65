"""Reads one file through the sensor normalizer and gives plain rows: for tests, and for looking at a file by hand.

read(b"t,v\\n2020-01-01,1\\n", "csv").channel("v")      → times in ns, values, validity of the whole channel
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from headrace.connectors.contract import BytesBlob, Item, PathBlob
from headrace.connectors.sniff import sniff_stream
from headrace.ingest.normalizers.contract import Bad, Limits
from headrace.ingest.normalizers.sensor import SensorNormalizer
from headrace.schemas.errors import RecordError
from headrace.schemas.record import list_views, modality_of, payload_views


@dataclass
class Read:
    """What came out, in order: records as dicts of their columns with `modality`, bad pieces, and how it ended."""

    records: list[dict[str, Any]] = field(default_factory=list)
    bad: list[Bad] = field(default_factory=list)
    error: RecordError | None = None

    def of(self, modality: str) -> list[dict[str, Any]]:
        """The records of one modality."""
        return [r for r in self.records if r["modality"] == modality]

    @property
    def channels(self) -> list[str]:
        """The names of all channels, in order of their first record."""
        return list(dict.fromkeys(r["channel"] for r in self.of("sensor")))

    def channel(
        self, name: str, device: str | None = None
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
        """(t in ns, value, valid) of all windows of a channel, joined."""
        rows = [r for r in self.of("sensor") if r["channel"] == name and r["device"] == device]
        if not rows:
            raise KeyError(f"no channel {name!r} of device {device!r}; there are {self.channels}")
        return tuple(np.concatenate([r[column] for r in rows]) for column in ("t", "value", "valid"))  # type: ignore[return-value]

    def flags(self) -> dict[str, int]:
        """Flag → its count over all records, or how many records bear it."""
        out: dict[str, int] = {}
        for record in self.records:
            for flag in record["flags"] or ():
                name, _, count = flag.partition(":")
                out[name] = out.get(name, 0) + int(count or 1)
        return out

    @property
    def text(self) -> str:
        """All text, joined."""
        return "".join(r["text"] for r in self.of("text"))


def read(source: bytes | str | Path, format: str | None = None, limits: Limits | None = None, **settings: Any) -> Read:
    """Every record of a file (a Path) or of its bytes; without a format it is sniffed."""
    if isinstance(source, str):
        source = source.encode()
    blob = PathBlob(source.name, source) if isinstance(source, Path) else BytesBlob("test", source)
    if format is None:
        with blob.open() as stream:
            format = sniff_stream(stream, blob.name).name
    normalizer = SensorNormalizer(SensorNormalizer.Config(**settings), limits)
    out = Read()
    try:
        for batch in normalizer.open(Item(blob, 0, headers={"format": format})):
            if isinstance(batch, Bad):
                out.bad.append(batch)
                continue
            batch.validate(full=True)
            out.records += _rows(batch)
    except RecordError as exc:
        out.error = exc
    return out


def _rows(batch: Any) -> list[dict[str, Any]]:
    modality = modality_of(batch)
    arrays = {"sensor": ("t", "value", "valid"), "text": (), "audio": ("samples",), "tensor": ("data",)}.get(
        modality, ("pixels",)
    )
    plain = [name for name in batch.schema.names if name not in arrays and name not in ("event_time", "event_end")]
    rows = batch.select(plain).to_pylist()
    for name in ("event_time", "event_end"):
        for row, micros in zip(rows, batch.column(name).cast("int64").to_pylist()):
            row[name] = micros
    for name in arrays:
        views = list_views(batch, name) if modality == "sensor" else payload_views(batch, name)
        for row, view in zip(rows, views):
            row[name] = view
    return [{"modality": modality, **row} for row in rows]
