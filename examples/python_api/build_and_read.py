"""The Python API from end to end: build a dataset from a mapping, open it, read samples as Arrow, decode one.

python build_and_read.py FOLDER OUT       FOLDER holds *.jsonl files whose lines have a field `body`
"""

from __future__ import annotations

import sys
from pathlib import Path

import headrace


def main(folder: Path, out: Path) -> None:
    """Build, then look at what was built."""
    pipeline = {
        "license": "CC-BY-4.0",
        "streams": {
            "bulletins": {
                "source": {"type": "files", "root": str(folder.resolve()), "glob": "*.jsonl*"},
                "record": {"type": "text", "field": "body"},
                "tokenizer": {"type": "sentencepiece", "vocab_size": 1000},
            }
        },
    }
    result = headrace.build(pipeline, out, engine="inline", workers=1)
    print(f"version {result.version} of {result.dataset} in {result.seconds:.1f} s")

    dataset = headrace.open(out)
    for name, stream in dataset.streams().items():
        print(f"{name}: {stream.rows} samples, {stream.tokens} tokens")

    for batch in dataset.samples("bulletins", ["uri", "license", "tokens"]):
        print(batch.slice(0, 2).to_pylist())
        break

    address = dataset.nth("bulletins", 0)
    decoded = dataset.decode(dataset.sample(address), "bulletins")
    print(f"{address}: {decoded.column('text')[0]}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
