"""Text tokenizers against the libraries they wrap, and against text that means harm."""

from __future__ import annotations

import gzip
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.schemas.errors import ConfigError, RecordError
from headrace.tokenizers.contract import Artefact, Tokenizer
from headrace.tokenizers.registry import choose, load, needs_fit
from headrace.tokenizers.sentencepiece_model import CONTROL, pieces
from headrace.tokenizers.testing import row_tokens
from headrace.tokenizers.testing_rows import texts

LANGUAGES = (
    "The mill race carries water to the wheel, and the tail race carries it away again.",
    "Der Mühlgraben führt dem Rad das Wasser zu, und der Untergraben führt es ab.",
    "Τὸ νερὸ κινεῖ τὸν τροχό.",
    "Вода вращает мельничное колесо.",
    "水車は水の力で回る。川の流れは絶えずして、しかももとの水にあらず。",
    "الماء يدير العجلة",
    "पानी चक्की को घुमाता है",
)
HARMFUL = (
    "<s>",
    "</s>",
    "<unk>",
    "<pad>",
    "<0x0A>",
    "<|endoftext|>",
    "<|im_start|>system",
    "[INST]",
    "\u2581",
    "\u2585",
    "\u2047",
)


def fit(texts_: tuple[str, ...], **options: Any) -> Tokenizer:
    pytest.importorskip("sentencepiece")
    choice = choose({"type": "sentencepiece", **options})
    assert choice.cls is not None
    return load(Artefact.from_files(choice.cls.fit(choice.config, [texts(*texts_)], 0).to_files()))


def back(tokenizer: Tokenizer, *strings: str) -> list[str]:
    decoded: list[str] = tokenizer.decode(row_tokens(tokenizer.encode(texts(*strings)))).column("text").to_pylist()
    return decoded


TRAINED: dict[str, Tokenizer] = {}


@pytest.fixture(params=["bpe", "unigram"])
def trained(request: pytest.FixtureRequest) -> Tokenizer:
    kind = str(request.param)
    if kind not in TRAINED:
        TRAINED[kind] = fit(LANGUAGES, model_type=kind)
    return TRAINED[kind]


#: Everything that breaks tokenizers: spaces of all kinds, controls, the reserved characters, joined emoji, plain words.
STRANGE = st.text(
    st.sampled_from(" \n\r\t\x00\x01\x1b\x7f\u2581\u2585\u2047\u3000\xa0\u200d\ufeff\ufffd\ue000\ue001ae<s>/é\u0301🎡")
)


@settings(max_examples=300, deadline=None)
@given(text=st.one_of(STRANGE, st.text(), st.lists(st.sampled_from([*HARMFUL, *LANGUAGES]), max_size=6).map(" ".join)))
def test_a_trained_model_gives_every_string_back(text: str) -> None:
    for kind in ("bpe", "unigram"):
        if kind not in TRAINED:
            TRAINED[kind] = fit(LANGUAGES, model_type=kind)
        assert back(TRAINED[kind], text) == [text]


def test_harmful_strings_in_one_batch_come_back_too(trained: Tokenizer) -> None:
    assert back(trained, *HARMFUL, "".join(HARMFUL)) == [*HARMFUL, "".join(HARMFUL)]
    assert (trained.encode(texts(*HARMFUL)).clip_fraction == 0).all()


@pytest.mark.parametrize("only", ["", "a", "\n\n", "\u2581", "\u2585", "水", " ", "a" * 5000, "\ue000\u2581"])
def test_training_on_almost_nothing_still_gives_an_exact_model(only: str) -> None:
    tokenizer = fit((only,))
    assert back(tokenizer, only, "something else, 別の\n") == [only, "something else, 別の\n"]


@pytest.mark.parametrize("text", LANGUAGES)
def test_training_on_one_sentence_of_any_language_works(text: str) -> None:
    for vocab_size in (300, 8000):
        assert back(fit((text,), vocab_size=vocab_size), text) == [text]


def test_many_different_characters_do_not_overflow_a_small_vocabulary() -> None:
    text = "".join(chr(c) for c in range(0x4E00, 0x4E00 + 4000))
    tokenizer = fit((text,), vocab_size=600, character_coverage=1.0)
    assert tokenizer.vocab_size <= 600 and back(tokenizer, text) == [text]


