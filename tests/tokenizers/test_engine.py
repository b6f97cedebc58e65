"""The fast text engine: equal to the reference libraries on everything, and found out where it is not."""

from __future__ import annotations

import base64
import functools
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.schemas.errors import EngineMismatch
from headrace.schemas.record import record_schema
from headrace.tokenizers import engine_cuts, engine_text, engine_words
from headrace.tokenizers.contract import Artefact, Tokenizer
from headrace.tokenizers.engine_cuts import Cuts
from headrace.tokenizers.engine_proof import proof_texts
from headrace.tokenizers.registry import choose, load
from headrace.tokenizers.testing import digest
from headrace.tokenizers.testing_rows import texts

pytest.importorskip("sentencepiece")

TRAINING = (
    "The mill race carries water to the wheel, and the tail race carries it away again; it's the miller's own.",
    "def wheel(race: int = 0) -> list[int]:\n    return [race + 1, 22, 333]  # carries water\n",
    "Der Mühlgraben führt dem Rad das Wasser zu. Вода вращает колесо.",
    "水車は水の力で回る。川の流れは絶えずして、水は水。",
    "a  b   c    d\u3000e\u00a0f\tg",
)  # fmt: skip

FOREIGN: dict[str, dict[str, Any]] = {
    "squeezed": {},
    "squeezed bytes": {"byte_fallback": True},
    "prefixed": {
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "allow_whitespace_only_pieces": True,
        "user_defined_symbols": ["   ", "tail race"[:4]],
    },
    "prefixed unknown": {"normalization_rule_name": "identity", "remove_extra_whitespaces": False},
}
BYTE_LEVEL = ("gpt2", "cl100k_base", "o200k_base", "hf", "hf llama3", "hf added")
KINDS = ("trained", *FOREIGN, *BYTE_LEVEL)


def foreign_model(**options: Any) -> bytes:
    import sentencepiece

    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TRAINING * 3), model_writer=out, hard_vocab_limit=False, minloglevel=2, num_threads=1,
        **{"model_type": "bpe", "vocab_size": 400, "character_coverage": 1.0, **options},
    )  # fmt: skip
    return out.getvalue()


def byte_level_json(kind: str) -> dict[str, Any]:
    library = pytest.importorskip("tokenizers")
    made = library.Tokenizer(library.models.BPE())
    made.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = library.trainers.BpeTrainer(
        vocab_size=600,
        initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>"],
        show_progress=False,
    )
    made.train_from_iterator(TRAINING * 3, trainer)
    described: dict[str, Any] = json.loads(made.to_str())
    if kind == "hf llama3":
        pattern = next(p for p, family in engine_cuts.FAMILIES.items() if family == "cl100k" and "{1,3}" in p)
        split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
        described["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, level]}
        described["normalizer"] = {"type": "NFC"}
    elif kind == "hf added":
        plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
        described["added_tokens"].append({"id": 600, "content": "wheelrace", **plain})
    return described


def rank_file() -> str:
    """The merges of a small byte-level model as ranks."""
    described = byte_level_json("hf")
    spelled = {character: byte for byte, character in _byte_characters().items()}
    vocab = sorted((number, token) for token, number in described["model"]["vocab"].items() if token != "<|endoftext|>")
    tokens = [bytes(spelled[c] for c in token) for _, token in vocab]
    return "".join(f"{base64.b64encode(token).decode()} {rank}\n" for rank, token in enumerate(tokens))


def _byte_characters() -> dict[int, str]:
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {**{b: chr(b) for b in shown}, **{b: chr(256 + i) for i, b in enumerate(hidden)}}


@functools.cache
def model_files() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="headrace-engine-"))
    for name, options in FOREIGN.items():
        (folder / name).write_bytes(foreign_model(**options))
    (folder / "ranks").write_text(rank_file())
    for name in ("hf", "hf llama3", "hf added"):
        (folder / name).write_text(json.dumps(byte_level_json(name)))
    choice = choose({"type": "sentencepiece", "vocab_size": 600})
    assert choice.cls is not None
    choice.cls.fit(choice.config, [texts(*TRAINING)], 0).save(folder / "trained")
    return folder


@pytest.fixture(scope="module", autouse=True)
def _no_model_files_are_left() -> Any:
    yield
    import shutil

    if model_files.cache_info().currsize:
        shutil.rmtree(model_files())
        model_files.cache_clear()


