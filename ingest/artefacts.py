"""Tokenizer artefacts inside a dataset: `tokenizers/<fingerprint>/…`, so that it decodes for ever."""

from __future__ import annotations

import json

from headrace.schemas.canonical import sha256_hex
from headrace.schemas.errors import TokenizerError
from headrace.shards.entry import FileInfo, TokenizerInfo
from headrace.shards.store import Missing, Store
from headrace.tokenizers.contract import Artefact


def write_artefact(store: Store, artefact: Artefact) -> TokenizerInfo:
    """Store every file of an artefact; one that is there already is left as it is."""
    fingerprint = artefact.fingerprint
    infos = []
    for name, data in sorted(artefact.to_files().items()):
        path = f"tokenizers/{fingerprint}/{name}"
        if not store.put_new(path, data):
            data = store.get(path)  # the card of an earlier fit may say more or less; its bytes are the ones that count
        infos.append(FileInfo(path, sha256_hex(data), len(data)))
    return TokenizerInfo(fingerprint, artefact.kind, infos)


def read_artefact(store: Store, fingerprint: str) -> Artefact:
    """The artefact with this fingerprint. Raises: TokenizerError if a file is missing or changed."""
    folder = f"tokenizers/{fingerprint}"
    try:
        head = store.get(f"{folder}/artefact.json")
        listed = json.loads(head)
        names = [f"{name}.npy" for name in listed["arrays"]] + list(listed["files"])
        files = {name: store.get(f"{folder}/{name}") for name in names}
    except Missing as exc:
        raise TokenizerError(f"the dataset lacks a file of its tokenizer {fingerprint[:12]}…: {exc}") from exc
    except (ValueError, KeyError, TypeError) as exc:
        raise TokenizerError(f"{folder}/artefact.json is damaged: {exc}") from exc
    artefact = Artefact.from_files({**files, "artefact.json": head})
    if artefact.fingerprint != fingerprint:
        raise TokenizerError(
            f"{folder} holds the tokenizer {artefact.fingerprint[:12]}…, not the one it is named after"
        )
    return artefact
