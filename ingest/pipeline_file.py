"""Reads a pipeline file: strict YAML, secrets by reference, paths relative to the file.

Aliases and duplicate keys are refused: both let a file say something else than a reader sees.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from headrace.schemas.errors import ConfigError
from headrace.schemas.pipeline import Pipeline

_REFERENCE = re.compile(r"\$\{(env|file):([^}]+)\}")

#: Settings that name local files; a relative one is meant from the pipeline file's folder.
_PATH_KEYS = frozenset({"root", "path", "model", "file", "artefact"})


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader without aliases and without duplicate keys."""

    def compose_node(self, parent: Any, index: int) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(
                problem="aliases (*name) are not allowed in a pipeline file", problem_mark=event.start_mark
            )
        return super().compose_node(parent, index)


def _mapping(loader: _StrictLoader, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if key in seen:
            raise yaml.MarkedYAMLError(problem=f"the key `{key}` stands twice", problem_mark=key_node.start_mark)
        seen.add(key)
    loader.flatten_mapping(node)
    return {loader.construct_object(k, deep=True): loader.construct_object(v, deep=True) for k, v in node.value}


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
# Dates stay text: what a date means is the business of the setting that holds it.
_StrictLoader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in rules if tag != "tag:yaml.org,2002:timestamp"]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def load_pipeline(path: Path) -> Pipeline:
    """The validated pipeline of a file. Raises: ConfigError that names the field, the value and what would be right."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{path} is not UTF-8 text: byte {exc.start}") from exc
    except OSError as exc:
        raise ConfigError(f"cannot read {path}: {exc.strerror}") from exc
    return parse_pipeline(text, base=path.parent.resolve(), name=str(path))


def parse_pipeline(text: str, *, base: Path, name: str = "pipeline") -> Pipeline:
    """The validated pipeline of YAML text; relative paths are meant from `base`."""
    try:
        document = yaml.load(text, Loader=_StrictLoader)
    except yaml.YAMLError as exc:
        mark = getattr(exc, "problem_mark", None)
        place = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
        raise ConfigError(f"{place}: {getattr(exc, 'problem', None) or exc}") from exc
    if not isinstance(document, dict):
        raise ConfigError(f"{name}: a mapping with `streams:` is expected")
    return make_pipeline(_expand(document, base, ()), base=base, name=name)


def make_pipeline(document: dict[str, Any], *, base: Path, name: str = "pipeline") -> Pipeline:
    """The validated pipeline of a mapping."""
    try:
        pipeline = Pipeline.model_validate(document)
    except ValidationError as exc:
        raise config_error(exc, prefix="", name=name) from exc
    return pipeline


def config_error(exc: ValidationError, *, prefix: str, name: str = "pipeline") -> ConfigError:
    """The first finding of pydantic as one line: where, what stood there, what would be right."""
    findings = exc.errors(include_url=False)
    # A misspelt name shows as two findings, unknown and missing; the unknown one says what happened.
    first = next((f for f in findings if f["type"] == "extra_forbidden"), findings[0])
    where = ".".join(str(part) for part in first["loc"] if part not in ("Section", "dict[str,Section]", "dict"))
    field = ".".join(part for part in (prefix, where) if part) or name
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        message = "unknown setting"
    value = first.get("input")
    shown = (
        f" (found {value!r})"
        if not isinstance(value, dict) and first["type"] not in ("missing", "extra_forbidden")
        else ""
    )
    more = f"; and {exc.error_count() - 1} more" if exc.error_count() > 1 else ""
    return ConfigError(f"{message}{shown}{more}", field=field, value=value)


def _expand(value: Any, base: Path, path: tuple[str, ...]) -> Any:
    if isinstance(value, dict):
        return {key: _expand(inner, base, (*path, str(key))) for key, inner in value.items()}
    if isinstance(value, list):
        return [_expand(inner, base, (*path, str(i))) for i, inner in enumerate(value)]
    if not isinstance(value, str):
        return value
    expanded = _REFERENCE.sub(lambda match: _reference(match, base, path), value)
    key = path[-1] if path else ""
    if path[:1] == ("streams",) and key in _PATH_KEYS and "://" not in expanded and not os.path.isabs(expanded):
        return str((base / expanded).resolve())
    if path == ("dataset",) and "://" not in expanded and not os.path.isabs(expanded):
        return str((base / expanded).resolve())
    return expanded


def _reference(match: re.Match[str], base: Path, path: tuple[str, ...]) -> str:
    kind, name = match.groups()
    field = ".".join(path)
    if kind == "env":
        if name not in os.environ:
            raise ConfigError(f"the environment variable {name} is not set", field=field)
        return os.environ[name]
    try:
        return (base / name).read_text(encoding="utf-8").strip()
    except OSError as exc:
        raise ConfigError(f"cannot read {name}: {exc.strerror}", field=field) from exc
