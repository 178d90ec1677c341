"""The result of a run as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .schedule import Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from .runner import Outcome

MAX_SHOWN = 10
"""How many violations of each kind are listed."""


def markdown(outcome: Outcome) -> str:
    """Format the whole report."""
    plan = outcome.plan
    verdict = "Nothing promised was broken." if outcome.ok else "BROKEN, see below."
    command = f"make chaos SECONDS={plan.seconds:.0f} SEED={plan.seed}"
    intro = (
        f"Printed by `{command}`: three brokers, three instances in one group, {plan.rate:.0f} records a "
        f"second, and all of this happening to them. **{verdict}**"
    )
    lines = [
        "# Chaos",
        "",
        intro,
        "",
        "| what | figure |",
        "| --- | ---: |",
        *(f"| {name} | {value} |" for name, value in _rows(outcome)),
    ]
    troubles = list(_troubles(outcome))
    if troubles:
        lines += ["", *(f"- {trouble}" for trouble in troubles)]
    return "\n".join(lines) + "\n"


def _rows(outcome: Outcome) -> Iterator[tuple[str, object]]:
    report, history = outcome.report, outcome.history
    yield "records sent", outcome.sent
    yield "of these no queries", len(history.rejects or ())
    yield "queries", len(history.asked)
    for status, count in sorted(report.statuses.items()):
        yield f"terminal events: {status}", count
    yield from report.violations.items()
    for name in sorted(report.harmless):
        yield f"harmless duplicates: {name}", report.harmless[name]
    for name, count in sorted(report.surplus.items()):
        yield f"events of queries that were run again: {name}", count
    yield "ended while no instance was stopped or starved", len(report.lateness_s)
    yield "ended after its budget, 99th percentile, ms", _ms(report.lateness_s, 0.99)
    yield "ended after its budget, worst, ms", _ms(report.lateness_s, 1)
    yield "written after its budget, 99th percentile, ms", _ms(report.written_lateness_s, 0.99)
    yield "written after its budget, worst, ms", _ms(report.written_lateness_s, 1)
    yield "most queries running in an instance", _most(s.in_flight for s in history.samples)
    yield "most records unfinished in an instance", _most(s.unfinished for s in history.samples)
    yield "largest instance, MB", _most(s.rss_mb for s in history.samples)
    yield "commits", len(history.commits)
    yield "slowest end after SIGTERM, s", _most(e.took_s for e in history.endings)
    yield "instances that ended by themselves", len(outcome.deaths)
    yield "caught up after, s", "never" if outcome.catch_up_s is None else f"{outcome.catch_up_s:.1f}"
    for kind in Kind:
        yield f"fault: {kind.value}", outcome.done[kind]
    yield "broker faults left out", outcome.skipped


def _most(values: Iterable[float]) -> str:
    return f"{max(values, default=0.0):.0f}"


def _ms(ordered_s: list[float], share: float) -> str:
    """Return the lateness; 0 when it was in time."""
    if not ordered_s:
        return "-"
    value_s = ordered_s[min(len(ordered_s) - 1, int(len(ordered_s) * share))]
    return f"{max(0.0, value_s) * 1000:.0f}"


def _troubles(outcome: Outcome) -> Iterator[str]:
    report = outcome.report
    yield from outcome.problems
    yield from outcome.deaths
    for name, items in report.found.items():
        for item in items[:MAX_SHOWN]:
            yield f"{name}: {item}"
        if len(items) > MAX_SHOWN:
            yield f"{name}: and {len(items) - MAX_SHOWN} more"
