"""Writes a dataset in another format: streaming, resumable, deterministic, read back before it counts.

    result = export(Dataset.open("DATASET"), Path("OUT"), ExportOptions(to="mds"))

Every block is checked against the log when it is read, every file is read back when it is written, and the totals of
both sides must agree before a segment is noted. Cut off at any moment, the same call goes on behind the last one and
ends with the bytes of a run that was not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from headrace.schemas.errors import ConfigError, ShardError, StorageError
from headrace.shards.dataset import Dataset
from headrace.shards.exports.contract import FileLine, Sink
from headrace.shards.exports.energon import EnergonSink, metadataset, split_of
from headrace.shards.exports.huggingface import HuggingFaceSink
from headrace.shards.exports.journal import IndexLine, Journal, SegmentLine, refuse_other
from headrace.shards.exports.litdata import LitDataSink
from headrace.shards.exports.manifest import make_manifest, stream_totals
from headrace.shards.exports.mds import MdsSink
from headrace.shards.exports.megatron import MegatronSink
from headrace.shards.exports.options import ExportOptions, Target
from headrace.shards.exports.outfile import write_file
from headrace.shards.exports.parquet import ParquetSink, readme
from headrace.shards.exports.pieces import Piece, pieces
from headrace.shards.exports.plan import ExportPlan, StreamPlan, make_plan, settings_of
from headrace.shards.exports.totals import Totals
from headrace.shards.exports.webdataset import WebDatasetSink

Watch = Callable[[dict[str, Any]], None]  #: {"stream", "samples", "tokens", "bytes", "of_bytes"}, now and then

_SINKS: dict[Target, Callable[[StreamPlan, Path, Path], Sink]] = {
    "mds": MdsSink,
    "webdataset": WebDatasetSink,
    "energon": EnergonSink,
    "megatron": MegatronSink,
    "litdata": LitDataSink,
    "parquet": ParquetSink,
    "huggingface": HuggingFaceSink,
}


@dataclass(frozen=True)
class ExportResult:
    """What an export holds: its manifest, and how this run came to it."""

    out: str
    manifest: dict[str, Any]
    resumed: bool = False  #: it went on behind a run that was cut off
    found: bool = False  #: it was finished before; nothing was written
    newest: int | None = None  #: the dataset's newest version, where that is a later one


def export(dataset: Dataset, out: Path, options: ExportOptions, *, watch: Watch | None = None) -> ExportResult:
    """Write `dataset` at its version to the folder `out`.

    Raises: ConfigError (options, the folder), SettingsDiffer (it holds another export), ShardError naming shard and
    block where the dataset is damaged, StorageError. After either of these, and after a kill, the same call goes on.
    """
    _refuse_place(dataset, out)
    journal = Journal(out)
    settings = settings_of(dataset, options)
    finished = journal.manifest()
    if finished is not None:
        refuse_other(finished.get("settings", {}), settings, out)
        _check_files(out, finished)
        if journal.folder.exists():
            journal.remove()
        return ExportResult(str(out), finished, found=True)
    journal.settings()
    plan = make_plan(dataset, options)
    resumed = journal.begin(plan.settings)
    try:
        for stream in plan.streams:
            _export_stream(dataset, stream, journal, watch or (lambda progress: None))
        if not sum(line.samples for lines in journal.segments.values() for line in lines):
            journal.remove()
            raise ConfigError(f"no sample of these streams is in the fold {options.fold}", field="--fold")
        manifest = make_manifest(plan, journal, _common_files(plan, journal))
        journal.end(manifest)
    finally:
        journal.close()
    return ExportResult(str(out), manifest, resumed=resumed)


def pinned_version(out: Path) -> int | None:
    """The version of the dataset that an export in `out`, finished or cut off, is of; None if there is none.

    Raises: ConfigError if the folder holds something else; StorageError.
    """
    journal = Journal(out)
    said = (journal.manifest() or {}).get("settings") or journal.settings()
    return int(said["version"]) if said else None


def _export_stream(dataset: Dataset, plan: StreamPlan, journal: Journal, watch: Watch) -> None:
    lines = journal.segments.get(plan.name, [])
    sink = _SINKS[plan.options.to](plan, journal.out, journal.work)
    if not lines or lines[-1].upto is not None:
        open_state = lines[-1].open if lines else {}
        sink.restore(len(shards_of(lines)), open_state)
        begin = lines[-1].upto if lines else None
        _write_segments(dataset, plan, sink, journal, (begin[0], begin[1]) if begin else (0, 0), watch)
    lines = journal.segments[plan.name]
    _check_stream(plan, lines)
    if plan.name not in journal.indexes:
        shards = shards_of(lines)
        journal.note(IndexLine(plan.name, sink.finish(shards) if shards else []))


def _write_segments(
    dataset: Dataset, plan: StreamPlan, sink: Sink, journal: Journal, begin: tuple[int, int], watch: Watch
) -> None:
    writer = _Segments(plan, sink, journal)
    done_bytes = sum(s.bytes for s in dataset.state.live_shards(plan.name) if (s.lane, s.stop_seq) <= begin)
    for piece in pieces(dataset, plan.name, fold=plan.options.fold, skip_empty=plan.skip_empty, begin=begin):
        writer.add(piece, begin[1] if piece.lane == begin[0] else 0)
        done_bytes += piece.read_bytes
        total = writer.total
        watch(
            {
                "stream": plan.name,
                "samples": total.samples,
                "tokens": total.tokens,
                "bytes": min(done_bytes, plan.bytes),
                "of_bytes": plan.bytes,
            }
        )
    writer.end()


@dataclass
class _Segments:
    """Feeds a sink and notes its segments."""

    plan: StreamPlan
    sink: Sink
    journal: Journal
    expected: Totals = field(default_factory=Totals)  #: of the segment, from the dataset's side
    empty: int = 0
    mistakable: int = 0

    def __post_init__(self) -> None:
        self.total = Totals()
        for line in self.journal.segments.get(self.plan.name, []):
            self.total = self.total.plus(line.totals)

    def add(self, piece: Piece, first: int) -> None:
        """Write the rows whose sequence number is `first` or larger."""
        at, empty = int(np.searchsorted(piece.seqs, first)), piece.empty[piece.empty >= first]
        rows = self.sink.encode(piece) if at < piece.rows else None
        while at < piece.rows:
            stop = self.sink.add(rows, at)
            self._count(piece, at, stop)
            if stop < piece.rows:
                seq = int(piece.seqs[stop])
                before = int(np.searchsorted(empty, seq))
                self.empty, empty = self.empty + before, empty[before:]
                self._note(piece.lane, seq)
            at = stop
        self.empty += len(empty)

    def end(self) -> None:
        """The stream ends here."""
        self._note(None, None)

    def _count(self, piece: Piece, start: int, stop: int) -> None:
        if stop == start:
            return
        found, marks = piece.totals(start, stop), self.plan.marks
        if marks is not None and marks.looks_like_mark is not None:
            values, offsets = piece.content
            self.mistakable += int(np.count_nonzero(values[offsets[start] : offsets[stop]] == marks.looks_like_mark))
        expected = marks.expected(found) if marks else found
        self.expected, self.total = self.expected.plus(expected), self.total.plus(expected)

    def _note(self, lane: int | None, seq: int | None) -> None:
        cut = self.sink.cut(last=lane is None)
        upto = None if lane is None or seq is None else [lane, seq]
        found, name = self.expected, self.plan.name
        self.journal.note(
            SegmentLine(
                name, upto, found.samples, found.tokens, found.sum, self.empty, self.mistakable, cut.files, cut.open
            )
        )
        self.expected, self.empty, self.mistakable = Totals(), 0, 0


def shards_of(lines: list[SegmentLine]) -> list[FileLine]:
    """The files of a stream that hold samples, in order; not their lineage."""
    return [file for line in lines for file in line.files if file.samples]


def _check_stream(plan: StreamPlan, lines: list[SegmentLine]) -> None:
    """All that was read is in files, and all that the log counts was read. Raises: StorageError, ShardError."""
    total = stream_totals(lines)
    held = Totals()
    for shard in shards_of(lines):
        held = held.plus(shard.totals)
    if held != total:
        raise StorageError(f"{plan.name}: its files hold {held}, its segments {total}: remove the export, begin again")
    seen = total.samples + sum(line.empty for line in lines)
    if plan.options.fold == "all" and seen != plan.rows:
        raise ShardError(f"{plan.name}: {seen} samples were read, the log counts {plan.rows}")


def _common_files(plan: ExportPlan, journal: Journal) -> list[FileLine]:
    """Files that stand for all streams together."""
    options, files = plan.options, {}
    filled = [s.name for s in plan.streams if stream_totals(journal.segments[s.name]).samples]
    if plan.vocabulary is not None:
        files["vocabulary.json"] = plan.vocabulary.to_bytes()
    if options.to == "energon":
        files["metadataset.yaml"] = metadataset(filled, split_of(options.fold))
    if options.to == "parquet":
        about = [
            f"Samples of the headrace dataset `{plan.dataset.name}`, exported as Parquet.",
            "What each file holds, and its sha256: `headrace-export.json`.",
        ]
        files["README.md"] = readme([(name, f"{name}/*.parquet") for name in filled], options.fold, about)
    return [write_file(journal.out, name, journal.work / name, data) for name, data in files.items()]


def _refuse_place(dataset: Dataset, out: Path) -> None:
    """Raises: ConfigError if `out` and the dataset lie inside each other."""
    root = dataset.store.local_path("log")
    if "://" in str(out) or str(out).startswith(("s3:", "file:")):
        raise ConfigError("an export is written to a local folder", field="--out", value=str(out))
    if root is None:
        return
    here, there = out.resolve(), Path(root).parent.resolve()
    if here == there or there in here.parents or here in there.parents:
        message = f"{out} is, holds or lies in the dataset {there}: name another folder"
        raise ConfigError(message, field="--out", value=str(out))


def _check_files(out: Path, manifest: dict[str, Any]) -> None:
    """Raises: StorageError if a file of a finished export is gone or has another size."""
    for file in manifest["files"]:
        path = out / file["path"]
        size = path.stat().st_size if path.is_file() else None
        if size != file["bytes"]:
            what = "is missing" if size is None else f"has {size} bytes, {file['bytes']} were written"
            raise StorageError(f"{path} {what}: remove {out} and export again")
