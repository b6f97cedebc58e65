"""`ShardDataset` against the loaders that trainers use, and against bare numpy: the same tokens, one machine, one run.

    python benchmarks/loader.py [--quick] [--tokens 100e6] [--rounds 5] [--json] [NAME …]

Everybody gives batches of 8 rows of 2,048 int32 tokens from the same synthetic documents (`loader_peers/corpus.py`), each
from its own format, written by its own writer, in a process of its own (peers in `.venv-exports`, which
`scripts/export-clients.sh` makes; what is not installed is skipped with the reason). headrace reads shards in full 4 MiB
blocks with provenance beside the tokens, hashes every block, moves documents, knows where each lies and gives a state
with every batch; numpy and Megatron move documents too; the others move rows that were cut when they were written.
First a reading of each is compared with the corpus: all tokens in order, and all of them shuffled; the other outputs of
headrace and numpy with each other.

A clock runs for a few seconds from the first batch on, over passes without end. Contenders take turns, case by case and
round by round, in an order that is turned around every round; who is not asked is stopped. Numbers are medians of the
rounds, ratios medians of the ratios within a round. "a CPU second" counts all threads of the process, so it hardly moves
on a busy machine. Pages of the files are in the page cache.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent
sys.path.insert(0, str(HERE / "loader_peers"))

import corpus as documents  # noqa: E402
from contender import Absent, Contender  # noqa: E402
from loader_billion import measure as measure_billion  # noqa: E402

#: name → (who, what is shuffled, whether it lives in the peers' environment)
CONTENDERS: dict[str, tuple[str, str, bool]] = {
    "headrace": ("headrace ShardDataset", "documents, in windows", False),
    "numpy": ("numpy memmap, packed by hand", "documents", False),
    "gather": ("numpy gather of rows", "rows", False),
    "megatron": ("Megatron IndexedDataset", "documents and rows", True),
    "litdata": ("litdata TokensLoader", "rows, in chunks", True),
    "huggingface": ("Hugging Face datasets", "rows", True),
    "webdataset": ("webdataset", "rows, in a buffer", True),
    "mds": ("mosaicml-streaming", "rows", True),
}

#: name → (title, case)
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "sequential": ("tokens, in order", {}),
    "shuffled": ("tokens, shuffled", {"shuffle": True}),
    "sequential2": ("tokens, in order, 2 workers", {"workers": 2}),
    "shuffled2": ("tokens, shuffled, 2 workers", {"shuffle": True, "workers": 2}),
    "all": ("all outputs, in order", {"every": True}),
    "all_shuffled": ("all outputs, shuffled", {"shuffle": True, "every": True}),
    "all_shuffled2": ("all outputs, shuffled, 2 workers", {"shuffle": True, "every": True, "workers": 2}),
}
_EVERY = ("headrace", "numpy")  # who gives all outputs


def python_of(name: str, peers: str) -> str:
    """The interpreter that a contender runs under."""
    return peers if CONTENDERS[name][2] else sys.executable


def prepare(folder: Path, names: list[str], tokens: int, peers: str) -> tuple[dict[str, Contender], dict[str, str]]:
    """The corpus in everybody's format; who takes part after its reading was checked, and why the others do not."""
    if not (folder / "corpus").exists():
        documents.make(folder / "corpus", tokens)
    truth = documents.Sums()
    truth.add(documents.read(folder / "corpus").tokens)
    there: dict[str, Contender] = {}
    absent: dict[str, str] = {}
    outputs: dict[str, int] = {}
    for name in names:
        try:
            contender = Contender(name, folder, python_of(name, peers))
            contender.ask(do="write")
            sums = contender.ask(do="check", every=name in _EVERY)
        except Absent as exc:
            absent[name] = str(exc)
            continue
        there[name] = contender
        ordered, shuffled = sums["ordered"], sums["shuffled"]
        if ordered != [truth.count, truth.total, truth.crc] or shuffled[:2] != [truth.count, truth.total]:
            raise SystemExit(f"{name} reads other tokens than the corpus holds: {sums}, not {truth}")
        if name in _EVERY and (outputs := outputs or sums["outputs"]) != sums["outputs"]:
            raise SystemExit(f"{name} gives other outputs in order than headrace: {sums['outputs']}, not {outputs}")
        _say(f"{name}: written, and read back equal")
    return there, absent


def start(folder: Path, names: list[str], times: int, peers: str) -> dict[str, dict[str, float]]:
    """First batch and memory in fresh processes, shuffled: medians."""
    made = {}
    for name in names:
        rows = []
        for _ in range(times):
            contender = Contender(name, folder, python_of(name, peers))
            run = contender.ask(do="run", seconds=1.0, case={"shuffle": True})
            rows.append(
                {
                    **{key: run[key] for key in ("first_s", "first_cpu", "peak_mb", "own_mb")},
                    "imports_mb": contender.ready["peak_mb"],
                }
            )
            contender.close()
        made[name] = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
        _say(f"{name}: first batch after {made[name]['first_s']:.3f} s")
    return made


