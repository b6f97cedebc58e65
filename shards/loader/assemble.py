"""Pieces of documents → the arrays of a batch.

Bodies are copied once, piece after piece, into one buffer; everything else is arithmetic on the ends of the pieces. A
position predicts the next token of its own document: the last token of a document predicts nothing, and a document that
is cut by a pack's end still predicts the token that opens the next pack.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from headrace.shards.loader.copying import end_to_end
from headrace.shards.loader.packing import Pieces
from headrace.shards.loader.table import Longs
from headrace.shards.loader.window import Window

#: What `torch.nn.functional.cross_entropy` ignores by default.
IGNORE = -100

OUTPUTS = ("tokens", "targets", "loss_mask", "position_ids", "cu_seqlens", "samples")
_SEGMENTED = {"position_ids", "cu_seqlens", "samples"}


@dataclass(frozen=True)
class Borders:
    """What stands around a stream's bodies, and what is added to its ids (where they are seen as unified ones)."""

    prefix: tuple[int, ...] = ()
    suffix: tuple[int, ...] = ()
    base: int = 0


@dataclass(frozen=True)
class Assembled:
    """Rows of a batch, laid end to end.

    arrays: tokens, targets, loss_mask, position_ids, as asked for. edges: where rows begin, and the end. starts: where
    segments (pieces and padding) begin, and the end; document: of each segment, -1 for padding; offset: in its body
    (nothing of segments where no output needs them).
    """

    arrays: dict[str, npt.NDArray[Any]]
    edges: Longs
    starts: Longs
    document: Longs
    offset: Longs


