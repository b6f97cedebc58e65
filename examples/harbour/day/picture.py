"""Light on what a camera sees: sun, shadow, sky, haze, moving water with reflections, and the film it falls on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from day.buildings import QUAY_Z
from day.camera import SKY, WATER, Camera, Layers, draw_faces, ground_layers
from day.light import CLOUD_BASE, Light, sea_level, visibility, wind
from day.noise import Array, Texture, smooth
from day.place import Place
from day.ships import Ship, State, wake
from day.solids import LAMP, Face, harbour, ship
from PIL import Image, ImageFilter


@dataclass(frozen=True)
class Studio:
    """What all pictures share: the place, the ships, and the textures of ground, clouds and waves."""

    place: Place
    ships: list[Ship]
    still: list[Face]
    grain: Texture
    clouds: Texture
    waves: Texture
    slopes: Texture

    @classmethod
    def of(cls, place: Place, ships: list[Ship]) -> Studio:
        """The studio of a place."""
        waves = Texture(place.seed, "waves", slope=1.5)
        return cls(
            place,
            ships,
            harbour(place.buildings),
            Texture(place.seed, "grain", slope=0.9),
            Texture(place.seed, "clouds", slope=1.65),
            waves,
            waves.slopes(),
        )


def shadow_heights(place: Place, light: Light) -> Array | None:
    """Up to which height (metres above the datum) each 4 m cell of the harbour lies in shadow; None without sun."""
    if light.elevation < 0.8:
        return None
    top = place.core.top[::2, ::2]
    step = 4.0
    flat = np.hypot(light.to_sun[0], light.to_sun[1])
    fall = light.to_sun[2] / flat
    reach = min(160.0, 55.0 / fall)
    shade = np.full_like(top, -50.0)
    for k in range(1, int(reach / step) + 1):
        dx, dy = round(k * light.to_sun[0] / flat), round(-k * light.to_sun[1] / flat)
        source = top[max(0, dy) : top.shape[0] + min(0, dy), max(0, dx) : top.shape[1] + min(0, dx)]
        target = shade[max(0, -dy) : shade.shape[0] + min(0, -dy), max(0, -dx) : shade.shape[1] + min(0, -dx)]
        np.maximum(target, source - k * step * fall, out=target)
    return shade


def lit(layers: Layers, camera: Camera, light: Light, place: Place, shade: Array | None, sky: Array) -> Array:
    """Linear colour of everything but water; `sky` is the sky behind every pixel."""
    out = sky.copy()
    on = (layers.kind != SKY) & (layers.kind != WATER)
    x, y, depth, normal = layers.x[on], layers.y[on], layers.depth[on], layers.normal[on]
    _, rows = camera.rays()
    z = camera.z + depth * np.broadcast_to(rows[:, None], on.shape)[on]
    sunny = np.clip(normal @ light.to_sun.astype(np.float32), 0, 1)
    if shade is not None:
        inside = np.maximum(np.abs(x), np.abs(y)) < place.core.half - 8
        i = np.clip(((x + place.core.half) / 4).astype(np.int64), 0, shade.shape[1] - 1)
        j = np.clip(((place.core.half - y) / 4).astype(np.int64), 0, shade.shape[0] - 1)
        sunny *= 1 - 0.92 * smooth(0.2, 1.6, shade[j, i] - z) * inside
        over = CLOUD_BASE / max(light.to_sun[2], 0.08)
        cloud = light.density(x + over * light.to_sun[0], y + over * light.to_sun[1])
        sunny *= 1 - 0.72 * cloud * smooth(2, 14, np.float64(light.elevation))
    ambient = 0.50 * light.zenith + 0.42 * light.horizon
    open_sky = (0.62 + 0.38 * normal[:, 2])[:, None]
    bounce = 0.10 * light.direct * max(light.to_sun[2], 0) * (0.5 - 0.5 * normal[:, 2:3])
    colour = layers.albedo[on] * (light.direct * sunny[:, None] + ambient * open_sky + bounce)
    night = float(smooth(1.5, -4.0, np.float64(light.elevation)))
    if night > 0:
        colour += night * layers.lamp[on][:, None] * np.array(LAMP, np.float32) * 0.75
        pool = _lamp_pools(x, y) * (z < QUAY_Z + 8) * (np.abs(y - 250) < 500)
        colour += night * 0.16 * pool[:, None] * layers.albedo[on] * np.array(LAMP, np.float32) * 6
    misty = 1 - np.exp(-depth / visibility(light.t) * 1.5)
    ahead, right = camera.axes()
    columns, _ = camera.rays()
    level = np.stack(
        [ahead[0] + columns * right[0], ahead[1] + columns * right[1], np.full_like(columns, 0.02)], axis=1
    )
    level /= np.linalg.norm(level, axis=1, keepdims=True)
    haze = light.sky(level, (camera.x, camera.y), clouds=False)
    behind = np.broadcast_to(haze[None], sky.shape)[on]
    out[on] = colour * (1 - misty[:, None]) + behind * misty[:, None]
    return out


def _lamp_pools(x: Array, y: Array) -> Array:
    """Light of the quay's lamps on the ground, about 1 under a lamp."""
    pool = np.exp(-(((((x + 530) % 60) - 30) / 13) ** 2) - ((y - 118) / 13) ** 2) * (x < -60)
    pool += np.exp(-(((((x + 63) % 46) - 23) / 11) ** 2) - ((y - 445) / 12) ** 2) * (x > -70) * (x < 240)
    return pool + np.exp(-(((((y + 203) % 66) - 33) / 12) ** 2) - ((x - 250) / 9) ** 2)


