"""The last queries that were slow, late or failed, each with its own waterfall; and what changed."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Final

from fivestage.observability.page.elements import el, heading, name, state, table
from fivestage.observability.page.ruler import Ruler
from fivestage.observability.status.numbers import NONE, clock, count, ms, place

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

    from fivestage.observability.status.model import Attempt, Event, RecentQuery, Status

MAX_EVENTS: Final = 30
KINDS: Final = {"error": "bad", "timeout": "bad"}
WORDS: Final = {"success": "slow"}
MAX_FIELDS: Final = 3
FIELDS: Final = ("reason", "error_type", "where", "blocked_ms", "count", "lane")
"""Of a line in the log those that come first, in this order."""
HIDDEN: Final = {"query_id", "trace_id", "span_id"}
LEVELS: Final = {"error": "bad", "critical": "bad", "warning": "warning"}


def recent(status: Status) -> list[Element]:
    """Return the queries, those that failed before those that were slow; each opens its details."""
    found = sorted(status["recent"], key=_is_slow)
    if not found:
        return [el("p", "No query was slow, late or failed.", class_="empty")]
    return [el("ol", *(_query(query, status["at"]) for query in found), class_="queries")]


def _is_slow(query: RecentQuery) -> bool:
    return query["status"] == "success" and not query["degraded"]


def _query(query: RecentQuery, now: str) -> Element:
    words = "degraded" if query["degraded"] else WORDS.get(query["status"], query["status"])
    step = " · ".join(part for part in (query["stage"], query["node"]) if part)
    error = " at ".join(part for part in (query["error_type"], place(query["where"] or "")) if part)
    summary = el(
        "summary",
        el("time", clock(query["at"], now), datetime=query["at"]),
        state(KINDS.get(query["status"], "warning"), words),
        el("span", ms(query["duration_ms"]), class_="number"),
        el("span", name(step), class_="place"),
        el("span", name(error or query["query_id"]), class_="error"),
    )
    details = el("details", summary, *_details(query))
    return el("li", details, data_key=f"{query['at']} {query['query_id']}")


def _details(query: RecentQuery) -> list[Element]:
    budget = f"; budget {ms(query['budget_ms'])}" if query["budget_ms"] else ""  # unknown if it did not start
    facts = [
        ("Why", name(query["why"])),
        ("Where", el("code", name(query["where"])) if query["where"] else None),
        ("Query", el("code", name(query["query_id"]))),
        ("Lane", name(query["lane"])),
        ("Waited", el("span", f"{ms(query['queue_ms'])} for its start{budget}")),
        ("Trace", el("code", query["trace_id"] or NONE)),
        ("Input", name(query["text"]) if query["text"] is not None else None),
        ("Explain", _command(query["query_id"])),
    ]
    listed = [el("div", el("dt", term), el("dd", fact)) for term, fact in facts if fact is not None]
    return [_attempts(query), el("dl", *listed, class_="facts")]


def _command(query_id: str) -> Element | None:
    """Return the command that explains a query, quoted for a shell; None if it cannot be typed."""
    if not query_id.isprintable():
        return None
    end_of_options = "-- " if query_id.startswith("-") else ""
    command = el("code", f"fivestage explain {end_of_options}{shlex.quote(query_id)}")
    return el("span", command, el("button", "Copy", type="button", class_="copy"), class_="command")


def _attempts(query: RecentQuery) -> Element:
    ends = [(one["start_ms"] or 0.0) + one["duration_ms"] for one in query["attempts"]]
    ruler = Ruler(max([query["budget_ms"], query["duration_ms"], *ends]))
    headings = [
        heading("Stage"),
        heading("Outcome"),
        heading("Took", class_="number"),
        el(
            "th",
            el("span", "since the start of the query, in ms", class_="unseen"),
            ruler.scale(),
            scope="col",
            class_="drawn",
        ),
    ]
    rows = [_attempt(one, ruler) for one in query["attempts"]]
    return table("The calls that were made for the query", headings, rows, class_="waterfall attempts")


def _attempt(one: Attempt, ruler: Ruler) -> Element:
    marks, start_ms = [], one["start_ms"]
    if start_ms is not None:
        kind = "solid" if one["outcome"] == "success" else "failed"
        marks.append(ruler.bar(start_ms, one["duration_ms"], kind))
        if (limit := ruler.tick(start_ms + one["limit_ms"])) is not None:
            marks.append(limit)
    error = one["error_type"] if one["error_type"] != one["outcome"] else None
    again = f", {one['kind']}" if one["attempt"] > 1 else ""
    return el(
        "tr",
        el("th", one["stage"], el("small", " ", name((one["node"] or "") + again)), scope="row"),
        el("td", one["outcome"], el("small", " ", name(error or ""))),
        el("td", ms(one["duration_ms"]) if start_ms is not None else "not run", class_="number"),
        el("td", ruler.row(*marks, lines=False), class_="drawn"),
    )


def changes(status: Status) -> list[Element]:
    """Return what changed, the newest first."""
    found = status["events"][:MAX_EVENTS]
    if not found:
        return [el("p", "Nothing has changed since the start.", class_="empty")]
    return [el("ol", *(_event(event, status["at"]) for event in found), class_="events")]


def _event(event: Event, now: str) -> Element:
    kind = LEVELS.get(event["level"], "quiet")
    when = el("time", clock(event["at"], now), datetime=event["at"])
    fields = {field: value for field, value in event["fields"].items() if field not in HIDDEN}
    subject = fields.pop("node", None) or fields.pop("stage", None)
    text = event["text"] if subject is None else f"{subject}: {event['text']}"
    if event["times"] > 1:
        text += f" ({count(event['times'])} times)"
    order = [field for field in FIELDS if field in fields] + [one for one in fields if one not in FIELDS]
    more = ", ".join(_field(field, fields[field]) for field in order[:MAX_FIELDS])
    words = el("span", name(text), el("small", " ", name(more)))
    return el("li", when, state(kind, words), data_key=f"{event['at']} {event['text']}")


def _field(field: str, value: object) -> str:
    if field == "where":
        return f"at {place(str(value))}"
    return str(value) if field in {"reason", "error_type"} else f"{field} {value}"
