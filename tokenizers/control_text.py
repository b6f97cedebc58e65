"""Which vocabulary entries steer a model, so that text which spells them must not become them.

Libraries keep such entries in lists of "added", "special" or "user-defined" tokens and match them in any text. A web
page that says `<|endoftext|>` would then end a document. Entries marked special are always treated as control; others
if they look like it. Runs of spaces, digits and words are not control: models were trained to have them.
"""

from __future__ import annotations

import re

#: `<|…|>`, `<pad>`, `</s>`, `<start_of_turn>`, `<unused17>`, `[INST]`, `[/INST]`, `[CLS]`, `<<SYS>>`, `｜`-barred ones.
_CONTROL = re.compile(r"<[|｜].*[|｜]>|</?[a-z_][\w.:/-]*>|<</?[A-Z_]+>>|\[/?[A-Z_][A-Z_0-9]*\]|<\|\w+", re.DOTALL)


def looks_like_control(entry: str) -> bool:
    """Whether a vocabulary entry reads like a marker rather than like text."""
    return _CONTROL.fullmatch(entry.strip()) is not None
