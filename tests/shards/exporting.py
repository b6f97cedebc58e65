"""Datasets for the tests of exports: token streams of any size, and raw streams of every modality."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from headrace.schemas.record import MODALITIES, Modality
from headrace.schemas.sample import sample_schema
from headrace.shards.books import Books, SplitCounts, StreamCounts
from headrace.shards.dataset import Dataset
from headrace.shards.entry import Entry, Place, PlaceMove, Range, StreamSettings, split_digest
from headrace.shards.log import CommitLog
from headrace.shards.store import Store
from headrace.shards.writer import ShardWriter, shard_metadata

Dtype = Literal["uint16", "uint32"] | None
SPLIT = split_digest("a")


def settings_for(
    name: str, modality: Modality = "text", tokens: Dtype = "uint16", vocab_size: int = 50_000
) -> StreamSettings:
    """Settings of a stream with a tokenizer of its own."""
    digest = hashlib.sha256(repr((name, modality, tokens, vocab_size)).encode()).hexdigest()
    fingerprint = None if tokens is None else hashlib.sha256(f"tokenizer of {name}".encode()).hexdigest()
    return StreamSettings(
        digest, modality, tokenizer=fingerprint, tokens=tokens, vocab_size=None if tokens is None else vocab_size,
        license="CC-BY-4.0",
    )  # fmt: skip


class Maker:
    """Appends shards of given samples to a dataset, lane by lane."""

    def __init__(self, store: Store, settings: dict[str, StreamSettings]) -> None:
        self.store = store
        self.log = CommitLog(store)
        self.log.claim({"pyarrow": "1"}, settings)
        self._settings = settings

    def schema(self, stream: str) -> pa.Schema:
        """Of the stream's shards."""
        s = self._settings[stream]
        return sample_schema(s.modality, s.tokens, shard_metadata(stream, s.digest, s.tokenizer))  # type: ignore[arg-type]

    def add(
        self, stream: str, rows: Sequence[dict[str, Any]] | pa.RecordBatch, *, lane: int = 0, block_bytes: int = 4 << 20
    ) -> None:
        """One shard of these samples, committed. Rows name the columns that matter; the others are filled in."""
        schema = self.schema(stream)
        split = f"a{lane}"
        digest = split_digest(split)
        place = self.log.state.place(stream, lane, digest)
        first = place.position if place else 0
        if isinstance(rows, pa.RecordBatch):
            batch = rows
        else:
            full = [filled(schema, stream, lane, first + i, row) for i, row in enumerate(rows)]
            batch = pa.RecordBatch.from_pylist(full, schema=schema)
        count, start = batch.num_rows, place.position if place else None
        with ShardWriter(
            self.store, stream, lane, self.log.state.epoch, schema, target_block_bytes=block_bytes
        ) as writer:
            writer.append(batch)
            info = writer.close([Range(digest, start, 0, first + count, 0, count)])
        self.log.append(
            Entry(
                kind="commit",
                add=[info],
                places=[PlaceMove(stream, lane, Place(position=first + count), place, digest)],
                books=Books(
                    [SplitCounts(stream, digest, start, 0, first + count, 0, count, count, 0)],
                    {stream: StreamCounts(count, count, tokens=info.tokens)},
                ),
            )
        )


def filled(schema: pa.Schema, stream: str, lane: int, number: int, row: dict[str, Any]) -> dict[str, Any]:
    """A whole row: provenance that follows from stream, lane and number, and what `row` says."""
    digest = hashlib.sha256(f"{stream} {lane} {number}".encode()).digest()
    base: dict[str, Any] = {field.name: None for field in schema}
    base.update(
        record_id=digest[:16],
        source="files",
        uri=f"{stream}/{lane}.bin",
        split=f"a{lane}",
        position=str(number + 1),
        content_sha256=digest,
        fold="validation" if digest[0] < 48 else "train",
        group_id=f"g{number // 2}",
        locator=f'{{"line":{number}}}',
        license="CC-BY-4.0" if number % 2 else "NOASSERTION",
        event_time=1_700_000_000_000_000 + number if number % 5 else None,
        flags=["truncated"] if number % 7 == 0 else [] if number % 7 == 1 else None,
        error=[0.5, float("nan"), None][number % 3],
        clip_fraction=0.25,
        geometry=b"\x01\x02" if number % 4 == 0 else None,
    )
    return {**base, **row}


