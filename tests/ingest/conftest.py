"""Inputs and pipelines of the engine tests."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headrace.ingest.pipeline_file import make_pipeline
from headrace.schemas.pipeline import Pipeline
from headrace.shards.dataset import Dataset
from headrace.shards.verify import Report, verify

PLUGINS = Path(__file__).with_name("plugins.py")


def write_lines(
    folder: Path, *, files: int = 6, lines: int = 120, orders: dict[tuple[int, int], str] | None = None, seed: int = 1
) -> None:
    """Files of random lines; `orders` appends words to the line (file, line)."""
    rng = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(files):
        rows = []
        for j in range(lines):
            words = " ".join("".join(rng.choice("abcdefgh") for _ in range(rng.randint(1, 9))) for _ in range(8))
            rows.append(f"{words} {i} {j} {(orders or {}).get((i, j), '')}".rstrip())
        (folder / f"f{i:02d}.txt").write_text("\n".join(rows) + "\n")


def lines_pipeline(folder: Path, **stream: Any) -> Pipeline:
    """A pipeline over `folder/in` with the plug-ins of this folder; cuts often, so that there is much to interrupt."""
    shutil.copy(PLUGINS, folder / "plugins.py")
    document = {
        "folds": {"validation": 0.1},
        "streams": {
            "lines": {
                "source": {"type": "./plugins.py:Lines", "root": str(folder / "in")},
                "record": {"type": "./plugins.py:Obedient", **stream.pop("record", {})},
                "tokenizer": {"type": "./plugins.py:Bytes"},
                "limits": {"time_s": 2, "memory_mib": 512},
                "shards": {"payload_mib": 0.004},
                **stream,
            }
        },
    }
    return make_pipeline(document, base=folder)


@pytest.fixture
def checked() -> Callable[[Path], tuple[Dataset, Report]]:
    """Opens a dataset and demands that verify finds nothing."""

    def check(path: Path) -> tuple[Dataset, Report]:
        dataset = Dataset.open(str(path))
        report = verify(dataset)
        assert report.problems == []
        return dataset, report

    return check


def texts(dataset: Dataset, stream: str = "lines") -> list[bytes]:
    """The tokens of every sample as bytes, in address order."""
    return [
        bytes(v.as_buffer() if hasattr(v, "as_buffer") else v.values.to_pylist())
        for b in dataset.batches(stream)
        for v in b.column("record_id")
    ]


def reasons(dataset: Dataset) -> dict[str, int]:
    """Quarantined rows by reason."""
    out: dict[str, int] = {}
    for _, batch in dataset.quarantine():
        for reason in batch.column("reason").to_pylist():
            out[reason] = out.get(reason, 0) + 1
    return out
