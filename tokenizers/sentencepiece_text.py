"""`sentencepiece`: text by SentencePiece, trained on the stream's own text or from a model file; the default for text.

A trained model keeps every string exactly: no normalization, no added or removed spaces, and bytes for characters it
does not know (so newlines, control characters and NUL are byte tokens). One character needs help: SentencePiece writes
a space as U+2581, so a U+2581 in the text is encoded as another unknown character, whose bytes are then put right. A
model file (`model: ./eu-64k.model`) is used as it is and gives exactly the ids of the sentencepiece library.

Text never becomes a control id: the library does not match control pieces, and user-defined pieces that read like
control (`<|im_start|>`) are turned into such. For BPE models the library is asked about every distinct word only once
(see engine_text.py); the ids are the same.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from headrace.schemas.errors import ConfigError, MissingExtra, NotFitted, RecordError, SchemaMismatch, TokenizerError
from headrace.schemas.record import Modality, RecordBuilder, modality_of
from headrace.tokenizers.arrays import Array
from headrace.tokenizers.artefact_checks import check_artefact
from headrace.tokenizers.contract import Artefact, Encoded, FitBudget, TokenizerConfig
from headrace.tokenizers.control_text import looks_like_control
from headrace.tokenizers.engine_proof import Encode
from headrace.tokenizers.engine_sentencepiece import apart, cuts_for, prefixed, token_bytes
from headrace.tokenizers.engine_text import EngineTokenizer, TextEngine, encoded, rows_of
from headrace.tokenizers.engine_words import Rows
from headrace.tokenizers.fit_rows import fit_rows, training_card
from headrace.tokenizers.model_file import ModelFile, read_model
from headrace.tokenizers.sentencepiece_model import pieces, settings_of, without_control_text, without_dummy_prefix

KIND = "sentencepiece"
MODEL = "tokenizer.model"
SPACE = "▁"
#: Training sentences are pieces of text between characters that would be bytes anyway or that the trainer reserves.
_BORDERS = re.compile("[\x00-\x1f\x7f\u2581\u2585]+")
_SENTENCE = 1000
_PART = 4000
#: Vocabulary for a corpus: a piece for every so many bytes of text, within these limits.
_BYTES_PER_PIECE, _LEAST, _MOST = 256, 1000, 32_000
_FIXED = 257  #: the unknown piece and 256 bytes


class SentencePieceConfig(TokenizerConfig):
    """Settings of `sentencepiece`."""

    model: ModelFile | None = Field(None, description="a SentencePiece model file; then nothing is trained")
    vocab_size: int | None = Field(None, ge=300, le=1 << 20, description="most pieces; default 1,000 to 32,000 by text")
    model_type: Literal["bpe", "unigram"] = Field("bpe", description="bpe trains ten times faster, unigram encodes so")
    character_coverage: float = Field(0.9995, gt=0, le=1, description="share of text whose characters get pieces")
    split_digits: bool = Field(True, description="every digit is a piece of its own")


class SentencePiece(EngineTokenizer):
    """See the module."""

    Config = SentencePieceConfig
    modalities: ClassVar[tuple[Modality, ...]] = ("text",)
    fitted = True
    fit_budget = FitBudget(max_bytes=16 << 20)

    def __init__(self, config: SentencePieceConfig, artefact: Artefact | None = None) -> None:
        super().__init__(config, artefact)
        if artefact is None and config.model is not None:
            data, changed = without_control_text(read_model(config.model), looks_like_control)
            params: dict[str, Any] = {"exact": False, "treated_as_text": changed}
            self._artefact = Artefact(KIND, params, files={MODEL: data})
        self._processor: Any = None
        if self._artefact is not None:
            check_artefact(self._artefact, KIND, ("exact",), (MODEL,))
            self._exact = bool(self._artefact.params["exact"])
            self._parted = self._exact and bool(self._artefact.params.get("parts", True))
            self._processor = _load(self._artefact.files[MODEL])
            self._pieces = pieces(self._artefact.files[MODEL])
            self._known = {c for piece, _ in self._pieces for c in piece}
            self._engine = self._proven_engine(self._artefact.files[MODEL])

    @property
    def artefact(self) -> Artefact:
        if self._artefact is None:
            raise NotFitted(f"`{KIND}` is trained on the stream's text: run `headrace fit` first, or name a `model`")
        return self._artefact

    @property
    def vocab_size(self) -> int:
        _ = self.artefact
        return int(self._processor.get_piece_size())

    @classmethod
    def fit(cls, config: SentencePieceConfig, records: Sequence[pa.RecordBatch], seed: int) -> Artefact:
        if config.model is not None:
            return cls(config).artefact
        rows = fit_rows(records, cls.modalities, KIND)
        sentences = sorted(s for _, row in rows for s in _sentences(row.column("text")[0].as_py()))
        size = sum(len(s.encode()) for s in sentences)
        vocab = config.vocab_size or max(_LEAST, min(_MOST, size // _BYTES_PER_PIECE // 1000 * 1000))
        frequent = _without_rare(sentences, config.character_coverage, (vocab - _FIXED) // 2)
        data = _train([" ", *frequent], vocab, config)
        params = {**config.model_dump(mode="json", exclude={"model"}), "exact": True, "treated_as_text": []}
        if config.model_type == "unigram":  # adds up float32 scores along a text: its parts have other ids than it has
            params["parts"] = False
        tokenizer = cls(config, Artefact(KIND, params, files={MODEL: data}))
        tokenizer._prove_exact()
        card = {**training_card(rows, 0, seed), "text_bytes": size, "vocab_size": tokenizer.vocab_size}
        return Artefact(KIND, params, files={MODEL: data}, card=card)

    def encode(self, records: pa.RecordBatch) -> Encoded:
        _ = self.artefact
        if modality_of(records) != "text":
            raise SchemaMismatch(f"`{KIND}` takes text records, not {modality_of(records)}")
        assert self._engine is not None
        return encoded(*self._engine.encode(records), self._processor.unk_id())

    def _proven_engine(self, model: bytes) -> TextEngine:
        engine = TextEngine(self._reference, f"sentencepiece {_library().__version__}", self.token_dtype)
        settings = settings_of(model)
        spaced = settings.dummy_prefix and not settings.remove_spaces
        processor = _load(without_dummy_prefix(model)) if spaced else self._processor

        def parts(texts: list[str]) -> Rows:
            return rows_of(_ids(processor, texts), np.dtype(np.int32))

        def around(fast: Encode, slow: Encode) -> Encode:
            return apart(prefixed(fast) if spaced else fast, slow)

        cuts = cuts_for(self._pieces, settings)
        known = [piece.replace(SPACE, " ") for piece, _ in self._pieces]
        engine.use_words(cuts, parts, known, token_bytes(self._pieces, settings), around)
        return engine

    def _reference(self, column: pa.Array) -> Rows:
        """The library's ids of a text column."""
        texts = column.to_pylist()
        stand_ins = {i: self._stand_in(text) for i, text in enumerate(texts) if self._exact and SPACE in text}
        rows = self._rows([t.replace(SPACE, stand_ins[i]) if i in stand_ins else t for i, t in enumerate(texts)])
        for i, character in stand_ins.items():
            rows[i] = self._put_right(rows[i], character)
        return rows_of(rows, np.dtype(np.int32))

    def _rows(self, texts: list[str]) -> list[Array]:
        """Ids of each text. For BPE long texts go in parts, which it encodes three times faster; the ids are the same.

        A trained model has no piece that holds a newline, so nothing is ever merged across one.
        """
        if not self._parted:
            return _ids(self._processor, texts)
        parts = [_parts(text) for text in texts]
        flat = _ids(self._processor, [part for several in parts for part in several])
        ends = np.cumsum([len(several) for several in parts]).tolist()
        joined = [flat[end - len(several) : end] for several, end in zip(parts, ends)]
        return [rows[0] if len(rows) == 1 else np.concatenate(rows) for rows in joined]

    def _stand_in(self, text: str) -> str:
        """A private-use character, three bytes long like U+2581, that neither the model nor the text knows."""
        candidates = (chr(c) for c in range(0xE000, 0xF900))
        found = next((c for c in candidates if c not in self._known and c not in text), None)
        if found is None:
            raise RecordError("encode_failed", "the text holds U+2581 and every private-use character")
        return found

    def _put_right(self, ids: Array, character: str) -> Array:
        """Change the byte tokens of `character` to those of U+2581; UTF-8 has them side by side nowhere else."""
        was, now = ([self._processor.piece_to_id(f"<0x{b:02X}>") for b in c.encode()] for c in (character, SPACE))
        fixed = ids.copy()
        at = np.flatnonzero((ids[:-2] == was[0]) & (ids[1:-1] == was[1]) & (ids[2:] == was[2]))
        for place, byte in enumerate(now):
            fixed[at + place] = byte
        return fixed

    def _prove_exact(self) -> None:
        """Raises: TokenizerError if a freshly trained model loses a space, a byte or a U+2581."""
        probe = f"  a  {SPACE}b\n\x00\u00e9\U0001f3a1 "
        stand_in = self._stand_in(probe)
        ids = self._put_right(_ids(self._processor, [probe.replace(SPACE, stand_in)])[0], stand_in)
        if self._processor.decode(ids.tolist()) != probe:
            raise TokenizerError("the trained SentencePiece model does not give text back: please report it")

    def decode(self, tokens: Sequence[Array]) -> pa.RecordBatch:
        _ = self.artefact
        builder = RecordBuilder("text")
        size = self.vocab_size
        for body in tokens:
            if len(body) and int(np.max(body)) >= size:
                raise TokenizerError(f"id {int(np.max(body))} is not below the {size} pieces of the model")
            builder.add(locator="{}", text=self._processor.decode(np.asarray(body).tolist()) if len(body) else "")
        return builder.finish()


