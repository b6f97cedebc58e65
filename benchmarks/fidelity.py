"""How well tokens keep held-out real data, against the bars of the project. Run: python benchmarks/fidelity.py --check

Nothing that is measured was in the fit: pictures are split by file, satellite places are left out one at a time, and
the sensor tokenizer is not fitted at all. Every number is taken from pixels and values decoded from tokens alone, not
from the tokenizer's own account of itself; that account must agree. The lists of pictures are fixed here, and held-out
ones that score badly (a sharp aerial view) stay in.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from headrace.schemas.record import RecordBuilder, list_views, payload_views
from headrace.tokenizers.contract import Artefact, Tokenizer
from headrace.tokenizers.registry import choose, load

#: Photographs by several cameras, and a slide and a retina that look like none of them.
FIT_PICTURES = (
    "skimage/astronaut.png",
    "skimage/chelsea.png",
    "skimage/rocket.jpg",
    "skimage/ihc.png",
    "skimage/retina.jpg",
    "exif/exif-org/canon-ixus.jpg",
    "exif/gps/DSCN0010.jpg",
    "pillow/flower.jpg",
    "exif/orientation/landscape_1.jpg",
    "exif/exif-org/kodak-dc240.jpg",
)
HELD_PICTURES = (
    "skimage/coffee.png",
    "exif/exif-org/fujifilm-finepix40i.jpg",
    "exif/gps/DSCN0021.jpg",
    "pillow/iptc.jpg",
    "exif/exif-org/kodak-dc210.jpg",
    "riotiler/no_geo.jpg",
)
WINDOW = 512


@dataclass(frozen=True)
class Row:
    """One measured thing; `bar` is what it must reach (None: only printed), `ok` whether it does."""

    what: str
    value: float
    unit: str
    bar: str
    ok: bool
    note: str = ""


def fitted(settings: dict[str, Any], batches: Sequence[pa.RecordBatch]) -> Tokenizer:
    """A tokenizer fitted to batches, rebuilt from its artefact's bytes."""
    choice = choose(settings)
    assert choice.cls is not None
    return load(Artefact.from_files(choice.cls.fit(choice.config, batches, 0).to_files()))


def through(tokenizer: Tokenizer, batch: pa.RecordBatch) -> tuple[pa.RecordBatch, Any]:
    """(what the tokens of a batch decode to, the Encoded)."""
    encoded = tokenizer.encode(batch)
    rows = [encoded.values[a:b] for a, b in itertools.pairwise(encoded.offsets.tolist())]
    return tokenizer.decode(rows), encoded


def psnr(given: Any, back: Any, peak: float) -> float:
    """Peak signal-to-noise ratio in dB."""
    return float(10 * np.log10(peak**2 / np.mean((given.astype(np.float64) - back.astype(np.float64)) ** 2)))


def pictures(corpus: Path, names: Sequence[str]) -> pa.RecordBatch:
    """RGB pictures at their native size."""
    from PIL import Image

    builder = RecordBuilder("image")
    for name in names:
        with Image.open(corpus / "image" / name) as image:
            builder.add(locator=json.dumps(name), pixels=np.asarray(image.convert("RGB")), mode="RGB")
    return builder.finish()


