"""A real browser for tests of pages: Debian's Chromium, driven by Playwright, with what goes wrong on a page."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, Page, sync_playwright

PATIENCE_MS = 30_000


def chromium() -> str:
    """The browser's path; CONVSCOPE_TEST_CHROMIUM names another one than that on the path."""
    found = shutil.which(os.environ.get("CONVSCOPE_TEST_CHROMIUM", "chromium"))
    if found is None:
        raise FileNotFoundError("these tests need Debian's chromium; `make test` installs it")
    return found


@contextmanager
def running() -> Iterator[Browser]:
    """The browser, without a window."""
    with sync_playwright() as playwright:
        # A root user's processes have no user namespaces to shut the browser's in; the pages are our own.
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


class Visit:
    """A page of its own, with what went wrong on it.

    Attributes:
        page: Playwright's.
        troubles: errors of scripts, breaches of the security policy, requests that left the service.
        received: bytes of each answer's body, by address.
        asked: requests as (method, address, headers).
    """

    def __init__(self, browser: Browser, address: str, **context: Any) -> None:
        self.address = address
        self.context = browser.new_context(permissions=["clipboard-read", "clipboard-write"], **context)
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE_MS)
        self.troubles: list[str] = []
        self.received: dict[str, int] = {}
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        self.page.on("console", lambda said: said.type == "error" and self.troubles.append(f"console: {said.text}"))
        self.page.on("pageerror", lambda error: self.troubles.append(f"script: {error}"))
        self.page.on("request", self._requested)
        self.page.on("requestfinished", self._finished)

    def _requested(self, request: Any) -> None:
        self.asked.append((request.method, request.url, request.headers))
        parts = urlsplit(request.url)
        if parts.scheme not in ("blob", "data") and f"{parts.scheme}://{parts.netloc}" != self.address:
            self.troubles.append(f"left the service: {request.url}")

    def _finished(self, request: Any) -> None:
        if request.url.startswith(self.address):
            self.received[request.url] = request.sizes()["responseBodySize"]

    def go(self, place: str) -> Page:
        """Open a place of the explorer, from a fresh page."""
        self.page.goto("about:blank")
        self.page.goto(f"{self.address}/{place}")
        return self.page

    def close(self) -> None:
        """Close the page."""
        self.context.close()
