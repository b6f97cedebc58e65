"""Eight streams of five modalities at once through one service: memory, freshness, and whether anything is lost.

    python benchmarks/soak.py [--minutes 10] [--workers 2] [--out FOLDER] [--check]

Text from Redis, from Kafka (librdkafka's mock cluster) and by HTTP push; sensors from NATS and by MQTT; watched rasters
and images; a camera over RTSP with sound. Everything is the harbour's day (examples/harbour), sent again and again by
senders that note when each message was confirmed to them. A ninth stream, `films`, reads the day's three films once:
the camera's tokenizer was fitted to them.

**Freshness** is measured from outside, twice a second: the age of the oldest message that was confirmed to its sender
and is not committed; of the camera, which confirms nothing, the age of the newest picture that is committed. **Nothing
lost** means: each id of each text is a sample once; each file is; as many sensor messages were read as were confirmed,
less the duplicates; the camera's stream has no gap but its beginning; `verify` finds nothing. `--check` ends with 1 when
something was lost or a stream was less fresh than 10 s.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import itertools
import json
import math
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.ingest.serving import Serving  # noqa: E402
from tests.ingest.sweep import FileSender, HttpSender, MqttSender, NatsSender, RedisSender, Sender, source_type  # noqa: E402
from tests.ingest.test_same_bytes import descendants  # noqa: E402
from tests.servers.chromium import Chromium  # noqa: E402
from tests.servers.kafka_mock import KafkaMock  # noqa: E402
from tests.servers.live_video import RtspServer, ffmpeg  # noqa: E402
from tests.servers.mosquitto import Mosquitto  # noqa: E402
from tests.servers.nats import NatsServer  # noqa: E402
from tests.servers.redis import RedisServer, free_port  # noqa: E402

from headrace.ingest.view import DatasetView  # noqa: E402
from headrace.shards.dataset import Dataset  # noqa: E402
from headrace.shards.log import CommitLog  # noqa: E402
from headrace.shards.store import open_store  # noqa: E402
from headrace.shards.verify import verify  # noqa: E402

FRESH_S = 10.0
CAMERA, SEGMENT_S, FPS = "quay", 4, 2
FITTED = ("bulletins", "scenes", "photos", "films")  #: the others share with these, or are not fitted
PIPELINE = """
license: CC0-1.0
streams:
  bulletins:
    source: {{type: redis, url: "{redis}", streams: [bulletins]}}
    record: {{type: text, field: body}}
    tokenizer: {{type: sentencepiece, vocab_size: 1000, fit: {{share: words}}}}
    live: {live}
  news:
    source: {{type: "{kafka_type}", bootstrap_servers: "{kafka}", topics: [news]}}
    record: {{type: text, field: body}}
    tokenizer: {{type: sentencepiece, vocab_size: 1000, fit: {{share: words}}}}
    live: {live}
  reports:
    source: {{type: "{push_type}", port: {push}, name: reports, split: lines, require_key: true}}
    record: {{type: text, field: body}}
    tokenizer: {{type: bytes}}
    live: {live}
  wind:
    source: {{type: nats, urls: "{nats}", stream: WIND}}
    record: {{type: sensor, time: t, channels: {{speed: m/s, gust: m/s}}}}
    windows: {{seconds: 5}}
    live: {live}
  tide:
    source: {{type: "{mqtt_type}", url: "{mqtt}", topics: [tide/#], client_id: soak, key: {{field: id}}}}
    record: {{type: sensor, time: t, channels: {{level: m}}}}
    windows: {{samples: 128}}
    live: {live}
  scenes:
    source: {{type: files, root: "{folder}/scenes", watch: {{rename: true}}}}
    record: {{type: raster, bands: [blue, green, red, nir], tile: 128}}
    tokenizer: {{type: pca-fsq, scaling: sqrt, patch: 4}}
    live: {live}
  photos:
    source: {{type: files, root: "{folder}/photos", watch: {{rename: true}}}}
    record: {{type: image, max_side: 512}}
    tokenizer: {{type: pca-fsq, stages: 2}}
    live: {live}
  quay:
    source: {{type: rtsp, url: "{rtsp}", name: quay, segment_s: 4}}
    record: {film}
    tokenizer: {film_tokenizer}
    live: {live}
  films:
    source: {{type: files, root: "{films}", glob: "*.mp4"}}
    record: {film}
    tokenizer: {film_tokenizer}
    live: {live}
"""
LIVE = "{commit_every_s: 2, discover_every_s: 1}"
FILM = "{type: video, fps: 2, max_side: 256, segment_s: 4, audio: true}"
FILM_TOKENIZER = "{video: {type: pca-fsq, stages: 2, fit: {share: films}}, audio: {type: mu-law}}"


class KafkaSender(Sender):
    """Produces round robin over the partitions."""

    def connect(self) -> Any:
        import confluent_kafka

        return confluent_kafka.Producer({"bootstrap.servers": self.broker.url, "linger.ms": 5})

    def give(self, link: Any, ids: list[str]) -> Iterator[str]:
        done: list[str] = []
        for id_ in ids:

            def told(error: Any, message: Any, id_: str = id_) -> None:
                if error is None:
                    done.append(id_)

            number = int(id_.rpartition("-")[2])
            link.produce("news", self.payload(id_), partition=number % 3, on_delivery=told)
        link.flush(10)
        yield from done

    def leave(self, link: Any) -> None:
        link.flush(1)


def texts(day: Path) -> Callable[[str], bytes]:
    """Messages with the harbour's bulletins, each behind its id."""
    lines = (day / "bulletins").glob("*.jsonl")
    bodies = [json.loads(line)["body"] for path in sorted(lines) for line in path.read_text().splitlines()]
    turn = itertools.cycle(bodies)
    return lambda id_: json.dumps({"id": id_, "body": f"{id_} {next(turn)}"}).encode()


def readings(*channels: str) -> Callable[[str], bytes]:
    """Sensor messages of this moment."""
    count = itertools.count()

    def payload(id_: str) -> bytes:
        n = next(count)
        now = datetime.datetime.now(datetime.UTC).isoformat()
        values = {name: round(8 + 3 * math.sin(n / 40 + i), 3) for i, name in enumerate(channels)}
        return json.dumps({"id": id_, "t": now, **values}).encode()

    return payload


def files(paths: list[Path]) -> Callable[[str], bytes]:
    """These files, again and again."""
    turn = itertools.cycle([path.read_bytes() for path in paths])
    return lambda id_: next(turn)


def harbour(cache: Path) -> Path:
    """The harbour's day, made once."""
    day = cache / "day"
    if not (cache / "complete").is_file():
        print("making the harbour's day (half a minute)", flush=True)
        subprocess.run([sys.executable, str(ROOT / "examples/harbour/generate.py"), str(day)], check=True, capture_output=True)
        (cache / "complete").touch()
    return day


def camera_film(day: Path, folder: Path, seconds: float) -> Path:
    """A film that lasts, with a key frame every two seconds."""
    short, long = folder / "short.mp4", folder / "long.mp4"
    quiet = [ffmpeg(), "-hide_banner", "-loglevel", "error", "-y"]
    again = ["-r", "10", "-g", "20", "-c:v", "libx264", "-preset", "veryfast", "-bf", "0", "-c:a", "aac"]
    subprocess.run([*quiet, "-i", str(day / "cameras/quay_evening.mp4"), "-threads", "1", *again, str(short)], check=True)
    subprocess.run([*quiet, "-stream_loop", "-1", "-i", str(short), "-t", str(seconds), "-c", "copy", str(long)], check=True)
    return long


class Watch(threading.Thread):
    """Looks at the log twice a second, and at memory every two seconds."""

    def __init__(self, service: Serving, senders: list[Sender], seeds: dict[str, int]) -> None:
        super().__init__(daemon=True)
        self.service, self.senders, self.seeds = service, senders, seeds
        self.ages: dict[str, list[float]] = {}  #: stream → freshness, as it was seen
        self.rss: list[tuple[float, float]] = []  #: (s, MB of all processes)
        self.log = CommitLog(open_store(str(service.out)))
        self.log.replay()
        self._over = threading.Event()
        self.lock = threading.Lock()

    def run(self) -> None:
        for n in itertools.count():
            if self._over.wait(0.5):
                return
            for stream, age in self.look().items():
                self.ages.setdefault(stream, []).append(age)
            if n % 4 == 0:
                self.rss.append((time.monotonic(), self.memory_mb()))

    def stop(self) -> None:
        self._over.set()
        self.join(10)

    def read(self, stream: str) -> int:
        """Messages of a stream that are committed, repetitions and what lay there before aside."""
        state = self.log.state
        source, counts = state.sources.get(stream), state.streams.get(stream)
        return (source.read if source else 0) - (counts.duplicates if counts else 0) - self.seeds.get(stream, 0)

    def look(self) -> dict[str, float]:
        """Seconds by stream."""
        with self.lock:
            self.log.refresh()
            out = {}
            for sender in self.senders:
                times = list(sender.confirmed.values())
                now, at = time.monotonic(), self.read(sender.stream)
                out[sender.stream] = now - times[at] if 0 <= at < len(times) else 0.0
            seen = [us for (stream, _), us in self.log.state.watermarks.items() if stream == CAMERA]
            if seen:  # a video's time is that of its first picture
                out[CAMERA] = time.time() - max(seen) / 1e6 - (SEGMENT_S - 1 / FPS)
            return out

    def memory_mb(self) -> float:
        """Resident memory of the service and every process below it."""
        assert self.service.process is not None
        total = 0
        for pid in [self.service.process.pid, *descendants(self.service.process.pid, "")]:
            try:
                total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096
            except OSError:
                continue
        return total / 1e6

    def status(self) -> dict[str, Any]:
        """What the service says of itself."""
        with urllib.request.urlopen(f"{self.log.state.api}/api/v1/status", timeout=20) as reply:
            return dict(json.load(reply))


def slope_mb_per_h(points: list[tuple[float, float]]) -> float:
    """Least squares over the second half."""
    half = points[len(points) // 2 :]
    if len(half) < 3:
        return float("nan")
    t, mb = np.array(half).T
    return float(np.polyfit(t - t[0], mb, 1)[0] * 3600)


def lost(out: Path, watch: Watch) -> dict[str, str]:
    """What is wrong, by stream; empty when nothing is."""
    view = DatasetView.open(str(out))
    wrong = {}
    for sender in watch.senders:
        name, confirmed = sender.stream, set(sender.confirmed)
        if name in ("bulletins", "news", "reports"):
            there = Counter(text.partition(" ")[0] for text in decoded(view, name))
        elif isinstance(sender, FileSender):
            uris = {u for batch in view.samples(name, ["uri"]) for u in batch.column("uri").to_pylist()}
            there = Counter(Path(uri).stem for uri in uris if not uri.startswith("seed"))
        else:
            got = watch.read(name)
            if not len(confirmed) <= got <= len(sender.sent):
                wrong[name] = f"{len(confirmed):,} were confirmed, {got:,} were read"
            continue
        missing, double = confirmed - there.keys(), [id_ for id_, count in there.items() if count > 1]
        if missing or double or there.keys() - set(sender.sent):
            wrong[name] = f"{len(missing)} lost, such as {sorted(missing)[:3]}; {len(double)} double"
    gaps = [gap for gap in view.dataset.state.gaps if gap.source == CAMERA]
    if gaps:
        wrong[CAMERA] = "; ".join(f"{gap.reason} ({gap.lost})" for gap in gaps)
    return wrong


def decoded(view: DatasetView, stream: str) -> Iterator[str]:
    """The texts of all samples, from their tokens."""
    for batch in view.samples(stream):
        yield from view.decode(batch, stream).column("text").to_pylist()


def camera_seconds(out: Path) -> float:
    """How much of the camera's time is in the dataset."""
    shapes = (s for batch in Dataset.open(str(out)).batches(CAMERA, ["shape"]) for s in batch.column("shape").to_pylist())
    return sum(shape[0] for shape in shapes) / FPS


@dataclasses.dataclass
class Parts:
    service: Serving
    senders: list[Sender]
    seeds: dict[str, int]


def begin(stack: ExitStack, folder: Path, day: Path, minutes: float, workers: int) -> Parts:
    """Starts brokers, fits tokenizers, starts the service and the senders."""
    enter = stack.enter_context
    redis, nats, mosquitto, kafka = enter(RedisServer()), enter(NatsServer()), enter(Mosquitto()), enter(KafkaMock())
    camera = enter(RtspServer(camera_film(day, folder, minutes * 60 + 600)))
    kafka.create("news", 3)
    nats.admin().create("WIND", "wind")
    push = free_port()
    photos, scenes = sorted((day / "photos").glob("*.jpg")), sorted((day / "littoral").glob("*.tif"))
    seeds = {"photos": photos, "scenes": scenes}
    for name, paths in seeds.items():
        (folder / name).mkdir()
        for n, path in enumerate(paths):
            (folder / name / f"seed{n}{path.suffix}").write_bytes(path.read_bytes())
    service = enter(Serving(PIPELINE.format(
        redis=redis.url, nats=nats.url, mqtt=mosquitto.url, kafka=kafka.url, rtsp=camera.url, push=push, folder=folder,
        films=day / "cameras", live=LIVE, film=FILM, film_tokenizer=FILM_TOKENIZER,
        mqtt_type=source_type("mqtt", "headrace.connectors.mqtt:Mqtt"),
        push_type=source_type("http_push", "headrace.connectors.http_push:HttpPush"),
        kafka_type=source_type("kafka", "headrace.connectors.kafka:Kafka"),
    ), folder, workers=workers))  # fmt: skip
    bulletins, news = RedisSender("bulletins", 0.4, texts(day)), KafkaSender("news", 0.4, texts(day))
    wind, tide = NatsSender("wind", 1, readings("speed", "gust")), MqttSender("tide", 0.25, readings("level"))
    reports = HttpSender("reports", 0.4, texts(day))
    pictures, rasters = FileSender("photos", 0.2, files(photos)), FileSender("scenes", 0.08, files(scenes))
    bulletins.broker, news.broker, wind.broker, tide.broker, reports.port = redis, kafka, nats, mosquitto, push
    pictures.folder, pictures.suffix = folder / "photos", ".jpg"
    rasters.folder, rasters.suffix = folder / "scenes", ".tif"
    ids = [f"bulletins-{n:06d}" for n in range(300)]
    bulletins.sent += ids
    bulletins.confirmed |= {id_: time.monotonic() for id_ in bulletins.give(bulletins.connect(), ids)}
    print("fitting", flush=True)
    whole = yaml.safe_load(service.pipeline.read_text())
    own = {name: section for name, section in whole["streams"].items() if name in FITTED}
    (folder / "fit.yaml").write_text(yaml.safe_dump({**whole, "streams": own}))
    fitted = service.ask("fit", str(folder / "fit.yaml"), "--out", str(service.out), "--engine", "inline")
    assert fitted.returncode == 0, fitted.stderr
    senders = [bulletins, news, reports, wind, tide, rasters, pictures]
    service.start()
    for sender in senders:
        stack.callback(sender.stop)
        sender.start()
    return Parts(service, senders, {name: len(paths) for name, paths in seeds.items()})


def say(watch: Watch, began: float) -> None:
    """A line for each stream."""
    status = watch.status()
    print(f"\n{time.monotonic() - began:6.0f} s   version {status['version']}   {watch.memory_mb():,.0f} MB resident")
    now = watch.look()
    for stream in status["streams"]:
        rate, age, page = stream["records_per_s"], now.get(stream["name"]), stream["freshness_s"]
        print(
            f"  {stream['name']:10} {stream['state']:8} {rate or 0:8.1f} records/s"
            f"   fresh {'' if age is None else f'{age:.1f}':>5} s   the page says {'' if page is None else f'{page:.1f}':>6} s"
            f"   {stream['items']:8,} items   {len(stream['errors'])} troubles",
            flush=True,
        )


def photograph(url: str, path: Path) -> None:
    """The status page as a browser shows it."""
    with Chromium() as browser:
        page = browser.page()
        page.goto(url)
        page.wait_for_timeout(3000)
        page.screenshot(path=str(path), full_page=True)
        for complaint in page.errors:
            print(f"  the browser says: {complaint}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, help="where dataset, logs and screenshot stay; default: a temporary folder")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "headrace-soak")
    parser.add_argument("--check", action="store_true", help="end with 1 when a limit is broken")
    arguments = parser.parse_args()
    with ExitStack() as stack:
        folder = arguments.out or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="headrace-soak-")))
        folder.mkdir(parents=True, exist_ok=True)
        arguments.cache.mkdir(parents=True, exist_ok=True)
        try:
            parts = begin(stack, folder, harbour(arguments.cache), arguments.minutes, arguments.workers)
        except pytest.skip.Exception as exc:
            print(f"cannot run here: {exc}")
            return 2
        return run(parts, folder, arguments.minutes * 60, arguments.check)


def run(parts: Parts, folder: Path, seconds: float, check: bool) -> int:
    """Watch for so long, end everything, and say what was found."""
    service = parts.service
    service.wait(lambda: service.out.is_dir() and bool(service.samples(CAMERA)), 180, "a sample of the camera")
    watch = Watch(service, parts.senders, parts.seeds)
    service.wait(lambda: bool(watch.look()) and all(watch.read(s.stream) > 0 for s in parts.senders), 120, "all streams")
    others = [s.stream for s in parts.senders]
    service.wait(lambda: all(watch.look()[name] < FRESH_S / 2 for name in others), 180, "the end of what had waited")
    watch.start()
    began = time.monotonic()
    while (left := seconds - (time.monotonic() - began)) > 0:
        time.sleep(min(30, left))
        say(watch, began)
    camera, counted = camera_seconds(service.out), time.monotonic() - began
    picture = folder / "status.png"
    try:
        photograph(str(watch.log.state.api), picture)
    except pytest.skip.Exception as exc:
        print(f"no photograph: {exc}")
    watch.stop()
    for sender in parts.senders:
        sender.stop()
    stopped = time.monotonic()
    service.wait(lambda: bool(watch.look()) and all(watch.read(s.stream) >= len(s.confirmed) for s in parts.senders), 120, "the rest")
    caught_up, drain = time.monotonic(), service.drain(90)
    drained = time.monotonic()
    watch.look()
    report, wrong = verify(Dataset.open(str(service.out))), lost(service.out, watch)
    worst = {name: max(ages) for name, ages in watch.ages.items()}
    print(f"\n{'stream':10} {'confirmed':>10} {'again':>6} {'committed':>10} {'freshness: median':>18} {'worst':>8}")
    counts = {s.stream: (len(s.confirmed), s.failures, watch.read(s.stream)) for s in parts.senders}
    for name, ages in watch.ages.items():
        confirmed, again, read = counts.get(name, (0, 0, watch.read(name)))
        print(f"{name:10} {confirmed:10,} {again:6,} {read:10,} {statistics.median(ages):16.1f} s {worst[name]:6.1f} s")
    print(f"the camera: {camera:.0f} s of pictures are committed, {counted:.0f} s were watched")
    slope = slope_mb_per_h(watch.rss)
    print(f"memory: {watch.rss[0][1]:,.0f} MB, at the end {watch.rss[-1][1]:,.0f} MB; slope of the second half {slope:+,.0f} MB/h")
    print(f"the rest was committed in {caught_up - stopped:.1f} s, drained in {drained - caught_up:.1f} s, exit code {drain}")
    print(f"verify: {len(report.problems)} problems, {report.samples:,} samples, {report.tokens:,} tokens, {report.bytes / 1e6:,.1f} MB")
    for problem in report.problems[:10]:
        print(f"  {problem}")
    print("lost: " + ("nothing" if not wrong else "".join(f"\n  {name}: {what}" for name, what in wrong.items())))
    stale = {name: age for name, age in worst.items() if age >= FRESH_S}
    print(f"fresher than {FRESH_S:g} s: " + ("all, always" if not stale else f"not {stale}"))
    if picture.exists():
        print(f"the page: {picture}")
    return int(check and bool(stale or wrong or report.problems or drain))


if __name__ == "__main__":
    sys.exit(main())
