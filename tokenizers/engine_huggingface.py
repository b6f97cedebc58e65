"""Where the fast engine may cut text for a tokenizer.json: byte-level BPE with a known pattern, and nothing else.

What is described is looked at field by field; anything that is not known to leave words alone means no.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from headrace.tokenizers.arrays import Array
from headrace.tokenizers.engine_cuts import FAMILIES, GPT2, Cuts, inside, of_pattern


def cuts_for(described: dict[str, Any]) -> Cuts | str:
    """Where texts may be cut for this tokenizer.json, or why nowhere."""
    model = described["model"]
    if model.get("type") != "BPE" or model.get("dropout"):
        return "only byte-level BPE without dropout divides into words"
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix") or model.get("byte_fallback"):
        return "the model is not byte-level"
    pattern = _pattern(described.get("pre_tokenizer"))
    family = FAMILIES.get(pattern) if pattern is not None else None
    if family is None:
        return "where its pre-tokenizer divides text is not known"
    normalizer, added = described.get("normalizer"), described.get("added_tokens") or []
    # composition (NFC) changes nothing across a place before an ASCII character
    if normalizer is not None and (normalizer.get("type") != "NFC" or added):
        return "its normalizer may change what stands at a cut"
    cuts = of_pattern(family)
    for token in added:
        if token.get("lstrip") or token.get("rstrip") or token.get("single_word") or inside(cuts, token["content"]):
            return f"the added token {token['content'][:20]!a} may reach over a cut"
    return cuts


def token_bytes(described: dict[str, Any], size: int) -> Array | None:
    """For each id the bytes of text it stands for; None where that is not certain."""
    if described.get("normalizer") is not None or described.get("added_tokens"):
        return None
    lengths = np.zeros(size, np.int64)
    for token, number in described["model"]["vocab"].items():
        lengths[number] = len(token)  # a character for a byte
    return lengths


def _pattern(described: dict[str, Any] | None) -> str | None:
    """The pattern by which a pre-tokenizer divides text before it spells bytes as characters; None for all others."""
    steps = [described] if described is not None else []
    if described is not None and described.get("type") == "Sequence":
        steps = list(described.get("pretokenizers") or [])
    if not steps or steps[-1].get("type") != "ByteLevel" or steps[-1].get("add_prefix_space", True):
        return None
    if len(steps) == 1:
        return GPT2 if steps[0].get("use_regex", True) else None
    split = steps[0]
    plain = split.get("type") == "Split" and split.get("behavior") == "Isolated" and not split.get("invert")
    if len(steps) != 2 or not plain or steps[1].get("use_regex", True):
        return None
    pattern = split.get("pattern")
    found = pattern.get("Regex") if isinstance(pattern, dict) else None
    return found if isinstance(found, str) else None
