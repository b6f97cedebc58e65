"""Datasets that are made once and read by many tests; nobody writes into them."""

from __future__ import annotations

from pathlib import Path

import pytest

from .worlds import World, compacted, forget_some, many_kinds, stream_settings, tide, world


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> dict[str, World]:
    """By name: plain, second, wide (uint32), long documents, tiny, merged (many blocks a shard), thinned (deleted,
    erased and compacted), kinds (four tokenizers)."""
    root: Path = tmp_path_factory.mktemp("library")
    made = {
        "plain": tide(root / "plain"),
        "second": tide(root / "second", 3, (17, 2, 6)),
        "wide": world(root / "wide", [("wide", 0, "w")], {"wide": stream_settings("wide", "uint32")}, length=30),
        "long": tide(root / "long", 2, (3, 1, 2), length=300),
        "tiny": world(root / "tiny", [("tide", 3, "t")], length=5),
        "merged": tide(root / "merged", 6),
        "thinned": tide(root / "thinned", 6),
        "kinds": many_kinds(root / "kinds"),
    }
    for turn in range(4):
        made["wide"].grow(7 + turn)
    made["tiny"].grow(1)
    compacted(made["merged"])
    thinned = made["thinned"]
    forget_some(thinned, "license = 'CC-BY-4.0' and lane = 0 and seq < 40", erase=True)
    thinned.grow(8, 8, 8)
    compacted(thinned)
    forget_some(thinned, "lane = 2 and seq > 10 and seq < 25")
    return made
