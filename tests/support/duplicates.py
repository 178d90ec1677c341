"""Several results of one query: harmless duplicates and contradictions."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .report import Report
    from .terminal import Terminal

IDENTICAL = "identical"
AGAIN = "run again"
OTHERWISE = "run again, other status"


def judge_duplicates(report: Report, terminals: Iterable[Terminal], asked_again: set[str]) -> None:
    """Compare the results of each query, and of each event id."""
    ids: dict[str, set[str]] = defaultdict(set)
    events: dict[str, list[Terminal]] = defaultdict(list)
    for terminal in terminals:
        ids[terminal.query_id].add(terminal.ce_id)
        events[terminal.ce_id].append(terminal)
    report.duplicates = sum(map(len, events.values())) - len(events)
    for query_id, found in ids.items():
        if len(found) > 1 and query_id not in asked_again:
            report.contradictions[query_id] = f"{len(found)} event ids for one query: {sorted(found)}"
    for ce_id, same in events.items():
        if len(same) < 2:
            continue
        if (why := contradiction(same)) is not None:
            report.contradictions[ce_id] = why
        else:
            report.harmless.update(_difference(same[0], other) for other in same[1:])


def contradiction(events: Sequence[Terminal]) -> str | None:
    """Return why terminal events of one id contradict; None when a reader may use any of them.

    Fields that depend on the record alone must be equal. A query run again may have ended otherwise, but
    two successes have one answer, and one run has one end.
    """
    for name in ("query_id", "source", "key", "lane", "rejected"):
        values = {getattr(event, name) for event in events}
        if len(values) > 1:
            return f"{name} differs: {sorted(map(str, values))}"
    if len({event.answer for event in events if event.status == "success"}) > 1:
        return "two successes with different answers"
    runs: dict[float, set[bytes]] = defaultdict(set)
    for event in events:
        if event.started_at is not None:
            runs[event.started_at].add(event.content)
    if any(len(contents) > 1 for contents in runs.values()):
        return "one run ended twice, differently"
    return None


def _difference(first: Terminal, other: Terminal) -> str:
    if first.content == other.content:
        return IDENTICAL
    return AGAIN if first.status == other.status else OTHERWISE
