"""A pipeline for a folder of anything: one stream per modality that is found, with default tokenizers.

What it makes is an ordinary pipeline that `--print-pipeline` shows. Streams of one modality share an artefact: text out
of a WARC, a subtitle track or a log topic is cut into the same tokens as text out of a text file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from headrace.connectors.files import Files
from headrace.connectors.files_config import FilesConfig
from headrace.ingest.normalizers.registry import normalizer_class
from headrace.ingest.pipeline_file import make_pipeline
from headrace.schemas.errors import ConfigError
from headrace.schemas.pipeline import Pipeline
from headrace.schemas.record import Modality
from headrace.tokenizers.registry import default_for, tokenizer_class

#: modality → stream name, in the order of the summary.
STREAMS: dict[Any, str] = {
    "text": "text", "image": "images", "video": "video", "audio": "audio", "sensor": "sensors", "raster": "rasters",
    "none": "unrecognised",
}  # fmt: skip


def folder_pipeline(root: Path, *, license: str = "NOASSERTION") -> Pipeline:
    """The pipeline that builds everything under `root`. Raises: ConfigError if there is nothing."""
    return make_pipeline(folder_document(root, license=license), base=Path.cwd(), name=str(root))


def folder_document(root: Path, *, license: str = "NOASSERTION") -> dict[str, Any]:
    """The same as a plain mapping, fit to be written as YAML."""
    if not root.is_dir():
        raise ConfigError(f"{root} is not a folder (or a pipeline file ending in .yaml)", value=str(root))
    found = modalities_in(root)
    if not found:
        raise ConfigError(f"{root} holds no files", value=str(root))
    streams: dict[str, Any] = {}
    for modality, name in STREAMS.items():
        if modality in found:
            streams[name] = _stream(root, modality)
    return {"license": license, "streams": streams}


def modalities_in(root: Path) -> dict[str, tuple[int, int]]:
    """(files, bytes) of each modality under `root`; `none` are those that no format claims."""
    connector = Files(FilesConfig(root=str(root)))
    try:
        return connector.modalities()
    finally:
        connector.close()


def _stream(root: Path, modality: str) -> dict[str, Any]:
    source = {"type": "files", "root": str(root.resolve()), "select": modality}
    if modality == "none":
        return {"source": source, "record": {"type": "unrecognised"}, "tokenizer": {"type": "raw"}}
    normalizer = normalizer_class(modality)
    wanted: list[Modality] = [normalizer.modality, *normalizer.derived]
    tokenizers: dict[Any, Any] = {m: _shared(m) for m in wanted if m != "tensor"}
    tokenizer: Any = tokenizers if len(tokenizers) > 1 else tokenizers[normalizer.modality]
    return {"source": source, "record": {"type": modality}, "tokenizer": tokenizer}


def _shared(modality: Modality) -> dict[str, Any]:
    section = dict(default_for(modality))
    if tokenizer_class(section["type"]).fitted:
        section["fit"] = {"share": modality}
    return section
