"""The pipeline file as typed values: what streams there are, and how their bytes become tokens.

Every field says whether it shapes the bytes of a stream (`bytes_field`) or only the run (`run_field`). Fields of the
first kind enter the stream digest, fields of the second enter no digest, and a test refuses a field that says neither.

Sections (`source`, `record`, `tokenizer`) are open here: their `type` names a class whose own `Config` validates the
rest when the pipeline is resolved, so third parties add types without touching this file.
"""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from headrace.schemas.record import MODALITIES

STREAM_NAME = re.compile(r"^[a-z][a-z0-9_-]{0,62}$")

#: https://spdx.org/licenses identifiers are not listed here: any token of this shape passes, so that a new license
#: needs no release of ours; `NOASSERTION` says that nobody told.
LICENSE = re.compile(r"^[A-Za-z0-9][A-Za-z0-9.+-]*( (AND|OR|WITH) [A-Za-z0-9][A-Za-z0-9.+-]*)*$")


def bytes_field(default: Any = ..., *, description: str, **rules: Any) -> Any:
    """A setting that shapes the bytes of a stream: it enters the stream digest."""
    return Field(default, description=description, json_schema_extra={"digest": "bytes"}, **rules)


def run_field(default: Any = ..., *, description: str, **rules: Any) -> Any:
    """A setting of the run only: it enters no digest."""
    return Field(default, description=description, json_schema_extra={"digest": "run"}, **rules)


def later_field(*, description: str) -> Any:
    """A setting that shapes bytes and came when there were datasets already: None keeps their streams what they are."""
    return Field(None, description=description, json_schema_extra={"digest": "bytes", "absent": "enters no digest"})


class Settings(BaseModel):
    """Base of all settings: unknown fields are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


def bytes_settings(config: BaseModel) -> dict[str, Any]:
    """The settings that shape bytes, as JSON values; those of the run only are left out."""
    dumped = config.model_dump(mode="json")
    kept = {}
    for name, info in type(config).model_fields.items():
        extra = info.json_schema_extra
        later = isinstance(extra, dict) and "absent" in extra
        if digest_of_field(info) == "bytes" and not (later and dumped[name] is None):
            kept[name] = dumped[name]
    return kept


def digest_of_field(info: Any) -> str:
    """ "bytes" or "run", as declared; a field of a plug-in that says nothing shapes bytes."""
    extra = info.json_schema_extra
    return str(extra.get("digest", "bytes")) if isinstance(extra, dict) else "bytes"


class Section(BaseModel):
    """`type` and that type's own settings."""

    model_config = ConfigDict(extra="allow", frozen=True)

    type: str = Field(min_length=1, description="a registered name, ./file.py:Class, or package.module:Class")

    def settings(self) -> dict[str, Any]:
        """Everything besides `type`."""
        return dict(self.model_extra or {})


class Fit(Settings):
    """The fit set of a tokenizer: a hash-chosen sample that does not depend on workers or order."""

    records: int | None = bytes_field(
        None, gt=0, description="at most this many records, lowest record id first; default: the tokenizer's own"
    )
    splits: int | None = bytes_field(
        None, gt=0, description="read at most this many splits, lowest sha256 of split id first"
    )
    share: str | None = bytes_field(
        None, description="streams with the same word here are fitted together and share one tokenizer"
    )


class Folds(Settings):
    """Which records are kept apart for validation, by a hash that never changes."""

    validation: float = bytes_field(0.01, ge=0, lt=1, description="share of groups whose records get fold=validation")
    by: Literal["group_id", "record_id"] = bytes_field(
        "group_id", description="what is hashed: what belongs together stays together"
    )


class Grid(Settings):
    """What place_id means."""

    crs: str = bytes_field("utm", description="utm, or a projected CRS such as EPSG:3067")
    gsd_m: float = bytes_field(10, gt=0, description="metres a pixel of the grid")
    chip: int = bytes_field(256, gt=0, description="pixels a side of one cell")


class Privacy(Settings):
    """What is kept of personal data."""

    exif: Literal["orientation", "all"] = bytes_field("orientation", description="EXIF fields that are kept")
    gps: Literal["drop", "keep"] = bytes_field("drop", description="positions found in EXIF")
    quarantine_keep: str = run_field(
        "30d", description="how long quarantined bytes are kept; digests and reasons stay", pattern=r"^(\d+d|forever)$"
    )


class Limits(Settings):
    """What one record may cost."""

    time_s: float = run_field(30, gt=0, description="CPU seconds for one record; over it is quarantined as `hang`")
    memory_mib: int = run_field(
        1024, gt=0, description="memory over the worker's base; over it is quarantined as `oom`"
    )
    max_pixels: int = bytes_field(1 << 28, gt=0, description="pixels of one image or frame that must be decoded whole")
    max_ratio: int = bytes_field(1000, gt=0, description="decompressed / compressed bytes; over it is a `bomb`")


class Shards(Settings):
    """How a stream is cut. Bounded runs cut by data alone, so these shape the shard files but never the rows."""

    target_mib: float = bytes_field(256, gt=0, description="a lane closes its shards when they hold this much")
    block_mib: float = bytes_field(
        4, gt=0, le=64, description="size of a record batch: what a loader reads and checks at once"
    )
    payload_mib: float = bytes_field(
        4096, gt=0, description="decoded payload after which a lane commits, however few its tokens are"
    )
    lane_mib: int = bytes_field(
        64, gt=0, description="input that one lane is given at least, beyond the first 16 lanes"
    )


