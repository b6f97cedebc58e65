"""Faces of everything that is not ground: houses, quay walls, cranes, silos, the lighthouse and ships."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from day.buildings import CONTAINERS, LIGHTHOUSE, QUAY_Z, QUAYS, ROOFS, WALLS, Building
from day.noise import Array
from day.ships import Ship, State

Colour = Sequence[float]
WHITE, GREY, DARK = (0.72, 0.72, 0.70), (0.26, 0.27, 0.28), (0.03, 0.035, 0.04)


@dataclass(frozen=True)
class Face:
    """A flat convex face. `pattern` is drawn in (metres along the first edge, metres above `foot`)."""

    points: Array  #: (n, 3) east, north, up
    colour: Colour
    pattern: str = "plain"
    foot: float = 0.0
    number: int = 0  #: makes the windows of one house differ from the next one's


def _face(
    points: Sequence[Sequence[float]], colour: Colour, pattern: str = "plain", foot: float = 0.0, number: int = 0
) -> Face:
    return Face(np.array(points, np.float64), colour, pattern, foot, number)


def prism(
    outline: Sequence[tuple[float, float]],
    low: float,
    high: float,
    colour: Colour,
    pattern: str = "plain",
    *,
    top: Colour | None = None,
    number: int = 0,
) -> Iterator[Face]:
    """Walls around an outline, and its lid."""
    for (x0, y0), (x1, y1) in zip(outline, [*outline[1:], outline[0]]):
        yield _face([(x0, y0, low), (x1, y1, low), (x1, y1, high), (x0, y0, high)], colour, pattern, low, number)
    yield _face([(x, y, high) for x, y in outline], colour if top is None else top)


def beam(a: Sequence[float], b: Sequence[float], width: float, colour: Colour) -> Iterator[Face]:
    """A square bar from a to b."""
    start, end = np.array(a, float), np.array(b, float)
    along = (end - start) / np.linalg.norm(end - start)
    side = np.cross(along, (0.0, 0.0, 1.0) if abs(along[2]) < 0.9 else (1.0, 0.0, 0.0))
    side *= width / 2 / np.linalg.norm(side)
    up = np.cross(side, along)
    ring = [side + up, up - side, -side - up, side - up]
    for p, q in zip(ring, [*ring[1:], ring[0]]):
        yield Face(np.array([start + p, start + q, end + q, end + p]), colour)


def tower(
    x: float, y: float, rings: Sequence[tuple[float, float]], colours: Sequence[Colour], sides: int = 14
) -> Iterator[Face]:
    """A round tower: `rings` are (height, radius), one colour between each two."""
    angles = np.arange(sides + 1) * 2 * np.pi / sides
    for (z0, r0), (z1, r1), colour in zip(rings, rings[1:], colours):
        for a, b in pairwise(angles):
            low = [(x + r0 * np.cos(c), y + r0 * np.sin(c), z0) for c in (a, b)]
            high = [(x + r1 * np.cos(c), y + r1 * np.sin(c), z1) for c in (b, a)]
            yield _face([*low, *high], colour, "lamp" if colour == LAMP else "plain", z0)
    z, r = rings[-1]
    yield _face([(x + r * np.cos(c), y + r * np.sin(c), z) for c in angles[:-1]], GREY)


LAMP = (1.0, 0.86, 0.55)


def house(b: Building, number: int) -> Iterator[Face]:
    """Walls, gables and roof."""
    p0, p1, p2, p3 = b.corners()
    low, high, peak = b.base - 1.5, b.base + b.height, b.base + b.height + b.ridge
    if b.pattern == "container":
        yield from prism([p0, p1, p2, p3], b.base, high, CONTAINERS[b.wall], "container", number=number)
        return
    wall, roof = WALLS[b.wall], ROOFS[b.roof]
    if b.ridge == 0:
        yield from prism([p0, p1, p2, p3], low, high, wall, b.pattern, top=roof, number=number)
        return
    spire = b.ridge > 1.5 * b.depth
    m0 = ((p0[0] + p3[0]) / 2, (p0[1] + p3[1]) / 2)
    m1 = ((p1[0] + p2[0]) / 2, (p1[1] + p2[1]) / 2)
    if spire:
        m0 = m1 = ((m0[0] + m1[0]) / 2, (m0[1] + m1[1]) / 2)
    for a, c in ((p0, p1), (p2, p3)):
        yield _face([(*a, low), (*c, low), (*c, high), (*a, high)], wall, b.pattern, b.base, number)
    for a, m, c in ((p1, m1, p2), (p3, m0, p0)):
        gable = (
            [(*a, low), (*c, low), (*c, high), (*a, high)]
            if spire
            else [(*a, low), (*c, low), (*c, high), (*m, peak), (*a, high)]
        )
        yield _face(gable, wall, b.pattern, b.base, number)
    if spire:
        for a, c in ((p0, p1), (p1, p2), (p2, p3), (p3, p0)):
            yield _face([(*a, high), (*c, high), (*m0, peak)], roof)
        return
    # Eaves hang half a metre over the walls.
    out = 0.5 / max(b.depth, 1.0)
    drop = b.ridge * out * 2

    def over(p: tuple[float, float], q: tuple[float, float]) -> tuple[float, float]:
        return p[0] + (p[0] - q[0]) * out, p[1] + (p[1] - q[1]) * out

    for a, c, n, m in ((p0, p1, m0, m1), (p2, p3, m1, m0)):
        ea, ec = over(a, n), over(c, m)
        yield _face([(*ea, high - drop), (*ec, high - drop), (*m, peak), (*n, peak)], roof, "tiles", high, number)


def crane(x: float, y: float, slew: float) -> Iterator[Face]:
    """A portal crane on the quay: legs, cab, mast, jib."""
    yellow = (0.62, 0.36, 0.03)
    z = QUAY_Z
    for dx in (-5, 5):
        for dy in (-4.5, 4.5):
            yield from beam((x + dx, y + dy, z), (x + 0.55 * dx, y + 0.55 * dy, z + 15), 1.0, yellow)
    yield from prism(
        [(x - 3.6, y - 3.6), (x + 3.6, y - 3.6), (x + 3.6, y + 3.6), (x - 3.6, y + 3.6)],
        z + 14,
        z + 20,
        yellow,
        top=GREY,
    )
    c, s = np.cos(np.radians(slew)), np.sin(np.radians(slew))
    tip, root, mast = (x + 31 * c, y + 31 * s, z + 41), (x + 3 * c, y + 3 * s, z + 19), (x - 2 * c, y - 2 * s, z + 33)
    yield from beam((x - 2 * c, y - 2 * s, z + 20), mast, 1.3, yellow)
    yield from beam(root, tip, 1.15, yellow)
    yield from beam(mast, tip, 0.3, DARK)
    yield from beam((x - 8 * c, y - 8 * s, z + 22), mast, 0.35, DARK)
    yield from beam((x - 8 * c, y - 8 * s, z + 19.5), (x - 8 * c, y - 8 * s, z + 23), 3.4, GREY)
    yield from beam(tip, (tip[0], tip[1], z + 14), 0.16, DARK)
    yield from beam((tip[0], tip[1], z + 14), (tip[0], tip[1], z + 12), 1.5, DARK)


def harbour(buildings: Sequence[Building]) -> list[Face]:
    """All faces that stand still."""
    faces: list[Face] = []
    for outline in QUAYS:
        faces += prism(outline, -3, QUAY_Z, (0.30, 0.29, 0.27), "quay", top=(0.20, 0.195, 0.18))
    for number, building in enumerate(buildings):
        faces += house(building, number)
    for x, slew in ((-318, 238), (-150, 290)):
        faces += crane(x, 70, slew)
    for y in (-150, -120, -90):
        faces += tower(
            282,
            y,
            [(QUAY_Z, 12.5), (QUAY_Z + 21, 12.5), (QUAY_Z + 25, 2.5)],
            [(0.60, 0.60, 0.57), (0.45, 0.46, 0.46)],
            18,
        )
    x, y = LIGHTHOUSE
    rings = [
        (2.5, 6.5),
        (4.5, 6.0),
        (9.5, 3.5),
        (14.0, 3.25),
        (18.5, 3.0),
        (23.0, 2.75),
        (23.01, 4.0),
        (24.0, 4.0),
        (24.01, 1.9),
        (27.2, 1.9),
        (27.21, 2.5),
        (29.6, 0.2),
    ]
    red = (0.42, 0.035, 0.025)
    faces += tower(x, y, rings, [GREY, WHITE, red, WHITE, red, DARK, DARK, DARK, LAMP, DARK, red], 20)
    for mx in range(-500, -60, 40):  # mooring bollards and lamp posts along the quay's edge
        faces += beam((mx, 62, QUAY_Z), (mx, 62, QUAY_Z + 0.8), 0.7, DARK)
    for lx, ly in lamp_posts():
        faces += beam((lx, ly, QUAY_Z), (lx, ly, QUAY_Z + 9), 0.22, GREY)
        faces += beam((lx, ly, QUAY_Z + 9), (lx, ly, QUAY_Z + 9.5), 0.8, LAMP)
    return faces


def lamp_posts() -> list[tuple[float, float]]:
    """Feet of the quay's lamps."""
    return [
        *((float(x), 118.0) for x in range(-500, -70, 60)),
        *((float(x), 445.0) for x in range(-40, 240, 46)),
        *((247.0, float(y)) for y in range(-170, 420, 66)),
    ]


