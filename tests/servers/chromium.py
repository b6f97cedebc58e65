"""Debian's Chromium, driven by Playwright, for tests of the status page.

    with Chromium() as browser:
        page = browser.page(scheme="dark", width=360)

Playwright's own download is not used: the browser is the one on PATH. Pages load nothing but from loopback.
"""

from __future__ import annotations

import os
import shutil
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")


def chromium_path() -> str:
    """Where the browser is; skips where there is none."""
    for name in NAMES:
        found = shutil.which(name)
        if found:
            return found
    pytest.skip(f"no browser on PATH ({', '.join(NAMES)}): install Debian's package `chromium`")


class Chromium:
    """A headless browser; it ends with the context."""

    def __init__(self) -> None:
        self._path = chromium_path()
        self._playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")

    def __enter__(self) -> Chromium:
        self._driver = self._playwright.sync_playwright().start()
        arguments = ["--disable-gpu", "--disable-dev-shm-usage"]
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            arguments.append("--no-sandbox")  # Chromium's sandbox refuses to run as root, as containers do
        try:
            self._browser = self._driver.chromium.launch(executable_path=self._path, args=arguments)
        except self._playwright.Error:
            self._driver.stop()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self._browser.close()
        self._driver.stop()

    def page(self, *, scheme: str = "light", width: int = 1280, height: int = 900, scripts: bool = True) -> Any:
        """A page in a context of its own. Its `errors` are what the console and the page complained of."""
        context = self._browser.new_context(
            color_scheme=scheme,
            viewport={"width": width, "height": height},
            java_script_enabled=scripts,
            reduced_motion="reduce",
        )
        page = context.new_page()
        page.set_default_timeout(15_000)
        errors: list[str] = []
        page.errors = errors
        page.on(
            "console", lambda message: errors.append(message.text) if message.type in ("error", "warning") else None
        )
        page.on("pageerror", lambda error: errors.append(str(error)))
        return page
