"""Draws training batches from a dataset through the Python API: every modality in one space of ids."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

import headrace
from headrace.schemas.record import list_views
from headrace.schemas.vocabulary import CONTROL, Vocabulary, begin_end

Ids = npt.NDArray[np.int32]
BATCH, LENGTH = 4, 1024
_LONGEST = 600  # of one document in this show, so that a sequence holds several


def documents(dataset: Path) -> tuple[Vocabulary, list[tuple[str, Ids]]]:
    """The vocabulary of all streams, and (modality, ids) of every sample: begin, body, end, end of document."""
    view = headrace.open(dataset)
    streams = {name: info for name, info in view.streams().items() if info.rows and view.tokenizer(name) is not None}
    vocabulary = Vocabulary()
    for name, info in streams.items():
        tokenizer = view.tokenizer(name)
        assert tokenizer is not None
        vocabulary = vocabulary.append(tokenizer.fingerprint, info.settings.modality, tokenizer.vocab_size)
    found = []
    for name, info in streams.items():
        tokenizer = view.tokenizer(name)
        assert tokenizer is not None
        begin, end = begin_end(info.settings.modality)  # type: ignore[arg-type]
        for batch in view.samples(name, ["tokens"]):
            for tokens in list_views(batch, "tokens"):
                body = vocabulary.view(tokenizer.fingerprint, np.asarray(tokens[:_LONGEST]))
                found.append(
                    (info.settings.modality, np.concatenate([[begin], body, [end, CONTROL["EOD"]]]).astype(np.int32))
                )
    return vocabulary, found


def packed(found: list[tuple[str, Ids]], seed: int) -> Iterator[tuple[Ids, list[list[str]]]]:
    """Batches (BATCH, LENGTH) of shuffled documents laid end to end, and the modalities in each sequence."""
    order = np.random.default_rng(seed).permutation(len(found))
    stream = np.concatenate([found[i][1] for i in order])
    owner = np.repeat([found[i][0] for i in order], [len(found[i][1]) for i in order])
    size = BATCH * LENGTH
    for start in range(0, len(stream) - size + 1, size):
        names = owner[start : start + size].reshape(BATCH, LENGTH)
        yield stream[start : start + size].reshape(BATCH, LENGTH), [list(dict.fromkeys(row.tolist())) for row in names]


def show(dataset: Path, say: Callable[[str], None], batches: int = 3) -> None:
    """Say what the first few batches hold."""
    vocabulary, found = documents(dataset)
    # As many documents of each modality as of the rarest, or the bulletins would fill every sequence.
    kinds = sorted({kind for kind, _ in found})
    fewest = min(60, min(sum(k == kind for k, _ in found) for kind in kinds))
    even = [d for kind in kinds for d in [d for d in found if d[0] == kind][:fewest]]
    say(f"   {vocabulary.size:,} ids: {len(CONTROL)} control ids, then {', '.join(kinds)}")
    for number, (ids, contents) in zip(range(batches), packed(even, seed=7)):
        held = " | ".join("+".join(row) for row in contents)
        say(f"   batch {number}: {ids.shape} {ids.dtype}, begins {ids[0, :6].tolist()}; holds {held}")
    say("")
