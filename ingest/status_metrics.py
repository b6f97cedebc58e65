"""Prometheus metrics of a service: the last status put into families, and a histogram fed from its commits.

Labels are bounded: streams beyond `MAX_STREAMS` and rejection rules beyond `MAX_RULES` a stream are summed under
`_other`; quarantine reasons are the codes of `schemas.errors.REASONS`; no split, URI or worker becomes a label.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, get_args

from headrace.ingest.meter import STAGES
from headrace.ingest.status_contract import ServiceState, ServiceStatus, StreamState, StreamStatus
from headrace.ingest.status_poll import Snapshot
from headrace.schemas.errors import REASONS

if TYPE_CHECKING:
    from prometheus_client.core import Metric

MAX_STREAMS = 200
MAX_RULES = 20
OTHER = "_other"

#: Quarantined rows by stream of samples and reason code, from the log.
Reasons = Callable[[], dict[str, dict[str, int]]]

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """One registry for one service."""

    def __init__(self, snapshot: Callable[[], Snapshot], reasons: Reasons) -> None:
        from prometheus_client import GC_COLLECTOR, CollectorRegistry, Histogram
        from prometheus_client.process_collector import ProcessCollector

        self._snapshot = snapshot
        self._reasons = reasons
        self._seen: int | None = None
        self.registry = CollectorRegistry()
        self._commits = Histogram(
            "headrace_commit_seconds", "What a commit took to append.", buckets=_SECONDS, registry=self.registry
        )
        ProcessCollector(registry=self.registry)
        self.registry.register(GC_COLLECTOR)
        self.registry.register(self)

    def observe(self, status: ServiceStatus) -> None:
        """Put commits into the histogram that were not seen before; the first call counts those it finds."""
        for commit in status["commits"]:
            if commit["seconds"] is not None and (self._seen is None or commit["v"] > self._seen):
                self._commits.observe(commit["seconds"])
        self._seen = max([self._seen or 0, *(commit["v"] for commit in status["commits"])])

    def text(self, accept: str) -> tuple[bytes, str]:
        """The exposition that a scraper accepts, with its content type."""
        from prometheus_client.exposition import choose_encoder

        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type

    def describe(self) -> Iterator[Metric]:
        """Nothing: families are made at each scrape."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """The families of the last status."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily

        snapshot = self._snapshot()
        ready = GaugeMetricFamily("headrace_ready", "1 if the service has claimed its dataset and answers.")
        ready.add_metric([], float(snapshot.not_ready() is None))
        yield ready
        age = GaugeMetricFamily(
            "headrace_status_age_seconds", "Age of the status behind these numbers.", unit="seconds"
        )
        age.add_metric([], snapshot.age_s)
        yield age
        status = snapshot.status
        if status is None:
            return
        build = InfoMetricFamily("headrace_build", "Version and engine.")
        build.add_metric([], {"version": status["headrace_version"] or "", "engine": status["engine"] or ""})
        yield build
        yield _states(
            "headrace_service_state", "1 for the state the service is in.", [], [([], status["state"])], ServiceState
        )
        table = _Table(status)
        yield _states(
            "headrace_stream_state", "1 for the state the stream is in.", ["stream"], table.states, StreamState
        )
        for name, help_, values in table.gauges():
            unit = next((u for u in ("seconds", "bytes", "records") if name.endswith("_" + u)), "")
            gauge = GaugeMetricFamily(name, help_, labels=["stream"], unit=unit)
            for stream, value in values.items():
                gauge.add_metric([stream], value)
            yield gauge
        for name, help_, values in table.source_counters():
            counter = CounterMetricFamily(name, help_, labels=["stream"])
            for stream, value in values.items():
                counter.add_metric([stream], value)
            yield counter
        for name, help_, labels, sums in table.book_counters(self._reasons()):
            counter = CounterMetricFamily(name, help_, labels=labels)
            for key, value in sums.items():
                counter.add_metric(list(key), value)
            yield counter
        yield from _meters(status, table.label)
        for name, help_, one in _whole(status):
            family: Any = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
            metric = family(name.removesuffix("_total"), help_)
            if one is not None:
                metric.add_metric([], one)
            yield metric
        workers = GaugeMetricFamily("headrace_workers", "Workers by state.", labels=["state"])
        for state, n in _count(worker["state"] for worker in status["workers"]).items():
            workers.add_metric([state], n)
        yield workers


