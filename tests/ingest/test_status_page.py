"""The status page in a real browser: light, dark and on a phone, with and without JavaScript, by keyboard."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from headrace.ingest.status_server import StatusServer

from ..servers.chromium import Chromium
from .test_status_api import Client
from .test_status_guard import TOKEN
from .test_status_world import LogService, built, until

pytestmark = pytest.mark.server

PATHS = {
    "overview": "/",
    "stream": "/streams/film",
    "quarantine": "/quarantine",
    "samples": "/samples?stream=tide",
    "image": "/samples/camera/L0000/0",
    "video": "/samples/film/L0000/0",
    "audio": "/samples/hydrophone/L0000/0",
    "sensor": "/samples/tide/L0000/0",
    "raster": "/samples/scenes/L0000/0",
    "text": "/samples/bulletins/L0000/0",
}

#: Text whose contrast with what lies behind it is too low (WCAG 2.2, 1.4.3: 4.5, or 3 for large text).
CONTRAST = """() => {
  const parse = (text) => {
    const found = text.match(/[\\d.]+/g).map(Number);
    const scale = text.startsWith("color(") ? 255 : 1;
    return { rgb: found.slice(0, 3).map((v) => v * scale), a: found.length > 3 ? found[3] : 1 };
  };
  const over = (top, under) => top.rgb.map((v, i) => v * top.a + under[i] * (1 - top.a));
  const light = (rgb) => {
    const [r, g, b] = rgb.map((v) => ((v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (node) => {
    const layers = [];
    for (let at = node; at; at = at.parentElement) layers.push(parse(getComputedStyle(at).backgroundColor));
    return layers.reverse().reduce((under, layer) => over(layer, under), [255, 255, 255]);
  };
  const low = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || node.closest(".unseen, .skip, svg, script, option")) continue;
    const style = getComputedStyle(node);
    if (!node.checkVisibility() || node.disabled) continue;
    const under = behind(node);
    const [a, b] = [light(over(parse(style.color), under)), light(under)];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const large = parseFloat(style.fontSize) >= 24 || (parseFloat(style.fontSize) >= 18.66 && style.fontWeight >= 700);
    if (ratio < (large ? 3 : 4.5)) low.push(`${walker.currentNode.data.trim().slice(0, 40)}: ${ratio.toFixed(2)}`);
  }
  return low;
}"""

#: What a screen reader would stumble over.
STRUCTURE = """() => {
  const wrong = [];
  const say = (what, nodes) => nodes.forEach((node) => wrong.push(`${what}: ${node.outerHTML.slice(0, 90)}`));
  const all = (css) => [...document.querySelectorAll(css)];
  const name = (n) => (n.getAttribute("aria-label") || n.textContent || n.title || "").trim();
  say("no alternative text", all("img").filter((n) => !n.getAttribute("alt")));
  say("no label", all("input:not([type=hidden]), select, meter").filter((n) => !n.labels.length));
  say("no name", all("a[href], button, summary").filter((n) => !name(n)));
  say("no name", all("svg").filter((n) => !n.hasAttribute("aria-hidden") && !n.getAttribute("aria-label")));
  say("a table without a caption", all("table").filter((n) => !n.caption));
  say("a header without a scope", all("th").filter((n) => !n.scope));
  say("a table row without a header", all("tbody tr").filter((n) => !n.querySelector("th")));
  say("roles lost in cards", all(".cards tr").filter((n) => n.getAttribute("role") !== "row"));
  say("scrolls, but not by keyboard", all(".scroll").filter((n) => n.tabIndex < 0));
  const ids = all("[id]").map((n) => n.id);
  ids.filter((id, i) => ids.indexOf(id) !== i).forEach((id) => wrong.push(`twice the id ${id}`));
  if (all("h1").length !== 1) wrong.push(`${all("h1").length} first headings`);
  const levels = all("h1, h2, h3").map((n) => Number(n.nodeName[1]));
  levels.forEach((n, i) => i && n > levels[i - 1] + 1 && wrong.push("a heading level is left out"));
  for (const css of ["header", "nav", "main", "footer"]) if (!all(css).length) wrong.push(`no ${css}`);
  if (!document.documentElement.lang || !document.title) wrong.push("no language or no title");
  if (all("[style], [onclick], script:not([src])").length) wrong.push("inline style or script");
  return wrong;
}"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> LogService:
    return LogService(built(tmp_path_factory))


@pytest.fixture(scope="module")
def url(service: LogService) -> Iterator[str]:
    with StatusServer(service, "127.0.0.1", 0) as server:
        found = server.start()
        until(lambda: Client(found).ask("/readyz")[0] == 200)
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    with Chromium() as found:
        yield found


@pytest.fixture(scope="module")
def shots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("screenshots")


LOOKS = {
    "light": ("light", 1280, 900),
    "dark": ("dark", 1280, 900),
    "phone": ("light", 360, 760),
    "night": ("dark", 360, 760),
}


@pytest.fixture(scope="module")
def reader(browser: Chromium) -> Iterator[Any]:
    page = browser.page()
    yield page
    page.context.close()


@pytest.mark.parametrize("name", PATHS)
def test_every_page_can_be_read_by_everybody(reader: Any, url: str, shots: Path, name: str) -> None:
    reader.goto(url + PATHS[name], wait_until="load")
    assert reader.evaluate(STRUCTURE) == []
    for look, (scheme, width, height) in LOOKS.items():
        reader.emulate_media(color_scheme=scheme)
        reader.set_viewport_size({"width": width, "height": height})
        assert reader.evaluate("document.documentElement.scrollWidth") <= width, f"{look}: it scrolls sideways"
        assert reader.evaluate(CONTRAST) == [], look
        reader.screenshot(path=shots / f"{name}-{look}.png", full_page=True)
    pictures = reader.evaluate("[...document.images].filter((i) => i.complete && !i.naturalWidth).map((i) => i.src)")
    assert pictures == [], "pictures that could not be shown"
    assert reader.errors == [], "the console complains (of the content policy, too)"


def test_the_checks_see_what_is_wrong(reader: Any, url: str) -> None:
    reader.goto(f"{url}/samples", wait_until="load")
    plant = "document.querySelector('h1').insertAdjacentHTML('afterend', '<img src=\"/static/icon.svg\"><h3>a</h3>')"
    reader.evaluate(plant)
    reader.evaluate("document.querySelector('.lead').attributeStyleMap.set('color', 'rgb(200, 200, 200)')")
    reader.emulate_media(color_scheme="light")
    assert any("alternative" in one for one in reader.evaluate(STRUCTURE))
    assert any("left out" in one for one in reader.evaluate(STRUCTURE))
    assert reader.evaluate(CONTRAST) != []


def test_the_page_is_live_and_can_be_held(browser: Chromium, url: str) -> None:
    page = browser.page()
    page.goto(url, wait_until="load")
    clock = page.locator("#pulse .clock")
    first = clock.inner_text()
    page.wait_for_function("(t) => document.querySelector('#pulse .clock').innerText !== t", arg=first)
    hold = page.locator("#hold")
    hold.click()
    assert hold.inner_text() == "Live: off"
    page.wait_for_timeout(300)
    held = clock.inner_text()
    page.wait_for_timeout(2500)
    assert clock.inner_text() == held
    hold.click()
    page.wait_for_function("(t) => document.querySelector('#pulse .clock').innerText !== t", arg=held)
    page.context.close()


def test_focus_and_open_details_survive_updates(browser: Chromium, url: str) -> None:
    page = browser.page()
    page.goto(url, wait_until="load")
    page.locator("#commits summary").click()
    page.locator("#streams a", has_text="tide").focus()
    before = page.locator("#pulse .clock").inner_text()
    for _ in range(2):
        page.wait_for_function("(t) => document.querySelector('#pulse .clock').innerText !== t", arg=before)
        before = page.locator("#pulse .clock").inner_text()
    assert page.evaluate("document.activeElement.textContent") == "tide"
    assert page.locator("#commits").get_attribute("open") is not None
    assert page.locator("#commits tbody tr").first.is_visible()
    page.context.close()


def test_the_page_says_when_the_service_falls_silent_and_when_it_is_back(
    browser: Chromium, url: str, service: LogService
) -> None:
    page = browser.page()
    page.goto(url, wait_until="load")
    service.down = True
    try:
        page.get_by_role("heading", name="The service does not answer.").wait_for()
        assert "does not answer" in page.locator("#spoken[aria-live=polite]").inner_text()
    finally:
        service.down = False
    page.get_by_role("heading", name="1 of 6 streams is parked.").wait_for()
    page.context.close()


def test_without_javascript_everything_can_still_be_read(browser: Chromium, url: str) -> None:
    page = browser.page(scripts=False)
    for path in PATHS.values():
        assert page.goto(url + path).status == 200
        assert page.locator("h1").inner_text()
        assert not page.locator("button:visible", has_text="Theme").count(), "what would do nothing is not shown"
        assert not page.locator("[data-action]:visible").count()
    page.goto(url + "/quarantine")
    page.select_option("#f-reason", "truncated")
    page.get_by_role("button", name="Show").click()
    assert set(page.locator("tbody th a").all_inner_texts()) == {"truncated"}
    page.locator("tbody th a").first.click()
    assert page.locator(".hex tbody tr").count() > 3
    page.context.close()


def test_samples_are_walked_from_a_stream_to_the_last(browser: Chromium, url: str) -> None:
    page = browser.page()
    page.goto(url + "/samples", wait_until="load")
    page.get_by_role("link", name="camera", exact=True).click()
    page.locator("#walk ~ table tbody a").first.click()
    seen = [page.locator("h1").inner_text()]
    while page.get_by_role("link", name="Next").count():
        page.get_by_role("link", name="Next").click()
        page.wait_for_function("(t) => document.querySelector('h1').innerText !== t", arg=seen[-1])
        seen.append(page.locator("h1").inner_text())
    assert seen == [f"L0000/{i}" for i in range(len(seen))] and len(seen) >= 4
    page.context.close()


def test_the_theme_is_chosen_and_remembered(browser: Chromium, url: str) -> None:
    page = browser.page(scheme="light")
    page.goto(url, wait_until="load")
    paper = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(paper)
    button = page.locator("#theme")
    button.click()
    button.click()
    assert button.inner_text() == "Theme: dark" and page.evaluate(paper) != light
    dark = page.evaluate(paper)
    page.reload(wait_until="load")
    assert page.evaluate(paper) == dark
    button.click()
    assert button.inner_text() == "Theme: auto" and page.evaluate(paper) == light
    page.context.close()


def test_the_keyboard_reaches_the_content_first_and_every_control(browser: Chromium, url: str) -> None:
    page = browser.page()
    page.goto(url + "/streams/tide", wait_until="load")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    reached: list[Any] = []
    for _ in range(12):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id"))
    assert {"pause", "remove"} <= set(reached)
    page.context.close()


def test_a_stream_is_paused_from_the_page(browser: Chromium, url: str, service: LogService) -> None:
    page = browser.page()
    page.goto(url + "/streams/tide", wait_until="load")
    try:
        page.get_by_role("button", name="Pause").click()
        page.get_by_role("button", name="Resume").wait_for()
        assert ("pause", "tide") in service.calls
        page.get_by_role("button", name="Resume").click()
        page.get_by_role("button", name="Pause").wait_for()
        page.on("dialog", lambda dialog: dialog.dismiss())
        page.get_by_role("button", name="Remove").click()
        assert ("remove", "tide") not in service.calls, "it was not confirmed"
    finally:
        service.paused.clear()
    assert page.errors == []
    page.context.close()


def test_one_logs_in_once_and_is_known_until_logout(browser: Chromium, service: LogService, shots: Path) -> None:
    with StatusServer(service, "127.0.0.1", 0, TOKEN) as server:
        page = browser.page()
        page.goto(server.start() + "/quarantine", wait_until="load")
        page.screenshot(path=shots / "login-light.png")
        page.get_by_label("Token of this service").fill("not the token at all")
        page.get_by_role("button", name="Log in").click()
        page.get_by_role("alert").wait_for()
        page.get_by_label("Token of this service").fill(TOKEN)
        page.get_by_role("button", name="Log in").click()
        page.get_by_role("heading", name="Quarantine").wait_for()
        page.goto(f"{server.url}/streams/tide", wait_until="load")
        page.get_by_role("button", name="Pause").click()
        page.get_by_role("button", name="Resume").wait_for()
        service.paused.clear()
        page.get_by_role("button", name="Log out").click()
        page.get_by_role("heading", name="Log in").wait_for()
        assert page.context.cookies() == []
        page.context.close()