def make(kind: str) -> Any:
    folder = model_files()
    if kind == "trained":
        return load(Artefact.load(folder / kind))
    if kind in FOREIGN:
        return choose({"type": "sentencepiece", "model": kind}, folder).create()
    if kind.startswith("hf"):
        return choose({"type": "huggingface", "model": kind}, folder).create()
    return choose({"type": "tiktoken", "model": "ranks", "pattern": kind}, folder).create()


@functools.cache
def pair(kind: str) -> tuple[Tokenizer, Tokenizer]:
    """(a tokenizer with its engine, the same with the reference library)."""
    fast, slow = make(kind), make(kind)
    assert fast.engine.startswith("words "), fast.engine_reason
    slow.retire_engine()
    assert slow.engine == "reference"
    return fast, slow


def assert_equal(kind: str, *strings: str) -> None:
    fast, slow = pair(kind)
    batch = texts(*strings)
    expected = slow.encode(batch)
    for _ in range(2):  # the second time from memory
        assert digest(fast.encode(batch)) == digest(expected)
    for row in range(len(strings)):
        assert digest(fast.encode(batch.slice(row, 1))) == digest(slow.encode(batch.slice(row, 1)))


PARTS = st.sampled_from(
    [
        *(" ", "  ", "\n", "\r", "\t", "\x00", "\x1b", "\x1f", "\x7f", "\x85", "\u2581", "\u3000", "\xa0", "\u2028"),
        *("\u200b", "\u200d", "\ufeff", "\ue000", "\u0308", "e\u0301", "'s", "'", "'Re", "/", "!", "(", ".", ",", "-"),
        *("<s>", "</s>", "<unk>", "<|endoftext|>", "<0x0A>", "a", "Z", "wheel", "tail", "race", "7", "123", "\u0662"),
        *("é", "Я", "р", "水", "。", "»", "ﬁ", "Ⅷ", "¨", "🎡"),
    ]
)
STRANGE = st.one_of(st.lists(PARTS, max_size=24).map("".join), st.text(max_size=40))


@settings(max_examples=25, deadline=None)
@given(strings=st.lists(STRANGE, min_size=1, max_size=5))
@pytest.mark.parametrize("kind", KINDS)
def test_the_engine_gives_the_ids_of_the_reference_library_for_every_string(kind: str, strings: list[str]) -> None:
    assert_equal(kind, *strings)


@pytest.mark.parametrize("kind", KINDS)
def test_the_engine_is_used_and_equal_on_long_and_single_texts(kind: str) -> None:
    long = [("wheel " * 9 + mark) * 300 for mark in ("\n", ".", "\u6c34", "\x00")]
    assert_equal(kind, *TRAINING, *long, "a" * 20_000, " " * 20_000, "7" * 5000, "", *(chr(c) for c in range(0x100)))


@pytest.mark.parametrize("kind", ["trained", "squeezed", "cl100k_base"])
def test_chunks_and_generations_of_any_size_give_the_same_ids(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for chunk, most in ((7, 3), (64, 40), (1 << 20, 40)):
        monkeypatch.setattr(engine_words, "_CHUNK", chunk)
        monkeypatch.setattr(engine_words, "_MOST_WORDS", most)
        assert_equal(kind, "", *TRAINING, "", "x y z " * 20, "")


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_words, "_MOST_WORDS", 1000)
    monkeypatch.setattr(engine_words, "_CHUNK", 1 << 12)
    seen: list[int] = []
    init = engine_words._Memory.__init__

    def noted(self: Any, dtype: Any) -> None:
        init(self, dtype)
        seen.append(0)

    monkeypatch.setattr(engine_words._Memory, "__init__", noted)
    engine = engine_words.WordEngine(
        Cuts(np.eye(1, 65536, 256 * ord("9") + 32, dtype=np.bool_)[0]),
        lambda parts: (np.arange(len(parts)), np.arange(len(parts) + 1)),
        np.dtype(np.uint32),
    )
    for start in range(20):
        words = " ".join(f"w{i}9" for i in range(start * 1000, start * 1000 + 1000))
        engine.encode(pa.array([words], pa.large_string()))
        assert len(engine._young.entries) + len(engine._old.entries) < 2 * (1000 + 1000)
    assert len(seen) > 10


def test_no_marker_in_a_text_becomes_a_control_id() -> None:
    for kind in KINDS:
        fast, _ = pair(kind)
        control = {0, 1, 2} if kind in FOREIGN else {0} if kind.startswith("hf") else set()
        if kind in FOREIGN and "byte_fallback" not in FOREIGN[kind]:
            control = {1, 2}  # 0 is the id of unknown characters there
        found = fast.encode(texts("<s>", " <unk> ", "a</s>b", "<|endoftext|>", "<s></s><s>"))
        assert not control & set(found.values.tolist()), kind


