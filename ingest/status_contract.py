"""What the status page asks of a running service, and the shape of what it is told.

The page knows the service only by `ServiceView`. Whatever is not known is None, never a guess. Times are microseconds
since 1970 UTC by the service's clock; ages are seconds. The published OpenAPI document is made from these shapes.
"""

from __future__ import annotations

from typing import Any, Literal, NotRequired, Protocol

from typing_extensions import TypedDict  # pydantic reads no other before Python 3.12

ServiceState = Literal["starting", "running", "draining", "fenced", "stopped"]
StreamState = Literal["running", "paused", "parked", "stopped", "removed"]


class LagStatus(TypedDict):
    """How far a stream is behind its source."""

    records: int | None
    bytes: int | None
    seconds: float | None


class SpoolStatus(TypedDict):
    """The spool of a source that cannot be read again. `shed` counts items that were refused or dropped."""

    bytes: int
    max_bytes: int | None
    shed: int


class RetiredStatus(TypedDict):
    """An engine that is used no more: the version that retired it, and the document that it was found by."""

    engine: str
    version: int
    stream: str
    record: str


class EngineStatus(TypedDict):
    """What encodes a stream: `reference`, or a faster library; and what became of samples of those that were wrong."""

    name: str
    retired: list[RetiredStatus]
    checked: int
    replaced: int
    due: int
    unchecked: int


class OutputStatus(TypedDict):
    """The books of one stream of samples: records = samples + quarantined + rejected + duplicates."""

    name: str
    modality: str
    records: int
    samples: int
    tokens: int
    quarantined: int
    rejected: dict[str, int]
    duplicates: int
    engine: EngineStatus | None


class ErrorStatus(TypedDict):
    """A split that cannot be read now, or is parked."""

    split: str
    message: str
    since_us: int | None
    next_try_us: int | None


class GapStatus(TypedDict):
    """Data known to be lost upstream; `lost` is None when nobody knows how much."""

    reason: str
    lost: int | None


class MeterStatus(TypedDict):
    """Where `seconds` of workers' time went, as shares that sum to 1 (see docs/meter.md).

    `bare` is the share of codec and tokenizer in all that was not waiting: 0.97 is 97 % of bare speed.
    """

    codec: float
    tokenizer: float
    write: float
    wait: float
    headrace: float
    bare: float
    seconds: float


class StreamStatus(TypedDict):
    """One stream of the pipeline with the streams of samples it feeds."""

    name: str
    source: str | None
    connector: str | None
    guarantee: str | None
    state: StreamState
    message: str | None
    splits: int | None
    lanes: int | None
    items: int | None
    quarantined_items: int | None
    records_per_s: float | None
    bytes_per_s: float | None
    lag: LagStatus
    event_time_us: int | None
    watermark_us: int | None
    late: int | None
    freshness_s: float | None
    last_commit_us: int | None
    spool: SpoolStatus | None
    outputs: list[OutputStatus]
    errors: list[ErrorStatus]
    gaps: list[GapStatus]
    open_items: int | None
    meter: NotRequired[MeterStatus | None]


class WorkerStatus(TypedDict):
    """One worker process."""

    name: str
    node: str | None
    pid: int | None
    state: str
    lanes: list[str]
    task: str | None
    rss_bytes: int | None
    seconds_since_report: float | None
    meter: NotRequired[MeterStatus | None]


class CommitStatus(TypedDict):
    """One commit: `seconds` is what the append took."""

    v: int
    time_us: int | None
    seconds: float | None
    shards: int
    rows: int
    tokens: int
    streams: list[str]


class ServiceStatus(TypedDict):
    """Everything that the page shows of the service; `commits` newest last, up to 200 of them."""

    dataset: str
    version: int | None
    epoch: int | None
    digest: str | None
    state: ServiceState
    started_us: int | None
    now_us: int
    engine: str | None
    headrace_version: str | None
    streams: list[StreamStatus]
    workers: list[WorkerStatus]
    commits: list[CommitStatus]


class ServiceView(Protocol):
    """A running service as the page sees it. Methods may be called from any thread, and may raise HeadraceError."""

    @property
    def dataset(self) -> str:
        """Where the dataset lies: a folder or s3://bucket/prefix."""

    def status(self) -> ServiceStatus:
        """The state of everything now. Raises: HeadraceError where the coordinator does not answer."""

    def streams_add(self, name: str, spec_yaml: str) -> dict[str, Any]:
        """Start a stream from the YAML of its section in a pipeline file."""

    def stream_pause(self, name: str) -> dict[str, Any]:
        """Read nothing more of a stream until it is resumed."""

    def stream_resume(self, name: str) -> dict[str, Any]:
        """Go on with a paused or parked stream."""

    def stream_remove(self, name: str) -> dict[str, Any]:
        """Stop a stream for good; what it committed stays."""

    def reload(self, yaml: str) -> dict[str, Any]:
        """Take a changed pipeline file; streams that did not change are left alone."""

    def drain(self) -> dict[str, Any]:
        """Commit what is open, then stop."""


def empty_stream(name: str) -> StreamStatus:
    """A running stream of which nothing is known yet."""
    return {
        "name": name,
        "source": None,
        "connector": None,
        "guarantee": None,
        "state": "running",
        "message": None,
        "splits": None,
        "lanes": None,
        "items": None,
        "quarantined_items": None,
        "records_per_s": None,
        "bytes_per_s": None,
        "lag": {"records": None, "bytes": None, "seconds": None},
        "event_time_us": None,
        "watermark_us": None,
        "late": None,
        "freshness_s": None,
        "last_commit_us": None,
        "spool": None,
        "outputs": [],
        "errors": [],
        "gaps": [],
        "open_items": None,
        "meter": None,
    }
