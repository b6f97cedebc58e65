"""From a pipeline's words to classes and validated settings: what each stream reads, makes and writes.

A resolved stream has one output per modality its normalizer can yield: the stream's own, and derived ones named
`<stream>.<modality>`. Everything here can be rebuilt in another process from `Runtime.to_json()`.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from headrace.connectors.contract import Connector
from headrace.connectors.registry import connector_class
from headrace.ingest.normalizers.contract import Limits, Normalizer
from headrace.ingest.normalizers.registry import normalizer_class
from headrace.ingest.pipeline_file import config_error
from headrace.schemas.canonical import digest_of, sha256_hex
from headrace.schemas.errors import ConfigError, HeadraceError
from headrace.schemas.pipeline import Dedup, Fit, Pipeline, Section, Stream, bytes_settings
from headrace.schemas.plugins import file_of, is_file_type
from headrace.schemas.record import Modality
from headrace.schemas.sample import SCHEMA_VERSION
from headrace.tokenizers.contract import Artefact, Tokenizer
from headrace.tokenizers.registry import default_for, tokenizer_class

RAW = "raw"


@dataclass(frozen=True)
class Output:
    """One stream of the dataset."""

    name: str
    modality: Modality
    tokenizer_type: str  #: RAW passes the record through
    tokenizer: type[Tokenizer] | None
    config: Any  #: validated settings of the tokenizer, None when raw
    fit: Fit
    settings: dict[str, Any]  #: what shapes its bytes, save the tokenizer's fingerprint; kept in the log

    @property
    def fit_group(self) -> str | None:
        """Outputs with one group share an artefact; None when nothing is fitted."""
        if self.tokenizer is None or not self.tokenizer.fitted or getattr(self.config, "model", None):
            return None
        if self.fit.share:
            return f"{self.tokenizer_type}:{self.modality}:{self.fit.share}"
        return self.name

    def digest(self, fingerprint: str | None) -> str:
        """The stream digest: everything that shapes the bytes."""
        return digest_of({**self.settings, "fingerprint": fingerprint})

    def make_tokenizer(self, artefact: Artefact | None) -> Tokenizer | None:
        """The tokenizer, or None when raw."""
        return None if self.tokenizer is None else self.tokenizer(self.config, artefact)


@dataclass(frozen=True)
class ResolvedStream:
    """One entry of `streams:`, with its classes and settings."""

    name: str
    spec: Stream
    connector: type[Connector]
    connector_config: Any
    normalizer: type[Normalizer]
    normalizer_config: Any
    outputs: dict[Modality, Output]
    license: str
    spool_folder: Path | None = None  #: None: not spooled

    @property
    def live(self) -> bool:
        """Whether its splits have no end."""
        return not self.connector.bounded

    @property
    def spooled(self) -> bool:
        """Whether it is read by a receiver into a spool, because it cannot be read again."""
        return self.live and self.connector.replay == "none"

    @property
    def dedup(self) -> Dedup | None:
        """The pipeline's word, or by key over the whole stream where a sender may send an item again."""
        if self.spec.dedup is None and self.spooled and self.connector.acknowledges:
            return Dedup(scope="stream")
        if self.spec.dedup is None and self.live and self.connector.repeats:
            return Dedup()
        return self.spec.dedup

    @property
    def lanes(self) -> int:
        """How many lanes its unbounded splits are spread over; what the log has goes before."""
        dedup = self.dedup
        return 1 if dedup is not None and dedup.scope == "stream" else self.spec.live.lanes

    def make_connector(self) -> Connector:
        """A connector for this process; of a spooled stream the one that reads its spool."""
        if self.spooled:
            if self.spool_folder is None:
                raise ConfigError("its spool has no folder", field=f"streams.{self.name}.spool.folder")
            from headrace.ingest.spool_connector import SpooledConnector

            return SpooledConnector(self.connector, self.connector_config, self.spec.spool, self.spool_folder)
        return self.connector(self.connector_config)

    def make_receiver(self) -> Connector:
        """The connector that fills the spool."""
        return self.connector(self.connector_config)

    def make_normalizer(self) -> Normalizer:
        """A normalizer with the stream's limits."""
        limits = self.spec.limits
        return self.normalizer(
            self.normalizer_config,
            Limits(max_bytes=limits.memory_mib << 20, max_ratio=limits.max_ratio, max_pixels=limits.max_pixels),
        )


