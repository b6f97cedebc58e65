"""The shapes of what the JSON API answers beyond the service's own status; the OpenAPI document is made from them."""

from __future__ import annotations

from typing import (
    Any,
    NotRequired,  # pydantic reads no other before Python 3.12
)

from typing_extensions import TypedDict

from headrace.ingest.status_contract import CommitStatus, StreamStatus


class Problem(TypedDict):
    """An error after RFC 9457. `detail` says what was wrong and what would be right."""

    type: str
    title: str
    status: int
    detail: str
    field: NotRequired[str]


class Health(TypedDict):
    """The process is alive."""

    alive: bool


class Readiness(TypedDict):
    """Whether the service has claimed its dataset and its coordinator answers; if not, why."""

    ready: bool
    why: str | None


class StreamList(TypedDict):
    """All streams."""

    streams: list[StreamStatus]


class CommitList(TypedDict):
    """The newest commits, newest last."""

    commits: list[CommitStatus]


class ActionResult(TypedDict):
    """What the service answered to an action."""

    result: dict[str, Any]


class NewStream(TypedDict):
    """A stream to start; `spec` is the YAML of its section in a pipeline file."""

    name: str
    spec: str


class NewPipeline(TypedDict):
    """A changed pipeline file, as YAML."""

    pipeline: str


class QuarantineRow(TypedDict):
    """One quarantined record or whole item. `id` names it for this API, `number` for `headrace quarantine show`."""

    id: str
    number: int
    stream: str
    reason: str
    meaning: str
    message: str
    stage: str
    whole: bool
    source: str
    uri: str
    split: str
    position: str
    locator: str | None
    license: str | None
    raw_bytes: int | None
    raw_sha256: str | None


class QuarantineList(TypedDict):
    """Newest first. `next` is the `before` of the following page, null at the end."""

    version: int
    total: int
    rows: list[QuarantineRow]
    next: str | None


class BytesLook(TypedDict):
    """A bounded look at bytes: `hex` and `text` stand for `length` bytes from `offset`, of `kept` that were kept."""

    offset: int
    length: int
    kept: int
    hex: str
    text: str


class QuarantineLook(TypedDict):
    """One quarantined row with its bytes; `bytes` is null where none were kept."""

    row: QuarantineRow
    bytes: BytesLook | None


class SampleRow(TypedDict):
    """One sample in a list."""

    address: str
    uri: str
    locator: str
    event_time: str | None
    fold: str
    license: str | None
    flags: list[str]
    tokens: int | None
    error: float | None


class SampleList(TypedDict):
    """Samples in address order. `next` is the `after` of the following page, null at the end."""

    version: int
    stream: str
    modality: str
    error_unit: str
    lanes: list[int]
    total: int
    samples: list[SampleRow]
    next: str | None


class TokensLook(TypedDict):
    """The first token ids of a sample, of `count`, each below `vocab_size`."""

    count: int
    vocab_size: int | None
    first: list[int]


class FrameLook(TypedDict):
    """One frame of a video; `seconds` counts from the video's own zero."""

    url: str
    seconds: float


class Decoded(TypedDict):
    """What the tokens decode to. `kind` says which of the other fields are there.

    text: text, shortened. picture: url, width, height. frames: frames. sound: url, seconds, rate, channels.
    series: channel, unit, times (ISO 8601), values (null: no value). array: shape, dtype. none: reason.
    """

    kind: str
    text: NotRequired[str]
    shortened: NotRequired[bool]
    url: NotRequired[str]
    width: NotRequired[int]
    height: NotRequired[int]
    frames: NotRequired[list[FrameLook]]
    seconds: NotRequired[float]
    rate: NotRequired[int]
    channels: NotRequired[int]
    channel: NotRequired[str]
    unit: NotRequired[str | None]
    times: NotRequired[list[str]]
    values: NotRequired[list[float | None]]
    shape: NotRequired[list[int]]
    dtype: NotRequired[str]
    reason: NotRequired[str]


class SampleLook(TypedDict):
    """One sample: where it came from, its tokens, what they decode to, and its neighbours' addresses."""

    address: str
    stream: str
    modality: str
    provenance: dict[str, Any]
    tokens: TokensLook | None
    decoded: Decoded
    previous: str | None
    following: str | None
