"""What the tests of replay work on: lines with ills that a file beside the plug-in cures, and looks into datasets."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import yaml

from headrace.ingest.pipeline_file import load_pipeline, make_pipeline
from headrace.ingest.replay_rows import Selection
from headrace.ingest.replay_run import ReplayResult, replay
from headrace.schemas.pipeline import Pipeline
from headrace.shards.dataset import Dataset

from .conftest import PLUGINS

#: A normalizer and a tokenizer that are cured of what the file `cured` beside them names; their code stays the same.
CURABLE = '''
import json, os, signal
from pathlib import Path
import numpy as np
import pyarrow as pa
from headrace import Artefact, Bad, Blob, Encoded, Normalizer, RecordBuilder, Tokenizer
from headrace.ingest.normalizers.text import TextNormalizer
from headrace.schemas.errors import RecordError

HERE = Path(__file__).parent

def ill(word, text):
    cured = (HERE / "cured").read_text().split() if (HERE / "cured").exists() else []
    return word in text and word not in cured

class Curable(Normalizer):
    """Items are lines; parts of a line between semicolons are records."""
    modality = "text"

    def open(self, item):
        line = bytes(item.data).decode()
        if ill("REFUSE", line):
            raise RecordError("corrupt", "the line says so")
        if ill("SEGFAULT", line):
            os.kill(os.getpid(), signal.SIGSEGV)
        if "BIG" in line:
            bytearray(400 << 20)
        for n, part in enumerate(line.split(";")):
            if ill("HALF", part):
                raise RecordError("truncated", "the rest is missing")
            if ill("BAD", part):
                yield Bad("invalid_row", "the part says so", json.dumps({"part": n}), part.encode())
                continue
            if ill("ODD", part):
                yield Bad("invalid_row", "the part says so", json.dumps({"byte": line.index(part)}), part.encode())
                continue
            builder = RecordBuilder("text")
            builder.add(locator=json.dumps({"part": n}), text=part)
            yield builder.finish()

class CurableText(TextNormalizer):
    """The text normalizer, which refuses objects and records that say so."""

    def open(self, item):
        if isinstance(item.data, (bytes, Blob)):
            data = item.data if isinstance(item.data, bytes) else item.data.read()
            if ill("REFUSE", data.decode()):
                raise RecordError("corrupt", "the file says so")
        for draft in super().open(item):
            for i in range(draft.num_rows):
                one = draft.slice(i, 1)
                text = one.column("text")[0].as_py()
                if ill("BAD", text):
                    yield Bad("invalid_row", "the text says so", one.column("locator")[0].as_py(), text.encode())
                else:
                    yield one

class Fussy(Tokenizer):
    modalities = ("text",)

    @property
    def artefact(self):
        return Artefact("test-fussy", {})

    @property
    def vocab_size(self):
        return 256

    def encode(self, records):
        rows = []
        for text in records.column("text").to_pylist():
            if ill("ENCODE-NO", text):
                raise RecordError("encode_failed", "the line says so")
            if ill("ENCODE-CRASH", text):
                os.kill(os.getpid(), signal.SIGBUS)
            rows.append(np.frombuffer(text.encode(), np.uint8).astype(np.uint16))
        return Encoded.of(rows, [0.0] * len(rows), [0.0] * len(rows), np.uint16)

    def decode(self, tokens):
        raise RecordError("unsupported", "not needed")
'''
ILLS = ("REFUSE", "SEGFAULT", "HALF", "BAD", "ODD", "ENCODE-NO", "ENCODE-CRASH")
ORDERS = {
    (0, 3): "REFUSE",
    (0, 4): "a;b BAD;c;d ENCODE-NO;e",
    (1, 7): "a;b;c HALF;d BAD;e",
    (1, 9): "SEGFAULT",
    (2, 0): "a;b ODD;c",
    (2, 5): "a BAD;b BAD",
    (2, 8): "ENCODE-NO",
    (2, 9): "a;b ENCODE-CRASH",
}


def pipeline_of(folder: Path, **stream: Any) -> Pipeline:
    shutil.copy(PLUGINS, folder / "plugins.py")
    (folder / "curable.py").write_text(CURABLE)
    document = {
        "folds": {"validation": 0.2},
        "license": "CC-BY-4.0",
        "streams": {
            "lines": {
                "source": {"type": "./plugins.py:Lines", "root": str(folder / "in")},
                "record": {"type": "./curable.py:Curable"},
                "tokenizer": {"type": "./curable.py:Fussy"},
                "limits": {"time_s": 5, "memory_mib": 200},
                **stream,
            }
        },
    }
    (folder / "p.yaml").write_text(yaml.safe_dump(document))
    return make_pipeline(document, base=folder)


def cure(folder: Path, *words: str) -> None:
    (folder / "cured").write_text(" ".join(words))


def records(path: Path, stream: str = "lines") -> list[str]:
    """Every sample with all its columns, without an order: what a replay adds must not be told from the rest."""
    data = Dataset.open(str(path))
    rows = [row for batch in data.batches(stream) for row in batch.to_pylist()]
    return sorted(json.dumps(row, default=repr, sort_keys=True) for row in rows)


def run(folder: Path, selection: Selection | None = None, **options: Any) -> ReplayResult:
    pipeline = load_pipeline(folder / "p.yaml")
    return replay(pipeline, str(folder / "out"), selection or Selection(), base=folder, **options)


def raw_of(folder: Path, word: bytes) -> bool:
    rows = [row for _, batch in Dataset.open(str(folder / "out")).quarantine() for row in batch.to_pylist()]
    return any(word in (row["raw"] or b"") for row in rows)
