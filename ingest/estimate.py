"""What a build would read and make, judged from a sample that is really built, in a temporary folder.

Each source contributes the splits with the lowest sha256 of their id, up to a few MiB; what they gave is scaled by
bytes. Nothing is written where the dataset will be.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from headrace.ingest.inline_engine import run_inline
from headrace.ingest.plan import lane_count, list_splits, sample_splits
from headrace.ingest.resolve import Runtime, resolve
from headrace.schemas.pipeline import Pipeline
from headrace.shards.dataset import Dataset

SAMPLE_BYTES = 8 << 20


def estimate(
    pipeline: Pipeline, base: Path, *, workers: int | None = None, sample_bytes: int = SAMPLE_BYTES
) -> dict[str, Any]:
    """Per source: splits, bytes, lanes, the sample's share, and the scaled samples, tokens, bytes and seconds.

    Raises: ConfigError, SourceError.
    """
    streams = resolve(pipeline, base)
    count = workers or os.cpu_count() or 1
    listings = {}
    for name, stream in streams.items():
        connector = stream.make_connector()
        try:
            listings[name] = list_splits(name, connector.splits())
        finally:
            connector.close()
    with tempfile.TemporaryDirectory(prefix="headrace-dry-run-") as folder:
        runtime = Runtime.of(pipeline, f"{folder}/dataset", base)
        summary = run_inline(runtime.to_json(), workers=count, watch=lambda progress: None, sample_bytes=sample_bytes)
        dataset = Dataset.open(f"{folder}/dataset")
        infos = dataset.streams()
        rows = []
        for name, stream in streams.items():
            listing = listings[name]
            sample = sample_splits(listing, sample_bytes)
            total, taken = sum(s.weight for s in listing), sum(s.weight for s in sample)
            scale = total / taken if taken else 0.0
            outputs = []
            for output in stream.outputs.values():
                info = infos.get(output.name)
                counts = dataset.state.streams.get(output.name)
                if counts is None or not counts.records:
                    continue
                outputs.append(
                    {
                        "stream": output.name,
                        "modality": output.modality,
                        "tokenizer": output.tokenizer_type,
                        "samples": round(counts.samples * scale),
                        "tokens": round(counts.tokens * scale),
                        "bytes": round(info.bytes * scale) if info else 0,
                        "quarantined": round(counts.quarantined * scale),
                    }
                )
            seconds = summary["seconds"].get(name, {}).get("total", 0.0)
            rows.append(
                {
                    "source": name,
                    "reads": stream.spec.source.model_dump(mode="json", exclude={"storage_options"}),
                    "splits": len(listing),
                    "bytes": total,
                    "lanes": lane_count(listing, stream.spec.shards) if listing else 0,
                    "sampled_splits": len(sample),
                    "sampled_bytes": taken,
                    "core_seconds": round(seconds * scale, 1),
                    "outputs": outputs,
                }
            )
        return {
            "workers": count,
            "sources": rows,
            "errors": summary["errors"],
            "seconds": round(sum(r["core_seconds"] for r in rows) / count, 1),
        }
