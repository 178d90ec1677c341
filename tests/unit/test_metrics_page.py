"""The page of metrics is the table of metrics, and complete."""

from __future__ import annotations

import os

from support.documents import ROOT, text_of
from support.metrics_page import COMMAND, metrics_page

PAGE = "docs/metrics.md"


def test_the_page_is_written_from_the_table() -> None:
    """It is what the table makes of it; GOLDEN=add writes it."""
    if os.environ.get("GOLDEN"):
        (ROOT / PAGE).write_text(metrics_page(), encoding="utf-8")
    assert text_of(PAGE) == metrics_page(), f"{PAGE} is out of date: {COMMAND}"


def test_all_scraped_metrics_are_in_it() -> None:
    """Each metric that a running service has (``test_golden_metrics.py``) has a row."""
    scraped = [line.partition(": ") for line in text_of("tests/golden/metrics.txt").splitlines()]
    rows = {row.split("`")[1] for row in text_of(PAGE).splitlines() if row.startswith("| `")}
    assert rows == {name + "_total" * kind.startswith("counter") for name, _, kind in scraped}