def race(
    there: dict[str, Contender], absent: dict[str, str], rounds: int, seconds: float
) -> dict[str, dict[str, dict[str, float]]]:
    """By case and contender: rate and cpu_rate in M tokens/s and a CPU second, and headrace's ratios to them.

    Who fails on the way goes from `there` to `absent`.
    """
    runs: dict[str, dict[str, list[dict[str, float]]]] = {case: {} for case in CASES}
    for number in range(rounds):
        for case, (title, settings) in CASES.items():
            racing = [n for n in there if n in _EVERY or not settings.get("every")]
            for name in racing if number % 2 == 0 else reversed(racing):
                try:
                    run = there[name].ask(do="run", seconds=seconds, case={**settings, "seed": number + 1})
                except Absent as exc:
                    absent[name] = f"{title}: {exc}"
                    del there[name]
                    continue
                rate = run["tokens"] / run["seconds"] / 1e6
                cpu_rate = run["tokens"] / max(run["cpu"], 1e-9) / 1e6
                runs[case].setdefault(name, []).append({"rate": rate, "cpu_rate": cpu_rate})
            _say(f"round {number + 1}, {title}: " + ", ".join(f"{n} {runs[case][n][-1]['rate']:.0f}" for n in racing if n in there))
    table: dict[str, dict[str, dict[str, float]]] = {}
    for case, by_name in runs.items():
        table[case] = {}
        for name, rows in ((n, rows) for n, rows in by_name.items() if n in there):
            table[case][name] = {key: statistics.median(row[key] for row in rows) for key in ("rate", "cpu_rate")}
            if "headrace" in there:
                ours = by_name["headrace"]
                for key in ("rate", "cpu_rate"):
                    ratios = [a[key] / b[key] for a, b in zip(ours, rows)]
                    table[case][name][f"{key}_ratio"] = statistics.median(ratios)
    return table


def lines(found: dict[str, Any]) -> Iterator[str]:
    """The report in Markdown."""
    table, began = found["table"], found["start"]
    yield f"{found['tokens'] / 1e6:.0f} M tokens of {found['documents']:,} documents, medians of {found['rounds']} rounds,"
    yield f"{os.cpu_count()} cores, load {found['load']:.1f}. M tokens/s; in brackets headrace's rate divided by it."
    yield ""
    yield from _rates(table, ("sequential", "shuffled", "sequential2", "shuffled2"), "rate", "tokens only, M tokens/s")
    yield from _rates(table, ("sequential", "shuffled"), "cpu_rate", "tokens only, M tokens a CPU second")
    yield from _rates(table, ("all", "all_shuffled", "all_shuffled2"), "rate", "all outputs, M tokens/s")
    yield from _rates(table, ("all", "all_shuffled"), "cpu_rate", "all outputs, M tokens a CPU second")
    yield "| start, shuffled, imports apart | first batch, s | CPU s | peak RSS, MB | own, MB | after imports, MB |"
    yield "|---|---:|---:|---:|---:|---:|"
    for name, row in began.items():
        yield (
            f"| {CONTENDERS[name][0]} | {row['first_s']:.3f} | {row['first_cpu']:.3f} | {row['peak_mb']:.0f} |"
            f" {row['own_mb']:.0f} | {row['imports_mb']:.0f} |"
        )
    for name, why in found["absent"].items():
        yield f"\nskipped: {CONTENDERS[name][0]}: {why}"
    if found["billion"]:
        yield ""
        yield from found["billion"]["lines"]


def _rates(table: dict[str, Any], cases: tuple[str, ...], key: str, title: str) -> Iterator[str]:
    names = [name for name in CONTENDERS if name in table[cases[0]]]
    yield f"| {title} | shuffles | " + " | ".join(CASES[case][0].split(", ", 1)[1] for case in cases) + " |"
    yield "|---|---|" + "---:|" * len(cases)
    for name in names:
        who, moves, _ = CONTENDERS[name]
        cells = []
        for case in cases:
            row = table[case][name]
            ratio = f" ({row[key + '_ratio']:.2f})" if name != "headrace" and key + "_ratio" in row else ""
            cells.append(f"{row[key]:,.0f}{ratio}")
        yield f"| {who} | {moves} | " + " | ".join(cells) + " |"
    yield ""


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the tokens, one round")
    parser.add_argument("--tokens", type=float, default=100e6)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5, help="of one measurement")
    parser.add_argument("--folder", type=Path, help="keep the data here and use it again; else a temporary folder")
    parser.add_argument("--peers", default=str(REPOSITORY / ".venv-exports/bin/python"), help="interpreter of the peers")
    parser.add_argument("--no-billion", action="store_true", help="leave out the manifest of 10^9 samples")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("names", nargs="*", choices=[*CONTENDERS, []], help="who takes part; default all")
    options = parser.parse_args()
    names = options.names or list(CONTENDERS)
    tokens, rounds, seconds = int(options.tokens), options.rounds, options.seconds
    if options.quick:
        tokens, rounds, seconds = tokens // 10, 1, 0.5
    with contextlib.ExitStack() as stack:
        folder = options.folder
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="headrace-loader-")))
        folder.mkdir(parents=True, exist_ok=True)
        there, absent = prepare(folder, names, tokens, options.peers)
        for contender in there.values():
            stack.callback(contender.close)
        table = race(there, absent, rounds, seconds)
        ends = documents.read(folder / "corpus").ends
        found = {
            "tokens": int(ends[-1]),
            "documents": len(ends),
            "rounds": rounds,
            "load": os.getloadavg()[2],
            "table": table,
            "start": start(folder, list(there), 1 if options.quick else 3, options.peers),
            "absent": absent,
            "billion": None if options.no_billion else measure_billion(folder / "billion"),
        }
    print(json.dumps(found) if options.json else "\n".join(lines(found)))


if __name__ == "__main__":
    main()
