"""DuckDB, Polars, pandas and PyArrow read shards and catalogue as they lie: the code of docs/reading.md, run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from headrace.shards.catalogue import update_catalogue
from headrace.shards.dataset import Dataset
from headrace.shards.forget import Selection, forget
from headrace.shards.log import CommitLog
from headrace.shards.store_local import LocalStore

from .exporting import Maker, settings_for, token_rows

PAGE = Path(__file__).parents[2] / "docs" / "reading.md"


def code(heading: str) -> str:
    """The block of Python under a heading of the page."""
    section = PAGE.read_text(encoding="utf-8").partition(f"## {heading}\n")[2].partition("\n## ")[0]
    found = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert found, heading
    return found.group(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a `DATASET` of two lanes, some samples of which were forgotten, not erased."""
    work = tmp_path_factory.mktemp("reading")
    store = LocalStore(str(work / "DATASET"), create=True)
    maker = Maker(store, {"tide": settings_for("tide"), "buoy": settings_for("buoy")})
    for lane in (0, 1):
        maker.add("tide", token_rows(30, lane), lane=lane, block_bytes=3000)
    maker.add("buoy", token_rows(10, 5))
    update_catalogue(Dataset(store))
    log = CommitLog(store)
    log.claim({"pyarrow": "1"}, {})
    forget(log, Selection(where="stream = 'tide' and lane = 1 and seq < 10"))
    log.end()
    update_catalogue(Dataset(store))
    return work


@pytest.fixture
def run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """run(heading) → the names that the block of that heading leaves behind."""
    monkeypatch.chdir(folder)

    def execute(heading: str) -> dict[str, Any]:
        names: dict[str, Any] = {}
        exec(compile(code(heading), f"docs/reading.md, {heading}", "exec"), names)
        return names

    return execute


@pytest.fixture
def wanted(folder: Path) -> list[dict[str, Any]]:
    """The samples of `tide` as headrace reads them."""
    return [row for batch in Dataset.open(str(folder / "DATASET")).batches("tide") for row in batch.to_pylist()]


def test_live_shards_are_those_of_the_log(run: Any) -> None:
    names = run("Which shards count")
    assert len(names["shards"]) == 2 and all(Path(path).is_file() for path in names["shards"])


def test_duckdb_counts_what_headrace_reads(run: Any, wanted: list[dict[str, Any]]) -> None:
    pytest.importorskip("duckdb")
    names = run("DuckDB")
    tide = {row[1]: row[2:] for row in names["per_license"] if row[0] == "tide"}
    for license, (samples, tokens) in tide.items():
        rows = [row for row in wanted if row["license"] == license]
        assert (samples, tokens) == (len(rows), sum(len(row["tokens"]) for row in rows))
    assert sum(samples for samples, _ in tide.values()) == len(wanted) == 50
    assert [row[2] for row in names["lengths"]] == [len(row["tokens"]) for row in wanted]
    assert names["lengths"][20][:2] == (0, 20) and names["lengths"][30][:2] == (1, 10)


def test_polars_counts_what_headrace_reads(run: Any, wanted: list[dict[str, Any]]) -> None:
    pytest.importorskip("polars")
    names = run("Polars")
    total = sum(len(row["tokens"]) for row in wanted)
    assert names["per_stream"].rows()[1] == ("tide", 50, total)
    assert names["tokens"].item() == total


def test_pandas_holds_what_headrace_reads(run: Any, wanted: list[dict[str, Any]]) -> None:
    pytest.importorskip("pandas")
    frame = run("pandas")["frame"]
    tokens = {row["record_id"]: row["tokens"] for row in wanted}
    assert len(frame) == len(tokens) == 50
    assert {r: list(t) for r, t in zip(frame["record_id"], frame["tokens"])} == tokens
    assert set(frame["license"]) == {"CC-BY-4.0", "NOASSERTION"}


def test_pyarrow_filters_by_column(run: Any, wanted: list[dict[str, Any]]) -> None:
    free = run("PyArrow")["free"].to_pylist()
    have = [row["tokens"] for row in free]
    assert all(row["tokens"] in have for row in wanted if row["license"] == "CC-BY-4.0")
    assert len(free) == 30  # the forgotten ones lie there still


def test_datasets_reads_tables_and_generators(run: Any, wanted: list[dict[str, Any]]) -> None:
    """Where `datasets` is not installed here, tests/exports runs the same block in the trainers' environment."""
    pytest.importorskip("datasets")
    names = run("Hugging Face datasets")
    assert len(names["in_memory"]) == 60 == sum(1 for _ in names["streamed"])
