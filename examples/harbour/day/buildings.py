"""What people built: quays, breakwater, roads, warehouses, cranes, containers, a town and a lighthouse."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

QUAY_Z = 2.4

#: Corners of the aprons, counter-clockwise from the south-west.
QUAYS: list[list[tuple[float, float]]] = [
    [(-520, 60), (-60, 60), (-60, 430), (-520, 430)],  # west quay
    [(-520, 420), (520, 420), (520, 560), (-520, 560)],  # north quay
    [(240, -190), (320, -190), (320, 430), (240, 430)],  # east pier
    [(420, 290), (470, 290), (470, 430), (420, 430)],  # jetty of the small boats
]
BREAKWATER: list[tuple[float, float]] = [(-800, 190), (-760, 60), (-640, -170), (-470, -350), (-220, -470), (40, -500)]
LIGHTHOUSE = (48.0, -501.0)

#: Roads as (line, width).
ROADS: list[tuple[list[tuple[float, float]], float]] = [
    ([(-520, 590), (560, 590)], 9),
    ([(-520, 590), (-900, 720), (-1500, 1080), (-2300, 1200), (-3900, 1750)], 10),
    ([(560, 590), (1000, 800), (1700, 900), (2600, 1300), (3900, 1500)], 10),
    ([(-60, 590), (-60, 1100), (-380, 1700), (-420, 2600), (-760, 3900)], 9),
    ([(-330, 690), (470, 690)], 6),
    ([(-330, 790), (470, 790)], 6),
    ([(-330, 890), (470, 890)], 6),
    ([(-330, 990), (470, 990)], 6),
    ([(-330, 590), (-330, 990)], 6),
    ([(100, 590), (100, 990)], 6),
    ([(340, 590), (340, 990)], 6),
]

#: Linear-light colours of roofs: tile red, tar, zinc, copper green, light metal, slate blue.
ROOFS = np.array(
    [
        (0.30, 0.075, 0.04),
        (0.045, 0.045, 0.05),
        (0.22, 0.24, 0.26),
        (0.16, 0.33, 0.26),
        (0.42, 0.43, 0.42),
        (0.09, 0.12, 0.18),
    ]
)
#: Walls: ochre, Falun red, white, brick, grey concrete, pale green, navy steel, sand.
WALLS = np.array(
    [
        (0.55, 0.34, 0.12),
        (0.26, 0.05, 0.03),
        (0.66, 0.64, 0.60),
        (0.28, 0.11, 0.07),
        (0.33, 0.33, 0.33),
        (0.36, 0.45, 0.33),
        (0.05, 0.10, 0.20),
        (0.55, 0.47, 0.34),
    ]
)
#: Painted steel; as roofs they follow after ROOFS.
CONTAINERS = np.array(
    [
        (0.42, 0.07, 0.04),
        (0.04, 0.13, 0.33),
        (0.06, 0.26, 0.14),
        (0.55, 0.26, 0.04),
        (0.50, 0.50, 0.48),
        (0.10, 0.30, 0.38),
    ]
)


@dataclass(frozen=True)
class Building:
    """A house on a rectangle."""

    x: float  #: middle
    y: float
    length: float  #: metres along its axis
    depth: float
    angle: float  #: degrees of the axis from east, counter-clockwise
    base: float  #: metres above the datum
    height: float  #: of the walls
    ridge: float  #: of the roof above the walls; 0 is flat
    roof: int
    wall: int
    pattern: str  #: "house", "brick", "metal", "plain", "container"

    def corners(self) -> list[tuple[float, float]]:
        """Counter-clockwise."""
        c, s = np.cos(np.radians(self.angle)), np.sin(np.radians(self.angle))
        half = [(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)]
        return [
            (self.x + c * a * self.length - s * b * self.depth, self.y + s * a * self.length + c * b * self.depth)
            for a, b in half
        ]


def _containers(rng: np.random.Generator) -> list[Building]:
    """Stacks of 12 m boxes in blocks on the west quay."""
    stacks = []
    for block_y in (135, 215, 300):
        for row in range(4):
            for column in range(12):
                level = int(rng.integers(0, 5))
                if level:
                    x, y = -262 + 13.2 * column, block_y + 3.0 * row
                    colour = int(rng.integers(len(CONTAINERS)))
                    stacks.append(
                        Building(x, y, 12.2, 2.5, 0, QUAY_Z, 2.6 * level, 0, len(ROOFS) + colour, colour, "container")
                    )
    return stacks


def _harbour() -> list[Building]:
    west = [
        Building(-410, 330, 96, 40, 90, QUAY_Z, 9, 3.0, 4, 6, "metal"),
        Building(-330, 330, 96, 40, 90, QUAY_Z, 9, 3.0, 2, 4, "metal"),
        Building(-480, 170, 120, 34, 90, QUAY_Z, 11, 2.5, 4, 7, "metal"),
    ]
    north = [
        Building(x, 506, 52, 20, 0, QUAY_Z, 11, 6.5, roof, wall, "brick")
        for x, roof, wall in [(-150, 0, 3), (-88, 0, 3), (-26, 1, 1), (36, 0, 3), (98, 5, 2), (160, 0, 3)]
    ]
    terminal = [
        Building(300, 500, 92, 26, 0, QUAY_Z, 9, 0, 4, 2, "house"),
        Building(430, 510, 34, 18, 0, QUAY_Z, 6, 3.5, 0, 1, "house"),
        Building(476, 505, 26, 16, 0, QUAY_Z, 6, 3.5, 1, 0, "house"),
        Building(280, 250, 70, 22, 90, QUAY_Z, 7, 3.0, 2, 5, "metal"),
        Building(280, 120, 60, 20, 90, QUAY_Z, 7, 3.0, 0, 1, "brick"),
    ]
    return west + north + terminal


def town(rng: np.random.Generator, ground_at: Callable[[float, float], float]) -> list[Building]:
    """All buildings: the harbour's own, and houses along the streets of the town behind it."""
    houses = _harbour() + _containers(rng)
    for street in (590, 690, 790, 890, 990):
        for side in (-1, 1):
            x = -315.0
            while x < 460:
                length = float(rng.uniform(13, 26))
                y = street + side * float(rng.uniform(17, 21)) + (10 if street == 590 else 0)
                here = ground_at(x + length / 2, y)
                clear = all(abs(x + length / 2 - cross) > 6 + length / 2 for cross in (-330, -60, 100, 340))
                church = abs(x - 200) < 60 and abs(y - 840) < 40
                if here > 1.5 and clear and not church and rng.random() < 0.86:
                    tall = (
                        float(rng.choice([6.0, 6.0, 9.2, 9.2, 12.4]))
                        if street < 700
                        else float(rng.choice([3.6, 6.0, 6.0]))
                    )
                    roof, wall = int(rng.choice([0, 0, 0, 1, 2, 5])), int(rng.choice([0, 1, 2, 3, 5, 7, 2, 0]))
                    houses.append(
                        Building(
                            x + length / 2,
                            y,
                            length,
                            float(rng.uniform(9, 13)),
                            0,
                            here - 0.5,
                            tall,
                            float(rng.uniform(2.6, 4.4)),
                            roof,
                            wall,
                            "house",
                        )
                    )
                x += length + float(rng.uniform(3, 9))
    nave = max(ground_at(200, 842), 4.0)
    houses.append(Building(200, 842, 38, 15, 0, nave - 0.5, 12, 9, 3, 2, "plain"))
    houses.append(Building(176, 842, 9, 9, 0, nave - 0.5, 27, 20, 3, 2, "plain"))
    for x, y in [(-760, 1180), (-1180, 900), (820, 1010), (690, 720)]:
        here = ground_at(x, y) if max(abs(x), abs(y)) < 1000 else 12.0
        if here > 0:
            houses.append(Building(x, y, 24, 11, 20, here, 5, 4, 0, 1, "house"))
    return houses
