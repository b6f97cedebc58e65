"""The files that `headrace new` writes: working code with a test and a pipeline, small enough to read at once."""

from __future__ import annotations

import re
from pathlib import Path

from headrace.schemas.errors import ConfigError

_CONNECTOR = '''"""Where bytes come from: every line of every {name} log under a folder."""

from collections.abc import Iterator
from pathlib import Path

from headrace import Connector, ConnectorConfig, Item, Split


class {cls}(Connector):
    """Reads *.log files line by line; a position is the byte offset after the line."""

    class Config(ConnectorConfig):
        root: str

    def splits(self) -> Iterator[Split]:
        for path in sorted(Path(self.config.root).glob("*.log")):
            yield Split(path.name, weight=path.stat().st_size)

    def read(self, split: Split, after: int | None) -> Iterator[Item]:
        with open(Path(self.config.root) / split.id, "rb") as f:
            f.seek(after or 0)
            while line := f.readline():
                yield Item(line.rstrip(b"\\n"), position=f.tell())
'''

_CONNECTOR_TEST = '''"""What every connector owes: stable splits, exact resume, nothing left open."""

import pytest
from headrace.connectors.testing import ConnectorKit

from {name} import {cls}


class Test{cls}(ConnectorKit):
    @pytest.fixture(autouse=True)
    def _source(self, tmp_path):
        self.root = tmp_path
        for n in range(3):
            (tmp_path / f"day{{n}}.log").write_text("".join(f"line {{n}} {{i}}\\n" for i in range(20)))

    def make(self):
        return {cls}({cls}.Config(root=str(self.root)))
'''

_CONNECTOR_PIPELINE = """streams:
  {name}:
    source: {{type: ./{name}.py:{cls}, root: data}}
    record: {{type: text}}
    tokenizer: {{type: bytes}}
    license: NOASSERTION
"""

_NORMALIZER = '''"""What bytes become: one text record per item."""

from collections.abc import Iterator

from headrace import Item, Normalizer, RecordBuilder
from headrace.ingest.normalizers.contract import Normalized, blob_of
from headrace.schemas.errors import RecordError


class {cls}(Normalizer):
    """Decodes an item as UTF-8; what is not UTF-8 is refused with the byte at fault."""

    modality = "text"

    def open(self, item: Item) -> Iterator[Normalized]:
        data = blob_of(item).read()
        try:
            text = data.decode()
        except UnicodeDecodeError as exc:
            raise RecordError("bad_encoding", f"byte {{exc.start}} is not UTF-8") from exc
        builder = RecordBuilder("text")
        builder.add(locator="{{}}", text=text)
        yield builder.finish()
'''

_NORMALIZER_TEST = '''"""Good items become records, bad ones say why."""

import pytest
from headrace import Item
from headrace.schemas.errors import RecordError

from {name} import {cls}


def test_text_becomes_a_record():
    (batch,) = {cls}({cls}.Config()).open(Item("grüezi".encode(), position=1))
    assert batch.column("text").to_pylist() == ["grüezi"]


def test_bytes_that_are_not_text_are_refused_by_place():
    with pytest.raises(RecordError, match="byte 2"):
        list({cls}({cls}.Config()).open(Item(b"ab\\xff", position=1)))
'''

_NORMALIZER_PIPELINE = """streams:
  {name}:
    source: {{type: files, root: data}}
    record: {{type: ./{name}.py:{cls}}}
    tokenizer: {{type: bytes}}
    license: NOASSERTION
"""

_TOKENIZER = '''"""How records become tokens: one token per Unicode code point, in base 4096."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from headrace import Artefact, Encoded, RecordBuilder, Tokenizer


class {cls}(Tokenizer):
    """Two tokens a character; decodes exactly."""

    modalities = ("text",)

    @property
    def artefact(self) -> Artefact:
        return Artefact("{name}", {{"base": 4096}})

    @property
    def vocab_size(self) -> int:
        return 4096

    def encode(self, records: pa.RecordBatch) -> Encoded:
        rows = []
        for text in records.column("text").to_pylist():
            points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
            rows.append(np.stack([points >> 12, points & 4095], axis=1).reshape(-1))
        return Encoded.of(rows, [0.0] * len(rows), [0.0] * len(rows), np.uint16)

    def decode(self, tokens: Sequence[np.ndarray]) -> pa.RecordBatch:
        builder = RecordBuilder("text")
        for row in tokens:
            pairs = row.astype(np.uint32).reshape(-1, 2)
            points = (pairs[:, 0] << 12 | pairs[:, 1]).astype("<u4")
            builder.add(locator="{{}}", text=points.tobytes().decode("utf-32-le"))
        return builder.finish()
'''

_TOKENIZER_TEST = '''"""Tokens decode to the text they were made of."""

from headrace import RecordBuilder

from {name} import {cls}


def test_text_survives_the_round_trip():
    texts = ["", "headrace", "grüezi 🌊"]
    builder = RecordBuilder("text")
    for text in texts:
        builder.add(locator="{{}}", text=text)
    tokenizer = {cls}({cls}.Config())
    encoded = tokenizer.encode(builder.finish())
    rows = [encoded.values[a:b] for a, b in zip(encoded.offsets, encoded.offsets[1:])]
    assert tokenizer.decode(rows).column("text").to_pylist() == texts
    assert all(v < tokenizer.vocab_size for v in encoded.values)
'''

_TOKENIZER_PIPELINE = """streams:
  {name}:
    source: {{type: files, root: data}}
    record: {{type: text}}
    tokenizer: {{type: ./{name}.py:{cls}}}
    license: NOASSERTION
"""

_TEMPLATES = {
    "connector": (_CONNECTOR, _CONNECTOR_TEST, _CONNECTOR_PIPELINE, ("data/day.log", "first line\nsecond line\n")),
    "normalizer": (_NORMALIZER, _NORMALIZER_TEST, _NORMALIZER_PIPELINE, ("data/notice.txt", "a notice\n")),
    "tokenizer": (_TOKENIZER, _TOKENIZER_TEST, _TOKENIZER_PIPELINE, ("data/notice.txt", "a notice\n")),
}


def scaffold(kind: str, name: str, out: Path) -> list[Path]:
    """Write the files of a new plug-in. Raises: ConfigError for a wrong kind or name, or where a file exists."""
    if kind not in _TEMPLATES:
        raise ConfigError(f"`{kind}` cannot be made: connector, normalizer or tokenizer", value=kind)
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ConfigError(
            f"`{name}` is not a module name: lower-case letters, digits and _, beginning with a letter", value=name
        )
    code, test, pipeline, (sample_name, sample) = _TEMPLATES[kind]
    cls = "".join(part.capitalize() for part in name.split("_"))
    files = {
        out / f"{name}.py": code.format(name=name, cls=cls),
        out / f"test_{name}.py": test.format(name=name, cls=cls),
        out / f"{name}.yaml": pipeline.format(name=name, cls=cls),
        out / sample_name: sample,
    }
    for path in files:
        if path.exists() and path.name != Path(sample_name).name:
            raise ConfigError(f"{path} exists already; nothing was written", value=str(path))
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.write_text(text, encoding="utf-8")
    return list(files)