def sky_of(camera: Camera, light: Light) -> Array:
    """The sky behind every pixel, linear."""
    ahead, right = camera.axes()
    columns, rows = camera.rays()
    shape = (camera.height, camera.width)
    d = np.empty((*shape, 3), np.float32)
    d[..., 0] = ahead[0] + columns[None, :] * right[0]
    d[..., 1] = ahead[1] + columns[None, :] * right[1]
    d[..., 2] = np.maximum(rows, 0.0005)[:, None]
    d /= np.linalg.norm(d, axis=2, keepdims=True)
    return light.sky(d, (camera.x, camera.y)).astype(np.float32)


class View:
    """A camera that stands still: what does not move is looked at once, ships and water in every picture."""

    def __init__(self, studio: Studio, camera: Camera, t: float, *, seconds: float = 0.0, scale: float = 1.5) -> None:
        """`scale`: pixels drawn per pixel kept, along each side. The water level is that of second `t`.

        Ships that lie still from `t` for `seconds` are looked at once, like the quay they lie at.
        """
        self.studio = studio
        self.out = camera
        self.camera = camera.scaled(scale)
        self.water = sea_level(t)
        self.below = self.camera.scaled(0.5).mirrored(self.water)
        place, grain = studio.place, studio.grain
        self.layers = ground_layers(self.camera, place, self.water, grain)
        moored = [
            (s, a) for s in studio.ships if (a := s.at(t)) is not None and a == s.at(t + seconds) and a.speed == 0
        ]
        self.moving = [s for s in studio.ships if s not in [m for m, _ in moored]]
        still = [*studio.still, *(f for s, state in moored for f in ship(s, state, self.water))]
        draw_faces(self.layers, self.camera, still, grain)
        self.reflected = ground_layers(self.below, place, self.water, grain, reflection=True)
        draw_faces(self.reflected, self.below, still, grain, above=self.water)
        self.light: Light | None = None

    def _relight(self, t: float) -> None:
        """Light on what stands still. Clouds and shadows are renewed when half a minute has passed."""
        if self.light is not None and abs(t - self.light.t) < 31:
            return
        light = self.light = Light.at(t, self.studio.clouds)
        self._shade = shadow_heights(self.studio.place, light)
        self._sky, self._sky_below = sky_of(self.camera, light), sky_of(self.below, light)
        self._lit = lit(self.layers, self.camera, light, self.studio.place, self._shade, self._sky)
        self._lit_below = lit(self.reflected, self.below, light, self.studio.place, self._shade, self._sky_below)

    def linear(self, t: float) -> Array:
        """Linear colour of the picture at second `t`, at the drawing size."""
        self._relight(t)
        light = self.light
        assert light is not None
        layers, upper = self.layers.copy(), self._lit.copy()
        below, lower = self.reflected.copy(), self._lit_below.copy()
        states = [(s, st) for s in self.moving if (st := s.at(t)) is not None and self._near(st)]
        faces = [f for s, st in states for f in ship(s, st, self.water)]
        for stack, camera, colour, sky, level in (
            (layers, self.camera, upper, self._sky, None),
            (below, self.below, lower, self._sky_below, self.water),
        ):
            changed = draw_faces(stack, camera, faces, self.studio.grain, above=level)
            if changed.any():
                r, c = np.nonzero(changed)
                box = np.s_[r.min() : r.max() + 1, c.min() : c.max() + 1]
                _relit(stack, camera, light, self.studio.place, self._shade, sky, colour, changed, box)
        return self._with_water(layers, upper, lower, light, states, t)

    def _near(self, state: State) -> bool:
        """Whether a ship may be in the picture: ahead, and not beyond what its pixels could show."""
        ahead, right = self.camera.axes()
        dx, dy = state.x - self.camera.x, state.y - self.camera.y
        forward, side = dx * ahead[0] + dy * ahead[1], abs(dx * right[0] + dy * right[1])
        return -80 < forward < 6000 and side < max(forward, 0) * self.camera.width / 2 / self.camera.focal + 400

    def _with_water(
        self, layers: Layers, upper: Array, lower: Array, light: Light, states: list[tuple[Ship, State]], t: float
    ) -> Array:
        wet = layers.kind == WATER
        if not wet.any():
            return upper
        camera, waves = self.camera, self.studio.waves
        x, y, depth = layers.x[wet], layers.y[wet], layers.depth[wet]
        row, column = np.nonzero(wet)
        height = camera.z - self.water
        footprint = depth * depth / (camera.focal * height)  # metres of water that a pixel spans, ahead
        speed, _ = wind(t)
        ahead, right = camera.axes()
        along = np.zeros_like(x)
        across = np.zeros_like(x)
        for cell, amplitude, drift in ((0.16, 0.020, 0.9), (0.55, 0.030, 1.5), (2.1, 0.034, 2.4), (7.0, 0.018, 3.6)):
            keep = 1 / (1 + (footprint / (9 * cell)) ** 2)
            strength = amplitude * (0.25 + speed / 6.5) * np.sqrt(keep)
            tile = cell * waves.cells  # the pattern repeats; small numbers stay exact
            u, v = (x - drift * t * 0.6 % tile) / cell, (y - drift * t * 0.45 % tile) / cell
            rise = 1.4 * self.studio.slopes.at(u, v)
            along += strength * (rise.real * ahead[0] + rise.imag * ahead[1])
            across += strength * (rise.real * right[0] + rise.imag * right[1])
        foam = np.zeros_like(x)
        for s, state in states:
            foam = np.maximum(foam, wake(x, y, state, s.length, s.beam))
        stir = waves.near(x / 0.35 + t % waves.cells, y / 0.35)
        along += 0.10 * foam * stir

        f = camera.focal
        drop = (row.astype(np.float32) + (0.5 - camera.horizon * camera.height)) + np.float32(1.25 * f) * along
        drop = np.where(drop < 0.5, 0.5 - 0.35 * drop, drop)
        scale = lower.shape[0] / camera.height
        r = np.clip(self.below.horizon * self.below.height - drop * scale, 0, lower.shape[0] - 1).astype(np.int64)
        c = np.clip((column + 0.6 * f * across) * scale, 0, lower.shape[1] - 1).astype(np.int64)
        mirror = np.minimum(lower[r, c], 6.0)
        grazing = np.clip(height / depth - 0.7 * along, 0.0, 1.0)
        rough = 0.55 + 0.30 * np.exp(-speed / 3)
        fresnel = 0.02 + rough * (1 - grazing) ** 5
        g = self.studio.place.core
        gr, gc = g.index(x, y)
        shallow = np.where(np.maximum(np.abs(x), np.abs(y)) < g.half, smooth(-4.0, -0.2, g.ground[gr, gc]), 0.0)
        body = np.array([0.010, 0.034, 0.040], np.float32) + shallow.astype(np.float32)[:, None] * np.array(
            [0.035, 0.055, 0.035], np.float32
        )
        shine = 0.55 * light.zenith + 0.35 * light.horizon + 0.40 * light.direct * max(light.to_sun[2], 0)
        colour = body * shine * (1 - fresnel[:, None]) + mirror * fresnel[:, None]
        # The glitter of the sun: where a wave's slope halves the angle between eye and sun.
        if light.elevation > 0.5:
            side = light.to_sun[0] * right[0] + light.to_sun[1] * right[1]
            front = light.to_sun[0] * ahead[0] + light.to_sun[1] * ahead[1]
            off_column = ((column.astype(np.float32) + (0.5 - camera.width / 2)) / f) * front - side
            up_sun = light.to_sun[2] - (height / depth + 2.0 * along) * front
            spread = 0.018 + 0.012 * speed
            glint = np.exp(-((off_column + across) ** 2 / (2 * spread**2)) - up_sun**2 / (2 * (1.6 * spread) ** 2)) * (
                front > 0
            )
            colour += 1.1 * light.direct * (glint * (0.4 + np.clip(2.5 * stir, 0, 4)))[:, None]
        white = 0.42 * (0.7 * light.zenith + 0.5 * light.horizon + 0.7 * light.direct * max(light.to_sun[2], 0.05))
        caps = np.clip(foam * (0.75 + 0.45 * stir), 0, 1) + 0.5 * smooth(
            2.7, 3.6, waves.near(x / 1.3 - t % waves.cells, y / 0.5)
        ) * smooth(5, 8, np.float64(speed))
        caps = np.clip(caps, 0, 0.9)[:, None]
        colour = colour * (1 - caps) + white * caps
        misty = (1 - np.exp(-depth / visibility(t) * 1.5))[:, None]
        horizon_row = int(np.clip(camera.horizon * camera.height - 2, 0, camera.height - 1))
        colour = colour * (1 - misty) + self._sky[horizon_row, column] * misty
        upper[wet] = colour
        return upper

    def image(self, t: float, *, grain_seed: int | None = None) -> Image.Image:
        """The finished 8-bit picture at the camera's size."""
        return develop(self.linear(t), self.light, (self.out.width, self.out.height), grain_seed)


