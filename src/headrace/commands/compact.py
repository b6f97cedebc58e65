"""`headrace compact`: many small shards of a long-running service become few large ones."""

from __future__ import annotations

import json
import re
from typing import Annotated

import typer

Dataset_ = Annotated[str, typer.Argument(help="A dataset: a folder or s3://bucket/prefix.")]
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("compact")(compact)


def compact(
    dataset: Dataset_,
    stream: Annotated[str | None, typer.Option("--stream", "-s", help="Only this stream.")] = None,
    target_mib: Annotated[float, typer.Option("--target-mib", help="Size that merged shards may reach.")] = 256,
    min_age: Annotated[
        str, typer.Option("--min-age", help="Leave shards younger than this: 90s, 30m, 12h, 7d.")
    ] = "0s",
    blocks: Annotated[
        str,
        typer.Option(
            "--blocks", help="verbatim: record batches stay as they are; merge: small ones are joined, a new order."
        ),
    ] = "verbatim",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be merged; change nothing.")] = False,
    take_over: Annotated[
        bool, typer.Option("--take-over", help="Also when another writer may be live; it is fenced.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document for scripts.")] = False,
) -> None:
    """Merge neighbouring small shards of each lane into larger ones; every row keeps its address and its bytes."""
    from dataclasses import asdict

    from headrace.ingest.environment import library_versions
    from headrace.ingest.live_writer import refuse_live_writer
    from headrace.schemas.errors import ConfigError, HeadraceError
    from headrace.shards.compact import Compactor, everything
    from headrace.shards.compact import compact as run
    from headrace.shards.dataset import Dataset
    from headrace.shards.log import CommitLog

    if blocks not in ("verbatim", "merge"):
        raise ConfigError("should be verbatim or merge", field="--blocks", value=blocks)
    if not target_mib > 0:
        raise ConfigError("should be above 0", field="--target-mib", value=target_mib)
    policy = everything(
        max(int(target_mib * (1 << 20)), 1),
        min_age_s=seconds(min_age),
        blocks="merge" if blocks == "merge" else "verbatim",
    )
    opened = Dataset.open(dataset)
    if stream is not None and stream not in opened.state.settings:
        known = ", ".join(sorted(opened.state.settings))
        raise ConfigError(f"there is no stream `{stream}`; there are {known}", field="--stream", value=stream)
    if dry_run:
        merges = Compactor(opened.store, policy).plan(opened.state, stream=stream)
        if as_json:
            rows = [{"stream": m.stream, "lane": m.lane, "shards": len(m.shards), "bytes": m.bytes} for m in merges]
            typer.echo(json.dumps({"merges": rows}))
            return
        for merge in merges:
            typer.echo(f"{merge.stream}/L{merge.lane:04d}  {len(merge.shards):,} shards, {merge.bytes:,} bytes")
        total = sum(len(m.shards) for m in merges)
        typer.echo(f"{total:,} shards would become {len(merges):,}")
        return
    refuse_live_writer(opened.state, opened.store.url, take_over)
    log = CommitLog(opened.store)
    log.claim(library_versions(), {})
    done = run(log, policy, stream=stream)
    log.end()
    if as_json:
        typer.echo(json.dumps(asdict(done)))
    else:
        typer.echo(f"{done.before:,} shards became {done.after:,}, {done.bytes:,} bytes")
        for message in done.damaged.values():
            typer.echo(f"left out: {message}")
    if done.damaged:
        raise HeadraceError(f"{len(done.damaged)} damaged shards were left out: see `headrace verify`")


def seconds(text: str) -> float:
    """Seconds of `90s`, `30m`, `12h` or `7d`. Raises: ConfigError."""
    from headrace.schemas.errors import ConfigError

    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    if match is None:
        raise ConfigError("should be a number and s, m, h or d, such as 30m", field="--min-age", value=text)
    return float(match.group(1)) * _UNITS[match.group(2)]
