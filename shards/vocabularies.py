"""The unified vocabulary of a dataset: the file that a version names, its ancestors, and what it lacks.

    vocab/<sha256>.json        one file per growth (schemas/vocabulary.py draws it); each names the one it extends

A version's log entry names one file. Ancestors stay in the dataset, for readers that pinned an older version.
"""

from __future__ import annotations

from collections.abc import Mapping

from headrace.schemas.errors import TokenizerError
from headrace.schemas.vocabulary import Vocabulary
from headrace.shards.entry import StreamSettings, TokenizerInfo
from headrace.shards.state import State
from headrace.shards.store import Missing, Store


def vocabulary_name(digest: str) -> str:
    """`vocab/<digest>.json`."""
    return f"vocab/{digest}.json"


def read_vocabulary(store: Store, digest: str) -> Vocabulary:
    """The vocabulary with this digest. Raises: TokenizerError if it is missing or was changed; StorageError."""
    try:
        data = store.get(vocabulary_name(digest))
    except Missing as exc:
        raise TokenizerError(f"{vocabulary_name(digest)} is missing") from exc
    return Vocabulary.from_bytes(data, digest)


def lineage(store: Store, digest: str) -> dict[str, Vocabulary]:
    """A vocabulary and all its ancestors by digest, each a beginning of the one before it.

    Raises: TokenizerError if one is missing, was changed, or moves an id; StorageError.
    """
    newest = read_vocabulary(store, digest)
    found = {digest: newest}
    parent = newest.parent
    while parent is not None:
        found[parent] = read_vocabulary(store, parent)
        parent = found[parent].parent
    newest.verify_history({name: vocabulary.to_bytes() for name, vocabulary in found.items()})
    return found


def with_blocks_for(
    vocabulary: Vocabulary, settings: Mapping[str, StreamSettings], tokenizers: Mapping[str, TokenizerInfo]
) -> Vocabulary:
    """`vocabulary`, or a child of it that has a block for the tokenizer of every stream as well.

    New blocks stand in the order of stream names: log order would depend on which fit was through first. The child's
    parent is `vocabulary` itself, however many blocks are new. Raises: TokenizerError for a tokenizer of another size.
    """
    grown = vocabulary
    for _, stream in sorted(settings.items()):
        if stream.tokenizer is not None and stream.vocab_size is not None:
            known = tokenizers.get(stream.tokenizer)
            grown = grown.append(stream.tokenizer, known.kind if known else stream.modality, stream.vocab_size)
    if grown.blocks == vocabulary.blocks:
        return vocabulary
    return Vocabulary(grown.blocks, vocabulary.digest if vocabulary.blocks else None)


def vocabulary_of(store: Store, state: State) -> Vocabulary:
    """The vocabulary of a version; where its file lacks a tokenizer, as it will be once a writer has been there.

    Raises: TokenizerError if the file is missing or was changed; StorageError.
    """
    own = read_vocabulary(store, state.vocab) if state.vocab is not None else Vocabulary()
    return with_blocks_for(own, state.settings, state.tokenizers)