class Live(Settings):
    """How a stream runs in a service. Nothing here changes a row; only where shards are cut."""

    commit_every_s: float = run_field(5, gt=0, description="commit at least this often while anything came")
    discover_every_s: float = run_field(5, gt=0, description="list the source again this often")
    lanes: int = run_field(
        16, gt=0, le=4096, description="lanes that unbounded splits are spread over; fixed when the stream is created"
    )
    buffer_mib: float = run_field(32, gt=0, description="read ahead of the decoder, for each split")
    idle_after_s: float = run_field(30, gt=0, description="a split without data this long holds the watermark no more")
    lateness_s: float = run_field(0, ge=0, description="the watermark stays this far behind the newest event")


class Spool(Settings):
    """The durable queue of a source that cannot be read again."""

    folder: str | None = run_field(None, description="where it lies; default: `spool` in a dataset that is a folder")
    max_mib: float = run_field(8192, gt=0, description="its size limit")
    policy: Literal["block", "shed"] = run_field(
        "block", description="at the limit: block holds the sender back, shed drops what is new and counts it"
    )
    keep: str = run_field(
        "committed",
        pattern=r"^(committed|forever|\d+[dh])$",
        description="how long segments stay: committed, forever, or for example 7d",
    )


class Dedup(Settings):
    """Drops items that came before, where a source may send one twice."""

    by: Literal["key", "content"] = bytes_field(
        "key", description="key: the source's message id, items without one are kept; content: the payload's bytes"
    )
    window: int = bytes_field(1 << 16, gt=0, le=1 << 24, description="how many items back are remembered")
    scope: Literal["split", "stream"] = bytes_field(
        "split", description="stream: one item may come over several splits; the stream then has one lane"
    )


class Windows(Settings):
    """How readings of many messages become one sensor record; it is closed by data alone, never by a clock of ours."""

    samples: int = bytes_field(512, gt=0, le=1 << 20, description="readings of one channel in one record")
    seconds: float | None = bytes_field(
        None, gt=0, description="close at multiples of this event time, counted from 1970, instead of by number"
    )


class Stream(Settings):
    """One source and what becomes of it."""

    source: Section = bytes_field(description="how bytes arrive")
    record: Section = bytes_field(description="what they become")
    tokenizer: Section | dict[str, Section] | None = bytes_field(
        None, description="how records become tokens; one section, or one per modality"
    )
    license: str | None = bytes_field(None, description="SPDX identifier or LicenseRef-…")
    attribution: str | None = bytes_field(None, description="who must be named")
    limits: Limits = bytes_field(Limits(), description="what one record may cost")
    shards: Shards = bytes_field(Shards(), description="how the stream is cut")
    live: Live = run_field(Live(), description="how it runs in a service")
    dedup: Dedup | None = bytes_field(
        None, description="drop repeated items; default: by key where the source may send one again, else none"
    )
    windows: Windows | None = bytes_field(None, description="sensor messages: readings of many messages in one record")
    spool: Spool = run_field(Spool(), description="where a source that cannot be read again is kept until committed")
    max_bad_fraction: float | None = run_field(
        None,
        gt=0,
        le=1,
        description="a service stops the stream when more than this share of a lane's last 10,000 records is bad;"
        " default 0.1",
    )

    @field_validator("license")
    @classmethod
    def _license(cls, value: str | None) -> str | None:
        if value is not None and not LICENSE.match(value):
            raise ValueError("an SPDX identifier or LicenseRef-… is expected, such as CC-BY-4.0 or NOASSERTION")
        return value

    @field_validator("tokenizer", mode="before")
    @classmethod
    def _tokenizer(cls, value: Any) -> Any:
        if isinstance(value, dict) and "type" not in value:
            unknown = sorted(set(value) - set(MODALITIES))
            if unknown:
                raise ValueError(f"a `type`, or modalities ({', '.join(MODALITIES)}) are expected, not {unknown}")
        return value

    def tokenizer_for(self, modality: str, primary: bool) -> Section | None:
        """The section for a modality: the mapping's, or the single one for the stream's own modality."""
        if isinstance(self.tokenizer, dict):
            return self.tokenizer.get(modality)
        return self.tokenizer if primary else None


class TextEngine(Settings):
    """How text is encoded faster than its tokenizer's library does it, with the same ids."""

    fast: bool = run_field(True, description="false: always by the library")
    check_one_in: int = run_field(
        1024, ge=0, description="one document in so many is encoded by the library too and compared; 0: none"
    )


class Pipeline(Settings):
    """A whole pipeline file."""

    dataset: str | None = run_field(None, description="where the dataset is written: a folder or s3://bucket/prefix")
    license: str = bytes_field("NOASSERTION", description="license of streams that say nothing")
    seed: int = bytes_field(0, ge=0, description="seed of everything that is fitted")
    grid: Grid | None = bytes_field(None, description="what place_id means")
    folds: Folds = bytes_field(Folds(), description="train and validation")
    privacy: Privacy = bytes_field(Privacy(), description="what is kept of personal data")
    text_engine: TextEngine = run_field(TextEngine(), description="how text is encoded: the ids are always the same")
    streams: dict[str, Stream] = bytes_field(description="name → stream", min_length=1)

    @model_validator(mode="after")
    def _names(self) -> Pipeline:
        for name in self.streams:
            if not STREAM_NAME.match(name):
                raise ValueError(
                    f"stream name {name!r}: lower-case letters, digits, - and _ are expected, beginning with a letter"
                )
        if not LICENSE.match(self.license):
            raise ValueError(f"license {self.license!r}: an SPDX identifier or LicenseRef-… is expected")
        return self