def _relit(
    stack: Layers,
    camera: Camera,
    light: Light,
    place: Place,
    shade: Array | None,
    sky: Array,
    colour: Array,
    changed: Array,
    box: tuple[slice, slice],
) -> None:
    """Light only the box in which ships were drawn."""
    part = Layers(*(getattr(stack, n)[box] for n in ("depth", "kind", "albedo", "normal", "lamp", "x", "y")))
    crop = _Crop(camera, box)
    new = lit(part, crop, light, place, shade, sky[box])  # type: ignore[arg-type]
    mask = changed[box]
    colour[box][mask] = new[mask]


class _Crop:
    """The part of a camera's picture that a box cuts out, as far as `lit` asks."""

    def __init__(self, camera: Camera, box: tuple[slice, slice]) -> None:
        self._camera, self._box = camera, box
        self.x, self.y, self.z = camera.x, camera.y, camera.z

    def rays(self) -> tuple[Array, Array]:
        columns, rows = self._camera.rays()
        return columns[self._box[1]], rows[self._box[0]]

    def axes(self) -> tuple[Array, Array]:
        return self._camera.axes()


def exposure(light: Light) -> float:
    """What the camera's meter sets: bright days are dark by a little, nights bright by a little."""
    weights = np.array([0.21, 0.72, 0.07])
    level = 0.5 * (light.zenith + light.horizon) @ weights + 0.35 * (light.direct @ weights) * max(
        light.to_sun[2], 0.12
    )
    low_sun = float(smooth(12, 2, np.float64(light.elevation)) * smooth(-6, -1, np.float64(light.elevation)))
    return float(0.72 * (1 - 0.30 * low_sun) / (level + 0.012) ** 0.75)


