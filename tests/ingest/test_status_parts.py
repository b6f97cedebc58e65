"""The thinking parts of the status server, without a server: walking, charts, words, metrics, polling, following."""

from __future__ import annotations

import itertools
import random
import re
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.ingest.status_charts import balance, scale, series_plot, sparkline, stacked, waveform
from headrace.ingest.status_contract import ServiceStatus, empty_stream
from headrace.ingest.status_dataset import Added, DatasetFollower, EntryLine, copied, quarantine_counts
from headrace.ingest.status_metrics import MAX_RULES, MAX_STREAMS, OTHER, Metrics
from headrace.ingest.status_poll import Poller, Snapshot
from headrace.ingest.status_quarantine import bytes_look, hex_lines
from headrace.ingest.status_samples import after, following, live_spans, newest, previous
from headrace.ingest.status_summary import balanced, books, lost, summary
from headrace.ingest.status_timeline import BINS, timeline
from headrace.ingest.status_words import age, clock, count, duration, rate, size
from headrace.ingest.view import Address
from headrace.schemas.errors import StorageError
from headrace.shards.entry import ShardInfo, Span
from headrace.shards.log import CommitLog
from headrace.shards.state import State
from headrace.shards.store import open_store

from .test_status_world import LogService, built, until

# ---- walking ----


def lanes(rng: random.Random) -> tuple[State, list[Address]]:
    """A stream over several lanes with erased and deleted rows, and by brute force what of it can be read."""
    state, left = State(), []
    for lane in rng.sample(range(9), rng.randint(0, 4)):
        at, shards, gone = 0, [], set()
        for _ in range(rng.randint(1, 4)):
            span = rng.randint(1, 6)
            missing = [Span(n, n + 1) for n in range(at, at + span) if rng.random() < 0.2]
            gone |= {m.start for m in missing}
            shards.append(ShardInfo("s", lane, f"{at}", "", 0, span - len(missing), 0, 0, "", "", [], [], at, missing))
            at += span
        if rng.random() < 0.3 and len(shards) > 1:
            dropped = shards.pop(rng.randrange(len(shards)))
            gone |= set(range(dropped.first_seq, dropped.stop_seq))
        deleted = [Span(n, n + 1) for n in range(at) if rng.random() < 0.2]
        state.shards["s", lane] = shards
        state.deleted["s", lane] = deleted
        state.origins["s", lane] = [(s.first_seq, rng.randint(1, 50)) for s in shards]
        gone |= {d.start for d in deleted}
        left += [Address("s", lane, n) for n in range(at) if n not in gone]
    return state, sorted(left, key=lambda a: (a.lane, a.seq))


@pytest.mark.parametrize("seed", range(150))
def test_walking_agrees_with_brute_force(seed: int) -> None:
    rng = random.Random(seed)
    state, wanted = lanes(rng)
    assert list(after(state, "s", None)) == wanted
    places = [*wanted, *(Address("s", rng.randrange(10), rng.randrange(25)) for _ in range(20))]
    for place in places:
        key = (place.lane, place.seq)
        later = [a for a in wanted if (a.lane, a.seq) > key]
        earlier = [a for a in wanted if (a.lane, a.seq) < key]
        assert list(after(state, "s", place)) == later
        assert following(state, place) == (later[0] if later else None)
        assert previous(state, place) == (earlier[-1] if earlier else None)
    for lane in range(9):
        spans = [n for s in live_spans(state, "s", lane) for n in range(s.start, s.stop)]
        assert spans == [a.seq for a in wanted if a.lane == lane]
    assert sorted(map(str, newest(state, "s", 1000))) == sorted(map(str, wanted))


# ---- following a dataset ----


def test_a_pinned_state_does_not_move_when_the_log_does(tmp_path_factory: pytest.TempPathFactory) -> None:
    log = CommitLog(open_store(str(built(tmp_path_factory))))
    entries = list((log.replay(), log.entries())[1])
    state = State()
    for number, (entry, digest) in enumerate(entries):
        pinned, before = copied(state), (state.v, sum(map(len, state.shards.values())), len(state.quarantine))
        state.apply(entry, digest)
        assert (pinned.v, sum(map(len, pinned.shards.values())), len(pinned.quarantine)) == before
        assert pinned.v == number
    assert copied(state) == state


