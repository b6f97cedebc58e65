"""A source at a pinned version: which streams it has, what stands around their tokens, and its blocks, lap by lap."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from headrace.schemas.canonical import sha256_hex
from headrace.schemas.errors import ConfigError, HeadraceError, ShardError
from headrace.schemas.vocabulary import CONTROL, Vocabulary, begin_end
from headrace.shards.dataset import Dataset
from headrace.shards.entry import StreamSettings, entry_name, parse
from headrace.shards.loader.agreement import Agreement
from headrace.shards.loader.assemble import Borders
from headrace.shards.loader.blocks import Blocks
from headrace.shards.loader.cache import NodeCache
from headrace.shards.loader.manifest import Manifest
from headrace.shards.loader.sources import Source
from headrace.shards.loader.table import BlockTable
from headrace.shards.log import CommitLog
from headrace.shards.names import stream_folder
from headrace.shards.origin import origin
from headrace.shards.state import State
from headrace.shards.store import Store, open_store

_POLL_S = 1.0  # between looks for new commits


@dataclass
class Era:
    """What was committed after version `since` up to version `upto`; since 0: everything."""

    since: int
    upto: int


class PinnedSource:
    """One source, opened. Picklable: another process opens the store again at the same version."""

    def __init__(self, number: int, source: Source, agreement: Agreement, version: int | None = None) -> None:
        """Pin it, at `version` if a state asks for it.

        Raises: ConfigError naming the stream or what is missing; StorageError, BrokenLog, FormatTooNew.
        """
        self.number, self.source, self._agreement = number, source, agreement
        self._store: Store | None = None
        manifest = Manifest(self.store)
        first = self.store.get(entry_name(1)) if self.store.exists(entry_name(1)) else None
        if first is None:
            raise ConfigError(f"no dataset at {source.dataset}: it has no log", field="sources", value=source.dataset)
        self.identity = parse(first, entry_name(1))[1][:16]  #: of the dataset, whatever grows in it
        wanted = source.version if version is None else version
        if wanted is None:
            told = agreement.settle(f"source-{number}-{self.identity}", lambda: _head(manifest.replay()))
            wanted = int(told["v"])
        state = manifest.state if manifest.state.v == wanted else manifest.replay(wanted)
        self.version, self.digest = state.v, state.digest
        self.streams = self._chosen(state)
        self.settings: dict[str, StreamSettings] = {name: state.settings[name] for name in self.streams}
        self.vocab = state.vocab
        self._manifest: Manifest | None = manifest

    @property
    def store(self) -> Store:
        """Of the dataset."""
        if self._store is None:
            self._store = open_store(self.source.dataset, self.source.options or None)
        return self._store

    @property
    def tokens(self) -> bool:
        """Whether its streams hold tokens (all do, or none does)."""
        return next(iter(self.settings.values())).tokens is not None

    def borders(self, vocabulary: Vocabulary | None, own: tuple[tuple[int, ...], tuple[int, ...]]) -> list[Borders]:
        """What stands around the bodies of each stream: control ids of `vocabulary`, or with None the ids given.

        Raises: TokenizerError if the vocabulary lacks a tokenizer.
        """
        if vocabulary is None:
            return [Borders(*own) for _ in self.streams]
        made = []
        for settings in self.settings.values():
            assert settings.tokenizer is not None
            base = vocabulary.block(settings.tokenizer).start
            if settings.modality == "text":
                made.append(Borders((), (CONTROL["EOD"],), base))
            else:
                begin, end = begin_end(settings.modality)  # type: ignore[arg-type]
                made.append(Borders((begin,), (end, CONTROL["EOD"]), base))
        return made

    def blocks(self, era: Era, *, mapped: bool, cache: NodeCache | None) -> Blocks:
        """The blocks of an era. Raises: BrokenLog, StorageError."""
        since = dict(Manifest(self.store).replay(era.since).next_seq) if era.since else None
        table = self._at(era.upto).table(self.streams, since)
        self._manifest = None  # what it holds is in the table now
        if not era.since:  # what came later was committed while this job runs: a listing for each era would be dear
            self._check_there(table)
        return Blocks(self.store, table, mapped=mapped, cache=cache)

    def _check_there(self, table: BlockTable) -> None:
        """Raises: ShardError naming a shard that is missing, before the first batch and not at its turn.

        A listing costs a request for a thousand shards. What compaction replaced may be gone.
        """
        there = {name for stream in self.streams for name in self.store.list(stream_folder(stream))}
        gone = [shard.path for shard in table.shards if shard.path not in there]
        if gone:
            live = {shard.path for shard in CommitLog(self.store).replay().live_shards()}
            if lost := sorted(path for path in gone if path in live):
                more = f", nor are {len(lost) - 1:,} others" if len(lost) > 1 else ""
                raise ShardError(f"{self.source.dataset}: the shard {lost[0]} is not there{more}")

    def following(self, era: Era, lap: int, wait: Callable[[], None]) -> Era | None:
        """The next era, agreed by all: once there are newer samples; None if the writer ended and there are none.

        `wait` is called at every look, and may raise. Raises: StorageError, BrokenLog.
        """
        name = f"source-{self.number}-{self.identity}-era-{lap}"
        log = Manifest(self.store)
        before = log.replay(era.upto)
        have = {key: seq for key, seq in before.next_seq.items() if key[0] in self.streams}
        while True:
            told = self._agreement.settled(name)
            log.refresh()
            state = log.state
            grown = any(state.next_seq.get(k, 0) > have.get(k, 0) for k in state.next_seq if k[0] in self.streams)
            if told is None and not grown and not state.ended:
                wait()
                time.sleep(_POLL_S)
                continue
            if told is None:
                proposed = {**_head(state), "end": not grown}
                told = self._agreement.settle(name, lambda proposed=proposed: proposed)  # type: ignore[misc]
            return None if told["end"] else Era(era.upto, int(told["v"]))

    def repin(self, version: int, digest: str) -> None:
        """Go to the version of a state. Raises: ConfigError if that version is not what it was; BrokenLog."""
        if version != self.version:
            state = self._at(version).state
            self.version, self.digest = state.v, state.digest
        if not self.digest.startswith(digest):
            raise ConfigError(
                f"{self.source.dataset} at version {version} is {self.digest[:16]}, the state was made with {digest}:"
                " another dataset lies there now",
                field="state",
            )

    def why(self, stream: str, lane: int, seq: int) -> dict[str, Any]:
        """Where a sample came from. Raises: KeyError, ShardError, StorageError."""
        try:
            return origin(Dataset(self.store, CommitLog(self.store).replay(self.version)), stream, lane, seq)
        except (KeyError, ShardError):  # of a later era, or compacted since: the address is the same in later versions
            return origin(Dataset(self.store), stream, lane, seq)

    def artefact(self, fingerprint: str) -> dict[str, Any]:
        """The head of a tokenizer's artefact. Raises: ConfigError if it cannot be read."""
        name = f"tokenizers/{fingerprint}/artefact.json"
        known = self._at(self.version).state.tokenizers.get(fingerprint)
        digests = {file.path: file.sha256 for file in known.files} if known is not None else {}
        try:
            data = self.store.get(name)
            if digests.get(name, sha256_hex(data)) != sha256_hex(data):
                raise ConfigError("it was altered: its bytes hash to another digest than the log says")
            found: dict[str, Any] = json.loads(data)
        except (HeadraceError, ValueError) as exc:
            raise ConfigError(f"{self.source.dataset}: {name} cannot be read: {exc}", field="sources") from exc
        return found

    def _at(self, version: int) -> Manifest:
        if self._manifest is None or self._manifest.state.v != version:
            self._manifest = Manifest(self.store)
            self._manifest.replay(version)
        return self._manifest

    def _chosen(self, state: State) -> list[str]:
        patterns = self.source.names()
        if patterns is None:
            names = sorted(n for n, s in state.settings.items() if s.tokens is not None)
            wanted = "a stream that holds tokens"
        else:
            names, wanted = [], f"a stream {' or '.join(patterns)}"
            for pattern in patterns:
                base = pattern.removesuffix("@*")
                found = [n for n in state.settings if n == pattern or (base != pattern and n.split("@")[0] == base)]
                if not found:
                    have = ", ".join(sorted(state.settings))
                    raise ConfigError(
                        f"{self.source.dataset} has no stream {pattern!r}; there are {have}",
                        field="streams",
                        value=pattern,
                    )
                names += [n for n in sorted(found, key=lambda n: (len(n), n)) if n not in names]
        if not names:
            raise ConfigError(f"{self.source.dataset} has not {wanted}", field="streams", value=patterns)
        kinds = {state.settings[n].tokens is None for n in names}
        if len(kinds) > 1:
            raw = [n for n in names if state.settings[n].tokens is None]
            raise ConfigError(f"{', '.join(raw)}: raw streams cannot be mixed with streams of tokens", field="streams")
        return names

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_store": None, "_manifest": None}


def _head(state: State) -> dict[str, Any]:
    return {"v": state.v, "digest": state.digest}
