"""The status page of a real service in a real browser: what it shows, and when the service goes."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from fivestage.observability.status.feed import MAX_STREAMS
from support.feeder import Feeder
from support.page_app import HOSTILE

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from support.embedded import Installation
    from support.process import ServiceProcess

    from .conftest import Ask, Open

expect = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed").expect
pytestmark = pytest.mark.broker
LIMIT_MS = 30_000
BLUE_PIXELS = """(title) => {
    const charts = [...document.querySelectorAll("#charts > div")];
    const chart = charts.find((one) => one.textContent.startsWith(title));
    const canvas = chart.querySelector("canvas");
    const other = new OffscreenCanvas(canvas.width, canvas.height);
    const copy = other.getContext("2d", { willReadFrequently: true });
    copy.drawImage(canvas, 0, 0);
    const { data } = copy.getImageData(0, 0, canvas.width, canvas.height);
    let count = 0;
    for (let at = 0; at < data.length; at += 4) count += data[at + 3] > 0 && data[at + 2] > data[at] + 100;
    return count;
}"""
"""A function of the page: how many pixels of a chart have the colour of its line."""


def test_a_node_that_fails(address: str, ask: Ask, open_page: Open, place: Installation) -> None:
    """The open page shows that a breaker opens, since when and why, and a query that failed."""
    page = open_page(address)
    expect(page.locator("#connection")).to_have_text("Live")
    ask("facts", times=5, prefix="good")
    row = page.locator("#nodes tbody tr", has_text="facts")
    expect(row).to_contain_text("closed", timeout=LIMIT_MS)
    page.evaluate("document.body.dataset.same = 'page'")
    with Feeder(place.bootstrap, place.topics.queries, count=200, rate=40, user_input="pricing fail"):
        expect(page.locator("#problems")).to_contain_text("pricing is broken since", timeout=LIMIT_MS)
    expect(page.locator("#problems")).to_contain_text("ConnectionError at page_app.py:")
    expect(page.locator("#nodes tbody tr").first).to_contain_text("pricing")
    expect(page.locator("#changes")).to_contain_text("pricing: breaker opened")
    expect(page.locator("#recent li").first).to_contain_text("ConnectionError")
    assert page.title().startswith("(")
    assert page.evaluate("document.body.dataset.same") == "page"


def test_a_burst_is_in_the_charts(address: str, ask: Ask, open_page: Open) -> None:
    """Queries within one interval, before and after which there are none, are a point in the charts."""
    page = open_page(address)
    expect(page.locator("#connection")).to_have_text("Live", timeout=LIMIT_MS)
    assert [page.evaluate(BLUE_PIXELS, title) for title in ("In time", "p50 and p95, ms")] == [0, 0]
    ask("facts")
    for title in ("In time", "p50 and p95, ms"):
        while not page.evaluate(BLUE_PIXELS, title):  # until the limit of the test
            page.wait_for_timeout(100)


def test_a_query_by_keyboard(address: str, ask: Ask, open_page: Open) -> None:
    """A row is opened with keys, stays open when others replace it, and its command can be copied."""
    ask("pricing fail", prefix="first")
    page = open_page(address, permissions=["clipboard-read", "clipboard-write"])
    first = page.locator("#recent li", has_text="ConnectionError").first
    expect(first).to_be_visible(timeout=LIMIT_MS)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    first.locator("summary").focus()
    page.keyboard.press("Enter")
    expect(first.locator(".attempts")).to_be_visible()
    for number in range(4):  # more than are kept of a kind
        ask("pricing fail", prefix=f"later-{number}")
    expect(page.locator("#recent")).to_contain_text("later-3", timeout=LIMIT_MS)
    opened = page.locator("#recent details[open]")
    expect(opened).to_contain_text("first-0")
    assert page.evaluate("document.activeElement.closest('details').open") is True
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(opened.locator(".copy")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == "fivestage explain first-0"


def test_names_are_not_run(address: str, ask: Ask, open_page: Open) -> None:
    """A node whose name is HTML is shown as that text, and loads and runs nothing."""
    ask("hostile", times=3)
    page = open_page(address)
    expect(page.locator("#nodes")).to_contain_text(HOSTILE, timeout=LIMIT_MS)
    assert page.locator("main img").count() == 0


def test_without_script(address: str, ask: Ask, open_page: Open) -> None:
    """Without JavaScript the page is a snapshot with all figures; rows open all the same."""
    ask("pricing fail", prefix="bad")
    ask("facts", times=3, prefix="good")
    live = open_page(address)
    expect(live.locator("#recent li")).to_have_count(1, timeout=LIMIT_MS)
    page = open_page(address, java_script_enabled=False)
    expect(page.locator("#connection")).to_have_text("Snapshot")
    expect(page.locator("#nodes tbody tr")).to_have_count(2)
    expect(page.locator("#stages tbody tr")).to_have_count(7)
    page.locator("#recent summary").click()
    expect(page.locator("#recent .command")).to_contain_text("fivestage explain bad-0")
    expect(page.locator(".copy")).to_be_hidden()


def test_the_service_goes_and_returns(service: ServiceProcess, address: str, browser: Browser) -> None:
    """When the service ends the page says so and keeps its figures; it goes on when the service is back."""
    page = browser.new_context().new_page()  # not open_page: the browser complains of lost connections
    page.goto(address)
    expect(page.locator("#connection")).to_have_text("Live", timeout=LIMIT_MS)
    port = service.log[-1]["admin_port"]
    service.end()
    expect(page.locator("#connection")).to_contain_text("No connection to the service", timeout=LIMIT_MS)
    expect(page.locator("#service")).to_contain_text("4 partitions")  # ready, or draining as it ended
    service._settings["admin.port"] = port
    service.launch()
    service.wait_for("ready")
    expect(page.locator("#connection")).to_have_text("Live", timeout=LIMIT_MS)
    page.context.close()


def test_too_many_pages(address: str, browser: Browser, open_page: Open) -> None:
    """A page beyond the limit of streams says so, and gets updates when another one closes."""
    others = [open_page(address) for _ in range(MAX_STREAMS)]
    for page in others:
        expect(page.locator("#connection")).to_have_text("Live", timeout=LIMIT_MS)
    late = browser.new_context().new_page()  # not open_page: the browser complains of the refusal
    late.goto(address)
    expect(late.locator("#connection")).to_contain_text("too many pages", timeout=LIMIT_MS)
    expect(late.locator("#service")).to_contain_text("ready")
    others[0].close()
    expect(late.locator("#connection")).to_have_text("Live", timeout=LIMIT_MS)
    late.context.close()


def test_a_service_that_hangs(service: ServiceProcess, address: str, open_page: Open) -> None:
    """When the service is there and sends nothing, the page says that its figures are old."""
    page = open_page(address)
    expect(page.locator("#connection")).to_have_text("Live")
    assert service.process is not None
    service.process.send_signal(signal.SIGSTOP)
    try:
        expect(page.locator("#connection")).to_contain_text("sends no updates", timeout=LIMIT_MS)
    finally:
        service.process.send_signal(signal.SIGCONT)
    expect(page.locator("#connection")).to_have_text("Live", timeout=LIMIT_MS)
