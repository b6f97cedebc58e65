"""Checkpoints of the log: `log/ckpt/<v>.arrow`, the folded state at version v, so that nobody parses old entries.

An Arrow IPC file with one row per live shard (the block table as lists, ready for a loader) and everything else as JSON
in the schema metadata under `headrace.state`. It holds its own sha256 (see sealing.py). A checkpoint is derived: a
missing or broken one costs time only, and the next writer makes it again.
"""

from __future__ import annotations

import json
from typing import Any

from headrace.schemas.canonical import canonical_json
from headrace.schemas.errors import FormatTooNew, LogError
from headrace.shards.books import SourceCounts, StreamCounts
from headrace.shards.engines import Engines
from headrace.shards.entry import (
    FORMAT,
    Block,
    Conviction,
    GapInfo,
    LaneFile,
    Place,
    PlanSegment,
    QuarantineInfo,
    Range,
    ShardInfo,
    Span,
    SplitPin,
    StreamSettings,
    TokenizerInfo,
)
from headrace.shards.retired import Retired
from headrace.shards.sealing import ROOM, check_sealed, seal_bytes
from headrace.shards.state import State
from headrace.shards.store import Store
from headrace.shards.wire import WireError

#: A checkpoint is written after every entry whose version is a multiple of this.
EVERY = 1000

_BLOCK_COLUMNS = ("offset", "length", "rows", "tokens", "xxh3")
_SCALARS = {
    "stream": "string",
    "lane": "int32",
    "path": "string",
    "sha256": "string",
    "bytes": "int64",
    "rows": "int64",
    "tokens": "int64",
    "first_seq": "int64",
    "head_bytes": "int64",
    "head_xxh3": "string",
    "tail_xxh3": "string",
}


class BrokenCheckpoint(LogError):
    """A checkpoint is not what its digest says; start from an earlier one."""


def checkpoint_name(v: int) -> str:
    """`log/ckpt/00000000000000001000.arrow`."""
    return f"log/ckpt/{v:020d}.arrow"


def write_checkpoint(store: Store, state: State) -> bool:
    """Add the checkpoint of `state`; False if there is one already. Raises: StorageError."""
    return store.put_new(checkpoint_name(state.v), encode(state))


def read_checkpoint(store: Store, v: int) -> State:
    """The state at version `v`. Raises: Missing, BrokenCheckpoint, FormatTooNew."""
    return decode(store.get(checkpoint_name(v)), v)


def encode(state: State) -> bytes:
    """The file of a checkpoint: a pure function of the state."""
    import pyarrow as pa

    shards = state.live_shards()
    columns: dict[str, Any] = {
        name: pa.array([getattr(s, name) for s in shards], type=pa.type_for_alias(kind))
        for name, kind in _SCALARS.items()
    }
    for name in _BLOCK_COLUMNS:
        item = pa.string() if name == "xxh3" else pa.int64()
        columns[f"block_{name}"] = pa.array([[getattr(b, name) for b in s.blocks] for s in shards], type=pa.list_(item))
    for name in ("ranges", "missing"):
        columns[name] = pa.array([canonical_json([r.to_json() for r in getattr(s, name)]).decode() for s in shards])
    table = pa.record_batch(columns)
    metadata = {"headrace.format": str(FORMAT), "headrace.seal": ROOM, "headrace.state": canonical_json(_rest(state))}
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema.with_metadata(metadata)) as writer:
        writer.write_batch(table.replace_schema_metadata(metadata))
    return seal_bytes(sink.getvalue().to_pybytes())


def decode(data: bytes, v: int) -> State:
    """The state that `encode` was given. Raises: BrokenCheckpoint, FormatTooNew."""
    state, table = decode_table(data, v)
    try:
        for row in table.to_pylist():
            shard = _shard(row)
            state.shards.setdefault((shard.stream, shard.lane), []).append(shard)
            state.paths.add(shard.path)
    except (ValueError, KeyError, TypeError, WireError) as exc:
        raise BrokenCheckpoint(f"{checkpoint_name(v)}: {exc}") from exc
    return state


def decode_table(data: bytes, v: int) -> tuple[State, Any]:
    """The state without its live shards, and those as an Arrow table: a row each, the block table as lists.

    Raises: BrokenCheckpoint, FormatTooNew.
    """
    import pyarrow as pa

    name = checkpoint_name(v)
    try:
        check_sealed(data)
        reader = pa.ipc.open_file(data)
        metadata = reader.schema.metadata
        if int(metadata[b"headrace.format"]) > FORMAT:
            raise FormatTooNew(f"{name}: format {metadata[b'headrace.format'].decode()}, this headrace reads {FORMAT}")
        state = _restore(json.loads(metadata[b"headrace.state"]))
        table = reader.read_all()
    except (ValueError, KeyError, TypeError, pa.ArrowException, WireError) as exc:
        raise BrokenCheckpoint(f"{name}: {exc}") from exc
    if state.v != v:
        raise BrokenCheckpoint(f"{name} holds version {state.v}")
    return state, table


def agrees(data: bytes, state: State) -> bool:
    """Whether a checkpoint says what `state`, folded from all entries, says. Raises: BrokenCheckpoint, FormatTooNew.

    One from before names were retired has them without their versions, and every origin there was. It may say so much
    more, and so may one of a writer that went on from it.
    """
    found = decode(data, state.v)
    if encode(found) == encode(state):
        return True
    less = any(not set(origins) <= set(found.origins.get(key, [])) for key, origins in state.origins.items())
    if less or not found.retired.covers(state.retired):
        return False
    found.retired, found.origins, found.blurred = state.retired, state.origins, state.blurred
    return encode(found) == encode(state)


