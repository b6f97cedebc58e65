"""Strict JSON against the slow parser of the standard library that looks at every pair."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.ingest.normalizers import strict_json
from headrace.schemas.errors import RecordError


def oracle(data: bytes) -> Any:
    """The value, or None where the text is refused: the standard parser told to be strict."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) != len(pairs):
            raise ValueError("a key twice")
        return dict(pairs)

    def never(name: str) -> Any:
        raise ValueError(name)

    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=once, parse_constant=never, parse_int=in_64_bits)
        json.dumps(value, ensure_ascii=False).encode("utf-8")  # half a surrogate pair has no UTF-8 form
    except (ValueError, RecursionError):
        return None
    return [value]


def in_64_bits(digits: str) -> int | float:
    """Integers beyond 64 bits are floats, as in orjson."""
    return int(digits) if -(2**63) <= int(digits) < 2**64 else float(digits)


def ours(data: bytes) -> Any:
    try:
        return [strict_json.loads(data)]
    except RecordError as exc:
        assert exc.reason in ("bad_encoding", "invalid_json")
        return None


strings = st.one_of(
    st.sampled_from(["", "a", "b", ":", '":', '"', '\\":', "\\", "a:b", "é", "\x7f", "\u2028", "😀", '": "', "text"]),
    st.text(max_size=6),
)
spaces = st.sampled_from(["", "", "", " ", "\t", "\n", "\r\n "])


@st.composite
def spelled_string(draw: Any) -> str:
    text = draw(strings)
    how = draw(st.integers(0, 2))
    if how == 2 and text:
        return '"' + "".join(f"\\u{unit:04x}" for unit in _units(text)) + '"'
    return json.dumps(text, ensure_ascii=how == 1)


def _units(text: str) -> list[int]:
    wide = text.encode("utf-16-be", "surrogatepass")
    return [int.from_bytes(wide[i : i + 2], "big") for i in range(0, len(wide), 2)]


numbers = st.sampled_from(
    ["0", "-0", "1", "1.0", "1.50", "1e5", "-1E+2", "12345678901234567890123", "1e999", "0.1e-400"]
)


