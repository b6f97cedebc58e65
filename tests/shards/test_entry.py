"""Entries keep every value and notice every change."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
import types
import typing
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.schemas.errors import BrokenLog, ConfigError, FormatTooNew
from headrace.shards.entry import (
    FORMAT,
    Entry,
    Place,
    PlaceMove,
    ShardInfo,
    check_stream_name,
    entry_name,
    parse,
    seal,
    split_digest,
)
from headrace.shards.wire import Wire, WireError

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


def values_of(kind: Any) -> st.SearchStrategy[Any]:
    """Any value of an annotation that entries use."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return _JSON
    if origin in (typing.Union, types.UnionType):
        return st.one_of(*(st.none() if a is type(None) else values_of(a) for a in arguments))
    if origin is list:
        return st.lists(values_of(arguments[0]), max_size=2)
    if origin is dict:
        return st.dictionaries(st.text(max_size=4), values_of(arguments[1]), max_size=2)
    if origin is typing.Literal:
        return st.sampled_from(arguments)
    if isinstance(kind, type) and issubclass(kind, Wire):
        hints = typing.get_type_hints(kind)
        fields = {f.name: values_of(hints[f.name]) for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
        return st.builds(kind, **fields)
    return {int: st.integers(-(2**60), 2**60), str: st.text(max_size=8), bool: st.booleans()}[kind]


def entries() -> st.SearchStrategy[Entry]:
    return values_of(Entry).map(lambda e: dataclasses.replace(e, format=FORMAT))


@settings(max_examples=30, deadline=None)
@given(entries())
def test_an_entry_comes_back_as_it_went(entry: Entry) -> None:
    data, digest = seal(entry)
    assert parse(data, "x") == (entry, digest)
    assert hashlib.sha256(data.split(b"\n")[0] + b"\n").hexdigest() == digest == data.split(b"\n")[1].decode()


@settings(max_examples=25, deadline=None)
@given(entries(), st.randoms(use_true_random=False))
def test_a_flipped_bit_anywhere_in_an_entry_is_noticed(entry: Entry, rng: random.Random) -> None:
    data, _ = seal(entry)
    for _ in range(20):
        spoiled = bytearray(data)
        spoiled[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        with pytest.raises(BrokenLog, match="log/x"):
            parse(bytes(spoiled), "log/x")


@pytest.mark.parametrize("cut", [0, 1, 10, -1, -2, -40, -66])
def test_a_torn_entry_is_noticed(cut: int) -> None:
    data, _ = seal(Entry(kind="commit", v=3))
    with pytest.raises(BrokenLog, match="torn or altered"):
        parse(data[:cut], "log/x")


def sealed_text(line: str) -> bytes:
    data = line.encode() + b"\n"
    return data + hashlib.sha256(data).hexdigest().encode() + b"\n"


BASE = '{"epoch":0,"format":1,"id":"","kind":"commit","prev":"","v":3}'


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (BASE.replace('"v":3', '"v":3,"v":4'), "stands twice"),
        (BASE.replace('"v":3', '"v":NaN'), "NaN is not JSON"),
        (BASE.replace('"v":3', '"v": 3'), "canonical"),
        (BASE.replace('"v":3', '"v":3.0'), "Entry.v should be int, not 3.0"),
        (BASE.replace('"v":3', '"v":true'), "Entry.v should be int, not True"),
        (BASE.replace('"v":3', '"v":3,"zeal":1'), "unknown fields \\['zeal'\\]"),
        (BASE.replace('"format":1,', ""), "lacks `format`"),
        (BASE.replace('"commit"', '"omit"'), "should be one of"),
        (BASE.replace('"v":3', '"places":[],"v":3'), "canonical"),
        ("[" * 100_000, "not strict JSON"),
        (BASE.replace('"epoch"', '"convictions":[{"after":' + "[" * 900 + "]" * 900 + ',"k":0}],"epoch"'), "."),
        ("3", "should be an object"),
    ],
)
def test_an_entry_that_was_not_written_by_headrace_is_refused(line: str, message: str) -> None:
    with pytest.raises(BrokenLog, match=message):
        parse(sealed_text(line), "log/x")


def test_the_base_of_these_lines_is_itself_good() -> None:
    assert parse(sealed_text(BASE), "log/x")[0] == Entry(kind="commit", v=3)


def test_a_newer_major_format_is_refused_by_name_even_with_unknown_fields() -> None:
    with pytest.raises(FormatTooNew, match="format 2"):
        parse(sealed_text(BASE.replace('"format":1', '"format":2,"future":[]')), "log/x")


def test_an_entry_names_splits_by_digest_and_versions_by_twenty_digits() -> None:
    assert entry_name(42) == "log/00000000000000000042.json"
    assert split_digest("harbour/2024.jsonl") == hashlib.sha256(b"harbour/2024.jsonl").hexdigest()[:32]


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "ä", "-x", "a..b", "a.", "x" * 129, "a\n"])
def test_a_stream_name_that_is_no_folder_everywhere_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="cannot name a stream"):
        check_stream_name(name)


@pytest.mark.parametrize("name", ["tide", "quay.audio", "name@2", "A-b_c.0"])
def test_ordinary_stream_names_are_fine(name: str) -> None:
    assert check_stream_name(name) == name


def test_a_manifest_survives_json_between_processes() -> None:
    info = ShardInfo("s", 1, "p", "h", 1, 0, 0, 64, "x", "y", [])
    assert ShardInfo.from_json(json.loads(json.dumps(info.to_json()))) == info
    move = PlaceMove("s", 1, Place(position={"offset": 3}), Place())
    assert PlaceMove.from_json(json.loads(json.dumps(move.to_json()))) == move
    with pytest.raises(WireError, match=r"PlaceMove\.place\.k should be int, not '3'"):
        PlaceMove.from_json({"source": "s", "lane": 1, "place": {"k": "3"}})
