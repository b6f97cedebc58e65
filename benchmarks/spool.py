"""The spool against a bare loop of write + fsync and read, in one run on one disk.

    python benchmarks/spool.py [--folder DIR] [--seconds 1.5] [--json]

The bare loop is what one would write in five lines: a length, the bytes, an fsync for each batch; and reading them back.
It keeps no key, time or headers, checks nothing and seals nothing. Both take turns; medians are printed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import struct
import tempfile
import time
from pathlib import Path
from typing import Any

from headrace.connectors.contract import Item
from headrace.ingest.spool import SpoolSettings
from headrace.ingest.spool_reader import SpoolReader
from headrace.ingest.spool_writer import SpoolWriter

#: (bytes of a message, messages in a batch)
SHAPES = [(200, 1), (200, 100), (200, 1000), (10_000, 100), (1 << 20, 4)]
SETTINGS = SpoolSettings(max_bytes=64 << 30)


def batch_of(size: int, count: int) -> list[Item]:
    headers = {"topic": "harbour/tide/7", "format": "json"}
    return [Item(os.urandom(size), i, key=f"message-{i}", event_time=1_700_000_000_000_000 + i, headers=headers) for i in range(count)]


def bare(folder: Path, batch: list[Any], seconds: float) -> tuple[float, float]:
    """(messages/s written, messages/s read)."""
    path, done = folder / "bare", 0
    began = time.perf_counter()
    with open(path, "ab", buffering=0) as f:
        while time.perf_counter() - began < seconds:
            f.write(b"".join(part for item in batch for part in (struct.pack("<I", len(item.data)), item.data)))
            os.fdatasync(f.fileno())
            done += len(batch)
    written = done / (time.perf_counter() - began)
    began, got = time.perf_counter(), 0
    with open(path, "rb") as f:
        while head := f.read(4):
            f.read(struct.unpack("<I", head)[0])
            got += 1
    assert got == done
    return written, got / (time.perf_counter() - began)


def spooled(folder: Path, batch: list[Any], seconds: float) -> tuple[float, float]:
    """(messages/s written, messages/s read)."""
    done = 0
    with SpoolWriter(str(folder / "spool"), SETTINGS) as writer:
        began = time.perf_counter()
        while time.perf_counter() - began < seconds:
            writer.append(batch)
            done += len(batch)
        written = done / (time.perf_counter() - began)
    began = time.perf_counter()
    got = sum(1 for _ in SpoolReader(str(folder / "spool"), SETTINGS).read(writer.run, None))
    assert got == done
    return written, got / (time.perf_counter() - began)


def measure(folder: str | None, seconds: float, turns: int = 3) -> list[dict[str, Any]]:
    rows = []
    for size, count in SHAPES:
        batch = batch_of(size, count)
        seen: dict[str, list[tuple[float, float]]] = {"bare": [], "spool": []}
        for _ in range(turns):
            for name, run in (("bare", bare), ("spool", spooled)):
                with tempfile.TemporaryDirectory(dir=folder) as at:
                    seen[name].append(run(Path(at), batch, seconds))
        row: dict[str, Any] = {"bytes": size, "batch": count}
        for name, found in seen.items():
            for i, what in enumerate(("append", "read")):
                rate = statistics.median(pair[i] for pair in found)
                row[f"{name}_{what}_per_s"] = round(rate)
                row[f"{name}_{what}_mb_s"] = round(rate * size / 1e6, 1)
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--folder", help="the disk to measure; default: the temporary folder")
    parser.add_argument("--seconds", type=float, default=1.5, help="of writing, for each loop and turn")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rows = measure(arguments.folder, arguments.seconds)
    if arguments.json:
        print(json.dumps(rows))
        return
    print(f"{'message x batch':>18} {'':>6} {'bare msg/s':>12} {'MB/s':>8} {'spool msg/s':>12} {'MB/s':>8} {'bare/spool':>10}")
    for row in rows:
        for what in ("append", "read"):
            b, s = row[f"bare_{what}_per_s"], row[f"spool_{what}_per_s"]
            shape = f"{row['bytes']} x {row['batch']}"
            print(f"{shape:>18} {what:>6} {b:>12,} {row[f'bare_{what}_mb_s']:>8} {s:>12,} {row[f'spool_{what}_mb_s']:>8} {b / s:>10.2f}")


if __name__ == "__main__":
    main()
