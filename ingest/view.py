"""Looks into a dataset with codecs at hand: samples as Arrow, tokens decoded, originals read again, and where from.

`shards/dataset.py` reads what is stored and knows no codec; this file adds what needs tokenizers and connectors.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from headrace.connectors.contract import Item, Split
from headrace.connectors.registry import connector_class
from headrace.ingest.artefacts import read_artefact
from headrace.ingest.normalizers.registry import normalizer_class
from headrace.ingest.place import position_key
from headrace.ingest.plan import read_sources
from headrace.schemas.errors import ConfigError, HeadraceError, SourceError
from headrace.schemas.record import draft_schema, list_views, modality_of
from headrace.schemas.sample import BULK
from headrace.shards.dataset import Dataset, StreamInfo
from headrace.shards.log import CommitLog
from headrace.shards.origin import origin
from headrace.tokenizers.contract import Tokenizer
from headrace.tokenizers.registry import load


@dataclass(frozen=True)
class Address:
    """(stream, lane, seq): where a sample stands, for ever. Written `stream/L0003/17`."""

    stream: str
    lane: int
    seq: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Reads `stream/lane/seq`, the lane as 3 or L0003. Raises: ConfigError."""
        try:
            stream, lane, seq = text.rsplit("/", 2)
            return cls(stream, int(lane.removeprefix("L")), int(seq))
        except ValueError as exc:
            raise ConfigError(
                f"`{text}` is not the address of a sample: STREAM/LANE/SEQ is expected, such as photos/L0003/17"
            ) from exc

    def __str__(self) -> str:
        return f"{self.stream}/L{self.lane:04d}/{self.seq}"