def measure_image(corpus: Path) -> Iterator[Row]:
    """PSNR at one token per 8×8 patch."""
    tokenizer = fitted({"type": "pca-fsq"}, [pictures(corpus, FIT_PICTURES)])
    held = pictures(corpus, HELD_PICTURES)
    back, encoded = through(tokenizer, held)
    values = [psnr(a, b, 255.0) for a, b in zip(payload_views(held), payload_views(back), strict=True)]
    patches = sum((-(-p.shape[0] // 8)) * (-(-p.shape[1] // 8)) for p in payload_views(held))
    extra = len(encoded.values) - patches
    agree = float(np.abs(np.array(values) - encoded.error).max())
    for name, value, clip in zip(HELD_PICTURES, values, encoded.clip_fraction, strict=True):
        yield Row(f"image {name}", value, "dB", "", True, f"clip {clip:.4f}")
    mean = float(np.mean(values))
    yield Row("image mean of held-out", mean, "dB", ">= 21.0", mean >= 21.0, f"{extra} header tokens in {patches}")
    yield Row("image stored error minus true", agree, "dB", "<= 0.01", agree <= 0.01)


def measure_image_speed(corpus: Path) -> Iterator[Row]:
    """Encoding, with the measured error of every picture, on one core; not asserted, since machines are shared."""
    tokenizer = fitted({"type": "pca-fsq"}, [pictures(corpus, FIT_PICTURES)])
    held = pictures(corpus, HELD_PICTURES)
    pixels = sum(p.size for p in payload_views(held)) / 3
    best = min(_cpu_seconds(lambda: tokenizer.encode(held)) for _ in range(5))
    yield Row("image encode with error", pixels / best / 1e6, "Mpixel/s/core", "", True, "aim 25")


def _cpu_seconds(work: Callable[[], Any]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def etth1(corpus: Path, change: Callable[[Any], Any]) -> pa.RecordBatch:
    """The second half of ETTh1 in windows of 512, every channel, with `change` applied to the values."""
    with open(corpus / "sensor" / "ett" / "ETTh1.csv", newline="", encoding="utf-8") as file:
        header, *rows = list(csv.reader(file))
    t = np.array([row[0] for row in rows], "datetime64[ns]").view(np.int64)
    values = np.array([[float(v) for v in row[1:]] for row in rows])
    builder = RecordBuilder("sensor")
    for channel, name in enumerate(header[1:]):
        for start in range(len(values) // 2, len(values) - WINDOW + 1, WINDOW):
            part = slice(start, start + WINDOW)
            valid = np.ones(WINDOW, np.bool_)
            builder.add(locator="{}", t=t[part], value=change(values[part, channel]), valid=valid, channel=name)
    return builder.finish()


def measure_sensor(corpus: Path) -> Iterator[Row]:
    """NRMSE at 1,024 values, and that it does not change when the unit does."""
    tokenizer = choose({"type": "zscore-mu-law", "values": 1024}).create()
    batch = etth1(corpus, lambda x: x)
    back, encoded = through(tokenizer, batch)
    pairs = zip(list_views(batch, "value"), list_views(back, "value"), strict=True)
    errors = np.array([np.sqrt(np.mean((a - b) ** 2)) / a.std() for a, b in pairs])
    same_t = all(np.array_equal(a, b) for a, b in zip(list_views(batch, "t"), list_views(back, "t"), strict=True))
    median, mean = float(np.median(errors)), float(errors.mean())
    per_sample = len(encoded.values) / (batch.num_rows * WINDOW)
    yield Row("sensor ETTh1 median NRMSE", median, "", "<= 0.0035", median <= 0.0035, f"{per_sample:.3f} tokens/sample")
    yield Row("sensor ETTh1 mean NRMSE", mean, "", "<= 0.0035", mean <= 0.0035)
    yield Row("sensor time stamps equal", float(same_t), "", "= 1", same_t)
    for label, change in (
        ("1.8 x + 32", lambda x: 1.8 * x + 32),
        ("x + 273.15", lambda x: x + 273.15),
        ("-3.7 x + 10000", lambda x: -3.7 * x + 1e4),
        ("1e-9 x - 4e-7", lambda x: 1e-9 * x - 4e-7),
    ):
        moved = tokenizer.encode(etth1(corpus, change))
        drift = float(np.abs(moved.error.astype(np.float64) / encoded.error - 1).max())
        yield Row(f"sensor NRMSE change under {label}", drift, "relative", "<= 1e-6", drift <= 1e-6)


def tiles(corpus: Path, product: str) -> dict[str, pa.RecordBatch]:
    """One record per place of a TerraMesh product."""
    import rasterio

    found = {}
    for path in sorted((corpus / "raster" / "terramind" / product).glob("*.tif")):
        with rasterio.open(path) as source:
            pixels = source.read()
        builder = RecordBuilder("raster")
        bands = [{"name": f"{product}-{b}"} for b in range(len(pixels))]
        valid = np.ones(pixels.shape[1:], np.uint8).tobytes()
        builder.add(locator="{}", pixels=pixels, bands=bands, valid=valid)
        found[path.stem] = builder.finish()
    return found


def leave_one_out(
    corpus: Path, product: str, settings: dict[str, Any], score: Callable[[Any, Any], float]
) -> Iterator[tuple[str, float, float]]:
    """(place, score, bits per pixel) of every place, by a tokenizer fitted to the others."""
    places = tiles(corpus, product)
    for place, batch in places.items():
        tokenizer = fitted(settings, [other for name, other in places.items() if name != place])
        back, encoded = through(tokenizer, batch)
        given = next(payload_views(batch))
        codes = settings.get("codes", 64_000)
        bits = len(encoded.values) * np.log2(codes) / (given.shape[1] * given.shape[2])
        yield place, score(given, next(payload_views(back))), float(bits)


def measure_sentinel2(corpus: Path) -> Iterator[Row]:
    """12 bands together at 2 bits per pixel: eight tokens of at most 64,000 codes for each 8×8 patch."""
    settings = {"type": "pca-fsq", "stages": 8, "peak": 10_000.0}
    results = list(leave_one_out(corpus, "S2L2A", settings, lambda a, b: psnr(a, b, 10_000.0)))
    for place, value, bits in results:
        yield Row(f"sentinel-2 without {place}", value, "dB", ">= 17", value >= 17.0, f"{bits:.3f} bits/pixel")
    mean = float(np.mean([value for _, value, _ in results]))
    yield Row("sentinel-2 mean over places", mean, "dB", ">= 31", mean >= 31.0 and len(results) == 4, f"{len(results)}")


def measure_dem(corpus: Path) -> Iterator[Row]:
    """Heights with a base and unit per tile, one token per 8×8 patch."""
    settings = {"type": "pca-fsq", "scaling": "base"}
    results = list(leave_one_out(corpus, "DEM", settings, lambda a, b: float(np.abs(a.astype(float) - b).mean())))
    for place, value, bits in results:
        yield Row(f"DEM without {place}", value, "m mean error", "<= 2", value <= 2.0, f"{bits:.3f} bits/pixel")


MEASURES: dict[str, Callable[[Path], Iterator[Row]]] = {
    "image": measure_image,
    "image-speed": measure_image_speed,
    "sensor": measure_sensor,
    "sentinel2": measure_sentinel2,
    "dem": measure_dem,
}


def default_corpus() -> Path:
    """HEADRACE_DATA, else `shared/data` beside the checkout."""
    return Path(os.environ.get("HEADRACE_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; with --check, 1 if a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, default=default_corpus(), help="the folder of real files")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a bar is missed")
    parser.add_argument("--json", action="store_true", help="print rows as JSON lines")
    parser.add_argument("--only", choices=sorted(MEASURES), action="append", help="measure these alone")
    options = parser.parse_args(arguments)
    if not options.corpus.is_dir():
        print(f"no corpus at {options.corpus}: set HEADRACE_DATA or --corpus", file=sys.stderr)
        return 2
    missed = 0
    for name in options.only or MEASURES:
        for row in MEASURES[name](options.corpus):
            missed += not row.ok
            if options.json:
                print(json.dumps(asdict(row)))
            else:
                verdict = ("ok" if row.ok else "MISSED") if row.bar else ""
                print(f"{row.what:48} {row.value:12.6g} {row.unit:14} {row.bar:10} {verdict:7} {row.note}")
    return 1 if options.check and missed else 0


if __name__ == "__main__":
    if "OPENBLAS_NUM_THREADS" not in os.environ:  # one core is measured; the library reads this when it is loaded
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "OPENBLAS_NUM_THREADS": "1"})
    sys.exit(main())
