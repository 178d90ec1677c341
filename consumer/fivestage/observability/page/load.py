"""What runs, what waits, and whether work arrives faster than it leaves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fivestage.observability.page.elements import el, fold, heading, label, name, state, table
from fivestage.observability.status.attention import abandoned
from fivestage.observability.status.numbers import NONE, SPACE, clock, count, counted, ms, place, seconds

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

    from fivestage.observability.status.model import BlockedBy, Lag, Partition, Status

MAX_PARTITIONS: Final = 200
BLOCKED: Final = "fivestage_blocked_event_loops_total"
OTHER_CODE: Final = ("other code", "other code, or no CPU")
ARROWS: Final = {"falling": "↘", "steady": "→", "rising": "↗"}


def load(status: Status) -> list[Element]:
    """Return what runs and waits, and the lag; then, folded, the partitions and the workers."""
    now, lag = status["load"], status["lag"]
    return [
        el(
            "dl",
            _figure("Running", "fivestage_in_flight", count(now["running"]), "queries, now"),
            _figure(
                "Limit",
                "fivestage_concurrency_limit",
                count(now["limit"]),
                f"learned, at most {count(now['max_in_flight'])}",
            ),
            _figure(
                "Waiting", "fivestage_waiting", count(now["waiting"]), f"oldest {ms(now['oldest_wait_ms'])}"
            ),
            _figure("Unfinished", "fivestage_unfinished", count(now["in_flight"]), "records, read in"),
            _figure("Lag", "fivestage_lag", count(lag["records"]), _trend(lag)),
            class_="figures",
        ),
        _partitions(status),
        _workers(status),
    ]


def _figure(text: str, metric: str, value: str, note: str) -> Element:
    return el("div", el("dt", label(text, metric)), el("dd", el("b", value), " ", el("small", note)))


def _trend(lag: Lag) -> str:
    if not lag["records"]:
        return "all taken in"
    text = f"{ARROWS[lag['trend']]} {lag['trend']}"
    return text if lag["catch_up_s"] is None else f"{text}, gone in {seconds(max(lag['catch_up_s'], 1.0))}"


def _partitions(status: Status) -> Element:
    found = sorted(
        status["partitions"], key=lambda one: (not one["halted"], -one["records"], one["partition"])
    )
    summary = f"Partitions: {count(status['load']['assigned'])}{SPACE}assigned"
    headings = [
        heading("Partition"),
        heading("Lag", "fivestage_lag", class_="number"),
        heading("Trend", class_="wide"),
        heading("Not committed", "fivestage_uncommitted_span", class_="number"),
        heading("State", "fivestage_partition_halted"),
    ]
    rows = [_partition(one) for one in found[:MAX_PARTITIONS]]
    return fold(
        summary, table("Lag of each assigned partition, in records", headings, rows), key="partitions"
    )


def _partition(one: Partition) -> Element:
    which = f"{one['topic']}/{one['partition']}"
    return el(
        "tr",
        el("th", name(which), scope="row"),
        el("td", count(one["records"]), class_="number"),
        el("td", _trend(one), class_="wide"),
        el("td", count(one["uncommitted"]), class_="number"),
        el("td", state("bad", "halted") if one["halted"] else state("good", "read")),
        data_key=which,
    )


def _workers(status: Status) -> Element:
    workers = status["workers"]
    calls = workers["abandoned"]
    summary = (
        f"Workers: replaced {count(workers['replaced'])}, blocked {count(workers['blocked'])}, "
        f"{counted(len(calls), 'abandoned call')}"
    )
    rows = [
        ("Replaced", "fivestage_replaced_executors_total", count(workers["replaced"])),
        ("Blocked event loops", BLOCKED, count(workers["blocked"])),
        ("Bus loop, delay", "fivestage_event_loop_lag_seconds", ms(workers["bus_lag_ms"])),
        ("Executor loops, delay", "fivestage_event_loop_lag_seconds", ms(workers["executor_lag_ms"])),
        ("Abandoned calls", "fivestage_abandoned_tasks", ", ".join(map(abandoned, calls)) or NONE),
    ]
    body = [
        el("tr", el("th", label(text, metric), scope="row"), el("td", name(value)))
        for text, metric, value in rows
    ]
    figures = table("Workers since the start", [heading("Figure"), heading("Value")], body)
    return fold(summary, figures, *_blocked(workers["blocked_by"], status["at"]), key="workers")


def _blocked(found: list[BlockedBy], now: str) -> list[Element]:
    """Return whose code has blocked an event loop, if any."""
    headings = [
        heading("Blocks the event loop", BLOCKED),
        heading("Times in 5 min", class_="number"),
        heading("Last", class_="number"),
        heading("Where", class_="wide"),
    ]
    rows = [
        el(
            "tr",
            el("th", name(one["name"] or OTHER_CODE[one["where"] is None]), scope="row"),
            el("td", count(one["count"]), class_="number"),
            el("td", clock(one["at"], now), class_="number"),
            el("td", name(place(one["where"] or "")), class_="wide"),
            data_key=one["name"] or "other code",
        )
        for one in found
    ]
    return [table("Code that blocks event loops", headings, rows)] if rows else []