def _loft(
    outline: Sequence[tuple[float, float]], state: State, low: Sequence[float], high: Sequence[float]
) -> list[tuple[list[float], list[float]]]:
    """(low, high) point on the map of each corner of a hull outline in (ahead, starboard) metres; it widens upward."""
    angle = np.radians(state.heading)
    s, c = np.sin(angle), np.cos(angle)
    out = []
    for (ahead, side), z0, z1 in zip(outline, low, high):
        x, y = state.x + ahead * s, state.y + ahead * c
        out.append(([x + 0.94 * side * c, y - 0.94 * side * s, z0], [x + side * c, y - side * s, z1]))
    return out


def ship(s: Ship, state: State, water: float) -> Iterator[Face]:
    """Hull with a pointed bow, decks, house, funnel and masts of a ship on water of that level."""
    half, b = s.length / 2, s.beam / 2
    outline = [
        (-half, -0.8 * b),
        (-half * 0.92, -b),
        (half * 0.45, -b),
        (half * 0.78, -0.62 * b),
        (half, 0.0),
        (half * 0.78, 0.62 * b),
        (half * 0.45, b),
        (-half * 0.92, b),
        (-half, 0.8 * b),
    ]
    freeboard = {"ferry": 9.5, "bulker": 7.5, "trawler": 2.3, "pilot": 1.5, "tug": 1.9, "yacht": 1.0}[s.kind]
    sheer = [0.05, 0.0, 0.04, 0.16, 0.30, 0.16, 0.04, 0.0, 0.05]
    deck = [water + freeboard * (1 + k) for k in sheer]
    boot = [water + 0.14 * freeboard] * len(outline)
    below = _loft(outline, state, [water - 1.2] * len(outline), boot)
    sides = _loft(outline, state, boot, deck)
    for ring, colour, pattern in (
        (below, (0.23, 0.03, 0.02), "plain"),
        (sides, s.hull, "ferry" if s.kind == "ferry" else "hull"),
    ):
        for i in range(len(ring)):
            (a0, a1), (b0, b1) = ring[i], ring[(i + 1) % len(ring)]
            yield _face([a0, b0, b1, a1], colour, pattern, water)
    for i in (1, 2, 3):  # the deck, as strips between both sides
        port0, port1, star0, star1 = sides[i][1], sides[i + 1][1], sides[8 - i][1], sides[8 - i - 1][1]
        yield _face(
            [port0, port1, star1, star0], (0.16, 0.22, 0.17) if s.kind in ("bulker", "trawler") else (0.30, 0.30, 0.29)
        )
    yield _face([sides[0][1], sides[1][1], sides[7][1], sides[8][1]], (0.25, 0.26, 0.26))
    yield from _upper_works(s, state, water + freeboard)


