"""A log entry and its parts: everything that becomes true together (DESIGN.md §3.4).

Bytes of `log/00000000000000000042.json`, two lines, each ending in a newline:

    {"add":[…],"epoch":3,"format":1,"id":"…","kind":"commit","prev":"<digest of entry 41>","v":42}   canonical JSON
    <sha256 of the first line with its newline: `head -n 1 FILE | sha256sum`>

That digest is the entry's name: the next entry holds it as `prev`, and `dataset@<digest>` cites exact content.
Versions count from 1; `prev` of the first is empty. Entries hold no content: splits go by digest, records by id.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

from headrace.schemas.canonical import canonical_json
from headrace.schemas.errors import BrokenLog, ConfigError, FormatTooNew
from headrace.shards.books import Books, merge
from headrace.shards.wire import Wire, WireError

#: Major version of the dataset's layout. Readers refuse a newer one.
FORMAT = 1

#: claim: a writer takes over. commit: samples and places. end: the epoch is over.
#: forget, compact, reencode: change what is live.
Kind = Literal["claim", "commit", "forget", "compact", "reencode", "end"]

#: Key of an entry's `ext`: lane ("tide/L0007") → the fast engine that made the samples it adds; not "reference".
ENGINES = "headrace.engines"

_STREAM = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,127}")


@dataclass(frozen=True, slots=True)
class Range(Wire):
    """Rows of one shard that came from one split, between two places; ranges stand in row order.

    Places as in `SplitCounts`: position of the last item fully taken, and k records emitted of the next.
    """

    as_row: ClassVar[bool] = True

    split: str  #: `split_digest` of the split id
    after: Any
    after_k: int
    upto: Any
    upto_k: int
    rows: int


@dataclass(frozen=True, slots=True)
class Block(Wire):
    """One record batch of a shard: exactly the bytes [offset, offset + length) of the file."""

    as_row: ClassVar[bool] = True

    offset: int
    length: int
    rows: int
    tokens: int
    xxh3: str  #: 16 hex digits, XXH3-64 of those bytes


@dataclass(frozen=True, slots=True)
class Span(Wire):
    """Sequence numbers [start, stop)."""

    as_row: ClassVar[bool] = True

    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class ShardInfo(Wire):
    """One shard file: what `ShardWriter.close` returns and an entry adds.

    A file is head (magic and schema), blocks back to back, tail (end mark and footer); each part has its own XXH3-64,
    so a reader can check whatever it reads. `first_seq` is -1 until the log assigns it at commit.
    """

    stream: str
    lane: int
    path: str
    sha256: str
    bytes: int
    rows: int
    tokens: int
    head_bytes: int
    head_xxh3: str
    tail_xxh3: str  #: of the bytes after the last block
    blocks: list[Block]
    ranges: list[Range] = field(default_factory=list)
    first_seq: int = -1
    missing: list[Span] = field(default_factory=list)  #: sequence numbers inside its span whose rows were erased

    @property
    def span(self) -> int:
        """How many sequence numbers it covers, erased ones included."""
        return self.rows + sum(m.stop - m.start for m in self.missing)

    @property
    def stop_seq(self) -> int:
        """One past its last sequence number."""
        return self.first_seq + self.span


@dataclass(frozen=True, slots=True)
class Replace(Wire):
    """Shards that stand for others: the same sequence numbers, less those erased."""

    remove: list[str]  #: paths of live shards
    add: list[ShardInfo] = field(default_factory=list)  #: with `first_seq` set
    erase: bool = False  #: the removed files must be deleted, whoever still reads them


@dataclass(frozen=True, slots=True)
class Delete(Wire):
    """Samples that readers skip from here on; `ids` stay listed so that a replay does not bring them back."""

    stream: str
    lane: int
    seqs: list[Span]
    ids: list[str] = field(default_factory=list)  #: record ids, hex
    tokens: int = 0  #: that they held together


@dataclass(frozen=True, slots=True)
class QuarantineInfo(Wire):
    """One quarantine file. `items` of its `rows` are whole items (in a split's books), the rest records."""

    stream: str
    path: str
    sha256: str
    bytes: int
    rows: int
    items: int = 0
    reasons: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Redact(Wire):
    """A quarantine file replaced by one of the same rows without (some of) their raw bytes."""

    remove: str
    add: QuarantineInfo
    erase: bool = True  #: as in `Replace`


@dataclass(frozen=True, slots=True)
class Replayed(Wire):
    """Rows of a quarantine file that were tried again and gave something: never again.

    What they gave (samples, records refused anew) is added by the same entry. A reader that does not know this field
    refuses the entry, as it must: rewriting the file without carrying the marks along would let rows come twice.
    """

    path: str  #: of a live quarantine file
    rows: list[Span]  #: row numbers in the file, from 0; sorted, disjoint


@dataclass(frozen=True, slots=True)
class PlanSegment(Wire):
    """An immutable list of bounded splits: rows (split id, pin, weight, lane) in a Parquet file."""

    source: str
    number: int  #: 0-based within its source
    path: str
    sha256: str
    bytes: int
    rows: int


@dataclass(frozen=True, slots=True)
class SplitPin(Wire):
    """An unbounded split: its pin, stored once, and its lane."""

    source: str
    split: str  #: `split_digest` of the split id
    lane: int
    pin: str | None = None


@dataclass(frozen=True, slots=True)
class Place(Wire):
    """How far a lane got: (segment, row) of the plan for bounded lanes, then position and k as in `SplitCounts`."""

    segment: int | None = None
    row: int | None = None
    position: Any = None
    k: int = 0


@dataclass(frozen=True, slots=True)
class PlaceMove(Wire):
    """A lane's step. `expect` is the place before (None: it had none); the log refuses any other.

    `split` is None for bounded lanes, whose place names plan segment and row; lanes of unbounded splits have one place
    a split, and `split` is its digest.
    """

    source: str
    lane: int
    place: Place
    expect: Place | None = None
    split: str | None = None


@dataclass(frozen=True, slots=True)
class LaneFile(Wire):
    """A file that belongs to a lane's place (open windows, keys seen). The newest one counts; path None clears it."""

    source: str
    lane: int
    path: str | None = None
    sha256: str = ""
    bytes: int = 0
    expect: str | None = None  #: path of the file before; the log refuses any other


@dataclass(frozen=True, slots=True)
class FileInfo(Wire):
    """A file by content."""

    path: str
    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True)