@pytest.mark.data
@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_long_texts_get_the_ids_that_the_library_gives_them_whole(corpus: Path, kind: str) -> None:
    library = pytest.importorskip("sentencepiece")
    book = (corpus / "text" / "plain" / "botchan.txt").read_text(encoding="utf-8")
    tokenizer = fit((book[:100_000],), model_type=kind, vocab_size=2000)
    reference = library.SentencePieceProcessor(model_proto=tokenizer.artefact.files["tokenizer.model"])
    for text in (book, book.replace("\n", " "), "\n" * 20_000, "x\n" * 9000, "a" * 3999 + "\n", "a" * 4000 + "\nb"):
        assert tokenizer.encode(texts(text)).values.tolist() == reference.encode(text)
        assert back(tokenizer, text) == [text]


def test_a_unigram_model_sees_texts_whole() -> None:
    """It adds up float32 scores along a text: in parts of some thousand characters a few ids came out otherwise."""
    library = pytest.importorskip("sentencepiece")
    rng = random.Random(3)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(3000)]
    book = "\n".join(" ".join(rng.choices(words, k=12)) for _ in range(3000))
    tokenizer = fit((book[:60_000],), model_type="unigram", vocab_size=1500)
    reference = library.SentencePieceProcessor(model_proto=tokenizer.artefact.files["tokenizer.model"])
    assert tokenizer.encode(texts(book)).values.tolist() == reference.encode(book)


def test_training_gives_the_same_bytes_each_time() -> None:
    one, two = fit(LANGUAGES), fit(LANGUAGES[::-1])
    assert one.artefact.files == two.artefact.files and one.fingerprint == two.fingerprint


@pytest.mark.parametrize("character", ["a", " ", "\n", "水", "\u2581", "a\u2581", "\x00"])
def test_a_megabyte_of_one_character_takes_linear_time(trained: Tokenizer, character: str) -> None:
    def seconds(count: int) -> float:
        batch = texts(character * count)
        start = time.process_time()
        trained.encode(batch)
        return time.process_time() - start

    seconds(1000)
    small, large = max(seconds(100_000), 1e-3), seconds(1_000_000)
    assert large < 60 * small, f"{large:.2f} s against {small:.4f} s for a tenth"


@pytest.mark.data
def test_a_model_file_gives_the_librarys_own_ids(corpus: Path) -> None:
    library = pytest.importorskip("sentencepiece")
    folder = corpus / "text"
    choice = choose({"type": "sentencepiece", "model": "test_model.model"}, folder / "tokenizers")
    assert not needs_fit(choice)
    tokenizer = choice.create()
    reference = library.SentencePieceProcessor(model_file=str(folder / "tokenizers" / "test_model.model"))
    documents = [p.read_text(encoding="utf-8")[:60_000] for p in sorted((folder / "tatoeba").iterdir())[::4]]
    documents += [(folder / "plain" / "botchan.txt").read_text(encoding="utf-8"), *HARMFUL, "", "  a  b\n\nc "]
    for document, ids in zip(documents, row_tokens(tokenizer.encode(texts(*documents))), strict=True):
        assert ids.tolist() == reference.encode(document)
    decoded = tokenizer.decode(row_tokens(tokenizer.encode(texts(*documents))))
    assert decoded.column("text").to_pylist() == [reference.decode(reference.encode(d)) for d in documents]
    again = load(Artefact.from_files(tokenizer.artefact.to_files()))
    assert again.fingerprint == tokenizer.fingerprint and again.vocab_size == reference.get_piece_size()


def test_user_defined_pieces_that_read_like_control_are_text_and_others_stay(tmp_path: Path) -> None:
    library = pytest.importorskip("sentencepiece")
    library.SentencePieceTrainer.train(
        sentence_iterator=iter(LANGUAGES),
        model_prefix=str(tmp_path / "user"),
        vocab_size=500,
        hard_vocab_limit=False,
        byte_fallback=True,
        user_defined_symbols=["<|im_start|>", "[INST]", "\n", "   ", "wheel"],
        minloglevel=2,
    )
    data = (tmp_path / "user.model").read_bytes()
    reference = library.SentencePieceProcessor(model_proto=data)
    tokenizer = choose({"type": "sentencepiece", "model": "user.model"}, tmp_path).create()
    marker, wheel = reference.piece_to_id("<|im_start|>"), reference.piece_to_id("wheel")
    assert marker in reference.encode("a <|im_start|> b"), "the library itself falls for it"
    ids = tokenizer.encode(texts("a <|im_start|> b [INST]", "the wheel\nturns   on")).values
    assert marker not in ids and reference.piece_to_id("[INST]") not in ids and wheel in ids
    assert tokenizer.artefact.params["treated_as_text"] == ["<|im_start|>", "[INST]"]
    plain = "the wheel\nturns   on, 水"
    assert tokenizer.encode(texts(plain)).values.tolist() == reference.encode(plain)
    changed = dict(pieces(tokenizer.artefact.files["tokenizer.model"]))
    assert changed["<|im_start|>"] == CONTROL and [p for p, _ in pieces(data)] == list(changed)


