"""One bad record costs one record, whatever it does to its process."""

from __future__ import annotations

from pathlib import Path

from headrace.ingest.build import build

from .conftest import lines_pipeline, reasons, write_lines

ORDERS = {
    (0, 10): "SEGFAULT",
    (0, 11): "TWO",
    (1, 20): "LOOP",
    (2, 30): "MEMORY",
    (2, 31): "REFUSE",
    (3, 5): "RAISE",
    (3, 6): "NOTHING",
    (3, 7): "TWO HALF",
    (4, 40): "ENCODE-CRASH",
    (4, 41): "ENCODE-NO",
    (4, 42): "TWO ENCODE-NO",
}


def test_a_record_that_kills_its_process_costs_only_itself(tmp_path: Path, checked) -> None:
    write_lines(tmp_path / "in", orders=ORDERS)
    build(lines_pipeline(tmp_path), str(tmp_path / "out"), base=tmp_path, workers=2, engine="inline")
    dataset, report = checked(tmp_path / "out")
    assert reasons(dataset) == {
        "crash:SIGSEGV": 1,
        "hang": 1,
        "oom": 1,
        "corrupt": 1,
        "internal": 1,
        "empty": 1,
        "truncated": 1,
        "crash:SIGBUS": 1,
        "encode_failed": 2,  # its reversed twin does not spell it any more
    }
    # 720 lines; 6 give nothing at all, 2 are refused when encoded whose twin may survive, 3 lines give two records
    assert report.samples == 720 - 6 - 3 + 3
    assert dataset.state.sources["lines"].read == 720
    assert dataset.state.sources["lines"].quarantined == 6


def test_convictions_are_kept_and_obeyed_by_the_next_run(tmp_path: Path, checked) -> None:
    write_lines(tmp_path / "in", files=2, lines=30, orders={(0, 10): "SEGFAULT"})
    pipeline = lines_pipeline(tmp_path)
    build(pipeline, str(tmp_path / "out"), base=tmp_path, workers=1, engine="inline")
    dataset, _ = checked(tmp_path / "out")
    assert [c.reason for c in dataset.state.convictions] == ["crash:SIGSEGV"]
    again = build(pipeline, str(tmp_path / "out"), base=tmp_path, workers=1, engine="inline")
    assert again.complete
