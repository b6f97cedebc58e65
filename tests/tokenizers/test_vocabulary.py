"""The unified vocabulary: grows without moving an id, is named by its bytes, and is only a view."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.schemas.errors import TokenizerError
from headrace.schemas.record import MODALITIES
from headrace.schemas.vocabulary import ALIGN, CONTROL, FIRST, Block, Vocabulary, begin_end


def grown() -> tuple[Vocabulary, Vocabulary, Vocabulary]:
    one = Vocabulary().append("a" * 64, "bytes", 256)
    two = one.append("b" * 64, "mu-law", 539)
    return one, two, two.append("c" * 64, "pca-fsq", 65_053)


def test_blocks_begin_after_the_control_ids_and_are_aligned() -> None:
    _, _, three = grown()
    assert [(b.start, b.size) for b in three.blocks] == [(1024, 256), (1280, 539), (1920, 65_053)]
    assert three.size == 1920 + 65_053


@given(st.lists(st.integers(1, 70_000), min_size=1, max_size=20))
def test_no_two_blocks_share_an_id_and_none_ever_moves(sizes: list[int]) -> None:
    vocabulary, seen = Vocabulary(), []
    for i, size in enumerate(sizes):
        longer = vocabulary.append(f"{i:064x}", "x", size)
        assert longer.blocks[: len(vocabulary.blocks)] == vocabulary.blocks
        assert longer.parent == (vocabulary.digest if vocabulary.blocks else None)
        vocabulary = longer
        seen.append(vocabulary.blocks[-1])
    end = FIRST
    for block in seen:
        assert block.start >= end and block.start % ALIGN == 0
        end = block.start + block.size
    assert Vocabulary.from_bytes(vocabulary.to_bytes(), vocabulary.digest) == vocabulary


def test_a_view_adds_a_number_and_its_inverse_takes_it_off() -> None:
    _, two, _ = grown()
    ids = np.array([0, 255, 538], np.uint16)
    view = two.view("b" * 64, ids)
    assert view.dtype == np.int32 and view.tolist() == [1280, 1535, 1818]
    assert two.own("b" * 64, view).tolist() == ids.tolist()
    with pytest.raises(TokenizerError, match="beyond"):
        two.view("a" * 64, ids)
    with pytest.raises(TokenizerError, match="not all of"):
        two.own("a" * 64, view)
    with pytest.raises(TokenizerError, match="append it first"):
        two.view("f" * 64, ids)


def test_every_id_has_at_most_one_owner() -> None:
    _, two, _ = grown()
    assert two.owner(0) == "PAD" and two.owner(1000) is None and two.owner(10**9) is None and two.owner(-1) is None
    assert two.owner(1279) == Block("a" * 64, "bytes", 1024, 256) and two.owner(1900) is None


def test_control_ids_are_frozen() -> None:
    assert {name: CONTROL[name] for name in ("PAD", "BOS", "EOD", "MASK", "UNK", "LOST")} == {
        "PAD": 0,
        "BOS": 1,
        "EOD": 2,
        "MASK": 3,
        "UNK": 4,
        "LOST": 5,
    }
    assert len(set(CONTROL.values())) == len(CONTROL) and max(CONTROL.values()) < FIRST
    assert [begin_end(m) for m in MODALITIES] == [(16 + 2 * i, 17 + 2 * i) for i in range(7)]


def test_appending_twice_changes_nothing_and_another_size_is_an_error() -> None:
    one, two, _ = grown()
    assert two.append("a" * 64, "bytes", 256) is two
    with pytest.raises(TokenizerError, match="made for 256"):
        two.append("a" * 64, "bytes", 257)
    with pytest.raises(TokenizerError, match="int32"):
        one.append("d" * 64, "x", 1 << 31)


def test_a_history_is_checked_to_its_root() -> None:
    one, two, three = grown()
    files = {v.digest: v.to_bytes() for v in (one, two, three)}
    three.verify_history(files)
    with pytest.raises(TokenizerError, match="missing"):
        three.verify_history({two.digest: files[two.digest]})
    other = Vocabulary().append("e" * 64, "bytes", 256)
    strange = Vocabulary(two.blocks, other.digest)
    with pytest.raises(TokenizerError, match="does not extend"):
        strange.verify_history({other.digest: other.to_bytes()})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": 2}, "format 2"),
        ({"control": {**CONTROL, "PAD": 7}}, "PAD"),
        ({"blocks": [{"fingerprint": "x", "kind": "y", "start": 1000, "size": 5}]}, "overlaps"),
        ({"blocks": [{"fingerprint": "x", "kind": "y", "start": 1025, "size": 5}]}, "128"),
        ({"blocks": [{"kind": "y"}]}, "not a vocabulary"),
    ],
)
def test_a_damaged_file_is_named(change: dict[str, Any], said: str) -> None:
    _, two, _ = grown()
    changed = json.dumps({**json.loads(two.to_bytes()), **change}).encode()
    with pytest.raises(TokenizerError, match=said):
        Vocabulary.from_bytes(changed)
    with pytest.raises(TokenizerError, match="was changed"):
        Vocabulary.from_bytes(changed, two.digest)