@pytest.mark.parametrize("data", [b"", b"\x00" * 40, b"not a model at all", b"\x0a\xff\xff\xff\x7f", b"\x0b\x0c"])
def test_a_file_that_is_no_model_is_a_wrong_setting(tmp_path: Path, data: bytes) -> None:
    pytest.importorskip("sentencepiece")
    (tmp_path / "x.model").write_bytes(data)
    with pytest.raises(ConfigError):
        choose({"type": "sentencepiece", "model": "x.model"}, tmp_path).create()
    with pytest.raises(ConfigError, match="nowhere"):
        choose({"type": "sentencepiece", "model": "nowhere"}, tmp_path).create()


@pytest.mark.data
@pytest.mark.parametrize(("name", "pattern"), [("gpt2.tiktoken", "gpt2"), ("cl100k_base.tiktoken.gz", "cl100k_base")])
def test_a_rank_file_gives_tiktokens_own_ids(corpus: Path, tmp_path: Path, name: str, pattern: str) -> None:
    library = pytest.importorskip("tiktoken")
    load_ranks = pytest.importorskip("tiktoken.load").load_tiktoken_bpe
    folder = corpus / "text"
    data = (folder / "tokenizers" / name).read_bytes()
    (tmp_path / "plain").write_bytes(gzip.decompress(data) if name.endswith("gz") else data)
    public = pytest.importorskip("tiktoken_ext.openai_public")
    split = public.r50k_pat_str if pattern == "gpt2" else _cl100k_pattern()
    ranks = load_ranks(str(tmp_path / "plain"))
    special = {"<|endoftext|>": 10**6}
    reference = library.Encoding("reference", pat_str=split, mergeable_ranks=ranks, special_tokens=special)
    tokenizer = choose({"type": "tiktoken", "model": name, "pattern": pattern}, folder / "tokenizers").create()
    documents = [p.read_text(encoding="utf-8")[:40_000] for p in sorted((folder / "tatoeba").iterdir())[::5]]
    documents += [(folder / "plain" / "botchan.txt").read_text(encoding="utf-8"), *HARMFUL, "", " a  b\n\n c's 12345\n"]
    for document, ids in zip(documents, row_tokens(tokenizer.encode(texts(*documents))), strict=True):
        assert ids.tolist() == reference.encode_ordinary(document)
    assert back(tokenizer, *documents) == documents
    assert tokenizer.vocab_size == max(ranks.values()) + 1


def _cl100k_pattern() -> str:
    """The pattern of the installed tiktoken, taken from its source without fetching its ranks."""
    import inspect

    source = inspect.getsource(pytest.importorskip("tiktoken_ext.openai_public").cl100k_base)
    return source.split('r"""')[1].split('"""')[0]


def test_a_pattern_that_skips_text_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("tiktoken")
    write_bytes_ranks(tmp_path / "r.tiktoken")
    tokenizer = choose({"type": "tiktoken", "model": "r.tiktoken", "pattern": "[a-z]+"}, tmp_path).create()
    assert back(tokenizer, "abc") == ["abc"]
    with pytest.raises(RecordError, match="skips 4 of the 7 bytes"):
        tokenizer.encode(texts("abc DEF"))


def write_bytes_ranks(path: Path) -> None:
    import base64

    path.write_text("".join(f"{base64.b64encode(bytes([b])).decode()} {b}\n" for b in range(256)))


@pytest.mark.parametrize(
    ("lines", "pattern", "said"),
    [
        ("YQ== 0\n", "gpt2", "single byte"),
        ("YQ== 0\nYQ== 1\n", "gpt2", "line 2"),
        ("@@ 0\n", "gpt2", "line 1"),
        ("YQ==\n", "gpt2", "line 1"),
        (None, "cl100k", "did you mean `cl100k_base`"),
        (None, "(", "regular expression"),
    ],
)
def test_wrong_rank_files_and_patterns_are_named(tmp_path: Path, lines: str | None, pattern: str, said: str) -> None:
    pytest.importorskip("tiktoken")
    if lines is None:
        write_bytes_ranks(tmp_path / "r")
    else:
        (tmp_path / "r").write_text(lines)
    with pytest.raises(ConfigError, match=said):
        choose({"type": "tiktoken", "model": "r", "pattern": pattern}, tmp_path).create()


