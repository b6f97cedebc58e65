"""`huggingface`: text by a Hugging Face `tokenizer.json`, with exactly that library's ids.

Three things of the file are left out, because a stream of other people's text needs them out: special and marker-like
added tokens are not matched in text (see control_text.py), nothing is truncated or padded, and no template adds ids at
the ends. Added tokens that are text (runs of spaces, words) stay. For byte-level BPE with a known pattern the library
is asked about every distinct word only once (see engine_text.py); the ids are the same.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from pydantic import Field

from headrace.schemas.canonical import canonical_json, sha256_hex
from headrace.schemas.errors import ConfigError, MissingExtra, NotFitted, RecordError, SchemaMismatch, TokenizerError
from headrace.schemas.record import Modality, RecordBuilder, modality_of
from headrace.tokenizers.arrays import Array
from headrace.tokenizers.artefact_checks import check_artefact
from headrace.tokenizers.contract import Artefact, Encoded, TokenizerConfig
from headrace.tokenizers.control_text import looks_like_control
from headrace.tokenizers.engine_huggingface import cuts_for, token_bytes
from headrace.tokenizers.engine_text import EngineTokenizer, TextEngine, encoded, rows_of
from headrace.tokenizers.engine_words import Rows
from headrace.tokenizers.model_file import ModelFile, read_model

KIND = "huggingface"
FILE = "tokenizer.json"


class HuggingFaceConfig(TokenizerConfig):
    """Settings of `huggingface`."""

    model: ModelFile | None = Field(None, description="the path of a tokenizer.json (needed)")


class HuggingFace(EngineTokenizer):
    """See the module."""

    Config = HuggingFaceConfig
    _engine: TextEngine
    modalities: ClassVar[tuple[Modality, ...]] = ("text",)

    def __init__(self, config: HuggingFaceConfig, artefact: Artefact | None = None) -> None:
        super().__init__(config, artefact)
        if artefact is None:
            if config.model is None:
                raise ConfigError(f"`{KIND}` needs the path of a tokenizer.json", field="model")
            self._artefact = artefact = Artefact(KIND, {}, files={FILE: read_model(config.model)})
        check_artefact(artefact, KIND, files=(FILE,))
        described = _parse(artefact.files[FILE])
        self._decoder = _build(described)
        self._control = np.array(sorted(_disarm(described)), np.int64)
        self._encoder = _build(described)
        self._unknown = _unknown_id(described, self._decoder)
        self._size = max([-1, *self._decoder.get_vocab(with_added_tokens=True).values()]) + 1
        self._engine = self._proven_engine(described)

    @property
    def artefact(self) -> Artefact:
        if self._artefact is None:
            raise NotFitted(f"`{KIND}` needs the path of a tokenizer.json")
        return self._artefact

    @property
    def vocab_size(self) -> int:
        return self._size

    def encode(self, records: pa.RecordBatch) -> Encoded:
        if modality_of(records) != "text":
            raise SchemaMismatch(f"`{KIND}` takes text records, not {modality_of(records)}")
        values, offsets = self._engine.encode(records)
        if len(self._control) and np.isin(values, self._control).any():
            # A vocabulary that spells a marker in its ordinary pieces: better no sample than a false marker.
            raise RecordError("encode_failed", "the text would become a control token of this tokenizer.json")
        return encoded(values, offsets, self._unknown)

    def _proven_engine(self, described: dict[str, Any]) -> TextEngine:
        version = importlib.metadata.version("tokenizers")
        engine = TextEngine(self._reference, f"tokenizers {version}", self.token_dtype)
        cuts = cuts_for(described)
        if isinstance(cuts, str):
            engine.use_words(cuts, self._parts, [])
        else:
            spelled = str.maketrans("\u0120\u010a\u0109\u010d", " \n\t\r")  # how byte-level BPE writes white space
            pieces = [piece.translate(spelled) for piece in described["model"]["vocab"]]
            engine.use_words(cuts, self._parts, pieces, token_bytes(described, self._size))
        return engine

    def _reference(self, column: pa.Array) -> Rows:
        return self._parts(column.to_pylist())

    def _parts(self, texts: list[str]) -> Rows:
        """The library's ids of each text, in one thread or several as it likes."""
        encode = getattr(self._encoder, "encode_batch_fast", self._encoder.encode_batch)
        rows = [np.array(found.ids, np.uint32) for found in encode(texts, add_special_tokens=False)]
        return rows_of(rows, np.dtype(np.uint32))

    def decode(self, tokens: Sequence[Array]) -> pa.RecordBatch:
        builder = RecordBuilder("text")
        for body in tokens:
            if len(body) and int(np.max(body)) >= self._size:
                raise TokenizerError(f"id {int(np.max(body))} is not below {self._size}")
            text = self._decoder.decode(np.asarray(body).tolist(), skip_special_tokens=False)
            builder.add(locator="{}", text=text)
        return builder.finish()


def _parse(data: bytes) -> dict[str, Any]:
    try:
        described = json.loads(data)
    except ValueError as exc:
        raise ConfigError(f"this tokenizer.json is not JSON: {exc}", field="model") from exc
    if not isinstance(described, dict) or not isinstance(described.get("model"), dict):
        raise ConfigError("this tokenizer.json has no `model`", field="model")
    return described


def _build(described: dict[str, Any]) -> Any:
    try:
        from tokenizers import Tokenizer as Library
    except ImportError as exc:
        raise MissingExtra("tokenizers", "hf", need=f"the tokenizer `{KIND}`") from exc
    plain = {**described, "truncation": None, "padding": None}
    try:
        return Library.from_str(json.dumps(plain, ensure_ascii=False))
    except Exception as exc:  # the library raises bare Exception for every fault of the file
        raise ConfigError(f"the tokenizers library refuses this tokenizer.json: {exc}", field="model") from exc


def _disarm(described: dict[str, Any]) -> set[int]:
    """Take control tokens out of the added tokens and rename them in the vocabulary; their ids."""
    control = {
        token["content"]: int(token["id"])
        for token in described.get("added_tokens") or []
        if token.get("special") or looks_like_control(token["content"])
    }
    unknown = described["model"].get("unk_token")
    described["added_tokens"] = [t for t in described.get("added_tokens") or [] if t["content"] not in control]
    described["post_processor"] = None
    vocab = described["model"].get("vocab")
    merged = {part for merge in described["model"].get("merges") or [] for part in _merge(merge)}
    renamed = {name: f"\x00control {sha256_hex(canonical_json([name, i]))}" for name, i in control.items()}
    for name, other in renamed.items():
        if isinstance(vocab, dict) and name in vocab and name not in merged and name != unknown:
            vocab[other] = vocab.pop(name)
    if isinstance(vocab, list):  # Unigram: [piece, score]; the unknown piece is named by its place
        described["model"]["vocab"] = [[renamed.get(piece, piece), score] for piece, score in vocab]
    unknown_id = control.get(unknown) if isinstance(unknown, str) else described["model"].get("unk_id")
    return set(control.values()) - {unknown_id}


def _merge(merge: str | list[str]) -> list[str]:
    left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
    return [left, right, left + right]


def _unknown_id(described: dict[str, Any], library: Any) -> int:
    model = described["model"]
    if isinstance(model.get("unk_id"), int):
        return int(model["unk_id"])
    found = library.token_to_id(model["unk_token"]) if isinstance(model.get("unk_token"), str) else None
    return -1 if found is None else int(found)
