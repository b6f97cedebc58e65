"""Fixtures of the house tests: the repository, its Python files, and the script that lists them."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def architecture() -> ModuleType:
    """scripts/architecture.py as a module."""
    spec = importlib.util.spec_from_file_location("headrace_architecture", REPOSITORY / "scripts" / "architecture.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def python_files(architecture: ModuleType) -> list[str]:
    """Every Python file of the tree by its own path, relative to the root."""
    files: list[str] = architecture.python_files(REPOSITORY)
    return files
