"""The meter: shares of time that sum to one, shown wherever a build or a service is looked at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from headrace.cli import app
from headrace.commands.progress import told_meter
from headrace.ingest.build import build
from headrace.ingest.meter import STAGES, added, meter, meter_ext, of_lane
from headrace.ingest.pipeline_file import make_pipeline
from headrace.shards.dataset import Dataset
from headrace.shards.entry import entry_name
from headrace.shards.verify import verify

SECONDS = st.floats(0, 1e6, allow_nan=False)


@given(st.fixed_dictionaries(dict.fromkeys(("read", "normalize", "encode", "write", "wait"), SECONDS)), SECONDS)
def test_shares_sum_to_one_whatever_was_counted(counted: dict[str, float], rest: float) -> None:
    total = sum(counted.values()) + rest
    found = meter({**counted, "total": total})
    if total == 0:
        assert found is None
    else:
        assert found is not None
        assert sum(found[stage] for stage in STAGES) == pytest.approx(1)
        assert 0 <= found["bare"] <= 1 and found["seconds"] == pytest.approx(total)


def test_bare_speed_is_codec_and_tokenizer_of_all_that_was_not_waiting() -> None:
    found = meter({"read": 1, "normalize": 2, "encode": 6, "write": 0.5, "wait": 10, "total": 20})
    assert found is not None and found["bare"] == pytest.approx(0.9) and found["headrace"] == pytest.approx(0.025)
    assert told_meter(found) == (
        "90.0 % of bare speed (codec 15 %, tokenizer 30 %, write 2 %, wait 50 %, headrace 2 %)"
    )


def test_what_ran_beside_a_lane_counts_as_time_of_it() -> None:
    seconds = of_lane(10.0, 1.0, {"read": 2.0}, {"encode": 3.0, "write": 1.5, "behind": 1.0})
    assert seconds == {"read": 2.0, "encode": 3.0, "write": 1.5, "wait": 1.0, "total": 11.0}
    assert added([seconds, seconds])["total"] == 22.0


def test_a_run_without_lanes_says_nothing() -> None:
    assert meter({}) is None and meter_ext({}, {}) == {} and meter_ext({"a": {"total": 0.0}}, {}) == {}


@pytest.fixture
def pipeline(tmp_path: Path) -> Any:
    (tmp_path / "in").mkdir()
    rows = (json.dumps({"text": f"gate {i} opens at {i * 7 % 60} past"}) for i in range(4000))
    (tmp_path / "in" / "gates.jsonl").write_text("\n".join(rows) + "\n")
    document = {
        "streams": {
            "gates": {
                "source": {"type": "files", "root": str(tmp_path / "in"), "divide_bytes": 50_000},
                "record": {"type": "text"},
                "tokenizer": {"type": "bytes"},
            }
        }
    }
    return make_pipeline(document, base=tmp_path)


def test_a_build_is_metered_by_stream_and_worker_and_its_log_keeps_it(tmp_path: Path, pipeline: Any) -> None:
    watched: list[dict[str, Any]] = []
    result = build(pipeline, str(tmp_path / "out"), base=tmp_path, workers=2, engine="inline", watch=watched.append)
    last = watched[-1]
    assert last["sources"]["gates"]["meter"]["seconds"] > 0 and set(last["workers"]) <= {"w0", "w1"}
    counted = result.stage_seconds["gates"]
    assert counted["total"] >= counted["encode"] + counted["write"] + counted["normalize"] > 0
    end = json.loads((tmp_path / "out" / entry_name(result.version)).read_text().splitlines()[0])
    kept = end["ext"]["meter"]
    assert end["kind"] == "end" and set(kept["streams"]) == {"gates"} and kept["workers"]
    for found in (*kept["streams"].values(), *kept["workers"].values()):
        assert sum(found[stage] for stage in STAGES) == pytest.approx(1, abs=1e-3)
    told = CliRunner().invoke(app, ["inspect", str(tmp_path / "out"), "--json"])
    assert json.loads(told.stdout)["meter"] == kept
    shown = CliRunner().invoke(app, ["inspect", str(tmp_path / "out")]).stdout
    assert "of bare speed" in shown and "stream gates" in shown

    again = build(pipeline, str(tmp_path / "again"), base=tmp_path, workers=1, engine="inline")
    digests = {verify(Dataset.open(str(tmp_path / name))).content_digest for name in ("out", "again")}
    assert len(digests) == 1, "where time went is no content"
    assert again.worker_seconds.keys() == {"w0"}
