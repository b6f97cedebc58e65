"""What a service says of itself: the numbers behind its page, its metrics and `headrace status`."""

from __future__ import annotations

import importlib.metadata
import time
from typing import TYPE_CHECKING, Any

from headrace.connectors.registry import guarantee_of
from headrace.ingest.engine_report import engine_of
from headrace.ingest.meter import meter
from headrace.ingest.service_stream import ServiceStream
from headrace.shards.books import SourceCounts, StreamCounts

if TYPE_CHECKING:
    from headrace.ingest.service import Service


def status_of(service: Service) -> dict[str, Any]:
    """The status; its shape is in status_contract.py. Call with the service's lock held."""
    state = service.log.state
    return {
        "dataset": service.runtime.dataset,
        "version": state.v,
        "epoch": state.epoch,
        "digest": state.digest,
        "state": service.state,
        "message": service.fenced_by,
        "started_us": service.started_us,
        "now_us": time.time_ns() // 1000,
        "engine": service.engine,
        "headrace_version": importlib.metadata.version("headrace"),
        "streams": [_stream(service, made) for made in service.streams.values()],
        "workers": _workers(service),
        "commits": list(service.commits.last),
    }


def _stream(service: Service, made: ServiceStream) -> dict[str, Any]:
    state = service.log.state
    source = state.sources.get(made.name, SourceCounts())
    told = service.receivers.told.get(made.name)
    now_us = time.time_ns() // 1000
    latest = [lane.get("event_time_us") for lane in made.reported.values()]
    newest = max((t for t in [made.event_time_us, *latest] if t is not None), default=None)
    watermarks = [w for (name, _), w in state.watermarks.items() if name == made.name]
    errors = [*made.troubles(), *service.batches.troubles(made.name)]
    errors += service.reencodings.troubles(made.name)
    if told and told.get("error"):
        errors.append(told["error"])
    parked = any(e["parked"] for e in errors)
    return {
        "name": made.name,
        "source": made.stream.spec.source.type,
        "connector": made.stream.connector.__name__,
        "guarantee": guarantee_of(made.stream.connector),
        "state": "parked" if made.state == "running" and parked else made.state,
        "message": made.message,
        "splits": made.known,
        "lanes": len(made.by_lane()) if made.stream.live else service.batches.left(made.name),
        "items": source.read,
        "quarantined_items": source.quarantined,
        "open_items": source.open,
        "records_per_s": made.records.value,
        "bytes_per_s": made.bytes.value,
        "lag": made.lag or {"records": None, "bytes": None, "seconds": None},
        "event_time_us": newest,
        "watermark_us": min(watermarks, default=None),
        "late": sum(lane.get("late", 0) for lane in made.reported.values()),
        "freshness_s": None if newest is None else max(0.0, (now_us - newest) / 1e6),
        "last_commit_us": made.last_commit_us,
        "spool": told.get("spool") if told else None,
        "outputs": [_output(service, name, modality) for modality, name in _outputs(made)],
        "errors": [
            {
                "split": e["split"],
                "message": e["message"],
                "since_us": None if e["since"] is None else int(e["since"] * 1e6),
                "next_try_us": None if e["next_try"] is None else int(e["next_try"] * 1e6),
            }
            for e in errors
        ],
        "meter": meter(made.seconds()),
        "gaps": [{"reason": g.reason, "lost": g.lost} for g in state.gaps if g.source == made.name][-50:],
    }


def _outputs(made: ServiceStream) -> list[tuple[str, str]]:
    return [(modality, output.name) for modality, output in made.stream.outputs.items()]


def _output(service: Service, name: str, modality: str) -> dict[str, Any]:
    counts = service.log.state.streams.get(name, StreamCounts())
    settings = service.log.state.settings.get(name)
    return {
        "name": name,
        "modality": modality,
        "records": counts.records,
        "samples": counts.samples,
        "tokens": counts.tokens,
        "quarantined": counts.quarantined,
        "rejected": dict(counts.rejected),
        "duplicates": counts.duplicates,
        "engine": engine_of(service.log.state, name) if settings is not None and settings.tokenizer else None,
    }


def _workers(service: Service) -> list[dict[str, Any]]:
    now = time.monotonic()
    out = []
    for name, known in sorted(service.lanes.workers.items()):
        base = name.partition("/")[0]
        batch = service.batches.of_worker(f"{base}/batch")
        lanes = service.lanes.lanes_of(name)
        out.append(
            {
                "name": base,
                "node": known.snapshot.get("node"),
                "pid": known.snapshot.get("pid"),
                "state": "busy" if known.busy or batch else "idle",
                "lanes": lanes,
                "task": known.error
                or batch
                or service.reencodings.of_worker(f"{base}/batch")
                or ("receiving" if service.receivers.worker == f"{base}/receive" else None),
                "rss_bytes": known.snapshot.get("rss_bytes"),
                "meter": meter(known.snapshot.get("seconds", {})),
                "seconds_since_report": now - known.heard,
            }
        )
    return out