class TokenizerInfo(Wire):
    """An artefact stored under `tokenizers/<fingerprint>/`."""

    fingerprint: str
    kind: str
    files: list[FileInfo]


@dataclass(frozen=True, slots=True)
class StreamSettings(Wire):
    """What a stream is, for ever. `digest` is the stream digest; equal digests are the only test of sameness."""

    digest: str
    modality: str
    source: str = ""  #: the pipeline stream whose connector feeds it; empty: its own name
    tokenizer: str | None = None  #: fingerprint; None for raw streams
    tokens: Literal["uint16", "uint32"] | None = None
    vocab_size: int | None = None
    schema_version: int = 1
    lanes: int | None = None  #: L of an unbounded stream, fixed at creation
    license: str = "NOASSERTION"
    error_unit: str = "none"
    detail: dict[str, Any] = field(default_factory=dict)  #: the settings behind the digest, for people and messages


@dataclass(frozen=True, slots=True)
class Conviction(Wire):
    """A record that ended its process; a replay obeys it. `after` and `k` name it as a place does."""

    source: str
    split: str
    after: Any
    k: int
    reason: str  #: "crash:SIGSEGV", "hang", "oom"
    stage: str = "normalize"  #: read, normalize (the item ends there) or encode (only output k is refused)


@dataclass(frozen=True, slots=True)
class GapInfo(Wire):
    """Data known to be lost upstream; `lost` is None when unknown."""

    source: str
    split: str
    position: Any
    reason: str
    lost: int | None = None


@dataclass(frozen=True, slots=True)
class Watermark(Wire):
    """Event time up to which a lane expects nothing more, in microseconds since 1970 UTC."""

    source: str
    lane: int
    event_time_us: int


@dataclass(frozen=True, slots=True)
class RetiredEngine(Wire):
    """A fast engine that gave other tokens than the reference library: from here on nobody encodes with it.

    A reader that does not know this field refuses the entry, as it must: as a writer it would go on with the engine.
    """

    fingerprint: str  #: of the tokenizer
    engine: str  #: what `Tokenizer.engine` said: a library with its version
    stream: str = ""  #: of the record that it was found by
    record: str = ""  #: id of that record, hex; empty if the engine failed before any record


