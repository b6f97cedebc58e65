"""Pictures of originals beside what their tokens give back: one sheet, and a page with sounds and texts."""

from __future__ import annotations

import html
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

#: stream → rows to show, and how many times the picture is enlarged.
CHOICE: dict[str, tuple[list[int], int]] = {
    "photos": ([2, 11, 12, 3, 9, 4], 1),
    "quay": ([2, 6], 1),
    "satellite": ([14, 20, 21], 3),
    "littoral": ([1, 5], 3),
    "terrain": ([1], 3),
    "tide": ([1, 4], 1),
    "gauge": ([0], 1),
    "sounds": ([1, 6], 1),
    "quay.audio": ([2], 1),
    "bulletins": ([0, 40, 120, 200, 320], 1),
}
UNITS = {"psnr_db": "dB PSNR", "snr_db": "dB SNR", "nrmse": "NRMSE"}
WIDTH = 1032  # of the sheet's pictures

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 66rem; padding: 0 1rem }
body { color: #1d2733; background: #f6f7f8 }
figure { margin: 1.2rem 0 2rem } img { width: 100%; border-radius: 4px } figcaption { color: #56616d; font-size: 14px }
pre { white-space: pre-wrap; background: #fff; padding: .8rem 1rem; border-radius: 4px; margin: .3rem 0 }
audio { width: 48% }
"""


def make(dataset: Path, out: Path, run: Callable[..., Any]) -> Path:
    """Decode the chosen samples into `out`. Returns: the page. `run` runs a headrace command and gives its answer."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    held = {s["stream"]: s["samples"] for s in run("inspect", dataset)["streams"]}
    sheet: list[tuple[str, Image.Image]] = []
    parts: list[str] = []
    for stream, (rows, enlarge) in CHOICE.items():
        wanted = [row for row in rows if row < held.get(stream, 0)]
        if not wanted:
            continue
        parts.append(f"<h2>{html.escape(stream)}</h2>")
        options = [argument for row in wanted for argument in ("--row", str(row))]
        for one in run("decode", dataset, "--stream", stream, *options, "--out", out):
            caption = _caption(one)
            files = [Path(f) for f in one["files"]]
            pair = next(
                (f for f in files if f.suffix == ".png" and not f.stem.endswith(("-decoded", "-original"))), None
            )
            if pair is not None:
                if enlarge > 1:
                    with Image.open(pair) as small:
                        small.resize((small.width * enlarge, small.height * enlarge), Image.Resampling.NEAREST).save(
                            pair
                        )
                sheet.append((f"{stream}: {caption}", Image.open(pair).convert("RGB")))
            parts.append(_figure(files, pair, caption))
    _sheet(sheet).save(out / "album.png")
    page = out / "index.html"
    body = "\n".join(parts)
    page.write_text(
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>Tuulisalmi, from tokens</title>\n"
        f"<style>{_STYLE}</style>\n"
        "<h1>Tuulisalmi, 14 June 2025</h1><p>Left the original, right what its tokens alone give back.</p>\n"
        f"{body}\n</html>\n",
        encoding="utf-8",
    )
    return page


def _caption(one: dict[str, Any]) -> str:
    if one["error"] is None:
        return str(one["uri"])
    return f"{one['uri']}, {one['error']:.3g} {UNITS.get(one['error_unit'], one['error_unit'])}"


def _figure(files: list[Path], pair: Path | None, caption: str) -> str:
    inside = f"<img src='{pair.name}' alt=''>" if pair is not None else ""
    sounds = [f for f in files if f.suffix == ".wav"]
    inside += "".join(f"<audio controls src='{f.name}'></audio> " for f in sorted(sounds, reverse=True))
    inside += "".join(
        f"<pre>{html.escape(f.read_text(encoding='utf-8'))}</pre>"
        for f in sorted(files, reverse=True)
        if f.suffix == ".txt"
    )
    return f"<figure>{inside}<figcaption>{html.escape(caption)}</figcaption></figure>"


def _sheet(pictures: list[tuple[str, Image.Image]]) -> Image.Image:
    """All pairs under one another, in two columns, each with its caption."""
    font = ImageFont.load_default(15)
    scaled = []
    for caption, picture in pictures:
        height = max(1, round(picture.height * WIDTH / picture.width))
        scaled.append((caption, picture.resize((WIDTH, height), Image.Resampling.LANCZOS)))
    tops, places = [16, 16], []
    for caption, picture in scaled:
        column = 0 if tops[0] <= tops[1] else 1
        places.append((column * (WIDTH + 24) + 16, tops[column], caption, picture))
        tops[column] += picture.height + 40
    sheet = Image.new("RGB", (2 * WIDTH + 56, max(tops)), (246, 247, 248))
    draw = ImageDraw.Draw(sheet)
    for x, y, caption, picture in places:
        sheet.paste(picture, (x, y))
        draw.text((x, y + picture.height + 6), caption[:120], font=font, fill=(60, 68, 78))
    return sheet
