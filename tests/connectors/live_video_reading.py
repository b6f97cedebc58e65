"""What tests of live video share: a reader in a thread, packets and frames of what came, and how to compare them."""

from __future__ import annotations

import io
import re
import threading
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headrace.connectors.contract import Gap, Idle, Item
from headrace.connectors.live_video import LiveVideo
from headrace.connectors.live_video_cutter import Cutter, Rule
from headrace.connectors.live_video_segment import Segment, choose_tracks
from headrace.ingest.normalizers.contract import Bad
from headrace.ingest.normalizers.video import VideoNormalizer
from headrace.schemas.errors import HeadraceError

from ..servers import live_video as servers

av = pytest.importorskip("av")

Packets = dict[str, list[tuple[Fraction, Any]]]
TICK = Fraction(1, 90_000)


def connector(url: str, **settings: Any) -> LiveVideo:
    told = {"segment_s": 2, "stall_s": 2, "open_timeout_s": 10, **settings}
    return LiveVideo(LiveVideo.Config(url=url, **told))


class Reading:
    """Reads a connector in a thread of its own; `wait` for what should come."""

    def __init__(self, source: LiveVideo, after: Any = None, *, slow_s: float = 0) -> None:
        self.source, self.reads, self.idle = source, [], 0
        self.error: HeadraceError | None = None
        self._slow_s, self._after = slow_s, after
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            for read in self.source.read(next(iter(self.source.splits())), self._after):
                if isinstance(read, Idle):
                    self.idle += 1
                else:
                    self.reads.append(read)
                    time.sleep(self._slow_s)
        except HeadraceError as exc:
            self.error = exc

    def __enter__(self) -> Reading:
        return self

    def __exit__(self, *_: object) -> None:
        self.source.close()
        self._thread.join(5)
        assert not self._thread.is_alive(), "read went on after close"

    @property
    def items(self) -> list[Item]:
        return [read for read in list(self.reads) if isinstance(read, Item)]

    @property
    def gaps(self) -> list[Gap]:
        return [read for read in list(self.reads) if isinstance(read, Gap)]

    def wait(self, what: Callable[[Reading], Any], timeout_s: float = 25) -> None:
        end = time.monotonic() + timeout_s
        while not what(self):
            told = [read.reason if isinstance(read, Gap) else dict(read.headers) for read in self.reads]
            assert time.monotonic() < end, f"it did not come to that in {timeout_s} s: {told}, {self.error}"
            time.sleep(0.02)


def pictures(data: bytes) -> tuple[bytes, ...]:
    """The coded slices of an H.264 access unit, however they are divided: by lengths, or by start codes."""
    if data[:3] == b"\0\0\1" or data[:4] == b"\0\0\0\1":
        units = [unit.rstrip(b"\0") for unit in re.split(rb"\x00\x00\x01", data)]
    else:
        units, at = [], 0
        while at < len(data):
            size = int.from_bytes(data[at : at + 4], "big")
            units.append(data[at + 4 : at + 4 + size].rstrip(b"\0"))
            at += 4 + size
    return tuple(unit for unit in units if unit and unit[0] & 31 in range(1, 6))


def packets_of(place: Any, codec: str = "h264") -> Packets:
    """Times and payloads of all packets, by kind; without what containers add (start codes, ADTS headers)."""
    found: Packets = {"video": [], "audio": []}
    source: Any = io.BytesIO(place) if isinstance(place, bytes) else str(place)
    if isinstance(place, Path) and place.read_bytes()[:1] == b"G":  # libav times sound otherwise where it can seek
        source = Pipe(place.read_bytes())
    with av.open(source) as file:
        for packet in file.demux([s for s in file.streams if s.type in found]):
            if packet.size:
                data: Any = bytes(packet)
                if packet.stream.type == "video" and codec == "h264":
                    data = pictures(data)
                elif data[:1] == b"\xff" and data[1] & 0xF6 == 0xF0:
                    data = data[7:]
                found[packet.stream.type].append((packet.pts * packet.time_base, data))
    return found


class Pipe:
    """Bytes that cannot be sought."""

    def __init__(self, data: bytes) -> None:
        self.read = io.BytesIO(data).read


def ts_of(clip: Path) -> Path:
    """The clip as MPEG-TS: its clock counts 90 kHz, and its sound has times by the packet of packets."""
    path = clip.with_suffix(".ts")
    return path if path.exists() else servers.remux(clip, path)


def joined(items: list[Item] | list[Segment], codec: str = "h264") -> Packets:
    out: Packets = {"video": [], "audio": []}
    for item in items:
        for kind, packets in packets_of(item.data, codec).items():
            out[kind] += packets
    return out


def assert_same_packets(
    came: Packets,
    sent: Packets,
    tolerance: Fraction,
    *,
    skipped: int,
    missing: int = 0,
    sound: Fraction = Fraction(1, 40_000),
) -> None:
    """What came is one unbroken run of what was sent, at the same distances in time.

    skipped: pictures that may be missing at the beginning; missing: packets at the end of each track;
    sound: how far times of sound may be off, a sample at least, since its tracks count in samples.
    """
    begin = next(i for i, (_, data) in enumerate(sent["video"]) if data == came["video"][0][1])
    assert begin <= skipped, f"{begin} pictures are missing at the beginning"
    zero = sent["video"][begin][0]
    for kind, tail in sent.items():
        first = next(i for i, (_, data) in enumerate(tail) if data == came[kind][0][1])
        run = tail[first:]
        assert len(run) - missing <= len(came[kind]) <= len(run)
        for number, ((time_, data), (right, right_data)) in enumerate(zip(came[kind], run)):
            assert data == right_data, f"{kind} packet {number} has other bytes"
            allowed = tolerance if kind == "video" else max(tolerance, sound)
            assert abs(time_ - (right - zero)) <= allowed, f"{kind} packet {number}: {time_} is not {right - zero}"


def frames_of(item: Item) -> dict[Fraction, Any]:
    """Every frame that the project's own normalizer makes of a segment, by its time."""
    normalizer = VideoNormalizer(VideoNormalizer.Config(fps="native", max_side="none"))
    frames = {}
    for batch in normalizer.open(item):
        assert not isinstance(batch, Bad), batch
        if "pts" not in batch.schema.names:
            continue
        for row in batch.to_pylist():
            pixels = np.frombuffer(row["pixels"], np.uint8).reshape(row["shape"])
            base = Fraction(row["time_base_num"], row["time_base_den"])
            assert not [f for f in row["flags"] or [] if "truncated" not in f], row["flags"]
            frames.update({pts * base: frame for pts, frame in zip(row["pts"], pixels)})
    return frames


def segments_of(
    path: Path, segment_s: float, *, max_gop_s: float = 30, max_bytes: int = 1 << 26, problems: list[Any] | None = None
) -> list[Segment]:
    rule = Rule(Fraction(str(segment_s)), Fraction(str(max_gop_s)), max_bytes)
    out: list[Segment] = []
    with av.open(str(path)) as file:
        tracks = choose_tracks(list(file.streams))
        cutter = Cutter(tracks, rule, 1, "none")
        for packet in file.demux(list(tracks.kept)):
            if packet.size:
                problem = cutter.problem_with(packet)
                if problem is not None:
                    assert problems is not None, problem
                    problems.append(problem)
                    break
                out += cutter.add(packet, None)
        out += cutter.finish("the end")
    return out
