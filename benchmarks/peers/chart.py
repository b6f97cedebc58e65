"""A picture of the results: for every work a row of bars, how fast each is against the bare limit. SVG, written by hand."""

from __future__ import annotations

from typing import Any
from xml.sax.saxutils import escape

_WIDTH, _LEFT, _BAR, _GAP = 900, 330, 15, 4
_COLOURS = {"ours": "#0b6e99", "bare": "#b8b8b8", "peer": "#d98e5f"}
_FONT = "font-family='system-ui, sans-serif'"


def svg(works: list[tuple[str, list[dict[str, Any]]]]) -> str:
    """`works`: (title, rows of `report.row_of`). The bars of a work are rates in percent of its fastest bare loop."""
    parts: list[str] = []
    y = 56
    for title, rows in works:
        base = max((row["rate"] for row in rows if row["kind"] == "bare"), default=max(row["rate"] for row in rows))
        longest = max(1.0, max(row["rate"] / base for row in rows))
        scale = (_WIDTH - _LEFT - 70) / longest
        parts.append(f"<text x='12' y='{y + 16}' {_FONT} font-size='14' font-weight='600'>{escape(title)}</text>")
        y += 26
        for row in sorted(rows, key=lambda row: -row["rate"]):
            share = row["rate"] / base
            who = escape(row["who"].replace("*", ""))
            weight = "600" if row["kind"] == "ours" else "400"
            parts.append(
                f"<text x='{_LEFT - 8}' y='{y + 12}' {_FONT} font-size='12' font-weight='{weight}' text-anchor='end'>{who}</text>"
                f"<rect x='{_LEFT}' y='{y}' width='{max(1.0, share * scale):.1f}' height='{_BAR}' rx='2' fill='{_COLOURS[row['kind']]}'/>"
                f"<text x='{_LEFT + share * scale + 6:.1f}' y='{y + 12}' {_FONT} font-size='11' fill='#444'>{share:.0%}</text>"
            )
            y += _BAR + _GAP
        parts.append(
            f"<line x1='{_LEFT + scale:.1f}' x2='{_LEFT + scale:.1f}' y1='{y - len(rows) * (_BAR + _GAP) - 2}' y2='{y}'"
            " stroke='#888' stroke-dasharray='3 3'/>"
        )
        y += 14
    legend = "".join(
        f"<rect x='{12 + i * 190}' y='34' width='12' height='12' fill='{_COLOURS[kind]}'/>"
        f"<text x='{30 + i * 190}' y='44' {_FONT} font-size='12'>{name}</text>"
        for i, (kind, name) in enumerate((("ours", "headrace"), ("bare", "bare loop (the limit)"), ("peer", "other tools")))
    )
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{_WIDTH}' height='{y}' viewBox='0 0 {_WIDTH} {y}'>"
        f"<rect width='{_WIDTH}' height='{y}' fill='white'/>"
        f"<text x='12' y='22' {_FONT} font-size='15' font-weight='600'>Rate at the larger input, in percent of the fastest bare loop</text>"
        f"{legend}{''.join(parts)}</svg>\n"
    )
