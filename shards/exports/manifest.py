"""`headrace-export.json`: what an export holds, of exactly which dataset, and the sha256 of every file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from headrace.schemas.errors import StorageError
from headrace.shards.exports.contract import FileLine
from headrace.shards.exports.journal import Journal, SegmentLine
from headrace.shards.exports.options import TOKENS_ONLY
from headrace.shards.exports.outfile import digests
from headrace.shards.exports.plan import ExportPlan, StreamPlan
from headrace.shards.exports.totals import Totals


def make_manifest(plan: ExportPlan, journal: Journal, common: list[FileLine]) -> dict[str, Any]:
    """The manifest: a function of the dataset's version and the options alone."""
    streams = {s.name: _stream(s, journal.segments[s.name]) for s in plan.streams}
    files = [_file(line, None) for line in common]
    for stream in plan.streams:
        lines = journal.segments[stream.name]
        listed = [file for line in lines for file in line.files] + journal.indexes[stream.name].files
        files += [_file(line, stream.name) for line in listed]
    return {
        "format": plan.settings["format"],
        "dataset": plan.dataset.name,
        "version": plan.dataset.version,
        "settings": plan.settings,
        "export": plan.digest,
        "vocabulary": plan.vocabulary.digest if plan.vocabulary else None,
        "streams": streams,
        "left_out_streams": plan.left_out,
        "samples": sum(s["samples"] for s in streams.values()),
        "tokens": sum(s["tokens"] for s in streams.values()),
        "bytes": sum(f["bytes"] for f in files),
        "lineage": "lineage/*.parquet of each stream" if plan.options.to in TOKENS_ONLY else "in each sample",
        "files": sorted(files, key=lambda f: str(f["path"])),
    }


def stream_totals(lines: list[SegmentLine]) -> Totals:
    """Totals over the segments of a stream."""
    total = Totals()
    for line in lines:
        total = total.plus(line.totals)
    return total


def check_export(out: Path, manifest: dict[str, Any]) -> list[str]:
    """What is wrong with the files of a finished export: a sentence each. Raises: nothing for damage."""
    problems = []
    for file in manifest["files"]:
        path = out / file["path"]
        try:
            if digests(path)[1] != file["sha256"]:
                problems.append(f"{path} was altered: its sha256 is not the manifest's")
        except StorageError as exc:
            problems.append(str(exc))
    return problems


def _stream(plan: StreamPlan, lines: list[SegmentLine]) -> dict[str, Any]:
    total = stream_totals(lines)
    empty = sum(line.empty for line in lines)
    marks = plan.marks
    return {
        "modality": plan.settings.modality,
        "samples": total.samples,
        "tokens": total.tokens if marks else 0,
        "payload_bytes": 0 if marks else total.tokens,
        "sum": total.sum,
        "left_out": {"deleted": plan.deleted, "fold": plan.rows - total.samples - empty, "empty": empty},
        "dtype": plan.dtype_name,
        "before": list(marks.before) if marks else [],
        "after": list(marks.after) if marks else [],
        "shift": marks.shift if marks else 0,
        "end_of_document_inside": sum(line.mistakable for line in lines),
        "tokenizer": plan.settings.tokenizer,
        "stream_digest": plan.settings.digest,
        "license": plan.settings.license,
    }


def _file(line: FileLine, stream: str | None) -> dict[str, Any]:
    told: dict[str, Any] = {"path": line.path, "bytes": line.bytes, "sha256": line.sha256}
    if line.samples:
        told |= {"samples": line.samples, "tokens": line.tokens}
    return {**told, "stream": stream} if stream else told