@pytest.mark.parametrize("kind", ["trained", "squeezed", "prefixed", "hf", "cl100k_base"])
def test_an_engine_that_is_wrong_anywhere_is_disproven_and_not_used(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = engine_words.WordEngine.encode

    def wrong(self: Any, column: pa.Array) -> Any:
        values, offsets = right(self, column)
        if "\u6c34" in "".join(column.to_pylist()) and len(values):
            values = values.copy()
            values[-1] ^= 1
        return values, offsets

    monkeypatch.setattr(engine_words.WordEngine, "encode", wrong)
    tokenizer = make(kind)
    assert tokenizer.engine == "reference" and "other ids from token" in tokenizer.engine_reason
    monkeypatch.undo()
    assert digest(tokenizer.encode(texts(*TRAINING))) == digest(pair(kind)[1].encode(texts(*TRAINING)))


@pytest.mark.data
@pytest.mark.parametrize(
    ("pattern", "before", "after"),
    [("cl100k_base", ".", "\n"), ("gpt2", "\n", "a"), ("cl100k_base", "\n", " ")],
)
def test_a_wrong_cut_is_disproven(
    pattern: str, before: str, after: str, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = engine_cuts.of_pattern

    def wrong(family: engine_cuts.Family) -> Cuts:
        cuts = right(family)
        pairs = cuts.pair.copy()
        pairs[256 * ord(before) + ord(after)] = True
        return Cuts(pairs, cuts.never_after)

    monkeypatch.setattr("headrace.tokenizers.tiktoken_text.of_pattern", wrong)
    settings_ = {"type": "tiktoken", "model": "cl100k_base.tiktoken.gz", "pattern": pattern}
    tokenizer: Any = choose(settings_, corpus / "text" / "tokenizers").create()
    assert tokenizer.engine == "reference" and "other ids" in tokenizer.engine_reason


def records(*strings: str) -> pa.RecordBatch:
    """Text records with ids 0, 1, 2 … in their first eight bytes."""
    draft = texts(*strings)
    schema = record_schema("text")
    ids = pa.array([i.to_bytes(8, "little") + bytes(8) for i in range(len(strings))], pa.binary(16))
    empty = {field.name: pa.nulls(len(strings), field.type) for field in schema}
    columns = {**empty, **{name: draft.column(name) for name in draft.schema.names}, "record_id": ids}
    return pa.RecordBatch.from_arrays([columns[field.name] for field in schema], schema=schema)


@pytest.mark.parametrize("kind", ["trained", "squeezed", "hf", "cl100k_base"])
def test_a_difference_in_a_checked_document_is_an_error_that_names_it(kind: str) -> None:
    tokenizer = make(kind)
    right = tokenizer._engine._fast

    def wrong(column: pa.Array) -> Any:
        values, offsets = right(column)
        values = values.copy()
        values[offsets[1025]] ^= 1  # where row 1025 begins
        return values, offsets

    batch = records(*(f"wheel {i}" for i in range(1030)))
    tokenizer._engine._fast = wrong
    tokenizer.encode(batch)  # rows 0 and 1024 are checked and right
    assert tokenizer.checked == 2
    order = [*range(1024), 1025, 1024, *range(1026, 1030)]
    with pytest.raises(EngineMismatch, match=f"record {(1024).to_bytes(8, 'little').hex()}.* at token 0") as caught:
        tokenizer.encode(batch.take(pa.array(order, pa.int64())))  # chosen by id, wherever they stand
    assert caught.value.row == 1025 and caught.value.engine == tokenizer.engine
    assert tokenizer.checked == 4
    tokenizer.encode(batch.slice(1, 1029))
    tokenizer.encode(texts(*(f"wheel {i}" for i in range(1030))))
    assert tokenizer.checked == 5, "drafts have no ids"
    tokenizer.retire_engine()
    assert tokenizer.engine == "reference" and tokenizer.engine_reason == "retired"
    assert digest(tokenizer.encode(batch)) == digest(pair(kind)[1].encode(batch))


def test_the_share_of_checked_documents_can_be_set_and_moves_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = records(*TRAINING * 40)
    found = {}
    for share in (0, 1, 7):
        monkeypatch.setattr(engine_text, "CHECKED_SHARE", share)
        tokenizer = make("trained")
        found[share] = digest(tokenizer.encode(batch)), tokenizer.checked, tokenizer.fingerprint
    assert {checked for _, checked, _ in found.values()} == {0, 200, 29}
    assert len({(tokens, fingerprint) for tokens, _, fingerprint in found.values()}) == 1


def test_the_engine_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_text, "ENABLED", False)
    tokenizer = make("trained")
    assert (tokenizer.engine, tokenizer.engine_reason) == ("reference", "switched off")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"model_type": "unigram"}, "only BPE"),
        ({"treat_whitespace_as_suffix": True}, "in front of a word"),
        ({"add_dummy_prefix": False}, "without putting one in front"),
        ({"normalization_rule_name": "nmt_nfkc", "remove_extra_whitespaces": False}, "keeps its spaces"),
        ({"split_by_whitespace": False, "vocab_size": 1500}, "reach over a space"),
    ],
)
def test_a_model_that_does_not_divide_into_words_is_left_to_the_library(
    options: dict[str, Any], said: str, tmp_path: Path
) -> None:
    (tmp_path / "m").write_bytes(foreign_model(**options))
    tokenizer: Any = choose({"type": "sentencepiece", "model": "m"}, tmp_path).create()
    assert tokenizer.engine == "reference" and said in tokenizer.engine_reason


