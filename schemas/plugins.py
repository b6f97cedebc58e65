"""Turns a `type` into a class: a known name, an entry point, `./file.py:Class`, or `package.module:Class`."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headrace.schemas.errors import ConfigError


def builtin(spec: str) -> Any:
    """The object that `module:name` stands for."""
    module, _, name = spec.partition(":")
    return getattr(importlib.import_module(module), name)


def is_file_type(type_name: str) -> bool:
    """True for `./file.py:Class`, which travels with the pipeline file."""
    path, _, cls = type_name.rpartition(":")
    return path.endswith(".py") and bool(cls)


def file_of(type_name: str, base: Path | None) -> Path:
    """The path of a `./file.py:Class` type; relative ones lie beside the pipeline file."""
    path = Path(type_name.rpartition(":")[0])
    return path if path.is_absolute() else (base or Path.cwd()) / path


def resolve_class(
    type_name: str, *, group: str, known: Mapping[str, str], base: Path | None, kind: str, parent: type
) -> Any:
    """The class, checked to be a `parent`. Raises: ConfigError that names the nearest known name."""
    if is_file_type(type_name):
        cls = _from_file(type_name, base)
    elif type_name in known:
        cls = builtin(known[type_name])
    else:
        entry = next((e for e in importlib.metadata.entry_points(group=group) if e.name == type_name), None)
        if entry is not None:
            cls = entry.load()
        elif ":" in type_name:
            cls = _from_module(type_name)
        else:
            names = sorted({*known, *(e.name for e in importlib.metadata.entry_points(group=group))})
            near = difflib.get_close_matches(type_name, names, 1)
            hint = f"did you mean `{near[0]}`? " if near else ""
            raise ConfigError(f"unknown {kind} `{type_name}`: {hint}known are {', '.join(names)}; or ./file.py:Class")
    if not (isinstance(cls, type) and issubclass(cls, parent)):
        raise ConfigError(f"{kind} `{type_name}` is not a {parent.__name__}")
    return cls


def _from_file(type_name: str, base: Path | None) -> Any:
    path, cls = file_of(type_name, base), type_name.rpartition(":")[2]
    try:
        source = path.read_bytes()
    except OSError as exc:
        raise ConfigError(f"cannot read {path}: {exc.strerror}") from exc
    # The name comes from the content: two files of one name do not meet, and one file is loaded once.
    name = f"_headrace_{path.stem}_{hashlib.sha256(source).hexdigest()[:16]}"
    module = sys.modules.get(name)
    if module is None:
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise ConfigError(f"{path} is not a Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except Exception as exc:
            del sys.modules[name]
            raise ConfigError(f"{path} cannot be loaded: {type(exc).__name__}: {exc}") from exc
    if not hasattr(module, cls):
        raise ConfigError(f"{path} has no class `{cls}`")
    return getattr(module, cls)


def _from_module(type_name: str) -> Any:
    module, _, name = type_name.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except ImportError as exc:
        raise ConfigError(f"`{type_name}`: cannot import {module}: {exc}") from exc
    except AttributeError as exc:
        raise ConfigError(f"`{type_name}`: {module} has no `{name}`") from exc
