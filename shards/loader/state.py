"""What a state holds, and whether it belongs to a loader.

    {"format": 1, "settings": {…}, "versions": [[42, "<digest>"]], "eras": […],
     "at": {"g": …, "from": …, "spots": [[lap, window, pack]], "done": []}, "g": …, "base": …}

`at` is an anchor shortly before g: the walk begins there and does not assemble what lies before g. Settings are those
that decide the order; rank, world size, workers, batch size, outputs and dtype are not among them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from headrace.schemas.canonical import digest_of
from headrace.schemas.errors import ConfigError
from headrace.schemas.vocabulary import Vocabulary
from headrace.shards.loader.component import Spot

if TYPE_CHECKING:
    from headrace.shards.loader.pinned import PinnedSource

FORMAT = 1


def source_setting(pinned: PinnedSource) -> str:
    """16 hex digits for what a source is: dataset, streams and their tokenizers, weight, fold."""
    source = pinned.source
    steps = [[g, str(w)] for g, w in source.steps()]
    streams = [[name, s.digest] for name, s in pinned.settings.items()]
    return digest_of({"dataset": pinned.identity, "streams": streams, "weight": steps, "fold": source.fold})[:16]


def order_settings(pinned: Sequence[PinnedSource], **named: Any) -> dict[str, Any]:
    """What decides the order, small: the sources as digests, and the named settings as they are."""
    return {"sources": [source_setting(p) for p in pinned], **named}


def ids_setting(pinned: Sequence[PinnedSource], vocabulary: Vocabulary) -> str:
    """16 hex digits for where the ids of the sources' tokenizers begin: blocks of others may be added later."""
    used = [s.tokenizer for p in pinned for s in p.settings.values() if s.tokenizer is not None]
    return digest_of([[fingerprint, vocabulary.block(fingerprint).start] for fingerprint in used])[:16]


def check_state(state: Mapping[str, Any], settings: Mapping[str, Any], what: str) -> None:
    """Raises: ConfigError if `state` was made with other settings, naming each."""
    if state.get("format") != FORMAT:
        raise ConfigError(f"{what} has format {state.get('format')!r}, this headrace reads {FORMAT}", field="state")
    theirs = state.get("settings")
    if not isinstance(theirs, Mapping):
        raise ConfigError(f"{what} is not a state of a ShardDataset", field="state")
    for name in sorted(settings.keys() | theirs.keys()):
        mine, other = settings.get(name), theirs.get(name)
        if mine != other:
            hint = ": another dataset, stream, tokenizer, weight or fold" if name == "sources" else ""
            raise ConfigError(f"{what} was made with {name} {other!r}, not {mine!r}{hint}", field="state", value=name)


def check_places(state: Mapping[str, Any], sources: int) -> None:
    """Raises: ConfigError if the places in a state are not of the shape that this module describes."""
    try:
        versions = [(_count(v), str(digest)) for v, digest in state["versions"]]
        eras = [[_count(n) for n in era] for era in state["eras"]]
        numbers = [_count(state["g"]), _count(state["base"])]
        at = state["at"]
        if at is not None:
            numbers += [_count(at["g"]), _count(at["from"]), *(_count(n) for n in at["done"])]
            spots = [Spot.from_json(spot) for spot in at["spots"]]
            if len(spots) != sources or any(min(s.lap, s.window, s.pack) < 0 for s in spots) or at["g"] > state["g"]:
                raise ValueError(f"its places are {at}")
        if len(versions) != sources or any(len(era) != 4 for era in eras):
            raise ValueError(f"it names {len(versions)} versions, eras {eras}")
    except (KeyError, TypeError, ValueError, IndexError) as exc:
        raise ConfigError(f"the state is damaged: {type(exc).__name__}: {exc}", field="state") from exc


def _count(value: Any) -> int:
    if not isinstance(value, int) or value < 0:
        raise ValueError(f"{value!r} is no count")
    return value