def _shard(row: dict[str, Any]) -> ShardInfo:
    blocks = [Block(*values) for values in zip(*(row[f"block_{name}"] for name in _BLOCK_COLUMNS))]
    return ShardInfo(
        **{name: row[name] for name in _SCALARS},
        blocks=blocks,
        ranges=[Range.from_json(r) for r in json.loads(row["ranges"])],
        missing=[Span.from_json(m) for m in json.loads(row["missing"])],
    )


def _rest(state: State) -> dict[str, Any]:
    """Everything but the live shards, as JSON; dictionaries with tuple keys become lists of [*key, value]."""

    def rows(mapping: dict[Any, Any]) -> list[Any]:
        return [[*key, _plain(value)] for key, value in sorted(mapping.items(), key=lambda kv: [str(k) for k in kv[0]])]

    # Only where there are any: a checkpoint without replays, or of shards never merged, has the bytes it always had.
    replayed = {"replayed": [[path, _plain(spans)] for path, spans in sorted(state.replayed.items())]}
    retired = {"retired": state.retired.to_json()} if len(state.retired) else {"paths": []}
    blurred = {"blurred": rows(state.blurred)} if state.blurred else {}
    engines = {"engines": state.engines.to_json()} if state.engines else {}
    return {
        **(replayed if state.replayed else {}),
        **retired,
        **blurred,
        **engines,
        "v": state.v,
        "digest": state.digest,
        "epoch": state.epoch,
        "ended": state.ended,
        "api": state.api,
        "env": state.env,
        "settings": {name: s.to_json() for name, s in state.settings.items()},
        "next_seq": rows(state.next_seq),
        "origins": rows(state.origins),
        "deleted": rows(state.deleted),
        "deleted_tokens": state.deleted_tokens,
        "forgotten": sorted(state.forgotten),
        "changed": rows(state.changed),
        "doomed": sorted(state.doomed),
        "quarantine": [q.to_json() for _, q in sorted(state.quarantine.items())],
        "plan": [segment.to_json() for _, segments in sorted(state.plan.items()) for segment in segments],
        "splits": [s.to_json() for _, s in sorted(state.splits.items())],
        "places": rows(state.places),
        "carry": [f.to_json() for _, f in sorted(state.carry.items())],
        "dedup": [f.to_json() for _, f in sorted(state.dedup.items())],
        "convictions": [c.to_json() for c in state.convictions],
        "gaps": [g.to_json() for g in state.gaps],
        "watermarks": rows(state.watermarks),
        "tokenizers": [t.to_json() for _, t in sorted(state.tokenizers.items())],
        "vocab": state.vocab,
        "streams": {name: c.to_json() for name, c in state.streams.items()},
        "sources": {name: c.to_json() for name, c in state.sources.items()},
        "ext": state.ext,
    }


def _plain(value: Any) -> Any:
    if hasattr(value, "to_json"):
        return value.to_json()
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value


def _restore(rest: dict[str, Any]) -> State:
    state = State(v=rest["v"], digest=rest["digest"], epoch=rest["epoch"], ended=rest["ended"], api=rest["api"])
    state.env, state.vocab, state.ext = rest["env"], rest["vocab"], rest["ext"]
    state.deleted_tokens, state.forgotten = rest["deleted_tokens"], set(rest["forgotten"])
    state.settings = {name: StreamSettings.from_json(s) for name, s in rest["settings"].items()}
    state.next_seq = {(a, b): value for a, b, value in rest["next_seq"]}
    state.origins = {(a, b): [(first, v) for first, v in value] for a, b, value in rest["origins"]}
    state.deleted = {(a, b): [Span.from_json(s) for s in value] for a, b, value in rest["deleted"]}
    state.changed = {(a, b): value for a, b, value in rest["changed"]}
    state.watermarks = {(a, b): value for a, b, value in rest["watermarks"]}
    state.places = {(a, b, c): Place.from_json(value) for a, b, c, value in rest["places"]}
    for segment in map(PlanSegment.from_json, rest["plan"]):
        state.plan.setdefault(segment.source, []).append(segment)
    state.quarantine = {q.path: q for q in map(QuarantineInfo.from_json, rest["quarantine"])}
    state.replayed = {path: [Span.from_json(s) for s in spans] for path, spans in rest.get("replayed", [])}
    state.splits = {(s.source, s.split): s for s in map(SplitPin.from_json, rest["splits"])}
    state.carry = {(f.source, f.lane): f for f in map(LaneFile.from_json, rest["carry"])}
    state.dedup = {(f.source, f.lane): f for f in map(LaneFile.from_json, rest["dedup"])}
    state.convictions = [Conviction.from_json(c) for c in rest["convictions"]]
    state.gaps = [GapInfo.from_json(g) for g in rest["gaps"]]
    state.tokenizers = {t.fingerprint: t for t in map(TokenizerInfo.from_json, rest["tokenizers"])}
    state.streams = {name: StreamCounts.from_json(c) for name, c in rest["streams"].items()}
    state.sources = {name: SourceCounts.from_json(c) for name, c in rest["sources"].items()}
    state.blurred = {(a, b): [Span.from_json(s) for s in value] for a, b, value in rest.get("blurred", [])}
    state.engines = Engines.from_json(rest["engines"]) if "engines" in rest else Engines()
    state.doomed = set(rest["doomed"])
    state.retired = Retired.from_json(rest["retired"]) if "retired" in rest else Retired()
    for path in rest.get("paths", []):  # a checkpoint from before names replaced files did not say when it was
        state.retired.add(path, state.v)
    return state
