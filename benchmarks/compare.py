"""headrace against the tools that one would take instead, and against bare loops: one table, one picture.

    python benchmarks/compare.py [--quick] [--price 0.04] [--json FILE] [--write] [WORK …]

Works are those of benchmarks/peers/works.py, and `loader`, which benchmarks/loader.py measures. Everybody gets the same
files and the same fitted tokenizers, both cores, and a fresh process for every measurement; input is in the page cache.
The clock runs from opening the input to the last closed shard; imports, Ray's start and pools of processes come before
it. What everybody wrote is read back: a text or sensor peer whose tokens differ from headrace's is refused.

Contenders take turns round by round, in an order that is turned around; rounds end when a work's share of the time is
used up, and who takes more than a sixth of it is asked once (*). Two sizes tell start-up and slope apart. A whole run
takes under twenty minutes, --quick (one small size, one round, no tool that takes long to start) under three.
A whole run, or --write, writes benchmarks/RESULTS.md and benchmarks/results.svg; others print.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent
sys.path.insert(0, str(HERE / "peers"))

import machine  # noqa: E402
import report  # noqa: E402
from chart import svg  # noqa: E402
from job import Job, Sums  # noqa: E402
from loader import lines as loader_lines  # noqa: E402
from race import Absent, run  # noqa: E402
from report import Found  # noqa: E402
from works import WORKS, Contender, Work, prepare  # noqa: E402

LOADER = "loader"
_LIMIT_S = 240  #: of one measurement
_KINDS = ("ours", "bare", "peer")


class Race:
    """One work: its contenders, round by round."""

    def __init__(self, work: Work, options: argparse.Namespace, folder: Path) -> None:
        self.work, self._folder, self._peers = work, folder, Path(options.peers)
        chosen = work.amounts[:1] if options.quick else work.amounts[1:]
        self.amounts = [amount * options.scale for amount in chosen]
        self._rounds = 1 if options.quick else options.rounds
        self._budget = work.seconds * options.time
        self.found = [
            Found(contender, {amount: [] for amount in self.amounts}, self._left_out(contender, options))
            for contender in work.contenders
            if contender.kind in options.who
        ]

    def _left_out(self, contender: Contender, options: argparse.Namespace) -> str:
        return "left out by --quick" if options.quick and contender.heavy else ""

    def python(self, contender: Contender) -> str:
        """Its interpreter. Raises: Absent if there is none."""
        if contender.venv == "own":
            return sys.executable
        home = self._peers if contender.venv == "peers" else self._peers / "alone" / contender.venv
        if not (home / "bin/python").exists():
            raise Absent(f"no {home.relative_to(REPOSITORY) if home.is_relative_to(REPOSITORY) else home}: scripts/bench-peers.sh makes it")
        return str(home / "bin/python")

    def all(self) -> None:
        """Fill `found`."""
        sources, made = prepare(self.work, self._folder, tuple(self.amounts))
        for _, source in sources:
            for path in source.iterdir():
                path.read_bytes()  # into the page cache
        began = time.monotonic()
        spent: dict[str, float] = {}
        for number in range(self._rounds):
            for amount, source in sources:
                for found in self.found if number % 2 == 0 else reversed(self.found):
                    found.runs[amount].append(self._one(found, number, amount, source, made, spent))
            took = time.monotonic() - began
            if took + took / (number + 1) > self._budget:
                break

    def _one(
        self, found: Found, number: int, amount: float, source: Path, made: Path, spent: dict[str, float]
    ) -> Any:
        name = found.contender.module
        if found.absent or (number and spent[name] > self._budget / 6):
            return None
        began = time.monotonic()
        out = Path(tempfile.mkdtemp(prefix="out-", dir=self._folder))
        try:
            job = Job(self.work.name, source, made, out, os.cpu_count() or 1)
            log = self._folder / "logs" / f"{self.work.name}-{name}.log"
            log.parent.mkdir(exist_ok=True)
            made_run = run(name, job, self.python(found.contender), log, _LIMIT_S, check=number == 0)
            self._compare(found, amount, made_run.sums)
        except Absent as exc:
            found.absent = f"{amount:g} {self.work.unit}: {exc}" if number or amount != self.amounts[0] else str(exc)
            _say(f"  {found.contender.who}: skipped: {found.absent}")
            return None
        finally:
            shutil.rmtree(out, ignore_errors=True)
            spent[name] = spent.get(name, 0.0) + time.monotonic() - began
        _say(
            f"  {amount:g} {self.work.unit}, {found.contender.who}: {made_run.seconds:.2f} s, {made_run.cpu:.2f} CPU s,"
            f" start-up {made_run.startup_s + made_run.whole_s - made_run.seconds:.1f} s, {made_run.peak_mb:,.0f} MB"
        )
        return made_run

    def _compare(self, found: Found, amount: float, sums: Sums | None) -> None:
        """With who came first, which is headrace if it takes part. Raises: Absent if values must be equal and are not."""
        known = [f.at(amount)[0].sums for f in self.found if f.at(amount)]
        if sums is None or not known or known[0] == sums:
            return
        found.same = False
        apart = abs(sums.total - known[0].total) / max(1, known[0].total)
        if self.work.within is not None and (sums.count != known[0].count or apart > self.work.within):
            raise Absent(f"it gives {sums.count:,} {self.work.values} that add up to {sums.total:,}, not {known[0]}")

    def rows(self, price: float) -> list[dict[str, Any]]:
        """Of all who finished."""
        ours = next((f for f in self.found if f.contender.kind == "ours" and not f.absent), None)
        done = [f for f in self.found if f.at(self.amounts[-1])]
        return [report.row_of(f, ours, self.work, self.amounts, price) for f in done]

    def absent(self) -> list[tuple[str, str]]:
        """(who, why)."""
        return [(f.contender.who, f.absent) for f in self.found if f.absent]


def measure_loader(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """What benchmarks/loader.py finds in the time there is."""
    command = [sys.executable, str(HERE / "loader.py"), "--json", "--no-billion", "--folder", str(folder / LOADER)]
    command += ["--quick"] if options.quick else ["--tokens", "50e6", "--rounds", "3", "--seconds", "1"]
    with open(folder / "logs" / "loader.log", "wb") as log:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=log, check=False)
    if done.returncode:
        raise SystemExit(f"benchmarks/loader.py failed: see {folder / 'logs/loader.log'}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def page(races: dict[str, Race], loader: dict[str, Any] | None, options: argparse.Namespace, facts: list[str]) -> Iterator[str]:
    """benchmarks/RESULTS.md."""
    told = {name: (race.work, race.rows(options.price)) for name, race in races.items()}
    yield "# Results"
    yield ""
    yield "Written by `python benchmarks/compare.py`; how it measures, and what the columns mean: [docs/benchmarks.md](../docs/benchmarks.md)."
    yield ""
    yield from facts
    yield ""
    if any(rows for _, rows in told.values()):
        yield from report.summary(told)
        yield "![rates in percent of the bare limit](results.svg)"
        yield ""
        yield f"`*` one reading; `†` other values than ours (another decoder or filter). A core costs ${options.price:g} an hour; $ a trillion is 10⁻⁶ $ a million."
        yield ""
    for name, (work, rows) in told.items():
        race = races[name]
        yield from report.table(work, rows, race.amounts, race.absent())
    if loader:
        yield "### Loader"
        yield ""
        yield from loader_lines(loader)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("works", nargs="*", choices=[*WORKS, LOADER, []], help=f"default all: {', '.join([*WORKS, LOADER])}")
    parser.add_argument("--quick", action="store_true", help="one small size, one round, no heavy tools")
    parser.add_argument("--rounds", type=int, default=5, help="at most so many (default 5)")
    parser.add_argument("--time", type=float, default=1.0, help="times the usual time (default 1: about 17 minutes)")
    parser.add_argument("--scale", type=float, default=1.0, help="times the usual input")
    parser.add_argument("--who", default=",".join(_KINDS), help="ours, bare, peer: who takes part (default all)")
    parser.add_argument("--price", type=float, default=0.04, help="of a core for an hour, in $ (default 0.04)")
    parser.add_argument("--folder", type=Path, default=REPOSITORY / ".bench-data", help="input is kept here and used again")
    parser.add_argument("--peers", default=str(REPOSITORY / ".venv-peers"), help="the environment of the peers")
    parser.add_argument("--write", action="store_true", help="write RESULTS.md and results.svg whatever was measured")
    parser.add_argument("--json", type=Path, help="also write every row here")
    options = parser.parse_args()
    options.who = tuple(options.who.split(","))
    if wrong := set(options.who) - set(_KINDS):
        parser.error(f"--who {min(wrong)}: one of {', '.join(_KINDS)} is expected")
    return options


def main() -> None:
    """Measure, and write or print."""
    options = _arguments()
    folder = options.folder.resolve()
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    (folder / ".gitignore").write_text("*\n")
    before = os.getloadavg()[0]
    began = time.monotonic()
    names = options.works or [*WORKS, LOADER]
    races: dict[str, Race] = {}
    loader = None
    for name in names:
        _say(f"{name}:")
        if name == LOADER:
            loader = measure_loader(options, folder)
            continue
        races[name] = Race(WORKS[name], options, folder)
        races[name].all()
    facts = machine.facts(before, time.monotonic() - began, Path(options.peers))
    text = "\n".join(page(races, loader, options, facts)) + "\n"
    pictured = [(race.work.title, race.rows(options.price)) for race in races.values()]
    pictured = [(title, rows) for title, rows in pictured if rows]
    if options.json:
        told = {name: {"rows": r.rows(options.price), "absent": r.absent()} for name, r in races.items()}
        options.json.write_text(json.dumps({**told, LOADER: loader}, indent=1))
    if options.write or not (options.quick or options.works):
        (HERE / "RESULTS.md").write_text(text)
        (HERE / "results.svg").write_text(svg(pictured))
        _say(f"wrote {HERE / 'RESULTS.md'}")
    with contextlib.suppress(BrokenPipeError):
        print(text)


if __name__ == "__main__":
    main()
