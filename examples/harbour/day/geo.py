"""Local metres to longitude and latitude, for devices that speak of the world in degrees."""

from __future__ import annotations

import numpy as np
from day.place import EAST0, NORTH0

_F = 1 / 298.257223563
_N = _F / (2 - _F)
_RADIUS = 6378137.0 / (1 + _N) * (1 + _N**2 / 4 + _N**4 / 64)
_BETA = (_N / 2 - 2 * _N**2 / 3 + 37 * _N**3 / 96, _N**2 / 48 + _N**3 / 15, 17 * _N**3 / 480)
_DELTA = (2 * _N - 2 * _N**2 / 3 - 2 * _N**3, 7 * _N**2 / 3 - 8 * _N**3 / 5, 56 * _N**3 / 15)


def lon_lat(x: float, y: float) -> tuple[float, float]:
    """WGS 84 degrees of a point of the map: UTM zone 35N backwards, good to a millimetre (Krüger's series)."""
    xi = (NORTH0 + y) / (0.9996 * _RADIUS)
    eta = (EAST0 + x - 500_000.0) / (0.9996 * _RADIUS)
    xi1, eta1 = xi, eta
    for j, beta in enumerate(_BETA, 1):
        xi1 -= beta * np.sin(2 * j * xi) * np.cosh(2 * j * eta)
        eta1 -= beta * np.cos(2 * j * xi) * np.sinh(2 * j * eta)
    chi = np.arcsin(np.sin(xi1) / np.cosh(eta1))
    latitude = chi + sum(delta * np.sin(2 * j * chi) for j, delta in enumerate(_DELTA, 1))
    longitude = np.radians(27.0) + np.arctan2(np.sinh(eta1), np.cos(xi1))
    return float(np.degrees(longitude)), float(np.degrees(latitude))