def _upper_works(s: Ship, state: State, deck: float) -> Iterator[Face]:
    angle = np.radians(state.heading)
    sin, cos = np.sin(angle), np.cos(angle)

    def at(ahead: float, side: float) -> tuple[float, float]:
        return state.x + ahead * sin + side * cos, state.y + ahead * cos - side * sin

    def box(
        a0: float,
        a1: float,
        width: float,
        z0: float,
        z1: float,
        colour: Colour,
        pattern: str = "plain",
        top: Colour | None = None,
    ) -> Iterator[Face]:
        w = width / 2
        yield from prism(
            [at(a0, -w), at(a0, w), at(a1, w), at(a1, -w)],
            deck + z0,
            deck + z1,
            colour,
            pattern,
            top=top,
            number=s.mmsi % 97,
        )

    def mast(ahead: float, height: float, width: float = 0.35) -> Iterator[Face]:
        yield from beam((*at(ahead, 0), deck), (*at(ahead, 0), deck + height), width, WHITE)

    length, beam_m = s.length, s.beam
    if s.kind == "ferry":
        blue = (0.03, 0.12, 0.36)
        yield from box(-0.44 * length, 0.34 * length, 0.9 * beam_m, 0, 3, WHITE, "cabin")
        yield from box(-0.40 * length, 0.30 * length, 0.82 * beam_m, 3, 6, WHITE, "cabin")
        yield from box(0.14 * length, 0.29 * length, 0.96 * beam_m, 6, 8.8, WHITE, "bridge")
        yield from box(-0.28 * length, -0.18 * length, 5, 6, 12.5, blue, "funnel")
        yield from mast(0.2 * length, 17)
    elif s.kind == "bulker":
        yield from box(-0.46 * length, -0.34 * length, 0.86 * beam_m, 0, 12, WHITE, "cabin")
        yield from box(-0.42 * length, -0.35 * length, 1.0 * beam_m, 12, 15, WHITE, "bridge")
        yield from box(-0.47 * length, -0.44 * length, 5, 8, 17, (0.42, 0.05, 0.03), "funnel")
        for k in range(4):
            a = -0.27 * length + k * 0.165 * length
            yield from box(a, a + 0.125 * length, 0.66 * beam_m, 0, 1.9, (0.22, 0.10, 0.06), top=(0.26, 0.13, 0.08))
            if k < 3:
                foot = at(a + 0.145 * length, 0)
                yield from beam((*foot, deck), (*foot, deck + 13), 1.4, (0.55, 0.42, 0.12))
                yield from beam((*foot, deck + 12), (*at(a + 0.25 * length, 0), deck + 16), 0.7, (0.55, 0.42, 0.12))
        yield from mast(0.44 * length, 12)
    elif s.kind == "yacht":
        yield from mast(0.06 * length, 1.35 * length, 0.2)
        m, tack, clew, head = 0.06 * length, 0.46 * length, -0.38 * length, deck + 1.3 * length
        sail = (0.86, 0.85, 0.80)
        belly = 0.09 * length if state.speed > 0.3 else 0.0
        if state.speed > 0.3:
            yield _face(
                [(*at(m, 0), deck + 1.2), (*at(clew, belly), deck + 1.3), (*at(m, 0.0), head)], sail, "sail", deck
            )
            yield _face(
                [
                    (*at(tack, 0), deck + 0.6),
                    (*at(m - 0.05 * length, belly), deck + 1.0),
                    (*at(m + 0.01, 0), head * 0.86 + deck * 0.14),
                ],
                (0.88, 0.87, 0.83),
                "sail",
                deck,
            )
        else:
            yield from beam((*at(m, 0), deck + 1.3), (*at(clew, 0), deck + 1.3), 0.4, (0.05, 0.09, 0.25))
        yield from box(-0.15 * length, 0.2 * length, 0.5 * beam_m, 0, 0.6, WHITE)
    else:
        size = {"trawler": (-0.05, 0.2, 3.2), "pilot": (-0.15, 0.22, 2.5), "tug": (-0.05, 0.25, 4.2)}[s.kind]
        colour = (0.70, 0.68, 0.62) if s.kind != "pilot" else (0.72, 0.70, 0.66)
        yield from box(size[0] * length, size[1] * length, 0.66 * beam_m, 0, size[2], colour, "cabin")
        yield from box(
            (size[0] + 0.05) * length,
            (size[1] - 0.02) * length,
            0.6 * beam_m,
            size[2],
            size[2] + 2.2,
            colour,
            "bridge",
            (0.42, 0.05, 0.03),
        )
        yield from mast(0.5 * (size[0] + size[1]) * length, size[2] + 7, 0.25)
        if s.kind == "trawler":
            foot = at(-0.34 * length, 0)
            yield from beam((*foot, deck), (*foot, deck + 8), 0.5, (0.55, 0.42, 0.12))
            yield from beam((*foot, deck + 7.5), (*at(-0.5 * length, 0), deck + 4), 0.35, (0.55, 0.42, 0.12))