class Assembler:
    """Makes arrays of one component's pieces."""

    def __init__(
        self, borders: Sequence[Borders], *, outputs: Sequence[str], dtype: npt.DTypeLike, pad: int, multiple: int = 1
    ) -> None:
        """borders: by stream index. dtype: of tokens and targets. Documents are padded to a `multiple` with `pad`."""
        self._borders = list(borders)
        self._outputs = set(outputs)
        self._dtype = np.dtype(dtype)
        self._pad = pad
        self._multiple = multiple
        self._prefix = np.array([len(b.prefix) for b in borders], np.int64)
        self._suffix = np.array([len(b.suffix) for b in borders], np.int64)
        self._base = np.array([b.base for b in borders], np.int64)
        self._plain = not self._prefix.any() and not self._suffix.any()

    @property
    def active(self) -> bool:
        """Whether there are tokens to assemble: not of raw streams."""
        return bool(self._borders)

    def padding(self, rows: int, size: int) -> dict[str, npt.NDArray[Any]]:
        """The arrays of that many rows of `size` padding tokens."""
        tokens = rows * size
        whole = {
            "tokens": np.full(tokens, self._pad, self._dtype),
            "targets": np.full(tokens, IGNORE, self._dtype),
            "loss_mask": np.zeros(tokens, np.bool_),
            "position_ids": np.tile(np.arange(size, dtype=np.int32), rows),
        }
        return {name: array for name, array in whole.items() if name in self._outputs and self.active}

    def lengths(self, window: Window) -> Longs:
        """Of every document with its borders and padding; 0 for empty bodies."""
        total = window.lengths + (self._prefix + self._suffix)[window.stream]
        total += -total % self._multiple
        return np.where(window.lengths > 0, total, 0)

    def rows(self, window: Window, pieces: Pieces, count: int, length: int | None) -> Assembled:
        """`count` rows of `length` tokens; with None every piece is a row, whole. Raises: ShardError, StorageError."""
        laid = self._laid(window, pieces, count, length)
        flat = self._copied(window, laid)
        if self._base.any():
            self._raise(flat, laid)
        if not laid.full:
            flat[self._gaps(laid)] = self._pad
            if not self._plain:
                self._border(flat, laid)
        nobody = np.empty(0, np.int64)
        starts, document, offset = self._segments(laid) if self._outputs & _SEGMENTED else (laid.edges, nobody, nobody)
        arrays = self._predictions(window, flat, laid)
        if "position_ids" in self._outputs:
            arrays["position_ids"] = _places(starts)
        return Assembled(arrays, laid.edges, starts, document, offset)

    def _laid(self, window: Window, pieces: Pieces, count: int, length: int | None) -> _Laid:
        starts, sizes = window.measure(pieces.document)
        stream = window.stream[pieces.document]
        before = self._prefix[stream]
        content = np.where(sizes > 0, sizes + before + self._suffix[stream], 0) if not self._plain else sizes
        if length is None:
            size = content + -content % self._multiple
            ends = np.cumsum(size)
            at, offset = ends - size, np.zeros(len(size), np.int64)
            edges = np.concatenate([np.zeros(1, np.int64), ends])
        else:
            size, offset, at = pieces.length, pieces.offset, pieces.pack * length + pieces.at
            edges = np.arange(count + 1, dtype=np.int64) * length
        if self._plain and self._multiple == 1:
            low, high, body_at = offset, offset + size, at
        else:
            low, high = np.clip(offset - before, 0, sizes), np.clip(offset + size - before, 0, sizes)
            body_at = np.where(high > low, at + np.clip(before - offset, 0, None), at)
        full = int((high - low).sum()) == int(edges[-1])
        place = pieces.document, stream, at, size, offset, content
        return _Laid(*place, starts, sizes, before, low, high, body_at, edges, full)

    def _copied(self, window: Window, laid: _Laid) -> npt.NDArray[Any]:
        """The bodies, each at its place; what no body covers is 0."""
        block = window.block[laid.document]
        low, high = laid.starts + laid.low, laid.starts + laid.high
        if laid.full:
            alone = np.ones(len(block), np.bool_)  # in order, neighbours lie end to end: one copy for all of them
            alone[1:] = (block[1:] != block[:-1]) | (low[1:] != high[:-1])
            first = np.flatnonzero(alone)
            block, low, high = block[first], low[first], high[np.append(first[1:], len(block)) - 1]
            gaps = None
        else:
            ends = np.concatenate([np.zeros(1, np.int64), laid.body_at + laid.high - laid.low])
            gaps = np.append(laid.body_at, laid.edges[-1]) - ends
        used, which = np.unique(block, return_inverse=True)
        return end_to_end(window.held(used.tolist()), which, low, high, gaps).astype(self._dtype)

    def _raise(self, flat: npt.NDArray[Any], laid: _Laid) -> None:
        """Add the base of each stream to the ids of its bodies; what no body covers is overwritten later."""
        base = self._base[laid.stream]
        if (base == base[:1]).all():
            flat += base[:1].astype(self._dtype)
            return
        size = laid.high - laid.low
        flat[_ranges(laid.body_at, size)] += np.repeat(base, size).astype(self._dtype)

    def _gaps(self, laid: _Laid) -> Longs:
        """Places that no body covers."""
        ends = np.concatenate([np.zeros(1, np.int64), laid.body_at + laid.high - laid.low])
        return _ranges(ends, np.append(laid.body_at, laid.edges[-1]) - ends)

    def _border(self, flat: npt.NDArray[Any], laid: _Laid) -> None:
        for number, borders in enumerate(self._borders):
            mine = (laid.stream == number) & (laid.sizes > 0)
            tokens = [*enumerate(borders.prefix), *((-1 - j, t) for j, t in enumerate(reversed(borders.suffix)))]
            for j, token in tokens:
                place = (laid.content + j if j < 0 else np.full(len(laid.at), j)) - laid.offset
                here = mine & (place >= 0) & (place < laid.size)
                flat[(laid.at + place)[here]] = token

    def _predictions(self, window: Window, flat: npt.NDArray[Any], laid: _Laid) -> dict[str, npt.NDArray[Any]]:
        arrays: dict[str, npt.NDArray[Any]] = {"tokens": flat} if "tokens" in self._outputs else {}
        if not self._outputs & {"targets", "loss_mask"}:
            return arrays
        total = int(laid.edges[-1])
        seen = np.minimum(laid.content - laid.offset, laid.size)  # of a piece, without the padding of its document
        continued = (laid.offset + seen < laid.content) & (seen > 0)
        stops = laid.at + seen
        silent = (stops - 1)[~continued & (seen > 0)]
        if not laid.full:  # padding: between what is seen of one piece and the next, and before the first
            begun = np.concatenate([np.zeros(1, np.int64), stops])
            silent = np.concatenate([silent, _ranges(begun, np.append(laid.at, total) - begun)])
        if "loss_mask" in self._outputs:
            mask = arrays["loss_mask"] = np.ones(total, np.bool_)
            mask[silent] = False
        if "targets" in self._outputs:
            targets = np.empty_like(flat)
            targets[:-1] = flat[1:]
            cut = np.flatnonzero(continued)  # one a row at most
            targets[stops[cut] - 1] = self._tokens(window, laid, cut, (laid.offset + seen)[cut])
            targets[silent] = IGNORE
            arrays["targets"] = targets
        return arrays

    def _tokens(self, window: Window, laid: _Laid, piece: Longs, place: Longs) -> Longs:
        """The token at a place of the document of each of these pieces, borders included."""
        stream, size = laid.stream[piece], laid.sizes[piece]
        inside = place - laid.before[piece]
        body = (inside >= 0) & (inside < size)
        found = np.empty(len(piece), np.int64)
        block = window.block[laid.document[piece[body]]]
        used, which = np.unique(block, return_inverse=True)
        held = window.held(used.tolist())
        at = laid.starts[piece[body]] + inside[body]
        found[body] = [int(held[i][a]) for i, a in zip(which.tolist(), at.tolist())]
        found[body] += self._base[stream[body]]
        for i in np.flatnonzero(~body).tolist():
            borders = self._borders[int(stream[i])]
            before, after = int(inside[i]), int(inside[i] - size[i])
            found[i] = borders.prefix[len(borders.prefix) + before] if before < 0 else borders.suffix[after]
        return found

    def _segments(self, laid: _Laid) -> tuple[Longs, Longs, Longs]:
        """Begins (and the end), document (-1: padding) and offset in the body of every segment.

        Padding at the end of a row is a segment of its own; that of a document belongs to the document's.
        """
        total = int(laid.edges[-1])
        at, size, document, inside = laid.at, laid.size, laid.document, np.clip(laid.offset - laid.before, 0, None)
        if int(size.sum()) != total or not size.all():
            some = size > 0
            at, size, document, inside = at[some], size[some], document[some], inside[some]
            stops = at + size
            open_ = stops[stops < np.append(at[1:], total)]
            pad = np.setdiff1d(np.concatenate([open_, laid.edges[:-1]]), at)  # a row of padding alone has no piece
            pad = pad[pad < total]
            covered = np.searchsorted(at, pad, side="right") - 1
            pad = pad[(covered < 0) | (pad >= stops[np.maximum(covered, 0)])] if len(at) else pad
            order = np.argsort(np.concatenate([at, pad]), kind="stable")
            nobody = np.full(len(pad), -1, np.int64)
            at = np.concatenate([at, pad])[order]
            document = np.concatenate([document, nobody])[order]
            inside = np.concatenate([inside, np.zeros(len(pad), np.int64)])[order]
        return np.append(at, total), document, inside


