"""A service on the embedded broker, and a browser that reads its status page."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.browser import LIMIT_MS, Complaints, start_browser
from support.embedded import Broker, patient
from support.feeder import event, write
from support.process import ServiceProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Browser, Page

    from support.embedded import Installation

    Ask = Callable[..., None]
    Open = Callable[..., Page]


@pytest.fixture(scope="module")  # Playwright's event loop runs until the end, so other tests can have none
def browser() -> Iterator[Browser]:
    """Start one browser for the tests of a module, which are not asynchronous."""
    with start_browser() as browser:
        yield browser


@pytest.fixture
def place(browser: Browser, broker: Broker) -> Installation:  # noqa: ARG001 - without one, nothing is started
    """Lend topics and a group."""
    return broker.installation()


@pytest.fixture
def service(place: Installation) -> Iterator[ServiceProcess]:
    """Start a service whose limits a busy machine does not reach."""
    settings = place.settings(patient(processing_ms=4000) | {"adaptive.enabled": True})
    with ServiceProcess("support.page_app:app", place.bootstrap, settings) as service:
        yield service


@pytest.fixture
def address(service: ServiceProcess) -> str:
    """Return the address of the page."""
    return f"http://127.0.0.1:{service.log[-1]['admin_port']}/"


@pytest.fixture
def ask(place: Installation) -> Ask:
    """Return a function that asks a question a number of times."""

    def ask(question: str, times: int = 1, prefix: str = "q") -> None:
        queries = [(None, event(f"{prefix}-{number}", question)) for number in range(times)]
        write(place.bootstrap, place.topics.queries, queries)

    return ask


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Open]:
    """Return a function that opens a page in a context; at the end the browser must not have complained."""
    opened: list[tuple[Page, Complaints]] = []

    def open_page(url: str, **options: object) -> Page:
        page = browser.new_context(**options).new_page()  # type: ignore[arg-type]
        page.set_default_timeout(LIMIT_MS)
        opened.append((page, Complaints(page)))
        page.goto(url)
        return page

    yield open_page
    for page, complaints in opened:
        page.context.close()
        assert complaints == []
