"""The place: Tuulisalmi, an invented harbour on the Gulf of Finland, as a map that every sensor looks at.

Local metres, x east and y north from the middle of the basin; the scene is the square [-3840, 3840]². Two grids show
the same ground: the whole scene at 5 m and the harbour at 2 m. Row 0 of every grid is its northern edge.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from day.buildings import BREAKWATER, QUAYS, ROADS, Building, town
from day.noise import Array, on_grid, rng, smooth
from PIL import Image, ImageDraw

EPSG = 32635
#: UTM zone 35N of the local origin; the scene's corners lie on the 60 m grid of the satellite's tile.
EAST0, NORTH0 = 386_280.0, 6_670_140.0
HALF = 3840.0
CORE = 1024.0

SEA, LAKE, CONIFER, BROADLEAF, MEADOW, CROP, RAPE, SOIL, ROCK, SAND, CONCRETE, ASPHALT, ROOF, REED = range(14)
COVERS = (
    "sea",
    "lake",
    "conifer",
    "broadleaf",
    "meadow",
    "crop",
    "rape",
    "soil",
    "rock",
    "sand",
    "concrete",
    "asphalt",
    "roof",
    "reed",
)

#: x, y, radius, height of each island.
ISLANDS = [
    (-1650, -1250, 520, 15),
    (900, -1500, 380, 11),
    (1180, -1180, 190, 6),
    (-300, -2500, 640, 18),
    (2450, -2300, 700, 20),
    (-2900, -2650, 560, 13),
    (1750, -620, 240, 7),
    (-900, -1750, 170, 4),
    (520, -2950, 260, 6),
    (-1180, -560, 110, 3),
    (3300, -900, 420, 10),
]
RIVER = [
    (760, 250),
    (700, 480),
    (610, 700),
    (560, 900),
    (470, 1090),
    (160, 1260),
    (-60, 1560),
    (120, 1900),
    (260, 2300),
    (40, 2750),
    (-200, 3200),
    (-120, 3900),
]


@dataclass(frozen=True)
class Grid:
    """One raster of the place. All arrays are (cells, cells)."""

    half: float
    step: float
    cover: Array  #: uint8, see COVERS
    ground: Array  #: float32 metres above the chart datum, below 0 under water
    top: Array  #: float32, ground with trees and buildings on it
    tint: Array  #: float32 about 0, slow changes of colour
    roof: Array  #: uint8, roof colour where cover is ROOF

    def coordinates(self) -> tuple[Array, Array]:
        """(x, y) of every cell's middle."""
        return _coordinates(self.half, self.cover.shape[0])

    def index(self, x: Array, y: Array) -> tuple[Array, Array]:
        """(row, column) of points, clipped to the grid."""
        last = self.cover.shape[0] - 1
        column = np.clip(((x + self.half) / self.step).astype(np.int64), 0, last)
        row = np.clip(((self.half - y) / self.step).astype(np.int64), 0, last)
        return row, column


def _coordinates(half: float, cells: int) -> tuple[Array, Array]:
    step = 2 * half / cells
    axis = (-half + step * (np.arange(cells) + 0.5)).astype(np.float32)
    return np.broadcast_to(axis[None, :], (cells, cells)), np.broadcast_to(-axis[:, None], (cells, cells))


def _drawn(half: float, cells: int, shapes: list[tuple[list[tuple[float, float]], float]]) -> Array:
    """Polygons (width 0) and lines of a width in metres, as a mask."""
    image = Image.new("L", (cells, cells))
    draw = ImageDraw.Draw(image)
    scale = cells / (2 * half)
    for points, width in shapes:
        pixels = [((x + half) * scale, (half - y) * scale) for x, y in points]
        if width:
            draw.line(pixels, fill=255, width=max(1, round(width * scale)), joint="curve")
        else:
            draw.polygon(pixels, fill=255)
    return np.asarray(image) > 0