def _library() -> Any:
    try:
        import sentencepiece
    except ImportError as exc:
        raise MissingExtra("sentencepiece", "text", need=f"the tokenizer `{KIND}`") from exc
    return sentencepiece


def _load(data: bytes) -> Any:
    processor = _library().SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(data)
    except (RuntimeError, OSError) as exc:
        raise ConfigError(f"this is not a SentencePiece model: {exc}", field="model") from exc
    return processor


def _ids(processor: Any, texts: list[str]) -> list[Array]:
    """int32 ids of each text, one thread: lanes are the parallelism."""
    if hasattr(processor, "EncodeAsNumpy"):
        return list(processor.EncodeAsNumpy(texts, num_threads=1))
    return [np.array(ids, np.int32) for ids in processor.EncodeAsIds(texts, num_threads=1)]


def _parts(text: str) -> list[str]:
    """The text cut after newlines into parts of about `_PART` characters; at least one part."""
    parts, start = [], 0
    while (cut := text.find("\n", start + _PART)) >= 0:
        parts.append(text[start : cut + 1])
        start = cut + 1
    return [*parts, text[start:]] if start < len(text) or not parts else parts


def _sentences(text: str) -> Iterator[str]:
    """Parts of a text to train on, at most 1,000 characters, cut at spaces where there are any."""
    for line in _BORDERS.split(text):
        while len(line) > _SENTENCE:
            cut = line.rfind(" ", 1, _SENTENCE)
            cut = cut if cut > 0 else _SENTENCE
            yield line[:cut]
            line = line[cut:]
        if line:
            yield line


