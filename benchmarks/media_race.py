"""Builds of pictures, video and sound against bare loops of the same library calls, on the same cores.

What benchmarks/image.py, video.py and audio.py share. A bare loop is what one would write in ten lines: open, decode,
scale, tokenize, tokens kept in memory; it runs in as many processes as the build has workers, warm before its clock
starts. A build also sniffs, checks, hashes, records provenance, measures its error, and writes. Its clock runs from the
first lane's first read to the last commit; interpreter, imports, planning and fitting are apart.

Both sides run one after the other, again and again, and medians are taken. CPU seconds are those of all processes;
of a build, those of a build of one small input (its start-up) are taken off.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headrace.ingest.artefacts import read_artefact
from headrace.ingest.build import build
from headrace.ingest.coordinator import Coordinator
from headrace.ingest.pipeline_file import make_pipeline
from headrace.ingest.resolve import resolve
from headrace.schemas.record import Modality
from headrace.shards.dataset import Dataset


@dataclass(frozen=True)
class Work:
    """One line of the table."""

    name: str
    modality: Modality
    unit: str
    make: Callable[[Path, int], float]  #: writes about so many inputs into a folder; gives back their amount in `unit`
    sizes: tuple[int, int]
    record: dict[str, Any]
    #: (files, tokenizer or None, threads a decoder may use) → tokens or values kept, of the files it was given
    bare: Callable[[Sequence[Path], Any, int], int]
    tokenizer: dict[str, Any] | None = None  #: None: the default
    raw: bool = False  #: pixels are kept as they are


@dataclass
class Side:
    """Measurements of one side at one size."""

    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    @property
    def middle(self) -> tuple[float, float]:
        """Medians of (seconds, CPU seconds)."""
        return statistics.median(self.seconds), statistics.median(self.cpu)


class LaneClock:
    """First read and last commit over all lanes of builds in this process, by what lanes tell when they are done."""

    def __init__(self) -> None:
        self._spans: list[tuple[float, float]] = []
        self.cores: dict[str, float] = {}
        done = Coordinator.done

        def timed(coordinator: Coordinator, worker: str, key: str, result: dict[str, Any]) -> None:
            now = time.perf_counter()
            took = result.get("seconds", {}).get("total")
            if took is not None:
                self._spans.append((now - took, now))
                for stage, spent in result["seconds"].items():
                    self.cores[stage] = self.cores.get(stage, 0.0) + spent
            done(coordinator, worker, key, result)

        Coordinator.done = timed  # type: ignore[method-assign]

    def start(self) -> None:
        """Forget what was."""
        self._spans, self.cores = [], {}

    def seconds(self) -> float:
        """Of the build since `start`."""
        return max(end for _, end in self._spans) - min(begin for begin, _ in self._spans)


def _cpu() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def _bare_part(bare: Any, files: Sequence[Path], tokenizer: Any, threads: int) -> tuple[int, float]:
    before = time.process_time()
    return bare(files, tokenizer, threads), time.process_time() - before


def _warm(bare: Any, files: Sequence[Path], tokenizer: Any) -> None:
    bare(files, tokenizer, 1)
    time.sleep(0.3)  # so that every process of the pool takes one of these


class Race:
    """One work at one size."""

    def __init__(self, work: Work, size: int, root: Path, workers: int, clock: LaneClock) -> None:
        self.work, self.root, self.workers, self._clock = work, root, workers, clock
        self._in = root / "in"
        self._in.mkdir(parents=True)
        self.amount = work.make(self._in, size)
        stream: dict[str, Any] = {
            "source": {"type": "files", "root": str(self._in)},
            "record": {"type": work.modality, **work.record},
        }
        if work.raw or work.tokenizer:
            stream["tokenizer"] = {"type": "raw"} if work.raw else work.tokenizer
        self._pipeline = make_pipeline({"streams": {"work": stream}}, base=root)
        build(self._pipeline, str(root / "fitted"), base=root, workers=1, engine="inline", fit_only=True)
        fitted = Dataset.open(str(root / "fitted"))
        output = resolve(self._pipeline, root)["work"].outputs[work.modality]
        settings = fitted.state.settings.get("work")
        artefact = read_artefact(fitted.store, settings.tokenizer) if settings and settings.tokenizer else None
        self.tokenizer = output.make_tokenizer(artefact)
        self.built, self.bare = Side(), Side()
        self.stages: dict[str, float] = {}
        self._number = 0

    def run_build(self, workers: int | None = None, into: Side | None = None) -> None:
        """One build into a dataset of its own, whose tokenizer is fitted already."""
        self._number += 1
        out = self.root / f"out{self._number}"
        shutil.copytree(self.root / "fitted", out)
        self._clock.start()
        before = _cpu()
        build(self._pipeline, str(out), base=self.root, workers=workers or self.workers, engine="inline")
        side = into or self.built
        side.cpu.append(_cpu() - before)
        side.seconds.append(self._clock.seconds())
        self.stages = dict(self._clock.cores)
        shutil.rmtree(out)

    def run_bare(self, workers: int | None = None, into: Side | None = None) -> None:
        """The bare loop: files are spread over processes; a single file gets all cores as threads of its decoder."""
        count = workers or self.workers
        files = sorted(p for p in self._in.rglob("*") if p.is_file())
        parts = [files[i::count] for i in range(count) if files[i::count]]
        threads = count if len(files) < count else 1
        side = into or self.bare
        first = files[:1] if len(files) >= 8 else []  # warm: imports, and where there are many, the first calls
        with ProcessPoolExecutor(len(parts), multiprocessing.get_context("spawn")) as pool:
            for done in [pool.submit(_warm, self.work.bare, first, self.tokenizer) for _ in parts]:
                done.result()
            began = time.perf_counter()
            running = [pool.submit(_bare_part, self.work.bare, part, self.tokenizer, threads) for part in parts]
            cpu = sum(run.result()[1] for run in running)
            side.seconds.append(time.perf_counter() - began)
        side.cpu.append(cpu)


def measure(work: Work, repeats: int, workers: int, scale: float, scaling: bool) -> list[dict[str, Any]]:
    """Two rows: the small size and the large one."""
    clock = LaneClock()
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as folder:
        races = [
            Race(work, max(1, int(size * scale)), Path(folder) / str(i), workers, clock)
            for i, size in enumerate(work.sizes)
        ]
        one_build, one_bare = Side(), Side()
        for _ in range(repeats):
            for race in races:
                race.run_bare()
                race.run_build()
            if scaling:
                races[-1].run_bare(1, one_bare)
                races[-1].run_build(1, one_build)
        small, large = races
        (b0, c0), (b1, c1) = small.built.middle, large.built.middle
        (p0, q0), (p1, q1) = small.bare.middle, large.bare.middle
        more = large.amount - small.amount
        startup_cpu = max(0.0, c0 - small.amount * (c1 - c0) / more)
        rows = []
        for race, built, build_cpu, bare, bare_cpu in ((small, b0, c0, p0, q0), (large, b1, c1, p1, q1)):
            rows.append(
                {
                    "work": work.name,
                    "unit": work.unit,
                    "amount": race.amount,
                    "build_s": built,
                    "bare_s": bare,
                    "ratio": bare / built,
                    "build_cpu": build_cpu - startup_cpu,
                    "bare_cpu": bare_cpu,
                    "cpu_ratio": bare_cpu / (build_cpu - startup_cpu) if build_cpu > startup_cpu else None,
                    "startup_cpu": startup_cpu,
                    "slope_ratio": (p1 - p0) / (b1 - b0) if b1 > b0 else None,
                    "stages": race.stages,
                }
            )
        if scaling:
            rows[-1]["scaling_build"] = one_build.middle[0] / b1
            rows[-1]["scaling_bare"] = one_bare.middle[0] / p1
        return rows


def told(row: dict[str, Any]) -> str:
    """One row as a line of text."""
    total = row["stages"].get("total", 0.0) or 1.0
    parts = {k: row["stages"].get(k, 0.0) / total for k in ("read", "normalize", "encode", "write")}
    parts["headrace"] = 1 - sum(parts.values())
    text = (
        f"{row['work']:<26} {row['amount']:9.1f} {row['unit']:<9} build {row['build_s']:7.3f} s"
        f"  bare {row['bare_s']:7.3f} s  ratio {row['ratio']:.2f}"
        f"  CPU {row['build_cpu']:6.2f} : {row['bare_cpu']:6.2f} = {row['cpu_ratio'] or float('nan'):.2f}"
        f"  ({', '.join(f'{k} {v:.0%}' for k, v in parts.items())})"
    )
    if "scaling_build" in row:
        text += f"  2 workers {row['scaling_build']:.2f}x (bare {row['scaling_bare']:.2f}x)"
    return text


#: One thread a library, as in the processes of a build: the loops are spread over processes.
os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def arguments(doc: str | None, works: Sequence[str]) -> argparse.ArgumentParser:
    """The options all three scripts have."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("works", nargs="*", help=f"which lines; default all of {', '.join(works)}")
    parser.add_argument("--quick", action="store_true", help="a quarter of the input, one run each")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--scaling", action="store_true", help="also with one worker, both sides")
    parser.add_argument("--json", action="store_true")
    return parser


def main(options: argparse.Namespace, works: Sequence[Work]) -> list[dict[str, Any]]:
    """Measure and print the chosen works."""
    rows = []
    for work in works:
        if options.works and work.name not in options.works:
            continue
        repeats, scale = (1, 0.25) if options.quick else (options.repeats, 1.0)
        for row in measure(work, repeats, options.workers, scale, options.scaling):
            rows.append(row)
            if not options.json:
                print(told(row), flush=True)
    if options.json:
        json.dump(rows, sys.stdout)
    return rows
