"""What an export will do, decided before the first byte is written: which streams go, in which ids, which cannot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from headrace.schemas.canonical import digest_of
from headrace.schemas.errors import ConfigError
from headrace.schemas.vocabulary import Vocabulary
from headrace.shards.dataset import Dataset
from headrace.shards.entry import StreamSettings
from headrace.shards.exports.marks import Marks, marks_of
from headrace.shards.exports.options import NO_EMPTY, TOKENS_ONLY, ExportOptions

#: Of the files that an export writes. A folder of a newer one is refused.
FORMAT = 1


@dataclass(frozen=True)
class StreamPlan:
    """One stream of an export, written to the folder of its name. `marks` is None for raw streams."""

    name: str
    settings: StreamSettings
    schema: pa.Schema
    marks: Marks | None
    options: ExportOptions
    export_id: str  #: the export's digest, hex: what its files may use as an id
    rows: int  #: readable samples, of all folds
    tokens: int  #: of the live shards, deleted samples included
    deleted: int
    bytes: int  #: of the live shards

    @property
    def skip_empty(self) -> bool:
        return self.options.to in NO_EMPTY

    @property
    def dtype_name(self) -> str | None:
        """numpy name of the written ids."""
        return self.marks.dtype.name if self.marks else None


@dataclass(frozen=True)
class ExportPlan:
    """A pinned version, the options, the streams that go, and why others do not."""

    dataset: Dataset
    options: ExportOptions
    streams: list[StreamPlan]
    left_out: dict[str, str]
    digest: str  #: of everything that decides the bytes
    vocabulary: Vocabulary | None = None  #: of the unified view

    @property
    def settings(self) -> dict[str, Any]:
        """What a run compares itself with to go on: equal settings, equal files."""
        return settings_of(self.dataset, self.options)


def settings_of(dataset: Dataset, options: ExportOptions) -> dict[str, Any]:
    """Everything that decides the bytes of an export."""
    return {
        "format": FORMAT,
        "version": dataset.version,
        "digest": dataset.state.digest,
        "options": options.to_json(),
    }


def make_plan(dataset: Dataset, options: ExportOptions) -> ExportPlan:
    """The plan. Raises: ConfigError for unknown streams, or if nothing can go; TokenizerError, ShardError."""
    named = _named(dataset, options)
    vocabulary = dataset.vocabulary() if options.ids == "unified" else None
    if vocabulary is not None and not vocabulary.blocks:
        raise ConfigError("none of the streams has a tokenizer", field="--ids", value="unified")
    digest = digest_of(settings_of(dataset, options))
    infos = dataset.streams()
    streams, left_out = [], {}
    for name in named or sorted(dataset.state.settings):
        settings, info = dataset.state.settings[name], infos[name]
        if not info.rows:
            left_out[name] = "no samples"
        elif settings.tokens is None and options.to in TOKENS_ONLY:
            reason = f"raw, and {options.to} holds tokens only"
            if name in options.streams:
                raise ConfigError(f"the stream {name} is {reason}", field="--stream", value=name)
            left_out[name] = reason
        else:
            marks = marks_of(dataset, name, options, vocabulary)
            streams.append(
                StreamPlan(
                    name, settings, dataset.schema(name), marks, options, digest,
                    info.rows, info.tokens, info.deleted, info.bytes,
                )
            )  # fmt: skip
    if not streams:
        told = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise ConfigError(f"there is nothing to export ({told or 'the dataset has no streams'})", field="--stream")
    return ExportPlan(dataset, options, streams, left_out, digest, vocabulary)


def _named(dataset: Dataset, options: ExportOptions) -> list[str]:
    names: dict[str, None] = {}
    for pattern in options.streams:
        try:
            names.update(dict.fromkeys(dataset.select(pattern)))
        except KeyError as exc:
            raise ConfigError(str(exc.args[0]), field="--stream", value=pattern) from exc
    return sorted(names)
