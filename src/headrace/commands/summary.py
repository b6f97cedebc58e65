"""The tables at the end of a build and of `inspect`: streams, books, fidelity, quarantine, in plain columns."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

from headrace.ingest.meter import EXT, STAGES, meter_ext

if TYPE_CHECKING:
    from headrace.ingest.build import BuildResult
    from headrace.ingest.view import DatasetView

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def print_summary(result: BuildResult, *, as_json: bool) -> None:
    """What a build made."""
    from headrace.ingest.view import DatasetView
    from headrace.shards.verify import verify

    view = DatasetView.open(result.dataset)
    found = dataset_summary(view)
    report = verify(view.dataset)
    found["content_digest"] = report.content_digest
    found["seconds"], found["engine"], found["workers"] = round(result.seconds, 3), result.engine, result.workers
    found["meter"] = meters(result.stage_seconds, result.worker_seconds)
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False))
        return
    print_dataset(found)
    typer.echo(f"content_digest {report.content_digest}")
    typer.echo(
        f"{result.dataset} version {result.version} in {result.seconds:.1f} s, {result.engine} with {result.workers}"
    )


def meters(streams: dict[str, dict[str, float]], workers: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Where the time of a build went, by stream and by worker: shares by stage, `bare` and `seconds`."""
    found: dict[str, Any] = {"streams": {}, "workers": {}}
    return {**found, **meter_ext(streams, workers).get(EXT, {})}


def print_meters(found: dict[str, Any]) -> None:
    """The same as a table."""
    rows = [
        [f"{kind} {name}", *(f"{told[key]:.1%}" for key in (*STAGES, "bare")), f"{told['seconds']:,.1f}"]
        for kind, several in (("stream", found["streams"]), ("worker", found["workers"]))
        for name, told in several.items()
    ]
    table(["time of", *STAGES, "of bare speed", "seconds"], rows, right=range(1, 8))


def dataset_summary(view: DatasetView) -> dict[str, Any]:
    """A dataset in plain values."""
    from headrace.ingest.engine_report import engine_of

    state = view.dataset.state
    streams = []
    for name, info in view.streams().items():
        counts = state.streams.get(name)
        streams.append(
            {
                "stream": name,
                "modality": info.settings.modality,
                "records": counts.records if counts else 0,
                "samples": info.rows,
                "quarantined": counts.quarantined if counts else 0,
                "replayed": state.replayed_rows(name),
                "rejected": sum(counts.rejected.values()) if counts else 0,
                "duplicates": counts.duplicates if counts else 0,
                "deleted": info.deleted,
                "tokens": info.tokens,
                "bytes": info.bytes,
                "shards": info.shards,
                "lanes": info.lanes,
                "license": info.settings.license,
                "tokenizer": (info.settings.detail.get("tokenizer") or {}).get("type"),
                "fingerprint": info.settings.tokenizer,
                "engine": engine_of(state, name) if info.settings.tokenizer else None,
                **fidelity(view, name, info.settings.error_unit),
            }
        )
    sources = [
        {"source": name, "items": c.read, "closed": c.closed, "quarantined": c.quarantined, "open": c.open}
        for name, c in sorted(state.sources.items())
    ]
    return {
        "dataset": view.name,
        "version": view.dataset.version,
        "streams": streams,
        "sources": sources,
        "vocabulary": vocabulary_table(view),
        "quarantine": quarantine_table(view),
        "replayed": state.replayed_rows(),
        "meter": state.ext.get(EXT, {"streams": {}, "workers": {}}),
        "unlicensed_samples": sum(s["samples"] for s in streams if s["license"] == "NOASSERTION"),
    }


def fidelity(view: DatasetView, stream: str, unit: str) -> dict[str, Any]:
    """Median and worst error, mean clip fraction, over all samples of a stream."""
    import numpy as np

    errors, clips = [np.empty(0, np.float32)], [np.empty(0, np.float32)]
    for batch in view.samples(stream, ["error", "clip_fraction"]):
        for name, into in (("error", errors), ("clip_fraction", clips)):
            known = batch.column(name).drop_null()
            into.append(np.array(np.frombuffer(known.buffers()[1] or b"", np.float32, len(known), 4 * known.offset)))
    finite = np.concatenate(errors).astype(np.float64)
    finite = finite[np.isfinite(finite)]
    shares = np.concatenate(clips).astype(np.float64)
    higher_is_better = unit.endswith("_db")
    return {
        "error_unit": unit,
        "error_median": float(np.median(finite)) if finite.size else None,
        "error_worst": float(finite.min() if higher_is_better else finite.max()) if finite.size else None,
        "clip_fraction": float(shares.mean()) if shares.size else None,
    }


