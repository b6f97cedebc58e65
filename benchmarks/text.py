"""Text tokenizers against the bare libraries: `encode` on record batches, in one process and in two.

    python benchmarks/text.py [--quick] [--corpus FOLDER] [--json]

Without a folder the text is the Python standard library's own: its documentation topics and its source, which is prose,
code and numbers in about equal shares. Every measurement begins cold, in a process of its own, and gives CPU seconds of
that process after its tokenizer is loaded; runs are interleaved and medians taken. Two sizes tell the first
megabytes, in which most words are new, from the rest. The number is MB of UTF-8 per CPU second, the ratio the
tokenizer's to the first bare loop of its group.
"""

from __future__ import annotations

import argparse
import base64
import json
import multiprocessing
import pydoc_data.topics
import statistics
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from headrace.tokenizers.contract import Artefact
from headrace.tokenizers.registry import choose, load
from headrace.tokenizers.testing_rows import texts

DOCUMENT = 4000  #: characters
BATCH = 500  #: documents
PATTERN = "cl100k_base"


def documents(corpus: Path | None, megabytes: float) -> list[str]:
    """Different documents of about so many megabytes in all, spread over everything there is."""
    if corpus is not None:
        paths = [path for path in corpus.rglob("*") if path.is_file()]
        whole = [path.read_text(encoding="utf-8", errors="replace") for path in sorted(paths)]
    else:
        paths = [p for p in Path(sysconfig.get_paths()["stdlib"]).rglob("*.py") if "site-packages" not in p.parts]
        whole = [str(text) for _, text in sorted(pydoc_data.topics.topics.items())]
        whole += [path.read_text(encoding="utf-8", errors="replace") for path in sorted(paths)]
    parts = [text[at : at + DOCUMENT] for text in whole for at in range(0, len(text), DOCUMENT)]
    step = 7919
    while len(parts) % step == 0:
        step += 1
    found, size = [], 0.0
    for i in range(len(parts)):
        part = parts[i * step % len(parts)]
        found.append(part)
        size += len(part.encode())
        if size >= megabytes * 1e6:
            break
    return found


def make_models(folder: Path, training: list[str]) -> None:
    """The models of the groups: SentencePiece BPE and unigram by `fit`, byte-level BPE as tokenizer.json and as ranks."""
    import tokenizers

    for kind in ("bpe", "unigram"):
        choice = choose({"type": "sentencepiece", "model_type": kind, "vocab_size": 32_000})
        assert choice.cls is not None
        choice.cls.fit(choice.config, [texts(*training)], 0).save(folder / kind)
    made: Any = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        training, tokenizers.trainers.BpeTrainer(vocab_size=32_000, initial_alphabet=alphabet, show_progress=False)
    )
    made.save(str(folder / "tokenizer.json"))
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    spelled = {chr(byte): byte for byte in shown}
    spelled |= {chr(256 + i): byte for i, byte in enumerate(b for b in range(256) if b not in shown)}
    vocab = sorted(made.get_vocab().items(), key=lambda item: item[1])
    lines = [f"{base64.b64encode(bytes(spelled[c] for c in token)).decode()} {rank}\n" for token, rank in vocab]
    (folder / "ranks.tiktoken").write_text("".join(lines))


def ours(folder: Path, kind: str) -> Callable[[list[str]], Any]:
    """`encode` of a tokenizer on record batches of the documents (made beforehand: see `measure`)."""
    if kind in ("bpe", "unigram"):
        return load(Artefact.load(folder / kind)).encode
    if kind == "hf":
        return choose({"type": "huggingface", "model": "tokenizer.json"}, folder).create().encode
    return choose({"type": "tiktoken", "model": "ranks.tiktoken", "pattern": PATTERN}, folder).create().encode


