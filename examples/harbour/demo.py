"""What `make demo` shows: make the harbour's day, build it with Ray and inline, compare, draw batches, see pictures.

    python demo.py OUT

OUT/data the day's files · OUT/ray and OUT/inline the two datasets · OUT/pictures originals beside reconstructions,
and index.html that shows them with sounds and texts. A second run uses what is there.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import album
import batches
import generate

HERE = Path(__file__).resolve().parent
#: Ray's own reports say nothing of this build.
QUIET = {"RAY_DEDUP_LOGS": "1", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "RAY_USAGE_STATS_ENABLED": "0"}


def headrace(*arguments: str | Path) -> dict[str, Any]:
    """Run a headrace command with --json. Returns: its answer. Raises: SystemExit if it failed."""
    command = [sys.executable, "-m", "headrace", *map(str, arguments), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **QUIET})
    if done.returncode != 0:
        sys.stderr.write(done.stderr)
        raise SystemExit(f"`headrace {' '.join(map(str, arguments))}` ended with {done.returncode}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def say(text: str) -> None:
    """A line of the demo's story."""
    print(text, flush=True)


def make_files(out: Path) -> None:
    """The day's files and the pipeline beside them, unless an earlier run made them."""
    say("1. The day: 14 June 2025 at Tuulisalmi")
    finished = out / "data" / ".complete"
    if not finished.is_file():
        if (out / "data").exists():
            shutil.rmtree(out / "data")
        generate.generate(out / "data")
        finished.touch()
    for name in ("pipeline.yaml", "tide.py"):
        if (out / name).is_file() and (out / name).read_bytes() != (HERE / name).read_bytes():
            for engine in ("ray", "inline"):  # built with other settings
                shutil.rmtree(out / engine, ignore_errors=True)
        shutil.copyfile(HERE / name, out / name)
    files = [p for p in (out / "data").rglob("*") if p.is_file() and p != finished]
    say(f"   {len(files)} files, {sum(p.stat().st_size for p in files) / 1e6:.1f} MB in {out / 'data'}\n")


def build_twice(out: Path) -> dict[str, Any]:
    """Both builds; their content digests must be equal. Returns: the report of `verify` on the inline one."""
    say("2. Two builds of one pipeline: Ray with two workers, and inline")
    reports = []
    for engine, options in (("ray", ["--workers", "2"]), ("inline", ["--workers", "1"])):
        began = time.perf_counter()
        headrace("build", out / "pipeline.yaml", "--out", out / engine, "--engine", engine, *options)
        report = headrace("verify", out / engine)
        reports.append(report)
        took = time.perf_counter() - began
        counts = f"{report['samples']:,} samples  {report['tokens']:,} tokens"
        say(f"   {engine:6}  content {report['content_digest']}  {counts}  {took:.0f} s")
    if reports[0]["content_digest"] != reports[1]["content_digest"]:
        raise SystemExit("   the two builds differ: that is a bug of headrace, please report it")
    say("   equal: where and how it ran does not enter the bytes\n")
    return reports[1]


def summary(out: Path) -> None:
    """Modalities in numbers, and what was quarantined."""
    streams = headrace("inspect", out / "inline")["streams"]
    say("5. Six modalities, one dataset")
    say(f"   {'modality':9}{'streams':>8}{'samples':>9}{'tokens':>12}   reconstruction (median of each stream)")
    for modality in ("text", "image", "video", "audio", "sensor", "raster"):
        mine = [s for s in streams if s["modality"] == modality and s["samples"] and "damaged" not in s["stream"]]
        errors = [
            f"{s['error_median']:.3g} {album.UNITS.get(s['error_unit'], s['error_unit'])}"
            for s in mine
            if s["error_median"] is not None
        ]
        fidelity = ", ".join(dict.fromkeys(errors)) or "exact"
        samples, tokens = sum(s["samples"] for s in mine), sum(s["tokens"] for s in mine)
        say(f"   {modality:9}{len(mine):>8}{samples:>9,}{tokens:>12,}   {fidelity}")
    say("")


def main() -> int:
    parser = argparse.ArgumentParser(description="The harbour, from files to training batches.")
    parser.add_argument("out", type=Path, nargs="?", default=Path("demo-out"))
    out: Path = parser.parse_args().out.resolve()
    out.mkdir(parents=True, exist_ok=True)

    make_files(out)
    report = build_twice(out)
    say("3. Training batches in the unified vocabulary: 4 sequences of 1,024 ids")
    batches.show(out / "inline", say)
    say("4. From tokens alone, beside the originals")
    page = album.make(out / "inline", out / "pictures", headrace)
    say(f"   {page}\n   {page.with_name('album.png')}\n")
    summary(out)
    books = "balance" if report["ok"] else "DO NOT balance"
    say(f"The books {books}; {report['quarantined']} records of damaged files lie in quarantine with their reason:")
    say(f"   headrace quarantine ls {out / 'inline'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
