"""Lateness of queries and events, resource use, and exits of instances."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .history import History, Interval, Sample
    from .report import Limits, Report
    from .terminal import Terminal


def judge_lateness(report: Report, history: History, terminals: Iterable[Terminal], limits: Limits) -> None:
    """Check lateness: only a stopped or starved instance may end its queries late."""
    excuses = _Excuses(history)
    outages = merged(history.outages)
    for event in terminals:
        if event.started_at is None or excuses.hold(event, event.finished_at):
            continue
        due = event.started_at + event.budget_s
        late_s, written_late_s = event.finished_at - due, event.written_at - due
        report.lateness_s.append(late_s)
        if limits.late_s is not None and late_s > limits.late_s:
            report.late.append(f"{event.ce_id} ended {late_s:.3f} s after its budget")
        if meets(outages, event.started_at, event.written_at) or excuses.hold(event, event.written_at):
            continue
        report.written_lateness_s.append(written_late_s)
        if limits.written_late_s is not None and written_late_s > limits.written_late_s:
            report.late.append(f"{event.ce_id} was written {written_late_s:.3f} s after its budget")
    report.lateness_s.sort()
    report.written_lateness_s.sort()


class _Excuses:
    """Intervals in which queries may end late, by their instance.

    Events do not name their instance. It is one that had the query's partition, by its own account, when the
    query started, and that was not stopped at that moment. There may be two of them for a short while: after
    an instance was continued and before it notices that it lost the partition.
    """

    def __init__(self, history: History) -> None:
        self._tenures = history.tenures
        self._pauses = history.pauses
        both = [*history.pauses, *history.starved]
        self._all = merged(both)
        self._of = {
            tenure.instance: merged(one for one in both if one.instance in {"", tenure.instance})
            for tenure in history.tenures
        }

    def hold(self, event: Terminal, until: float) -> bool:
        assert event.started_at is not None
        instances = self._may_have_run(event.source[0], event.started_at)
        if not instances:  # not known
            return meets(self._all, event.started_at, until)
        return any(meets(self._of[instance], event.started_at, until) for instance in instances)

    def _may_have_run(self, partition: int, at: float) -> set[str]:
        had = {t.instance for t in self._tenures if t.partition == partition and t.begin <= at <= t.end}
        return {
            instance
            for instance in had
            if not any(p.instance == instance and p.begin < at < p.continued for p in self._pauses)
        }


def merged(intervals: Iterable[Interval]) -> list[Interval]:
    """Merge into disjoint intervals, in order."""
    found: list[Interval] = []
    for interval in sorted(intervals):
        if found and interval.begin <= found[-1].end:
            found[-1] = found[-1]._replace(end=max(found[-1].end, interval.end))
        else:
            found.append(interval)
    return found


def meets(disjoint: Sequence[Interval], begin: float, end: float) -> bool:
    """Return whether one of them overlaps the time from *begin* to *end*."""
    at = bisect_right(disjoint, end, key=lambda interval: interval.begin)
    return at > 0 and disjoint[at - 1].end >= begin


def judge_samples(report: Report, samples: Iterable[Sample], limits: Limits) -> None:
    """Compare figures with their limits."""
    for sample in samples:
        for name in ("in_flight", "unfinished", "rss_mb"):
            limit, value = getattr(limits, name), getattr(sample, name)
            if limit is not None and value > limit:
                report.over_cap.append(f"{sample.instance}: {name} {value:.0f} of {limit}")


def judge_endings(report: Report, history: History, limits: Limits) -> None:
    """Check exits: without its broker an instance cannot commit, and may exit with 1."""
    outages = merged(history.outages)
    for ending in history.endings:
        excused = meets(outages, ending.began_at, ending.began_at + ending.took_s)
        well = ending.code == 0 or (ending.code == 1 and excused)
        too_long = limits.shutdown_s is not None and ending.took_s > limits.shutdown_s
        if too_long or not well:
            text = f"{ending.instance} ended with {ending.code} after {ending.took_s:.1f} s"
            report.bad_endings.append(text)