def _without_rare(sentences: list[str], coverage: float, most: int) -> list[str]:
    """The sentences cut at rare characters, which get no piece: those beyond `coverage`, or beyond `most` kinds."""
    counts = Counter[str]()
    for sentence in sentences:
        counts.update(sentence)
    del counts[" "]  # a model without a piece for the space could not give it back
    left = sum(counts.values()) * (1.0 - coverage)
    ranked = sorted(counts, key=lambda c: (counts[c], c))
    rare = set(ranked[: max(0, len(ranked) - most)])
    for character in ranked:
        left -= counts[character]
        if left < 0:
            break
        rare.add(character)
    if not rare:
        return sentences
    border = re.compile("[" + "".join(re.escape(c) for c in sorted(rare)) + "]+")
    return [part for sentence in sentences for part in border.split(sentence) if part]


def _train(sentences: list[str], vocab_size: int, config: SentencePieceConfig) -> bytes:
    """The model file. One thread and sorted input: the same text gives the same bytes."""
    out = io.BytesIO()
    try:
        _library().SentencePieceTrainer.train(
            sentence_iterator=iter(sentences),
            model_writer=out,
            model_type=config.model_type,
            vocab_size=vocab_size,
            hard_vocab_limit=False,
            character_coverage=1.0,
            byte_fallback=True,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            split_digits=config.split_digits,
            unk_id=0,
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            num_threads=1,
            shuffle_input_sentence=False,
            input_sentence_size=0,
            max_sentence_length=8 * _SENTENCE,
            minloglevel=2,
        )
    except (RuntimeError, OSError) as exc:
        raise TokenizerError(f"SentencePiece could not be trained: {exc}") from exc
    return out.getvalue()