class _Table:
    """A status as sums by label; streams beyond the bound are one."""

    def __init__(self, status: ServiceStatus) -> None:
        self._streams = status["streams"]
        shown = [stream["name"] for stream in self._streams][:MAX_STREAMS]
        self._label = {name: name for name in shown}
        self._outputs = [output for stream in self._streams for output in stream["outputs"]]
        self._output_label = {output["name"]: output["name"] for output in self._outputs[:MAX_STREAMS]}
        self.states = [([name], stream["state"]) for name, stream in zip(shown, self._streams)]

    def label(self, name: str) -> str:
        """The label of a stream."""
        return self._label.get(name, OTHER)

    def gauges(self) -> Iterator[tuple[str, str, dict[str, float]]]:
        for name, help_, pick, worst in _GAUGES:
            yield name, help_, self._by_stream(pick, worst)

    def source_counters(self) -> Iterator[tuple[str, str, dict[str, float]]]:
        for name, help_, pick in _COUNTERS:
            yield name, help_, self._by_stream(pick, False)

    def book_counters(
        self, reasons: dict[str, dict[str, int]]
    ) -> Iterator[tuple[str, str, list[str], dict[tuple[str, ...], float]]]:
        for what, help_ in _BOOKS:
            sums: dict[tuple[str, ...], float] = {}
            for output in self._outputs:
                key: tuple[str, ...] = (self._output_label.get(output["name"], OTHER), output["modality"])
                sums[key] = sums.get(key, 0) + output[what]  # type: ignore[literal-required]
            yield f"headrace_{what}", help_, ["stream", "modality"], sums
        modality = {output["name"]: output["modality"] for output in self._outputs}
        sums = {}
        for stream, counts in reasons.items():
            for code, n in counts.items():
                known = code if code in REASONS else OTHER
                key = (self._output_label.get(stream, OTHER), modality.get(stream, ""), known)
                sums[key] = sums.get(key, 0) + n
        yield (
            "headrace_quarantined",
            "Quarantined rows (records and whole items) by reason code.",
            ["stream", "modality", "reason"],
            sums,
        )
        sums = {}
        for output in self._outputs:
            for i, (rule, n) in enumerate(sorted(output["rejected"].items())):
                name = self._output_label.get(output["name"], OTHER)
                key = (name, output["modality"], rule if i < MAX_RULES and name != OTHER else OTHER)
                sums[key] = sums.get(key, 0) + n
        yield "headrace_rejected_records", "Records refused by a named rule.", ["stream", "modality", "reason"], sums

    def _by_stream(self, pick: Callable[[StreamStatus], float | None], worst: bool) -> dict[str, float]:
        out: dict[str, float] = {}
        for stream in self._streams:
            value = pick(stream)
            if value is not None:
                label = self._label.get(stream["name"], OTHER)
                out[label] = max(out.get(label, value), value) if worst else out.get(label, 0) + value
        return out


def _seconds(us: int | None) -> float | None:
    return None if us is None else us / 1e6


#: (name, help, value of a stream, whether streams that share a label take the greatest instead of the sum)
_GAUGES: list[tuple[str, str, Callable[[StreamStatus], float | None], bool]] = [
    ("headrace_freshness_seconds", "Age of the newest committed event.", lambda s: s["freshness_s"], True),
    ("headrace_lag_records", "Records not read yet.", lambda s: s["lag"]["records"], False),
    ("headrace_lag_bytes", "Bytes not read yet.", lambda s: s["lag"]["bytes"], False),
    ("headrace_lag_seconds", "How far reading is behind its source.", lambda s: s["lag"]["seconds"], True),
    (
        "headrace_event_timestamp_seconds",
        "Event time of the newest record, since 1970.",
        lambda s: _seconds(s["event_time_us"]),
        True,
    ),
    (
        "headrace_watermark_timestamp_seconds",
        "Event time up to which nothing more is expected, since 1970.",
        lambda s: _seconds(s["watermark_us"]),
        True,
    ),
    (
        "headrace_last_commit_timestamp_seconds",
        "When the stream was last committed to, since 1970.",
        lambda s: _seconds(s["last_commit_us"]),
        True,
    ),
    ("headrace_splits", "Splits known.", lambda s: s["splits"], False),
    ("headrace_lanes", "Lanes.", lambda s: s["lanes"], False),
    ("headrace_parked_splits", "Splits that cannot be read now.", lambda s: len(s["errors"]), False),
    ("headrace_open_items", "Items begun and not finished.", lambda s: s["open_items"], False),
    ("headrace_spool_bytes", "Bytes in the spool.", lambda s: s["spool"]["bytes"] if s["spool"] else None, False),
    (
        "headrace_spool_limit_bytes",
        "The most that the spool may hold.",
        lambda s: s["spool"]["max_bytes"] if s["spool"] else None,
        False,
    ),
]

