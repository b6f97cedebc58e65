"""Windows of Chronos tokens of columns of numbers: what the sensor peers do once a table is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from job import WINDOW

_SPECIAL, _TOKENS = 2, 4096


def tokens(values: Any, borders: Any) -> Any:
    """uint16 ids of one channel: every window divided by its mean magnitude, and binned."""
    x = values.astype(np.float32)
    whole = len(x) // WINDOW * WINDOW
    parts = [_binned(x[:whole].reshape(-1, WINDOW), borders).reshape(-1)]
    if whole < len(x):
        parts.append(_binned(x[None, whole:], borders)[0])
    return np.concatenate(parts)


def _binned(windows: Any, borders: Any) -> Any:
    scale = np.abs(windows).sum(axis=1, dtype=np.float32) / np.float32(windows.shape[1])
    scale[~(scale > 0)] = 1
    ids = np.searchsorted(borders, windows / scale[:, None], side="right") + _SPECIAL
    return np.clip(ids, 0, _TOKENS - 1).astype(np.uint16)


def write(columns: dict[str, Any], borders: Any, out: Path) -> None:
    """A plain file of ids of all channels, one after another."""
    with open(out, "wb") as ids:
        for values in columns.values():
            ids.write(tokens(values, borders).data)
