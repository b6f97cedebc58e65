"""Which ids are written: the tokenizer's own or the unified view, and the control ids that stand around a body.

Shards hold bodies only. Around them an export may put

    [BOS] [BEGIN_<modality>] body [END_<modality>] [EOD]

BEGIN and END stand in the unified view only, where ids of several modalities meet, around everything but text. EOD is
what flat formats (Megatron, LitData) tell documents apart by, so `auto` puts it there: with own ids the `eod` that the
tokenizer's artefact.json names, with the unified view the control id. Formats that keep samples apart get none unless
it is asked for. BOS is never put in unless asked for, or named by the artefact for a flat format.

The unified view is int32: own id + start of the tokenizer's block in the dataset's vocabulary. The export holds the
vocabulary that it was written with.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from headrace.schemas.canonical import sha256_hex
from headrace.schemas.errors import ConfigError, TokenizerError
from headrace.schemas.vocabulary import CONTROL, Vocabulary, begin_end
from headrace.shards.dataset import Dataset
from headrace.shards.entry import StreamSettings
from headrace.shards.exports.options import TOKENS_ONLY, ExportOptions, Mark
from headrace.shards.exports.totals import Totals

#: Rows shorter than this on average are moved by one gather, longer ones by a copy each.
_SHORT = 256


@dataclass(frozen=True)
class Marks:
    """How the bodies of one stream become the ids that are written: `before + (body + shift) + after`, as `dtype`.

    `looks_like_mark` is the own id that an explicit EOD shares with bodies, None where it cannot occur in one.
    """

    dtype: np.dtype[Any]
    shift: int = 0
    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    limit: int = 1 << 32  #: own ids are smaller
    looks_like_mark: int | None = None

    def apply(
        self, values: npt.NDArray[Any], offsets: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
        """(values, offsets) with the marks put in. Raises: ConfigError for an id beyond the vocabulary."""
        if len(values) and self.limit <= int(values.max()):
            raise ConfigError(f"the stream holds id {int(values.max())}, its vocabulary ends at {self.limit}")
        around = len(self.before) + len(self.after)
        if not around:
            if not self.shift:
                return values.astype(self.dtype, copy=False), offsets
            return values.astype(self.dtype) + self.dtype.type(self.shift), offsets
        rows = len(offsets) - 1
        moved = offsets + np.arange(rows + 1) * around
        out = np.empty(len(values) + rows * around, self.dtype)
        for i, mark in enumerate(self.before):
            out[moved[:-1] + i] = mark
        for i, mark in enumerate(self.after):
            out[moved[1:] - len(self.after) + i] = mark
        lead = len(self.before)
        if len(values) < rows * _SHORT:
            step = np.repeat(np.arange(rows) * around + lead, np.diff(offsets))
            out[np.arange(len(values)) + step] = values.astype(self.dtype, copy=False) + self.dtype.type(self.shift)
            return out, moved
        starts, ends = offsets.tolist(), (moved[:-1] + lead).tolist()
        for i in range(rows):
            body = values[starts[i] : starts[i + 1]]
            np.add(body, self.shift, out=out[ends[i] : ends[i] + len(body)], casting="unsafe", dtype=self.dtype)
        return out, moved

    def expected(self, found: Totals) -> Totals:
        """What must be written for bodies with these totals: computed from counts alone."""
        marks = (*self.before, *self.after)
        total = found.sum + self.shift * found.tokens + sum(marks) * found.samples
        return Totals(found.samples, found.tokens + len(marks) * found.samples, total % (1 << 64))


def marks_of(dataset: Dataset, stream: str, options: ExportOptions, vocabulary: Vocabulary | None) -> Marks | None:
    """The marks of a stream, None for raw ones. Raises: ConfigError for ids that the format cannot hold."""
    settings = dataset.state.settings[stream]
    if settings.tokens is None or settings.tokenizer is None:
        return None
    flat = options.to in TOKENS_ONLY
    if vocabulary is not None:
        return _unified(stream, settings, options, vocabulary, flat)
    named = _named(dataset, settings.tokenizer) if "auto" in (options.bos, options.eod) else {}
    bos = _chosen(options.bos, named.get("bos") if flat else None)
    eod = _chosen(options.eod, named.get("eod") if flat else None)
    before, after = _listed(bos), _listed(eod)
    size = settings.vocab_size or (1 << 16 if settings.tokens == "uint16" else 1 << 32)
    largest = max((size - 1, *before, *after))
    inside = eod if isinstance(options.eod, int) and eod is not None and eod < size else None
    return Marks(_dtype(options, settings, largest, stream), 0, before, after, size, inside)


def _unified(
    stream: str, settings: StreamSettings, options: ExportOptions, vocabulary: Vocabulary, flat: bool
) -> Marks:
    assert settings.tokenizer is not None
    try:
        block = vocabulary.block(settings.tokenizer)
    except TokenizerError as exc:
        raise ConfigError(f"{stream}: {exc}", field="--ids", value="unified") from exc
    begin, end = ((), ()) if settings.modality == "text" else zip(begin_end(settings.modality))  # type: ignore[arg-type]
    bos = _chosen(options.bos, None)
    eod = _chosen(options.eod, CONTROL["EOD"] if flat else None)
    before, after = (*_listed(bos), *begin), (*end, *_listed(eod))
    for field, mark in (("--bos", bos), ("--eod", eod)):
        if mark is not None and mark >= 1 << 31:
            raise ConfigError("an id of the unified view is less than 2^31", field=field, value=mark)
    return Marks(np.dtype(np.int32), block.start, before, after, block.size)


def _dtype(options: ExportOptions, settings: StreamSettings, largest: int, stream: str) -> np.dtype[Any]:
    """The narrowest type of the format that holds `largest`. Megatron has no unsigned 32-bit integers."""
    top = (1 << 31) - 1 if options.to in TOKENS_ONLY else (1 << 32) - 1
    if largest > top:
        message = f"{stream} has ids up to {largest}, {options.to} holds up to {top}"
        raise ConfigError(message, field="--to", value=options.to)
    if options.to == "litdata":
        return np.dtype(np.int32)
    if largest < 1 << 16 and (settings.tokens == "uint16" or options.to == "megatron"):
        return np.dtype(np.uint16)
    return np.dtype(np.int32 if options.to == "megatron" else np.uint32)


def _chosen(mark: Mark, automatic: int | None) -> int | None:
    return automatic if mark == "auto" else mark if isinstance(mark, int) else None


def _listed(mark: int | None) -> tuple[int, ...]:
    return () if mark is None else (mark,)


def _named(dataset: Dataset, fingerprint: str) -> dict[str, int]:
    """What `params` of an artefact.json names as `bos` and `eod`."""
    path = f"tokenizers/{fingerprint}/artefact.json"
    files = dataset.state.tokenizers[fingerprint].files if fingerprint in dataset.state.tokenizers else []
    told = next((f.sha256 for f in files if f.path == path), None)
    if told is None:
        return {}
    data = dataset.store.get(path)
    if sha256_hex(data) != told:
        raise ConfigError(f"{path} was changed: its bytes hash to {sha256_hex(data)[:12]}…, the log says {told[:12]}…")
    params = json.loads(data).get("params", {})
    return {k: params[k] for k in ("bos", "eod") if isinstance(params.get(k), int) and not isinstance(params[k], bool)}