def test_rules_that_rewrite_spaces_are_seen_in_a_model(tmp_path: Path) -> None:
    for rule, used in (("61 20 62\t63\n", False), ("20 62\t63\n", False), ("61\t20 20\n", False), ("61\t62\n", True)):
        (tmp_path / "rules.tsv").write_text(rule)
        (tmp_path / "m").write_bytes(foreign_model(normalization_rule_tsv=str(tmp_path / "rules.tsv")))
        tokenizer: Any = choose({"type": "sentencepiece", "model": "m"}, tmp_path).create()
        assert (tokenizer.engine != "reference") is used, (rule, tokenizer.engine_reason)


def test_patterns_and_pre_tokenizers_that_are_not_known_are_left_to_the_library(tmp_path: Path) -> None:
    (tmp_path / "ranks").write_text(rank_file())
    tokenizer: Any = choose({"type": "tiktoken", "model": "ranks", "pattern": r"\s+|\S+"}, tmp_path).create()
    assert tokenizer.engine == "reference" and "not known" in tokenizer.engine_reason
    for change in ({"pre_tokenizer": None}, {"normalizer": {"type": "Lowercase"}}):
        (tmp_path / "t").write_text(json.dumps({**byte_level_json("hf"), **change}))
        other: Any = choose({"type": "huggingface", "model": "t"}, tmp_path).create()
        assert other.engine == "reference" and other.engine_reason


def test_the_clip_fraction_is_the_share_of_unknown_ids() -> None:
    fast, _ = pair("squeezed")
    found = fast.encode(texts("wheel \u4e00\u4e01 x", "", "wheel", "\u4e00"))
    unknown = [row == 0 for row in np.split(found.values, found.offsets[1:-1])]
    expected = [np.float32(row.mean()) if len(row) else 0 for row in unknown]
    assert found.clip_fraction.tolist() == expected and found.clip_fraction[3] > 0


def test_the_proof_is_the_same_in_every_process_and_knows_the_markers() -> None:
    pieces = [f"p{i}" for i in range(5000)]
    assert proof_texts(pieces) == proof_texts(list(pieces)) and "<s>" in proof_texts([])
    assert sum(map(len, proof_texts(pieces))) < 60_000


def corpus_documents(corpus: Path, step: int) -> list[str]:
    found = []
    for path in sorted(p for p in (corpus / "text").rglob("*") if p.is_file() and "tokenizers" not in p.parts)[::step]:
        text = path.read_bytes().decode("utf-8", "replace")
        found += [text[at : at + 50_000] for at in range(0, len(text), 50_000)]
    return found


@pytest.mark.data
@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_of_the_corpus_has_the_ids_of_the_reference_library(kind: str, corpus: Path) -> None:
    documents = [document[:6000] for document in corpus_documents(corpus, 7)[::3]]
    fast, slow = pair(kind)
    assert digest(fast.encode(texts(*documents))) == digest(slow.encode(texts(*documents)))


@pytest.mark.data
@pytest.mark.chaos
@pytest.mark.parametrize("kind", KINDS)
def test_the_whole_corpus_has_the_ids_of_the_reference_library(kind: str, corpus: Path) -> None:
    fast, slow = pair(kind)
    documents = corpus_documents(corpus, 1)
    for at in range(0, len(documents), 20):
        batch = texts(*documents[at : at + 20])
        assert digest(fast.encode(batch)) == digest(slow.encode(batch)), at
