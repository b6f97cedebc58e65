"""`--where` chooses the rows that SQL would: compared with DuckDB."""

from __future__ import annotations

from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.schemas.errors import ConfigError
from headrace.shards.where import parse_where

TABLE = pa.table(
    {
        "n": pa.array(range(12)),
        "license": pa.array(["CC-BY-4.0", "NOASSERTION", None] * 4),
        "uri": pa.array([f"north/{i}.txt" if i % 2 else f"it's_{i}%" for i in range(12)]),
        "error": pa.array([None if i % 4 == 0 else i / 2 for i in range(12)], pa.float32()),
        "event_time": pa.array(
            [None if i % 5 == 0 else 1_577_836_800_000_000 + i * 86_400_000_000 for i in range(12)],
            pa.timestamp("us", tz="UTC"),
        ),
        "good": pa.array([True, False, None] * 4),
    }
)

ATOMS = [
    "n = 3",
    "n >= 6",
    "n <> 5",
    "n < -1",
    "n in (1, 4, 11)",
    "n not in (1, 4)",
    "n > 2.5",
    "license = 'CC-BY-4.0'",
    "license != 'CC-BY-4.0'",
    "license is null",
    "license is not null",
    "license in ('CC-BY-4.0', 'x')",
    "license not in ('CC-BY-4.0')",
    "uri like 'north/%'",
    "uri not like '%_1%'",
    "uri = 'it''s_4%'",
    "error > 2",
    "error <= 1.5",
    "error in (0.5, 2.5)",
    "event_time < '2020-01-07'",
    "event_time >= '2020-01-08T12:00:00+02:00'",
    "good = true",
    "good != false",
]

CONDITIONS = st.recursive(
    st.sampled_from(ATOMS),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["and", "OR"]), inner).map(lambda t: f"({t[0]}) {t[1]} {t[2]}"),
        inner.map(lambda c: f"not ({c})"),
        st.tuples(inner, inner).map(lambda t: f"{t[0]} and {t[1]} or n = 7"),
    ),
    max_leaves=5,
)


def chosen(condition: str) -> list[Any]:
    return TABLE.filter(parse_where(condition, TABLE.schema)).column("n").to_pylist()


def oracle(condition: str) -> list[Any]:
    connection = duckdb.connect()
    connection.execute("set timezone = 'UTC'")
    connection.register("samples", TABLE)
    return [n for (n,) in connection.execute(f"select n from samples where {condition} order by n").fetchall()]


@pytest.mark.parametrize("condition", ATOMS)
def test_every_comparison_chooses_what_duckdb_chooses(condition: str) -> None:
    assert chosen(condition) == oracle(condition)


@settings(max_examples=60, deadline=None)
@given(CONDITIONS)
def test_combinations_choose_what_duckdb_chooses(condition: str) -> None:
    assert chosen(condition) == oracle(condition)


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("", "expected a column at character 1, found 'the end'"),
        ("n", "expected a comparison at character 2"),
        ("n = ", "expected a string in single quotes"),
        ("n == 3", "expected a string in single quotes"),
        ("n = 3 x", "expected the end at character 7, found 'x'"),
        ("n = 3; drop table x", "expected the end at character 6"),
        ("(n = 3", "expected '\\)'"),
        ("size = 3", "no column 'size'; there are n, license"),
        ("n = 'three'", "'three' does not compare with a column of type int64"),
        ("event_time < 'soon'", "'soon' does not compare with a column of type timestamp"),
        ("license like 3", "expected a pattern in quotes"),
        ("n in ()", "expected a string in single quotes"),
        ("uri = 'open", 'found "\'open"'),
    ],
)
def test_a_condition_that_does_not_parse_shows_the_place(condition: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_where(condition, TABLE.schema)