@dataclass(frozen=True, slots=True)
class Reencoded(Wire):
    """Samples that a retired engine had made, made again by the reference library, or left because that cannot be."""

    stream: str
    lane: int
    checked: list[Span] = field(default_factory=list)  #: their tokens are the reference library's from here on
    replaced: list[Span] = field(default_factory=list)  #: those of them that had others; `replace` has their shards
    unchecked: list[Span] = field(default_factory=list)  #: their records are not to be had again: they stay as they are
    tokens: int = 0  #: that the stream holds more than before


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry(Wire):
    """One version of a dataset. Writers fill the parts; the log fills v, prev, id, epoch and `first_seq`."""

    always: ClassVar[tuple[str, ...]] = ("format", "v", "prev", "id", "epoch")

    kind: Kind
    format: int = FORMAT
    v: int = 0
    prev: str = ""
    id: str = ""
    epoch: int = 0

    settings: dict[str, StreamSettings] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)  #: library versions; in claims
    api: str | None = None  #: address of the writer's API; in claims

    add: list[ShardInfo] = field(default_factory=list)
    replace: list[Replace] = field(default_factory=list)
    delete: list[Delete] = field(default_factory=list)
    quarantine: list[QuarantineInfo] = field(default_factory=list)
    redact: list[Redact] = field(default_factory=list)
    replayed: list[Replayed] = field(default_factory=list)

    plan: list[PlanSegment] = field(default_factory=list)
    splits: list[SplitPin] = field(default_factory=list)
    places: list[PlaceMove] = field(default_factory=list)
    carry: list[LaneFile] = field(default_factory=list)
    dedup: list[LaneFile] = field(default_factory=list)
    convictions: list[Conviction] = field(default_factory=list)
    gaps: list[GapInfo] = field(default_factory=list)
    watermarks: list[Watermark] = field(default_factory=list)

    tokenizers: list[TokenizerInfo] = field(default_factory=list)
    vocab: str | None = None  #: sha256 of `vocab/<sha256>.json`, from here on
    retired_engines: list[RetiredEngine] = field(default_factory=list)
    reencoded: list[Reencoded] = field(default_factory=list)
    books: Books = field(default_factory=Books)
    ext: dict[str, Any] = field(default_factory=dict)  #: free; readers that do not know a key ignore it


def joined(entries: list[Entry]) -> Entry:
    """What several lanes cut, as one entry."""
    first = entries[0]
    if len(entries) == 1:
        return first
    lists = ("add", "quarantine", "replayed", "places", "carry", "dedup", "gaps", "watermarks")
    parts: dict[str, Any] = {name: [x for entry in entries for x in getattr(entry, name)] for name in lists}
    engines = {lane: engine for entry in entries for lane, engine in entry.ext.get(ENGINES, {}).items()}
    ext = {**first.ext, ENGINES: engines} if engines else first.ext
    return replace(first, **parts, ext=ext, books=merge(entry.books for entry in entries))


def lane_file(source: str, lane: int, path: str, data: bytes, before: LaneFile | None = None) -> LaneFile:
    """What an entry says of a lane's file that was stored with these bytes."""
    return LaneFile(source, lane, path, hashlib.sha256(data).hexdigest(), len(data), before.path if before else None)


def entry_name(v: int) -> str:
    """`log/00000000000000000042.json`."""
    return f"log/{v:020d}.json"


def split_digest(split_id: str) -> str:
    """The name of a split in the log: 32 hex digits, so that entries hold no file names."""
    return hashlib.sha256(split_id.encode()).hexdigest()[:32]


def lane_folder(stream: str, lane: int) -> str:
    """`data/<stream>/L0007`."""
    return f"data/{check_stream_name(stream)}/L{lane:04d}"


def check_stream_name(name: str) -> str:
    """The name itself. Raises: ConfigError unless it can be a folder's name everywhere."""
    if not _STREAM.fullmatch(name) or ".." in name or name.endswith("."):
        raise ConfigError(
            f"{name!r} cannot name a stream: 1 to 128 letters, digits, `_`, `-`, `.` or `@`,"
            " beginning with a letter or digit"
        )
    return name


def seal(entry: Entry) -> tuple[bytes, str]:
    """The entry's file and its digest."""
    line = canonical_json(entry.to_json()) + b"\n"
    digest = hashlib.sha256(line).hexdigest()
    return line + digest.encode() + b"\n", digest


def parse(data: bytes, name: str, *, canonical: bool = True) -> tuple[Entry, str]:
    """An entry and its digest from the bytes of its file.

    `canonical` False leaves out writing it again to see that its bytes are the only ones it could have: two thirds of
    the time, and nothing that a reader of samples needs.

    Raises: BrokenLog that names the file if a byte differs from what was written; FormatTooNew.
    """
    line, newline, rest = data.partition(b"\n")
    line += newline
    digest = hashlib.sha256(line).hexdigest()
    if rest != digest.encode() + b"\n":
        told = rest[:64].decode("ascii", "replace")
        raise BrokenLog(f"{name}: its first line hashes to {digest[:12]}…, its last says {told!r}: torn or altered")
    try:
        value = json.loads(line, object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as exc:
        raise BrokenLog(f"{name}: not strict JSON: {exc}") from exc
    major = value.get("format", FORMAT) if isinstance(value, dict) else FORMAT
    if isinstance(major, int) and major > FORMAT:
        raise FormatTooNew(f"{name}: format {major}, this headrace reads up to {FORMAT}: install a newer one")
    try:
        entry = Entry.from_json(value)
        only = not canonical or (canonical_json(value) + b"\n" == line and entry.to_json() == value)
    except (WireError, RecursionError) as exc:
        raise BrokenLog(f"{name}: {exc}") from exc
    if not only:
        raise BrokenLog(f"{name}: its JSON is not in canonical form")
    return entry, digest


def _unique(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for key, value in pairs:
        if key in made:
            raise ValueError(f"the key {key!r} stands twice")
        made[key] = value
    return made


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
