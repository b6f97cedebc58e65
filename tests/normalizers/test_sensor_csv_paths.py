"""The three ways to read a block of CSV give the same records: what Arrow parses by itself, by columns, and by rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.ingest.normalizers import sensor_time
from headrace.ingest.normalizers.sensor_csv import CsvTable
from headrace.ingest.normalizers.sensor_testing import Read, read

CELLS = [
    "1e5", "+1", " 1", "1 ", "1_0", "NaN", "inf", "-inf", "Infinity", "0x1", "", "1,5", "1.000,5", "1'000", "1.", ".5",
    "-0", "1e", "1e+05", "1E400", "1e-400", "9007199254740993", "123456789012345678901234567890", "\u0661", "true",
    "nan", "NA", "-", "1d3", "1f", "++1", "+-1", "- 1", "1.5.2", "\t3", "infinit", "0b1", "1e5 ", "00012", "1e05.5",
    "0.1", "0.30000000000000004", "4.35", "1.7976931348623159e308", "2.2250738585072011e-308",
]  # fmt: skip


def picture(out: Read) -> list[Any]:
    records = [
        [
            {k: v for k, v in row.items() if k not in ("t", "value", "valid")},
            *(row[k].tobytes() for k in ("t", "value", "valid") if k in row),
        ]
        for row in out.records
    ]
    return [records, out.bad, out.error and (out.error.reason, out.error.message)]


def by_columns(self: CsvTable, data: bytes, kinds: Mapping[str, pa.DataType]) -> pa.RecordBatch:
    """Arrow's own numbers are refused, so that every cell is read as text and then converted."""
    if any(not pa.types.is_string(kind) for kind in kinds.values()):
        raise pa.ArrowInvalid("no typed columns in this test")
    return _read(self, data, kinds)


_read = CsvTable._read


@settings(max_examples=60, deadline=None)
@given(
    cells=st.lists(
        st.one_of(st.sampled_from(CELLS), st.floats().map(repr), st.integers(-(2**70), 2**70).map(str)),
        min_size=1, max_size=12,
    ),
    quoted=st.booleans(),
    delimiter=st.sampled_from([",", ";"]),
)  # fmt: skip
def test_numbers_that_arrow_parses_are_the_numbers_of_their_text(
    cells: list[str], quoted: bool, delimiter: str
) -> None:
    rows = [f"2020-01-01 00:00:{i:02d}{delimiter}{i}{delimiter}7" for i in range(30)]
    for i, cell in enumerate(cells):
        shown = f'"{cell}"' if quoted or delimiter in cell else cell
        rows.append(f"2020-01-01 00:01:{i:02d}{delimiter}{shown}{delimiter}8")
    data = f"t{delimiter}a{delimiter}b\n" + "\n".join(rows) + "\n"
    quick = read(data, "csv", window=8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CsvTable, "_read", by_columns)
        assert picture(read(data, "csv", window=8)) == picture(quick)


STAMPS = [
    "2020-01-01", "2020-01-01T00:00:00", "2020-01-01 00:00:00.5", "2020-01-01T00:00:00Z", "2020-01-01T00:00:00+02:00",
    "2020-01-01T00Z", "2020-01-01T00+02", "2020-01-01T00:00-0130", "2020-01-01Z", "20200101", "x", "", " 2020-01-01",
    "1600-01-01", "2020-02-30", "2020-01-01T24:00:00", None,
]  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(STAMPS), max_size=5), st.sampled_from(STAMPS), st.sampled_from([0, 1, 200]))
def test_trying_the_likely_zone_first_changes_no_stamp(head: list[str | None], rest: str | None, count: int) -> None:
    texts = pa.array([*head, *[rest] * count], pa.string())

    def all_at_once() -> sensor_time.Stamps | None:
        for zone in (None, "UTC"):
            try:
                cast = texts.cast(pa.timestamp("ns", tz=zone))
            except pa.ArrowInvalid:
                continue
            return sensor_time.Stamps(cast, cast, zone is not None)  # type: ignore[arg-type]
        return None

    plain, quick = all_at_once(), sensor_time._cast_iso(texts)
    assert (plain is None) == (quick is None)
    if plain is not None and quick is not None:
        assert quick.ns.tolist() == [v or 0 for v in plain.ns.cast(pa.int64()).to_pylist()]  # type: ignore[attr-defined]
        assert quick.zoned.tolist() == [plain.zoned] * len(texts)
