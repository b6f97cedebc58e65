"""Sun, sky, clouds, wind and water level at any second of 14 June 2025: one weather for every sensor."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from day.noise import Array, Texture, smooth

LATITUDE, LONGITUDE = 60.15, 24.95
CLOUD_BASE = 1500.0
#: The wind carries the clouds: m/s to the east and to the north.
DRIFT = (4.2, 2.1)


def sun(t: float) -> tuple[float, float]:
    """(azimuth clockwise from north, elevation) in degrees at second `t`, with the declination of the day."""
    declination = np.radians(23.27)
    hour = np.radians(t / 240.0 + LONGITUDE - 180.0 - 0.1)
    latitude = np.radians(LATITUDE)
    sine = np.sin(latitude) * np.sin(declination) + np.cos(latitude) * np.cos(declination) * np.cos(hour)
    elevation = np.arcsin(sine)
    azimuth = np.arctan2(
        -np.cos(declination) * np.sin(hour),
        np.sin(declination) * np.cos(latitude) - np.cos(declination) * np.cos(hour) * np.sin(latitude),
    )
    return float(np.degrees(azimuth) % 360), float(np.degrees(elevation))


def sun_vector(t: float) -> Array:
    """Unit vector (east, north, up) to the sun."""
    azimuth, elevation = np.radians(sun(t))
    return np.array(
        [np.sin(azimuth) * np.cos(elevation), np.cos(azimuth) * np.cos(elevation), np.sin(elevation)], np.float32
    )


def cloud_cover(t: float) -> float:
    """Share of the sky under cumulus: clear night, fair-weather clouds, a shower at half past one, clear evening."""
    h = t / 3600
    fair = 0.27 * smooth(6.5, 10.0, np.float64(h)) * smooth(17.5, 15.0, np.float64(h))
    shower = 0.55 * np.exp(-(((h - 13.5) / 0.8) ** 2))
    return float(0.08 + fair + shower)


def wind(t: float) -> tuple[float, float]:
    """(m/s, degrees it blows from): a calm night, a sea breeze from the south-west that dies at sunset."""
    h = t / 3600
    breeze = 6.2 * np.exp(-(((h - 13.0) / 4.6) ** 2))
    gust = 0.7 * np.sin(2 * np.pi * h / 0.71) * (breeze / 6)
    return float(1.6 + breeze + gust), float((238 + 14 * np.sin(2 * np.pi * (h - 9) / 24)) % 360)


def temperature(t: float) -> float:
    """Degrees Celsius two metres above the quay."""
    h = t / 3600
    return float(14.9 + 4.6 * np.sin(2 * np.pi * (h - 8.2) / 24) - 2.3 * np.exp(-(((h - 13.7) / 0.9) ** 2)))


def pressure(t: float) -> float:
    """hPa at sea level: a shallow trough passes with the shower."""
    h = t / 3600
    return float(1013.4 - 0.11 * h - 1.9 * np.exp(-(((h - 13.6) / 2.1) ** 2)) + 0.3 * np.sin(4 * np.pi * (h - 1) / 24))


def sea_level(t: float) -> float:
    """Metres above the chart datum: the tide of an invented gulf, and the swing of its basin."""
    h = t / 3600
    return float(0.22 + 0.46 * np.cos(2 * np.pi * (h - 4.4) / 12.42) + 0.05 * np.sin(2 * np.pi * h / 1.9))


def visibility(t: float) -> float:
    """Metres: mist over the water before sunrise, rain in the shower, clear afterwards."""
    h = t / 3600
    return float(26_000 - 22_500 * np.exp(-(((h - 2.4) / 1.5) ** 2)) - 18_000 * np.exp(-(((h - 13.5) / 0.6) ** 2)))


_KEYS = np.array([-12, -6, -3, 0, 4, 10, 25, 55.0])
_ZENITH = np.array(
    [
        (0.008, 0.014, 0.045),
        (0.03, 0.055, 0.16),
        (0.05, 0.10, 0.25),
        (0.075, 0.13, 0.31),
        (0.10, 0.20, 0.43),
        (0.13, 0.28, 0.60),
        (0.12, 0.30, 0.70),
        (0.11, 0.30, 0.76),
    ]
)
_HORIZON = np.array(
    [
        (0.02, 0.03, 0.07),
        (0.11, 0.12, 0.21),
        (0.24, 0.18, 0.24),
        (0.42, 0.27, 0.24),
        (0.56, 0.42, 0.33),
        (0.64, 0.60, 0.56),
        (0.64, 0.74, 0.84),
        (0.66, 0.77, 0.89),
    ]
)
_GLOW = np.array(
    [
        (0.02, 0.01, 0.01),
        (0.22, 0.08, 0.03),
        (0.80, 0.28, 0.10),
        (1.5, 0.46, 0.08),
        (1.6, 0.72, 0.20),
        (1.1, 0.8, 0.5),
        (0.7, 0.6, 0.48),
        (0.5, 0.46, 0.42),
    ]
)
_DIRECT = np.array(
    [
        (0, 0, 0),
        (0, 0, 0),
        (0, 0, 0),
        (0.55, 0.16, 0.04),
        (1.75, 0.82, 0.33),
        (2.2, 1.45, 0.86),
        (2.6, 2.15, 1.7),
        (2.9, 2.6, 2.3),
    ]
)


def _by_elevation(table: Array, elevation: float) -> Array:
    return np.array([np.interp(elevation, _KEYS, table[:, c]) for c in range(3)], np.float32)


@dataclass(frozen=True)
class Light:
    """What shines at one moment. Colours are linear RGB."""

    t: float
    to_sun: Array
    elevation: float
    direct: Array
    zenith: Array
    horizon: Array
    glow: Array
    cover: float
    clouds: Texture

    @classmethod
    def at(cls, t: float, clouds: Texture) -> Light:
        """The light at second `t`."""
        _, elevation = sun(t)
        cover = cloud_cover(t)
        overcast = float(smooth(0.45, 0.95, np.float64(cover)))
        grey = np.array([0.42, 0.45, 0.49], np.float32) * float(np.clip(0.25 + elevation / 60, 0.05, 1))
        direct = _by_elevation(_DIRECT, elevation) * (1 - 0.85 * overcast)
        zenith = _by_elevation(_ZENITH, elevation) * (1 - 0.6 * overcast) + grey * 0.6 * overcast
        horizon = _by_elevation(_HORIZON, elevation) * (1 - 0.5 * overcast) + grey * 0.6 * overcast
        return cls(
            t,
            sun_vector(t),
            elevation,
            direct,
            zenith,
            horizon,
            _by_elevation(_GLOW, elevation) * (1 - 0.7 * overcast),
            cover,
            clouds,
        )

    def density(self, x: Array, y: Array) -> Array:
        """Cumulus above points of the map, 0 to 1."""
        u = (x - DRIFT[0] * self.t) / 38.0
        v = (y - DRIFT[1] * self.t) / 38.0
        level = float(np.interp(self.cover, [0.0, 0.1, 0.3, 0.5, 0.8, 1.0], [2.6, 1.45, 0.62, 0.08, -0.8, -1.6]))
        fine = 0.22 * self.clouds.at(u * 5.7 + 91, v * 5.7 + 17)
        return smooth(level, level + 0.85, self.clouds.at(u, v) + fine)

    def sky(self, direction: Array, origin: tuple[float, float], *, clouds: bool = True) -> Array:
        """Colour of the sky along unit directions (..., 3), seen from a point of the map."""
        up = np.clip(direction[..., 2], 0.0, 1.0)
        toward = np.clip(direction @ self.to_sun, -1, 1)
        fall = np.exp(-up * 4.2)[..., None]
        colour = self.zenith * (1 - fall) + self.horizon * fall
        near_sun = np.exp((toward - 1) * 5.5) * np.exp(-up * 2.4)
        halo = 0.55 * np.exp((toward - 1) * 60.0)
        colour = colour + self.glow * (0.55 * near_sun + halo)[..., None]
        disc = smooth(0.99988, 0.99997, toward)[..., None] * (direction[..., 2:] > -0.01)
        colour = colour + disc * 14 * self.direct
        return self._cloudy(colour, direction, up, toward, origin) if clouds else colour

    def _cloudy(self, colour: Array, direction: Array, up: Array, toward: Array, origin: tuple[float, float]) -> Array:
        reach = CLOUD_BASE / np.maximum(up + 0.012, 0.012)
        x, y = origin[0] + direction[..., 0] * reach, origin[1] + direction[..., 1] * reach
        density = self.density(x, y) * smooth(0.008, 0.075, up)
        # The side that looks to the sun is bright: compare with the density a little way toward it.
        step = 420.0
        beyond = self.density(x + step * self.to_sun[0], y + step * self.to_sun[1])
        lit = np.exp(-1.5 * beyond * density)[..., None]
        silver = (0.6 * np.exp((toward - 1) * 9.0) * (1 - density))[..., None]
        white = 0.33 * self.direct * (lit + silver) + 0.62 * self.zenith + 0.30 * self.horizon
        low_sun = float(smooth(9.0, -1.0, np.float64(self.elevation)) * smooth(-7.0, -2.0, np.float64(self.elevation)))
        white = (
            white * (1 - 0.35 * low_sun) + low_sun * self.glow * (0.18 + 0.5 * np.exp((toward - 1) * 2.2))[..., None]
        )
        colour = colour * (1 - density[..., None]) + white * density[..., None]
        # High ice cloud, combed by the wind.
        u, v = (x * 3.2 - 9 * self.t) / 160.0, (y * 3.2 - 4 * self.t) / 160.0
        veil = smooth(0.25, 2.4, self.clouds.at(u * 0.8 + v * 0.25, v * 0.12 + 40)) * smooth(0.03, 0.25, up) * 0.42
        bright = 0.9 * self.horizon + 0.16 * self.direct + low_sun * 0.5 * self.glow
        return colour * (1 - veil[..., None]) + bright * veil[..., None]