_BRIGHTEST = 20.0


def _film() -> Array:
    """8-bit values for sqrt(linear / _BRIGHTEST) in 4,096 steps: K. Narkowicz's fit of the ACES curve, then sRGB."""
    x = np.linspace(0, 1, 4096) ** 2 * _BRIGHTEST
    x = np.clip(x * (2.51 * x + 0.03) / (x * (2.43 * x + 0.59) + 0.14), 0, 1)
    return (np.where(x < 0.0031308, 12.92 * x, 1.055 * x ** (1 / 2.4) - 0.055) * 255 + 0.5).astype(np.uint8)


_FILM = _film()


def develop(linear: Array, light: Light | None, size: tuple[int, int], grain_seed: int | None) -> Image.Image:
    """Expose, let bright lights bloom, darken the corners, scale to `size`, and add the film's grain."""
    assert light is not None
    x = np.clip(linear * np.float32(exposure(light)), 0, _BRIGHTEST / 2, dtype=np.float32)
    grey = x @ np.array([0.3, 0.6, 0.1], np.float32)
    x = np.clip(x + 0.14 * (x - grey[..., None]), 0, None)
    h, w = x.shape[:2]
    bright = np.clip(np.clip(x - 0.9, 0, 4) * 64, 0, 255).astype(np.uint8)
    small = Image.fromarray(bright).resize((max(1, w // 4), max(1, h // 4)), Image.Resampling.BOX)
    bloom = (
        np.asarray(
            small.filter(ImageFilter.GaussianBlur(w / 4 / 70)).resize((w, h), Image.Resampling.BILINEAR), np.float32
        )
        / 64
    )
    x = x + 0.35 * bloom
    index = (np.sqrt(np.minimum(x, _BRIGHTEST) / np.float32(_BRIGHTEST)) * 4095).astype(np.int16)
    picture = Image.fromarray(_FILM.take(index)).resize(size, Image.Resampling.LANCZOS)
    if grain_seed is None:
        return picture
    v = np.asarray(picture, np.float32)
    across, down = np.linspace(-1, 1, size[0]) ** 2, np.linspace(-1, 1, size[1]) ** 2
    v = v * (1 - 0.09 * (across[None, :] + down[:, None]))[..., None]
    v += np.random.default_rng(grain_seed).normal(0, 1.3, v.shape[:2])[..., None]
    return Image.fromarray(np.clip(v + 0.5, 0, 255).astype(np.uint8))
