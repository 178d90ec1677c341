"""The series as a table: what the script draws charts from, and what screen readers read."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from fivestage.observability.page.elements import el, heading, table
from fivestage.observability.page.numbers import NONE, count, ms, rate, share

if TYPE_CHECKING:
    from collections.abc import Callable
    from xml.etree.ElementTree import Element

    from fivestage.observability.status.model import Status

HEADINGS: Final = ("Time, UTC", "In time", "Ended", "p50", "p95", "Running", "Lag")


def complete(status: Status) -> object:
    """Return what changes when an interval ends, and not before."""
    points = status["series"]
    return points["started_at"], len(points["ended"])


def series(status: Status) -> list[Element]:
    """Return one row for each complete interval, the oldest first."""
    points = status["series"]
    interval_s = points["interval_s"]
    begin = datetime.fromisoformat(points["started_at"])
    ended = [ended / interval_s for ended in points["ended"]]
    others = points["p50_ms"], points["p95_ms"], points["running"], points["lag"]
    values = list(zip(points["in_time"], ended, *others, strict=True))[:-1]
    rows = [_row(begin + timedelta(seconds=interval_s * number), row) for number, row in enumerate(values)]
    caption = f"The last {len(rows)} intervals of {interval_s:g} s"
    return [table(caption, [heading(text) for text in HEADINGS], rows)]


def _row(begin: datetime, values: tuple[float | None, ...]) -> Element:
    writers: tuple[Callable[..., str], ...] = (share, rate, ms, ms, count, count)
    cells = [_cell(value, write) for value, write in zip(values, writers, strict=True)]
    at = f"{begin.timestamp():.0f}"
    return el("tr", el("th", el("data", f"{begin:%H:%M:%S}", value=at), scope="row"), *cells, data_key=at)


def _cell(value: float | None, write: Callable[..., str]) -> Element:
    """Return a cell whose ``data`` has the value without its unit."""
    return el("td", NONE if value is None else el("data", write(value), value=f"{value:g}"))
