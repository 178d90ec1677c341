"""Where the budget goes: the five stages, one after another, on a ruler of the total budget."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fivestage.observability.page.elements import el, heading, label, table
from fivestage.observability.page.ruler import Ruler
from fivestage.observability.status.attention import busiest, limit_ms
from fivestage.observability.status.numbers import ms, share

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

    from fivestage.observability.status.model import Between, Percentiles, Stage, Status

DURATION: Final = "lukhas_matriz_async_stage_duration_seconds"
LIMIT: Final = "fivestage_stage_limit_seconds"
OUTCOMES: Final = "lukhas_matriz_async_stage_total"
BETWEEN: Final = "no stage runs: waiting for an event loop or a thread"
TROUBLE: Final = ("timeout", "error", "skipped")


def stages(status: Status) -> list[Element]:
    """Return the waterfall: each stage begins where the median of those before it ends."""
    ruler, start_ms, rows = Ruler(status["budget_ms"]), 0.0, []
    most = busiest(status)
    for stage in status["stages"]:
        rows.append(_row(stage, ruler, start_ms, busiest=stage is most))
        start_ms += stage["p50_ms"] or 0.0
    headings = [
        heading("Stage"),
        heading("p50", DURATION, class_="number"),
        heading("p95", DURATION, class_="number"),
        el(
            "th",
            el("span", "from the start to the end of the budget, in ms", class_="unseen"),
            ruler.scale(),
            scope="col",
            class_="drawn",
        ),
        heading("Limit", LIMIT, class_="number limits"),
        heading("Not successful", OUTCOMES, class_="trouble"),
    ]
    caption = "Duration and limit of each stage over the last 5 minutes"
    rows += [_between(status["between"], ruler, start_ms), _whole(status, ruler)]
    return [table(caption, headings, rows, class_="waterfall")]


def _row(stage: Stage, ruler: Ruler, start_ms: float, *, busiest: bool) -> Element:
    marks = _bars(ruler, start_ms, stage)
    if (limit := ruler.tick(start_ms + stage["learned_ms"])) is not None:
        marks.append(limit)
    return el(
        "tr",
        el("th", el("b", stage["stage"]) if busiest else stage["stage"], scope="row"),
        el("td", ms(stage["p50_ms"]), class_="number"),
        el("td", ms(stage["p95_ms"]), class_="number"),
        el("td", ruler.row(*marks), class_="drawn"),
        el("td", _limit(stage, ruler.end_ms), class_="number limits"),
        el("td", _outcomes(stage), class_="trouble"),
        data_key=stage["stage"],
    )


def _bars(ruler: Ruler, start_ms: float, of: Stage | Between | Percentiles) -> list[Element]:
    """Draw p50 over p95."""
    found = ((of["p95_ms"], "ghost"), (of["p50_ms"], "solid"))
    return [ruler.bar(start_ms, value, kind) for value, kind in found if value is not None]


def _between(between: Between, ruler: Ruler, start_ms: float) -> Element:
    share_of = between["share"]
    return el(
        "tr",
        el("th", label("between stages", BETWEEN), scope="row"),
        el("td", ms(between["p50_ms"]), class_="number"),
        el("td", ms(between["p95_ms"]), class_="number"),
        el("td", ruler.row(*_bars(ruler, start_ms, between)), class_="drawn"),
        el("td", class_="number limits"),
        el("td", "" if share_of is None else f"{share(share_of)} of the time", class_="trouble"),
        data_key="between stages",
    )


def _limit(stage: Stage, budget_ms: float) -> Element:
    now_ms = limit_ms(stage, budget_ms)
    limit = el("span", ms(now_ms))
    if round(now_ms) != round(stage["limit_ms"]):
        limit.append(el("small", f" learned, set {ms(stage['limit_ms'])}"))
    return limit


def _outcomes(stage: Stage) -> Element:
    """Return the shares of what was not a success."""
    shares = [(outcome, stage["outcomes"].get(outcome, 0.0)) for outcome in TROUBLE]
    found = el("span", class_="outcomes")
    for outcome, value in shares:
        if value:
            found.append(el("span", f"{outcome} {share(value)}", class_=f"outcome {outcome}"))
    if not len(found):
        found.text = "none" if stage["ended"] else "no calls"
    return found


def _whole(status: Status, ruler: Ruler) -> Element:
    latency = status["latency"]
    return el(
        "tr",
        el("th", "whole query", scope="row"),
        el("td", ms(latency["p50_ms"]), class_="number"),
        el("td", ms(latency["p95_ms"]), class_="number"),
        el("td", ruler.row(*_bars(ruler, 0.0, latency)), class_="drawn"),
        el("td", ms(status["budget_ms"]), class_="number limits"),
        el("td", f"p99 {ms(latency['p99_ms'])}", class_="trouble"),
        class_="whole",
        data_key="whole query",
    )
