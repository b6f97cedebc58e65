"""Keeps the unified vocabulary of a dataset: one file that the log names, which only ever grows at its end."""

from __future__ import annotations

from headrace.schemas.vocabulary import Vocabulary
from headrace.shards.entry import Entry
from headrace.shards.log import CommitLog
from headrace.shards.vocabularies import read_vocabulary, vocabulary_name, with_blocks_for


def grow_vocabulary(log: CommitLog) -> str | None:
    """Commit a vocabulary with a block for the tokenizer of every stream in the log; `log` is claimed.

    Called when all streams of a run have their settings in the log, so the file depends on the streams alone and not
    on which worker fitted first. A dataset from before vocabularies gets one at its next run.
    Returns: the digest of the new file, None if the one that is named has every block.
    Raises: TokenizerError if the named file was changed; LogError, StorageError.
    """
    state = log.state
    before = read_vocabulary(log.store, state.vocab) if state.vocab is not None else Vocabulary()
    after = with_blocks_for(before, state.settings, state.tokenizers)
    if after is before:
        return None
    log.store.put_new(vocabulary_name(after.digest), after.to_bytes())
    log.append(Entry(kind="commit", vocab=after.digest))
    return after.digest
