"""Is a dataset what its log says? Every link, every checksum, every sum, and one digest of the content.

`verify` never stops at the first fault: it reports each with the file and the place. Shallow, it reads the log, and of
every other file only the size; deep, every byte.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from headrace.schemas.canonical import sha256_hex
from headrace.schemas.errors import HeadraceError, LogError, ShardError, StorageError, TokenizerError
from headrace.shards.chains import Chains
from headrace.shards.checkpoint import EVERY, BrokenCheckpoint, agrees, checkpoint_name
from headrace.shards.dataset import Dataset
from headrace.shards.entry import QuarantineInfo, Span, entry_name
from headrace.shards.log import CommitLog
from headrace.shards.quarantine import read_quarantine
from headrace.shards.spans import count, merged, without
from headrace.shards.state import State
from headrace.shards.store import Missing, Store
from headrace.shards.verify_catalogue import CatalogueCheck
from headrace.shards.verify_shards import ShardCheck
from headrace.shards.vocabularies import read_vocabulary, vocabulary_name, with_blocks_for

Progress = Callable[[str, int, int], None]  #: (what, done, of)


@dataclass(frozen=True)
class Problem:
    """One fault: the file it is in, the place in it, and what is wrong."""

    file: str
    place: str
    message: str


@dataclass
class Report:
    """What `verify` found. `ok` means no problems; notes are worth knowing and break nothing."""

    dataset: str = ""
    version: int = 0
    deep: bool = True
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    content_digest: str | None = None  #: deep only
    samples: int = 0
    tokens: int = 0
    entries: int = 0
    shards: int = 0
    bytes: int = 0
    quarantined: int = 0
    catalogue: int = 0  #: rows
    books: dict[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        """For `--json`: all fields and `ok`."""
        return {"ok": self.ok, **asdict(self)}


def verify(target: Dataset | Store, *, deep: bool = True, progress: Progress | None = None) -> Report:
    """Check a dataset (at its pinned version) or whatever is in a store (at its head).

    `progress(what, done, of)` is called now and then. Faults are reported, not raised.
    """
    return _Verifier(target, deep, progress or (lambda what, done, of: None)).run()


class _Verifier:
    def __init__(self, target: Dataset | Store, deep: bool, progress: Progress) -> None:
        self._pinned = target.state if isinstance(target, Dataset) else None
        self._store: Store = target.store if isinstance(target, Dataset) else target
        self._progress = progress
        self.report = Report(deep=deep)

    def _add(self, file: str, place: str, message: str) -> None:
        self.report.problems.append(Problem(file, place, message))

    def run(self) -> Report:
        state = self._check_log()
        if state.v == 0:
            if not self.report.problems:
                self._add("log", "", "there is no log")
            return self.report
        dataset = Dataset(self._store, state)
        report = self.report
        report.dataset, report.version, report.entries = dataset.name, state.v, state.v
        report.books = {
            "streams": {name: c.to_json() for name, c in sorted(state.streams.items())},
            "sources": {name: c.to_json() for name, c in sorted(state.sources.items())},
        }
        self._check_coverage(state)
        self._check_files(state)
        self._check_quarantine(state)
        if report.deep:
            catalogue = CatalogueCheck(dataset, self._add)
            shards = ShardCheck(dataset, catalogue, self._add, report.notes.append)
            for stream in sorted(state.settings):
                live = state.live_shards(stream)
                for n, shard in enumerate(live):
                    shards.check(shard)
                    self._progress(stream, n + 1, len(live))
                shards.end_stream(stream)
            report.catalogue = catalogue.finish()
            report.content_digest = shards.digest.hexdigest()
            report.samples, report.tokens = shards.digest.samples, shards.digest.tokens
        else:
            infos = dataset.streams().values()
            report.samples, report.tokens = sum(i.rows for i in infos), sum(i.tokens for i in infos)
        return report

    # ---- the log ----

    def _check_log(self) -> State:
        """Fold the entries one by one, as strictly as they were appended."""
        state, chains = State(), Chains()
        stop = self._pinned.v if self._pinned else None
        log = CommitLog(self._store)
        while stop is None or state.v < stop:
            v = state.v + 1
            name = entry_name(v)
            try:
                found = log._read(v)
            except (LogError, StorageError) as exc:
                self._add(name, "", str(exc))
                break
            if found is None:
                break
            entry, digest = found
            if entry.prev != state.digest:
                self._add(name, "prev", f"follows {entry.prev[:12]}…, the entry before has {state.digest[:12]}…")
            try:
                state.check(entry)
            except (HeadraceError, ValueError) as exc:
                self._add(name, entry.kind, str(exc))
            for sentence in chains.follow(entry):
                self._add(name, "places", sentence)
            try:
                state.apply(entry, digest)
            except LogError as exc:
                self._add(name, entry.kind, str(exc))
                break
            if v % EVERY == 0:
                self._check_checkpoint(state)
            self._progress("log", v, stop or v)
        self._check_names(state, stop)
        if self._pinned and (state.v, state.digest) != (self._pinned.v, self._pinned.digest):
            opened = self._pinned.digest[:12]
            self._add(entry_name(self._pinned.v), "digest", f"the log is not the one that was opened as {opened}…")
        return state

    def _check_names(self, state: State, stop: int | None) -> None:
        later = [n for n in self._store.list("log/0") if n > entry_name(state.v)]
        if later and (stop is None or state.v < stop) and not self.report.problems:
            self._add(entry_name(state.v + 1), "", f"missing, but {later[0]} exists")

    def _check_checkpoint(self, state: State) -> None:
        try:
            if not agrees(self._store.get(checkpoint_name(state.v)), state):
                self._add(checkpoint_name(state.v), "", "differs from the entries that it sums up")
        except Missing:
            self.report.notes.append(f"no checkpoint at version {state.v}; the next writer adds it")
        except BrokenCheckpoint as exc:
            self._add(checkpoint_name(state.v), "", str(exc))

    def _check_coverage(self, state: State) -> None:
        """Live shards and deleted samples cover 0 to next_seq of every lane, once."""
        for (stream, lane), end in sorted(state.next_seq.items()):
            deleted = state.deleted.get((stream, lane), [])
            have: list[Span] = []
            for shard in state.shards.get((stream, lane), []):
                have += without([Span(shard.first_seq, shard.stop_seq)], shard.missing)
                for hole in without(shard.missing, deleted):
                    self._add(shard.path, f"seq {hole.start}", "a sample is missing that was not deleted")
            if count(have) != count(merged(have)):
                self._add(f"{stream}/L{lane:04d}", "", "two live shards hold the same sequence numbers")
            for hole in without(without([Span(0, end)], merged(have)), deleted):
                place = f"seq {hole.start} to {hole.stop}"
                self._add(f"{stream}/L{lane:04d}", place, "no live shard holds these samples")
        for stream, told in state.streams.items():
            kept = sum(s.rows for s in state.live_shards(stream))
            erased = sum(
                count(without([Span(0, state.next_seq[key])], self._held(state, key)))
                for key in state.next_seq
                if key[0] == stream
            )
            if told.samples != kept + erased:
                sums = f"shards hold {kept} and {erased} were erased"
                self._add("log", stream, f"the books say {told.samples} samples, {sums}")

    @staticmethod
    def _held(state: State, key: tuple[str, int]) -> list[Span]:
        return merged(
            span
            for shard in state.shards.get(key, [])
            for span in without([Span(shard.first_seq, shard.stop_seq)], shard.missing)
        )

    # ---- files ----

    def _check_files(self, state: State) -> None:
        sizes = {s.path: s.bytes for s in state.live_shards()}
        sizes |= {p.path: p.bytes for segments in state.plan.values() for p in segments}
        sizes |= {f.path: f.bytes for t in state.tokenizers.values() for f in t.files}
        sizes |= {f.path: f.bytes for files in (state.carry, state.dedup) for f in files.values() if f.path}
        digests = {p.path: p.sha256 for segments in state.plan.values() for p in segments}
        digests |= {f.path: f.sha256 for t in state.tokenizers.values() for f in t.files}
        digests |= {f.path: f.sha256 for files in (state.carry, state.dedup) for f in files.values() if f.path}
        for n, (path, size) in enumerate(sorted(sizes.items())):
            try:
                found = self._store.size(path)
                if found != size:
                    self._add(path, "size", f"{found} bytes, the log says {size}")
            except StorageError as exc:
                self._add(path, "", str(exc))
            self._progress("files", n + 1, len(sizes))
        for path, digest in sorted(digests.items()):
            self._check_digest(path, digest)
        self._check_vocabulary(state)
        self.report.shards = len(state.live_shards())
        self.report.bytes = sum(s.bytes for s in state.live_shards())

    def _check_digest(self, path: str, digest: str) -> None:
        try:
            found = sha256_hex(self._store.get(path))
        except StorageError as exc:
            self._add(path, "", str(exc))
            return
        if found != digest:
            self._add(path, "sha256", f"its bytes hash to {found[:12]}…, the log says {digest[:12]}…")

    def _check_vocabulary(self, state: State) -> None:
        """The file and its ancestors are whole, each a beginning of the next, and blocks are as large as tokenizers."""
        digest, child = state.vocab, None
        while digest is not None:
            name = vocabulary_name(digest)
            try:
                older = read_vocabulary(self._store, digest)
                if child is None:
                    with_blocks_for(older, state.settings, state.tokenizers)
                elif child.blocks[: len(older.blocks)] != older.blocks or len(older.blocks) >= len(child.blocks):
                    self._add(name, "blocks", f"{child.digest[:12]}… names it as its parent and does not extend it")
            except (TokenizerError, StorageError) as exc:
                self._add(name, "", str(exc))
                return
            digest, child = older.parent, older

    def _check_quarantine(self, state: State) -> None:
        for info in state.quarantine.values():
            self.report.quarantined += info.rows
            try:
                if self.report.deep:
                    self._check_quarantine_file(info)
                elif self._store.size(info.path) != info.bytes:
                    self._add(info.path, "size", f"{self._store.size(info.path)} bytes, the log says {info.bytes}")
            except (ShardError, StorageError) as exc:
                self._add(info.path, "", str(exc))

    def _check_quarantine_file(self, info: QuarantineInfo) -> None:
        reasons: dict[str, int] = {}
        items = 0
        for batch in read_quarantine(self._store, info):
            for reason in batch.column("reason").to_pylist():
                reasons[reason] = reasons.get(reason, 0) + 1
            items += batch.column("whole").to_pylist().count(True)
        if reasons != info.reasons or items != info.items:
            told = f"the log says {info.reasons}, {info.items}"
            self._add(info.path, "rows", f"holds {reasons}, {items} of them whole items; {told}")
