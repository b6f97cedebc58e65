"""What a camera sees before light falls on it: for every pixel a distance, a place, a colour and a normal.

The lens is shifted, never tilted, so walls stay upright: column = centre + f·X/Y, row = horizon - f·Z/Y, with X to the
right, Y ahead and Z up from the camera. The ground is marched along columns over the map; faces are drawn over it with
a depth test (1/Y is affine across a flat face).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from day.buildings import CONTAINERS, ROOFS
from day.noise import Array, Texture, smooth
from day.patterns import paint
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
    Place,
)
from day.solids import Face
from PIL import Image, ImageDraw

SKY, GROUND, WATER, SOLID = range(4)
FAR = 1.0e9
#: Each step along a ray is this much farther from the camera than the one before.
_GROWTH = 1.007

#: Linear colour of each cover.
_ALBEDO = np.zeros((14, 3), np.float32)
for _cover, _colour in {
    SEA: (0.01, 0.03, 0.04),
    LAKE: (0.05, 0.09, 0.12),
    CONIFER: (0.026, 0.048, 0.022),
    BROADLEAF: (0.055, 0.092, 0.024),
    MEADOW: (0.13, 0.145, 0.055),
    CROP: (0.095, 0.14, 0.036),
    RAPE: (0.50, 0.42, 0.02),
    SOIL: (0.16, 0.10, 0.06),
    ROCK: (0.24, 0.20, 0.17),
    SAND: (0.50, 0.42, 0.28),
    CONCRETE: (0.20, 0.195, 0.18),
    ASPHALT: (0.07, 0.07, 0.075),
    ROOF: (0.12, 0.12, 0.12),
    REED: (0.17, 0.19, 0.06),
}.items():
    _ALBEDO[_cover] = _colour


_OPEN = (MEADOW, CROP, RAPE, SOIL, ASPHALT)


@dataclass(frozen=True)
class Camera:
    """Where it stands (local metres, height above the datum), where it looks, and its picture in pixels."""

    x: float
    y: float
    z: float
    bearing: float  #: degrees clockwise from north
    fov: float  #: degrees across the width
    width: int
    height: int
    horizon: float = 0.45  #: share of the height above the horizon
    near: float = 2.0  #: metres ahead from which the ground is looked for
    mirror: float = 25.0  #: the same for reflections: where the water begins

    @property
    def focal(self) -> float:
        """Pixels."""
        return self.width / 2 / float(np.tan(np.radians(self.fov) / 2))

    def axes(self) -> tuple[Array, Array]:
        """Unit vectors (east, north) ahead and to the right."""
        a = np.radians(self.bearing)
        return np.array([np.sin(a), np.cos(a)], np.float32), np.array([np.cos(a), -np.sin(a)], np.float32)

    def view(self, points: Array) -> Array:
        """World points (n, 3) as (X, Y, Z)."""
        ahead, right = self.axes()
        d = points[:, :2] - (self.x, self.y)
        return np.stack([d @ right, d @ ahead, points[:, 2] - self.z], axis=1)

    def rays(self) -> tuple[Array, Array]:
        """(X/Y of each column, Z/Y of each row)."""
        columns = (np.arange(self.width) + 0.5 - self.width / 2) / self.focal
        rows = (self.horizon * self.height - np.arange(self.height) - 0.5) / self.focal
        return columns.astype(np.float32), rows.astype(np.float32)

    def scaled(self, factor: float) -> Camera:
        """The same view with more or fewer pixels."""
        return Camera(
            self.x,
            self.y,
            self.z,
            self.bearing,
            self.fov,
            round(self.width * factor),
            round(self.height * factor),
            self.horizon,
            self.near,
            self.mirror,
        )

    def mirrored(self, water: float) -> Camera:
        """The camera below the water whose picture, upside down, is the reflection."""
        return Camera(
            self.x,
            self.y,
            2 * water - self.z,
            self.bearing,
            self.fov,
            self.width,
            self.height,
            1 - self.horizon,
            self.mirror,
            self.mirror,
        )


@dataclass
class Layers:
    """The picture before light. All arrays are (height, width, …) float32."""

    depth: Array  #: metres ahead; FAR in the sky
    kind: Array  #: uint8: SKY, GROUND, WATER, SOLID
    albedo: Array
    normal: Array
    lamp: Array  #: 0 to 1: shines by itself when it is dark
    x: Array  #: where on the map
    y: Array

    def copy(self) -> Layers:
        """Independent arrays."""
        return Layers(*(getattr(self, n).copy() for n in ("depth", "kind", "albedo", "normal", "lamp", "x", "y")))


def _heights(grid: Grid, x: Array, y: Array) -> Array:
    """Bilinear top of the map (buildings left out: they are faces); far below under the sea."""
    surface = np.where(grid.cover == ROOF, grid.ground, grid.top)
    surface = np.where(grid.cover == SEA, np.minimum(grid.ground, -0.3), surface)
    surface = np.where(grid.cover == CONCRETE, surface - 0.15, surface).astype(np.float32)
    last = surface.shape[0] - 1.001
    u = np.clip((x + grid.half) / grid.step - 0.5, 0, last)
    v = np.clip((grid.half - y) / grid.step - 0.5, 0, last)
    i, j = u.astype(np.int64), v.astype(np.int64)
    fu, fv = (u - i).astype(np.float32), (v - j).astype(np.float32)
    top = surface[j, i] * (1 - fu) + surface[j, i + 1] * fu
    low = surface[j + 1, i] * (1 - fu) + surface[j + 1, i + 1] * fu
    return top * (1 - fv) + low * fv


def ground_layers(camera: Camera, place: Place, water: float, grain: Texture, *, reflection: bool = False) -> Layers:
    """Sky, ground and water. A reflection has no water of its own."""
    ahead, right = camera.axes()
    columns, rows = camera.rays()
    h, w = camera.height, camera.width
    steps = (camera.near * _GROWTH ** np.arange(int(np.log(9500 / camera.near) / np.log(_GROWTH)))).astype(np.float32)
    gx = camera.x + steps[:, None] * (ahead[0] + columns[None, :] * right[0])
    gy = camera.y + steps[:, None] * (ahead[1] + columns[None, :] * right[1])
    inner = np.maximum(np.abs(gx), np.abs(gy)) < place.core.half - 4
    outside = np.maximum(np.abs(gx), np.abs(gy)) > place.whole.half - 8
    top = np.where(inner, _heights(place.core, gx, gy), _heights(place.whole, gx, gy))
    rough = smooth(1.5, 5.0, top - 1.0) * (1.4 * grain.near(gx * 0.9, gy * 0.9))
    # Beyond the map the land goes on as a wooded ridge in the north and east, the sea elsewhere.
    beyond = np.where(
        gy > 1200 + 0.2 * np.abs(gx), 22 + 9 * grain.at(gx / 30, gy / 30) + 3 * grain.near(gx / 4, gy / 4), -50
    )
    top = np.where(outside, beyond, np.where(top > 2.6, top + 0.5 * rough * (top > 4), top))
    if reflection:
        top = np.where(top < water + 0.05, -1.0e4, top)
    slope = (top - camera.z) / steps[:, None]
    reach = np.maximum.accumulate(slope, axis=0)

    # First step whose reach passes the row's slope: one sorted search over all columns at once.
    count, spread = len(steps), 1.0e5
    flat = (np.clip(reach, -3.0e4, 3.0e4).T.astype(np.float64) + np.arange(w)[:, None] * spread).ravel()
    wanted = (rows.astype(np.float64)[:, None] + np.arange(w)[None, :] * spread).ravel()
    first = np.searchsorted(flat, wanted).reshape(h, w) - np.arange(w)[None, :] * count
    hit = first < count
    k = np.clip(first, 0, count - 1)
    j = np.broadcast_to(np.arange(w), (h, w))
    before = np.maximum(k - 1, 0)
    r0, r1 = reach[before, j], reach[k, j]
    share = np.clip((rows[:, None] - r0) / np.maximum(r1 - r0, 1e-9), 0, 1)
    depth = np.where(hit, steps[before] + (steps[k] - steps[before]) * np.where(k > 0, share, 1.0), FAR)

    kind = np.where(hit, GROUND, SKY).astype(np.uint8)
    if not reflection:
        with np.errstate(divide="ignore"):
            level = np.where(rows < 0, (water - camera.z) / rows, FAR)[:, None]
        wet = (level < depth) & (level < 60_000)
        depth = np.where(wet, level, depth)
        kind[wet] = WATER
    depth = depth.astype(np.float32)
    near = np.minimum(depth, 60_000)
    x = (camera.x + near * (ahead[0] + columns[None, :] * right[0])).astype(np.float32)
    y = (camera.y + near * (ahead[1] + columns[None, :] * right[1])).astype(np.float32)
    layers = Layers(
        depth,
        kind,
        np.zeros((h, w, 3), np.float32),
        np.zeros((h, w, 3), np.float32),
        np.zeros((h, w), np.float32),
        x,
        y,
    )
    _paint_ground(layers, place, grain, camera.z + depth * rows[:, None])
    return layers


def _paint_ground(layers: Layers, place: Place, grain: Texture, height: Array) -> None:
    on = layers.kind == GROUND
    x, y, z = layers.x[on], layers.y[on], height[on]
    inner = np.maximum(np.abs(x), np.abs(y)) < place.core.half - 4
    colour, normal = np.zeros((len(x), 3), np.float32), np.zeros((len(x), 3), np.float32)
    for grid, use in ((place.core, inner), (place.whole, ~inner)):
        row, column = grid.index(x[use], y[use])
        cover = grid.cover[row, column]
        outside = np.maximum(np.abs(x[use]), np.abs(y[use])) > grid.half - 8
        # The last tree's side falls to the ground inside the next cell: it is leaves, not field.
        cover = np.where((z[use] > grid.ground[row, column] + 1.2) & np.isin(cover, _OPEN), BROADLEAF, cover)
        cover = np.where(outside, CONIFER, np.where(cover == SEA, ROCK, cover))
        c = _ALBEDO[cover] * (1 + 0.16 * grid.tint[row, column])[:, None]
        roofs = np.concatenate([ROOFS, CONTAINERS])[grid.roof[row, column]]
        colour[use] = np.where((cover == ROOF)[:, None], roofs, c)
        gy, gx = np.gradient(grid.top, grid.step)
        n = np.stack([-gx[row, column], gy[row, column], np.ones(len(row), np.float32)], axis=1)
        n[:, :2] = np.clip(n[:, :2], -1.6, 1.6)
        n[outside] = (0, 0, 1)
        normal[use] = n / np.linalg.norm(n, axis=1, keepdims=True)
    fine = grain.at(x * 1.7, y * 1.7) * 0.5 + grain.at(x * 9.1, y * 9.1) * 0.5
    strength = 0.30 * np.exp(-layers.depth[on] / 900) + 0.07
    layers.albedo[on] = np.clip(colour * (1 + strength * fine)[:, None], 0.004, 0.9)
    layers.normal[on] = normal


def draw_faces(
    layers: Layers, camera: Camera, faces: Sequence[Face], grain: Texture, *, above: float | None = None
) -> Array:
    """Draw faces over the layers with a depth test. Returns the mask of pixels that changed.

    `above`: only what stands higher than this level (the water, for reflections).
    """
    changed = np.zeros(layers.depth.shape, bool)
    if not faces:
        return changed
    near = 0.6 if above is None else camera.near
    f, half, horizon = camera.focal, camera.width / 2, camera.horizon * camera.height
    starts = np.cumsum([0, *(len(face.points) for face in faces)])
    world = np.concatenate([face.points for face in faces])
    seen = camera.view(world)
    # Which faces can matter, for all of them at once: ahead, inside the picture, above the water.
    y = np.maximum(seen[:, 1], near)
    column, row = half + f * seen[:, 0] / y, horizon - f * seen[:, 2] / y
    left, right = np.minimum.reduceat(column, starts[:-1]), np.maximum.reduceat(column, starts[:-1])
    upper, lower = np.minimum.reduceat(row, starts[:-1]), np.maximum.reduceat(row, starts[:-1])
    use = (
        (np.maximum.reduceat(seen[:, 1], starts[:-1]) > near)
        & (right > 0)
        & (left < camera.width)
        & (lower > 0)
        & (upper < camera.height)
    )
    if above is not None:
        use &= np.maximum.reduceat(world[:, 2], starts[:-1]) > above + 0.05
    rx = (np.arange(camera.width) + 0.5 - half) / f
    rz = (horizon - np.arange(camera.height) - 0.5) / f
    # Near ones first: what they hide is then never painted.
    middle = np.add.reduceat(seen[:, 1], starts[:-1]) / np.diff(starts)
    for index in np.argsort(np.where(use, middle, np.inf), kind="stable")[: int(use.sum())]:
        v = seen[starts[index] : starts[index + 1]]
        normal = _cross(v[1] - v[0], v[-1] - v[0])
        size = float(np.sqrt(normal @ normal))
        if size < 1e-9:
            continue
        normal = normal / size
        c = float(normal @ v[0])
        if abs(c) < 1e-6:
            continue
        if v[:, 1].min() < near:
            v = _clip(v, near)
            if len(v) < 3:
                continue
        px, py = half + f * v[:, 0] / v[:, 1], horizon - f * v[:, 2] / v[:, 1]
        x0, x1 = max(0, int(np.floor(px.min()))), min(camera.width, int(np.ceil(px.max())) + 1)
        y0, y1 = max(0, int(np.floor(py.min()))), min(camera.height, int(np.ceil(py.max())) + 1)
        if x0 >= x1 or y0 >= y1:
            continue
        mask = Image.new("L", (x1 - x0, y1 - y0))
        corners = np.clip(np.stack([px - x0 - 0.5, py - y0 - 0.5], axis=1), -1e6, 1e6)
        ImageDraw.Draw(mask).polygon(corners.ravel().tolist(), fill=1)
        inverse = (normal[0] * rx[None, x0:x1] + normal[2] * rz[y0:y1, None] + normal[1]) / c
        window = np.s_[y0:y1, x0:x1]
        depth = 1.0 / np.maximum(inverse, 1e-7)
        win = np.asarray(mask).astype(bool) & (depth < layers.depth[window] * 0.9999) & (depth > 0.3)
        if win.any():
            _paint_face(
                layers,
                camera,
                faces[index],
                window,
                win,
                depth,
                rx[x0:x1],
                rz[y0:y1],
                normal if c < 0 else -normal,
                grain,
            )
            changed[window] |= win
    return changed


def _cross(a: Array, b: Array) -> Array:
    """np.cross of two vectors without its generality, which costs more than the product."""
    return np.array([a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]])


def _clip(v: Array, near: float) -> Array:
    """A polygon cut at Y = near."""
    if v[:, 1].min() >= near:
        return v
    out = []
    for p, q in zip(v, np.roll(v, -1, axis=0)):
        if p[1] >= near:
            out.append(p)
        if (p[1] - near) * (q[1] - near) < 0:
            out.append(p + (q - p) * (near - p[1]) / (q[1] - p[1]))
    return np.array(out)


def _paint_face(
    layers: Layers,
    camera: Camera,
    face: Face,
    window: tuple[slice, slice],
    win: Array,
    depth: Array,
    rx: Array,
    rz: Array,
    facing: Array,
    grain: Texture,
) -> None:
    """Put colour, normal (`facing`: toward the camera, in view axes), lamp and place of a face's visible pixels."""
    ahead, right = camera.axes()
    d = depth[win]
    row, column = np.nonzero(win)
    east = camera.x + d * (ahead[0] + rx[column] * right[0])
    north = camera.y + d * (ahead[1] + rx[column] * right[1])
    along = face.points[1] - face.points[0]
    length = float(np.hypot(along[0], along[1])) or 1.0
    u = ((east - face.points[0, 0]) * along[0] + (north - face.points[0, 1]) * along[1]) / length
    colour, lamp = paint(face, u, camera.z + d * rz[row] - face.foot, east, north, d / camera.focal, grain)
    world = np.array(
        [facing[0] * right[0] + facing[1] * ahead[0], facing[0] * right[1] + facing[1] * ahead[1], facing[2]]
    )
    for array, value in (
        (layers.depth, d),
        (layers.albedo, colour),
        (layers.normal, world),
        (layers.lamp, lamp),
        (layers.x, east),
        (layers.y, north),
    ):
        array[window][win] = value
    layers.kind[window][win] = SOLID
