"""docs/formats.md says what the tests show: every oracle exists, and the page is what the map makes."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def formats() -> ModuleType:
    spec = importlib.util.spec_from_file_location("headrace_formats_page", ROOT / "scripts" / "formats.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_what_the_map_makes(formats: ModuleType) -> None:
    assert (ROOT / "docs" / "formats.md").read_text(encoding="utf-8") == formats.page(), (
        "run scripts/formats.py --write"
    )


def test_every_oracle_is_a_test_that_reads_the_corpus(formats: ModuleType) -> None:
    for name, (test, _) in formats.ORACLES.items():
        assert name in formats.FORMATS, name
        path, _, function = test.partition("::")
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        found = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == function]
        assert found, f"{name}: {test} does not exist"
        assert "corpus" in [a.arg for a in found[0].args.args], f"{name}: {function} does not read real files"


@pytest.mark.data
def test_every_supported_format_has_a_good_file_in_the_corpus(formats: ModuleType, corpus: Path, manifest) -> None:
    from headrace.connectors.sniff import sniff

    seen = set()
    for row in manifest:
        if row["class"] == "good":
            path = corpus / row["path"]
            with path.open("rb") as stream:
                seen.add(sniff(stream.read(1 << 16), path.name).name)
                if path.suffix == ".gz":
                    import gzip

                    stream.seek(0)
                    with gzip.open(stream) as inner:
                        seen.add(sniff(inner.read(1 << 16), path.name.removesuffix(".gz")).name)
    assert set(formats.ORACLES) - seen == set()
