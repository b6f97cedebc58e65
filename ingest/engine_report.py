"""Which engine encodes a stream, and what was wrong with others, for `inspect`, the status and its page."""

from __future__ import annotations

from typing import Any

from headrace.shards.engines import Again
from headrace.shards.spans import count
from headrace.shards.state import State


def engine_of(state: State, stream: str) -> dict[str, Any]:
    """The engine of a stream of the dataset in plain values."""
    engines, again = state.engines, state.engines.again.get(stream, Again())
    return {
        "name": engines.in_use(stream, state.settings),
        "retired": [
            {"engine": r.engine, "version": r.v, "stream": r.stream, "record": r.record}
            for r in engines.of_stream(stream, state.settings)
        ],
        "checked": again.checked,
        "replaced": again.replaced,
        "due": sum(count(spans) for (name, _), spans in engines.due_lanes(state.settings) if name == stream),
        "unchecked": sum(count(spans) for (name, _), spans in engines.unchecked.items() if name == stream),
    }


def in_words(engine: dict[str, Any]) -> str:
    """`reference (fastokens 0.3.5 retired at v42 by document 0f3a…; 3 of 12,000 samples replaced)`."""
    if not engine["retired"]:
        return str(engine["name"])
    parts = []
    for r in engine["retired"]:
        by = f" by document {r['record']} of {r['stream']}" if r["record"] else ""
        parts.append(f"{r['engine']} retired at v{r['version']}{by}")
    parts.append(f"{engine['replaced']:,} of {engine['checked']:,} samples replaced")
    if engine["due"]:
        parts.append(f"{engine['due']:,} to be encoded again")
    if engine["unchecked"]:
        parts.append(f"{engine['unchecked']:,} could not be checked")
    return f"{engine['name']} ({'; '.join(parts)})"
