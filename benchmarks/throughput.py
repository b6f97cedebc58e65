"""One worker's build against a bare loop of the same codec and tokenizer, both in one run, per modality.

    python benchmarks/throughput.py [--quick] [--json]

The bare loops are what one would write in ten lines: open with the library, the same scaling, the same tokenizer, the
tokens kept in memory. A build also checks, hashes, records provenance, measures, and writes. Start-up (interpreter,
imports, planning, fitting) is apart: the clock runs from a lane's first read to its last commit. Runs are interleaved
and medians taken; the printed ratio is bare seconds / build seconds, and the rest of the line says where the rest goes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from headrace.ingest.artefacts import read_artefact
from headrace.ingest.build import build
from headrace.ingest.pipeline_file import make_pipeline
from headrace.ingest.resolve import resolve
from headrace.schemas.record import RecordBuilder
from headrace.shards.dataset import Dataset

Bare = Callable[[Path, Any], float]  #: does all the work of a folder, gives back its amount in the row's unit


def make_text(folder: Path, scale: float) -> None:
    """JSON Lines of words with a Zipf-like spread."""
    rng = np.random.default_rng(1)
    words = ["".join(chr(97 + c) for c in rng.integers(0, 26, rng.integers(2, 10))) for _ in range(8000)]
    with open(folder / "a.jsonl", "w") as f:
        for i in range(int(20_000 * scale)):
            picks = np.minimum(rng.zipf(1.2, 150), len(words)) - 1
            f.write(json.dumps({"id": i, "text": " ".join(words[p] for p in picks)}) + "\n")


def bare_text(folder: Path, tokenizer: Any) -> float:
    import orjson

    kept, total = [], 0
    with open(folder / "a.jsonl", "rb") as f:
        while lines := f.readlines(1 << 20):
            builder = RecordBuilder("text")
            for line in lines:
                builder.add(locator="", text=orjson.loads(line)["text"])
                total += len(line)
            kept.append(tokenizer.encode(builder.finish()).values)
    return total / 1e6


def make_images(folder: Path, scale: float) -> None:
    """JPEG photographs of 1600 x 1200 with structure at all scales."""
    from PIL import Image

    rng = np.random.default_rng(2)
    for i in range(int(60 * scale)):
        base = sum(
            np.asarray(
                Image.fromarray(rng.integers(0, 255, (2**k, 2**k, 3), np.uint8)).resize((1600, 1200), 3), np.float32
            )
            / 2**n
            for n, k in enumerate(range(2, 9))
        )
        Image.fromarray((base / base.max() * 255).astype(np.uint8)).save(folder / f"{i:04d}.jpg", quality=88)


def bare_images(folder: Path, tokenizer: Any) -> float:
    from PIL import Image

    pixels, kept = 0, []
    for path in sorted(folder.glob("*.jpg")):
        image = Image.open(path, formats=["JPEG"])
        pixels += image.width * image.height
        array = np.asarray(image.convert("RGB").resize((512, 384), Image.Resampling.LANCZOS, reducing_gap=None))
        builder = RecordBuilder("image")
        builder.add(locator="", pixels=array, mode="RGB")
        kept.append(tokenizer.encode(builder.finish()).values)
    return pixels / 1e6


def make_video(folder: Path, scale: float) -> None:
    """H.264 of 1280 x 720 at 25 frames a second, without sound."""
    import av

    with av.open(str(folder / "a.mp4"), "w") as out:
        stream = out.add_stream("libx264", rate=25, options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = 1280, 720, "yuv420p"
        y, x = np.mgrid[0:720, 0:1280].astype(np.float32)
        for i in range(int(25 * 24 * scale)):
            frame = np.stack(
                [128 + 100 * np.sin(x / 40 + i / 9), 128 + 90 * np.cos(y / 30 - i / 7), (x + y + i * 4) % 255], 2
            )
            for packet in stream.encode(av.VideoFrame.from_ndarray(frame.astype(np.uint8), "rgb24")):
                out.mux(packet)
        for packet in stream.encode():
            out.mux(packet)


def bare_video(folder: Path, tokenizer: Any) -> float:
    import av

    frames, kept, window, pts = 0, [], [], []
    with av.open(str(folder / "a.mp4"), format="mp4") as container:
        stream = container.streams.video[0]
        due, step = Fraction(0), Fraction(1, 2)

        def flush() -> None:
            if window:
                builder = RecordBuilder("video")
                base = stream.time_base
                builder.add(
                    locator="",
                    pixels=np.stack(window),
                    pts=list(pts),
                    time_base_num=base.numerator,
                    time_base_den=base.denominator,
                )
                kept.append(tokenizer.encode(builder.finish()).values)
                window.clear()
                pts.clear()

        for frame in container.decode(stream):
            frames += 1
            if frame.pts * stream.time_base >= due:
                window.append(frame.reformat(256, 144, "rgb24").to_ndarray())
                pts.append(frame.pts)
                due += step
                if len(window) == 16:
                    flush()
        flush()
    return float(frames)


def make_audio(folder: Path, scale: float) -> None:
    """Three minutes of 48 kHz stereo as FLAC."""
    import av

    rng = np.random.default_rng(3)
    with av.open(str(folder / "a.flac"), "w", format="flac") as out:
        stream = out.add_stream("flac", rate=48000, layout="stereo")
        for _ in range(int(180 * scale)):
            t = np.arange(48000) / 48000
            samples = np.sin(t * 2 * np.pi * rng.uniform(100, 2000)) * 9000 + rng.normal(0, 300, 48000)
            frame = av.AudioFrame.from_ndarray(
                np.repeat(samples.astype(np.int16), 2)[None], format="s16", layout="stereo"
            )
            frame.rate = 48000
            for packet in stream.encode(frame):
                out.mux(packet)
        for packet in stream.encode():
            out.mux(packet)


def bare_audio(folder: Path, tokenizer: Any) -> float:
    import av

    kept, parts, samples = [], [], 0
    with av.open(str(folder / "a.flac"), format="flac") as container:
        resampler = av.AudioResampler("s16", "mono", 16000)
        for frame in container.decode(audio=0):
            samples += frame.samples
            parts += [f.to_ndarray()[0] for f in resampler.resample(frame)]
        parts += [f.to_ndarray()[0] for f in resampler.resample(None)]
    mono = np.concatenate(parts)
    for at in range(0, len(mono), 160_000):
        builder = RecordBuilder("audio")
        builder.add(locator="", samples=mono[at : at + 160_000, None], rate=16000)
        kept.append(tokenizer.encode(builder.finish()).values)
    return samples / 1e6


def make_sensor(folder: Path, scale: float) -> None:
    """A CSV of six channels, a reading a second."""
    rng = np.random.default_rng(4)
    n = int(200_000 * scale)
    times = np.datetime64("2025-01-01T00:00:00") + np.arange(n).astype("timedelta64[s]")
    values = np.cumsum(rng.normal(0, 0.01, (n, 6)), axis=0) + 10
    with open(folder / "a.csv", "w") as f:
        f.write("time," + ",".join(f"c{i}" for i in range(6)) + "\n")
        for t, row in zip(times.astype(str), values.round(4).tolist()):
            f.write(f"{t}Z," + ",".join(map(str, row)) + "\n")


def bare_sensor(folder: Path, tokenizer: Any) -> float:
    import pyarrow as pa
    from pyarrow import csv

    table = csv.read_csv(folder / "a.csv")
    times = np.frombuffer(table.column("time").cast(pa.timestamp("ns", "UTC")).combine_chunks().buffers()[1], np.int64)
    kept = []
    for name in table.column_names[1:]:
        values = np.frombuffer(table.column(name).combine_chunks().buffers()[1], np.float64)
        builder = RecordBuilder("sensor")
        for at in range(0, len(values), 512):
            part = slice(at, at + 512)
            builder.add(
                locator="", t=times[part], value=values[part], valid=np.ones(len(values[part]), bool), channel=name
            )
        kept.append(tokenizer.encode(builder.finish()).values)
    return table.num_rows * (table.num_columns - 1) / 1e6


def make_raster(folder: Path, scale: float) -> None:
    """A deflated, tiled GeoTIFF of four uint16 bands."""
    import rasterio
    from rasterio.transform import from_origin

    side = int(2048 * scale**0.5) // 256 * 256
    rng = np.random.default_rng(5)
    y, x = np.mgrid[0:side, 0:side].astype(np.float32)
    profile = {"driver": "GTiff", "count": 4, "height": side, "width": side, "dtype": "uint16", "crs": "EPSG:32635"}
    profile |= {
        "tiled": True,
        "blockxsize": 256,
        "blockysize": 256,
        "compress": "deflate",
        "transform": from_origin(385000, 6680000, 10, 10),
    }
    with rasterio.open(folder / "a.tif", "w", **profile) as out:
        for band in range(1, 5):
            values = 2000 + 900 * np.sin(x / (37 * band)) * np.cos(y / 53) + rng.normal(0, 20, (side, side))
            out.write(values.astype(np.uint16), band)


def bare_raster(folder: Path, tokenizer: Any) -> float:
    import rasterio
    from rasterio.windows import Window

    kept = []
    with rasterio.open(folder / "a.tif", driver="GTiff") as src:
        for row in range(0, src.height, 256):
            for column in range(0, src.width, 256):
                window = Window(column, row, min(256, src.width - column), min(256, src.height - row))
                pixels = src.read(window=window)
                builder = RecordBuilder("raster")
                valid = np.ones(pixels.shape[1:], np.uint8)
                builder.add(locator="", pixels=pixels, bands=[{"name": str(i)} for i in src.indexes], valid=valid)
                kept.append(tokenizer.encode(builder.finish()).values)
        return src.width * src.height * src.count / 1e6


WORKS: dict[str, tuple[str, str, Callable[[Path, float], None], Bare]] = {
    "text": ("MB/s", "text", make_text, bare_text),
    "image": ("Mpixel/s", "image", make_images, bare_images),
    "video": ("frames/s", "video", make_video, bare_video),
    "audio": ("Msamples/s", "audio", make_audio, bare_audio),
    "sensor": ("Mvalues/s", "sensor", make_sensor, bare_sensor),
    "raster": ("Mvalues/s", "raster", make_raster, bare_raster),
}


def measure(name: str, scale: float, repeats: int) -> dict[str, Any]:
    """One row of the table."""
    unit, modality, make, bare = WORKS[name]
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as folder:
        root = Path(folder)
        (root / "in").mkdir()
        make(root / "in", scale)
        document = {
            "streams": {"work": {"source": {"type": "files", "root": str(root / "in")}, "record": {"type": modality}}}
        }
        pipeline = make_pipeline(document, base=root)
        build(pipeline, str(root / "fitted"), base=root, workers=1, engine="inline")
        settings = Dataset.open(str(root / "fitted")).state.settings["work"]
        output = resolve(pipeline, root)["work"].outputs[modality]  # type: ignore[index]
        fitted = Dataset.open(str(root / "fitted"))
        tokenizer = output.make_tokenizer(
            read_artefact(fitted.store, settings.tokenizer) if settings.tokenizer else None
        )
        builds, bares, shares = [], [], []
        for i in range(repeats):
            began = time.perf_counter()
            amount = bare(root / "in", tokenizer)
            bares.append(time.perf_counter() - began)
            result = build(pipeline, str(root / f"out{i}"), base=root, workers=1, engine="inline")
            seconds = result.stage_seconds["work"]
            builds.append(seconds["total"])
            shares.append({k: seconds.get(k, 0.0) / seconds["total"] for k in ("read", "normalize", "encode", "write")})
        build_s, bare_s = statistics.median(builds), statistics.median(bares)
        share = shares[builds.index(sorted(builds)[len(builds) // 2])]
        return {
            "work": name,
            "unit": unit,
            "build": amount / build_s,
            "bare": amount / bare_s,
            "ratio": bare_s / build_s,
            "share": {**share, "headrace": max(0.0, 1 - sum(share.values()))},
        }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a fifth of the input, one run each")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("works", nargs="*", choices=[*WORKS, []], help="which modalities; default all")
    options = parser.parse_args()
    rows = []
    for name in options.works or WORKS:
        row = measure(name, 0.2 if options.quick else 1.0, 1 if options.quick else 3)
        rows.append(row)
        if not options.json:
            told = ", ".join(f"{k} {v:.0%}" for k, v in row["share"].items())
            print(
                f"{name:<8} build {row['build']:9.1f} {row['unit']:<10} bare {row['bare']:9.1f}   ratio {row['ratio']:.2f}   ({told})",
                flush=True,
            )
    if options.json:
        json.dump(rows, sys.stdout)


if __name__ == "__main__":
    main()
