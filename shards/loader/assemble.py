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

from headrace.shards.loader.packing import Pieces
from headrace.shards.loader.table import Longs
from headrace.shards.loader.window import Window

#: What `torch.nn.functional.cross_entropy` ignores by default.
IGNORE = -100

OUTPUTS = ("tokens", "targets", "loss_mask", "position_ids", "cu_seqlens", "samples")


@dataclass(frozen=True)
class Borders:
    """What stands around a stream's bodies, and what is added to its ids (where they are seen as unified ones)."""

    prefix: tuple[int, ...] = ()
    suffix: tuple[int, ...] = ()
    base: int = 0


@dataclass(frozen=True)
class Assembled:
    """Rows of a batch, flat: `length` tokens a row, or of any length (then `ends` says where rows end).

    arrays: tokens, targets, loss_mask, position_ids, as asked for. starts: where segments begin (pieces and padding);
    document: of each segment, -1 for padding; offset: of the segment in the body; ends: where rows end.
    """

    arrays: dict[str, npt.NDArray[Any]]
    starts: Longs
    document: Longs
    offset: Longs
    ends: Longs


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

    def padding(self, tokens: int) -> dict[str, npt.NDArray[Any]]:
        """The arrays of that many padding tokens, `position_ids` all 0."""
        whole = {
            "tokens": np.full(tokens, self._pad, self._dtype),
            "targets": np.full(tokens, IGNORE, self._dtype),
            "loss_mask": np.zeros(tokens, np.bool_),
            "position_ids": np.zeros(tokens, np.int32),
        }
        return {name: array for name, array in whole.items() if name in self._outputs and self.active}

    def lengths(self, window: Window) -> Longs:
        """Of every document with its borders and padding; 0 for empty bodies."""
        total = window.lengths + (self._prefix + self._suffix)[window.stream]
        total += -total % self._multiple
        return np.where(window.lengths > 0, total, 0)

    def rows(self, window: Window, pieces: Pieces, count: int, length: int | None) -> Assembled:
        """`count` rows of `length` tokens; with None every piece is a row, whole. Raises: ShardError, StorageError."""
        starts, sizes = window.measure(pieces.document)
        stream = window.stream[pieces.document]
        before, content = self._prefix[stream], sizes + (self._prefix + self._suffix)[stream]
        if length is None:
            content = np.where(sizes > 0, content, 0)
            size = content + -content % self._multiple
            at = np.cumsum(size) - size
            offset, total, ends = np.zeros(len(size), np.int64), int(size.sum()), np.cumsum(size)
        else:
            size, offset = pieces.length, pieces.offset
            at, total = pieces.pack * length + pieces.at, count * length
            ends = np.arange(1, count + 1, dtype=np.int64) * length
        low, high = np.clip(offset - before, 0, sizes), np.clip(offset + size - before, 0, sizes)
        body_at = at + np.clip(before - offset, 0, None)  # of what is copied; where nothing is, it does not matter
        body_at = np.where(high > low, body_at, at)
        flat = self._copied(window, pieces.document, starts + low, starts + high, body_at, total)
        if self._base.any():
            flat = self._raised(flat, stream, body_at, high - low)
        gaps = self._gaps(body_at, high - low, total)
        if len(gaps):
            flat[gaps] = self._pad
        if not self._plain:
            self._border(flat, stream, sizes, at, offset, size)
        seen = np.minimum(content - offset, size)  # of a piece, without the padding of its document
        continued = offset + seen < content
        begun, document, inside = self._segments(pieces, at, size, total, np.clip(offset - before, 0, None), ends)
        arrays = self._predictions(window, pieces, flat, at, seen, continued, before, sizes, starts, stream, offset)
        if "position_ids" in self._outputs:
            counts = np.diff(np.append(begun, total))
            arrays["position_ids"] = np.arange(total, dtype=np.int32) - np.repeat(begun.astype(np.int32), counts)
        return Assembled(arrays, begun, document, inside, ends)

    def _copied(
        self, window: Window, documents: Longs, low: Longs, high: Longs, at: Longs, total: int
    ) -> npt.NDArray[Any]:
        block = window.block[documents]
        used = np.unique(block).tolist()
        values = {i: window.bodies(i).values for i in used}
        wide = any(v.dtype.itemsize == 4 for v in values.values())
        kind = np.dtype(np.uint32 if wide else np.uint16)
        step = kind.itemsize
        views = {i: v.astype(kind, copy=False).view(np.uint8).data for i, v in values.items()}
        gaps = at - np.concatenate([np.zeros(1, np.int64), (at + high - low)[:-1]])
        rest = total - int(at[-1] + high[-1] - low[-1]) if len(at) else total
        ranges = zip(block.tolist(), (low * step).tolist(), (high * step).tolist())
        if not gaps.any() and not rest:
            parts: list[Any] = [views[i][a:b] for i, a, b in ranges]
        else:
            nothing = bytes(int(max(gaps.max(initial=0), rest)) * step)
            parts = []
            for (i, a, b), gap in zip(ranges, (gaps * step).tolist()):
                if gap:
                    parts.append(nothing[:gap])
                parts.append(views[i][a:b])
            parts.append(nothing[: rest * step])
        return np.frombuffer(b"".join(parts), kind).astype(self._dtype)

    def _raised(self, flat: npt.NDArray[Any], stream: Longs, at: Longs, sizes: Longs) -> npt.NDArray[Any]:
        base = self._base[stream]
        if (base == base[:1]).all():
            flat += base[:1].astype(self._dtype)
            return flat
        added = np.zeros(len(flat), self._dtype)
        added[_ranges(at, sizes)] = np.repeat(base, sizes).astype(self._dtype)
        flat += added
        return flat

    def _gaps(self, at: Longs, sizes: Longs, total: int) -> Longs:
        """Places that no body covers."""
        ends = np.concatenate([np.zeros(1, np.int64), at + sizes])
        return _ranges(ends, np.append(at, total) - ends)

    def _border(
        self, flat: npt.NDArray[Any], stream: Longs, sizes: Longs, at: Longs, offset: Longs, size: Longs
    ) -> None:
        for number, borders in enumerate(self._borders):
            mine = stream == number
            for j, token in [
                *((j, t) for j, t in enumerate(borders.prefix)),
                *((-1 - j, t) for j, t in enumerate(reversed(borders.suffix))),
            ]:
                content = len(borders.prefix) + sizes + len(borders.suffix)
                place = (np.full(len(sizes), j) if j >= 0 else content + j) - offset
                here = mine & (place >= 0) & (place < size) & (sizes > 0)
                flat[(at + place)[here]] = token

    def _predictions(
        self,
        window: Window,
        pieces: Pieces,
        flat: npt.NDArray[Any],
        at: Longs,
        seen: Longs,
        continued: npt.NDArray[np.bool_],
        before: Longs,
        sizes: Longs,
        starts: Longs,
        stream: Longs,
        offset: Longs,
    ) -> dict[str, npt.NDArray[Any]]:
        arrays: dict[str, npt.NDArray[Any]] = {"tokens": flat} if "tokens" in self._outputs else {}
        if not self._outputs & {"targets", "loss_mask"}:
            return arrays
        full = seen > 0
        last = (at + seen - 1)[full]
        silent = _ranges(np.append(at + seen, 0), np.append(np.append(at[1:], len(flat)) - (at + seen), 0))
        if len(at) and at[0]:
            silent = np.append(silent, np.arange(at[0]))
        mask = np.ones(len(flat), np.bool_)
        mask[silent] = False
        mask[last[~continued[full]]] = False
        if "loss_mask" in self._outputs:
            arrays["loss_mask"] = mask
        if "targets" in self._outputs:
            targets = np.empty_like(flat)
            targets[:-1] = flat[1:]
            for i in np.flatnonzero(continued & full).tolist():  # one a row at most
                place = int(offset[i] + seen[i] - before[i])
                borders = self._borders[int(stream[i])]
                if place < 0:
                    token = borders.prefix[place]
                elif place < int(sizes[i]):
                    values = window.bodies(int(window.block[pieces.document[i]])).values
                    token = int(values[int(starts[i]) + place]) + borders.base
                else:
                    token = borders.suffix[place - int(sizes[i])]
                targets[int(at[i] + seen[i] - 1)] = token
            targets[~mask] = IGNORE
            arrays["targets"] = targets
        return arrays

    def _segments(
        self, pieces: Pieces, at: Longs, size: Longs, total: int, inside: Longs, ends: Longs
    ) -> tuple[Longs, Longs, Longs]:
        """Begin, document (-1: padding) and offset of every segment; padding at the end of a row is one of its own."""
        full = size > 0
        at, size, document, inside = at[full], size[full], pieces.document[full], inside[full]
        stops = at + size
        following = np.append(at[1:], total)
        open_ = stops < following
        # Padding runs to the end of its row; a row that is nothing but padding has no piece before it.
        rows = np.concatenate([np.zeros(1, np.int64), ends[:-1]])
        filled = np.zeros(len(rows), np.bool_)
        filled[np.searchsorted(ends, at, side="right")] = True
        pad = np.concatenate([stops[open_], rows[~filled]])
        pad = np.setdiff1d(pad[pad < total], at)
        begun = np.concatenate([at, pad])
        order = np.argsort(begun, kind="stable")
        nobody = np.full(len(pad), -1, np.int64)
        return (
            begun[order],
            np.concatenate([document, nobody])[order],
            np.concatenate([inside, np.zeros(len(pad), np.int64)])[order],
        )


def _ranges(first: Longs, counts: Longs) -> Longs:
    """first[i], first[i] + 1, …, counts[i] numbers for each i, in order."""
    total = int(counts.sum())
    return np.arange(total) + np.repeat(first - (np.cumsum(counts) - counts), counts)
