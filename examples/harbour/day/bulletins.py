"""What people wrote that day: bulletins in ten languages whose numbers are those that the instruments measured."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import zstandard
from day import phrases_east, phrases_north, phrases_west
from day.clock import iso, local_time
from day.light import pressure, sea_level, temperature, visibility, wind
from day.noise import rng

WINDS = phrases_north.WINDS | phrases_west.WINDS | phrases_east.WINDS
BERTHS = phrases_north.BERTHS | phrases_west.BERTHS | phrases_east.BERTHS
PHRASES = phrases_north.PHRASES | phrases_west.PHRASES | phrases_east.PHRASES
LANGUAGES = tuple(PHRASES)
TOPICS = ("weather", "water", "arrival", "warning", "diary")
_SHIPS = [("AAVA", 2), ("KALEVA TRADER", 0), ("SILAKKA", 2), ("JEHU", 1), ("LUOTSI 3", 1)]
_COMMA = {"fi", "sv", "et", "de", "fr", "es", "pl", "uk", "el"}


def bulletin(seed: int, language: str, number: int) -> dict[str, Any]:
    """Bulletin `number` of a language: topic, time and sentences follow from the numbers alone."""
    random = rng(seed, f"bulletin/{language}/{number}")
    topic = TOPICS[number % len(TOPICS)]
    titles, groups = PHRASES[language][topic]
    t = float(random.integers(0, 23 * 12)) * 300.0
    speed, origin = wind(t)
    ship, berth = _SHIPS[int(random.integers(len(_SHIPS)))]
    later = pressure(min(t + 3600, 86_000)) - pressure(t)
    berth = berth if topic == "arrival" else int(random.integers(3))
    values = {
        "clock": local_time(t + (0 if topic in ("weather", "water", "diary") else 1800)),
        "wind": WINDS[language][int((origin + 22.5) % 360 // 45)],
        "speed": _number(speed, 1, language),
        "temp": _number(temperature(t), 1, language),
        "hpa": f"{pressure(t):.0f}",
        "trend": "falling" if later < -0.15 else "rising" if later > 0.15 else "steady",
        "vis": f"{visibility(t) / 1000:.0f}",
        "level": f"{100 * sea_level(t):.0f}",
        "ship": ship,
        "berth": BERTHS[language][berth],
        "number": f"{number + 1}/2025",
        "buoy": f"T{int(random.integers(1, 9))}",
    }
    keep = [g for i, g in enumerate(groups) if i == 0 or random.random() < 0.86]
    sentences = [g[int(random.integers(len(g)))] for g in keep]
    return {
        "id": f"{language}-{number:04d}",
        "issued": iso(t),
        "lang": language,
        "title": titles[int(random.integers(len(titles)))].format(**values),
        "body": " ".join(sentences).format(**values),
        "license": "CC0-1.0" if topic in ("weather", "water") else "CC-BY-4.0",
    }


def _number(value: float, digits: int, language: str) -> str:
    text = f"{value:.{digits}f}"
    return text.replace(".", ",") if language in _COMMA else text


def write_all(folder: Path, seed: int, *, each: int = 36) -> None:
    """`each` bulletins a language as JSON lines, plain, gzip or zstd; and a notice a language in Markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, language in enumerate(LANGUAGES):
        rows = sorted((bulletin(seed, language, k) for k in range(each)), key=lambda row: (row["issued"], row["id"]))
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
        if index % 3 == 0:
            (folder / f"{language}.jsonl").write_bytes(text)
        elif index % 3 == 1:
            (folder / f"{language}.jsonl.gz").write_bytes(gzip.compress(text, 9, mtime=0))
        else:
            (folder / f"{language}.jsonl.zst").write_bytes(
                zstandard.ZstdCompressor(level=9, write_checksum=True).compress(text)
            )
    notices = folder.parent / "notices"
    notices.mkdir(parents=True, exist_ok=True)
    for language in LANGUAGES:
        (notices / f"notice_{language}.md").write_text(_notice(seed, language), encoding="utf-8")


def _notice(seed: int, language: str) -> str:
    """One page: the day's numbers as a table, then the day as the harbour master tells it."""
    weather = bulletin(seed, language, 1000)
    diary = [bulletin(seed, language, 1004 + 5 * k) for k in range(3)]
    lines = []
    for t in range(0, 86_400, 3 * 3600):
        cells = [_number(temperature(t), 1, language), _number(wind(t)[0], 1, language), f"{100 * sea_level(t):.0f}"]
        lines.append(f"| {local_time(t)} | {' | '.join(cells)} |")
    story = "\n\n".join(d["body"] for d in diary)
    return (
        f"# {weather['title']}\n\n{weather['body']}\n\n| UTC+3 | °C | m/s | cm |\n| --- | ---: | ---: | ---: |\n"
        + "\n".join(lines)
        + f"\n\n## {diary[0]['title']}\n\n{story}\n"
    )