def spelled(children: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Arrays and objects as people write them: odd spaces, and keys that may come twice."""
    member = st.tuples(spaces, spelled_string(), spaces, spaces, children, spaces)
    objects = st.lists(member, max_size=4).map(
        lambda members: "{" + ",".join(f"{a}{key}{b}:{c}{value}{d}" for a, key, b, c, value, d in members) + "}"
    )
    arrays = st.lists(st.tuples(spaces, children, spaces), max_size=4).map(
        lambda items: "[" + ",".join("".join(item) for item in items) + "]"
    )
    return objects | arrays


documents = st.recursive(
    spelled_string() | numbers | st.sampled_from(["true", "false", "null"]), spelled, max_leaves=12
)


@settings(max_examples=250, deadline=None)
@given(documents)
def test_valid_and_doubled_documents_end_as_the_slow_parser_says(text: str) -> None:
    assert ours(text.encode()) == oracle(text.encode())


@settings(max_examples=250, deadline=None)
@given(documents, st.data())
def test_damaged_documents_end_as_the_slow_parser_says(text: str, data: Any) -> None:
    raw = bytearray(text.encode())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(raw)))
        cut = data.draw(st.integers(0, 2))
        raw[at : at + cut] = data.draw(
            st.sampled_from([b"", b'"', b":", b",", b"\\", b"{", b"}", b"NaN", b"\xff", b"1", b" "])
        )
    assert ours(bytes(raw)) == oracle(bytes(raw))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(spelled_string(), documents), max_size=5), spelled_string(), spaces)
def test_what_is_left_without_a_member_is_spelled_as_before(
    members: list[tuple[str, str]], text: str, space: str
) -> None:
    at = len(members) // 2
    members = [*members[:at], ('"text"', text), *members[at:]]
    source = "{" + ",".join(f"{space}{key}{space}:{space}{value}" for key, value in members) + "}"
    data = source.encode()
    found = oracle(data)
    if found is None:
        return
    value = found[0]
    rest = strict_json.without(data, value, [("text",)])
    expected = {key: held for key, held in value.items() if key != "text"}
    assert (oracle(rest) if rest is not None else [{}]) == [expected]
    if rest is not None:
        assert numbers_of(rest) == numbers_of(data, skip="text")
    cut = strict_json.StringMember("text").cut_certainly(data, orjson.loads(data)) if _orjson_takes(data) else None
    assert cut is None or cut.strip() == (rest or b"{}")


def _orjson_takes(data: bytes) -> bool:
    try:
        orjson.loads(data)
    except orjson.JSONDecodeError:
        return False
    return True


def numbers_of(data: bytes, skip: str | None = None) -> list[str]:
    """How the numbers of a document are spelled, in order."""
    seen: list[str] = []

    def keep(digits: str) -> str:
        seen.append(digits)
        return digits

    json.loads(data, parse_int=keep, parse_float=keep)
    return seen


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(strings, strings), min_size=1, max_size=5))
def test_cutting_the_text_never_hides_a_doubled_key(pairs: list[tuple[str, str]]) -> None:
    source = "{" + ",".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in pairs) + "}"
    data = source.encode()
    value = orjson.loads(data)
    name = pairs[0][0]
    if strict_json.StringMember(name).cut_certainly(data, value) is not None:
        assert len({key for key, _ in pairs}) == len(pairs)


@pytest.mark.parametrize(
    ("data", "reason", "words"),
    [
        (b'{"a":1,"a":2}', "invalid_json", "'a' stands twice"),
        (b'{"a":1,"\\u0061":2}', "invalid_json", "'a' stands twice"),
        (b'{"x":"\\":","a":1 ,"b":{"c":1,"c" :2}}', "invalid_json", "'c' stands twice"),
        (b"[NaN]", "invalid_json", "NaN"),
        (b'{"a":-Infinity}', "invalid_json", "-Infinity"),
        (b'"\xff"', "bad_encoding", "byte 1"),
        (b'"\xed\xa0\x80"', "bad_encoding", "byte 1"),
        (b'"\\ud800"', "bad_encoding", "surrogate"),
        (b"[1,]", "invalid_json", "column 4"),
        (b"", "invalid_json", "column 1"),
        (b"01", "invalid_json", "column 2"),
        (b"[" * 2000 + b"]" * 2000, "invalid_json", "levels deep"),
        (b'{"a":' * 600 + b"1" + b"}" * 600, "invalid_json", "levels deep"),
        (b"[" * 200_000, "invalid_json", "levels deep"),
    ],
)
def test_a_refusal_says_what_and_where(data: bytes, reason: str, words: str) -> None:
    with pytest.raises(RecordError, match=words) as refusal:
        strict_json.loads(data)
    assert refusal.value.reason == reason


def test_numbers_that_float64_cannot_hold_are_still_json() -> None:
    assert strict_json.loads(b"[1e999, 12345678901234567890123]") == [float("inf"), 12345678901234567890123.0]
    assert strict_json.loads(b"[" + b"9" * 5000 + b"]") == [float("inf")]


def test_numbers_keep_their_spelling_in_what_is_left() -> None:
    data = b'{"n": 1.50, "big": 12345678901234567890123, "e": 1E+2, "text": "x", "inner": {"text": [0.10]}}'
    assert strict_json.without(data, orjson.loads(data), [("text",)]) == data.replace(b'"text": "x", ', b"")
    moved = strict_json.without(data, strict_json.loads(data), [("inner", "text")])
    assert moved == b'{"n":1.50,"big":12345678901234567890123,"e":1E+2,"text":"x","inner":{}}'


def test_the_elements_of_an_array_are_delimited_up_to_the_damage() -> None:
    text = '[ {"a": 1},\n{"b": "]"} , [2], {"c": '
    got = []
    with pytest.raises(RecordError, match="ends at character") as refusal:
        for start, end in strict_json.elements(text):
            got.append(text[start:end])
    assert refusal.value.reason == "truncated"
    assert got == ['{"a": 1}', '{"b": "]"}', "[2]"]
    with pytest.raises(RecordError, match="not strict JSON"):
        list(strict_json.elements("[1 2]"))
    with pytest.raises(RecordError, match="follows the array"):
        list(strict_json.elements("[] x"))


def test_a_member_of_an_inner_object_is_not_taken_for_the_outer_one() -> None:
    for inner in (b'{"text": "same"}', b'[{"text": "same"}]', b'{"text": "other"}'):
        data = b'{"meta": ' + inner + b', "text": "same", "n": 1}'
        value = orjson.loads(data)
        assert strict_json.StringMember("text").cut_certainly(data, value) is None
        assert json.loads(strict_json.without(data, value, [("text",)]) or b"") == {"meta": json.loads(inner), "n": 1}
