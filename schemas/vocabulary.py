"""The unified vocabulary: one range of ids over every tokenizer of a dataset, as a view that rewrites nothing.

Shards hold each tokenizer's own ids. A model that reads several modalities wants one id space, so a vocabulary file
says where each tokenizer's ids begin; a reader adds that number. The file is named by the hash of its bytes and only
grows: appending a block makes a new file that names its parent, and no id of the parent changes meaning.

    0 … 1023          control ids, the same for ever (CONTROL)
    1024 …            one block per tokenizer fingerprint, in the order of appending; starts are multiples of 128

The view is int32.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from headrace.schemas.canonical import canonical_json, sha256_hex
from headrace.schemas.errors import TokenizerError
from headrace.schemas.record import MODALITIES, Modality

FORMAT = 1
FIRST = 1024
ALIGN = 128

#: Name → id of the control ids. Names may be added at free numbers below 1024; none is ever moved.
CONTROL: dict[str, int] = {"PAD": 0, "BOS": 1, "EOD": 2, "MASK": 3, "UNK": 4, "LOST": 5}
for _i, _modality in enumerate(("text", "image", "video", "audio", "sensor", "raster", "tensor")):
    CONTROL[f"BEGIN_{_modality.upper()}"] = 16 + 2 * _i
    CONTROL[f"END_{_modality.upper()}"] = 17 + 2 * _i


def begin_end(modality: Modality) -> tuple[int, int]:
    """The control ids that open and close a body of `modality`."""
    if modality not in MODALITIES:
        raise TokenizerError(f"`{modality}` is not a modality; there are {', '.join(MODALITIES)}")
    return CONTROL[f"BEGIN_{modality.upper()}"], CONTROL[f"END_{modality.upper()}"]


@dataclass(frozen=True)
class Block:
    """Ids [start, start + size) belong to the tokenizer with this fingerprint."""

    fingerprint: str
    kind: str
    start: int
    size: int


@dataclass(frozen=True)
class Vocabulary:
    """Blocks in order, and the digest of the vocabulary they were appended to."""

    blocks: tuple[Block, ...] = ()
    parent: str | None = None

    @property
    def size(self) -> int:
        """One more than the largest id in use."""
        return self.blocks[-1].start + self.blocks[-1].size if self.blocks else FIRST

    def append(self, fingerprint: str, kind: str, size: int) -> Vocabulary:
        """The vocabulary with a block for this tokenizer; itself if it has one. Raises: TokenizerError."""
        for block in self.blocks:
            if block.fingerprint == fingerprint:
                if block.size != size:
                    message = f"tokenizer {fingerprint[:12]}… has {size} ids, its block was made for {block.size}"
                    raise TokenizerError(message)
                return self
        start = -(-self.size // ALIGN) * ALIGN
        if size < 1 or start + size > 1 << 31:
            raise TokenizerError(f"a block of {size} ids from {start} on does not fit into int32")
        return Vocabulary((*self.blocks, Block(fingerprint, kind, start, size)), self.digest if self.blocks else None)

    def block(self, fingerprint: str) -> Block:
        """The block of a tokenizer. Raises: TokenizerError if it has none."""
        for block in self.blocks:
            if block.fingerprint == fingerprint:
                return block
        raise TokenizerError(f"the vocabulary has no block for tokenizer {fingerprint[:12]}…: append it first")

    def view(self, fingerprint: str, ids: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
        """int32 unified ids of a tokenizer's own ids. Raises: TokenizerError for ids beyond its block."""
        block = self.block(fingerprint)
        if len(ids) and int(ids.max()) >= block.size:
            raise TokenizerError(f"id {int(ids.max())} lies beyond the {block.size} ids of `{block.kind}`")
        return ids.astype(np.int32) + np.int32(block.start)

    def own(self, fingerprint: str, unified: npt.NDArray[Any]) -> npt.NDArray[np.uint32]:
        """uint32 own ids of unified ids of one tokenizer. Raises: TokenizerError for ids of another."""
        block = self.block(fingerprint)
        if len(unified) and not block.start <= int(unified.min()) <= int(unified.max()) < block.start + block.size:
            raise TokenizerError(f"ids from {int(unified.min())} to {int(unified.max())} are not all of `{block.kind}`")
        return (unified.astype(np.int64) - block.start).astype(np.uint32)

    def owner(self, unified: int) -> Block | str | None:
        """Whose id this is: a block, a control id's name, or nobody's."""
        if 0 <= unified < FIRST:
            return next((name for name, number in CONTROL.items() if number == unified), None)
        return next((b for b in self.blocks if b.start <= unified < b.start + b.size), None)

    def to_bytes(self) -> bytes:
        """The file: canonical JSON."""
        blocks = [{"fingerprint": b.fingerprint, "kind": b.kind, "start": b.start, "size": b.size} for b in self.blocks]
        return canonical_json({"format": FORMAT, "control": CONTROL, "blocks": blocks, "parent": self.parent})

    @property
    def digest(self) -> str:
        """Hex sha256 of the file: its name is `vocab/<digest>.json`."""
        return sha256_hex(self.to_bytes())

    @classmethod
    def from_bytes(cls, data: bytes, digest: str | None = None) -> Vocabulary:
        """Read a file, and check it against its name. Raises: TokenizerError."""
        if digest is not None and sha256_hex(data) != digest:
            raise TokenizerError(f"vocabulary {digest[:12]}… was changed: its bytes hash to {sha256_hex(data)[:12]}…")
        try:
            head = json.loads(data)
            blocks = tuple(_block(b) for b in head["blocks"])
            known, version, parent = head["control"], head["format"], head["parent"]
        except (ValueError, KeyError, TypeError) as exc:
            raise TokenizerError(f"not a vocabulary file: {exc}") from exc
        if version != FORMAT:
            raise TokenizerError(f"the vocabulary has format {version}, this version reads {FORMAT}")
        moved = [name for name, number in known.items() if CONTROL.get(name, number) != number]
        if moved:
            raise TokenizerError(f"the vocabulary has other control ids: {', '.join(moved)}")
        end = FIRST
        for block in blocks:
            if block.start < end or block.start % ALIGN or block.size < 1:
                raise TokenizerError(f"the block of `{block.kind}` at {block.start} overlaps or is not on {ALIGN}")
            end = block.start + block.size
        return cls(blocks, parent)

    def verify_history(self, files: Mapping[str, bytes]) -> None:
        """Check that every ancestor in `files` (digest → bytes) is a prefix of this. Raises: TokenizerError."""
        child = self
        while child.parent is not None:
            if child.parent not in files:
                raise TokenizerError(f"the parent {child.parent[:12]}… of vocabulary {child.digest[:12]}… is missing")
            older = Vocabulary.from_bytes(files[child.parent], child.parent)
            if child.blocks[: len(older.blocks)] != older.blocks or len(older.blocks) >= len(child.blocks):
                raise TokenizerError(f"vocabulary {child.digest[:12]}… does not extend its parent {older.digest[:12]}…")
            child = older


def _block(row: dict[str, Any]) -> Block:
    return Block(str(row["fingerprint"]), str(row["kind"]), int(row["start"]), int(row["size"]))