def test_a_copied_state_shares_no_container_with_the_state() -> None:
    state = State()
    state.shards["s", 0], state.origins["s", 0], state.plan["s"] = [], [], []
    pinned = copied(state)
    for name, value in vars(state).items():
        if isinstance(value, dict | list | set):
            assert getattr(pinned, name) is not value, name
    for lists in (state.shards["s", 0], state.origins["s", 0], state.plan["s"]):
        lists.append("more")  # type: ignore[arg-type]
    assert pinned.shards["s", 0] == pinned.origins["s", 0] == pinned.plan["s"] == []


def test_the_follower_gives_one_view_until_the_log_grows_and_every_line_once(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    import shutil

    grown = tmp_path / "grown"
    shutil.copytree(built(tmp_path_factory), grown)
    kept = sorted((grown / "log").glob("*.json"))
    later = [(path, path.read_bytes()) for path in kept[-2:]]
    for path, _ in later:
        path.unlink()
    follower = DatasetFollower(str(grown), stale_s=1000)
    first = follower.view()
    assert first.dataset.version == len(kept) - 2 and follower.view() is first
    for path, data in later:
        path.write_bytes(data)
    assert follower.view(first.dataset.version) is first, "nobody asked for more"
    second = follower.view(len(kept))
    assert second.dataset.version == len(kept) and first.dataset.version == len(kept) - 2
    assert [line.v for line in follower.lines()] == list(range(1, len(kept) + 1))
    assert sum(quarantine_counts(second.dataset.state)["camera"].values()) >= 2


def test_a_dataset_that_is_not_there_is_told_and_then_found(tmp_path: Path) -> None:
    follower = DatasetFollower(str(tmp_path / "nothing"))
    with pytest.raises(StorageError):
        follower.view()


# ---- polling ----


def test_a_service_that_hangs_does_not_hang_those_who_look(tmp_path_factory: pytest.TempPathFactory) -> None:
    service = LogService(built(tmp_path_factory))
    release = threading.Event()
    poller = Poller(service, every_s=0.02)
    answer = service.status
    poller.start()
    try:
        until(lambda: poller.snapshot().status)
        service.status = lambda: (release.wait(30), answer())[1]  # type: ignore[method-assign]
        time.sleep(0.1)
        began = time.monotonic()
        snapshot = poller.snapshot()
        assert time.monotonic() - began < 0.05 and snapshot.status is not None
    finally:
        release.set()
        poller.stop()


def test_a_failure_of_the_service_is_shown_beside_its_last_answer(tmp_path_factory: pytest.TempPathFactory) -> None:
    service = LogService(built(tmp_path_factory))
    poller = Poller(service)
    assert poller.snapshot().not_ready() == "the service has not answered yet"
    assert poller.poll().not_ready() is None
    service.status = lambda: {}["nothing"]  # type: ignore[method-assign]
    snapshot = poller.poll()
    assert snapshot.status is not None and snapshot.error == "KeyError: 'nothing'"
    assert summary(snapshot).tone == "bad"


def test_rates_of_streams_that_are_gone_are_forgotten(tmp_path_factory: pytest.TempPathFactory) -> None:
    service = LogService(built(tmp_path_factory))
    poller = Poller(service)
    for _ in range(200):
        poller.poll()
    assert len(poller.rates("tide")) == 150
    answer = service.status()
    service.status = lambda: {**answer, "streams": []}  # type: ignore[method-assign,typeddict-item]
    poller.poll()
    assert poller.rates("tide") == []


# ---- metrics ----


def snapshot_of(streams: int, rules: int = 1, commits: Any = ()) -> Snapshot:
    status: ServiceStatus = {
        "dataset": "d", "version": 3, "epoch": 1, "digest": "0", "state": "running", "started_us": 0, "now_us": 1,
        "engine": "ray", "headrace_version": "1", "streams": [], "workers": [], "commits": list(commits),
    }  # fmt: skip
    for i in range(streams):
        stream = empty_stream(f"s{i:04d}")
        stream.update(
            records_per_s=1.0, freshness_s=float(i), items=10, lag={"records": 2, "bytes": None, "seconds": 1.0}
        )
        rejected = {f"rule{n:03d}": 1 for n in range(rules)}
        stream["outputs"] = [
            {"name": stream["name"], "modality": "text", "records": 5 + rules, "samples": 3, "tokens": 70,
             "quarantined": 1, "rejected": rejected, "duplicates": 1, "engine": None}
        ]  # fmt: skip
        status["streams"].append(stream)
    return Snapshot(1, status, time.monotonic(), None)


def families(metrics: Metrics) -> dict[str, Any]:
    from prometheus_client.parser import text_string_to_metric_families

    text, content_type = metrics.text("")
    assert content_type.startswith("text/plain")
    return {family.name: family for family in text_string_to_metric_families(text.decode())}


def test_metrics_are_the_numbers_of_the_status(tmp_path_factory: pytest.TempPathFactory) -> None:
    service = LogService(built(tmp_path_factory))
    poller, follower = Poller(service), DatasetFollower(service.dataset)
    metrics = Metrics(poller.snapshot, lambda: quarantine_counts(follower.view().dataset.state))
    poller.listeners.append(metrics.observe)
    status = poller.poll().status
    poller.poll()
    assert status is not None
    found = families(metrics)
    outputs = {o["name"]: o for s in status["streams"] for o in s["outputs"]}
    for what in ("records", "samples", "tokens", "duplicates"):
        said = {s.labels["stream"]: s.value for s in found[f"headrace_{what}"].samples}
        assert said == {name: output[what] for name, output in outputs.items()}  # type: ignore[literal-required]
        assert found[f"headrace_{what}"].type == "counter"
    commits = {s.name: s.value for s in found["headrace_commit_seconds"].samples if "_bucket" not in s.name}
    assert commits["headrace_commit_seconds_count"] == len(status["commits"]), "every commit once, at two polls"
    assert commits["headrace_commit_seconds_sum"] == pytest.approx(sum(c["seconds"] or 0 for c in status["commits"]))
    rows = follower.view().dataset.state.quarantine.values()
    assert sum(s.value for s in found["headrace_quarantined"].samples) == sum(info.rows for info in rows)
    assert {s.labels["stream"]: s.value for s in found["headrace_parked_splits"].samples}["film"] == 1
    assert [s.value for s in found["headrace_spool_bytes"].samples] == [41_000_000]
    state = {s.labels["state"]: s.value for s in found["headrace_stream_state"].samples if s.labels["stream"] == "film"}
    assert state["parked"] == 1 and sum(state.values()) == 1


def test_names_of_metrics_follow_the_rules_of_prometheus() -> None:
    metrics = Metrics(lambda: snapshot_of(2), dict)
    text = metrics.text("")[0].decode()
    for name, kind in re.findall(r"^# TYPE (headrace_\w+) (\w+)$", text, re.M):
        assert name.endswith("_total") == (kind == "counter"), name
    assert "headrace_freshness_seconds{" in text and "headrace_lag_records{" in text
    assert "headrace_lag_bytes{" not in text, "what is unknown is not there, rather than 0"


def test_the_page_about_metrics_names_every_one_of_them(tmp_path_factory: pytest.TempPathFactory) -> None:
    poller = Poller(LogService(built(tmp_path_factory)))
    poller.poll()
    text = Metrics(poller.snapshot, lambda: {"camera": {"corrupt": 1}}).text("")[0].decode()
    made = set(re.findall(r"^# TYPE (headrace_\w+) ", text, re.M)) - {"headrace_commit_seconds_created"}
    page = (Path(__file__).resolve().parents[2] / "docs" / "status.md").read_text(encoding="utf-8")
    assert made == set(re.findall(r"`(headrace_\w+)`", page))


def test_labels_stay_bounded_and_the_sums_stay_true() -> None:
    streams, rules = MAX_STREAMS + 300, MAX_RULES + 30
    snapshot = snapshot_of(streams, rules)
    metrics = Metrics(lambda: snapshot, lambda: {"s0000": {"corrupt": 2, "made_up": 1}, "s0499": {"corrupt": 1}})
    found = families(metrics)
    for name in ("headrace_samples", "headrace_freshness_seconds", "headrace_items", "headrace_lag_records"):
        labels = {s.labels["stream"] for s in found[name].samples}
        assert len(labels) == MAX_STREAMS + 1 and OTHER in labels
    assert sum(s.value for s in found["headrace_samples"].samples) == 3 * streams
    assert sum(s.value for s in found["headrace_rejected_records"].samples) == rules * streams
    assert len(found["headrace_rejected_records"].samples) <= (MAX_STREAMS + 1) * (MAX_RULES + 1)
    freshness = {s.labels["stream"]: s.value for s in found["headrace_freshness_seconds"].samples}
    assert freshness[OTHER] == streams - 1, "the worst of those that share a label"
    reasons = {(s.labels["stream"], s.labels["reason"]): s.value for s in found["headrace_quarantined"].samples}
    assert reasons == {("s0000", "corrupt"): 2, ("s0000", OTHER): 1, (OTHER, "corrupt"): 1}


# ---- the summary ----


def test_the_headline_says_the_worst_that_is_true() -> None:
    snapshot = snapshot_of(3)
    status = snapshot.status
    assert status is not None
    assert summary(snapshot).headline == "Every stream is flowing." and summary(snapshot).worst == "s0002"
    status["streams"][1]["state"] = "paused"
    assert summary(snapshot).headline == "2 of 3 streams are running."
    status["streams"][0]["errors"] = [{"split": "a", "message": "b", "since_us": None, "next_try_us": None}]
    assert summary(snapshot).headline == "1 of 3 streams is waiting for a source."
    status["streams"][2]["state"] = "parked"
    assert (summary(snapshot).headline, summary(snapshot).tone) == ("1 of 3 streams is parked.", "bad")
    status["state"] = "fenced"
    assert summary(snapshot).headline == "Fenced."


def test_books_of_a_stream_are_the_sum_of_its_outputs_and_show_a_wrong_balance() -> None:
    stream = snapshot_of(1, rules=2).status["streams"][0]  # type: ignore[index]
    stream["outputs"] = stream["outputs"] * 2
    total = books(stream)
    assert (total["records"], total["samples"], total["rejected"]) == (14, 6, {"rule000": 2, "rule001": 2})
    assert balanced(total)
    assert not balanced({**total, "duplicates": 3})


def test_gaps_are_told_with_what_is_known_of_them() -> None:
    stream = empty_stream("a")
    assert lost(stream) == "none"
    stream["gaps"] = [{"reason": "trimmed", "lost": 1200}]
    assert lost(stream) == "1, 1,200 lost"
    stream["gaps"].append({"reason": "reconnect", "lost": None})
    assert lost(stream) == "2, 1,200 lost at least"
    assert lost({**stream, "gaps": stream["gaps"][1:]}) == "1, loss unknown"


# ---- charts, words, bytes ----


@given(st.lists(st.one_of(st.none(), st.floats(0, 1e12)), max_size=60))
def test_a_sparkline_stays_in_its_box_and_never_bridges_a_gap(values: list[float | None]) -> None:
    line, area = sparkline(values, 120, 28, 60)
    for x, y in re.findall(r"[ML]([-\d.e+]+) ([-\d.e+]+)", line + area):
        assert -0.01 <= float(x) <= 120.01 and 0 <= float(y) <= 28
    runs = re.findall("M", line)
    known = [v is not None for v in values]
    assert len(runs) == sum(k and not (i and known[i - 1]) for i, k in enumerate(known))


@given(st.tuples(*[st.integers(0, 10**9)] * 4))
def test_a_balance_fills_its_bar_exactly(parts: tuple[int, int, int, int]) -> None:
    samples, quarantined, rejected, duplicates = parts
    output: Any = {
        "samples": samples, "quarantined": quarantined, "rejected": {"rule": rejected}, "duplicates": duplicates,
        "records": sum(parts), "name": "", "modality": "", "tokens": 0, "engine": None,
    }  # fmt: skip
    found = balance(output, 240)
    assert sum(segment.value for segment in found) == sum(parts)
    if found:
        assert found[0].x == 0 and found[-1].x + found[-1].width == pytest.approx(240, abs=0.05)
        assert all(segment.width >= 1.99 for segment in found)


@given(st.floats(-1e9, 1e9), st.floats(0, 1e9), st.integers(1, 8))
def test_a_scale_encloses_its_values_in_a_few_even_round_steps(least: float, span: float, steps: int) -> None:
    ticks = scale(least, least + span, steps)
    slack = 1e-6 * (abs(least) + span + 1)
    assert ticks[0] <= least + slack and ticks[-1] >= least + span - slack
    assert 2 <= len(ticks) <= steps + 3
    gaps = [b - a for a, b in itertools.pairwise(ticks)]
    assert max(gaps) == pytest.approx(min(gaps), rel=1e-3, abs=1e-9)


def test_a_plot_breaks_where_the_source_gave_no_value() -> None:
    plot = series_plot([0, 1, 2, 3, 10], [1.0, 2.0, None, 3.0, 4.0], 100, 50)
    assert plot.line.count("M") == 2 and "L100.0 0.0" in plot.line, "irregular times stand at their own places"
    assert plot.y_labels[0] == "4" and plot.y_labels[-1] == "1" and plot.grid[0] == 0
    assert series_plot([0, 1], [None, None], 100, 50).line == ""
    assert series_plot([5], [7.0], 100, 50).line.startswith("M0.0 ")


def test_stacked_bars_add_up_to_their_sums() -> None:
    bars, top = stacked([[1, 2], [0, 0], [3, 1]], 300, 100, ["a", "b", "c"])
    assert top == 4 and [bar.title for bar in bars] == ["a", "a", "c", "c"]
    assert sum(bar.height for bar in bars if bar.title == "c") == pytest.approx(100)
    assert stacked([[0.0]], 300, 100, ["a"]) == ([], 0.0)


def test_a_waveform_stays_in_its_box() -> None:
    path = waveform([(-2.0, 2.0), (0.0, 0.0)], 100, 40)
    assert all(0 <= float(y) <= 40 for _, y in re.findall(r"([\d.]+) ([\d.]+)", path))
    assert waveform([], 100, 40) == ""


def test_the_timeline_keeps_every_byte_whatever_the_number_of_streams() -> None:
    lines = [EntryLine(v, "commit", {f"s{n}": Added(1, 10 * n + 1, 5) for n in range(12)}) for v in range(1, 6)]
    commits: Any = [
        {"v": v, "time_us": v * 5_000_000, "seconds": 0.1, "shards": 1, "rows": 1, "tokens": 1, "streams": []}
        for v in range(2, 6)
    ]
    found = timeline(lines, commits)
    assert len(found.series) == 8 and found.series[-1] == "other"
    assert [chart.title for chart in found.charts] == ["Bytes", "Samples"]
    assert len(found.x_labels) == 3 and max(bar.x for bar in found.charts[0].bars) < 720
    untimed = timeline(lines, [])
    assert untimed.x_labels == ["version 1", "version 5"] and len({b.x for b in untimed.charts[0].bars}) == 5
    assert timeline([], commits).charts == [] and BINS == 60


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        (count(None), "–"), (count(0), "0"), (count(1234567), "1,234,567"), (count(12_345_678), "12.3 M"),
        (rate(0), "0"), (rate(0.041), "0.041"), (rate(42.13), "42.1"), (rate(830.2), "830"), (rate(12_400), "12.4 k"),
        (size(512), "512 B"), (size(1_400_000), "1.4 MB"), (size(99_500_000_000), "99.5 GB"), (size(None), "–"),
        (duration(0.84), "0.8 s"), (duration(75), "75 s"), (duration(200), "3 min"), (duration(7500), "2 h 5 min"),
        (duration(90_000 * 4), "4 d 4 h"), (duration(-3), "−3.0 s"), (age(1_000_000, 4_000_000), "3.0 s ago"),
        (age(9_000_000, 4_000_000), "in 5.0 s"), (clock(0), "1970-01-01 00:00:00 UTC"), (clock(1 << 62), "–"),
    ],
)  # fmt: skip
def test_numbers_are_written_as_people_read_them(found: str, wanted: str) -> None:
    assert found == wanted


@given(st.binary(max_size=200), st.integers(0, 300), st.integers(0, 300))
def test_a_look_at_bytes_is_true_and_its_text_is_plain(data: bytes, offset: int, length: int) -> None:
    look = bytes_look(memoryview(data), offset, length)
    assert bytes.fromhex(look["hex"]) == data[look["offset"] : look["offset"] + length][: look["length"]]
    assert look["text"].isascii() and (look["text"].isprintable() or not look["text"])
    lines = hex_lines(look)
    assert "".join(hex_.replace(" ", "") for _, hex_, _ in lines) == look["hex"]
    assert "".join(text for _, _, text in lines) == look["text"]
