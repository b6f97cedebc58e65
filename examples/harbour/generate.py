"""Makes one day of an invented harbour: `python generate.py OUT [--seed 7] [--scale 1] [--jobs 2]`.

14 June 2025 at Tuulisalmi (60.15 N, 24.95 E). Satellite scenes, camera films, photographs, sounds, instruments and
bulletins all look at the same map (`day/place.py`), the same ships (`day/ships.py`) and the same sky and sea
(`day/light.py`), so they agree on what was where and when. Nothing is downloaded; a seed gives the same bytes with
the same library versions.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path

from day import bulletins, damaged, photos, products, sensors, sounds, video
from day.picture import Studio
from day.place import make_place
from day.ships import clock, fleet

MARKER = "HARBOUR.txt"


@cache
def studio(seed: int) -> Studio:
    """The studio of a seed, made once per process."""
    return Studio.of(make_place(seed), fleet())


def _satellite(out: Path, seed: int, scale: int) -> None:
    products.write_safe(out / "satellite", studio(seed))
    products.write_four_bands(out / "littoral" / "harbour_0603.tif", studio(seed), clock("06:03:20"))
    products.write_terrain(out / "terrain" / "terrain_20m.tif", studio(seed))


def _morning(out: Path, seed: int, scale: int) -> None:
    video.morning(out / "cameras", studio(seed), 16.0 * scale)


def _evening(out: Path, seed: int, scale: int) -> None:
    video.evening(out / "cameras", studio(seed), 24.0 * scale)


def _day(out: Path, seed: int, scale: int) -> None:
    video.whole_day(out / "cameras", studio(seed), 72 * scale)


def _photos(part: int, parts: int) -> Callable[[Path, int, int], None]:
    def work(out: Path, seed: int, scale: int) -> None:
        for number, shot in enumerate(photos.shots(scale)):
            if number % parts == part:
                photos.take(out / "photos", studio(seed), shot, number)

    return work


def _writings(out: Path, seed: int, scale: int) -> None:
    ships = fleet()
    bulletins.write_all(out / "bulletins", seed, each=36 * scale)
    sensors.write_all(out, seed, ships, scale=scale)
    sounds.write_all(out / "sounds", seed, ships)


#: Longest first, so that the processes end together.
PARTS: dict[str, Callable[[Path, int, int], None]] = {
    "the evening film": _evening,
    "the morning film": _morning,
    "photographs 1/4": _photos(0, 4),
    "photographs 2/4": _photos(1, 4),
    "photographs 3/4": _photos(2, 4),
    "photographs 4/4": _photos(3, 4),
    "the film of the day": _day,
    "the satellites": _satellite,
    "bulletins, instruments, sounds": _writings,
}


def run_part(name: str, out: Path, seed: int, scale: int) -> str:
    """Make one part. Returns its name."""
    PARTS[name](out, seed, scale)
    return name


def generate(out: Path, *, seed: int = 7, scale: int = 1, jobs: int = 2, say: Callable[[str], None] = print) -> None:
    """Make the whole day in `out`, which is emptied first if an earlier run filled it.

    Raises: SystemExit if `out` holds something else.
    """
    if out.exists() and any(out.iterdir()) and not (out / MARKER).is_file():
        raise SystemExit(f"{out} is not empty and was not made by this script: choose another folder")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    (out / MARKER).write_text(f"Made by examples/harbour/generate.py --seed {seed} --scale {scale}\n", encoding="utf-8")
    if jobs > 1:
        with ProcessPoolExecutor(jobs) as pool:
            for done in [pool.submit(run_part, name, out, seed, scale) for name in PARTS]:
                say(f"  {done.result()}")
    else:
        for name in PARTS:
            say(f"  {run_part(name, out, seed, scale)}")
    damaged.write_all(out / "damaged", out, seed)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("out", type=Path, help="folder to make; emptied first if this script filled it before")
    parser.add_argument("--seed", type=int, default=7, help="moves hills, woods, houses, clouds, waves and words")
    parser.add_argument("--scale", type=int, default=1, help="this much more of everything but the map")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    chosen = parser.parse_args()
    began = time.perf_counter()
    generate(chosen.out, seed=chosen.seed, scale=chosen.scale, jobs=chosen.jobs)
    files = [p for p in chosen.out.rglob("*") if p.is_file()]
    size = sum(p.stat().st_size for p in files) / 1e6
    print(f"{len(files)} files, {size:.1f} MB in {chosen.out}, {time.perf_counter() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