def hugging_face(kind: str) -> Any:
    """A small tokenizer of each model of the library, with special and ordinary added tokens."""
    library = pytest.importorskip("tokenizers")
    special = ["<unk>", "<s>", "</s>", "<|endoftext|>", "[CLS]"]
    if kind == "bpe":
        made = library.Tokenizer(library.models.BPE(byte_fallback=False))
        made.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = library.decoders.ByteLevel()
        trainer = library.trainers.BpeTrainer(
            vocab_size=500,
            initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
            special_tokens=special,
            show_progress=False,
        )
    elif kind == "unigram":
        made = library.Tokenizer(library.models.Unigram())
        made.pre_tokenizer = library.pre_tokenizers.Metaspace()
        made.decoder = library.decoders.Metaspace()
        trainer = library.trainers.UnigramTrainer(
            vocab_size=400, special_tokens=special, unk_token="<unk>", show_progress=False
        )
    elif kind == "wordpiece":
        made = library.Tokenizer(library.models.WordPiece(unk_token="<unk>"))
        made.pre_tokenizer = library.pre_tokenizers.WhitespaceSplit()
        trainer = library.trainers.WordPieceTrainer(vocab_size=400, special_tokens=special, show_progress=False)
    else:
        made = library.Tokenizer(library.models.WordLevel(unk_token="<unk>"))
        made.pre_tokenizer = library.pre_tokenizers.WhitespaceSplit()
        trainer = library.trainers.WordLevelTrainer(vocab_size=400, special_tokens=special, show_progress=False)
    made.train_from_iterator(LANGUAGES, trainer)
    made.add_tokens([library.AddedToken("   ", normalized=False), "tailrace", "<tool_call>"])
    made.enable_truncation(8)
    made.enable_padding(length=16)
    ends = [("<s>", 1), ("</s>", 2)]
    made.post_processor = library.processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    return made


@pytest.mark.parametrize("kind", ["bpe", "unigram", "wordpiece", "wordlevel"])
def test_a_tokenizer_json_gives_the_librarys_ids_without_its_traps(tmp_path: Path, kind: str) -> None:
    made = hugging_face(kind)
    made.save(str(tmp_path / "tokenizer.json"))
    tokenizer = choose({"type": "huggingface", "model": "tokenizer.json"}, tmp_path).create()
    made.no_truncation()
    made.no_padding()
    plain = [*LANGUAGES, "the tailrace   runs", "", "wheel " * 40, "nothing special < s > | here"]
    expected = [made.encode(text, add_special_tokens=False).ids for text in plain]
    assert [ids.tolist() for ids in row_tokens(tokenizer.encode(texts(*plain)))] == expected
    control = {made.token_to_id(t) for t in ("<s>", "</s>", "<|endoftext|>", "[CLS]", "<tool_call>")}
    for text in ("<s>", " <s> a </s> ", "x<|endoftext|>y", "[CLS]", "a <tool_call> b", "<s></s><s>"):
        assert control & set(made.encode(text, add_special_tokens=False).ids), "the library itself falls for it"
        assert not control & set(tokenizer.encode(texts(text)).values.tolist()), text
    if kind == "bpe":
        assert back(tokenizer, *HARMFUL, *LANGUAGES) == [*HARMFUL, *LANGUAGES]
    assert tokenizer.vocab_size == max(made.get_vocab().values()) + 1


def test_a_vocabulary_that_spells_a_marker_itself_gives_no_sample(tmp_path: Path) -> None:
    library = pytest.importorskip("tokenizers")
    vocab = {"<unk>": 0, "<": 1, "s": 2, ">": 3, "<s": 4, "<s>": 5}
    made = library.Tokenizer(library.models.BPE(vocab, [("<", "s"), ("<s", ">")], unk_token="<unk>"))
    made.add_special_tokens(["<s>"])
    made.save(str(tmp_path / "t.json"))
    tokenizer = choose({"type": "huggingface", "model": "t.json"}, tmp_path).create()
    assert tokenizer.encode(texts("s<>")).values.tolist() == [2, 1, 3]
    with pytest.raises(RecordError, match="control token"):
        tokenizer.encode(texts("<s>"))


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"model": {"type": "BPE"}}', '{"model": {"type": "X"}}'])
def test_a_wrong_tokenizer_json_is_a_wrong_setting(tmp_path: Path, content: str) -> None:
    pytest.importorskip("tokenizers")
    (tmp_path / "t.json").write_text(content)
    with pytest.raises(ConfigError):
        choose({"type": "huggingface", "model": "t.json"}, tmp_path).create()


@given(text=st.text())
@settings(max_examples=100, deadline=None)
def test_bytes_are_the_bytes(text: str) -> None:
    tokenizer = choose({"type": "bytes"}).create()
    encoded = tokenizer.encode(texts("x", text).slice(1))
    assert encoded.values.astype(np.uint8).tobytes() == text.encode() and back(tokenizer, text) == [text]
