"""The fast engine: every distinct word is encoded once, by the reference library, and looked up from then on.

Text repeats itself. A batch is cut where cutting changes no id (see engine_cuts.py), Arrow finds the distinct parts,
the reference library encodes those that were not seen before, and numpy lays the ids of all parts end to end. There is
no second implementation of anything: the ids are the reference library's own, so are its treatment of `<s>` and NUL. A
text without repetitions costs what it would have cost and some more. No Python object is made for a document or a
token; one is made for each distinct part of a chunk.

What is remembered is bounded: two generations of at most `_MOST_WORDS` words and `_MOST_BYTES` bytes. When the young
one is full it becomes the old one; words of the old one that come again move to the young one.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa

from headrace.tokenizers.arrays import Array
from headrace.tokenizers.engine_cuts import Cuts

#: Bytes that are cut and looked up at once: their distinct words stay in the processor's cache.
_CHUNK = 1 << 20
_MOST_WORDS = 1 << 19
_MOST_BYTES = 32 << 20
#: Unknown words are laid end to end to about so many bytes before the reference library gets them.
_TEXT = 512
#: What may stand between two of them.
_BETWEEN = (b"\n", b" a")

Rows = tuple[Array, Array]  #: ids of all texts, and rows + 1 offsets into them, int64
Reference = Callable[[list[str]], Rows]


class _Memory:
    """Words and their ids. Entry i has `length[i]` ids from `start[i]` on in `pool`."""

    def __init__(self, dtype: np.dtype[np.unsignedinteger]) -> None:
        self.entries: dict[bytes, int] = {}
        self.pool = np.empty(1 << 12, dtype)
        self.start = np.empty(1 << 10, np.int64)
        self.length = np.empty(1 << 10, np.int64)
        self.bytes = 0
        self._used = 0

    @property
    def full(self) -> bool:
        return len(self.entries) >= _MOST_WORDS or self.bytes + 2 * self._used >= _MOST_BYTES

    def add(self, words: Sequence[bytes], values: Array, lengths: Array) -> None:
        """Words that are not in it, with their ids end to end."""
        first = len(self.entries)
        last, used = first + len(words), self._used + len(values)
        self.start, self.length = _grown(self.start, last), _grown(self.length, last)
        self.pool = _grown(self.pool, used)
        self.pool[self._used : used] = values
        self.length[first:last] = lengths
        self.start[first:last] = self._used + np.cumsum(lengths) - lengths
        self.entries.update(zip(words, range(first, last)))
        self.bytes += sum(map(len, words))
        self._used = used

    def ids(self, entries: Array) -> tuple[Array, Array]:
        """(ids of these entries end to end, offset of each and the end)."""
        lengths = self.length[entries]
        offsets = np.zeros(len(entries) + 1, np.int64)
        np.cumsum(lengths, out=offsets[1:])
        places = np.repeat(self.start[entries] - offsets[:-1], lengths)
        places += np.arange(len(places))
        return self.pool[places], offsets


class WordEngine:
    """Encodes a text column. Not for several threads at once."""

    def __init__(
        self, cuts: Cuts, reference: Reference, dtype: np.dtype[np.unsignedinteger], token_bytes: Array | None = None
    ) -> None:
        """
        reference: the library, on parts of texts as this engine cuts them.
        token_bytes: for each id the bytes of text it stands for. If given, words are laid end to end for the library,
            which is faster, and their ids are parted by the bytes they stand for; where those do not come out, each
            word is encoded alone.
        """
        self._cuts = cuts
        self._reference = reference
        self._token_bytes = token_bytes
        self._young, self._old = _Memory(dtype), _Memory(dtype)

    def encode(self, texts: pa.Array) -> Rows:
        """Ids of a large_string array without nulls."""
        borders = np.frombuffer(texts.buffers()[1], np.int64)[texts.offset : texts.offset + len(texts) + 1]
        if not len(texts) or borders[-1] == borders[0]:
            return self._young.pool[:0], np.zeros(len(texts) + 1, np.int64)
        first, last = int(borders[0]), int(borders[-1])
        flat = np.frombuffer(texts.buffers()[2], np.uint8, last - first, first)
        borders = borders - first
        offsets = np.empty(len(borders), np.int64)
        found, total, at = [], 0, 0
        while at < len(flat):
            starts, end = self._words(flat, borders, at)
            values, places = self._lookup(flat[at:end], starts)
            low, high = np.searchsorted(borders, [at, end])
            offsets[low:high] = total + places[np.searchsorted(starts, borders[low:high] - at)]
            found.append(values)
            total += len(values)
            at = end
        offsets[np.searchsorted(borders, len(flat)) :] = total
        return found[0] if len(found) == 1 else np.concatenate(found), offsets

    def _words(self, flat: Array, borders: Array, at: int) -> tuple[Array, int]:
        """(where words begin, counted from `at`; where the last of them ends) of about a chunk of bytes."""
        size = _CHUNK
        while True:
            stop = min(at + size, len(flat))
            part = flat[at:stop]
            keys = part[:-1].astype(np.uint16)
            keys <<= 8
            keys |= part[1:]
            begins = np.empty(len(part), np.bool_)
            begins[0] = True
            np.take(self._cuts.pair, keys, out=begins[1:])
            if self._cuts.never_after is not None:
                inner = np.flatnonzero(begins[2:])
                begins[inner[self._cuts.never_after[keys[inner]]] + 2] = False
            low, high = np.searchsorted(borders, [at, stop])
            begins[borders[low:high] - at] = True
            starts = np.flatnonzero(begins)
            if stop == len(flat):
                return starts, stop
            if len(starts) > 1:
                return starts[:-1], at + int(starts[-1])  # the last one may go on
            size *= 2

    def _lookup(self, part: Array, starts: Array) -> tuple[Array, Array]:
        """(ids, offset of each word's ids and the end) of the words that begin at `starts`."""
        ends = np.empty(len(starts) + 1, np.int32)
        ends[:-1], ends[-1] = starts, len(part)
        words = pa.Array.from_buffers(pa.binary(), len(starts), [None, pa.py_buffer(ends), pa.py_buffer(part)])
        coded = words.dictionary_encode()
        distinct = coded.dictionary.to_pylist()
        if self._young.full:
            self._young, self._old = _Memory(self._young.pool.dtype), self._young
        known = self._young.entries
        entries = np.fromiter(map(known.get, distinct, itertools.repeat(-1)), np.int64, len(distinct))
        missing = np.flatnonzero(entries < 0)
        if len(missing):
            unknown = [distinct[i] for i in missing.tolist()]
            self._learn(unknown)
            entries[missing] = [known[word] for word in unknown]
        return self._young.ids(entries[np.frombuffer(coded.indices.buffers()[1], np.int32, len(starts))])

    def _learn(self, words: list[bytes]) -> None:
        """Words that the young memory lacks: from the old one, else from the reference library."""
        old = self._old.entries
        if old:
            again = [word for word in words if word in old]
            if again:
                values, offsets = self._old.ids(np.array([old[word] for word in again], np.int64))
                self._young.add(again, values, np.diff(offsets))
                words = [word for word in words if word not in old]
        if words:
            self._young.add(words, *self._encoded(words))

    def _encoded(self, words: list[bytes]) -> tuple[Array, Array]:
        """(ids of the words end to end, how many each has) from the reference library."""
        found = self._parted(words, self._token_bytes) if self._token_bytes is not None else None
        if found is None:
            values, offsets = self._reference([word.decode() for word in words])
            found = values, np.diff(offsets)
        return found

    def _parted(self, words: list[bytes], token_bytes: Array) -> tuple[Array, Array] | None:
        """The same by way of longer texts; None where that does not come out."""
        texts, kept, laid = self._laid(words)
        values, _ = self._reference(texts)
        reached = np.zeros(len(values) + 1, np.int64)
        np.cumsum(token_bytes[values], out=reached[1:])
        ends = np.cumsum([len(word) for word in laid])
        places = np.searchsorted(reached, ends)
        if reached[-1] != ends[-1] or not np.array_equal(reached[places], ends):
            return None
        lengths = np.diff(places, prepend=0)
        mask = np.array(kept, np.bool_)
        return values[np.repeat(mask, lengths)], lengths[mask]

    def _laid(self, words: list[bytes]) -> tuple[list[str], list[bool], list[bytes]]:
        """(texts, for each word in them whether it is one of `words`, all words in them): end to end, with another word
        between two that could not be cut apart, and a new text where that does not help."""
        pair = self._cuts.pair.tobytes()
        texts: list[str] = []
        kept: list[bool] = []
        laid: list[bytes] = []
        begin, size, last, between = 0, 0, 0, b""
        for word in words:
            if size:
                apart = pair[last + word[0]]
                if not apart:
                    between = next((x for x in _BETWEEN if pair[last + x[0]] and pair[256 * x[-1] + word[0]]), b"")
                if size >= _TEXT or last >= 0x8000 or not (apart or between):
                    texts.append(b"".join(laid[begin:]).decode())
                    begin, size = len(laid), 0
                elif not apart:
                    laid.append(between)
                    kept.append(False)
            laid.append(word)
            kept.append(True)
            size += len(word)
            last = 256 * word[-1]
        texts.append(b"".join(laid[begin:]).decode())
        return texts, kept, laid


def _grown(array: Array, size: int) -> Array:
    """The array with room for `size` values."""
    if size <= len(array):
        return array
    grown = np.empty(max(size, 2 * len(array)), array.dtype)
    grown[: len(array)] = array
    return grown
