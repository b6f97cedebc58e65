"""The pages of the status server: made whole on the server, readable without JavaScript, every value escaped.

A page is a few fragments in a frame; the same fragments, made anew, are what its live event stream sends.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import numpy as np

from headrace.ingest import status_charts as charts
from headrace.ingest import status_summary as summaries
from headrace.ingest import status_words as words
from headrace.ingest.status_dataset import quarantine_counts
from headrace.ingest.status_decoded import Opened, describe, envelope
from headrace.ingest.status_desk import Desk, desk_of, word
from headrace.ingest.status_events import event, stream_events
from headrace.ingest.status_poll import Snapshot
from headrace.ingest.status_problem import ProblemError
from headrace.ingest.status_quarantine import list_quarantine
from headrace.ingest.status_samples import newest
from headrace.ingest.status_shapes import Problem
from headrace.ingest.status_timeline import timeline
from headrace.schemas.errors import REASONS, HeadraceError

if TYPE_CHECKING:
    import jinja2
    from starlette.requests import Request
    from starlette.responses import Response

FOLDER = Path(__file__).with_name("status")

#: Fragments of a page by the id of the element they fill.
FRAGMENTS: dict[str, dict[str, str]] = {
    "overview": {
        "pulse": "_pulse.html",
        "hero": "_hero.html",
        "streams": "_streams.html",
        "timeline": "_timeline.html",
        "workers": "_workers.html",
        "recent": "_recent.html",
        "spoken": "_spoken.html",
    },
    "stream": {"pulse": "_pulse.html", "stream": "_stream.html", "spoken": "_spoken.html"},
    "other": {"pulse": "_pulse.html", "spoken": "_spoken.html"},
}


@cache
def templates() -> jinja2.Environment:
    """The templates; names that are not there are errors, and everything is escaped."""
    import jinja2

    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals.update(
        words=words, charts=charts, books=summaries.books, balanced=summaries.balanced, lost=summaries.lost,
        REASONS=REASONS, static=static_url, query=urlencode, plain_json=words.plain_json,
    )  # fmt: skip
    return made


@cache
def static_url(name: str) -> str:
    """The address of a file of this folder; it changes with the file, so that browsers may keep it."""
    import xxhash

    return f"/static/{name}?{xxhash.xxh3_64_hexdigest((FOLDER / name).read_bytes())[:10]}"


def fragment_values(desk: Desk, snapshot: Snapshot, page: str, name: str | None) -> dict[str, Any]:
    """What the fragments of a page need."""
    status = snapshot.status
    values: dict[str, Any] = {
        "snapshot": snapshot,
        "status": status,
        "now_us": status["now_us"] if status else 0,
        "summary": summaries.summary(snapshot),
        "rates": desk.poller.rates,
        "stream": None,
    }
    if page == "overview":
        values["trouble"] = values["timeline"] = values["recent"] = None
        try:
            dataset = desk.dataset().dataset
            values["timeline"] = timeline(desk.follower.lines(), status["commits"] if status else [])
            values["recent"] = _recent(desk, dataset.version)
        except HeadraceError as exc:
            values["trouble"] = str(exc)
    if page == "stream" and status:
        values["stream"] = next((s for s in status["streams"] if s["name"] == name), None)
    return values


def _recent(desk: Desk, version: int) -> dict[str, Any]:
    """The newest quarantined rows and the counts; read once a version, not once a look."""
    kept = desk.recent.get(version)
    if kept is None:
        dataset = desk.dataset().dataset
        kept = {**list_quarantine(dataset, limit=5), "counts": reason_counts(quarantine_counts(dataset.state))}
        desk.recent.clear()
        desk.recent[version] = kept
    return kept


def reason_counts(counts: dict[str, dict[str, int]], stream: str | None = None) -> list[tuple[str, int]]:
    """(reason code, rows), most first."""
    total: dict[str, int] = {}
    for name, own in counts.items():
        if stream in (None, name):
            for code, n in own.items():
                total[code] = total.get(code, 0) + n
    return sorted(total.items(), key=lambda pair: (-pair[1], pair[0]))


def page_of(request: Request, template: str, page: str = "other", name: str | None = None, **more: Any) -> Response:
    from starlette.responses import HTMLResponse

    desk = desk_of(request)
    values = fragment_values(desk, desk.poller.snapshot(), page, name)
    live = f"/live?{urlencode({'page': page, 'name': name or ''})}"
    frame = {
        "live": live,
        "section": more.pop("section", page),
        "raw": request.state.raw,
        "token": desk.gate.token is not None,
    }
    return HTMLResponse(templates().get_template(template).render({**values, **frame, **more}), more.get("code", 200))


def live(request: Request) -> Response:
    """The event stream of a page: `fragment` events with the id of an element and its new content, when it changed."""
    desk, page, name = desk_of(request), word(request, "page") or "other", word(request, "name")
    if page not in FRAGMENTS:
        raise ProblemError(404, "page", f"no page is called `{page[:40]}`")
    sent: dict[str, str] = {}

    def events(snapshot: Snapshot) -> list[bytes]:
        values = fragment_values(desk, snapshot, page, name)
        if page == "stream" and values["stream"] is None:
            return []
        out = []
        for part, template in FRAGMENTS[page].items():
            html = templates().get_template(template).render(values)
            if sent.get(part) != html:
                sent[part] = html
                out.append(event("fragment", {"id": part, "html": html}))
        return out

    return stream_events(desk, events)


def overview(request: Request) -> Response:
    """The front page."""
    return page_of(request, "overview.html", "overview")


def stream_page(request: Request) -> Response:
    """One stream."""
    desk, name = desk_of(request), request.path_params["name"]
    stream = desk.stream(name)
    cards: list[dict[str, Any]] = []
    trouble = None
    if request.state.raw:
        try:
            cards = _cards(desk, [output["name"] for output in stream["outputs"]])
        except HeadraceError as exc:
            trouble = str(exc)
    return page_of(request, "stream.html", "stream", name, cards=cards, trouble=trouble)


def _cards(desk: Desk, names: list[str], most: int = 6) -> list[dict[str, Any]]:
    """The newest samples of some streams, decoded, for a glance."""
    view = desk.dataset()
    held = [name for name in names if name in view.dataset.state.settings]
    addresses = [address for name in held for address in newest(view.dataset.state, name, -(-most // len(held)))]
    return [sample_figure(desk.samples.open(view, address)) for address in addresses[:most]]


def sample_figure(opened: Opened) -> dict[str, Any]:
    """A sample as a template draws it: what it decodes to, with the path of its wave or its plot."""
    made: dict[str, Any] = {
        "address": str(opened.address),
        "modality": opened.modality,
        "decoded": describe(opened, "/api/v1"),
    }
    kind = made["decoded"]["kind"]
    if kind == "sound":
        made["wave"] = charts.waveform(envelope(opened, 480), 720, 120)
    if kind == "series":
        seconds = [np.datetime64(t.removesuffix("Z"), "ns").astype(np.int64) / 1e9 for t in made["decoded"]["times"]]
        plot = charts.series_plot(seconds, made["decoded"]["values"], 720, 220)
        made["plot"] = plot
        ends = [int(at * 1e6) for at in plot.x_seconds]
        made["x_labels"] = [words.short_clock(at, ends[0]) for at in ends]
    return made


def error_page(request: Request, made: Problem) -> Response:
    """A problem as a page."""
    from starlette.responses import HTMLResponse

    desk = desk_of(request)
    values = fragment_values(desk, desk.poller.snapshot(), "other", None)
    frame = {"live": "", "section": "", "raw": False, "token": desk.gate.token is not None, "problem": made}
    return HTMLResponse(templates().get_template("problem.html").render({**values, **frame}), made["status"])
