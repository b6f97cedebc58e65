"""Tokenizers are found by name, file and module; wrong names and settings say what would be right."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headrace.schemas.errors import ConfigError, TokenizerError
from headrace.schemas.record import MODALITIES
from headrace.tokenizers import registry
from headrace.tokenizers.contract import Artefact, FitBudget, Tokenizer
from headrace.tokenizers.registry import RAW, choose, default_for, file_hash, load, names, needs_fit, tokenizer_class
from headrace.tokenizers.testing import row_tokens
from headrace.tokenizers.testing_rows import texts

PLUGIN = '''
from collections.abc import Sequence
import numpy as np
from headrace.schemas.record import RecordBuilder
from headrace.tokenizers.contract import Artefact, Encoded, Tokenizer, TokenizerConfig

class Config(TokenizerConfig):
    shift: int = 1

class Shifted(Tokenizer):
    Config = Config
    modalities = ("text",)
    vocab_size = 1 << 16
    @property
    def artefact(self):
        return Artefact("shifted", self.config.model_dump())
    def encode(self, records):
        rows = [np.array([ord(c) + self.config.shift for c in t]) for t in records.column("text").to_pylist()]
        return Encoded.of(rows, [np.nan] * len(rows), [0.0] * len(rows), np.uint16)
    def decode(self, tokens):
        builder = RecordBuilder("text")
        for row in tokens:
            builder.add(locator="{}", text="".join(chr(int(i) - self.config.shift) for i in row))
        return builder.finish()
'''


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(PLUGIN)
    return tmp_path


def test_every_built_in_name_is_a_tokenizer_and_its_own_kind() -> None:
    for name in registry.BUILTIN:
        cls = tokenizer_class(name)
        assert issubclass(cls, Tokenizer) and cls.modalities and set(cls.modalities) <= set(MODALITIES)
    assert set(registry.all_tokenizers()) >= set(registry.BUILTIN) and RAW in names()


@pytest.mark.parametrize("modality", MODALITIES)
def test_every_modality_has_a_default(modality: Any) -> None:
    settings = default_for(modality)
    assert settings == {"type": RAW} or modality in tokenizer_class(settings["type"]).modalities
    with pytest.raises(ConfigError, match="modality"):
        default_for("smell")  # type: ignore[arg-type]


def test_a_class_in_a_file_beside_the_pipeline_is_found_and_hashed(plugin: Path) -> None:
    choice = choose({"type": "./mine.py:Shifted", "shift": 3}, plugin)
    tokenizer = choice.create()
    encoded = tokenizer.encode(texts("abc"))
    assert encoded.values.tolist() == [100, 101, 102] and not needs_fit(choice)
    again = load(Artefact.from_files(tokenizer.artefact.to_files()), "./mine.py:Shifted", plugin)
    assert again.decode(row_tokens(encoded)).column("text").to_pylist() == ["abc"]
    assert again.fingerprint == tokenizer.fingerprint
    assert file_hash("./mine.py:Shifted", plugin) == hashlib.sha256((plugin / "mine.py").read_bytes()).hexdigest()
    assert file_hash("bytes") is None
    assert tokenizer_class("./mine.py:Shifted", plugin) is choice.cls
    assert tokenizer_class("headrace.tokenizers.byte_text:Bytes").__name__ == "Bytes"


@pytest.mark.parametrize(
    ("type_name", "said"),
    [
        ("zscore-mulaw", "did you mean `zscore-mu-law`"),
        ("sentence-piece", "did you mean `sentencepiece`"),
        ("xyz", "known are"),
        (RAW, "passes records through"),
        ("./nowhere.py:X", "nowhere.py"),
        ("./mine.py:Nobody", "no class `Nobody`"),
        ("./mine.py:RecordBuilder", "not a Tokenizer"),
        ("no.such.module:X", "cannot import"),
        ("headrace.tokenizers.byte_text:Nobody", "Nobody"),
    ],
)
def test_a_wrong_type_says_what_is_wrong(plugin: Path, type_name: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        tokenizer_class(type_name, plugin)


@pytest.mark.parametrize(
    ("settings", "field", "said"),
    [
        ({}, "type", "needs a `type`"),
        ({"type": "pca-fsq", "stage": 2}, "stage", "did you mean `stages`"),
        ({"type": "pca-fsq", "patch": 1}, "patch", "greater than or equal to 2"),
        ({"type": "zscore-mu-law", "values": 1000}, "values", "power of two"),
        ({"type": "bytes", "fit": {"rows": 3}}, "fit.rows", "records, splits, max_bytes"),
        ({"type": "bytes", "fit": {"records": 0}}, "fit.records", "above 0"),
        ({"type": "bytes", "fit": 3}, "fit", "mapping"),
        ({"type": RAW, "x": 1}, "x", "no settings"),
    ],
)
def test_a_wrong_setting_names_its_field(settings: dict[str, Any], field: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        choose(settings)
    assert caught.value.field == field


def test_the_fit_budget_can_be_changed() -> None:
    assert choose({"type": "pca-fsq", "fit": {"records": 5}}).budget == FitBudget(5, 256, 256 << 20)
    assert choose({"type": RAW}).cls is None
    with pytest.raises(ConfigError, match="no tokenizer"):
        choose({"type": RAW}).create()


def test_an_artefact_of_another_kind_is_refused() -> None:
    strange = Artefact("strange", {}, {"weights": np.zeros(3)})
    for name, cls in registry.all_tokenizers().items():
        with pytest.raises((TokenizerError, ConfigError)):
            load(strange, name).encode(texts("x"))
        assert cls.__doc__
    with pytest.raises(ConfigError, match="unknown tokenizer `strange`"):
        load(strange)


def test_importing_the_registry_imports_no_heavy_library() -> None:
    import subprocess
    import sys

    code = (
        "import sys; from headrace.tokenizers import registry; registry.all_tokenizers(); "
        "print(sorted({'torch', 'sentencepiece', 'tokenizers', 'tiktoken', 'onnxruntime', 'PIL', 'rasterio', 'pandas', "
        "'pytest'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
