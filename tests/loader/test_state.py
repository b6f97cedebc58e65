"""States: small, plain, exact, and refused with a reason by whoever they do not belong to."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from headrace.schemas.errors import ConfigError
from headrace.schemas.vocabulary import Vocabulary
from headrace.shards.loader.dataset import ShardDataset
from headrace.shards.loader.sources import Source

from .worlds import World, fingerprint, many_kinds, rows_of, stream_settings, through_json, tide, whole, world

PLAIN: dict[str, Any] = {"length": 64, "batch_size": 2, "seed": 3, "window_bytes": 9_000}


def after(data: ShardDataset, batches: int) -> dict[str, Any]:
    running = iter(data)
    for _ in range(batches):
        next(running)
    state = through_json(data.state_dict())
    running.close()  # type: ignore[attr-defined]
    return state


def test_a_state_is_small_with_many_sources_and_skips_and_eras(library: dict[str, World]) -> None:
    sources = [Source(library[n].path, weight=i + 1) for i, n in enumerate(["plain", "second", "long", "merged"] * 3)]
    assert len(json.dumps(after(ShardDataset(sources, **PLAIN), 9))) < 1000


def test_every_batch_has_the_state_that_state_dict_gives(library: dict[str, World]) -> None:
    data = ShardDataset(library["plain"].path, **PLAIN)
    for batch in data:
        assert batch["state"] == data.state_dict()


def test_a_resume_after_any_batch_gives_the_rest(library: dict[str, World]) -> None:
    for packing in ("cut", "ragged"):
        made = lambda packing=packing: ShardDataset(library["second"].path, packing=packing, **PLAIN)  # noqa: E731
        batches = list(made())
        for at in range(0, len(batches), 3):
            again = made()
            again.load_state_dict(through_json(batches[at]["state"]))
            rest = list(again)
            assert len(rest) == len(batches) - at - 1
            for a, b in zip(rest, batches[at + 1 :]):
                assert (a["tokens"] == b["tokens"]).all() and (a["samples"] == b["samples"]).all()
                assert a["g"] == b["g"]


def test_a_dropped_iterator_is_continued_and_a_finished_one_begins_again(library: dict[str, World]) -> None:
    data = ShardDataset(library["second"].path, **PLAIN)
    full = [row for batch in data for row in rows_of(batch)]
    assert [row for batch in data for row in rows_of(batch)] == full
    running = iter(data)
    first = rows_of(next(running)) + rows_of(next(running))
    del running
    assert first + [row for batch in data for row in rows_of(batch)] == full


def test_a_state_from_before_the_first_and_after_the_last_batch(library: dict[str, World]) -> None:
    data = ShardDataset(library["second"].path, **PLAIN)
    start = through_json(data.state_dict())
    full = whole(data)
    end = through_json(data.state_dict())
    again = ShardDataset(library["second"].path, **PLAIN)
    again.load_state_dict(end)
    assert list(again) == []
    again.load_state_dict(start)
    assert whole(again) == full


def test_a_dataset_travels_by_pickle_and_copy(library: dict[str, World]) -> None:
    data = ShardDataset(library["second"].path, **PLAIN)
    reference = whole(ShardDataset(library["second"].path, **PLAIN))
    state = after(data, 4)
    for again in (pickle.loads(pickle.dumps(data)), copy.copy(data)):
        again.load_state_dict(state)
        assert whole(again) == reference[8:]


DIFFERENT: list[tuple[str, dict[str, Any]]] = [
    ("length", {"length": 32}),
    ("packing", {"packing": "whole"}),
    ("multiple", {"multiple": 8}),
    ("shuffle", {"shuffle": False}),
    ("seed", {"seed": 4}),
    ("window_bytes", {"window_bytes": None}),
    ("epochs", {"epochs": 2}),
    ("ids", {"eod": 9}),
    ("follow", {"follow": True}),
]


@pytest.mark.parametrize("name,change", DIFFERENT)
def test_a_state_of_other_settings_is_refused_naming_them(
    library: dict[str, World], name: str, change: dict[str, Any]
) -> None:
    state = after(ShardDataset(library["plain"].path, **PLAIN), 3)
    with pytest.raises(ConfigError, match=rf"the state was made with {name} .*, not "):
        ShardDataset(library["plain"].path, **{**PLAIN, **change}).load_state_dict(state)


def test_a_state_survives_what_does_not_change_the_order(library: dict[str, World]) -> None:
    state = after(ShardDataset(library["plain"].path, **PLAIN), 3)
    reference = whole(ShardDataset(library["plain"].path, **PLAIN))[6:]
    for change in ({"batch_size": 5}, {"mapped": False}, {"pad_id": 7}, {"on_bad": "skip"}):
        again = ShardDataset(library["plain"].path, **{**PLAIN, **change})
        again.load_state_dict(state)
        assert whole(again) == reference or "pad_id" in change


def test_a_state_of_another_dataset_stream_weight_or_fold_is_refused(library: dict[str, World], tmp_path: Path) -> None:
    state = after(ShardDataset(library["plain"].path, **PLAIN), 3)
    plain = library["plain"].path
    for other in (library["second"].path, Source(plain, "tide"), Source(plain, weight=2), Source(plain, fold="train")):
        with pytest.raises(ConfigError, match=r"made with sources .*: another dataset, stream, tokenizer, weight or"):
            ShardDataset(other, **PLAIN).load_state_dict(state)
    with pytest.raises(ConfigError, match="sources"):
        ShardDataset([plain, plain], **PLAIN).load_state_dict(state)


def test_a_state_of_a_dataset_that_was_made_anew_at_the_same_place_is_refused(tmp_path: Path) -> None:
    tide(tmp_path / "a")
    state = after(ShardDataset(str(tmp_path / "a"), **PLAIN), 2)
    (tmp_path / "a").rename(tmp_path / "old")
    tide(tmp_path / "a")
    with pytest.raises(ConfigError, match="another dataset"):
        ShardDataset(str(tmp_path / "a"), **PLAIN).load_state_dict(state)


@pytest.mark.parametrize(
    "broken",
    [{}, {"format": 2}, {"format": 1}, {"format": 1, "settings": None}, {"step": 100}, {"format": 1, "settings": {}}],
)
def test_what_is_not_a_state_is_refused(library: dict[str, World], broken: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        ShardDataset(library["plain"].path, **PLAIN).load_state_dict(broken)


@pytest.mark.parametrize("lost", ["versions", "eras", "at", "g", "base"])
@pytest.mark.parametrize("instead", [None, "x", {"spots": 3}])
def test_a_damaged_state_is_refused_and_never_guessed_at(library: dict[str, World], lost: str, instead: Any) -> None:
    state = after(ShardDataset(library["plain"].path, **PLAIN), 3)
    if instead is None:
        del state[lost]
    else:
        state[lost] = instead
    with pytest.raises(ConfigError, match="state"):
        ShardDataset(library["plain"].path, **PLAIN).load_state_dict(state)


def test_ids_of_another_vocabulary_are_refused(tmp_path: Path, library: dict[str, World]) -> None:
    made = many_kinds(tmp_path / "a")
    data = ShardDataset(made.path, ids="unified", **PLAIN)
    state = after(data, 2)
    assert data.vocabulary is not None
    other = Vocabulary().append(fingerprint("another"), "x", 77)
    for block in data.vocabulary.blocks:
        other = other.append(block.fingerprint, block.kind, block.size)
    with pytest.raises(ConfigError, match="the state was made with ids"):
        ShardDataset(made.path, ids="unified", vocabulary=other, **PLAIN).load_state_dict(state)
    with pytest.raises(ConfigError, match="vocabulary: it has no block for the tokenizer of"):
        ShardDataset(made.path, ids="unified", vocabulary=Vocabulary().append(fingerprint("x"), "x", 7), **PLAIN)
    with pytest.raises(ConfigError, match="have different tokenizers, so their ids clash"):
        ShardDataset(made.path, **PLAIN)
    with pytest.raises(ConfigError, match="have different tokenizers"):
        ShardDataset([library["plain"].path, Source(made.path, "text")], **PLAIN)


def test_datasets_whose_vocabularies_contradict_each_other_are_refused(tmp_path: Path) -> None:
    from .worlds import add_tokenizers

    paths = []
    for name, kinds in (("one", ["a", "b"]), ("two", ["b", "a"])):
        made = world(tmp_path / name, [("text", 0, "s")], {"text": stream_settings("text", tokenizer="a")})
        add_tokenizers(made.log, kinds, vocabulary=True)
        made.grow(4)
        paths.append(made.path)
    with pytest.raises(ConfigError, match="give one id two meanings"):
        ShardDataset(paths, ids="unified", **PLAIN)


@pytest.mark.parametrize(
    "told,words",
    [
        ({"rank": 3, "world_size": 2}, "rank 3 of 2 cannot be"),
        ({"rank": 0, "world_size": 0}, "cannot be"),
        ({"rank": -1, "world_size": 2}, "cannot be"),
        ({"rank": 1}, "give both"),
        ({"rank": 0, "world_size": 2}, "2 processes must read the same version"),
        ({"batch_size": 0}, "batch_size: a whole number"),
        ({"batch_size": 2.0}, "batch_size: a whole number"),
        ({"length": True}, "length: a whole number"),
        ({"epochs": 0}, "epochs"),
        ({"multiple": 5}, "length 64 is no multiple of 5"),
        ({"packing": "tight"}, "one of cut, whole, pad, ragged"),
        ({"outputs": ["token"]}, "there is no 'token'"),
        ({"follow": True, "epochs": 2}, "every era is read once"),
        ({"columns": ["text"]}, "whole samples come with packing='ragged' only"),
        ({"dtype": "uint16"}, "dtype"),
        ({"dtype": "float32"}, "dtype"),
        ({"pad_id": 1 << 40}, "pad_id"),
        ({"eod": -5}, "eod"),
        ({"on_bad": "ignore"}, "on_bad"),
        ({"ids": "mine"}, "ids"),
        ({"packing": "ragged", "on_bad": "skip"}, "on_bad"),
    ],
)
def test_settings_that_cannot_be_are_refused_at_once(
    library: dict[str, World], told: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        ShardDataset(library["plain"].path, **{**PLAIN, **told})


def test_a_column_that_is_not_there_is_named_with_those_that_are(library: dict[str, World]) -> None:
    with pytest.raises(ConfigError, match=r"columns: there is no column 'nothing'; there are record_id, .*tokens"):
        list(ShardDataset(library["plain"].path, packing="ragged", columns=["uri", "nothing"]))


def test_a_world_of_the_environment_is_checked_too(library: dict[str, World], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "5")
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(ConfigError, match="rank 5 of 4 cannot be"):
        ShardDataset(library["plain"].path)
    monkeypatch.setenv("RANK", "x")
    with pytest.raises(ConfigError, match="RANK is not a number"):
        ShardDataset(library["plain"].path)


def test_streams_that_are_not_there_are_named_with_those_that_are(library: dict[str, World], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no stream 'tides'; there are quay, tide"):
        ShardDataset(Source(library["plain"].path, "tides"))
    with pytest.raises(ConfigError, match=r"no dataset at .*: it has no log"):
        (tmp_path / "empty").mkdir()
        ShardDataset(str(tmp_path / "empty"))
    raw = world(tmp_path / "raw", [("letters", 0, "a")], {"letters": stream_settings("letters", None)})
    with pytest.raises(ConfigError, match="has not a stream that holds tokens"):
        ShardDataset(raw.path)
