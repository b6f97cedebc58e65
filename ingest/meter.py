"""Where the time of workers goes: codec, tokenizer, write, wait, and headrace itself. No I/O, no clocks.

A worker counts seconds in few and large steps (`Seconds`), so measuring costs nothing that could be measured. From them
the shares follow, and how near a build comes to the bare libraries: what codec and tokenizer took, of all that was not
waiting.

    codec      reading and decoding: the connector, and the libraries that turn its bytes into records
    tokenizer  records to tokens
    write      blocks encoded, hashed and written, files made durable; also by the thread that does so beside the lane
    wait       nothing to do: a slow source, a commit, no work left, no free core while reading
    headrace   the rest: record ids, provenance, batches, books
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

STAGES = ("codec", "tokenizer", "write", "wait", "headrace")

#: What workers count, and the stage that it belongs to. `total` is all of their time, whatever it went into.
_COUNTED = {"read": "codec", "normalize": "codec", "encode": "tokenizer", "write": "write", "wait": "wait"}

Seconds = Mapping[str, float]  #: of `_COUNTED`'s keys, and "total"


def added(several: Iterable[Seconds]) -> dict[str, float]:
    """Seconds of several workers or streams together."""
    out: dict[str, float] = {}
    for seconds in several:
        for name, spent in seconds.items():
            out[name] = out.get(name, 0.0) + spent
    return out


def of_lane(elapsed: float, waited: float, *counted: Seconds) -> dict[str, float]:
    """Seconds of a lane: `elapsed` of its thread, `waited` of them for commits; `behind` ran beside that thread."""
    out = added([*counted, {"wait": waited}])
    behind = out.pop("behind", 0.0)
    return {**out, "total": elapsed + behind}


def stage_seconds(seconds: Seconds) -> dict[str, float]:
    """Seconds by stage; together they are the total."""
    out = dict.fromkeys(STAGES, 0.0)
    for name, stage in _COUNTED.items():
        out[stage] += seconds.get(name, 0.0)
    out["headrace"] = max(0.0, seconds.get("total", 0.0) - sum(out.values()))
    return out


def shares(seconds: Seconds) -> dict[str, float] | None:
    """The share of each stage in all time; None where no time has passed."""
    stages = stage_seconds(seconds)
    total = sum(stages.values())
    return {stage: spent / total for stage, spent in stages.items()} if total > 0 else None


def of_bare(seconds: Seconds) -> float | None:
    """How much of the time that was not waiting went into codec and tokenizer; None where there was none."""
    stages = stage_seconds(seconds)
    busy = sum(stages.values()) - stages["wait"]
    return (stages["codec"] + stages["tokenizer"]) / busy if busy > 0 else None


def meter(seconds: Seconds) -> dict[str, float] | None:
    """What is shown: the shares, `bare` (see `of_bare`) and `seconds`, all time; None where no time has passed."""
    found, bare = shares(seconds), of_bare(seconds)
    if found is None:
        return None
    return {**found, "bare": 0.0 if bare is None else bare, "seconds": sum(stage_seconds(seconds).values())}


#: Key of an entry's `ext`: where the time of the run went that ended with it. No content digest has it.
EXT = "meter"


def meter_ext(streams: Mapping[str, Seconds], workers: Mapping[str, Seconds]) -> dict[str, Any]:
    """The `ext` of the entry that ends a run; empty where no lane was read."""
    told = {"streams": _rounded(streams), "workers": _rounded(workers)}
    return {EXT: told} if told["streams"] else {}


def _rounded(several: Mapping[str, Seconds]) -> dict[str, dict[str, float]]:
    meters = {name: meter(seconds) for name, seconds in sorted(several.items())}
    return {name: {key: round(value, 4) for key, value in found.items()} for name, found in meters.items() if found}
