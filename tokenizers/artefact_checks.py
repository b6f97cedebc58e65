"""What every tokenizer asks of an artefact before it believes it."""

from __future__ import annotations

from collections.abc import Iterable

from headrace.schemas.errors import TokenizerError
from headrace.tokenizers.contract import Artefact


def check_artefact(artefact: Artefact, kind: str, params: Iterable[str] = (), files: Iterable[str] = ()) -> None:
    """Raises: TokenizerError if an artefact is of another kind or lacks a parameter or file."""
    if artefact.kind != kind:
        raise TokenizerError(f"`{kind}` cannot use an artefact of kind `{artefact.kind}`")
    for what, wanted, there in (("parameter", params, artefact.params), ("file", files, artefact.files)):
        missing = [name for name in wanted if name not in there]
        if missing:
            raise TokenizerError(f"this artefact of kind `{kind}` lacks the {what} `{missing[0]}`")
