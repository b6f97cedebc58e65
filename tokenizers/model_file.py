"""Model files named in a tokenizer's settings: where they are, and their bytes.

A path is relative to the pipeline file; the bytes are read once and kept in the artefact, so that a dataset decodes
without them.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, ValidationInfo

from headrace.schemas.errors import ConfigError

MAX_BYTES = 1 << 30
_GZIP = b"\x1f\x8b"


def _resolve(value: Any, info: ValidationInfo) -> Any:
    base = (info.context or {}).get("base")
    if isinstance(value, str) and base is not None:
        return Path(base) / value
    return value


#: A path in a Config: relative ones start at the pipeline's folder (`context={"base": folder}` of the validation).
ModelFile = Annotated[Path, BeforeValidator(_resolve)]


def read_model(path: Path, field: str = "model") -> bytes:
    """The bytes of a model file; a gzip file is expanded. Raises: ConfigError."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(f"`{path.name}` is larger than {MAX_BYTES} bytes", field=field, value=str(path))
        data = path.read_bytes()
    except OSError as exc:
        raise ConfigError(f"`{path}` cannot be read: {exc.strerror}", field=field, value=str(path)) from exc
    return _expanded(data, path, field) if data.startswith(_GZIP) else data


def _expanded(data: bytes, path: Path, field: str) -> bytes:
    engine = zlib.decompressobj(wbits=31)
    try:
        out = engine.decompress(data, MAX_BYTES)
    except zlib.error as exc:
        raise ConfigError(f"`{path.name}` is a damaged gzip file: {exc}", field=field, value=str(path)) from exc
    if engine.unconsumed_tail or not engine.eof:
        raise ConfigError(f"`{path.name}` is cut short or expands too far", field=field, value=str(path))
    return out
