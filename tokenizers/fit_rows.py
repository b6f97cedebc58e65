"""What every fit shares: records row by row, a part held out, and the account of it for the artefact's card.

Rows are ordered and chosen by their content alone, so a fit is the same in whatever order and batches records come.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from headrace.schemas.errors import TokenizerError
from headrace.schemas.record import Modality, content_hashes, modality_of
from headrace.tokenizers.arrays import Array

#: Below this many records nothing is held out: each one is needed.
_ENOUGH = 10


Rows = list[tuple[bytes, pa.RecordBatch]]


def fit_rows(records: Sequence[pa.RecordBatch], modalities: Sequence[Modality], label: str) -> Rows:
    """(content hash, one-row batch) of every record, sorted by hash, each content once.

    Raises: TokenizerError if there is none, or if a record's modality is not one of `modalities`.
    """
    rows: dict[bytes, pa.RecordBatch] = {}
    for batch in records:
        if not batch.num_rows:
            continue
        modality = modality_of(batch)
        if modality not in modalities:
            raise TokenizerError(f"`{label}` takes {' or '.join(modalities)} records, not {modality}")
        for i, digest in enumerate(content_hashes(batch)):
            rows.setdefault(digest, batch.slice(i, 1))
    if not rows:
        raise TokenizerError(f"`{label}` cannot be fitted: the fit set holds no records")
    return sorted(rows.items())


def held_out(rows: Rows, seed: int) -> tuple[list[pa.RecordBatch], list[pa.RecordBatch]]:
    """(rows to fit to, rows held out): about a tenth, chosen by a keyed hash of the content; none of fewer than ten."""
    if len(rows) < _ENOUGH:
        return [row for _, row in rows], []
    key = seed.to_bytes(8, "little", signed=True)
    ranked = sorted(rows, key=lambda item: hashlib.blake2b(item[0], key=key, digest_size=8).digest())
    held = {digest for digest, _ in ranked[: len(rows) // 10]}
    return [row for digest, row in rows if digest not in held], [row for digest, row in rows if digest in held]


def training_card(rows: Rows, held: int, seed: int) -> dict[str, Any]:
    """The part of a card that says what the fit read: how many records and the digest of their contents."""
    joined = hashlib.sha256(b"".join(digest for digest, _ in rows)).hexdigest()
    return {"records": len(rows), "held_out": held, "records_digest": joined, "seed": seed}


def thinned(count: int, share: float, seed: int) -> Array:
    """Indices of about `share` of `count` things, spread evenly; they do not line up with rows of a picture."""
    if share >= 1.0:
        return np.arange(count)
    whole = np.uint64(1 << 32)
    start = np.uint64(seed * 40503 % (1 << 32))
    spread = (np.arange(count, dtype=np.uint64) * np.uint64(2654435761) + start) % whole
    return np.flatnonzero(spread < np.uint64(share * (1 << 32)))


def summary(errors: Array, clips: Array) -> dict[str, float | None]:
    """Mean error and clip fraction of encoded records, for a card; null where nothing was measured."""
    known = errors[np.isfinite(errors)]
    return {
        "error": round(float(np.mean(known)), 4) if len(known) else None,
        "clip_fraction": round(float(np.mean(clips)), 6) if len(clips) else None,
    }
