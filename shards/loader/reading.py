"""One process reading its share: walks the order, assembles its own rows in slabs, hands out batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from headrace.shards.loader.batches import SEGMENT, Queue, Slab, interleaved
from headrace.shards.loader.component import Component
from headrace.shards.loader.layout import Share
from headrace.shards.loader.order import Order, Run
from headrace.shards.loader.table import Longs

#: Tokens that are assembled at once: enough to make per-row costs small, little enough to stay in the cache.
_SLAB_TOKENS = 1 << 19
_RAGGED_ROWS = 64
_SCANNED = 1 << 16  # sequences of the whole job that are looked through at once

StateOf = Callable[[dict[str, Any] | None, int, int], dict[str, Any]]


class Reading:
    """Batches from sequence `start` on. `length` None: rows of any length."""

    def __init__(
        self,
        order: Order,
        components: Sequence[Component],
        share: Share,
        start: int,
        length: int | None,
        columns: Sequence[str],
        state_of: StateOf,
    ) -> None:
        self._order, self._components, self._share, self._start = order, list(components), share, start
        self._length, self._columns, self._state_of = length, list(columns), state_of
        self._queue = Queue()
        # The first batch of this worker that is not before `start`.
        first = -(-(start - share.base) // share.step)
        self._next = first + (share.worker - first) % share.workers

    def batches(self) -> Iterator[dict[str, Any]]:
        """This share's batches. Raises: ShardError, StorageError, ConfigError."""
        anchor: dict[str, Any] | None = None
        tokens = self._length or 1
        rows = max(_SLAB_TOKENS // tokens, self._share.batch) if self._length is not None else _RAGGED_ROWS
        scanned = max(min(rows * self._share.world * self._share.workers, _SCANNED), self._share.step)
        scanned -= scanned % self._share.step  # whole batches, so that they are views
        for run in self._order.runs():
            anchor = run.anchor
            at = max(run.start, self._start)
            while at < run.stop:
                stop = min(at + scanned - (at - self._share.base) % scanned, run.stop)
                sequences = np.arange(at, stop, dtype=np.int64)
                own = sequences[self._share.own(sequences)]
                if len(own):
                    self._queue.put(self._slab(run, own))
                yield from self._full(anchor)
                at = stop
        behind = self._order.g - self._share.base
        if behind % self._share.step or self._queue.rows:
            yield from self._last(anchor, -(-behind // self._share.step))

    def close(self) -> None:
        """End the threads and forget the windows."""
        for component in self._components:
            component.close()

    def _full(self, anchor: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
        while self._queue.rows >= self._share.batch:
            yield self._batch(self._queue.take(self._share.batch), anchor)

    def _last(self, anchor: dict[str, Any] | None, batches: int) -> Iterator[dict[str, Any]]:
        """The last batch of the job, filled with padding: every rank has as many batches as the others."""
        if self._next < batches:
            self._queue.put(self._padding(self._share.batch - self._queue.rows))
            yield from self._full(anchor)

    def _batch(self, slab: Slab, anchor: dict[str, Any] | None) -> dict[str, Any]:
        share = self._share
        number, self._next = self._next, self._next + share.workers
        after = share.after(number)
        starts = slab.segments["start"].astype(np.int32)
        if self._length is None:
            starts += (slab.ends - np.diff(slab.ends, prepend=0))[slab.segments["row"]].astype(np.int32)
        else:
            starts += slab.segments["row"] * np.int32(self._length)
        edges = np.append(starts, np.int32(slab.ends[-1]))
        batch: dict[str, Any] = {}
        for name, array in slab.arrays.items():
            batch[name] = array if self._length is None else array.reshape(share.batch, self._length)
        if slab.arrays or self._length is not None:
            batch["cu_seqlens"] = edges
            batch["max_seqlen"] = int(np.diff(edges).max())
        batch["samples"] = slab.segments
        if slab.records is not None:
            batch["records"] = slab.records
        batch["g"] = share.base + number * share.step + share.rank * share.batch
        batch["state"] = self._state_of(anchor, after, share.base)
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
        if not component.assembler.active:
            return self._samples(number, component, pieces.document)
        made = component.assembler.rows(window, pieces, len(packs), self._length)
        segments = np.zeros(len(made.starts), SEGMENT)
        row = np.searchsorted(made.ends, made.starts, side="right")
        begins = made.ends - np.diff(made.ends, prepend=0)
        segments["row"], segments["start"] = row, made.starts - begins[row]
        segments["source"], segments["offset"] = number, made.offset
        segments["seq"], segments["stream"], segments["lane"] = -1, -1, -1
        real = made.document >= 0
        documents = made.document[real]
        lanes, seqs = window.addresses(documents)
        if real.all():
            segments["stream"], segments["lane"], segments["seq"] = window.stream[documents], lanes, seqs
        else:
            segments["stream"][real], segments["lane"][real], segments["seq"][real] = (
                window.stream[documents],
                lanes,
                seqs,
            )
        first = np.searchsorted(row, np.arange(len(packs) + 1))
        records = window.records(pieces.document, self._columns) if self._columns else None
        return Slab(made.arrays, made.ends, segments, first, records)

    def _samples(self, number: int, component: Component, documents: Longs) -> Slab:
        """Raw samples: columns and no tokens."""
        window = component.window
        segments = np.zeros(len(documents), SEGMENT)
        segments["row"], segments["source"] = np.arange(len(documents)), number
        segments["stream"] = window.stream[documents]
        segments["lane"], segments["seq"] = window.addresses(documents)
        ends = np.zeros(len(documents), np.int64)
        records = window.records(documents, self._columns)
        return Slab({}, ends, segments, np.arange(len(documents) + 1), records)

    def _padding(self, rows: int) -> Slab:
        assembler = self._components[0].assembler
        size = self._length if self._length is not None else 1
        segments = np.zeros(rows, SEGMENT)
        segments["row"], segments["seq"], segments["stream"], segments["lane"] = np.arange(rows), -1, -1, -1
        arrays = assembler.padding(rows * size)
        if self._length is None:
            ends = np.arange(1, rows + 1) if arrays else np.zeros(rows, np.int64)
        else:
            ends = np.arange(1, rows + 1, dtype=np.int64) * size
            if "position_ids" in arrays:
                arrays["position_ids"] = np.tile(np.arange(size, dtype=np.int32), rows)
        return Slab(arrays, ends, segments, np.arange(rows + 1))
