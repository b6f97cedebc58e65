"""The shape of the tree: short files with docstrings, linked folders, and a page that lists what there is."""

from __future__ import annotations

import ast
import os
from pathlib import Path
from types import ModuleType

import pytest

FOLDERS = ["schemas", "connectors", "tokenizers", "shards", "ingest"]
MAX_LINES = 450


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_package_links_to_the_folder_at_the_top(repository: Path, folder: str) -> None:
    link = repository / "src" / "headrace" / folder
    assert link.is_symlink(), f"{link} must be a link; a checkout without links cannot work"
    assert os.readlink(link) == f"../../{folder}"
    assert (repository / folder).is_dir()


def test_the_linked_folders_hold_no_init_file(python_files: list[str]) -> None:
    """One in tokenizers/ would hide Hugging Face's `tokenizers` from anything started in the repository."""
    assert [p for p in python_files if p.split("/")[0] in FOLDERS and p.endswith("__init__.py")] == []


def test_no_file_is_longer_than_one_idea(repository: Path, python_files: list[str]) -> None:
    lengths = {p: len((repository / p).read_text(encoding="utf-8").splitlines()) for p in python_files}
    assert {p: n for p, n in lengths.items() if n > MAX_LINES} == {}


def test_every_file_says_what_it_is_for(repository: Path, architecture: ModuleType, python_files: list[str]) -> None:
    assert [p for p in python_files if not architecture.first_line(repository / p)] == []


def test_no_name_is_a_drawer_for_everything(python_files: list[str]) -> None:
    assert [p for p in python_files if Path(p).stem in {"utils", "util", "helpers", "misc", "common"}] == []


def test_nothing_here_unpickles_or_runs_a_shell(repository: Path, python_files: list[str]) -> None:
    """Read from the syntax tree, so that a comment or a refusal by name does not count."""
    shipped = [p for p in python_files if p.split("/")[0] in FOLDERS or p.startswith("src/")]
    wrong = []
    for path in shipped:
        for node in ast.walk(ast.parse((repository / path).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import) and any(
                a.name.split(".")[0] in {"pickle", "cloudpickle", "dill", "marshal"} for a in node.names
            ):
                wrong.append(f"{path}:{node.lineno}: pickle")
            if isinstance(node, ast.Call):
                called = node.func.attr if isinstance(node.func, ast.Attribute) else ""
                if called in {"extractall", "unsafe_load"}:
                    wrong.append(f"{path}:{node.lineno}: {called}")
                for keyword in node.keywords:
                    value = getattr(keyword.value, "value", None)
                    if (keyword.arg, value) in {("shell", True), ("allow_pickle", True), ("verify", False)}:
                        wrong.append(f"{path}:{node.lineno}: {keyword.arg}={value}")
    assert wrong == []


def test_the_architecture_page_lists_the_tree(repository: Path, architecture: ModuleType) -> None:
    page = (repository / "docs" / "architecture.md").read_text(encoding="utf-8")
    wanted = architecture.with_table(page, architecture.table(repository))
    assert page == wanted, "docs/architecture.md differs from the tree: run `make docs`"


def test_the_architecture_page_needs_its_markers(architecture: ModuleType) -> None:
    with pytest.raises(ValueError, match="markers"):
        architecture.with_table("# a page without markers", "")


def test_the_list_takes_files_and_never_follows_links(architecture: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.py").write_text('"""What it is for.\n\nMore."""\n')
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / "b.py").write_text("")
    (tmp_path / "link").symlink_to("real")
    assert architecture.python_files(tmp_path) == ["real/a.py"]
    assert "- `a.py`: What it is for" in architecture.table(tmp_path)
