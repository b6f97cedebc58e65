"""The pages that look into the dataset: quarantined rows with a look at their bytes, and samples by address."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headrace.ingest.status_dataset import quarantine_counts
from headrace.ingest.status_desk import desk_of, need_raw, number, word
from headrace.ingest.status_pages import page_of, reason_counts, sample_figure
from headrace.ingest.status_problem import ProblemError
from headrace.ingest.status_quarantine import hex_lines, list_quarantine, look_at
from headrace.ingest.status_samples import lanes_of, list_samples, newest
from headrace.ingest.status_words import plain_json
from headrace.ingest.view import Address
from headrace.schemas.errors import ConfigError

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response


def quarantine_page(request: Request) -> Response:
    """Quarantined rows with a filter."""
    desk, stream, reason = desk_of(request), word(request, "stream"), word(request, "reason")
    dataset = desk.dataset().dataset
    found = list_quarantine(
        dataset,
        stream=stream,
        reason=reason,
        before=word(request, "before"),
        limit=number(request, "limit", 50, 1, 200),
    )
    counts = quarantine_counts(dataset.state)
    return page_of(
        request,
        "quarantine.html",
        section="quarantine",
        found=found,
        names=sorted(counts),
        codes=[code for code, _ in reason_counts(counts)],
        counts=reason_counts(counts, stream),
        chosen={"stream": stream or "", "reason": reason or ""},
    )


def quarantined_page(request: Request) -> Response:
    """One quarantined row."""
    params = request.path_params
    name = f"{params['stream']}/{params['file']}/{params['row']}"
    offset = number(request, "offset", 0, 0, 1 << 40)
    try:
        found = look_at(desk_of(request).dataset().dataset, name, offset=offset, length=1024)
    except ConfigError as exc:
        raise ProblemError(404, "quarantine", str(exc)) from exc
    shown = found["bytes"] if request.state.raw else None
    return page_of(
        request,
        "quarantined.html",
        section="quarantine",
        row=found["row"],
        look=shown,
        kept=found["bytes"] is not None,
        lines=hex_lines(shown) if shown else [],
    )


def samples_page(request: Request) -> Response:
    """The streams of the dataset, or the samples of one."""
    need_raw(request)
    desk = desk_of(request)
    view, name = desk.dataset(), word(request, "stream")
    state = view.dataset.state
    streams = [
        (info, newest(state, info.name, 1)[0] if info.rows else None, lanes_of(state, info.name))
        for info in view.streams().values()
    ]
    found: dict[str, Any] | None = None
    if name is not None:
        if name not in state.settings:
            raise ProblemError(404, "stream", f"the dataset has no stream `{name[:100]}`")
        place = word(request, "after")
        lane = number(request, "lane", 0, 0, 1 << 31) if word(request, "lane") else None
        page = list_samples(
            view.dataset,
            name,
            place=Address.parse(place) if place else None,
            lane=lane,
            limit=number(request, "limit", 25, 1, 200),
        )
        found = {**page, "lane": lane, "after": place}
    return page_of(request, "samples.html", section="samples", streams=streams, found=found)


def sample_page(request: Request) -> Response:
    """One sample: what its tokens decode to, beside where it came from."""
    need_raw(request)
    desk, address = desk_of(request), desk_of(request).address(request)
    view = desk.dataset()
    try:
        opened = desk.samples.open(view, address)
        found = desk.samples.look(view, address)
    except ConfigError as exc:
        raise ProblemError(404, "sample", str(exc)) from exc
    facts = provenance_facts(found["provenance"])
    return page_of(request, "sample.html", section="samples", look=found, facts=facts, figure=sample_figure(opened))


def provenance_facts(why: dict[str, Any]) -> list[tuple[str, Any]]:
    """What people ask first about a sample, in order; a list stands for several lines."""
    tokenizer, time = why.get("tokenizer") or {}, why.get("event_time")
    error, clipped = why.get("error"), why.get("clip_fraction")
    facts: list[tuple[str, Any]] = [
        ("Object", why.get("uri")),
        ("Where in it", plain_json(why["locator"]) if why.get("locator") else None),
        ("Source", why.get("source")),
        ("Position", why.get("position") if isinstance(why.get("position"), str) else plain_json(why.get("position"))),
        ("Event time", f"{time} ({why['time_source']})" if time and why.get("time_source") else time),
        ("License", why.get("license")),
        ("Attribution", why.get("attribution")),
        ("Fold", why.get("fold")),
        ("Group", why.get("group_id")),
        ("Place", why.get("place_id")),
        ("Done to it", why.get("transforms")),
        ("Findings", why.get("flags")),
        ("Tokenizer", tokenizer.get("type")),
        ("Reconstruction error", None if error is None else f"{error:.4g} {why.get('error_unit', '')}".strip()),
        ("Out of range", None if clipped is None else f"{100 * clipped:.3g} %"),
        ("Added in version", why.get("commit")),
    ]
    return [(name, value) for name, value in facts if value not in (None, [], "")]
