"""Windows depend on the data alone: a line file of readings gives the same records however large it is."""

from __future__ import annotations

import json
from pathlib import Path

from headrace.ingest.build import build
from headrace.ingest.pipeline_file import make_pipeline


def test_windows_of_a_long_line_file_reach_over_its_batches(tmp_path: Path, checked) -> None:
    (tmp_path / "in").mkdir()
    count = 40_000  # some 3 MiB: several batches, had they been cut
    rows = [
        json.dumps(
            {
                "time": f"2025-06-{1 + i // 1440:02d}T{i // 60 % 24:02d}:{i % 60:02d}:00Z",
                "level": i % 977,
                "note": "x" * 20,
            }
        )
        for i in range(count)
    ]
    (tmp_path / "in" / "a.jsonl").write_text("\n".join(rows) + "\n")
    record = {"type": "sensor", "time": "time", "channels": {"level": "m"}, "window": 512}
    streams = {"tide": {"source": {"type": "files", "root": str(tmp_path / "in")}, "record": record}}
    build(make_pipeline({"streams": streams}, base=tmp_path), str(tmp_path / "out"), base=tmp_path, workers=1)
    dataset, report = checked(tmp_path / "out")
    locators = [json.loads(v) for b in dataset.batches("tide", ["locator"]) for v in b.column("locator").to_pylist()]
    assert report.samples == -(-count // 512)
    starts = [0]
    for row in rows[:-1]:
        starts.append(starts[-1] + len(row) + 1)
    assert [one["byte"] for one in locators] == starts[::512]
