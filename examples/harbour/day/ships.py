"""Ships of the day: where each one is at any second, for cameras, satellite, radio log and sound alike."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from day.noise import Array


def clock(text: str) -> float:
    """Seconds of the day of "HH:MM" or "HH:MM:SS"."""
    parts = [int(p) for p in text.split(":")]
    return float(sum(p * 60 ** (2 - i) for i, p in enumerate(parts)))


@dataclass(frozen=True)
class State:
    """A ship at one moment: local metres, degrees clockwise from north, m/s."""

    x: float
    y: float
    heading: float
    speed: float


@dataclass(frozen=True)
class Ship:
    """A ship and its way points (seconds of day, x, y); before the first and after the last it lies still there."""

    name: str
    mmsi: int
    kind: str  #: "ferry", "bulker", "trawler", "pilot", "tug", "yacht"
    length: float
    beam: float
    hull: tuple[float, float, float]  #: linear colour
    berth: float  #: heading when it lies still
    track: list[tuple[float, float, float]]
    away: tuple[bool, bool] = (False, False)  #: out of the scene before the first and after the last point
    _tangents: list[tuple[float, float]] = field(default_factory=list, compare=False)

    def at(self, t: float) -> State | None:
        """The ship at second `t` of the day, or None while it is out of the scene."""
        times = [p[0] for p in self.track]
        if t <= times[0]:
            return None if self.away[0] else State(self.track[0][1], self.track[0][2], self.berth, 0.0)
        if t >= times[-1]:
            return None if self.away[1] else State(self.track[-1][1], self.track[-1][2], self.berth, 0.0)
        if not self._tangents:
            self._tangents.extend(_tangents(self.track))
        i = int(np.searchsorted(times, t, side="right")) - 1
        (t0, x0, y0), (t1, x1, y1) = self.track[i], self.track[i + 1]
        span, u = t1 - t0, (t - t0) / (t1 - t0)
        if (x0, y0) == (x1, y1):
            return State(x0, y0, self.berth, 0.0)
        (vx0, vy0), (vx1, vy1) = self._tangents[i], self._tangents[i + 1]
        x, vx = _hermite(x0, vx0, x1, vx1, span, u)
        y, vy = _hermite(y0, vy0, y1, vy1, span, u)
        speed = float(np.hypot(vx, vy))
        heading = float(np.degrees(np.arctan2(vx, vy)) % 360)
        if speed < 1.5:  # drifting on or off the berth: the bow turns slowly from or to its resting heading
            turn = (heading - self.berth + 180) % 360 - 180
            heading = (self.berth + turn * (speed / 1.5) ** 2) % 360
        return State(float(x), float(y), heading, speed)


def _tangents(track: list[tuple[float, float, float]]) -> list[tuple[float, float]]:
    """Velocity at each way point; zero at the ends and where the ship lies still."""
    out = [(0.0, 0.0)]
    for (t0, x0, y0), (_, x1, y1), (t2, x2, y2) in zip(track, track[1:], track[2:]):
        still = (x0, y0) == (x1, y1) or (x1, y1) == (x2, y2)
        out.append((0.0, 0.0) if still else ((x2 - x0) / (t2 - t0), (y2 - y0) / (t2 - t0)))
    return [*out, (0.0, 0.0)]


def _hermite(a: float, va: float, b: float, vb: float, span: float, u: float) -> tuple[float, float]:
    """(value, speed) of the cubic from a to b with end speeds va and vb."""
    c2 = 3 * (b - a) - span * (2 * va + vb)
    c3 = 2 * (a - b) + span * (va + vb)
    return a + u * (span * va + u * (c2 + u * c3)), (span * va + u * (2 * c2 + 3 * u * c3)) / span


_FAIRWAY_IN = [
    (3800, -1640),
    (2600, -1290),
    (1800, -1040),
    (1250, -860),
    (700, -700),
    (330, -560),
    (165, -370),
    (110, -180),
]


def _voyage(
    start: str, points: list[tuple[float, float]], speed: float, *, slow: float = 1.0
) -> list[tuple[float, float, float]]:
    """Way points with times: `speed` m/s at sea, falling to `slow` times that at the last leg."""
    t = clock(start)
    out = [(t, points[0][0], points[0][1])]
    for i, ((x0, y0), (x1, y1)) in enumerate(pairwise(points)):
        share = (i + 1) / (len(points) - 1)
        t += np.hypot(x1 - x0, y1 - y0) / (speed * (1 + (slow - 1) * share))
        out.append((float(t), x1, y1))
    return out


def _tour(legs: list[list[tuple[float, float, float]]]) -> list[tuple[float, float, float]]:
    """Voyages after one another; between them the ship lies where the earlier one ended."""
    out = list(legs[0])
    for leg in legs[1:]:
        out += leg if out[-1][1:] == leg[0][1:] else [(leg[0][0] - 1, *out[-1][1:]), *leg]
    return out


def fleet() -> list[Ship]:
    """All ships of 14 June 2025."""
    ferry_berth, tug_berth, trawl_berth = (227.0, 170.0), (20.0, 409.0), (412.0, 350.0)
    out = list(reversed(_FAIRWAY_IN))
    ferry_in = [*_FAIRWAY_IN, (120, 60), ferry_berth]
    ferry_out = [ferry_berth, (150, 250), (70, 190), (90, 20), *out]
    bulker_berth = (-235.0, 46.0)
    bulker_out = [bulker_berth, (-190, 20), (-80, -50), (80, -190), (260, -430), (700, -690), *out[4:]]
    west = [
        trawl_berth,
        (380, 250),
        (360, 100),
        (370, -150),
        (250, -430),
        (-60, -640),
        (-650, -760),
        (-1900, -440),
        (-3900, -700),
    ]
    ring = [
        (395, 380),
        (372, 200),
        (380, -120),
        (600, -480),
        (1250, -700),
        (1480, -1180),
        (1250, -1800),
        (380, -1700),
        (100, -1150),
        (230, -640),
        (376, -260),
        (380, 100),
        (395, 380),
    ]
    ring_west = [
        (395, 330),
        (376, 150),
        (374, -200),
        (120, -680),
        (-420, -900),
        (-650, -1500),
        (-300, -1720),
        (240, -1500),
        (300, -800),
        (378, -280),
        (384, 120),
        (395, 330),
    ]
    return [
        Ship(
            "AAVA",
            230_145_210,
            "ferry",
            98,
            17.5,
            (0.70, 0.71, 0.72),
            0,
            _tour(
                [
                    _voyage("05:53:20", ferry_in, 8.5, slow=0.42),
                    _voyage("07:30", ferry_out, 2.6, slow=3.2),
                    _voyage("15:12", ferry_in, 8.5, slow=0.42),
                    _voyage("16:40", ferry_out, 2.6, slow=3.2),
                    _voyage("20:05", ferry_in, 8.5, slow=0.42),
                ]
            ),
            (True, False),
        ),
        Ship(
            "KALEVA TRADER",
            230_992_410,
            "bulker",
            138,
            21,
            (0.07, 0.10, 0.17),
            90,
            _voyage("17:51", bulker_out, 2.4, slow=3.0),
            (False, True),
        ),
        Ship(
            "SILAKKA",
            230_040_770,
            "trawler",
            24,
            7,
            (0.05, 0.20, 0.13),
            0,
            _tour([_voyage("02:10", west, 4.6), _voyage("11:05", list(reversed(west)), 4.4, slow=0.6)]),
        ),
        Ship(
            "LUOTSI 3",
            230_700_130,
            "pilot",
            14,
            4.4,
            (0.62, 0.16, 0.03),
            0,
            _tour(
                [
                    _voyage(
                        "05:31",
                        [(408, 300), (380, 180), (372, -200), (640, -560), (1500, -900), (2300, -1150)],
                        9,
                        slow=0.9,
                    ),
                    _voyage(
                        "05:58",
                        [(2300, -1150), (1400, -960), (520, -560), (374, -180), (384, 160), (408, 300)],
                        10,
                        slow=0.6,
                    ),
                    _voyage("17:46", [(408, 300), (380, 150), (330, -250), (150, -330), (60, -190)], 6, slow=0.5),
                    _voyage("17:59", [(60, -190), (300, -520), (800, -780), (1700, -1080)], 6.5),
                    _voyage("18:20", [(1700, -1080), (700, -640), (374, -170), (384, 160), (408, 300)], 9.5, slow=0.6),
                ]
            ),
        ),
        Ship(
            "JEHU",
            230_611_900,
            "tug",
            26,
            9,
            (0.30, 0.05, 0.03),
            90,
            _tour(
                [
                    _voyage("17:40", [tug_berth, (60, 320), (40, 120), (-60, 20), (-140, 6)], 3.2, slow=0.5),
                    _voyage("17:54", [(-140, 6), (-20, -80), (130, -230), (180, -330)], 2.4),
                    _voyage("18:08", [(180, -330), (90, -60), (60, 250), tug_berth], 4, slow=0.5),
                ]
            ),
        ),
        Ship("KAJAVA", 230_110_015, "yacht", 11, 3.4, (0.75, 0.75, 0.72), 0, _voyage("10:20", ring, 1.9)),
        Ship("VAAHTO", 230_110_048, "yacht", 9, 3.0, (0.10, 0.16, 0.34), 0, _voyage("12:40", ring_west, 1.55)),
        Ship("MERIHARAKKA", 230_110_077, "yacht", 12, 3.7, (0.72, 0.70, 0.62), 0, _voyage("14:55", ring, 2.1)),
    ]


def in_ship_frame(x: Array, y: Array, state: State) -> tuple[Array, Array]:
    """(metres ahead, metres to starboard) of points from the ship's middle."""
    angle = np.radians(state.heading)
    dx, dy = x - state.x, y - state.y
    return dx * np.sin(angle) + dy * np.cos(angle), dx * np.cos(angle) - dy * np.sin(angle)


def wake(x: Array, y: Array, state: State, length: float, beam: float) -> Array:
    """Foam of a moving ship at points: 1 right behind it, fading aft; 0 elsewhere."""
    if state.speed < 0.6:
        return np.zeros_like(x)
    foam = np.zeros_like(x)
    near = np.maximum(np.abs(x - state.x), np.abs(y - state.y)) < 1.2 * length + 170 * state.speed
    ahead, side = in_ship_frame(x[near], y[near], state)
    aft = np.clip(-(ahead + 0.45 * length), 0, None)
    spread = 0.45 * beam + 0.10 * aft
    trail = (aft > 0) * np.exp(-aft / (55.0 * state.speed)) * np.exp(-((side / spread) ** 2))
    # The bow wave opens at 19.5 degrees (Kelvin), whatever the speed.
    from_bow = np.clip(0.5 * length - ahead, 0, None)
    arm = np.abs(np.abs(side) - 0.354 * from_bow - 0.3 * beam)
    bow = 0.55 * (from_bow > 0) * np.exp(-from_bow / (0.7 * length)) * np.exp(-((arm / (1.2 + 0.02 * from_bow)) ** 2))
    foam[near] = min(1.0, state.speed / 5.0) * np.maximum(trail, bow)
    return foam
