"""The status page on a phone, with a screen reader, without a mouse; and open for a long time."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from fivestage.observability.page.document import Page as Renderer
from support.page_document import failed_query, node, status_document

if TYPE_CHECKING:
    from playwright.sync_api import CDPSession, Page

    from .conftest import Ask, Open

expect = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed").expect
pytestmark = pytest.mark.broker
LIMIT_MS = 30_000
WARM, UPDATES = 300, 600
CHECKS = {
    "what takes focus has no name": """
        [...document.querySelectorAll('a, button, summary, [tabindex="0"], section')]
        .filter((one) => !one.textContent.trim() && !one.getAttribute('aria-label'))""",
    "refers to an element that is not there": """
        [...document.querySelectorAll('[aria-labelledby]')]
        .filter((one) => document.getElementById(one.getAttribute('aria-labelledby')) === null)""",
    "an id is used twice": """
        [...document.querySelectorAll('[id]')]
        .filter((one) => document.querySelectorAll('#' + one.id).length > 1)""",
    "a table has no caption, or a row no heading": """
        [...document.querySelectorAll('table')]
        .filter((one) => !one.caption || [...one.rows].some((row) => !row.querySelector('th[scope]')))""",
    "a picture is not hidden from screen readers": """
        [...document.querySelectorAll('svg, canvas')].filter((one) => !one.closest('[aria-hidden=true]'))""",
}
WIDE = """
    [...document.querySelectorAll("main *")]
    .filter((one) => !one.closest('.scroll, .unseen, .waterfall thead')
    && one.getBoundingClientRect().right > innerWidth + 1)"""
MOVING = """
    [...document.querySelectorAll('*')]
    .filter((one) => getComputedStyle(one).transitionDuration !== '0s')"""
REPEAT = """([changes, times]) => {
    for (let number = 0; number < times; number++) update(changes[number % changes.length]);
}"""


@pytest.fixture
def page(address: str, ask: Ask, open_page: Open) -> Page:
    """Open the page of a service that has something to show."""
    ask("pricing fail", prefix="bad")
    ask("facts", times=3, prefix="good")
    page = open_page(address, viewport={"width": 1280, "height": 900})
    expect(page.locator("#recent .queries > li")).to_have_count(1, timeout=LIMIT_MS)
    return page


def show(page: Page, document: Any) -> None:
    """Show a document instead of what the service sends, with all that is folded."""
    page.evaluate("blocks => { stream.close(); update(blocks); }", Renderer().blocks(document))
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")


def elements(page: Page, expression: str) -> list[str]:
    """Return the beginnings of elements."""
    found: list[str] = page.evaluate(f"{expression}.map((one) => one.outerHTML.slice(0, 90))")
    return found


@pytest.mark.parametrize("width", [320, 360, 768, 1280])
def test_nothing_is_wider_than_the_screen(page: Page, width: int) -> None:
    """From a small phone to a laptop the page never scrolls sideways, not even with long names."""
    document = status_document()
    document["nodes"].append(node("a-node-with-quite-a-long-name-" * 4, broken=True))
    document["recent"].append(failed_query("a-query-with-quite-a-long-id-" * 8))
    page.set_viewport_size({"width": width, "height": 800})
    show(page, document)
    assert elements(page, WIDE) == []
    assert page.evaluate("document.scrollingElement.scrollWidth") <= width


def test_figures_come_first_on_a_phone(page: Page) -> None:
    """The nodes are above the charts where there is one column."""
    page.set_viewport_size({"width": 360, "height": 800})
    show(page, status_document())
    nodes, charts = (page.locator(block).bounding_box() for block in ("#nodes", "#charts"))
    assert nodes is not None
    assert charts is not None
    assert nodes["y"] < charts["y"]


def test_what_a_screen_reader_finds(page: Page) -> None:
    """Landmarks, headings, tables with captions and headings, and names for all that takes focus."""
    show(page, status_document())
    for landmark in ("banner", "main", "contentinfo"):
        expect(page.get_by_role(landmark)).to_have_count(1)
    expect(page.get_by_role("heading", level=1)).to_have_count(1)
    for problem, expression in CHECKS.items():
        assert elements(page, expression) == [], problem
    page.set_viewport_size({"width": 360, "height": 800})  # where tables are laid out otherwise
    stages = page.get_by_role("table", name="Duration and limit of each stage")
    expect(stages.get_by_role("row")).to_have_count(8)
    expect(stages.get_by_role("rowheader", name="processing")).to_have_count(1)


def test_a_label_names_its_metric(page: Page) -> None:
    """A label shows the metric on focus, by keyboard alone."""
    label = page.locator("#figures .label").first
    metric = label.get_by_role("tooltip", include_hidden=True)
    expect(metric).to_be_hidden()
    label.focus()
    expect(metric).to_be_visible()
    expect(metric).to_contain_text("lukhas_matriz_async_pipeline_total")


def test_reduced_motion(page: Page) -> None:
    """Nothing moves where the user asks for less motion."""
    page.emulate_media(reduced_motion="no-preference")
    assert elements(page, MOVING) != []
    page.emulate_media(reduced_motion="reduce")
    assert elements(page, MOVING) == []


def test_charts_follow_the_colour_scheme(page: Page) -> None:
    """There is one chart for each series, before and after the scheme changes."""
    expect(page.locator("#charts canvas")).to_have_count(5)
    page.evaluate("document.querySelector('#charts canvas').dataset.before = 'yes'")
    page.emulate_media(color_scheme="dark")
    expect(page.locator("#charts canvas[data-before]")).to_have_count(0)
    expect(page.locator("#charts canvas")).to_have_count(5)


def test_an_open_page_does_not_grow(page: Page) -> None:
    """After many updates in which rows come and go, it holds no more memory and elements than before."""
    renderer = Renderer()
    blocks = [renderer.blocks(document) for document in documents()]
    changes = [
        {name: html for name, html in now.items() if html != before[name]}
        for before, now in pairwise([blocks[-1], *blocks])
    ]
    session = page.context.new_cdp_session(page)
    page.evaluate("stream.close()")
    page.evaluate(REPEAT, [changes, WARM])
    before = usage(session)
    page.evaluate(REPEAT, [changes, UPDATES])
    later = usage(session)
    assert later["Nodes"] <= before["Nodes"] + 20
    assert later["JSEventListeners"] <= before["JSEventListeners"] + 2
    assert later["JSHeapUsedSize"] <= before["JSHeapUsedSize"] + 200_000


def documents() -> list[Any]:
    """Build documents whose rows come and go."""
    found = []
    for number in range(60):
        document = copy.deepcopy(status_document())
        document["at"] = f"2026-05-04T14:02:{number:02d}.000Z"
        document["nodes"] = [node(f"node-{index}") for index in range(number % 7)]
        document["recent"] = [failed_query(f"q-{number}-{index}") for index in range(number % 20)]
        document["load"]["running"] = number
        document["series"]["running"] = [number // 5] * len(document["series"]["running"])
        document["events"] = [
            {"at": document["at"], "level": "info", "text": f"change {index}", "times": 1, "fields": {}}
            for index in range(number % 30)
        ]
        found.append(document)
    return found


def usage(session: CDPSession) -> dict[str, float]:
    """Return what the page holds after a garbage collection."""
    session.send("HeapProfiler.enable")
    session.send("Performance.enable")
    for _ in range(2):
        session.send("HeapProfiler.collectGarbage")
    return {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}
