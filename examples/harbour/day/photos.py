"""Photographs of the day in the formats people have: JPEG with EXIF, PNG, WebP and a 16-bit TIFF."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import rasterio
from day.camera import Camera
from day.clock import LOCAL, moment
from day.geo import lon_lat
from day.picture import Studio, View, exposure
from day.ships import clock
from PIL import Image
from PIL.TiffImagePlugin import IFDRational
from rasterio.errors import NotGeoreferencedWarning

W, H = 768, 512


@dataclass(frozen=True)
class Shot:
    """One photograph: name, camera, second of the day, format, and how the camera was held (EXIF orientation)."""

    name: str
    camera: Camera
    t: float
    kind: str = "jpg"
    orientation: int = 1


SHOTS = [
    Shot("sunrise_over_the_pier", Camera(-420, -640, 4.0, 46, 40, W, H, 0.62, mirror=6), clock("01:32")),
    Shot("silakka_leaves_in_the_mist", Camera(-200, -760, 3, 47, 30, W, H, 0.60, mirror=6), clock("02:14:12")),
    Shot("aava_arrives", Camera(-50, -20, 6, 128, 46, W, H, 0.5, mirror=8), clock("06:03:22")),
    Shot("aava_at_the_pier", Camera(120, 40, 4, 40, 46, W, H, 0.60, mirror=6), clock("07:05"), "png"),
    Shot("harbour_from_the_air", Camera(560, -560, 150, 326, 48, W, H, 0.22, mirror=50), clock("09:50:29")),
    Shot("cranes_and_freighter", Camera(-110, -140, 3.0, 322, 58, W, H, 0.62, mirror=4), clock("10:30"), "tif"),
    Shot("warehouses_upright", Camera(60, 180, 5, 14, 30, H, W, 0.66, mirror=6), clock("11:30"), "jpg", 6),
    Shot("town_and_fields", Camera(-200, 470, 150, 12, 46, W, H, 0.26, mirror=200), clock("12:10")),
    Shot("shower_over_the_roads", Camera(500, -420, 3, 310, 44, W, H, 0.62, mirror=6), clock("13:28:50")),
    Shot("meriharakka_under_sail", Camera(425, -325, 2.5, 324, 44, W, H, 0.62, mirror=4), clock("15:36:30"), "webp"),
    Shot("kaleva_trader_puts_to_sea", Camera(470, -600, 4, 314, 30, W, H, 0.6, mirror=4), clock("17:53:30")),
    Shot("lighthouse_at_sunset", Camera(250, -640, 4.0, 303, 34, W, H, 0.66, mirror=6), clock("19:12")),
    Shot("aava_with_lights", Camera(60, -330, 4, 18, 44, W, H, 0.6, mirror=4), clock("20:15:02"), "jpg", 3),
    Shot("blue_hour", Camera(130, 150, 3.5, 350, 58, W, H, 0.6, mirror=4), clock("21:10"), "png"),
]


def shots(scale: int) -> list[Shot]:
    """All photographs; for a scale above 1 the same places again, minutes later."""
    again = [replace(s, name=f"{s.name}_{k}", t=s.t + 97.0 * k, kind="jpg") for k in range(1, scale) for s in SHOTS]
    return [*SHOTS, *again]


#: How a picture is turned before it is stored, so that its orientation turns it back.
_STORED = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}


def take(folder: Path, studio: Studio, shot: Shot, number: int) -> None:
    """Write one photograph."""
    view = View(studio, shot.camera, shot.t, scale=1.3)
    stem = f"{moment(shot.t):%H%M}_{shot.name}"
    folder.mkdir(parents=True, exist_ok=True)
    if shot.kind == "tif":
        _deep(folder / f"{stem}.tif", view, shot)
        return
    picture = view.image(shot.t, grain_seed=studio.place.seed * 1000 + number)
    if shot.orientation != 1:
        picture = picture.transpose(_STORED[shot.orientation])
    if shot.kind == "png":
        picture.save(folder / f"{stem}.png", optimize=False, compress_level=9)
    elif shot.kind == "webp":
        picture.save(folder / f"{stem}.webp", quality=88, method=4, exif=_exif(shot).tobytes())
    else:
        picture.save(folder / f"{stem}.jpg", quality=90, subsampling=0, exif=_exif(shot).tobytes())


def _exif(shot: Shot) -> Image.Exif:
    exif = Image.Exif()
    exif[0x010F], exif[0x0110], exif[0x0112] = "Vindsund Optik", "VO-6", shot.orientation
    local = moment(shot.t).astimezone(LOCAL)
    exif[0x0132] = f"{local:%Y:%m:%d %H:%M:%S}"
    details = exif.get_ifd(0x8769)
    details[0x9003] = details[0x9004] = f"{local:%Y:%m:%d %H:%M:%S}"
    details[0x9010] = details[0x9011] = details[0x9012] = "+03:00"
    details[0x920A] = IFDRational(round(180 / np.tan(np.radians(shot.camera.fov) / 2)), 10)  # mm behind a 36 mm frame
    place = exif.get_ifd(0x8825)
    longitude, latitude = lon_lat(shot.camera.x, shot.camera.y)
    place[1], place[2], place[3], place[4] = "N", _degrees(latitude), "E", _degrees(longitude)
    place[16], place[17] = "T", IFDRational(round(shot.camera.bearing * 10), 10)
    return exif


def _degrees(value: float) -> tuple[IFDRational, IFDRational, IFDRational]:
    minutes = value % 1 * 60
    return IFDRational(int(value), 1), IFDRational(int(minutes), 1), IFDRational(round(minutes % 1 * 6000), 100)


def _deep(path: Path, view: View, shot: Shot) -> None:
    """16 bits a channel, straight from linear light through a square-root curve, as a scanner of film would give."""
    small = View(view.studio, replace(shot.camera, width=576, height=384), shot.t, scale=2.0)
    linear = small.linear(shot.t)
    linear = linear.reshape(384, 2, 576, 2, 3).mean(axis=(1, 3))
    assert small.light is not None
    values = np.clip(np.sqrt(np.clip(linear * exposure(small.light) / 1.9, 0, 1)) * 65535, 0, 65535).astype(np.uint16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(
            path,
            "w",
            driver="GTiff",
            width=576,
            height=384,
            count=3,
            dtype="uint16",
            photometric="rgb",
            compress="deflate",
            predictor=2,
            interleave="pixel",
        ) as out:
            out.write(values.transpose(2, 0, 1))
            out.update_tags(TIFFTAG_DATETIME=f"{moment(shot.t).astimezone(LOCAL):%Y:%m:%d %H:%M:%S}")
