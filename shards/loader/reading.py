"""One process reading its share: walks the order, assembles its own rows in slabs, hands out batches."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from headrace.shards.loader.ahead import Ahead
from headrace.shards.loader.batches import SEGMENT, Queue, Slab, interleaved
from headrace.shards.loader.component import Component
from headrace.shards.loader.layout import Share
from headrace.shards.loader.order import Order, Run
from headrace.shards.loader.table import Longs
from headrace.shards.loader.window import Window

#: Tokens that are assembled at once: enough to make what a slab costs small beside its tokens.
_SLAB_TOKENS = 1 << 20
_RAGGED_ROWS = 64
_SCANNED = 1 << 16  # sequences of the whole job that are looked through at once

StateOf = Callable[[dict[str, Any] | None], dict[str, Any]]  #: what states of an anchor have in common


class Reading:
    """Batches from sequence `start` on. `length` None: rows of any length. `close` sets `closed`."""

    def __init__(
        self,
        order: Order,
        components: Sequence[Component],
        share: Share,
        start: int,
        length: int | None,
        columns: Sequence[str],
        outputs: Collection[str],
        state_of: StateOf,
        closed: threading.Event,
    ) -> None:
        self._order, self._components, self._share, self._start = order, list(components), share, start
        self._length, self._columns, self._state_of = length, list(columns), state_of
        self._outputs = outputs
        self._tokens = components[0].assembler.active
        self._queue = Queue()
        # The first batch of this worker that is not before `start`.
        first = -(-(start - share.base) // share.step)
        self._next = first + (share.worker - first) % share.workers
        self._ahead = Ahead(self._slabs(), closed)

    def batches(self) -> Iterator[dict[str, Any]]:
        """This share's batches. Raises: ShardError, StorageError, ConfigError."""
        anchor: dict[str, Any] | None = None
        for slab, anchor in self._ahead:
            yield from self._whole(slab, anchor) if self._length is not None else self._ragged(slab, anchor)
        behind = self._order.g - self._share.base
        if behind % self._share.step or self._queue.rows:
            yield from self._last(anchor, -(-behind // self._share.step))

    def close(self) -> None:
        """End the threads and forget the windows."""
        self._ahead.close()
        for component in self._components:
            component.close()

    def _slabs(self) -> Iterator[tuple[Slab, dict[str, Any]]]:
        """Own rows, many at once, each with an anchor from which they can be reached."""
        tokens = self._length or 1
        rows = max(_SLAB_TOKENS // tokens, self._share.batch) if self._length is not None else _RAGGED_ROWS
        rows -= rows % self._share.batch
        most = max(min(rows * self._share.world * self._share.workers, _SCANNED), self._share.step)
        most -= most % self._share.step  # whole batches, so that they are views
        scanned = self._share.step * self._share.workers  # little for the first batch, twice as much for the next, …
        for run in self._order.runs():
            at = max(run.start, self._start)
            while at < run.stop:
                stop = min(at + scanned - (at - self._share.base) % scanned, run.stop)
                scanned = min(2 * scanned, most)
                sequences = np.arange(at, stop, dtype=np.int64)
                own = sequences[self._share.own(sequences)]
                if len(own):
                    yield self._slab(run, own), run.anchor
                at = stop

    def _whole(self, slab: Slab, anchor: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
        """Batches of rows of one length. Those that lie within the slab are views of it."""
        size = self._share.batch
        begin = min(-self._queue.rows % size, len(slab))
        if begin:
            self._queue.put(slab.rows(0, begin))
            yield from self._full(anchor)
        end = len(slab) - (len(slab) - begin) % size
        if begin < end:
            yield from self._views(slab, begin, end, anchor)
        if end < len(slab):
            self._queue.put(slab.rows(end, len(slab)))

    def _views(self, slab: Slab, begin: int, end: int, anchor: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
        size, edges = self._share.batch, slab.edges
        shaped = [(name, array.reshape(len(slab), -1)) for name, array in slab.arrays.items()]
        lasting = self._state_of(anchor)
        segments = "samples" in self._outputs
        lengths = "cu_seqlens" in self._outputs and self._tokens
        firsts = slab.first[begin : end + 1 : size]
        sizes = np.diff(slab.starts[: firsts[-1] + 1]) if lengths else slab.starts[:0]
        longest = np.maximum.reduceat(sizes, firsts[:-1]).tolist() if lengths else []
        for i, row in enumerate(range(begin, end, size)):
            batch: dict[str, Any] = {name: array[row : row + size] for name, array in shaped}
            if lengths:
                batch["cu_seqlens"] = slab.starts[firsts[i] : firsts[i + 1] + 1] - np.int32(edges[row])
                batch["max_seqlen"] = longest[i]
            if segments:
                batch["samples"] = slab.segments[firsts[i] : firsts[i + 1]]
            yield self._placed(batch, lasting)

    def _ragged(self, slab: Slab, anchor: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
        self._queue.put(slab)
        yield from self._full(anchor)

    def _full(self, anchor: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
        while self._queue.rows >= self._share.batch:
            yield self._batch(self._queue.take(self._share.batch), anchor)

    def _last(self, anchor: dict[str, Any] | None, batches: int) -> Iterator[dict[str, Any]]:
        """The last batch of the job, filled with padding: every rank has as many batches as the others."""
        if self._next < batches:
            self._queue.put(self._padding(self._share.batch - self._queue.rows))
            yield from self._full(anchor)

    def _batch(self, slab: Slab, anchor: dict[str, Any] | None) -> dict[str, Any]:
        batch: dict[str, Any] = slab.arrays
        if self._length is not None:
            batch = {name: array.reshape(self._share.batch, self._length) for name, array in batch.items()}
        if "cu_seqlens" in self._outputs and self._tokens:
            edges = batch["cu_seqlens"] = slab.starts - np.int32(slab.edges[0])
            batch["max_seqlen"] = int((edges[1:] - edges[:-1]).max(initial=0))
        if "samples" in self._outputs:
            batch["samples"] = slab.segments
        if slab.records is not None:
            batch["records"] = slab.records
        return self._placed(batch, self._state_of(anchor))

    def _placed(self, batch: dict[str, Any], lasting: dict[str, Any]) -> dict[str, Any]:
        """The batch with its number and the state after it."""
        share = self._share
        number, self._next = self._next, self._next + share.workers
        batch["g"] = share.base + number * share.step + share.rank * share.batch
        batch["state"] = {**lasting, "g": share.after(number), "base": share.base}
        return batch

    # ---- rows ----

    def _slab(self, run: Run, own: Longs) -> Slab:
        part, n = run.turns.of(own - run.base)
        found = []
        for i in np.unique(part).tolist():
            places = np.flatnonzero(part == i)
            component = self._components[i]
            packs = n[places] - run.begun[i] + component.spot.pack
            found.append((self._rows(i, component, packs), places))
        return interleaved(found, len(own))

    def _rows(self, number: int, component: Component, packs: Longs) -> Slab:
        window, pieces = component.window, component.layout.pieces(packs)
        if not self._tokens:
            return self._samples(number, component, pieces.document)
        made = component.assembler.rows(window, pieces, len(packs), self._length)
        segments = np.zeros(len(made.document) if "samples" in self._outputs else 0, SEGMENT)
        if "samples" in self._outputs:
            segments["source"], segments["offset"] = number, made.offset
            _address(segments, window, made.document)
        first = np.searchsorted(made.starts[:-1], made.edges)
        records = window.records(pieces.document, self._columns) if self._columns else None
        return Slab(made.arrays, made.edges.tolist(), made.starts.astype(np.int32), first.tolist(), segments, records)

    def _samples(self, number: int, component: Component, documents: Longs) -> Slab:
        """Raw samples: columns and no tokens."""
        segments = np.zeros(len(documents), SEGMENT)
        segments["source"] = number
        _address(segments, component.window, documents)
        nothing = [0] * (len(documents) + 1)
        records = component.window.records(documents, self._columns)
        return Slab({}, nothing, np.zeros(len(nothing), np.int32), list(range(len(nothing))), segments, records)

    def _padding(self, rows: int) -> Slab:
        size = 0 if not self._tokens else 1 if self._length is None else self._length
        segments = np.zeros(rows, SEGMENT)
        for name in ("seq", "stream", "lane"):
            segments[name] = -1
        arrays = self._components[0].assembler.padding(rows, size)
        edges = np.arange(rows + 1, dtype=np.int32) * np.int32(size)
        return Slab(arrays, edges.tolist(), edges, list(range(rows + 1)), segments)


def _address(segments: npt.NDArray[Any], window: Window, document: Longs) -> None:
    """Fill in where the documents are; -1 is padding."""
    real = slice(None) if not len(document) or document.min() >= 0 else document >= 0
    lanes, seqs = window.addresses(document[real])
    if not isinstance(real, slice):
        for name in ("stream", "lane", "seq"):
            segments[name] = -1
    segments["stream"][real], segments["lane"][real], segments["seq"][real] = window.stream[document[real]], lanes, seqs
