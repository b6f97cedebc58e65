"""Which tokenizer bears which name: built in, from an installed package, from a file beside the pipeline, or a module.

type: zscore-mu-law              built in
type: tides                      an entry point of the group `headrace.tokenizers`
type: ./tide.py:TideTokens       a class in a file, relative to the pipeline file; its hash enters the stream digest
type: package.module:TideTokens  a class in an importable module
type: raw                        no tokenizer: records pass through as they are, which the engine does by itself

An artefact names its tokenizer by `kind`, which is the type's name for built-in and installed ones; for a class from a
file or module the caller gives the type as well.
"""

from __future__ import annotations

import difflib
import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from headrace.schemas.canonical import sha256_hex
from headrace.schemas.errors import ConfigError, NotFitted, TokenizerError
from headrace.schemas.plugins import file_of, is_file_type, resolve_class
from headrace.schemas.record import MODALITIES, Modality
from headrace.tokenizers.contract import Artefact, FitBudget, Tokenizer, TokenizerConfig

GROUP = "headrace.tokenizers"

#: The type that means "no tokenizer": the stream's samples hold the records' own payload.
RAW = "raw"

#: Type name → module:class of the tokenizers that come with headrace. Imported when asked for.
BUILTIN: dict[str, str] = {
    "band-pca-fsq": "headrace.tokenizers.band_pca_fsq:BandPcaFsq",
    "bytes": "headrace.tokenizers.byte_text:Bytes",
    "chronos": "headrace.tokenizers.chronos:Chronos",
    "codec": "headrace.tokenizers.codec:Codec",
    "conv-fsq": "headrace.tokenizers.conv_fsq:ConvFsq",
    "huggingface": "headrace.tokenizers.huggingface:HuggingFace",
    "mu-law": "headrace.tokenizers.mu_law:MuLaw",
    "pca-fsq": "headrace.tokenizers.pca_fsq:PcaFsq",
    "sentencepiece": "headrace.tokenizers.sentencepiece_text:SentencePiece",
    "tiktoken": "headrace.tokenizers.tiktoken_text:Tiktoken",
    "zscore-mu-law": "headrace.tokenizers.zscore_mu_law:ZScoreMuLaw",
}

_DEFAULTS: dict[Modality, str] = {
    "text": "sentencepiece",
    "image": "pca-fsq",
    "video": "pca-fsq",
    "audio": "mu-law",
    "sensor": "zscore-mu-law",
    "raster": "band-pca-fsq",
    "tensor": RAW,
}


@dataclass(frozen=True)
class Choice:
    """A tokenizer as a pipeline names it: its class, checked settings and fit budget. `cls` is None for `raw`."""

    name: str
    cls: type[Tokenizer] | None
    config: TokenizerConfig | None
    budget: FitBudget

    def create(self, artefact: Artefact | None = None) -> Tokenizer:
        """The tokenizer itself. Raises: ConfigError for `raw`, which has none; TokenizerError."""
        if self.cls is None or self.config is None:
            raise ConfigError("`raw` passes records through and has no tokenizer", field="type", value=self.name)
        return self.cls(self.config, artefact)


def names() -> list[str]:
    """Every type name there is, built in and installed, without importing any of them."""
    return sorted({*BUILTIN, *(point.name for point in importlib.metadata.entry_points(group=GROUP)), RAW})


def all_tokenizers() -> dict[str, type[Tokenizer]]:
    """Every built-in and installed tokenizer by type name (not `raw`). Raises: ConfigError if one does not import."""
    return {name: tokenizer_class(name) for name in names() if name != RAW}


def default_for(modality: Modality) -> dict[str, Any]:
    """The tokenizer settings a stream of `modality` gets when its pipeline names none."""
    if modality not in _DEFAULTS:
        raise ConfigError(f"`{modality}` is not a modality; there are {', '.join(MODALITIES)}", value=modality)
    return {"type": _DEFAULTS[modality]}


