"""Every setting says whether it shapes the bytes of a stream or only the run."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, Field

from headrace.connectors.contract import ConnectorConfig
from headrace.ingest.normalizers.contract import NormalizerConfig
from headrace.schemas import pipeline
from headrace.schemas.pipeline import bytes_field, digest_of_field, run_field
from headrace.tokenizers.contract import TokenizerConfig


def undeclared(model: type[BaseModel]) -> list[str]:
    """The fields of a model that say neither `bytes` nor `run`."""
    silent = []
    for name, info in model.model_fields.items():
        extra = info.json_schema_extra
        if not (isinstance(extra, dict) and extra.get("digest") in ("bytes", "run")):
            silent.append(name)
    return silent


def config_modules(repository: Path, python_files: list[str], base: str) -> list[str]:
    """The modules whose text derives a class from `base`; read, so that no codec is imported in vain."""
    found = []
    for path in python_files:
        if path.split("/")[0] not in {"connectors", "ingest", "tokenizers"}:
            continue
        tree = ast.parse((repository / path).read_text(encoding="utf-8"))
        bases = {
            getattr(b, "id", getattr(b, "attr", ""))
            for n in ast.walk(tree)
            if isinstance(n, ast.ClassDef)
            for b in n.bases
        }
        if base in bases:
            found.append("headrace." + path.removesuffix(".py").replace("/", "."))
    return found


def subclasses(base: type[BaseModel]) -> list[type[BaseModel]]:
    """All classes below `base` that headrace itself defines."""
    below = [c for direct in base.__subclasses__() for c in [direct, *subclasses(direct)]]
    return [c for c in below if c.__module__.startswith("headrace.")]


def test_every_field_of_the_pipeline_file_is_declared() -> None:
    models = [m for m in subclasses(pipeline.Settings) if m.__module__ == pipeline.__name__]
    assert len(models) >= 5
    assert {m.__name__: undeclared(m) for m in models if undeclared(m)} == {}


def test_every_field_of_a_connector_is_declared(repository: Path, python_files: list[str]) -> None:
    """A connector mixes both kinds: a glob chooses what is read, an endpoint or a password does not."""
    for module in config_modules(repository, python_files, "ConnectorConfig"):
        importlib.import_module(module)
    models = subclasses(ConnectorConfig)
    assert {f"{m.__module__}.{m.__qualname__}": undeclared(m) for m in models if undeclared(m)} == {}


@pytest.mark.parametrize(
    ("base", "name"), [(NormalizerConfig, "NormalizerConfig"), (TokenizerConfig, "TokenizerConfig")]
)
def test_what_shapes_records_and_tokens_enters_the_digest(
    base: type[BaseModel], name: str, repository: Path, python_files: list[str]
) -> None:
    """A silent field of a normalizer or tokenizer counts as `bytes`; a field may say `run` only by declaring it."""
    for module in config_modules(repository, python_files, name):
        importlib.import_module(module)
    for model in subclasses(base):
        for field, info in model.model_fields.items():
            extra = info.json_schema_extra
            declared = extra.get("digest") if isinstance(extra, dict) else None
            assert declared in (None, "bytes", "run"), f"{model.__qualname__}.{field} says digest={declared!r}"
            assert digest_of_field(info) == (declared or "bytes")


def test_every_setting_refuses_unknown_fields_and_changes() -> None:
    for base in (pipeline.Settings, ConnectorConfig, NormalizerConfig, TokenizerConfig):
        for model in [base, *subclasses(base)]:
            assert model.model_config.get("extra") == "forbid", model
            assert model.model_config.get("frozen") is True, model


def test_a_silent_field_is_seen() -> None:
    class Planted(BaseModel):
        shaped: int = bytes_field(1, description="")
        run: int = run_field(1, description="")
        silent: int = 1
        misspelt: Any = Field(1, json_schema_extra={"digest": "byte"})

    assert undeclared(Planted) == ["silent", "misspelt"]
