"""What a reader saw of one stream, in the form that every reader here prints and the tests compare."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable
from typing import Any

import numpy as np


class Seen:
    """Counts, sums and hashes of samples in the order in which they are added."""

    def __init__(self) -> None:
        self.samples = self.tokens = self.sum = 0
        self._content = hashlib.sha256()
        self._about = hashlib.sha256()

    def add(self, tokens: Any, about: dict[str, Any] | None = None) -> None:
        """One sample: its ids, or the bytes of its payload; and the JSON that came with it."""
        ids = np.frombuffer(tokens, np.uint8) if isinstance(tokens, (bytes, bytearray)) else np.asarray(tokens)
        ids = np.ascontiguousarray(ids).reshape(-1).astype("<i8")
        self.samples += 1
        self.tokens += len(ids)
        self.sum += int(ids.sum())
        self._content.update(len(ids).to_bytes(8, "little"))
        self._content.update(ids.tobytes())
        if about is not None:
            told = [about[k] for k in ("stream", "lane", "seq", "record_id", "license", "uri")]
            self._about.update(json.dumps(told).encode())

    def to_json(self) -> dict[str, Any]:
        """For print."""
        return {
            "samples": self.samples,
            "tokens": self.tokens,
            "sum": self.sum,
            "content": self._content.hexdigest(),
            "about": self._about.hexdigest(),
        }


def tell(streams: Iterable[tuple[str, Seen]], **more: Any) -> None:
    """Print what was seen, as the last line."""
    sys.stdout.write("\n" + json.dumps({"streams": {name: seen.to_json() for name, seen in streams}, **more}) + "\n")
