"""What looks down: reflectances of the map in twelve bands, with clouds, shadows, ships and the swath's edge."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from day.light import CLOUD_BASE, Light
from day.noise import Array, blur, rng, smooth
from day.picture import Studio
from day.place import (
    ASPHALT,
    BROADLEAF,
    CONCRETE,
    CONIFER,
    CROP,
    LAKE,
    MEADOW,
    RAPE,
    REED,
    ROCK,
    ROOF,
    SAND,
    SEA,
    SOIL,
    Grid,
)
from day.ships import in_ship_frame, wake

#: name, centre wavelength in nm, native metres a pixel; the bands of Sentinel-2 without the cirrus band of level 1.
BANDS: list[tuple[str, float, int]] = [
    ("B01", 442.7, 60),
    ("B02", 492.4, 10),
    ("B03", 559.8, 10),
    ("B04", 664.6, 10),
    ("B05", 704.1, 20),
    ("B06", 740.5, 20),
    ("B07", 782.8, 20),
    ("B08", 832.8, 10),
    ("B8A", 864.7, 20),
    ("B09", 945.1, 60),
    ("B11", 1613.7, 20),
    ("B12", 2202.4, 20),
]

#: Surface reflectance × 1,000 of each cover in the order of BANDS.
SPECTRA: dict[int, list[int]] = {
    SEA: [38, 33, 26, 15, 12, 9, 9, 8, 7, 7, 4, 3],
    LAKE: [26, 24, 30, 24, 20, 13, 12, 11, 10, 9, 6, 4],
    CONIFER: [18, 21, 34, 23, 58, 150, 182, 194, 206, 208, 92, 42],
    BROADLEAF: [20, 24, 52, 28, 92, 296, 372, 388, 404, 410, 168, 74],
    MEADOW: [32, 42, 74, 62, 120, 256, 298, 316, 330, 340, 224, 128],
    CROP: [24, 30, 66, 34, 102, 318, 410, 430, 446, 452, 176, 82],
    RAPE: [34, 44, 138, 128, 190, 330, 372, 402, 414, 420, 214, 112],
    SOIL: [70, 88, 116, 150, 172, 190, 204, 216, 228, 238, 302, 254],
    ROCK: [112, 128, 150, 166, 174, 182, 190, 196, 202, 206, 232, 206],
    SAND: [176, 214, 276, 326, 346, 362, 376, 388, 396, 402, 452, 410],
    CONCRETE: [172, 190, 214, 230, 238, 244, 250, 256, 260, 264, 282, 262],
    ASPHALT: [74, 80, 88, 94, 98, 102, 106, 110, 114, 116, 130, 122],
    ROOF: [88, 96, 118, 178, 196, 206, 214, 222, 230, 234, 268, 240],
    REED: [30, 38, 68, 60, 110, 214, 252, 268, 280, 286, 158, 84],
}
#: Factors of roof colours (tile, tar, zinc, copper, metal, slate, six container paints) in blue, green, red, nir.
_ROOF_TINT = np.array(
    [
        (0.7, 0.75, 1.35, 1.15),
        (0.5, 0.5, 0.4, 0.4),
        (1.8, 1.6, 1.1, 1.0),
        (1.3, 1.9, 0.9, 1.2),
        (3.0, 2.5, 1.7, 1.5),
        (0.9, 0.8, 0.5, 0.6),
        (0.6, 0.5, 1.9, 1.5),
        (2.2, 1.2, 0.4, 0.9),
        (0.6, 1.5, 0.5, 1.2),
        (0.6, 1.2, 2.2, 1.9),
        (3.4, 2.9, 2.0, 1.8),
        (1.6, 1.8, 0.7, 1.1),
    ]
)

#: What is added or shown per band: sand under shallow water, river silt, foam, painted steel, cloud; and
#: the share that a cloud's shadow takes.
_SHALLOW = np.array([8, 12, 26, 13, 7, 3, 3, 3, 2, 1, 0, 0], np.float32) / 1000
_SILT = np.array([6, 10, 24, 30, 26, 14, 12, 10, 8, 5, 1, 0], np.float32) / 1000
_FOAM = np.array([10, 11, 11, 10, 9, 8, 8, 7, 7, 5, 2, 1], np.float32) / 100
_STEEL = np.array([30, 30, 30, 30, 31, 31, 32, 32, 32, 30, 25, 22], np.float32) / 100
_CLOUD = np.array([47, 45, 44, 45, 46, 46, 46, 47, 47, 34, 31, 23], np.float32) / 100
_CLOUD_DIMS = 1 - np.array([55, 58, 62, 66, 68, 70, 70, 71, 72, 72, 76, 78], np.float32) / 100

#: Scene classes (SCL) of Sentinel-2 level 2A.
NO_DATA, DARK, SHADOW, VEGETATION, BARE, WATER, UNSURE, CLOUD_MEDIUM, CLOUD_HIGH, CIRRUS = 0, 2, 3, 4, 5, 6, 7, 8, 9, 10


@dataclass(frozen=True)
class Scene:
    """What a satellite saw of one grid. Arrays are (bands, n, n) and (n, n)."""

    reflectance: Array  #: 0 to about 1.3
    cloud: Array  #: 0 to 1
    shadow: Array
    water: Array  #: bool
    green: Array  #: bool, vegetation
    missing: Array  #: bool, beyond the swath


def look(studio: Studio, grid: Grid, t: float, *, swath: bool) -> Scene:
    """The grid as seen from straight above at second `t`, in pixels of 2 × 2 cells.

    `swath`: the south-eastern corner was not recorded.
    """
    light = Light.at(t, studio.clouds)
    sun = light.to_sun
    wet = (grid.cover == SEA) | (grid.cover == LAKE)
    # Sun on slopes and crowns; what stands up throws a shadow.
    gy, gx = np.gradient(grid.top, grid.step)
    slope = np.clip((-gx * sun[0] + gy * sun[1] + sun[2]) / np.sqrt(1 + gx**2 + gy**2), 0, None) / sun[2]
    slope = np.where(wet, 1.0, 0.25 + 0.75 * np.clip(slope, 0.2, 1.7)) * (1 - 0.6 * _cast(grid, light))
    bright = (slope * np.where(wet, 1 + 0.03 * grid.tint, 1 + 0.10 * grid.tint)).astype(np.float32)
    roofs = grid.cover == ROOF
    tint = _ROOF_TINT[grid.roof[roofs]].astype(np.float32)
    table = np.array([SPECTRA[c] for c in range(14)], np.float32) / 1000

    def band(number: int, roof: int) -> Array:
        cells = table[grid.cover, number] * bright
        cells[roofs] *= tint[:, roof]
        return pooled(cells, 2)

    bands = np.stack([band(number, roof) for number, roof in enumerate((0, 0, 1, 2, 2, 3, 3, 3, 3, 3, 3, 3))])
    x, y = (pooled(a, 2) for a in grid.coordinates())
    sea = pooled((grid.cover == SEA).astype(np.float32), 2)
    # Shallow bottoms and the river's silt brighten the water in green and red.
    shallow = sea * pooled(smooth(-7.0, -0.3, grid.ground), 2)
    plume = (
        sea
        * np.exp(-(np.hypot((x - 800) / 520, (y - 60) / 420) ** 2))
        * np.clip(1 + 0.4 * pooled(grid.tint, 2), 0, None)
    )
    bands += _SHALLOW[:, None, None] * shallow + _SILT[:, None, None] * plume

    for ship in studio.ships:
        state = ship.at(t)
        if state is None or max(abs(state.x), abs(state.y)) > grid.half:
            continue
        bands += _FOAM[:, None, None] * wake(x, y, state, ship.length, ship.beam)
        ahead, side = in_ship_frame(*grid.coordinates(), state)
        bow = np.clip(1.4 - np.abs(ahead) / ship.length * 1.6, 0.15, 1)
        hull = pooled(((np.abs(ahead) < ship.length / 2) & (np.abs(side) < ship.beam / 2 * bow)).astype(np.float32), 2)
        paint = _STEEL * (1.25 if ship.kind in ("ferry", "yacht") else 0.7)
        bands += (paint[:, None, None] - bands) * hull

    cloud = light.density(x, y)
    over = CLOUD_BASE / sun[2]
    shadow = light.density(x + over * sun[0], y + over * sun[1])
    u, v = x / 300 + 17, y / 300
    cirrus = 0.16 * smooth(0.3, 2.0, studio.clouds.at(u + 0.4 * v, 0.2 * v + 60))
    bands *= 1 - _CLOUD_DIMS[:, None, None] * shadow
    relief = (0.62 + 0.38 * cloud) * (
        1 + 0.22 * np.clip(np.gradient(blur(cloud, 3), axis=1) * -20 * np.sign(sun[0]), -1, 1)
    )
    bands += (_CLOUD[:, None, None] * relief - bands) * cloud
    bands += (0.30 - bands) * cirrus
    missing = (x - y * 0.28 > grid.half * 0.86) if swath else np.zeros(x.shape, bool)
    green = pooled(np.isin(grid.cover, (CONIFER, BROADLEAF, MEADOW, CROP, RAPE, REED)).astype(np.float32), 2)
    water = pooled(wet.astype(np.float32), 2)
    return Scene(bands.astype(np.float32), np.maximum(cloud, 0.8 * cirrus), shadow, water > 0.5, green > 0.5, missing)


def _cast(grid: Grid, light: Light) -> Array:
    """1 where something between a cell and the sun stands in the way, 0 elsewhere; softened to a pixel."""
    flat = float(np.hypot(light.to_sun[0], light.to_sun[1]))
    fall = light.to_sun[2] / flat
    blocked = np.zeros(grid.top.shape, np.float32)
    for k in range(1, int(28 / fall / grid.step) + 1):
        dx, dy = round(k * light.to_sun[0] / flat), round(-k * light.to_sun[1] / flat)
        source = np.roll(grid.top, (-dy, -dx), axis=(0, 1))
        blocked = np.maximum(blocked, np.clip((source - grid.top - k * grid.step * fall) / 3, 0, 1))
    return blocked


def pooled(a: Array, factor: int) -> Array:
    """Means of factor × factor blocks of the last two axes."""
    h, w = a.shape[-2] // factor, a.shape[-1] // factor
    return (
        a[..., : h * factor, : w * factor]
        .reshape(*a.shape[:-2], h, factor, w, factor)
        .mean(axis=(-3, -1), dtype=np.float32)
    )


def digital(
    reflectance: Array, missing: Array, seed: int, name: str, *, offset: int = 1000, noise: float = 0.0012
) -> Array:
    """uint16 numbers as a ground segment writes them: reflectance × 10,000 + offset, 0 where nothing was recorded."""
    noisy = reflectance * (1 + rng(seed, name).normal(0, 0.006, reflectance.shape)) + rng(seed, name + "/dark").normal(
        0, noise, reflectance.shape
    )
    return np.where(missing, 0, np.clip(np.round(noisy * 10_000) + offset, 1, 20_000)).astype(np.uint16)


def classes(scene: Scene, factor: int) -> Array:
    """The scene classification, uint8, on a grid `factor` times coarser."""
    cloud, shadow = pooled(scene.cloud, factor), pooled(scene.shadow, factor)
    water, green = (
        pooled(scene.water.astype(np.float32), factor) > 0.5,
        pooled(scene.green.astype(np.float32), factor) > 0.5,
    )
    out = np.where(water, WATER, np.where(green, VEGETATION, BARE))
    out = np.where((shadow > 0.45) & ~water, SHADOW, np.where((shadow > 0.45) & water, DARK, out))
    out = np.where(cloud > 0.09, CIRRUS, out)
    out = np.where(cloud > 0.25, UNSURE, out)
    out = np.where(cloud > 0.4, CLOUD_MEDIUM, np.where(cloud > 0.75, CLOUD_HIGH, out))
    out = np.where(cloud > 0.75, CLOUD_HIGH, out)
    return np.where(pooled(scene.missing.astype(np.float32), factor) > 0.5, NO_DATA, out).astype(np.uint8)