def _parcels(seed: int, x: Array, y: Array) -> tuple[Array, Array]:
    """(parcel number, distance to its border) of a patchwork of fields, turned 17 degrees."""
    u, v = 0.956 * x + 0.292 * y, -0.292 * x + 0.956 * y
    row = np.floor(v / 210.0)
    shift = (np.sin(row * 12.9898) * 43758.5453) % 1.0
    column = np.floor(u / 330.0 + shift)
    edge = np.minimum(np.abs((v / 210.0) % 1 - 0.5) * -210 + 105, np.abs((u / 330.0 + shift) % 1 - 0.5) * -330 + 165)
    number = (row * 57 + column * 131 + 7919).astype(np.int64)
    return number, edge


def make_grid(seed: int, half: float, cells: int, buildings: list[Building]) -> Grid:
    """The place on one grid."""
    step = 2 * half / cells

    def noise(name: str, period: float, octaves: int) -> Array:
        return on_grid(seed, name, half_m=half, cells=cells, period_m=period, octaves=octaves)

    x, y = _coordinates(half, cells)
    wrinkles = noise("coast", 900, 7)
    # Metres inland, negative at sea; the bay in the middle is what the harbour grew around.
    inland = y - (180 + 260 * np.sin(x / 1500 + 0.4) + 0.03 * np.abs(x)) + 165 * wrinkles
    inland = inland - 260 * np.exp(-(((x - 60) / 560) ** 2)) * smooth(1000, 300, y)
    for ix, iy, radius, _ in ISLANDS:
        distance = np.hypot(x - ix, (y - iy) * 1.25)
        inland = np.maximum(inland, (radius - distance) * 0.55 + 70 * wrinkles - 35)
    # Around the built shore the land is what people made of it.
    built = smooth(1.0, 0.35, np.maximum(np.abs(x + 40) / 760, np.abs(y - 560) / 620))
    inland = inland * (1 - built) + built * 0.8 * (y - 400 + 40 * wrinkles)

    hills = noise("hills", 1500, 5)
    land = smooth(0, 260, inland)
    ground = np.where(
        inland > 0,
        1.2 * smooth(0, 22, inland) + land * (9 + 8 * hills) + 0.012 * np.clip(inland, 0, 1500),
        inland * 0.05,
    )
    ground = np.where((inland > 0) & (ground < 0.5), 0.5 + 0.5 * np.tanh(inland / 20), ground).astype(np.float32)
    ground = np.maximum(ground, -24 + 3 * hills)
    # The town climbs gently from the quay, so nothing stands like a wall behind it.
    slope = 2.2 + 0.055 * np.clip(y - 560, 0, None) + np.clip(np.abs(x - 20) - 560, 0, None) * 0.1
    ground = np.where(ground > slope, slope + 0.15 * (ground - slope), ground)

    river = _drawn(half, cells, [([(px, py) for px, py in RIVER], 46)])
    lake = np.hypot((x + 2250) / 520, (y - 2350) / 330) + 0.22 * wrinkles < 1
    sea = (inland <= 0) | river
    ground = np.where(river, np.minimum(ground, -2.5), ground)
    ground = np.where(lake, 14.0, ground).astype(np.float32)

    kind = noise("wood", 700, 5)
    number, edge = _parcels(seed, x, y)
    crops = rng(seed, "crops").choice([CROP, CROP, CROP, MEADOW, RAPE, SOIL, CROP, MEADOW], size=4096)
    farmed = (noise("farms", 1600, 3) + 0.35 * smooth(600, 1600, x) > 0.25) & (inland > 320) & (edge > 5)
    cover = np.where(kind > 0.35, BROADLEAF, CONIFER)
    cover = np.where((kind > -0.12) & (kind < 0.02), MEADOW, cover)
    cover = np.where(farmed, crops[number % 4096], cover)
    cover = np.where((inland < 26 + 16 * kind) & (inland > 0), ROCK, cover)
    beach = (np.hypot(x - 1350, y - 330) < 330) & (inland < 60)
    cover = np.where(beach & (inland > 0), SAND, cover)
    cover = np.where((np.hypot(x + 1500, y - 520) < 330) & (inland < 45) & (inland > -14), REED, cover)
    banks = _drawn(half, cells, [([(px, py) for px, py in RIVER], 90)])
    cover = np.where(banks & (inland > 0), MEADOW, cover)
    village = (
        (np.maximum(np.abs(x - 20) / 560, np.abs(y - 760) / 390) + 0.09 * kind + 0.05 * wrinkles < 1)
        & (inland > 0)
        & ~banks
    )
    cover = np.where(village, np.where(kind > 0.1, BROADLEAF, MEADOW), cover)
    cover = np.where(lake, LAKE, cover)
    cover = np.where(sea & (cover != REED), SEA, cover)
    cover = np.where(_drawn(half, cells, ROADS) & ~lake, ASPHALT, cover)

    basin = _drawn(half, cells, [([(-60, 420), (240, 420), (240, 0), (-60, 0)], 0)])
    cover = np.where(basin, SEA, cover)
    ground = np.where(basin, np.minimum(ground, -9.0), ground)
    quay = _drawn(half, cells, [(list(corners), 0) for corners in QUAYS])
    cover = np.where(quay, CONCRETE, cover)
    ground = np.where(quay, 2.3, ground)
    rocks = _drawn(half, cells, [(BREAKWATER, 26)])
    crest = _drawn(half, cells, [(BREAKWATER, 7)])
    cover = np.where(rocks, ROCK, cover)
    ground = np.where(rocks, 1.3 + 0.5 * noise("boulders", 9, 2), ground)
    cover = np.where(crest, CONCRETE, cover)
    ground = np.where(crest, 3.4, ground).astype(np.float32)

    crowns = noise("crowns", 11, 3)
    trees = np.select(
        [cover == CONIFER, cover == BROADLEAF, cover == REED],
        [13 + 3.2 * crowns, 9 + 2.6 * crowns, 1.6 + 0 * crowns],
        0.0,
    )
    edge_of_wood = np.where((cover == CONIFER) | (cover == BROADLEAF), np.clip(trees, 2, None), trees)
    gardens = village & ((cover == BROADLEAF) | (cover == MEADOW))
    edge_of_wood = np.where(gardens, 8 * smooth(0.55, 1.3, crowns), edge_of_wood)
    cover = np.where(gardens & (crowns > 0.7), BROADLEAF, cover)
    top = ground + edge_of_wood
    roof = np.zeros((cells, cells), np.uint8)
    for building in buildings:
        _stamp(building, half, step, cover, top, ground, roof)
    return Grid(half, step, cover.astype(np.uint8), ground, top.astype(np.float32), noise("tint", 60, 4), roof)


