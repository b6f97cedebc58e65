"""`tiktoken`: text by a tiktoken rank file and its pattern, with exactly that library's ids.

A rank file (`cl100k_base.tiktoken`, one "base64 rank" a line, gzip allowed) does not say how text is split first, so
the pattern is named (`gpt2`, `cl100k_base`, `o200k_base`) or given as a regular expression. There are no special
tokens: `<|endoftext|>` in a text is thirteen characters of text. The library drops what a pattern does not match; here
such a text is refused, since nothing is shortened silently. With a named pattern the library is asked about every
distinct word only once (see engine_text.py); the ids are the same.
"""

from __future__ import annotations

import base64
import binascii
import difflib
import importlib.metadata
import re
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from pydantic import Field, field_validator

from headrace.schemas.errors import ConfigError, MissingExtra, RecordError, SchemaMismatch, TokenizerError
from headrace.schemas.record import Modality, RecordBuilder, modality_of
from headrace.tokenizers.arrays import Array
from headrace.tokenizers.artefact_checks import check_artefact
from headrace.tokenizers.contract import Artefact, Encoded, TokenizerConfig
from headrace.tokenizers.engine_cuts import FAMILIES, Family, of_pattern
from headrace.tokenizers.engine_text import EngineTokenizer, TextEngine, encoded, rows_of
from headrace.tokenizers.engine_words import Rows
from headrace.tokenizers.model_file import ModelFile, read_model

KIND = "tiktoken"
FILE = "ranks.tiktoken"

_LETTERS = r"[^\r\n\p{L}\p{N}]?"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_ENDINGS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
#: How the published encodings split text before merging, as their authors give it.
PATTERNS: dict[str, str] = {
    "gpt2": r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s",
    "cl100k_base": (
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|"
        r"\s*[\r\n]|\s+(?!\S)|\s"
    ),
    "o200k_base": "|".join(
        [
            _LETTERS + _UPPER + "*" + _LOWER + "+" + _ENDINGS,
            _LETTERS + _UPPER + "+" + _LOWER + "*" + _ENDINGS,
            r"\p{N}{1,3}",
            r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
            r"\s*[\r\n]+",
            r"\s+(?!\S)",
            r"\s+",
        ]
    ),
}
#: Pattern → how it divides text.
_FAMILIES: dict[str, Family] = {
    **FAMILIES,
    PATTERNS["gpt2"]: "gpt2",
    PATTERNS["cl100k_base"]: "cl100k",
    PATTERNS["o200k_base"]: "o200k",
}


class TiktokenConfig(TokenizerConfig):
    """Settings of `tiktoken`."""

    model: ModelFile | None = Field(None, description="the path of a .tiktoken rank file (needed)")
    pattern: str = Field("cl100k_base", description=f"{', '.join(PATTERNS)}, or a regular expression")

    @field_validator("pattern")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in PATTERNS and re.fullmatch(r"\w+", value):
            near = difflib.get_close_matches(value, PATTERNS, n=1, cutoff=0.3)
            hint = f", did you mean `{near[0]}`?" if near else ""
            raise ValueError(f"`{value}` is not one of {', '.join(PATTERNS)}{hint}")
        return value


class Tiktoken(EngineTokenizer):
    """See the module."""

    Config = TiktokenConfig
    _engine: TextEngine
    modalities: ClassVar[tuple[Modality, ...]] = ("text",)

    def __init__(self, config: TiktokenConfig, artefact: Artefact | None = None) -> None:
        super().__init__(config, artefact)
        if artefact is None:
            if config.model is None:
                raise ConfigError(f"`{KIND}` needs the path of a .tiktoken rank file", field="model")
            params = {"pattern": PATTERNS.get(config.pattern, config.pattern)}
            artefact = Artefact(KIND, params, files={FILE: read_model(config.model)})
        check_artefact(artefact, KIND, ("pattern",), (FILE,))
        self._made = artefact
        ranks = _ranks(artefact.files[FILE])
        self._size = max(ranks.values(), default=-1) + 1
        self._lengths = np.zeros(self._size, np.int64)
        for token, rank in ranks.items():
            self._lengths[rank] = len(token)
        self._library = _build(artefact.params["pattern"], ranks)
        self._engine = self._proven_engine(artefact.params["pattern"], ranks)

    @property
    def artefact(self) -> Artefact:
        return self._made

    @property
    def vocab_size(self) -> int:
        return self._size

    def encode(self, records: pa.RecordBatch) -> Encoded:
        if modality_of(records) != "text":
            raise SchemaMismatch(f"`{KIND}` takes text records, not {modality_of(records)}")
        return encoded(*self._engine.encode(records), None)

    def _proven_engine(self, pattern: str, ranks: dict[bytes, int]) -> TextEngine:
        engine = TextEngine(self._reference, f"tiktoken {_version()}", self.token_dtype)
        family = _FAMILIES.get(pattern)
        cuts = of_pattern(family) if family else "where this pattern divides text is not known"
        pieces = [token.decode("utf-8", "ignore") for token in ranks]
        engine.use_words(cuts, self._parts, pieces, self._lengths)
        return engine

    def _reference(self, column: pa.Array) -> Rows:
        return self._parts(column.to_pylist())

    def _parts(self, texts: list[str]) -> Rows:
        return rows_of([self._ids(text) for text in texts], np.dtype(np.uint32))

    def _ids(self, text: str) -> Array:
        try:
            ids = np.asarray(self._library.encode_to_numpy(text, disallowed_special=()))
        except (ValueError, KeyError) as exc:
            raise RecordError("encode_failed", f"tiktoken could not encode this text: {exc}") from exc
        size, kept = len(text.encode()), int(self._lengths[ids].sum())
        if kept != size:
            raise RecordError("encode_failed", f"the pattern skips {size - kept} of the {size} bytes of this text")
        return ids

    def decode(self, tokens: Sequence[Array]) -> pa.RecordBatch:
        builder = RecordBuilder("text")
        for body in tokens:
            try:
                data = self._library.decode_bytes(np.asarray(body).tolist())
                builder.add(locator="{}", text=data.decode())
            except (KeyError, UnicodeDecodeError) as exc:
                raise TokenizerError(f"these tokens are not text: {exc}") from exc
        return builder.finish()


def _ranks(data: bytes) -> dict[bytes, int]:
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(data.splitlines(), 1):
        if not line.strip():
            continue
        parts = line.split()
        try:
            token, rank = base64.b64decode(parts[0], validate=True), int(parts[1])
        except (IndexError, ValueError, binascii.Error) as exc:
            message = f"line {number} of the rank file is not `base64 rank`: {line[:60]!r}"
            raise ConfigError(message, field="model") from exc
        if token in ranks or rank < 0:
            raise ConfigError(f"line {number} of the rank file repeats a token or has a negative rank", field="model")
        ranks[token] = rank
    missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if missing:
        raise ConfigError(f"the rank file lacks the single byte {missing[0]}, which text may hold", field="model")
    return ranks


def _version() -> str:
    return importlib.metadata.version("tiktoken")


def _build(pattern: str, ranks: dict[bytes, int]) -> Any:
    try:
        import tiktoken
    except ImportError as exc:
        raise MissingExtra("tiktoken", "tiktoken", need=f"the tokenizer `{KIND}`") from exc
    try:
        return tiktoken.Encoding("headrace", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    except (ValueError, re.error) as exc:
        known = ", ".join(PATTERNS)
        message = f"this is neither a pattern's name ({known}) nor a regular expression: {exc}"
        raise ConfigError(message, field="pattern", value=pattern) from exc