class DatasetView:
    """A dataset at one version."""

    def __init__(self, dataset: Dataset, base: Path | None = None) -> None:
        self.dataset = dataset
        self._base = base
        self._tokenizers: dict[str, Tokenizer | None] = {}

    @classmethod
    def open(cls, url: str, version: int | str | None = None, base: Path | None = None) -> DatasetView:
        """The dataset at `url`. Raises: StorageError, BrokenLog, FormatTooNew."""
        return cls(Dataset.open(url, version), base)

    @property
    def name(self) -> str:
        """`<dataset>@<digest>`: cites exactly this content."""
        return self.dataset.name

    def streams(self) -> dict[str, StreamInfo]:
        """Every stream in numbers."""
        return self.dataset.streams()

    def samples(self, stream: str, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Samples as Arrow batches in address order. Raises: KeyError for an unknown stream; ShardError."""
        return self.dataset.batches(stream, columns)

    def tokenizer(self, stream: str) -> Tokenizer | None:
        """The stream's tokenizer, None when it passes records through. Raises: TokenizerError."""
        if stream not in self._tokenizers:
            settings = self.dataset.state.settings[self._known(stream)]
            if settings.tokenizer is None:
                self._tokenizers[stream] = None
            else:
                artefact = read_artefact(self.dataset.store, settings.tokenizer)
                self._tokenizers[stream] = load(artefact, settings.detail["tokenizer"]["type"], self._base)
        return self._tokenizers[stream]

    def sample(self, address: Address) -> pa.RecordBatch:
        """One sample. Raises: ConfigError if there is none."""
        try:
            return self.dataset.sample(self._known(address.stream), address.lane, address.seq)
        except KeyError as exc:
            raise ConfigError(str(exc.args[0])) from exc

    def addresses(self, stream: str) -> Iterator[Address]:
        """The addresses of a stream's samples, in order."""
        name = self._known(stream)
        for found in self.dataset.located(name):
            for seq in found.seqs.tolist():
                yield Address(name, found.shard.lane, seq)

    def nth(self, stream: str, row: int) -> Address:
        """The address of the n-th sample of a stream, from 0. Raises: ConfigError if there are fewer."""
        left = row
        for shard in self.dataset.state.live_shards(self._known(stream)):
            if left < shard.rows:
                for found in self.dataset.located(stream, lane=shard.lane, start=shard.first_seq, stop=shard.stop_seq):
                    if left < len(found.seqs):
                        return Address(stream, shard.lane, int(found.seqs[left]))
                    left -= len(found.seqs)
            left -= shard.rows
        raise ConfigError(f"{stream} has {row - left} samples, so there is no row {row}")

    def decode(self, sample: pa.RecordBatch, stream: str) -> pa.RecordBatch:
        """The draft rebuilt from tokens alone, or the raw payload, with the sample's own place and time beside it."""
        tokenizer = self.tokenizer(stream)
        settings = self.dataset.state.settings[stream]
        schema = draft_schema(settings.modality)  # type: ignore[arg-type]
        if tokenizer is None:
            return pa.RecordBatch.from_arrays([sample.column(f.name) for f in schema], schema=schema)
        decoded = tokenizer.decode([np.asarray(v) for v in list_views(sample, "tokens")])
        rebuilt = BULK | {"shape", "dtype"}
        if settings.modality == "raster" and len(sample.column("bands")[0]) != len(decoded.column("bands")[0]):
            rebuilt |= {"bands"}  # a complex band was tokenized as two
        kept = set(sample.schema.names) - rebuilt
        columns = [sample.column(f.name) if f.name in kept else decoded.column(f.name) for f in schema]
        return pa.RecordBatch.from_arrays(columns, schema=schema)

    def original(self, sample: pa.RecordBatch, stream: str) -> pa.RecordBatch:
        """The draft that a sample was made of, read from its source again.

        Raises: SourceError if the source is not there any more, or is not what it was.
        """
        row = {name: sample.column(name)[0].as_py() for name in ("split", "position", "locator", "uri")}
        settings = self.dataset.state.settings[stream]
        sources = read_sources(self.dataset.store, self.dataset.state.plan.get(settings.source or stream, []))
        if row["split"] not in sources:
            raise SourceError(f"the dataset does not say where {row['uri']} lies")
        source, pin = sources[row["split"]]
        connector_type = connector_class(source["type"], self._base)
        connector = connector_type(
            connector_type.Config.model_validate({k: v for k, v in source.items() if k != "type"})
        )
        record = dict(settings.detail["record"])
        record.pop("code", None)
        normalizer_type = normalizer_class(record.pop("type"), self._base)
        normalizer = normalizer_type(normalizer_type.Config.model_validate(record))
        try:
            for read in connector.read(Split(row["split"], pin), None):
                if not isinstance(read, Item) or position_key(read.position) != row["position"]:
                    continue
                for draft in normalizer.open(read):
                    if not isinstance(draft, pa.RecordBatch) or modality_of(draft) != settings.modality:
                        continue
                    for i, locator in enumerate(draft.column("locator").to_pylist()):
                        if locator == row["locator"]:
                            return draft.slice(i, 1)
        except (HeadraceError, OSError) as exc:
            raise SourceError(f"{row['uri']} cannot be read again: {exc}") from exc
        finally:
            connector.close()
        raise SourceError(f"{row['uri']} holds no record at {row['locator']} any more")

    def why(self, address: Address) -> dict[str, Any]:
        """Where a sample came from: source, position, license, transforms, tokenizer, and the commit that added it."""
        self._known(address.stream)
        try:
            return origin(self.dataset, address.stream, address.lane, address.seq)
        except KeyError as exc:
            raise ConfigError(str(exc.args[0])) from exc

    def _known(self, stream: str) -> str:
        if stream not in self.dataset.state.settings:
            raise ConfigError(
                f"there is no stream `{stream}`; there are {', '.join(sorted(self.dataset.state.settings))}",
                value=stream,
            )
        return stream


def head_versions(url: str) -> list[str]:
    """The digests of all entries, oldest first."""
    dataset = Dataset.open(url)
    return [digest for _, digest in CommitLog(dataset.store).entries(stop=dataset.version)]
