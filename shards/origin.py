"""Where a sample came from: source, place in it, license, what was done to it, tokenizer, and its commit."""

from __future__ import annotations

import json
from typing import Any

from headrace.shards.additions import Additions
from headrace.shards.dataset import Dataset
from headrace.shards.engines import Again
from headrace.shards.log import CommitLog

_BULK = ("tokens", "pixels", "samples", "data", "t", "value", "valid", "cloud")


def origin(dataset: Dataset, stream: str, lane: int, seq: int) -> dict[str, Any]:
    """All of it, as JSON values. Raises: KeyError if there is no such sample, or it was deleted; ShardError."""
    sample = dataset.sample(stream, lane, seq)
    settings = dataset.state.settings[stream]
    row = {f.name: _plain(sample.column(f.name)[0]) for f in sample.schema if f.name not in _BULK}
    located = dataset.state.locate(stream, lane, seq)
    return {
        "sample": f"{stream}/L{lane:04d}/{seq}",
        "dataset": dataset.name,
        **{k: v for k, v in row.items() if v not in (None, [], "")},
        "tokens": len(sample.column("tokens")[0]) if "tokens" in sample.schema.names else None,
        "error_unit": settings.error_unit,
        "tokenizer": settings.detail.get("tokenizer"),
        "tokenizer_fingerprint": settings.tokenizer,
        "stream_digest": settings.digest,
        "shard": located[0].path if located else None,
        "row": located[1] if located else None,
        "commit": Additions(dataset.store, dataset.state).version((stream, lane), seq),
        "reencoded": _reencoded(dataset, stream, lane, seq),
    }


def _reencoded(dataset: Dataset, stream: str, lane: int, seq: int) -> dict[str, Any] | None:
    """The entry that replaced the tokens of a sample by those of the reference library; None if none did."""
    again = dataset.state.engines.again.get(stream, Again())
    if not again.first_v:
        return None
    found = None
    for entry, _ in CommitLog(dataset.store).entries(again.first_v, again.last_v):
        own = (span for r in entry.reencoded if (r.stream, r.lane) == (stream, lane) for span in r.replaced)
        if any(span.start <= seq < span.stop for span in own):
            found = entry.v
    retired = dataset.state.engines.of_stream(stream, dataset.state.settings)
    engines = [{"engine": r.engine, "retired": r.v} for r in retired]
    return None if found is None else {"commit": found, "with": "the reference library", "instead_of": engines}


def _plain(value: Any) -> Any:
    found = value.as_py()
    if isinstance(found, bytes):
        return found.hex()
    if hasattr(found, "isoformat"):
        return found.isoformat()
    if isinstance(found, str) and found[:1] in "{[":
        try:
            return json.loads(found)
        except ValueError:
            return found
    return found
