"""Peak memory of builds of large inputs: it must not grow with the input.

    python benchmarks/memory.py                     JSON Lines of 0.25 and 1 GB, inline, two workers
    python benchmarks/memory.py --gb 5              … of 1.25 and 5 GB
    python benchmarks/memory.py --folder BIG        a folder of one's own, for example with the raster of benchmarks/raster.py --large
    python benchmarks/memory.py --pipeline P.yaml   … or a pipeline

The credit that a build is judged by: a decoding process may take `CREDIT_MIB` of memory of its own, itself included, and
the command `OWN_MIB`, whatever the size of the input. The input is written in the temporary folder and removed.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

from peak import Peak, peak_of

#: A decoding process of text: libraries, batches under way, blocks that wait to be written, or a fit set.
CREDIT_MIB = 256
#: The command: libraries, the log's state, one shard being checked (up to `shards.target_mib`), the catalogue's rows.
OWN_MIB = 512
#: How much more the large input may take than the quarter of it.
GROWTH = 1.10

WORDS = ["the", "of", "harbour", "tide", "lock", "ship", "wind", "water", "gate", "level", "quay", "rain", "salt", "pilot", "buoy", "light", "mast", "rope", "cargo", "crane"]


def make_jsonl(path: Path, size: int) -> None:
    """About `size` bytes of JSON Lines; documents of 50 B to 20 kB, each with an id of its own."""
    rng = random.Random(11)
    vocabulary = [rng.choice(WORDS) + rng.choice(["", "s", "ing", "er", "ed", "ly"]) for _ in range(4000)]
    bodies = [" ".join(rng.choices(vocabulary, k=int(10 ** rng.uniform(1, 3.5)))) for _ in range(512)]
    made = number = 0
    with open(path, "w", encoding="utf-8") as f:
        while made < size:
            block = "".join(
                f'{{"id":{number + i},"text":{json.dumps(bodies[(number + i) % 512] + " " + str(number + i))}}}\n'
                for i in range(512)
            )
            made += f.write(block)
            number += 512


def build(source: Path, out: Path, workers: int, engine: str) -> Peak:
    """Peak memory of `headrace build`."""
    command = [sys.executable, "-m", "headrace", "build", str(source), "--out", str(out), "--json"]
    return peak_of([*command, "--workers", str(workers), "--engine", engine])


def told(name: str, size: int, found: Peak) -> dict[str, Any]:
    """One row."""
    summary = json.loads(found.output)
    samples = sum(stream["samples"] for stream in summary["streams"])
    return {
        "work": name,
        "input_bytes": size,
        "seconds": found.seconds,
        "cpu": found.cpu,
        "tree_mib": found.tree / 2**20,
        "own_mib": found.own / 2**20,
        "child_mib": found.child / 2**20,
        "resident_mib": found.resident / 2**20,
        "processes": found.processes,
        "samples": samples,
        "meter": summary["meter"],
    }


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows, small input first."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="headrace-memory-") as root:
        own = options.pipeline or options.folder
        if own is not None:
            size = sum(p.stat().st_size for p in own.rglob("*") if p.is_file()) if own.is_dir() else 0
            found = build(own, Path(root) / "out", options.workers, options.engine)
            return [told(own.name, size, found)]
        for share in (0.25, 1.0):
            folder = Path(root) / f"in{share}"
            folder.mkdir()
            make_jsonl(folder / "big.jsonl", int(options.gb * share * 1e9))
            source = folder
            if options.tokenizer != "default":
                source = folder / "pipeline.yaml"
                source.write_text(
                    f"streams:\n  big:\n    source: {{type: files, root: {folder}, glob: '*.jsonl'}}\n"
                    f"    record: {{type: text}}\n    tokenizer: {{type: {options.tokenizer}}}\n"
                )
            found = build(source, Path(root) / f"out{share}", options.workers, options.engine)
            size = (folder / "big.jsonl").stat().st_size
            rows.append(told("jsonl", size, found))
            (folder / "big.jsonl").unlink()
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gb", type=float, default=1.0, help="size of the larger JSON Lines file")
    parser.add_argument("--tokenizer", default="bytes", help="bytes (the most output per input), default, …")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--engine", choices=["inline", "ray"], default="inline")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--pipeline", type=Path)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = measure(options)
    if options.json:
        json.dump(rows, sys.stdout)
        return
    print(f"{'work':<12} {'input MB':>9} {'s':>7} {'CPU s':>7} {'tree MiB':>9} {'command':>8} {'child':>8} {'mapped too':>11}")
    for row in rows:
        print(
            f"{row['work']:<12} {row['input_bytes'] / 1e6:9.0f} {row['seconds']:7.1f} {row['cpu']:7.1f}"
            f" {row['tree_mib']:9.0f} {row['own_mib']:8.0f} {row['child_mib']:8.0f} {row['resident_mib']:11.0f}"
        )
    if len(rows) > 1:
        growth = rows[1]["child_mib"] / rows[0]["child_mib"]
        print(f"four times the input: {growth:.2f} × the memory of a decoding process (flat up to {GROWTH:.2f})")
    kept = all(row["child_mib"] <= CREDIT_MIB and row["own_mib"] <= OWN_MIB for row in rows)
    print(f"credit of {CREDIT_MIB} MiB a decoding process and {OWN_MIB} MiB the command: {'kept' if kept else 'EXCEEDED'}")


if __name__ == "__main__":
    main()
