"""What microphones hear: water, wind, gulls, a horn, and the engines of ships as near and fast as they really pass."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from day.light import wind
from day.noise import Array, rng
from day.ships import Ship

#: Engine note in Hz, and loudness at 100 m, of each kind of ship.
ENGINES = {
    "ferry": (46.0, 0.20),
    "bulker": (31.0, 0.22),
    "trawler": (62.0, 0.13),
    "pilot": (95.0, 0.10),
    "tug": (54.0, 0.16),
    "yacht": (120.0, 0.0),
}
SOUND_SPEED = 340.0


@dataclass(frozen=True)
class Horn:
    """One blast: second of the day, length in seconds, notes in Hz, loudness."""

    t: float
    length: float
    notes: tuple[float, ...] = (131.0, 196.0, 247.0)
    loud: float = 0.30


def _filtered(white: Array, rate: int, low: float, high: float) -> Array:
    """Noise of unit spread between two frequencies, by Fourier transform."""
    spectrum = np.fft.rfft(white)
    f = np.fft.rfftfreq(len(white), 1 / rate)
    shape = 1 / (1 + (low / np.maximum(f, 1e-3)) ** 4) / (1 + (f / high) ** 4)
    out = np.fft.irfft(spectrum * shape, n=len(white))
    return out / out.std()


def _gull(random: np.random.Generator, rate: int) -> Array:
    """One call: three to seven falling cries, each with the overtones of a throat."""
    cries = []
    pitch = random.uniform(1150, 1700)
    for _ in range(int(random.integers(3, 8))):
        length = random.uniform(0.16, 0.34)
        x = np.arange(int(length * rate)) / rate / length
        f = pitch * (0.78 + 0.42 * np.sin(np.pi * np.minimum(1, x * 1.25 + 0.12)) ** 1.2) * random.uniform(0.97, 1.03)
        phase = 2 * np.pi * np.cumsum(f) / rate
        voice = np.sin(phase) + 0.55 * np.sin(2 * phase + 0.6) + 0.28 * np.sin(3 * phase) + 0.12 * np.sin(4 * phase)
        cries += [voice * np.sin(np.pi * x) ** 0.7, np.zeros(int(rate * random.uniform(0.05, 0.16)))]
    return np.concatenate(cries)


def record(
    seed: int,
    name: str,
    t: float,
    seconds: float,
    rate: int,
    where: tuple[float, float],
    ships: list[Ship],
    horns: list[Horn],
    *,
    gulls: int = 6,
) -> Array:
    """float32 samples in [-1, 1] of a microphone at a point of the map from second `t` of the day on."""
    random = rng(seed, f"sound/{name}")
    n = int(seconds * rate)
    clock = t + np.arange(n) / rate
    speed, _ = wind(t)
    lap = 0.5 + 0.5 * np.sin(2 * np.pi * clock / 3.7 + 0.8 * np.sin(2 * np.pi * clock / 11.0))
    out = 0.016 * (0.4 + lap) * _filtered(random.standard_normal(n), rate, 260, 2400)
    out += 0.004 * (1 + speed / 3) * _filtered(random.standard_normal(n), rate, 40, 420)
    for ship in ships:
        out += _engine(ship, clock, where, random, rate)
    for horn in horns:
        x = clock - horn.t
        envelope = np.clip(x / 0.22, 0, 1) * np.clip((horn.length - x) / 0.35, 0, 1)
        if envelope.max() > 0:
            tone = sum(
                np.sin(2 * np.pi * f * x) + 0.45 * np.sin(4 * np.pi * f * x) + 0.2 * np.sin(6 * np.pi * f * x)
                for f in horn.notes
            )
            blast = horn.loud * envelope * tone / len(horn.notes)
            out += blast
            late = int(1.9 * rate)  # the far shore answers
            if late < n:
                out[late:] += 0.16 * blast[:-late]
    for _ in range(gulls):
        call = _gull(random, rate)
        start = int(random.uniform(0, max(1, n - len(call))))
        part = call[: n - start]
        out[start : start + len(part)] += random.uniform(0.015, 0.07) * part
    return np.clip(np.tanh(1.1 * out), -1, 1).astype(np.float32)


def _engine(ship: Ship, clock: Array, where: tuple[float, float], random: np.random.Generator, rate: int) -> Array:
    note, loud = ENGINES[ship.kind]
    knots = np.arange(clock[0], clock[-1] + 0.51, 0.5)
    states = [ship.at(float(k)) for k in knots]
    phase0 = random.uniform(0, 6.28)
    if not loud or all(s is None or s.speed < 0.3 for s in states):
        return np.zeros_like(clock)
    distance = np.array(
        [1e5 if s is None else max(25.0, float(np.hypot(s.x - where[0], s.y - where[1]))) for s in states]
    )
    power = np.array([0.0 if s is None else min(1.0, 0.25 + s.speed / 9) for s in states])
    gain = np.interp(clock, knots, loud * power * 100 / distance)
    # Doppler: the note is heard as it was sent when the sound left.
    sent = clock - np.interp(clock, knots, np.minimum(distance, 9000)) / SOUND_SPEED
    phase = 2 * np.pi * note * sent + phase0
    beat = 0.72 + 0.28 * np.sin(2 * np.pi * note / 4 * sent)
    hum = np.sin(phase) + 0.7 * np.sin(2 * phase + 0.4) + 0.45 * np.sin(3 * phase + 1.1) + 0.25 * np.sin(5 * phase)
    wash = _filtered(random.standard_normal(len(clock)), rate, 120, 1300)
    return gain * (beat * hum * 0.5 + 0.35 * wash)