def vocabulary_table(view: DatasetView) -> dict[str, Any] | None:
    """The unified vocabulary of a version: its file, its size, and where the ids of each tokenizer begin."""
    state = view.dataset.state
    if state.vocab is None:
        return None
    vocabulary = view.dataset.vocabulary()
    users: dict[str, list[str]] = {}
    for name, settings in sorted(state.settings.items()):
        users.setdefault(settings.tokenizer or "", []).append(name)
    return {
        "digest": state.vocab,
        "size": vocabulary.size,
        "parent": vocabulary.parent,
        "blocks": [
            {**asdict(block), "streams": users.get(block.fingerprint, [])} for block in vocabulary.blocks
        ],
    }


def quarantine_table(view: DatasetView) -> list[dict[str, Any]]:
    """Reasons per source with an example each."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for info, batch in view.dataset.quarantine():
        for row in batch.select(["reason", "message", "uri"]).to_pylist():
            key = (info.stream, row["reason"])
            entry = found.setdefault(
                key,
                {
                    "stream": info.stream,
                    "reason": row["reason"],
                    "count": 0,
                    "uri": row["uri"],
                    "message": row["message"],
                },
            )
            entry["count"] += 1
    return [found[key] for key in sorted(found)]


def print_dataset(found: dict[str, Any]) -> None:
    """The tables."""
    from headrace.ingest.engine_report import in_words

    rows = [
        [
            s["stream"], s["modality"], f"{s['records']:,}", f"{s['samples']:,}", f"{s['quarantined']:,}",
            f"{s['tokens']:,}",
            size(s["bytes"]), told_error(s), s["tokenizer"] or "raw", s["license"],
        ]
        for s in found["streams"]
        if s["records"]
    ]  # fmt: skip
    table(
        [
            "stream",
            "modality",
            "records",
            "samples",
            "quarantined",
            "tokens",
            "size",
            "error (median, worst)",
            "tokenizer",
            "license",
        ],
        rows,
        right=range(2, 7),
    )
    typer.echo("")
    rows = [
        [
            s["source"],
            f"{s['items']:,}",
            f"{s['closed']:,}",
            f"{s['quarantined']:,}",
            f"{s['open']:,}",
            "yes" if s["items"] == s["closed"] + s["quarantined"] + s["open"] else "NO",
        ]
        for s in found["sources"]
    ]
    table(["source", "items read", "= closed", "+ quarantined whole", "+ open", "balances"], rows, right=range(1, 5))
    if found["vocabulary"]:
        typer.echo("")
        rows = [
            [f"{b['start']:,}", f"{b['size']:,}", b["kind"], b["fingerprint"][:12], ", ".join(b["streams"])]
            for b in found["vocabulary"]["blocks"]
        ]
        table(["unified ids from", "size", "kind", "tokenizer", "of the streams"], rows, right=[0, 1])
    if found["meter"]["streams"]:
        typer.echo("")
        print_meters(found["meter"])
    if found["quarantine"]:
        typer.echo("")
        rows = [[q["stream"], q["reason"], f"{q['count']:,}", q["uri"], q["message"]] for q in found["quarantine"]]
        table(["quarantined from", "reason", "count", "example", "what was found"], rows, right=[2])
    for s in found["streams"]:
        if s["engine"] and s["engine"]["retired"]:
            typer.echo(f"engine of {s['stream']}: {in_words(s['engine'])}")
    if found["replayed"]:
        typer.echo(f"{found['replayed']:,} of the quarantined were replayed: they are samples now, or quarantined anew")
    typer.echo("")
    if found["unlicensed_samples"]:
        typer.echo(f"{found['unlicensed_samples']:,} samples have no license (NOASSERTION)")


def told_error(row: dict[str, Any]) -> str:
    """`31.2, 17.0 dB`, or `lossless` where nothing was lost, or nothing where nothing was measured."""
    unit = {"psnr_db": "dB PSNR", "snr_db": "dB SNR", "nrmse": "NRMSE", "none": ""}.get(
        row["error_unit"], row["error_unit"]
    )
    if row["error_median"] is None:
        return ""
    if unit == "":
        return "exact" if row["error_worst"] == 0 else f"{row['error_median']:.3g}"
    digits = ".1f" if "dB" in unit else ".2g"
    return f"{row['error_median']:{digits}}, {row['error_worst']:{digits}} {unit}"


def size(count: float) -> str:
    """Bytes in binary units."""
    for unit in _UNITS:
        if count < 1024 or unit == _UNITS[-1]:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return ""


def table(heads: list[str], rows: list[list[str]], right: Any = ()) -> None:
    """A table with aligned columns, cut to the terminal's width on a terminal and whole elsewhere."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(soft_wrap=False)
    if not console.is_terminal:
        console = Console(width=max(200, *(sum(len(c) + 3 for c in row) for row in [heads, *rows])))
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for i, head in enumerate(heads):
        made.add_column(
            head, justify="right" if i in right else "left", overflow="fold" if i == len(heads) - 1 else "ellipsis"
        )
    for row in rows:
        made.add_row(*row)
    console.print(made, markup=False, highlight=False)
