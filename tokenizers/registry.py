"""Finds tokenizers by name: built in, installed by another package, or a class in a file beside the pipeline.

    type: zscore-mu-law              built in, or an entry point of the group `headrace.tokenizers`
    type: ./tide.py:TideTokens       a class in a file, relative to the pipeline file
    type: package.module:TideTokens  a class in an importable module
    type: raw                        no tokenizer: records pass through as they are (the engine's own doing)

An artefact names its tokenizer by `kind`, which is the type's name for built-in and installed ones; for a class from
a file or module the caller gives the type as well.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import ValidationError

from headrace.schemas.errors import ConfigError, NotFitted, TokenizerError
from headrace.schemas.record import MODALITIES, Modality
from headrace.tokenizers.contract import Artefact, FitBudget, Tokenizer, TokenizerConfig

GROUP = "headrace.tokenizers"

#: The type that means "no tokenizer": the stream's samples hold the records' own payload.
RAW = "raw"

_HERE = "headrace.tokenizers."

#: Type name → module:class of the tokenizers that come with headrace. Imported when asked for.
BUILTIN: dict[str, str] = {
    "band-pca-fsq": _HERE + "band_pca_fsq:BandPcaFsq",
    "bytes": _HERE + "byte_text:Bytes",
    "chronos": _HERE + "chronos:Chronos",
    "codec": _HERE + "codec:Codec",
    "conv-fsq": _HERE + "conv_fsq:ConvFsq",
    "huggingface": _HERE + "huggingface:HuggingFace",
    "mu-law": _HERE + "mu_law:MuLaw",
    "pca-fsq": _HERE + "pca_fsq:PcaFsq",
    "sentencepiece": _HERE + "sentencepiece_text:SentencePiece",
    "tiktoken": _HERE + "tiktoken_text:Tiktoken",
    "zscore-mu-law": _HERE + "zscore_mu_law:ZScoreMuLaw",
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
    return sorted({*BUILTIN, *(point.name for point in entry_points(group=GROUP)), RAW})


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
        raise ConfigError("`raw` passes records through and has no tokenizer class", field="type", value=type)
    if type in BUILTIN:
        return _checked(_from_module(*BUILTIN[type].split(":")), type)
    for point in entry_points(group=GROUP):
        if point.name == type:
            try:
                return _checked(point.load(), type)
            except (ImportError, AttributeError) as exc:
                message = f"the installed tokenizer `{type}` ({point.value}) cannot be imported: {exc}"
                raise ConfigError(message, field="type", value=type) from exc
    if ":" in type:
        place, _, name = type.rpartition(":")
        if place.endswith(".py"):
            return _checked(_from_file(type_file(type, base), name), type)
        return _checked(_from_module(place, name), type)
    near = difflib.get_close_matches(type, names(), n=1, cutoff=0.5)
    hint = f"did you mean `{near[0]}`?" if near else f"there are {', '.join(names())}"
    raise ConfigError(f"no tokenizer is called `{type}`: {hint}", field="type", value=type)


def type_file(type: str, base: Path | None = None) -> Path:
    """The path of the file in `./file.py:Class`. Raises: ConfigError if there is no such file."""
    place = type.rpartition(":")[0]
    path = (base or Path.cwd()) / place
    if not path.is_file():
        raise ConfigError(f"there is no file `{place}` in `{base or Path.cwd()}`", field="type", value=type)
    return path


def file_digest(type: str, base: Path | None = None) -> str | None:
    """Hex sha256 of the file in `./file.py:Class`; None for every other type. It enters the stream digest."""
    if not type.rpartition(":")[0].endswith(".py"):
        return None
    return hashlib.sha256(type_file(type, base).read_bytes()).hexdigest()


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
            raise ConfigError("`raw` takes no settings", field=sorted(rest)[0], value=rest[sorted(rest)[0]])
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


def _from_module(module: str, name: str) -> Any:
    label = f"{module}:{name}"
    try:
        return getattr(importlib.import_module(module), name)
    except ImportError as exc:
        raise ConfigError(f"the module `{module}` cannot be imported: {exc}", field="type", value=label) from exc
    except AttributeError as exc:
        raise ConfigError(f"the module `{module}` has no class `{name}`", field="type", value=label) from exc


def _from_file(path: Path, name: str) -> Any:
    module = _file_module(path)
    if not hasattr(module, name):
        raise ConfigError(f"`{path.name}` has no class `{name}`", field="type", value=f"{path.name}:{name}")
    return getattr(module, name)


def _file_module(path: Path) -> ModuleType:
    """The file as a module, imported once per content, so that one class stays one class in a process."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    label = f"headrace_file_{path.stem}_{digest[:16]}"
    if label in sys.modules:
        return sys.modules[label]
    spec = importlib.util.spec_from_file_location(label, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"`{path.name}` is not a Python file", field="type", value=str(path))
    module = importlib.util.module_from_spec(spec)
    sys.modules[label] = module
    try:
        spec.loader.exec_module(module)
    except Exception as exc:  # whatever a user's file raises while it is imported is a wrong setting here
        del sys.modules[label]
        message = f"`{path.name}` cannot be imported: {type(exc).__name__}: {exc}"
        raise ConfigError(message, field="type", value=str(path)) from exc
    return module


def _checked(found: Any, label: str) -> type[Tokenizer]:
    if not (isinstance(found, type) and issubclass(found, Tokenizer)):
        message = f"`{label}` is {found!r}, not a class derived from headrace.tokenizers.contract.Tokenizer"
        raise ConfigError(message, field="type", value=label)
    return found