@dataclass(frozen=True)
class _Laid:
    """Pieces with all that is known of them; arrays of one entry a piece, `edges` of one a row and the end."""

    document: Longs
    stream: Longs
    at: Longs  # where the piece begins
    size: Longs  # its tokens, with the padding of its document
    offset: Longs  # in the document, borders included
    content: Longs  # of the whole document, borders included, padding not
    starts: Longs  # of the body in its block
    sizes: Longs  # of the body
    before: Longs  # tokens of its prefix
    low: Longs  # the part of the body that the piece holds
    high: Longs
    body_at: Longs  # where that part begins
    edges: Longs
    full: bool  # bodies cover everything


def _places(starts: Longs) -> npt.NDArray[np.int32]:
    """0, 1, 2, … in every segment: copies of one row of numbers, six times as fast as `np.repeat`."""
    sizes = np.diff(starts)
    count = np.arange(sizes.max(initial=0), dtype=np.int32)
    zeros = np.zeros(len(sizes), np.int64)
    return end_to_end([count], zeros, zeros, sizes)


def _ranges(first: Longs, counts: Longs) -> Longs:
    """first[i], first[i] + 1, …, counts[i] numbers for each i, in order."""
    total = int(counts.sum())
    return np.arange(total) + np.repeat(first - (np.cumsum(counts) - counts), counts)
