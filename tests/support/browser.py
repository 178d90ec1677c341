"""The browser of the system, for tests of the status page."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from support.programs import program

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page

LIMIT_MS = 20_000


@contextlib.contextmanager
def start_browser() -> Iterator[Browser]:
    """Start Chromium for the ``with`` block; skip the test where it or Playwright is missing."""
    api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    path = program("chromium")
    api.expect.set_options(timeout=LIMIT_MS)
    with api.sync_playwright() as playwright:
        # Without the sandbox, which root cannot use; with exact figures of the heap.
        flags = ["--no-sandbox", "--enable-precise-memory-info"]
        browser = playwright.chromium.launch(executable_path=path, args=flags)
        try:
            yield browser
        finally:
            browser.close()


class Complaints(list[str]):
    """Collects what a browser complains of: the console, exceptions, violations of the CSP."""

    def __init__(self, page: Page) -> None:
        super().__init__()
        bad = {"error", "warning"}
        page.on("console", lambda line: self.append(line.text) if line.type in bad else None)
        page.on("pageerror", lambda error: self.append(str(error)))
        page.on("dialog", lambda dialog: self.append(f"a dialog: {dialog.message}"))
        page.add_init_script(
            "document.addEventListener('securitypolicyviolation', "
            "(event) => console.error('CSP', event.violatedDirective, event.blockedURI))"
        )
