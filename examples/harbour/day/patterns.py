"""What faces look like close up: windows, bricks, tiles, steel; each fades to its mean where a pixel spans it."""

from __future__ import annotations

import numpy as np
from day.noise import Array, Texture, smooth
from day.solids import Face

GLASS = np.array([0.035, 0.05, 0.065])


def _stripe(x: Array, period: float, share: float, metres: Array) -> Array:
    """1 on `share` of each period, 0 elsewhere; `share` everywhere where a pixel spans most of a period."""
    phase = (x / period) % 1.0
    soft = np.clip(metres / period, 0.02, 0.5)
    edge = smooth(0, 1, (phase + soft / 2) / soft) * smooth(0, 1, (share + soft / 2 - phase) / soft)
    return edge + (share - edge) * smooth(0.35, 0.8, metres / period)


def _windows(
    u: Array, v: Array, metres: Array, number: int, *, width: float, height: float, share: float, low: float
) -> tuple[Array, Array]:
    """(mask of glass, mask of lit glass) of a grid of windows that begins `low` metres up."""
    mask = _stripe(u - 0.25 * width, width, share, metres) * _stripe(v - low, height, 0.52, metres) * (v > low * 0.6)
    cell = np.floor(u / width) * 31 + np.floor(v / height) * 17 + number * 7
    lit = ((np.sin(cell * 12.9898) * 43758.5453) % 1.0) > 0.62
    return mask, mask * lit


def paint(
    face: Face, u: Array, v: Array, east: Array, north: Array, metres: Array, grain: Texture
) -> tuple[Array, Array]:
    """(colour (n, 3), lamp (n)) of points of a face: u metres along, v metres up, `metres` wide per pixel."""
    n = len(u)
    colour = np.broadcast_to(np.asarray(face.colour, np.float32), (n, 3)).copy()
    lamp = np.zeros(n, np.float32)
    if n < 5 and face.pattern != "lamp":  # a speck
        return colour, lamp
    dirt = 0.5 * grain.at(u * 3 + face.number * 37, v * 1.1) + 0.5 * grain.at(u * 0.4 + 11, v * 9 + face.number * 13)
    kind = face.pattern
    if kind in ("house", "brick", "cabin", "bridge", "ferry"):
        if kind == "brick":
            courses = _stripe(v, 0.42, 0.8, metres)
            colour *= (0.82 + 0.22 * courses)[:, None]
        sizes = {
            "house": {"width": 2.9, "height": 3.1, "share": 0.40, "low": 1.0},
            "brick": {"width": 4.4, "height": 3.6, "share": 0.34, "low": 1.3},
            "cabin": {"width": 2.2, "height": 3.0, "share": 0.58, "low": 1.1},
            "bridge": {"width": 1.5, "height": 3.0, "share": 0.84, "low": 0.9},
            "ferry": {"width": 3.1, "height": 3.2, "share": 0.30, "low": 4.6},
        }
        glass, lit = _windows(u, v, metres, face.number, **sizes[kind])
        if kind == "ferry":
            band = smooth(2.6, 2.7, v) * smooth(3.6, 3.5, v)
            colour = colour * (1 - band[:, None]) + np.array([0.03, 0.12, 0.36]) * band[:, None]
        colour *= (1 + 0.05 * dirt)[:, None]
        colour = colour * (1 - glass[:, None]) + GLASS * glass[:, None]
        lamp = (lit * (0.9 if kind != "bridge" else 0.3)).astype(np.float32)
    elif kind == "metal":
        rib = _stripe(u, 0.9, 0.5, metres)
        colour *= (0.90 + 0.16 * rib + 0.08 * dirt)[:, None]
        door = _stripe(u - 5, 17.0, 0.26, metres) * (v < 5.2)
        colour = colour * (1 - 0.7 * door[:, None]) + 0.10 * door[:, None]
    elif kind == "container":
        rib = _stripe(u, 0.36, 0.5, metres)
        tier = np.floor(v / 2.6)
        shade = 0.62 + 0.7 * ((np.sin((tier + face.number) * 78.233) * 43758.5) % 1.0)
        hue = ((np.sin((tier + face.number * 3) * 39.43) * 9631.7) % 1.0)[:, None]
        colour = colour * (1 - 0.6 * hue) + 0.6 * hue * colour[:, [1, 2, 0]]
        seam = _stripe(v + 0.06, 2.6, 0.05, metres)
        colour = colour * (shade * (0.86 + 0.22 * rib + 0.08 * dirt) * (1 - 0.6 * seam))[:, None]
    elif kind == "tiles":
        colour *= (0.90 + 0.18 * _stripe(u, 0.7, 0.55, metres) + 0.13 * dirt)[:, None]
    elif kind == "quay":
        fender = _stripe(u, 14.0, 0.07, metres) * (v > 1.0)
        wet = smooth(3.9, 3.2, v)
        colour *= (1 + 0.12 * dirt - 0.45 * wet)[:, None]
        colour = colour * (1 - fender[:, None]) + 0.03 * fender[:, None]
    elif kind == "funnel":
        band = smooth(4.0, 4.1, v) * smooth(6.2, 6.1, v)
        colour = colour * (1 - band[:, None]) + 0.75 * band[:, None]
    elif kind == "hull":
        colour *= (1 + 0.10 * dirt)[:, None]
    elif kind == "sail":
        colour *= (0.97 + 0.05 * _stripe(v, 1.4, 0.9, metres))[:, None]
    elif kind == "lamp":
        lamp[:] = 1.0
    elif face.points[:, 2].max() - face.points[:, 2].min() < 0.01 and n > 40:  # a flat lid: weathered, jointed
        joints = np.maximum(_stripe(east, 12.0, 0.018, metres), _stripe(north, 12.0, 0.018, metres))
        stains = 0.5 * grain.at(east * 0.9, north * 0.9) + 0.5 * grain.at(east * 0.11, north * 0.11)
        colour *= (1 + 0.11 * stains - 0.4 * joints)[:, None]
    return np.clip(colour, 0.003, 0.95).astype(np.float32), lamp
