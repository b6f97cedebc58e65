"""Units in column headers: `temp [degC]` and `speed (m/s)` as a name and a UCUM code.

Only spellings that mean one thing are translated; anything else keeps its full header as the channel's name, because
a wrong unit is worse than none. UCUM is the Unified Code for Units of Measure (ucum.org, version 2.1).
"""

from __future__ import annotations

import re

#: Spelling → UCUM. Case matters (mW is no MW).
_UCUM: dict[str, str] = {
    # temperature
    "degC": "Cel", "°C": "Cel", "ºC": "Cel", "℃": "Cel", "deg C": "Cel", "deg_C": "Cel", "DegC": "Cel", "Deg C": "Cel",
    "Celsius": "Cel", "celsius": "Cel", "Cel": "Cel", "degF": "[degF]", "°F": "[degF]", "ºF": "[degF]", "℉": "[degF]",
    "deg F": "[degF]", "Fahrenheit": "[degF]", "K": "K", "Kelvin": "K", "kelvin": "K",
    # length, area, volume
    "m": "m", "cm": "cm", "mm": "mm", "km": "km", "um": "um", "µm": "um", "μm": "um", "nm": "nm", "ft": "[ft_i]",
    "feet": "[ft_i]", "inch": "[in_i]", "mi": "[mi_i]", "miles": "[mi_i]", "m2": "m2", "m²": "m2", "m^2": "m2",
    "m3": "m3", "m³": "m3", "m^3": "m3", "L": "L", "mL": "mL", "ml": "mL",
    # time and frequency
    "s": "s", "sec": "s", "second": "s", "seconds": "s", "ms": "ms", "us": "us", "µs": "us", "μs": "us", "ns": "ns",
    "min": "min", "minutes": "min", "h": "h", "hr": "h", "hours": "h", "d": "d", "days": "d", "Hz": "Hz", "kHz": "kHz",
    "MHz": "MHz", "GHz": "GHz", "rpm": "{rev}/min", "RPM": "{rev}/min",
    # motion
    "m/s": "m/s", "m s-1": "m/s", "m s^-1": "m/s", "m.s-1": "m/s", "mps": "m/s", "km/h": "km/h", "kmh": "km/h",
    "kph": "km/h", "mph": "[mi_i]/h", "kn": "[kn_i]", "kt": "[kn_i]", "kts": "[kn_i]", "knots": "[kn_i]",
    "m/s2": "m/s2", "m/s²": "m/s2", "m/s^2": "m/s2", "deg": "deg", "°": "deg", "degrees": "deg", "degree": "deg",
    "rad": "rad", "deg/s": "deg/s", "°/s": "deg/s", "rad/s": "rad/s",
    # pressure, force, mass, energy, power
    "Pa": "Pa", "hPa": "hPa", "kPa": "kPa", "MPa": "MPa", "bar": "bar", "mbar": "mbar", "mb": "mbar", "psi": "[psi]",
    "atm": "atm", "mmHg": "mm[Hg]", "N": "N", "kN": "kN", "Nm": "N.m", "N.m": "N.m", "N m": "N.m", "kg": "kg",
    "g": "g", "mg": "mg", "ug": "ug", "µg": "ug", "t": "t", "lb": "[lb_av]", "J": "J", "kJ": "kJ", "MJ": "MJ",
    "Wh": "W.h", "kWh": "kW.h", "MWh": "MW.h", "GWh": "GW.h", "W": "W", "mW": "mW", "kW": "kW", "MW": "MW", "GW": "GW",
    "W/m2": "W/m2", "W/m²": "W/m2", "W/m^2": "W/m2", "W m-2": "W/m2", "W m**-2": "W/m2", "kWh/m2": "kW.h/m2",
    # electricity and light
    "V": "V", "mV": "mV", "kV": "kV", "A": "A", "mA": "mA", "uA": "uA", "µA": "uA", "kA": "kA", "ohm": "Ohm",
    "Ohm": "Ohm", "Ω": "Ohm", "kΩ": "kOhm", "T": "T", "mT": "mT", "uT": "uT", "µT": "uT", "nT": "nT",
    "lx": "lx", "lux": "lx", "lm": "lm", "cd": "cd", "VA": "V.A", "kVA": "kV.A", "var": "{var}", "Ah": "A.h",
    "mAh": "mA.h",
    # concentration, flow, shares
    "%": "%", "percent": "%", "pct": "%", "% RH": "%", "%RH": "%", "ppm": "[ppm]", "ppb": "[ppb]", "dB": "dB",
    "dBm": "dB[mW]", "ug/m3": "ug/m3", "µg/m3": "ug/m3", "μg/m3": "ug/m3", "µg/m³": "ug/m3", "μg/m³": "ug/m3",
    "ug/m^3": "ug/m3", "mg/m3": "mg/m3", "mg/m³": "mg/m3", "g/m3": "g/m3", "mg/L": "mg/L", "mg/l": "mg/L",
    "g/L": "g/L", "m3/s": "m3/s", "m³/s": "m3/s", "m^3/s": "m3/s", "m3/h": "m3/h", "m³/h": "m3/h", "L/s": "L/s",
    "l/s": "L/s", "L/min": "L/min", "l/min": "L/min", "L/h": "L/h", "mm/h": "mm/h", "mm/d": "mm/d", "mm/day": "mm/d",
    "bpm": "{beat}/min", "pH": "[pH]", "NTU": "[NTU]", "uS/cm": "uS/cm", "µS/cm": "uS/cm", "mS/cm": "mS/cm",
    "PSU": "{psu}", "psu": "{psu}", "B": "By", "bytes": "By", "kB": "kBy", "MB": "MBy", "GB": "GBy", "bit/s": "bit/s",
}  # fmt: skip
_LOWER = {"celsius": "Cel", "fahrenheit": "[degF]", "kelvin": "K", "percent": "%", "seconds": "s", "meters": "m",
          "metres": "m", "meter": "m", "metre": "m", "volts": "V", "volt": "V", "amps": "A", "amperes": "A",
          "watts": "W", "watt": "W", "hertz": "Hz", "pascal": "Pa", "degrees": "deg", "radians": "rad"}  # fmt: skip

_BRACKETED = re.compile(
    r"^\s*(?P<name>[^\[\](){}]*?\S)\s*(?:\[(?P<square>[^\[\]]{1,32})\]|\((?P<round>[^()]{1,32})\))\s*$"
)


def to_ucum(spelling: str) -> str | None:
    """The UCUM code of a unit as people write it, or None where it is not certain."""
    text = spelling.strip()
    known = _UCUM.get(text) or _LOWER.get(text.lower())
    if known is None and text in _CODES:
        return text
    return known


_CODES = frozenset(_UCUM.values())
#: In round brackets these are as often words: minimum, left, north, set B, day …
_WORDS_IN_ROUND = frozenset({"min", "L", "N", "T", "B", "d", "t", "g"})


def split_header(header: str) -> tuple[str, str | None]:
    """(channel name, UCUM unit) of a column header; the whole header and None where the brackets hold no known unit.

    `temp [degC]` → (`temp`, `Cel`); `speed (m/s)` → (`speed`, `m/s`); `flow (left)` → (`flow (left)`, None).
    """
    match = _BRACKETED.match(header)
    if match is None:
        return header, None
    spelling = match["square"] or match["round"]
    if match["round"] and spelling.strip() in _WORDS_IN_ROUND:
        return header, None
    unit = to_ucum(spelling)
    return (match["name"], unit) if unit is not None else (header, None)
