"""What the status tests look at: a real dataset of every modality, and a service whose status is read from its log."""

from __future__ import annotations

import json
import threading
import time
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import headrace
from headrace.ingest.engine_report import engine_of
from headrace.ingest.status_contract import (
    CommitStatus,
    ServiceStatus,
    ServiceView,
    StreamStatus,
    WorkerStatus,
    empty_stream,
)
from headrace.schemas.errors import ConfigError
from headrace.shards.entry import Entry
from headrace.shards.log import CommitLog
from headrace.shards.state import State
from headrace.shards.store import open_store

#: A name and bytes that would run if any page forgot to escape them.
HOSTILE = "<script>alert(1)</script>"

_BUILT: dict[str, Path] = {}


def write_inputs(root: Path) -> None:
    """Files of six modalities, and some that cannot be read, one of them hostile."""
    for name in ("bulletins", "camera", "film", "hydrophone", "tide", "scenes"):
        (root / name).mkdir(parents=True)
    for i in range(3):
        rows = [
            {"text": f"Bulletin {i}.{j}: level {40 + j * 7 % 50} cm at the quay, wind {j % 9} m/s."} for j in range(40)
        ]
        (root / "bulletins" / f"day{i}.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    (root / "bulletins" / "torn.jsonl").write_text(f'{{"text": "fine"}}\n{{"text": {HOSTILE}\n')
    _pictures(root / "camera")
    _film(root / "film" / "quay.mp4")
    _sound(root / "hydrophone" / "chirp.wav")
    lines = ["time,level [m],wind [m/s]"]
    for minute in range(24 * 60):
        level, wind = 1.2 * np.sin(minute / 237) + 0.02 * (minute * 7919 % 13), 6 + 3 * np.cos(minute / 90)
        lines.append(f"2025-06-14T{minute // 60:02d}:{minute % 60:02d}:00Z,{level:.3f},{wind:.2f}")
    (root / "tide" / "gauge.csv").write_text("\n".join(lines) + "\n")
    _scene(root / "scenes" / "delta.tif")


def _pictures(folder: Path) -> None:
    from PIL import Image

    y, x = np.mgrid[0:192, 0:256]
    for i in range(4):
        sea = np.stack([30 + 40 * np.sin(x / 17 + i), 90 + y / 3 + 20 * np.sin(x / 9 + y / 21), 140 + y / 4], axis=2)
        Image.fromarray(np.clip(sea, 0, 255).astype(np.uint8)).save(folder / f"frame{i}.png")
    cut = (folder / "frame0.png").read_bytes()
    (folder / "cut.png").write_bytes(cut[: len(cut) // 3])
    (folder / "<img src=x onerror=alert(1)>.png").write_bytes(b"\x89PNG\r\n\x1a\n" + HOSTILE.encode() * 20)


def _film(path: Path) -> None:
    import av

    y, x = np.mgrid[0:96, 0:128]
    with av.open(str(path), "w") as out:
        track = out.add_stream("mpeg4", rate=8)
        track.width, track.height, track.pix_fmt = 128, 96, "yuv420p"
        for i in range(48):
            frame = np.stack([(x + 4 * i) % 256, (y * 2) % 256, (x + y + 6 * i) % 256], axis=2).astype(np.uint8)
            for packet in track.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")):
                out.mux(packet)
        for packet in track.encode():
            out.mux(packet)


def _sound(path: Path) -> None:
    t = np.arange(16000 * 4) / 16000
    tone = np.sin(2 * np.pi * (220 + 180 * t) * t) * np.exp(-((t - 2) ** 2))
    with wave.open(str(path), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(16000)
        out.writeframes((tone * 28000).astype("<i2").tobytes())


def _scene(path: Path) -> None:
    import rasterio

    y, x = np.mgrid[0:256, 0:256]
    bands = np.stack([1000 + 400 * np.sin(x / 30 + b) + 6 * y + 90 * b for b in range(4)]).astype(np.uint16)
    place = rasterio.Affine(10, 0, 500000, 0, -10, 6650000)
    with rasterio.open(
        path, "w", driver="GTiff", count=4, height=256, width=256, dtype="uint16", crs="EPSG:32635", transform=place
    ) as out:
        out.write(bands)
        for i, name in enumerate(("blue", "green", "red", "nir"), 1):
            out.set_band_description(i, name)


def pipeline(root: Path) -> dict[str, Any]:
    """The pipeline over `write_inputs`."""
    kinds = {
        "bulletins": "text",
        "camera": "image",
        "film": "video",
        "hydrophone": "audio",
        "tide": "sensor",
        "scenes": "raster",
    }
    streams = {
        name: {"source": {"type": "files", "root": str(root / name)}, "record": {"type": kind}}
        for name, kind in kinds.items()
    }
    return {"license": "CC-BY-4.0", "streams": streams}


def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset, built once a run."""
    if "dataset" not in _BUILT:
        folder = tmp_path_factory.mktemp("status")
        write_inputs(folder / "in")
        headrace.build(pipeline(folder / "in"), str(folder / "harbour"), engine="inline", workers=1)
        _BUILT["dataset"] = folder / "harbour"
    return _BUILT["dataset"]


class LogService:
    """A service that only reads: its books are those of the log, its clock is a counter, its actions are remembered."""

    def __init__(self, dataset: Path) -> None:
        self.dataset = str(dataset)
        self.calls: list[tuple[str, ...]] = []
        self.down = False
        self.message: str | None = None
        self.paused: set[str] = set()
        self.lock = threading.Lock()
        self.ticks = 0
        self._log = CommitLog(open_store(self.dataset))
        self._log.replay()
        self._entries = list(self._log.entries())

    def status(self) -> ServiceStatus:
        if self.down:
            raise ConfigError("the coordinator does not answer")
        with self.lock:
            self.ticks += 1
        state, now = self._log.state, 1_750_000_000_000_000 + self.ticks * 1_000_000
        commits = [entry for entry, _ in self._entries if entry.kind == "commit"]
        names = sorted({settings.source or name for name, settings in state.settings.items()})
        return {
            "dataset": self.dataset,
            "version": state.v,
            "epoch": state.epoch,
            "digest": state.digest,
            "state": "running",
            "started_us": 1_750_000_000_000_000 - 3_600_000_000,
            "now_us": now,
            "engine": "inline",
            "headrace_version": headrace.__version__,
            "streams": [self._stream(state, name, now, i) for i, name in enumerate(names)],
            "workers": [self._worker(i, name) for i, name in enumerate(names[:2])],
            "commits": [self._commit(entry, now - 5_000_000 * (len(commits) - i)) for i, entry in enumerate(commits)],
        }

    def _worker(self, i: int, name: str) -> WorkerStatus:
        return {
            "name": f"worker-{i}",
            "node": "node-a",
            "pid": 4000 + i,
            "state": "busy",
            "lanes": [f"{name}/L0000"],
            "task": name,
            "rss_bytes": 180_000_000 + i * 7_000_000,
            "seconds_since_report": 0.4,
        }

    def _commit(self, entry: Entry, time_us: int) -> CommitStatus:
        return {
            "v": entry.v,
            "time_us": time_us,
            "seconds": 0.02 + 0.001 * entry.v,
            "shards": len(entry.add),
            "rows": sum(s.rows for s in entry.add),
            "tokens": sum(s.tokens for s in entry.add),
            "streams": sorted({s.stream for s in entry.add}),
        }

    def _stream(self, state: State, name: str, now: int, i: int) -> StreamStatus:
        source = state.sources[name]
        found = empty_stream(name)
        found.update(
            source="files",
            connector="files",
            guarantee="exactly once",
            state="paused" if name in self.paused else "running",
            message=self.message,
            splits=3,
            lanes=1,
            items=source.read,
            quarantined_items=source.quarantined,
            records_per_s=float(20 + 9 * i + 6 * np.sin(self.ticks / 11 + 2 * i) + self.ticks * 7919 % 11 / 3),
            bytes_per_s=3.1e6 * (i + 1),
            freshness_s=0.8 + i,
            lag={"records": 12 * i, "bytes": None, "seconds": 0.4 * i},
            event_time_us=now - 2_000_000,
            watermark_us=now - 4_000_000,
            late=i,
            last_commit_us=now - 3_000_000,
            open_items=source.open,
        )
        found["outputs"] = [
            {"name": stream, "modality": settings.modality, "records": counts.records, "samples": counts.samples,
             "tokens": counts.tokens, "quarantined": counts.quarantined, "rejected": counts.rejected,
             "duplicates": counts.duplicates, "engine": engine_of(state, stream) if settings.tokenizer else None}
            for stream, settings in sorted(state.settings.items())
            if (settings.source or stream) == name and (counts := state.streams.get(stream)) is not None
        ]  # fmt: skip
        if name == "hydrophone":
            found["spool"] = {"bytes": 41_000_000, "max_bytes": 100_000_000, "shed": 3}
            found["gaps"] = [{"reason": "the recorder was unplugged", "lost": None}]
        if name == "film":
            found["state"] = "parked"
            found["errors"] = [
                {
                    "split": HOSTILE,
                    "message": f"no route to {HOSTILE}",
                    "since_us": now - 90_000_000,
                    "next_try_us": now + 4_000_000,
                }
            ]
        return found

    def fresh(self) -> LogService:
        """Itself, as if nothing had been asked of it yet."""
        self.calls.clear()
        self.paused.clear()
        self.down, self.message = False, None
        return self

    def _remember(self, *call: str) -> dict[str, Any]:
        self.calls.append(call)
        return {"ok": True}

    def streams_add(self, name: str, spec_yaml: str) -> dict[str, Any]:
        if "type" not in spec_yaml:
            raise ConfigError("a source needs a `type`", field=f"streams.{name}.source")
        return self._remember("add", name, spec_yaml)

    def stream_pause(self, name: str) -> dict[str, Any]:
        self.paused.add(name)
        return self._remember("pause", name)

    def stream_resume(self, name: str) -> dict[str, Any]:
        self.paused.discard(name)
        return self._remember("resume", name)

    def stream_remove(self, name: str) -> dict[str, Any]:
        return self._remember("remove", name)

    def reload(self, yaml: str) -> dict[str, Any]:
        return self._remember("reload", yaml)

    def drain(self) -> dict[str, Any]:
        return self._remember("drain")


def until(wanted: Any, seconds: float = 10) -> Any:
    """What `wanted()` gives once it is true. Raises: AssertionError after `seconds`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := wanted():
            return found
        time.sleep(0.02)
    raise AssertionError("it did not happen in time")


def test_the_world_has_every_modality_and_some_quarantine(tmp_path_factory: pytest.TempPathFactory) -> None:
    service: ServiceView = LogService(built(tmp_path_factory))
    status = service.status()
    outputs = [output for stream in status["streams"] for output in stream["outputs"]]
    assert {output["modality"] for output in outputs if output["samples"]} >= {
        "text",
        "image",
        "video",
        "audio",
        "sensor",
        "raster",
    }
    assert sum(s["quarantined_items"] + sum(o["quarantined"] for o in s["outputs"]) for s in status["streams"]) >= 3
    for output in outputs:
        kept = output["samples"] + output["quarantined"] + sum(output["rejected"].values()) + output["duplicates"]
        assert output["records"] == kept
