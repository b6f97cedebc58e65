"""Which ids are written: own and unified against the vocabulary, marks against brute force, types that hold them."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.schemas.canonical import canonical_json, sha256_hex
from headrace.schemas.errors import ConfigError
from headrace.schemas.vocabulary import CONTROL, Vocabulary
from headrace.shards.dataset import Dataset
from headrace.shards.entry import Entry, FileInfo, TokenizerInfo
from headrace.shards.exports.export import export
from headrace.shards.exports.marks import Marks, marks_of
from headrace.shards.exports.options import ExportOptions, Target, parse_mark, parse_size
from headrace.shards.exports.totals import Totals, sum_of
from headrace.shards.testing import MemoryStore

from .exporting import Maker, bodies, settings_for, token_rows
from .test_export_formats import tokens_of


@given(
    rows=st.lists(st.lists(st.integers(0, 999), max_size=600), max_size=6),
    before=st.lists(st.integers(0, 60_000), max_size=2),
    after=st.lists(st.integers(0, 60_000), max_size=2),
    shift=st.sampled_from([0, 1024]),
    dtype=st.sampled_from(["uint16", "int32", "uint32"]),
)
def test_marks_stand_around_every_body(
    rows: list[list[int]], before: list[int], after: list[int], shift: int, dtype: str
) -> None:
    values = np.array([v for row in rows for v in row], np.uint16)
    offsets = np.concatenate([[0], np.cumsum([len(r) for r in rows])]).astype(np.int64)
    marks = Marks(np.dtype(dtype), shift, tuple(before), tuple(after), 1000)
    made, ends = marks.apply(values, offsets)
    wanted = [[*before, *(v + shift for v in row), *after] for row in rows]
    assert [made[a:b].tolist() for a, b in itertools.pairwise(ends)] == wanted and made.dtype == dtype
    told = marks.expected(Totals(len(rows), len(values), sum_of(values)))
    assert told == Totals(len(rows), sum(map(len, wanted)), sum(map(sum, wanted)))


def test_an_id_beyond_the_vocabulary_is_refused() -> None:
    with pytest.raises(ConfigError, match="holds id 1000, its vocabulary ends at 1000"):
        Marks(np.dtype(np.int32), limit=1000).apply(np.array([1000], np.uint16), np.array([0, 1]))


def two_streams(vocabulary: bool, **eod: int) -> Dataset:
    """A text and a sensor stream; with a vocabulary committed, or an artefact that names its marks."""
    kinds = {"a": settings_for("a", "text", "uint16", 300), "b": settings_for("b", "sensor", "uint32", 90_000)}
    maker = Maker(MemoryStore(), kinds)
    maker.add("a", token_rows(9, 1, vocab_size=300))
    maker.add("b", [{**row, "channel": "level"} for row in token_rows(9, 2, vocab_size=90_000)])
    entry: dict[str, Any] = {}
    if vocabulary:
        words = Vocabulary()
        for name in ("b", "a"):  # another order than that of the names
            fingerprint = kinds[name].tokenizer
            assert fingerprint is not None
            words = words.append(fingerprint, "test", kinds[name].vocab_size or 0)
        maker.store.put_new(f"vocab/{words.digest}.json", words.to_bytes())
        entry["vocab"] = words.digest
    if eod:
        fingerprint = kinds["a"].tokenizer
        path, data = f"tokenizers/{fingerprint}/artefact.json", canonical_json({"params": eod})
        maker.store.put_new(path, data)
        entry["tokenizers"] = [TokenizerInfo(str(fingerprint), "test", [FileInfo(path, sha256_hex(data), len(data))])]
    maker.log.append(Entry(kind="commit", **entry))
    return Dataset(maker.store)


@pytest.mark.parametrize("committed", [True, False])
@pytest.mark.parametrize("target", ["megatron", "mds"])
def test_the_unified_view_is_that_of_the_vocabulary(target: Target, committed: bool, tmp_path: Path) -> None:
    dataset = two_streams(committed)
    out = tmp_path / "out"
    result = export(dataset, out, ExportOptions(to=target, ids="unified"))
    words = Vocabulary.from_bytes((out / "vocabulary.json").read_bytes(), result.manifest["vocabulary"])
    assert words == dataset.vocabulary()
    if committed:
        assert words.digest == dataset.state.vocab
    end = [CONTROL["EOD"]] if target == "megatron" else []
    for name, around in (("a", ([], end)), ("b", ([CONTROL["BEGIN_SENSOR"]], [CONTROL["END_SENSOR"], *end]))):
        fingerprint = dataset.state.settings[name].tokenizer
        assert fingerprint is not None
        wanted = [
            [*around[0], *words.view(fingerprint, np.array(body, np.uint32)).tolist(), *around[1]]
            for body in bodies(dataset, name, empty=False)
        ]
        assert tokens_of(target, out, name, "int32") == wanted
        assert result.manifest["streams"][name]["dtype"] == "int32"


def test_a_changed_vocabulary_is_refused(tmp_path: Path) -> None:
    dataset = two_streams(True)
    name = f"vocab/{dataset.state.vocab}.json"
    files = dataset.store.files  # type: ignore[attr-defined]
    files[name] = files[name].replace(b"test", b"tess")
    with pytest.raises(Exception, match="was changed"):
        export(dataset, tmp_path / "out", ExportOptions(to="mds", ids="unified"))
    assert not (tmp_path / "out").exists()


def test_own_marks_are_those_that_the_artefact_names_and_stand_in_flat_formats_only() -> None:
    dataset = two_streams(False, bos=298, eod=299)
    for target, around in (("megatron", ((298,), (299,))), ("litdata", ((298,), (299,))), ("mds", ((), ()))):
        marks = marks_of(dataset, "a", ExportOptions(to=target), None)  # type: ignore[arg-type]
        assert marks is not None and (marks.before, marks.after) == around
    marks = marks_of(dataset, "a", ExportOptions(to="megatron", bos="none", eod=7), None)
    assert marks is not None and (marks.before, marks.after, marks.looks_like_mark) == ((), (7,), 7)
    marks = marks_of(dataset, "a", ExportOptions(to="mds", eod=300), None)
    assert marks is not None and (marks.after, marks.looks_like_mark) == ((300,), None)


def test_a_changed_artefact_is_refused() -> None:
    dataset = two_streams(False, eod=299)
    files = dataset.store.files  # type: ignore[attr-defined]
    name = next(n for n in files if n.endswith("artefact.json"))
    files[name] = json.dumps({"params": {"eod": 1}}).encode()
    with pytest.raises(ConfigError, match=r"artefact\.json was changed"):
        marks_of(dataset, "a", ExportOptions(to="megatron"), None)


@pytest.mark.parametrize(
    ("target", "stream", "eod", "dtype"),
    [
        ("mds", "a", "none", "uint16"), ("mds", "a", 70_000, "uint32"), ("mds", "b", "none", "uint32"),
        ("megatron", "a", "none", "uint16"), ("megatron", "a", 65_535, "uint16"), ("megatron", "a", 65_536, "int32"),
        ("megatron", "b", "none", "int32"), ("litdata", "a", "none", "int32"), ("parquet", "a", 5, "uint16"),
    ],
)  # fmt: skip
def test_ids_get_the_narrowest_type_that_the_format_has(target: Target, stream: str, eod: Any, dtype: str) -> None:
    marks = marks_of(two_streams(False), stream, ExportOptions(to=target, eod=eod), None)
    assert marks is not None and marks.dtype.name == dtype


def test_ids_that_megatron_cannot_hold_are_refused_before_the_first_byte(tmp_path: Path) -> None:
    dataset = two_streams(False)
    with pytest.raises(ConfigError, match="a has ids up to 3000000000, megatron holds up to 2147483647"):
        export(dataset, tmp_path / "out", ExportOptions(to="megatron", eod=3_000_000_000))
    assert not (tmp_path / "out").exists()


def test_sizes_and_marks_are_read_as_people_write_them() -> None:
    sizes = {"500MB": 500_000_000, "1GiB": 1 << 30, "64k": 64_000, "64KiB": 65_536, "7": 7, "1.5 MiB": 3 << 19}
    assert {text: parse_size(text) for text in sizes} == sizes
    assert [parse_mark(t, "--eod") for t in ("auto", "none", "50256")] == ["auto", "none", 50_256]
    for text in ("", "MB", "-1", "1 PB", "1e3"):
        with pytest.raises(ConfigError, match="500MB"):
            parse_size(text)
    for text in ("-1", "eos", "1.5"):
        with pytest.raises(ConfigError, match="a token id, auto or none"):
            parse_mark(text, "--eod")