def _stamp(building: Building, half: float, step: float, cover: Array, top: Array, ground: Array, roof: Array) -> None:
    corners = np.array(building.corners())
    cells = cover.shape[0]
    (x0, y0), (x1, y1) = corners.min(0), corners.max(0)
    c0, c1 = max(0, int((x0 + half) / step)), min(cells, int((x1 + half) / step) + 1)
    r0, r1 = max(0, int((half - y1) / step)), min(cells, int((half - y0) / step) + 1)
    if c0 >= c1 or r0 >= r1:
        return
    image = Image.new("L", (c1 - c0, r1 - r0))
    pixels = [((x + half) / step - c0 - 0.5, (half - y) / step - r0 - 0.5) for x, y in corners]
    ImageDraw.Draw(image).polygon(pixels, fill=255)
    inside = np.asarray(image) > 0
    window = np.s_[r0:r1, c0:c1]
    cover[window] = np.where(inside, ROOF, cover[window])
    top[window] = np.where(inside, building.base + building.height + 0.4 * building.ridge, top[window])
    ground[window] = np.where(inside, building.base, ground[window])
    roof[window] = np.where(inside, building.roof, roof[window])


@dataclass(frozen=True)
class Place:
    """The map on both grids and what stands on it."""

    seed: int
    whole: Grid  #: 7,680 m at 5 m
    core: Grid  #: 2,048 m at 2 m
    buildings: list[Building]


def make_place(seed: int) -> Place:
    """The place of a seed. The seed moves hills, woods, fields and houses; the harbour itself stays."""
    bare = make_grid(seed, CORE, int(CORE), [])

    def ground_at(x: float, y: float) -> float:
        row, column = bare.index(np.float64(x), np.float64(y))
        return float(bare.ground[row, column]) if bare.cover[row, column] not in (SEA, LAKE, ASPHALT) else -1.0

    buildings = town(rng(seed, "town"), ground_at)
    return Place(seed, make_grid(seed, HALF, 1536, buildings), make_grid(seed, CORE, int(CORE), buildings), buildings)
