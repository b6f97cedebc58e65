"""Which pieces of which documents make up a pack, from lengths alone: the same on every rank.

`cut`     documents end to end, cut every `length` tokens; a document that crosses a border goes on in the next pack
`whole`   documents of at most `length` tokens are never cut: packs are filled by best-fit decreasing; longer documents
          are divided into pieces of `length`
`pad`     one document a pack, padded; longer documents are divided into pieces of `length`
`ragged`  one document a pack, of whatever length

Nothing is dropped: what does not fill the last pack of a window is padded. A document's length here includes the border
tokens around its body and its own padding (`multiple`). Empty documents give no piece.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from headrace.shards.loader.table import Longs

Packing = Literal["cut", "whole", "pad", "ragged"]


@dataclass(frozen=True)
class Pieces:
    """Pieces of documents, in the order of packs and places. int64 arrays of one entry a piece.

    pack: index into the packs asked for; document: index into the window; offset: into the document, borders included;
    length: tokens, at least 1; at: where in the pack it stands.
    """

    pack: Longs
    document: Longs
    offset: Longs
    length: Longs
    at: Longs


class Layout(Protocol):
    """The packs of a window."""

    packs: int

    def pieces(self, packs: Longs) -> Pieces:
        """The pieces of these packs."""


class Cut:
    """Documents end to end, cut every `length`."""

    def __init__(self, lengths: Longs, length: int) -> None:
        self._length = length
        self._ends = np.cumsum(lengths)
        self._total = int(self._ends[-1]) if len(lengths) else 0
        self.packs = -(-self._total // length)
        borders = np.minimum(np.arange(self.packs + 1, dtype=np.int64) * length, self._total)
        # For all packs at once: a search of ascending numbers goes along the ends, others jump about in them.
        self._first = np.searchsorted(self._ends, borders[:-1], side="right")
        self._last = np.searchsorted(self._ends, borders[1:], side="left")

    def pieces(self, packs: Longs) -> Pieces:
        low = packs * self._length
        high = np.minimum(low + self._length, self._total)
        first = self._first[packs]
        pack, document = _expand(first, self._last[packs] - first + 1)
        ends = self._ends[document]
        starts = np.where(document > 0, self._ends[document - 1], 0)
        begin, end = np.maximum(starts, low[pack]), np.minimum(ends, high[pack])
        full = end > begin
        if not full.all():
            pack, document, starts, begin, end = pack[full], document[full], starts[full], begin[full], end[full]
        return Pieces(pack, document, begin - starts, end - begin, begin - low[pack])


class Whole:
    """Best-fit decreasing over the pieces of a window; packs come in the order of the first document in them."""

    def __init__(self, lengths: Longs, length: int, *, joined: bool = True) -> None:
        """`joined` False leaves each piece alone in its pack."""
        document, part = _expand(np.arange(len(lengths)), -(-lengths // length), count_from_zero=True)
        offset = part * length
        size = np.minimum(lengths[document] - offset, length)
        pack = _best_fit(size, length) if joined else np.arange(len(size))
        order = np.argsort(pack, kind="stable")
        self._document, self._offset, self._size = document[order], offset[order], size[order]
        self.packs = int(pack.max()) + 1 if len(pack) else 0
        self._first = np.searchsorted(pack[order], np.arange(self.packs + 1))

    def pieces(self, packs: Longs) -> Pieces:
        pack, piece = _expand(self._first[packs], self._first[packs + 1] - self._first[packs])
        size = self._size[piece]
        ends = np.cumsum(size)
        opened = np.flatnonzero(np.diff(pack, prepend=-1))
        before = np.repeat((ends - size)[opened], np.diff(np.append(opened, len(pack))))
        return Pieces(pack, self._document[piece], self._offset[piece], size, ends - size - before)


class Shuffled:
    """The packs of another layout in another order, so that a long document does not fill batch after batch."""

    def __init__(self, layout: Layout, turn: Longs) -> None:
        self._layout, self._turn = layout, turn
        self.packs = layout.packs

    def pieces(self, packs: Longs) -> Pieces:
        return self._layout.pieces(self._turn[packs])


class Ragged:
    """One document a pack. Needs no lengths."""

    def __init__(self, documents: int) -> None:
        self.packs = documents

    def pieces(self, packs: Longs) -> Pieces:
        zeros = np.zeros(len(packs), np.int64)
        return Pieces(np.arange(len(packs)), packs, zeros, zeros, zeros)


def _expand(first: Longs, counts: Longs, *, count_from_zero: bool = False) -> tuple[Longs, Longs]:
    """For each i, counts[i] times: (i, first[i] + 0, 1, …), or with `count_from_zero` (first[i], 0, 1, …)."""
    total = int(counts.sum())
    owner = np.repeat(np.arange(len(counts)), counts)
    within = np.arange(total) - np.repeat(np.cumsum(counts) - counts, counts)
    return (first[owner], within) if count_from_zero else (owner, first[owner] + within)


def _best_fit(sizes: Longs, length: int) -> Longs:
    """The pack of each piece: largest first, each into the fullest pack that has room, the oldest of equals.

    Best fit wastes no more than first fit (Johnson et al., "Worst-case performance bounds for simple one-dimensional
    packing algorithms", 1974) and needs only a sorted list.
    """
    packs = np.empty(len(sizes), np.int64)
    room: list[tuple[int, int]] = []  # (tokens left, pack), sorted
    opened = 0
    for piece in np.argsort(-sizes, kind="stable").tolist():
        size = int(sizes[piece])
        at = bisect_left(room, (size, -1))
        if at == len(room):
            left, pack, opened = length, opened, opened + 1
        else:
            left, pack = room.pop(at)
        packs[piece] = pack
        if left > size:
            insort(room, (left - size, pack))
    renamed = np.empty(opened, np.int64)  # packs opened by large documents first would sort the training by length
    _, seen = np.unique(packs, return_index=True)
    renamed[packs[np.sort(seen)]] = np.arange(opened)
    return renamed[packs]