_COUNTERS: list[tuple[str, str, Callable[[StreamStatus], float | None]]] = [
    ("headrace_items", "Items read and committed.", lambda s: s["items"]),
    ("headrace_quarantined_items", "Items quarantined whole.", lambda s: s["quarantined_items"]),
    ("headrace_late_records", "Records whose event time was behind the watermark.", lambda s: s["late"]),
    ("headrace_gaps", "Declared gaps.", lambda s: len(s["gaps"])),
    ("headrace_gap_lost", "Items known to be lost in gaps.", lambda s: sum(g["lost"] or 0 for g in s["gaps"])),
    ("headrace_spool_shed", "Items that the spool refused.", lambda s: s["spool"]["shed"] if s["spool"] else None),
]

_BOOKS = [
    ("records", "Records: samples + quarantined + rejected + duplicates."),
    ("samples", "Committed samples."),
    ("tokens", "Committed tokens."),
    ("duplicates", "Records dropped as duplicates."),
]


def _whole(status: ServiceStatus) -> Iterator[tuple[str, str, float | None]]:
    yield "headrace_dataset_version", "The newest version of the dataset.", status["version"]
    yield "headrace_start_timestamp_seconds", "When the service began, since 1970.", _seconds(status["started_us"])
    rss = [worker["rss_bytes"] for worker in status["workers"] if worker["rss_bytes"] is not None]
    yield "headrace_workers_memory_bytes", "Resident memory of all workers.", sum(rss) if rss else None


def _meters(status: ServiceStatus, label: Callable[[str], str]) -> Iterator[Metric]:
    """Where the time of workers went: by stream as counters, of the workers that live now as shares."""
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    help_ = "Seconds of workers by stage: codec, tokenizer, write, wait, headrace."
    spent = CounterMetricFamily("headrace_stage_seconds", help_, labels=["stream", "stage"], unit="seconds")
    sums: dict[tuple[str, str], float] = {}
    for stream in status["streams"]:
        told: Any = stream.get("meter")
        for stage in STAGES if told else ():
            key = (label(stream["name"]), stage)
            sums[key] = sums.get(key, 0.0) + told[stage] * told["seconds"]
    for (name, stage), seconds in sums.items():
        spent.add_metric([name, stage], seconds)
    yield spent
    share = GaugeMetricFamily("headrace_workers_stage_ratio", "Share of live workers' time by stage.", labels=["stage"])
    meters: list[Any] = [worker["meter"] for worker in status["workers"] if worker.get("meter")]
    total = sum(told["seconds"] for told in meters)
    for stage in STAGES if total else ():
        share.add_metric([stage], sum(told[stage] * told["seconds"] for told in meters) / total)
    yield share


def _states(name: str, help_: str, labels: list[str], found: Sequence[tuple[list[str], str]], states: Any) -> Metric:
    from prometheus_client.core import GaugeMetricFamily

    family = GaugeMetricFamily(name, help_, labels=[*labels, "state"])
    for key, now in found:
        for state in get_args(states):
            family.add_metric([*key, state], float(state == now))
    return family


def _count(values: Iterator[str]) -> dict[str, int]:
    out: dict[str, int] = {}
    for value in values:
        label = value if len(out) < 20 or value in out else OTHER
        out[label] = out.get(label, 0) + 1
    return out
