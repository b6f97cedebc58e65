"""Small datasets with every trait that an order must survive, and what reads them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from headrace.schemas.canonical import canonical_json, sha256_hex
from headrace.schemas.vocabulary import CONTROL, Vocabulary, begin_end
from headrace.shards.catalogue import update_catalogue
from headrace.shards.compact import compact, everything
from headrace.shards.dataset import Dataset
from headrace.shards.entry import Entry, FileInfo, StreamSettings, TokenizerInfo
from headrace.shards.forget import Selection, forget
from headrace.shards.loader.dataset import ShardDataset
from headrace.shards.loader.sources import Source
from headrace.shards.log import CommitLog
from headrace.shards.store_local import LocalStore
from headrace.shards.testing import LaneDouble, settings_of

Borders = tuple[tuple[int, ...], tuple[int, ...], int]


def fingerprint(name: str) -> str:
    return hashlib.sha256(f"tokenizer {name}".encode()).hexdigest()


def stream_settings(stream: str, tokens: Any = "uint16", modality: str = "text", tokenizer: str = "t") -> Any:
    plain = settings_of(stream, tokens)
    if tokens is None:
        return replace(plain, modality=modality)
    return replace(plain, modality=modality, tokenizer=fingerprint(tokenizer), vocab_size=60_000)


@dataclass
class World:
    """A dataset that can grow."""

    path: str
    log: CommitLog
    lanes: list[LaneDouble]

    def grow(self, *rows: int) -> None:
        """One commit a lane."""
        for lane, count in zip(self.lanes, rows):
            self.log.append(lane.cut(count))

    def reopen(self) -> None:
        """Another writer takes over."""
        log = CommitLog(LocalStore(self.path))
        log.replay()
        log.claim({}, {})
        self.log = log
        for lane in self.lanes:
            lane.log = log


def world(
    path: Path | str,
    lanes: Iterable[tuple[str, int, str]],
    settings: dict[str, StreamSettings] | None = None,
    *,
    length: int = 40,
    **columns: Any,
) -> World:
    """An empty dataset; lanes are (stream, lane, split)."""
    store, listed = LocalStore(str(path), create=True), list(lanes)
    log = CommitLog(store)
    log.claim({}, settings or {name: stream_settings(name) for name, _, _ in listed})
    doubles = [LaneDouble(store, log, s, lane=n, split=split, length=length, **columns) for s, n, split in listed]
    return World(str(path), log, doubles)


def tide(path: Path | str, rounds: int = 5, rows: Sequence[int] = (9, 4, 3), **more: Any) -> World:
    """Two lanes of one stream and a second stream of the same tokenizer, a few commits each."""
    made = world(path, [("tide", 0, "north"), ("tide", 2, "south"), ("quay", 1, "east")], **more)
    for turn in range(rounds):
        made.grow(*(n + turn for n in rows))
    return made


def add_tokenizers(log: CommitLog, kinds: Sequence[str], vocabulary: bool = False) -> None:
    """Commit an artefact for each of these tokenizers, and perhaps the vocabulary over them."""
    infos, made = [], Vocabulary()
    for kind in kinds:
        head = canonical_json({"kind": kind, "params": {}})
        name = f"tokenizers/{fingerprint(kind)}/artefact.json"
        log.store.put_new(name, head)
        infos.append(TokenizerInfo(fingerprint(kind), kind, [FileInfo(name, sha256_hex(head), len(head))]))
        made = made.append(fingerprint(kind), kind, 60_000)
        if vocabulary:
            log.store.put_new(f"vocab/{made.digest}.json", made.to_bytes())
    log.append(Entry(kind="commit", tokenizers=infos, vocab=made.digest if vocabulary else None))


def many_kinds(
    path: Path | str, rounds: int = 3, vocabulary: bool = False, names: Sequence[str] = (), **more: Any
) -> World:
    """Text of two tokenizers, pictures in uint32, sound (or the streams with these names); with artefacts."""
    settings = {
        "text": stream_settings("text", "uint16", "text", "a"),
        "letters": stream_settings("letters", "uint16", "text", "b"),
        "image": stream_settings("image", "uint32", "image", "c"),
        "sound": stream_settings("sound", "uint16", "audio", "d"),
    }
    settings = {name: told for name, told in settings.items() if name in (names or settings)}
    lanes, columns = [(name, 0, name) for name in settings], {"shape": [8, 8], "dtype": "uint8", "rate": 16_000}
    made = world(path, lanes, settings, **columns, **more)
    add_tokenizers(made.log, ["a", "c"] if names else ["a", "b", "c", "d"], vocabulary)
    for turn in range(rounds):
        made.grow(6, 4 + turn, 3, 2)
    return made


def forget_some(made: World, where: str, *, erase: bool = False) -> None:
    done = forget(made.log, Selection(where=where), erase=erase)
    assert done.shards if erase else done.samples


def compacted(made: World, **policy: Any) -> None:
    assert compact(made.log, everything(**policy)).merges
    update_catalogue(Dataset(made.log.store, made.log.state))


def unified_borders(dataset: Dataset, streams: Sequence[str], vocabulary: Vocabulary) -> list[Borders]:
    out: list[Borders] = []
    for name in streams:
        settings = dataset.state.settings[name]
        base = vocabulary.block(settings.tokenizer).start
        if settings.modality == "text":
            out.append(((), (CONTROL["EOD"],), base))
        else:
            begin, end = begin_end(settings.modality)
            out.append(((begin,), (end, CONTROL["EOD"]), base))
    return out


def rows_of(batch: dict[str, Any]) -> list[tuple[Any, ...]]:
    """(tokens, targets, addresses) of each row of a batch of fixed length, as plain values."""
    tokens, targets = np.asarray(batch["tokens"]), np.asarray(batch["targets"])
    length = tokens.shape[1]
    edges, samples = np.asarray(batch["cu_seqlens"]).tolist(), batch["samples"]
    addresses: list[list[tuple[int, ...]]] = [[] for _ in tokens]
    for at, sample in zip(edges, samples):
        address = tuple(sample.tolist())  # of a numpy record as of a row of a tensor
        addresses[at // length].append((at % length, *address) if address[3] >= 0 else (at % length, -1))
    return [(t.tolist(), u.tolist(), a) for t, u, a in zip(tokens, targets, addresses)]


def is_padding(row: tuple[Any, ...]) -> bool:
    return row[2] == [(0, -1)]


def whole(data: ShardDataset) -> list[tuple[Any, ...]]:
    """All rows of a job of one process, padding of the last batch left out."""
    rows = [row for batch in data for row in rows_of(batch)]
    while rows and is_padding(rows[-1]):
        rows.pop()
    return rows


def through_json(state: dict[str, Any]) -> dict[str, Any]:
    """The state as a checkpoint would give it back; it is small."""
    text = json.dumps(state)
    assert len(text) < 1000, len(text)
    return json.loads(text)


def source_at(made: World | str, version: int | None = None, **more: Any) -> Source:
    path = made if isinstance(made, str) else made.path
    return Source(path, version=version, **more)
