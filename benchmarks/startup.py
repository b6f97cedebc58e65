"""How long `headrace build` of a 1 MB folder takes from the shell's point of view, and where the time goes.

    python benchmarks/startup.py                  both engines, 5 runs each, interleaved; medians
    python benchmarks/startup.py --runs 9 --engines inline
    python benchmarks/startup.py --json

The steps are told by the dataset itself, from outside: when its files appeared. So nothing is added to the command.

    claim    the log's first entry: interpreter, imports, looking at the folder, checks, and under Ray its start
    fit      the tokenizer's entry: a child process, the fit set, SentencePiece
    encode   the first entry with a shard
    end      the log's last entry
    summary  the process is gone: catalogue, check of every byte, tables
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from headrace.ingest.artefacts import read_artefact
from headrace.shards.dataset import Dataset
from headrace.shards.entry import entry_name

STEPS = ("claim", "fit", "encode", "end", "summary")
AIMS = {"inline": 2.0, "ray": 6.0}
WORDS = ["the", "of", "harbour", "tide", "lock", "ship", "wind", "water", "gate", "level", "quay", "rain", "salt", "pilot", "buoy", "light", "mast", "rope", "cargo", "crane"]


def make_input(folder: Path, size: int) -> None:
    """A JSON Lines file and some plain documents, `size` bytes together: text, which has to be fitted."""
    rng = random.Random(7)
    made = 0
    with open(folder / "reports.jsonl", "w", encoding="utf-8") as f:
        number = 0
        while made < size * 3 // 4:
            body = " ".join(rng.choice(WORDS) + rng.choice(["", "", "s", "ing", "er"]) for _ in range(rng.randint(20, 300)))
            made += f.write(json.dumps({"id": number, "text": body}) + "\n")
            number += 1
    for number in range(8):
        body = "\n\n".join(" ".join(rng.choices(WORDS, k=120)) for _ in range(size // 32 // 700 + 1))
        (folder / f"note{number}.txt").write_text(body, encoding="utf-8")


def run_once(folder: Path, out: Path, engine: str) -> dict[str, Any]:
    """Seconds of each step of one build, wall and CPU of the whole, what it ran with."""
    command = [sys.executable, "-m", "headrace", "build", str(folder), "--out", str(out), "--engine", engine, "--json"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.time()
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    ended = time.time()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    at = {"claim": _mtime(out, 1), "summary": ended}
    v = 1
    while (out / entry_name(v)).exists():
        entry = json.loads((out / entry_name(v)).read_text(encoding="utf-8").splitlines()[0])
        if entry.get("tokenizers"):
            at.setdefault("fit", _mtime(out, v))
        if entry.get("add"):
            at.setdefault("encode", _mtime(out, v))
        if entry["kind"] == "end":
            at["end"] = _mtime(out, v)
        v += 1
    steps, last = {}, began
    for step in STEPS:
        steps[step], last = at[step] - last, at[step]
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall": ended - began, "cpu": cpu, "steps": steps, "digest": json.loads(done.stdout)["content_digest"]}


def _mtime(out: Path, v: int) -> float:
    return os.stat(out / entry_name(v)).st_mtime


def interpreter(code: str) -> float:
    """Seconds that a fresh interpreter takes for `code`."""
    began = time.time()
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tempfile.gettempdir())
    return time.time() - began


def measure(engines: list[str], runs: int, size: int) -> dict[str, Any]:
    """All runs, engines in turn."""
    found: dict[str, list[dict[str, Any]]] = {engine: [] for engine in engines}
    bare: dict[str, list[float]] = {"python -c pass": [], "import headrace.cli": []}
    card: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="headrace-startup-") as root:
        folder = Path(root) / "in"
        folder.mkdir()
        make_input(folder, size)
        for i in range(runs):
            bare["python -c pass"].append(interpreter("pass"))
            bare["import headrace.cli"].append(interpreter("import headrace.cli"))
            for engine in engines:
                found[engine].append(run_once(folder, Path(root) / f"{engine}{i}", engine))
        dataset = Dataset.open(str(Path(root) / f"{engines[0]}0"))
        fingerprint = dataset.state.settings["text"].tokenizer
        if fingerprint:
            card = read_artefact(dataset.store, fingerprint).card
        bytes_in = sum(path.stat().st_size for path in folder.iterdir())
    digests = {run["digest"] for several in found.values() for run in several}
    if len(digests) != 1:
        raise SystemExit(f"the runs do not agree on their content: {sorted(digests)}")
    return {
        "input_bytes": bytes_in,
        "cores": os.cpu_count(),
        "tokenizer": {key: card[key] for key in ("records", "text_bytes", "vocab_size") if key in card},
        "bare": {name: statistics.median(seconds) for name, seconds in bare.items()},
        "engines": {
            engine: {
                "wall": statistics.median(run["wall"] for run in several),
                "wall_best": min(run["wall"] for run in several),
                "cpu": statistics.median(run["cpu"] for run in several),
                "aim": AIMS[engine],
                "steps": {step: statistics.median(run["steps"][step] for run in several) for step in STEPS},
            }
            for engine, several in found.items()
        },
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--engines", nargs="+", choices=list(AIMS), default=list(AIMS))
    parser.add_argument("--bytes", type=int, default=1 << 20, help="size of the input")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = measure(options.engines, options.runs, options.bytes)
    if options.json:
        json.dump(found, sys.stdout)
        return
    print(f"{found['input_bytes']:,} bytes of text, {found['cores']} cores, median of {options.runs} runs; fitted: {found['tokenizer']}")
    for name, seconds in found["bare"].items():
        print(f"{name:<22} {seconds:6.2f} s")
    print(f"\n{'engine':<8} {'wall':>7} {'best':>7} {'aim':>6} {'CPU':>7}   " + " ".join(f"{step:>8}" for step in STEPS))
    for engine, row in found["engines"].items():
        steps = " ".join(f"{row['steps'][step]:8.2f}" for step in STEPS)
        print(f"{engine:<8} {row['wall']:7.2f} {row['wall_best']:7.2f} {row['aim']:6.1f} {row['cpu']:7.2f}   {steps}")


if __name__ == "__main__":
    main()
