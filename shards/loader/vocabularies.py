"""The ids a loader gives: one tokenizer's own, or those of the unified vocabulary over all its sources."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from headrace.schemas.errors import ConfigError, TokenizerError
from headrace.schemas.vocabulary import Vocabulary
from headrace.shards.loader.pinned import PinnedSource
from headrace.shards.vocabularies import read_vocabulary, vocabulary_name


def check_same_tokenizer(sources: Sequence[PinnedSource]) -> None:
    """Own ids mean something under one tokenizer only. Raises: ConfigError naming two streams that differ."""
    first: tuple[str, str | None] | None = None
    for pinned in sources:
        for name, settings in pinned.settings.items():
            if first is None:
                first = name, settings.tokenizer
            elif settings.tokenizer != first[1]:
                raise ConfigError(
                    f"the streams {first[0]} and {name} have different tokenizers, so their ids clash: choose streams"
                    " of one tokenizer, or give ids='unified'",
                    field="ids",
                    value="own",
                )


def unified(sources: Sequence[PinnedSource], given: Vocabulary | None) -> Vocabulary:
    """The vocabulary over all sources: the one given, the datasets' own, or one made of their tokenizers in order.

    Raises: ConfigError if it lacks a tokenizer, or datasets have vocabularies of which none extends the others.
    """
    vocabulary = given
    if vocabulary is None:
        found = [_read(p, p.vocab) for p in sources if p.vocab]
        found.sort(key=lambda v: len(v.blocks))
        for smaller, larger in pairwise(found):
            if larger.blocks[: len(smaller.blocks)] != smaller.blocks:
                raise ConfigError(
                    "the datasets have vocabularies that give one id two meanings; give `vocabulary`, one over both",
                    field="vocabulary",
                )
        vocabulary = found[-1] if found else Vocabulary()
    known = {b.fingerprint for b in vocabulary.blocks}
    for pinned in sources:
        for name, settings in pinned.settings.items():
            if settings.tokenizer is None or settings.tokenizer in known:
                continue
            if given is not None:
                raise ConfigError(f"it has no block for the tokenizer of {name}", field="vocabulary")
            assert settings.vocab_size is not None
            kind = str(pinned.artefact(settings.tokenizer).get("kind", settings.modality))
            vocabulary = vocabulary.append(settings.tokenizer, kind, settings.vocab_size)
            known.add(settings.tokenizer)
    return vocabulary


def _read(pinned: PinnedSource, digest: str) -> Vocabulary:
    try:
        return read_vocabulary(pinned.store, digest)
    except TokenizerError as exc:
        raise TokenizerError(f"{pinned.source.dataset}: {vocabulary_name(digest)}: {exc}") from exc