def raw_rows(modality: Modality, count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Payloads of a raw stream, of shapes and dtypes that vary."""
    rng = np.random.default_rng(seed)
    return [_raw_row(modality, i, rng) for i in range(count)]


def _raw_row(modality: Modality, i: int, rng: np.random.Generator) -> dict[str, Any]:
    def array(shape: tuple[int, ...], dtype: str) -> dict[str, Any]:
        values = rng.integers(0, 200, shape).astype(dtype)
        return {"shape": list(shape), "dtype": dtype, "_": values.tobytes()}

    if modality == "text":
        return {"text": "Grüße €𝄞 " * i, "language": "de"}
    if modality == "image":
        made = array((2 + i, 3, 3), "uint8")
        return {**made, "pixels": made.pop("_"), "mode": "RGB"}
    if modality == "video":
        made = array((1 + i % 3, 2, 2, 3), "uint8")
        times = {"pts": [0, 512, 1024][: 1 + i % 3], "time_base_num": 1, "time_base_den": 1024}
        return {**made, "pixels": made.pop("_"), **times}
    if modality == "audio":
        made = array((5 * i, 1), ["int16", "float32"][i % 2])
        return {**made, "samples": made.pop("_"), "rate": 16_000}
    if modality == "sensor":
        n = 1 + i % 4
        t = [1_700_000_000_000_000_000 + 7 * k for k in range(n)]
        value = [float("nan") if k == 1 else k / 3 for k in range(n)]
        return {"t": t, "value": value, "valid": [k != 1 for k in range(n)], "channel": "level", "unit": "m"}
    if modality == "raster":
        made = array((2, 3, 2 + i), "uint16")
        mask = bytes([1, 0] * (3 * (2 + i) // 2) + [1] * (3 * (2 + i) % 2))
        band = {"name": "red", "wavelength_nm": 665.0, "nodata": float("nan"), "scale": 1e-4, "offset": 0.0}
        return {
            **made, "pixels": made.pop("_"), "bands": [band, {**band, "name": "nir", "nodata": None}], "valid": mask,
            "cloud": mask if i % 2 else None, "crs": "EPSG:32635", "transform": [10.0, 0.0, 1.0, 0.0, -10.0, 2.0],
        }  # fmt: skip
    made = array((), "float64") if i == 0 else array((i, 0 if i == 1 else 2), "float64")
    return {**made, "data": made.pop("_"), "dims": ["x"]}


def token_rows(count: int, seed: int = 0, *, longest: int = 60, vocab_size: int = 50_000) -> list[dict[str, Any]]:
    """Samples of 0 to `longest` tokens."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, longest + 1, count)
    return [{"tokens": rng.integers(0, vocab_size, n).tolist()} for n in lengths.tolist()]


def full_dataset(store: Store) -> Dataset:
    """Token streams of both widths in several lanes and shards, and a raw stream of each modality."""
    settings = {
        "tide": settings_for("tide", "sensor", "uint16", 50_000),
        "quay.audio": settings_for("quay.audio", "audio", "uint32", 100_000),
        **{f"raw.{m}": settings_for(f"raw.{m}", m, None) for m in MODALITIES},
    }
    maker = Maker(store, settings)
    sensor = {"channel": "level"}
    audio = {"shape": [1, 1], "dtype": "int16", "rate": 8000}
    for turn in range(3):
        for lane in (0, 2):
            rows = [{**sensor, **row} for row in token_rows(40, 10 * turn + lane)]
            maker.add("tide", rows, lane=lane, block_bytes=2000)
        rows = [{**audio, **row} for row in token_rows(15, 7 + turn, vocab_size=100_000)]
        maker.add("quay.audio", rows, lane=1, block_bytes=3000)
    for modality in MODALITIES:
        maker.add(f"raw.{modality}", raw_rows(modality, 7), block_bytes=400)
    return Dataset(store)


def digest_of_folder(folder: Path, *, but: Callable[[str], bool] = lambda name: False) -> dict[str, str]:
    """sha256 of every file by its name in the folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not but(str(path.relative_to(folder)))
    }


def bodies(dataset: Dataset, stream: str, *, fold: str = "all", empty: bool = True) -> Iterator[list[int]]:
    """The tokens of each sample as the dataset's own reader gives them."""
    for batch in dataset.batches(stream, ["tokens", "fold"]):
        for row in batch.to_pylist():
            if (fold in ("all", row["fold"])) and (empty or row["tokens"]):
                yield row["tokens"]