@dataclass(frozen=True)
class Runtime:
    """What another process needs to resolve the same streams."""

    pipeline: Pipeline
    dataset: str
    base: Path
    files: dict[str, str] = field(
        default_factory=dict
    )  #: `./file.py:Class` → source, so that workers elsewhere have it

    @classmethod
    def of(cls, pipeline: Pipeline, dataset: str, base: Path) -> Runtime:
        """Collects the source of every file the pipeline names as a type."""
        files = {}
        for name, stream in pipeline.streams.items():
            for section in _sections(stream):
                if is_file_type(section.type):
                    path = file_of(section.type, base)
                    try:
                        files[section.type] = path.read_text(encoding="utf-8")
                    except OSError as exc:
                        raise ConfigError(f"cannot read {path}: {exc.strerror}", field=f"streams.{name}") from exc
        return cls(pipeline, dataset, base, files)

    def to_json(self) -> dict[str, Any]:
        """A JSON value; secrets in it are already expanded, so it goes to child processes, never to the dataset."""
        return {
            "pipeline": self.pipeline.model_dump(mode="json"),
            "dataset": self.dataset,
            "base": str(self.base),
            "files": self.files,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Runtime:
        """The same runtime; files that are not here are laid into a temporary folder."""
        base = Path(value["base"])
        for type_name, source in value["files"].items():
            path = file_of(type_name, base)
            if not path.is_file() or path.read_text(encoding="utf-8") != source:
                base = Path(tempfile.mkdtemp(prefix="headrace-files-"))
                for other, text in value["files"].items():
                    target = base / Path(other.rpartition(":")[0]).name
                    target.write_text(text, encoding="utf-8")
                break
        return cls(Pipeline.model_validate(value["pipeline"]), value["dataset"], base, value["files"])

    def with_stream(self, name: str, spec: dict[str, Any]) -> Runtime:
        """The same with one stream more, or another. Raises: ConfigError."""
        try:
            streams = {**self.pipeline.streams, name: Stream.model_validate(spec)}
            pipeline = Pipeline.model_validate({**self.pipeline.model_dump(mode="json"), "streams": {
                key: value.model_dump(mode="json") for key, value in streams.items()
            }})
        except ValidationError as exc:
            raise config_error(exc, prefix=f"streams.{name}") from exc
        return Runtime(pipeline, self.dataset, self.base, self.files)

    def resolve(self, name: str) -> ResolvedStream:
        """One stream's classes and settings. Raises: ConfigError with the field's path."""
        return resolve_stream(name, self.pipeline, self.base, self.dataset)


def _sections(stream: Stream) -> list[Section]:
    tokenizers = stream.tokenizer
    several = list(tokenizers.values()) if isinstance(tokenizers, dict) else [tokenizers] if tokenizers else []
    return [stream.source, stream.record, *several]


def resolve(pipeline: Pipeline, base: Path, dataset: str | None = None) -> dict[str, ResolvedStream]:
    """Every stream, checked before the first byte is read. Raises: ConfigError with the field's path."""
    return {name: resolve_stream(name, pipeline, base, dataset) for name in pipeline.streams}


def resolve_stream(name: str, pipeline: Pipeline, base: Path, dataset: str | None = None) -> ResolvedStream:
    """One stream's classes and settings; `dataset` is where spools lie that the pipeline does not place.

    Raises: ConfigError with the field's path.
    """
    spec = pipeline.streams[name]
    field_path = f"streams.{name}"
    connector = _class(connector_class, spec.source.type, base, f"{field_path}.source.type")
    normalizer = _class(normalizer_class, spec.record.type, base, f"{field_path}.record.type")
    source = spec.source.settings()
    if normalizer.whole_objects and "lines" in connector.Config.model_fields:
        source.setdefault("lines", "whole")
    connector_config = _config(connector, source, f"{field_path}.source", base)
    normalizer_config = _config(normalizer, _with_privacy(normalizer, spec, pipeline), f"{field_path}.record", base)
    license_ = spec.license or pipeline.license
    shape = {
        "schema": SCHEMA_VERSION,
        "record": {"type": spec.record.type, **bytes_settings(normalizer_config), **_code(spec.record.type, base)},
        "folds": pipeline.folds.model_dump(mode="json"),
        "license": license_,
        "attribution": spec.attribution,
        "shards": {name: float(getattr(spec.shards, name)) for name in ("target_mib", "block_mib", "payload_mib")},
        "seed": pipeline.seed,
        "grid": pipeline.grid.model_dump(mode="json") if pipeline.grid else None,
    }
    for part in ("dedup", "windows"):  # only where they are used, so that other streams keep their digest
        settings = getattr(spec, part)
        if settings is not None:
            shape[part] = settings.model_dump(mode="json")
    outputs: dict[Modality, Output] = {}
    for modality in (normalizer.modality, *normalizer.derived):
        primary = modality == normalizer.modality
        outputs[modality] = _output(
            name if primary else f"{name}.{modality}", modality, spec, primary, shape, base, field_path
        )
    if spec.windows is not None and normalizer.modality != "sensor":
        raise ConfigError("only sensor readings are joined into windows", field=f"{field_path}.windows")
    folder = None
    if not connector.bounded and connector.replay == "none":
        folder = _spool_folder(name, spec, base, dataset)
    return ResolvedStream(
        name, spec, connector, connector_config, normalizer, normalizer_config, outputs, license_, folder
    )


def _spool_folder(name: str, spec: Stream, base: Path, dataset: str | None) -> Path | None:
    """Where a stream's spool lies: what the pipeline says, else in the dataset's folder."""
    if spec.spool.folder is not None:
        return (base / spec.spool.folder).resolve() / name
    if dataset is None:
        return None  # only looked at, not run
    if "://" in dataset:
        raise ConfigError(
            "its source cannot be read again, so what comes is kept in a spool until it is committed; this dataset is"
            " no folder: say where the spool lies, on a disk that outlives the process",
            field=f"streams.{name}.spool.folder",
        )
    return Path(dataset) / "spool" / name


def _with_privacy(normalizer: type[Normalizer], spec: Stream, pipeline: Pipeline) -> dict[str, Any]:
    """The record settings, with the pipeline's privacy where the normalizer has a say and the stream says nothing."""
    settings = spec.record.settings()
    for name, value in (("exif", pipeline.privacy.exif), ("gps", pipeline.privacy.gps)):
        if name in normalizer.Config.model_fields:
            settings.setdefault(name, value)
    return settings


def _output(
    name: str, modality: Modality, spec: Stream, primary: bool, shape: dict[str, Any], base: Path, path: str
) -> Output:
    section = spec.tokenizer_for(modality, primary)
    field_path = (
        f"{path}.tokenizer" if primary and not isinstance(spec.tokenizer, dict) else f"{path}.tokenizer.{modality}"
    )
    chosen = (
        section.model_dump() if section else ({"type": RAW} if modality == "tensor" else dict(default_for(modality)))
    )
    type_name = str(chosen.pop("type"))
    try:
        fit = Fit.model_validate(chosen.pop("fit", {}))
    except ValidationError as exc:
        raise config_error(exc, prefix=f"{field_path}.fit") from exc
    if type_name == RAW:
        if chosen:
            raise ConfigError(f"`raw` takes no settings, not {sorted(chosen)}", field=field_path)
        return Output(name, modality, RAW, None, None, fit, {**shape, "modality": modality, "tokenizer": {"type": RAW}})
    tokenizer = _class(tokenizer_class, type_name, base, f"{field_path}.type")
    if modality not in tokenizer.modalities:
        raise ConfigError(
            f"`{type_name}` takes {', '.join(tokenizer.modalities)} records, this stream makes {modality}",
            field=f"{field_path}.type",
        )
    config = _config(tokenizer, chosen, field_path, base)
    settings = {
        **shape,
        "modality": modality,
        "tokenizer": {"type": type_name, **bytes_settings(config), **_code(type_name, base)},
    }
    settings["tokenizer"].pop("model", None)  # a path; the fingerprint covers the model's bytes
    return Output(name, modality, type_name, tokenizer, config, fit, settings)


def _class(finder: Any, type_name: str, base: Path, field_path: str) -> Any:
    try:
        return finder(type_name, base)
    except ConfigError as exc:
        raise ConfigError(str(exc), field=field_path, value=type_name) from exc


def _config(cls: Any, settings: dict[str, Any], field_path: str, base: Path) -> Any:
    try:
        return cls.Config.model_validate(settings, context={"base": base})
    except ValidationError as exc:
        raise config_error(exc, prefix=field_path) from exc
    except HeadraceError as exc:
        raise ConfigError(str(exc), field=field_path) from exc


def _code(type_name: str, base: Path) -> dict[str, str]:
    """The hash of a class's own file: a changed plug-in file is a changed stream."""
    return {"code": sha256_hex(file_of(type_name, base).read_bytes())} if is_file_type(type_name) else {}