def bare(folder: Path, kind: str) -> Callable[[list[str]], Any]:
    """What one would write without headrace: a loop, or the library's own batch call."""
    if kind in ("bpe", "unigram"):
        import sentencepiece

        data = Artefact.load(folder / kind).files["tokenizer.model"]
        encode = sentencepiece.SentencePieceProcessor(model_proto=data).encode
        return lambda batch: [encode(text) for text in batch]
    if kind == "hf":
        import tokenizers

        library: Any = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        return lambda batch: [e.ids for e in library.encode_batch_fast(batch, add_special_tokens=False)]
    import tiktoken

    from headrace.tokenizers.tiktoken_text import PATTERNS

    lines = [line.split() for line in (folder / "ranks.tiktoken").read_bytes().splitlines()]
    ranks = {base64.b64decode(token): int(rank) for token, rank in lines}
    encoding = tiktoken.Encoding("bench", pat_str=PATTERNS[PATTERN], mergeable_ranks=ranks, special_tokens={})
    return lambda batch: encoding.encode_ordinary_batch(batch, num_threads=1)


def measure(folder: str, kind: str, side: str, batches: list[list[str]], results: Any) -> None:
    """One process: load, then encode all batches cold; puts (MB, CPU seconds, wall seconds)."""
    encode = {"ours": ours, "bare": bare}[side](Path(folder), kind)
    made: list[Any] = [texts(*batch) for batch in batches] if side == "ours" else batches
    size = sum(len(text.encode()) for batch in batches for text in batch) / 1e6
    encode(made[0].slice(0, 1) if isinstance(made[0], pa.RecordBatch) else made[0][:1])  # compiles patterns
    cpu, wall = time.process_time(), time.perf_counter()
    for batch in made:
        encode(batch)
    results.put((size, time.process_time() - cpu, time.perf_counter() - wall))


def run(folder: Path, kind: str, side: str, batches: list[list[str]], processes: int) -> tuple[float, float]:
    """(MB per CPU second, MB per second of wall time) with the batches shared out to so many processes."""
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    children = [
        context.Process(target=measure, args=(str(folder), kind, side, batches[i::processes], results))
        for i in range(processes)
    ]
    for child in children:
        child.start()
    found = [results.get() for _ in children]
    for child in children:
        child.join()
    size = sum(mb for mb, _, _ in found)
    return size / sum(cpu for _, cpu, _ in found), size / max(wall for _, _, wall in found)


GROUPS = (("bpe", "sentencepiece loop"), ("unigram", "sentencepiece loop"), ("tiktoken", "tiktoken batch"), ("hf", "tokenizers batch"))


def rows(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One row per group, size and number of processes."""
    sizes = (2.0, 4.0) if options.quick else (5.0, 20.0)
    with tempfile.TemporaryDirectory() as name:
        folder, everything = Path(name), documents(options.corpus, max(sizes))
        make_models(folder, everything[::4])
        for kind, label in GROUPS:
            for size in sizes:
                docs = documents(options.corpus, size)
                batches = [docs[at : at + BATCH] for at in range(0, len(docs), BATCH)]
                for processes in (1, 2):
                    speeds: dict[str, list[tuple[float, float]]] = {"ours": [], "bare": []}
                    for _ in range(1 if options.quick else 3):
                        for side, found in speeds.items():
                            found.append(run(folder, kind, side, batches, processes))
                    ours_, bare_ = (statistics.median(cpu for cpu, _ in speeds[side]) for side in ("ours", "bare"))
                    yield {
                        "tokenizer": kind, "against": label, "megabytes": size, "processes": processes,
                        "ours_mb_per_cpu_s": round(ours_, 2), "bare_mb_per_cpu_s": round(bare_, 2),
                        "ratio": round(ours_ / bare_, 2),
                    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, one run each")
    parser.add_argument("--corpus", type=Path, help="a folder of UTF-8 text files to use instead")
    parser.add_argument("--json", action="store_true", help="one JSON object per line")
    options = parser.parse_args()
    if not options.json:
        print(f"{'tokenizer':12}{'MB':>6}{'processes':>11}{'ours':>9}{'bare':>9}  ratio   (MB per CPU second)")
    for row in rows(options):
        if options.json:
            print(json.dumps(row))
        else:
            print(
                f"{row['tokenizer']:12}{row['megabytes']:6.0f}{row['processes']:11}{row['ours_mb_per_cpu_s']:9.1f}"
                f"{row['bare_mb_per_cpu_s']:9.1f}  {row['ratio']:.2f}x against the {row['against']}"
            )
        sys.stdout.flush()


if __name__ == "__main__":
    main()