def tokenizer_class(type: str, base: Path | None = None) -> type[Tokenizer]:
    """The class behind a type name, `./file.py:Class` (relative to `base`) or `package.module:Class`.

    Raises: ConfigError that says what would be right; also for `raw`, which has no class.
    """
    if type == RAW:
        raise ConfigError("`raw` passes records through and has no tokenizer class", value=type)
    try:
        found: Any = resolve_class(type, group=GROUP, known=BUILTIN, base=base, kind="tokenizer", parent=Tokenizer)
    except (ImportError, AttributeError) as exc:  # an installed package that is broken
        raise ConfigError(f"the tokenizer `{type}` cannot be imported: {exc}", value=type) from exc
    return found


def file_hash(type: str, base: Path | None = None) -> str | None:
    """Hex sha256 of the file behind `./file.py:Class`, which enters the stream digest; None for other types.

    Raises: ConfigError if there is no such file.
    """
    if not is_file_type(type):
        return None
    try:
        return sha256_hex(file_of(type, base).read_bytes())
    except OSError as exc:
        raise ConfigError(f"cannot read {file_of(type, base)}: {exc.strerror}", value=type) from exc


def choose(settings: Mapping[str, Any], base: Path | None = None) -> Choice:
    """Check a pipeline's tokenizer mapping: `type`, that type's settings, optional `fit: {records, splits, max_bytes}`.

    Paths in the settings are taken relative to `base`. Raises: ConfigError naming the field and the value.
    """
    rest = dict(settings)
    kind = rest.pop("type", None)
    if not isinstance(kind, str):
        raise ConfigError(f"a tokenizer needs a `type`, one of {', '.join(names())}", field="type", value=kind)
    if kind == RAW:
        if rest:
            raise ConfigError("`raw` takes no settings", field=min(rest), value=rest[min(rest)])
        return Choice(RAW, None, None, FitBudget())
    cls = tokenizer_class(kind, base)
    budget = _budget(rest.pop("fit", None), cls.fit_budget)
    try:
        config = cls.Config.model_validate(rest, context={"base": base})
    except ValidationError as exc:
        first = exc.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "tokenizer"
        known = difflib.get_close_matches(where, cls.Config.model_fields, n=1)
        hint = ""
        if first["type"] == "extra_forbidden":
            fields = ", ".join(cls.Config.model_fields) or "no settings"
            hint = f"; did you mean `{known[0]}`?" if known else f"; `{kind}` knows {fields}"
        raise ConfigError(f"{first['msg']}{hint}", field=where, value=first.get("input")) from exc
    return Choice(kind, cls, config, budget)


def needs_fit(choice: Choice) -> bool:
    """True if `fit` must run first: the class is fitted and its settings do not bring a finished model."""
    if choice.cls is None or not choice.cls.fitted:
        return False
    try:
        _ = choice.create().artefact
    except NotFitted:
        return True
    return False


def load(artefact: Artefact, type: str | None = None, base: Path | None = None) -> Tokenizer:
    """The tokenizer an artefact describes, found by its kind (or by `type`, for a class from a file or module).

    Settings are those parameters of the artefact that the class's `Config` declares.
    Raises: ConfigError if no such tokenizer is installed; TokenizerError if its parameters do not fit.
    """
    cls = tokenizer_class(type or artefact.kind, base)
    settings = {name: value for name, value in artefact.params.items() if name in cls.Config.model_fields}
    try:
        return cls(cls.Config.model_validate(settings), artefact)
    except ValidationError as exc:
        label = f"artefact {artefact.fingerprint[:12]}… of kind `{artefact.kind}`"
        raise TokenizerError(f"{label} holds settings that its class refuses: {exc}") from exc


def _budget(given: Any, default: FitBudget) -> FitBudget:
    if given is None:
        return default
    fields = {"records": default.records, "splits": default.splits, "max_bytes": default.max_bytes}
    if not isinstance(given, Mapping):
        raise ConfigError(f"a mapping with {', '.join(fields)} is expected", field="fit", value=given)
    for name, value in given.items():
        if name not in fields:
            raise ConfigError(f"unknown setting; there are {', '.join(fields)}", field=f"fit.{name}", value=value)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(f"a whole number above 0 is expected, not {value!r}", field=f"fit.{name}", value=value)
        fields[name] = value
    return FitBudget(**fields)
