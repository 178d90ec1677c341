"""The series: all points as data for the charts, and some of them as a table for readers."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

import orjson

from fivestage.observability.page.elements import el, heading, table
from fivestage.observability.status.numbers import NONE, count, ms, rate, share

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from xml.etree.ElementTree import Element

    from fivestage.observability.status.model import Status

ROWS: Final = 30
"""At most, over the whole time."""
WRITERS: Final[tuple[Callable[[float], str], ...]] = (share, rate, ms, ms, count, count)
HEADINGS: Final = ("Time, UTC", "In time", "Ended", "p50", "p95", "Running", "Lag")


def series(status: Status) -> list[Element]:
    """Return the points: ``data`` has one list for each heading as JSON, times in seconds since the epoch."""
    points = status["series"]
    interval_s, number = points["interval_s"], len(points["ended"])
    begin = datetime.fromisoformat(points["started_at"])
    times = [begin + timedelta(seconds=interval_s * index) for index in range(number)]
    columns: list[Sequence[float | None]] = [
        points["in_time"],
        [ended / interval_s for ended in points["ended"]],
        points["p50_ms"],
        points["p95_ms"],
        points["running"],
        points["lag"],
    ]
    every = -(-number // ROWS) or 1
    rows = [
        _row(f"{times[index]:%H:%M:%S}", (column[index] for column in columns))
        for index in range(number - 1, -1, -every)
    ]
    data = orjson.dumps([[round(time.timestamp()) for time in times], *columns]).decode()
    caption = f"One of {every} points of {interval_s:g} s, the newest first"
    return [el("data", value=data, id="points"), table(caption, [heading(text) for text in HEADINGS], rows)]


def _row(at: str, values: Iterable[float | None]) -> Element:
    cells = [NONE if value is None else write(value) for write, value in zip(WRITERS, values, strict=True)]
    return el("tr", el("th", at, scope="row"), *(el("td", cell) for cell in cells))
