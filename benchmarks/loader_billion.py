"""First batch and memory on a dataset of 10^9 samples: the log and its checkpoint are whole, the files repeat.

    python benchmarks/loader_billion.py [--samples 1e9] [--folder KEEP] [--json]

What is real: the log with every entry, the checkpoint, the block table (a third of a million blocks of 4 MiB, 4,000
shards), each shard's path, sizes and checksums, and every byte that is read and hashed. What is synthetic: all shard
files are hard links to one, so that 1.4 TB take 0.4 GB, and a window's pages are in the page cache.

Each row is a process of its own, clocked from before `ShardDataset(…)` to the first batch of 8 x 2,048 shuffled tokens;
memory is the most the process had resident, with the mapped pages of the window that it hashed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent / "loader_peers"))

import corpus as documents
import feed_headrace as ours
from contender import Contender

from headrace.shards.entry import Range, split_digest
from headrace.shards.log import CommitLog
from headrace.shards.names import shard_name
from headrace.shards.store import open_store
from headrace.shards.testing import settings_of

SAMPLES = 10**9
_PER_COMMIT = 3  # shards: more than a thousand commits, so that entries follow a checkpoint
WINDOWS_MIB = (256, 64)


def make(folder: Path, samples: int) -> dict[str, int]:
    """Write the dataset into `folder/headrace`; gives back its counts."""
    documents.make(folder / "corpus", (ours.SHARD + 2000) * documents.MEAN)
    root = folder / "headrace"
    root.mkdir()
    store = open_store(str(root))
    log = CommitLog(store)
    log.claim({}, {ours.STREAM: settings_of(ours.STREAM)})
    real = ours.shard(store, log, documents.read(folder / "corpus"), 0, ours.SHARD)
    split, total, made = split_digest(ours.SPLIT), -(-samples // real.rows), 0
    while made < total:
        first, shards = made * real.rows, []
        for i in range(made, min(made + _PER_COMMIT, total)):
            path = shard_name(ours.STREAM, 0, log.state.epoch, i)
            os.link(root / real.path, root / path)
            at = i * real.rows
            shards.append(replace(real, path=path, ranges=[Range(split, at or None, 0, at + real.rows, 0, real.rows)]))
        ours.commit(log, shards, first)
        made += len(shards)
    counts = {"samples": made * real.rows, "tokens": made * real.tokens, "blocks": made * len(real.blocks)}
    log.end()
    counts |= {"shards": made, "versions": log.state.v}
    (folder / "counts.json").write_text(json.dumps(counts))
    return counts


def measure(folder: Path, samples: int = SAMPLES, times: int = 3) -> dict[str, Any]:
    """Rows by window size, and a table."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / "counts.json"
    counts = json.loads(kept.read_text()) if kept.exists() else make(folder, samples)
    rows = {}
    for window in WINDOWS_MIB:
        runs = []
        for seed in range(times):
            contender = Contender("headrace", folder, sys.executable)
            case = {"shuffle": True, "window_mib": window, "seed": seed}
            run = contender.ask(do="run", seconds=0.0, case=case)
            runs.append({**run, "imports_mb": contender.ready["peak_mb"]})
            contender.close()
        keys = ("first_s", "first_cpu", "peak_mb", "own_mb", "imports_mb")
        rows[window] = {key: statistics.median(run[key] for run in runs) for key in keys}
    lines = [
        f"{counts['samples']:,} samples, {counts['tokens'] / 1e9:,.0f} G tokens, {counts['blocks']:,} blocks,"
        f" {counts['shards']:,} shards, {counts['versions']:,} versions; medians of {times} processes.",
        "",
        "| 10^9 samples, window, MiB | first batch, s | CPU s | peak RSS, MB | own, MB | after imports, MB |",
        "|---:|---:|---:|---:|---:|---:|",
    ]
    for window, row in rows.items():
        lines.append(
            f"| {window} | {row['first_s']:.2f} | {row['first_cpu']:.2f} | {row['peak_mb']:.0f} | {row['own_mb']:.0f} |"
            f" {row['imports_mb']:.0f} |"
        )
    return {"counts": counts, "rows": rows, "lines": lines}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=float, default=SAMPLES)
    parser.add_argument("--folder", type=Path, help="keep the data here and use it again")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = options.folder
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="headrace-billion-")))
        found = measure(folder, int(options.samples))
    print(json.dumps(found) if options.json else "\n".join(found["lines"]))


if __name__ == "__main__":
    main()
