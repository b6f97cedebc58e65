"""The order of a loader once more, by brute force and in plain Python: from what its documentation promises.

Lists of single tokens, one loop a rule, no arithmetic on arrays: slow, and easy to believe. A *cell* is (token,
target); a *document* is a list of cells with its address; a *row* is a list of pieces of documents.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

from headrace.schemas.record import list_views
from headrace.shards.dataset import Dataset

IGNORE = -100
MASK = (1 << 64) - 1


@dataclass(frozen=True)
class Document:
    """Its cells with borders and padding; `before` border tokens stand before the body."""

    source: int
    stream: int
    lane: int
    seq: int
    cells: tuple[tuple[int, int], ...]
    before: int


@dataclass(frozen=True)
class Piece:
    """`count` cells of a document from `offset` on."""

    document: Document
    offset: int
    count: int

    def address(self) -> tuple[int, int, int, int, int]:
        """As in `batch["samples"]`: source, stream, lane, seq, offset in the body."""
        d = self.document
        return d.source, d.stream, d.lane, d.seq, max(self.offset - d.before, 0)


Row = list[Piece]


@dataclass
class Part:
    """One source for the oracle. borders: of each stream (prefix, suffix, base)."""

    datasets: list[Dataset]  #: one for all passes, or one an era
    streams: list[str]
    borders: list[tuple[tuple[int, ...], tuple[int, ...], int]]
    weight: Any = 1
    fold: str | None = None
    skipped: set[tuple[int, int]] = field(default_factory=set)  #: (lap, block)


@dataclass
class Settings:
    """Those of the loader."""

    length: int = 64
    packing: str = "cut"
    multiple: int = 1
    shuffle: bool = True
    seed: int = 0
    window_bytes: int | None = None
    epochs: int = 1
    pad: int = 0
    follow: bool = False


def mixed(key: int, place: int) -> int:
    """SplitMix64."""
    z = (place * 0x9E3779B97F4A7C15 + key) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def shuffled(n: int, *key: Any) -> list[int]:
    digest = hashlib.sha256(json.dumps(list(key), separators=(",", ":")).encode()).digest()
    number = int.from_bytes(digest[:8], "little")
    return sorted(range(n), key=lambda i: mixed(number, i + 1))


Raw = list[tuple[int, int, list[int], list[list[int]], list[str], int]]
_RAW: dict[tuple[str, str], Raw] = {}


def raw(dataset: Dataset, stream: str) -> Raw:
    """(lane, bytes, seqs, bodies, folds, where it ends) of each block, read once."""
    key = dataset.state.digest, stream
    if key not in _RAW:
        _RAW[key] = [
            (
                found.shard.lane,
                found.shard.blocks[found.block].length,
                found.seqs.tolist(),
                [np.asarray(v).tolist() for v in list_views(found.batch, "tokens")],
                found.batch.column("fold").to_pylist(),
                found.shard.stop_seq if found.shard.missing else int(found.seqs[-1]) + 1,
            )
            for found in dataset.located(stream)
        ]
    return _RAW[key]


def documents(settings: Settings, number: int, part: Part, lap: int) -> list[tuple[int, list[Document]]]:
    """(bytes, visible documents) of every block of a pass, by address."""
    dataset = part.datasets[lap if settings.follow else 0]
    earlier = part.datasets[lap - 1].state.next_seq if settings.follow and lap else {}
    blocks = []
    for i, stream in enumerate(part.streams):
        prefix, suffix, base = part.borders[i]
        for lane, size, seqs, bodies, folds, stop in raw(dataset, stream):
            begin = earlier.get((stream, lane), 0)
            if stop <= begin:
                continue
            gone = dataset.state.deleted.get((stream, lane), [])
            own = []
            for seq, body, fold in zip(seqs, bodies, folds):
                if seq < begin or part.fold not in (None, fold) or any(s.start <= seq < s.stop for s in gone):
                    continue
                full = [*prefix, *(t + base for t in body), *suffix] if body else []
                cells = list(zip(full, [*full[1:], IGNORE])) if full else []
                while len(cells) % settings.multiple:
                    cells.append((settings.pad, IGNORE))
                own.append(Document(number, i, lane, seq, tuple(cells), len(prefix)))
            blocks.append((size, own))
    return blocks


def windows(settings: Settings, number: int, part: Part, lap: int) -> Iterator[list[Document]]:
    """The documents of each window of a pass, in training order."""
    blocks = documents(settings, number, part, lap)
    order = list(range(len(blocks)))
    if settings.shuffle:
        order = shuffled(len(blocks), "blocks", settings.seed, number, lap)
    groups: list[list[int]] = []
    filled, last = 0, None
    for block in order:
        which = 0 if settings.window_bytes is None else filled // settings.window_bytes
        if which != last:
            groups.append([])
            last = which
        groups[-1].append(block)
        filled += blocks[block][0]
    for w, group in enumerate(groups):
        found = [d for block in group if (lap, block) not in part.skipped for d in blocks[block][1]]
        if settings.shuffle:
            found = [found[i] for i in shuffled(len(found), "rows", settings.seed, number, lap, w)]
        yield found


def packed(settings: Settings, found: Sequence[Document]) -> list[Row]:
    """The rows of a window."""
    length = settings.length
    if settings.packing == "ragged":
        return [[Piece(d, 0, len(d.cells))] for d in found]
    if settings.packing == "cut":
        rows: list[Row] = []
        room = 0
        for d in found:
            at = 0
            while at < len(d.cells):
                if not room:
                    rows.append([])
                    room = length
                count = min(room, len(d.cells) - at)
                rows[-1].append(Piece(d, at, count))
                at, room = at + count, room - count
        return rows
    pieces = [Piece(d, at, min(length, len(d.cells) - at)) for d in found for at in range(0, len(d.cells), length)]
    if settings.packing == "pad":
        return [[piece] for piece in pieces]
    bins: list[list[int]] = []
    for i in sorted(range(len(pieces)), key=lambda i: -pieces[i].count):
        left = [length - sum(pieces[j].count for j in b) for b in bins]
        fits = [b for b in range(len(bins)) if left[b] >= pieces[i].count]
        if fits:
            bins[min(fits, key=lambda b: (left[b], b))].append(i)
        else:
            bins.append([i])
    return [[pieces[i] for i in sorted(b)] for b in sorted(bins, key=min)]


def packs(settings: Settings, number: int, part: Part) -> Iterator[Row]:
    """All rows of one source, pass after pass."""
    for lap in range(len(part.datasets) if settings.follow else settings.epochs):
        for w, window in enumerate(windows(settings, number, part, lap)):
            rows = packed(settings, window)
            if settings.shuffle and settings.packing != "ragged":
                rows = [rows[i] for i in shuffled(len(rows), "packs", settings.seed, number, lap, w)]
            yield from rows


def weight_at(weight: Any, g: int) -> Fraction:
    if isinstance(weight, (int, float)):
        return Fraction(str(weight))
    return next(Fraction(str(w)) for start, w in reversed(weight) if start <= g)


def sequences(settings: Settings, parts: Sequence[Part]) -> list[Row]:
    """Every sequence of the job: the source that is furthest behind its share gives the next."""
    sources = [packs(settings, i, part) for i, part in enumerate(parts)]
    borders = {g for p in parts if not isinstance(p.weight, (int, float)) for g, _ in p.weight}
    done = [False] * len(parts)
    rows: list[Row] = []
    base = 0
    given = [0] * len(parts)
    while True:
        g = len(rows)
        if g in borders and base != g:
            base, given = g, [0] * len(parts)
        weights = [Fraction(0) if done[i] else weight_at(p.weight, g) for i, p in enumerate(parts)]
        if not any(weights):
            return rows
        behind = [w * (g - base + 1) - sum(weights) * n if w else Fraction(-(10**9)) for w, n in zip(weights, given)]
        due = max(range(len(parts)), key=lambda i: (behind[i], -i))
        row = next(sources[due], None)
        if row is None:
            done[due], base, given = True, g, [0] * len(parts)
        else:
            given[due] += 1
            rows.append(row)


def arrays(settings: Settings, rows: Sequence[Row]) -> dict[str, Any]:
    """What a batch of these rows holds; an empty row is padding."""
    cells: list[tuple[int, int]] = []
    positions: list[int] = []
    edges: list[int] = []
    samples: list[tuple[int, ...]] = []
    for row in rows:
        start = len(cells)
        for piece in row:
            if piece.count:
                edges.append(len(cells))
                samples.append(piece.address())
                cells += piece.document.cells[piece.offset : piece.offset + piece.count]
                positions += range(piece.count)
        if settings.packing != "ragged" and len(cells) - start < settings.length:
            rest = settings.length - (len(cells) - start)
            edges.append(len(cells))
            samples.append((-1, -1, -1, -1, 0))
            cells += [(settings.pad, IGNORE)] * rest
            positions += range(rest)
    edges.append(len(cells))
    shape = (len(rows), settings.length) if settings.packing != "ragged" else (len(cells),)
    return {
        "tokens": np.array([c[0] for c in cells]).reshape(shape),
        "targets": np.array([c[1] for c in cells]).reshape(shape),
        "loss_mask": np.array([c[1] != IGNORE for c in cells], bool).reshape(shape),
        "position_ids": np.array(positions).reshape(shape),
        "cu_seqlens": np.array(edges),
        "samples": samples,
    }


def check(batch: dict[str, Any], expected: dict[str, Any]) -> None:
    """A batch is what the oracle says, array by array."""
    for name, want in expected.items():
        if name == "samples":
            found = batch["samples"]
            names = ("source", "stream", "lane", "seq", "offset")
            told = [tuple(int(s[n]) for n in names) if s["seq"] >= 0 else (-1, -1, -1, -1, 0) for s in found]
            assert told == want
        else:
            assert np.asarray(batch[name]).shape == want.shape, name
            assert (np.asarray(batch[name]) == want).all(), name
    assert batch["max_seqlen"] == max(np.diff(expected["cu_seqlens"]).tolist(), default=0)
