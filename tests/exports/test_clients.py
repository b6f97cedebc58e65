"""Every export is read by the package that it was written for: token sums and hashes equal to headrace's own reader's.

The readers run in `.venv-exports` and print what they saw; here it is compared. See scripts/export-clients.sh.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headrace.schemas.record import MODALITIES, PAYLOAD_COLUMN
from headrace.shards.dataset import Dataset
from headrace.shards.exports.export import ExportResult, export
from headrace.shards.exports.options import NO_EMPTY, TARGETS, TOKENS_ONLY, ExportOptions, Target
from headrace.shards.store_local import LocalStore

from ..shards.exporting import full_dataset
from .readers.sums import Seen

READERS = Path(__file__).parent / "readers"
READING = Path(__file__).parents[2] / "docs" / "reading.md"
READER = {t: "huggingface" if t == "parquet" else t for t in TARGETS}
PART = {"webdataset": "tokens.npy", "energon": "tokens.npy"}


@pytest.fixture(scope="session")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Several lanes and shards, empty samples, both token widths, raw streams of every modality."""
    return full_dataset(LocalStore(str(tmp_path_factory.mktemp("synthetic") / "dataset"), create=True))


def read(clients: Path, target: Target, out: Path, streams: dict[str, str]) -> dict[str, Any]:
    """What the client's reader printed of these streams; each names the column or part to look at."""
    asked = [f"{stream}={part}" for stream, part in streams.items()]
    command = [str(clients), str(READERS / f"read_{READER[target]}.py"), str(out), *asked]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    told = [line for line in done.stdout.splitlines() if line.startswith('{"streams"')]
    answer: dict[str, Any] = json.loads(told[-1])
    return answer


def own(
    dataset: Dataset, stream: str, target: Target, told: dict[str, Any], *, column: str = "tokens", fold: str = "all"
) -> Seen:
    """The same sums by headrace's own reader, through the marks and the shift that the manifest names."""
    rows = Seen()
    flat = Seen()
    joined: list[Any] = []
    for body, about in samples(dataset, stream, column):
        if (target in NO_EMPTY and column == "tokens" and not len(body)) or fold not in ("all", about["fold"]):
            continue
        if column == "tokens":
            body = np.concatenate([told["before"], np.asarray(body, np.int64) + told["shift"], told["after"]])
        rows.add(body, None if target == "megatron" else about)
        joined.append(body)
    if target == "litdata":  # its loader sees one row of tokens
        flat.add(np.concatenate(joined) if joined else np.empty(0, np.int64))
        return flat
    return rows


def samples(dataset: Dataset, stream: str, column: str) -> Iterator[tuple[Any, dict[str, Any]]]:
    for lane in sorted({s.lane for s in dataset.state.live_shards(stream)}):
        for found in dataset.located(stream, lane=lane):
            for seq, row in zip(found.seqs.tolist(), found.batch.to_pylist()):
                about = {**row, "record_id": row["record_id"].hex(), "stream": stream, "lane": lane, "seq": seq}
                value = row[column]
                if column == "value":
                    value = np.array(value).tobytes()
                yield value.encode() if isinstance(value, str) else value, about


def make(dataset: Dataset, target: Target, out: Path, **options: Any) -> ExportResult:
    return export(dataset, out, ExportOptions(to=target, **options))


@pytest.mark.parametrize("target", TARGETS)
def test_the_client_reads_every_token_stream_of_the_harbour(
    target: Target, clients: Path, harbour: Dataset, tmp_path: Path
) -> None:
    result = make(harbour, target, tmp_path / "out")
    told = {n: s for n, s in result.manifest["streams"].items() if s["dtype"]}
    assert {s["modality"] for s in told.values()} >= {"text", "image", "video", "audio", "sensor", "raster"}
    seen = read(clients, target, tmp_path / "out", dict.fromkeys(told, PART.get(target, "tokens")))
    for name, stream in told.items():
        assert seen["streams"][name] == own(harbour, name, target, stream).to_json(), name
        assert (seen["streams"][name]["tokens"], seen["streams"][name]["sum"]) == (stream["tokens"], stream["sum"])
    if target == "megatron":
        assert seen["same"] and seen["files"] == 2 * len(told), "IndexedDatasetBuilder writes other bytes"
    if target == "energon":
        assert seen["differ"] == [], "`energon prepare` makes other indexes"
        assert seen["blended"] == result.manifest["samples"]


@pytest.mark.parametrize("target", TARGETS)
def test_the_client_reads_many_shards_marks_and_the_unified_view(
    target: Target, clients: Path, synthetic: Dataset, tmp_path: Path
) -> None:
    size = 20_000 if target in ("webdataset", "energon") else 2500
    options = {"ids": "unified", "max_shard_bytes": size, "bos": 1, "fold": "train"}
    result = make(synthetic, target, tmp_path / "out", streams=("quay.audio", "tide"), **options)
    assert sum(1 for f in result.manifest["files"] if f.get("samples")) > 4
    asked = dict.fromkeys(("tide", "quay.audio"), PART.get(target, "tokens"))
    seen = read(clients, target, tmp_path / "out", asked)
    for name in asked:
        told = result.manifest["streams"][name]
        assert told["before"][0] == 1 and told["dtype"] == "int32"
        assert seen["streams"][name] == own(synthetic, name, target, told, fold="train").to_json()
    if target == "megatron":
        assert seen["same"] and seen["files"] > 4
    if target == "energon":
        assert seen["differ"] == []


@pytest.mark.parametrize("target", [t for t in TARGETS if t not in TOKENS_ONLY])
def test_the_client_reads_raw_media(target: Target, clients: Path, synthetic: Dataset, tmp_path: Path) -> None:
    columns = {f"raw.{m}": PAYLOAD_COLUMN[m] for m in MODALITIES}
    make(synthetic, target, tmp_path / "out", streams=tuple(columns))
    parts = {n: ("txt" if c == "text" else f"{c}.npy") if target in PART else c for n, c in columns.items()}
    seen = read(clients, target, tmp_path / "out", parts)
    for name, column in columns.items():
        found, wanted = seen["streams"][name], own(synthetic, name, target, {}, column=column).to_json()
        as_numbers = (column != "text" and target in PART) or (column == "value" and target not in ("mds", *PART))
        if as_numbers:  # not as bytes: those are compared in tests/shards/test_export_formats.py
            assert (found["samples"], found["about"]) == (wanted["samples"], wanted["about"]), name
        else:
            assert found == wanted, name


def test_datasets_reads_shards_as_they_lie(clients: Path, synthetic: Dataset, tmp_path: Path) -> None:
    """The block of docs/reading.md; the others are run by tests/shards/test_direct_reading.py."""
    section = READING.read_text(encoding="utf-8").partition("## Hugging Face datasets\n")[2]
    block = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert block
    (tmp_path / "DATASET").symlink_to(synthetic.store.url)
    tell = "\nprint([sum(len(r['tokens']) for r in rows) for rows in (in_memory, streamed)], len(in_memory))"
    done = subprocess.run(
        [str(clients), "-c", block.group(1) + tell], capture_output=True, text=True, cwd=tmp_path, check=False,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"HF_HOME": str(tmp_path / "hf")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    tokens = synthetic.streams()["tide"].tokens
    assert done.stdout.splitlines()[-1] == f"[{tokens}, {tokens}] {synthetic.streams()['tide'].rows}"
