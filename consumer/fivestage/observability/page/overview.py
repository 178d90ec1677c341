"""The head of the page: which service this is, what needs a hand, and the figures that matter most."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fivestage.observability.page.elements import el, label, name, state
from fivestage.observability.status import attention
from fivestage.observability.status.numbers import NONE, clock, counted, ms, rate, seconds, share

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

    from fivestage.observability.status.attention import Sentence
    from fivestage.observability.status.model import Status, Window

STATES: Final = {"starting": "warning", "ready": "good", "unready": "bad", "draining": "warning"}
PIPELINE: Final = "lukhas_matriz_async_pipeline_total"
EXPIRED: Final = "fivestage_expired_total"
MAX_PROBLEMS: Final = 8
DURATION: Final = "lukhas_matriz_async_pipeline_duration_seconds"


def service(status: Status) -> list[Element]:
    """Return the line that says which process this is."""
    about = status["service"]
    kind = STATES[about["state"]] if about["live"] else "bad"
    words = [
        about["version"] + (" compiled" if about["compiled"] else ""),
        f"up {seconds(about['uptime_s'])}",
        counted(
            about["workers"], f"worker {about['executor']}" if about["executor"] == "thread" else "worker"
        ),
    ]
    return [
        state(kind, el("strong", about["state"])),
        el("span", "group ", name(about["group"])),
        el("span", "topic ", name(about["topic"])),
        el("span", counted(status["load"]["assigned"], "partition")),
        *(el("span", word) for word in words),
    ]


def problems(status: Status) -> list[Element]:
    """Return what needs attention, and which stage takes most of the time."""
    found = attention.problems(status)
    items = [_item(sentence) for sentence in found[:MAX_PROBLEMS]]
    if not found:
        items.append(el("li", state("good", "Nothing needs attention.")))
    if len(found) > MAX_PROBLEMS:
        items.append(el("li", f"And {len(found) - MAX_PROBLEMS} more."))
    if (most := attention.most_of_the_time(status)) is not None:
        items.append(_item(most))
    return items


def _item(sentence: Sentence) -> Element:
    kind, subject, rest, before = sentence
    return el("li", state(kind, el("span", before, el("b", name(subject)), name(rest))))


def figures(status: Status) -> list[Element]:
    """Return the figures on answers, each with its unit and its window."""
    rates, latency = status["rates"], status["latency"]
    objective = f"objective {share(status['objective'])}"
    return [
        *(_in_time(window, objective) for window in status["windows"]),
        _figure("p50", DURATION, ms(latency["p50_ms"]), "last 5 min"),
        _figure("p95", DURATION, ms(latency["p95_ms"]), f"of {ms(status['budget_ms'])}"),
        _figure("p99", DURATION, ms(latency["p99_ms"]), "last 5 min"),
        _figure("Answered", f'{PIPELINE}{{status="success"}}', rate(rates["answered"]), "last minute"),
        _figure("Timeouts", f'{PIPELINE}{{status="timeout"}}', rate(rates["timeouts"]), "last minute"),
        _figure("Errors", f'{PIPELINE}{{status="error"}}', rate(rates["errors"]), "last minute"),
        _figure(
            "Expired", f'{EXPIRED}{{reason="expired_before_start"}}', rate(rates["expired"]), "last minute"
        ),
        _figure("Rejected", f'{EXPIRED}{{reason="would_expire"}}', rate(rates["rejected"]), "last minute"),
        _figure("Dead letters", "fivestage_dead_letters_total", rate(rates["dead_letters"]), "last minute"),
    ]


def _in_time(window: Window, objective: str) -> Element:
    burn = window["burn_rate"]
    note = objective if burn is None else f"{objective}, budget burns {burn:.1f}x"
    text = f"In time, {seconds(window['window_s'])}"
    return _figure(
        text,
        f'{PIPELINE}{{status="success",within_budget="true"}}',
        share(window["in_time"]),
        note,
        class_="large",
    )


def _figure(text: str, metric: str, value: str, note: str, *, class_: str | None = None) -> Element:
    quiet = "zero" if value in {"0/s", NONE} else None
    return el(
        "div",
        el("dt", label(text, metric)),
        el("dd", el("b", value, class_=quiet), " ", el("small", note)),
        class_=class_,
    )


def updated(status: Status) -> list[Element]:
    """Return when the figures are from."""
    return [el("time", f"{clock(status['at'], status['at'])} UTC", datetime=status["at"])]
