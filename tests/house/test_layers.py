"""Imports run one way: schemas <- connectors, tokenizers, shards <- ingest <- the package itself."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

#: folder → the folders it may import from, besides itself.
ALLOWED: dict[str, set[str]] = {
    "schemas": set(),
    "connectors": {"schemas"},
    "tokenizers": {"schemas"},
    "shards": {"schemas"},
    "ingest": {"schemas", "connectors", "tokenizers", "shards"},
}
LAYERS = set(ALLOWED)

#: What the folders that trainers import may not touch, not even inside a function.
HEAVY = {"ray", "PIL", "av", "rasterio", "sentencepiece", "torch"}
LIGHT_FOLDERS = {"schemas", "shards"}
#: The file that makes a torch dataset of the loader; nothing imports it before `ShardDataset.torch()` is called.
TORCH_FILE = "shards/loader/torch_dataset.py"


def imported(source: str, folder: str) -> list[tuple[int, str]]:
    """(line, dotted name) of everything a file imports, at any depth, also through import_module with a literal name.

    `from a import b` gives a.b, because b may be a module; a relative import is resolved against headrace.<folder>.
    """
    found: list[tuple[int, str]] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = ["headrace", *folder.split("/")][: len(folder.split("/")) + 2 - node.level]
                base = ".".join([*parents, *([base] if base else [])])
            found += [(node.lineno, f"{base}.{alias.name}") for alias in node.names]
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                found.append((node.lineno, node.args[0].value))
    return found


def wrong_arrows(source: str, folder: str) -> list[str]:
    """What a file of `folder` ("ingest/normalizers", …) imports and may not."""
    top = folder.split("/")[0]
    wrong = []
    for line, name in imported(source, folder):
        parts = name.split(".")
        if parts[0] == "headrace":
            target = parts[1] if len(parts) > 1 else ""
            if target not in LAYERS:
                wrong.append(f"line {line}: {name}: a folder may not import the package above it")
            elif target != top and target not in ALLOWED[top]:
                wrong.append(f"line {line}: {name}: {top} may import {sorted(ALLOWED[top]) or 'nobody'}")
        elif top in LIGHT_FOLDERS and parts[0] in HEAVY:
            wrong.append(f"line {line}: {name}: {top} is imported by trainers and stays free of {parts[0]}")
    return wrong


def imports_ray(source: str, folder: str) -> list[str]:
    """Where a file imports Ray."""
    return [f"line {line}: {name}" for line, name in imported(source, folder) if name.split(".")[0] == "ray"]


def sources(repository: Path, python_files: list[str]) -> list[tuple[str, str, str]]:
    """(path, folder, text) of every file of the five folders."""
    return [
        (path, path.rpartition("/")[0], (repository / path).read_text(encoding="utf-8"))
        for path in python_files
        if path.split("/")[0] in LAYERS
    ]


def test_no_arrow_points_the_wrong_way(repository: Path, python_files: list[str]) -> None:
    files = sources(repository, python_files)
    assert {folder.split("/")[0] for _, folder, _ in files} == LAYERS, "a folder of the flow holds no file"
    wrong = [f"{path}: {arrow}" for path, folder, text in files for arrow in wrong_arrows(text, folder)]
    assert [w for w in wrong if not (w.startswith(TORCH_FILE) and ": torch" in w)] == []


def test_only_the_files_that_say_ray_import_it(repository: Path, python_files: list[str]) -> None:
    shipped = [p for p in python_files if p.split("/")[0] in LAYERS or p.startswith("src/headrace/")]
    wrong = []
    for path in shipped:
        folder, _, name = path.rpartition("/")
        if not (folder == "ingest" and name.startswith("ray_")):
            wrong += [
                f"{path}: {place}" for place in imports_ray((repository / path).read_text(encoding="utf-8"), folder)
            ]
    assert wrong == []


@pytest.mark.parametrize(
    ("folder", "source"),
    [
        ("schemas", "from headrace.connectors.contract import Item"),
        ("connectors", "import headrace.tokenizers.contract"),
        ("connectors", "from headrace import ingest"),
        ("tokenizers", "def f():\n    from headrace.shards import writer"),
        ("tokenizers", "from ..connectors import contract"),
        ("shards", "def f():\n    if True:\n        import PIL.Image"),
        ("shards", "class A:\n    def f(self):\n        import torch"),
        ("schemas", "import importlib\nimportlib.import_module('rasterio')"),
        ("ingest/normalizers", "from headrace.cli import main"),
        ("ingest", "from headrace import build"),
        ("ingest", "import headrace"),
    ],
)
def test_a_planted_wrong_arrow_is_caught(folder: str, source: str) -> None:
    assert len(wrong_arrows(source, folder)) == 1


@pytest.mark.parametrize(
    ("folder", "source"),
    [
        ("connectors", "from headrace.schemas.errors import SourceError\nfrom headrace.connectors import contract"),
        ("ingest/normalizers", "from headrace.ingest.normalizers.contract import Normalizer\nimport PIL.Image"),
        ("ingest/normalizers", "from .contract import Normalizer\nfrom .. import plugins"),
        ("tokenizers", "import tokenizers\nimport sentencepiece"),
        ("shards", "import numpy\nimport pyarrow as pa"),
    ],
)
def test_arrows_that_point_the_right_way_pass(folder: str, source: str) -> None:
    assert wrong_arrows(source, folder) == []


def test_ray_is_found_inside_a_function() -> None:
    assert imports_ray("def f():\n    import ray.util\n    import rayleigh", "ingest") == ["line 2: ray.util"]
