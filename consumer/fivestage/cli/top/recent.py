"""The blocks of the last slow, late and failed queries, and of what changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich.text import Text

from fivestage.cli.rows import status_text
from fivestage.cli.ruler import bar_line
from fivestage.cli.timeline import Step, Timeline
from fivestage.cli.top.words import HEADING, cells, headed, ms
from fivestage.observability.status.numbers import clock, place

if TYPE_CHECKING:
    from fivestage.observability.status.model import Event, RecentQuery, Status

WIDE: Final = 110
"""From this width on, each query has a waterfall of its own."""
WATERFALL_CELLS: Final = 25
ID_CELLS: Final = 16
FIRST: Final = ("node", "where", "error_type", "count", "reason")
"""The fields of an event that are shown before the others, since a line may be cut."""
LEVEL_STYLES: Final = {"warning": "yellow", "error": "red", "critical": "red"}


def recent(status: Status, width: int, *, unicode: bool) -> list[Text]:
    """Return a line for each slow, late or failed query, the newest first."""
    lines = [headed("LAST SLOW, LATE, FAILED", " fivestage explain ID says more", "dim")]
    lines += [_query(query, status["at"], width, unicode=unicode) for query in status["recent"]]
    return lines if len(lines) > 1 else []


def _query(query: RecentQuery, now: str, width: int, *, unicode: bool) -> Text:
    status = "degraded" if query["degraded"] and query["status"] == "success" else query["status"]
    line = Text.assemble((f"{clock(query['at'], now)} ", "dim"), cells(query["query_id"], ID_CELLS), " ")
    line.append_text(cells(status_text(status), 9))
    line.append(f"{ms(query['duration_ms']):>6} ms ")
    if width >= WIDE:
        line.append_text(bar_line(_timeline(query), WATERFALL_CELLS, unicode=unicode)).append(" ")
    line.append(query["why"])
    return line if query["text"] is None else line.append(f"  {query['text']}", "dim")


def _timeline(query: RecentQuery) -> Timeline:
    steps = [
        Step(
            attempt["stage"],
            attempt["outcome"],
            attempt["node"],
            start_ms=attempt["start_ms"],
            duration_ms=attempt["duration_ms"],
            limit_ms=attempt["limit_ms"],
            error_type=attempt["error_type"],
        )
        for attempt in query["attempts"]
    ]
    return Timeline(steps, query["budget_ms"], query["duration_ms"])


def changes(status: Status) -> list[Text]:
    """Return a line for each change that the service has logged, the newest first."""
    lines = [Text("WHAT CHANGED", HEADING)]
    lines += [_event(event, status["at"]) for event in status["events"]]
    return lines if len(lines) > 1 else []


def _event(event: Event, now: str) -> Text:
    said = event["text"], LEVEL_STYLES.get(event["level"], "")
    line = Text.assemble((f"{clock(event['at'], now)} ", "dim"), said)
    if (times := event["times"]) > 1:
        line.append(f" ({times} times)")
    given = event["fields"]
    order = [name for name in FIRST if name in given] + [name for name in given if name not in FIRST]
    fields = " ".join(
        f"{name}={place(str(given[name])) if name == 'where' else given[name]}"
        for name in order
        if str(given[name]) not in event["text"]
    )
    return line.append(f"  {fields}" if fields else "", "dim")
