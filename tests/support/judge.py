"""Holds what was seen of a run against what was promised. Pure, so that it can be tested itself."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .history import History, Interval, Sample, Snapshot, Terminal
    from .reading import Place, Positions

IDENTICAL = "identical"
AGAIN = "run again"
OTHERWISE = "run again, other status"


class Limits(NamedTuple):
    """What is allowed; None: not looked at."""

    in_flight: int | None = None
    unfinished: int | None = None
    rss_mb: float | None = None
    late_s: float | None = None
    """By how much a query may end after its budget."""
    written_late_s: float | None = None
    """By how much its event may be written after its budget."""
    shutdown_s: float | None = None


@dataclass
class Report:
    """What the checker found: violations first, then what is no harm."""

    lost: list[str] = field(default_factory=list)
    phantom: list[str] = field(default_factory=list)
    contradictions: dict[str, str] = field(default_factory=dict)
    """What is wrong, by the query's or the event's id."""
    commit_ahead: list[str] = field(default_factory=list)
    commit_regressions: list[str] = field(default_factory=list)
    over_cap: list[str] = field(default_factory=list)
    late: list[str] = field(default_factory=list)
    bad_endings: list[str] = field(default_factory=list)
    duplicates: int = 0
    harmless: Counter[str] = field(default_factory=Counter)
    """Duplicates that contradict nothing, by how they differ from the first."""
    statuses: Counter[str] = field(default_factory=Counter)
    lateness_s: list[float] = field(default_factory=list)
    """How late each query ended, in order; not those that ran while an instance was stopped or starved."""
    written_lateness_s: list[float] = field(default_factory=list)
    """Likewise how late it was written; those written while a broker was away left out too."""

    @property
    def violations(self) -> dict[str, int]:
        """How many of each kind; kinds without any are there too."""
        return {
            "lost": len(self.lost),
            "phantom": len(self.phantom),
            "contradictions": len(self.contradictions),
            "commit-ahead": len(self.commit_ahead),
            "commit-regressions": len(self.commit_regressions),
            "over cap": len(self.over_cap),
            "late": len(self.late),
            "bad endings": len(self.bad_endings),
        }

    @property
    def silent(self) -> bool:
        """Nothing to complain of."""
        return not any(self.violations.values())

    def __str__(self) -> str:
        shown = {
            "lost": self.lost,
            "phantom": self.phantom,
            "contradictions": [f"{name}: {why}" for name, why in self.contradictions.items()],
            "commit-ahead": self.commit_ahead,
            "commit-regressions": self.commit_regressions,
            "over cap": self.over_cap,
            "late": self.late,
            "bad endings": self.bad_endings,
        }
        found = [f"{name} {len(items)} {items[:3]}" for name, items in shown.items() if items]
        told = ", ".join(found) or "nothing wrong"
        return f"{told}; duplicates {dict(self.harmless)} of {self.duplicates}, {dict(self.statuses)}"


def judge(history: History, limits: Limits | None = None) -> Report:
    """Compare what was asked, answered, committed and measured."""
    limits = limits or Limits()
    report = Report(statuses=Counter(terminal.status for terminal in history.terminals))
    _judge_presence(report, history)
    _judge_duplicates(report, history)
    _judge_commits(report, history)
    _judge_lateness(report, history, limits)
    _judge_samples(report, history.samples, limits)
    _judge_endings(report, history, limits)
    return report


def _judge_presence(report: Report, history: History) -> None:
    answered = {terminal.query_id for terminal in history.terminals}
    report.lost = sorted(history.asked - answered)
    report.phantom = sorted(answered - history.asked)
    if history.rejects is not None:
        letters = {letter.source for letter in history.letters}
        report.lost += [f"dead letter of {_name(place)}" for place in sorted(history.rejects - letters)]
        report.phantom += [f"dead letter of {_name(place)}" for place in sorted(letters - history.rejects)]


def _judge_duplicates(report: Report, history: History) -> None:
    terminals = history.terminals
    ids: dict[str, set[str]] = defaultdict(set)
    events: dict[str, list[Terminal]] = defaultdict(list)
    for terminal in terminals:
        ids[terminal.query_id].add(terminal.ce_id)
        events[terminal.ce_id].append(terminal)
    report.duplicates = len(terminals) - len(events)
    for query_id, found in ids.items():
        if len(found) > 1 and query_id not in history.asked_again:
            report.contradictions[query_id] = f"{len(found)} event ids for one query: {sorted(found)}"
    for ce_id, same in events.items():
        if len(same) < 2:
            continue
        if (why := contradiction(same)) is not None:
            report.contradictions[ce_id] = why
        else:
            report.harmless.update(_difference(same[0], other) for other in same[1:])


def contradiction(events: Sequence[Terminal]) -> str | None:
    """What is wrong with several terminal events of one id; None when a reader may take any of them.

    What depends on the record alone must be equal. A query that was run again may have ended otherwise, but
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


def _judge_commits(report: Report, history: History) -> None:
    """An offset is answered from the moment its first terminal event, or its dead letter, is in a topic."""
    answers: dict[Place, list[tuple[str, Place]]] = defaultdict(list)
    for terminal in history.terminals:
        answers[terminal.source].append(("results", terminal.at))
    for letter in history.letters:
        answers[letter.source].append(("letters", letter.at))
    highest: Positions = {}
    ends: dict[tuple[str, int], int] = {}
    for snapshot in history.snapshots:
        _extend(ends, snapshot)
        for partition, position in snapshot.committed.items():
            known = highest.get(partition, 0)
            if position < known:
                report.commit_regressions.append(f"{partition}: {known} -> {position}")
            for offset in range(known, position):
                if not _answered(answers[partition, offset], ends):
                    report.commit_ahead.append(_name((partition, offset)))
            highest[partition] = max(position, known)


def _extend(ends: dict[tuple[str, int], int], snapshot: Snapshot) -> None:
    """Topics only grow; a broker that has just begun to lead a partition may not know its end yet."""
    for topic, seen in (("results", snapshot.results_end), ("letters", snapshot.letters_end)):
        for partition, end in seen.items():
            ends[topic, partition] = max(end, ends.get((topic, partition), 0))


def _answered(answers: list[tuple[str, Place]], ends: dict[tuple[str, int], int]) -> bool:
    return any(offset < ends.get((topic, partition), 0) for topic, (partition, offset) in answers)


def _judge_lateness(report: Report, history: History, limits: Limits) -> None:
    held_up = _merged([*history.pauses, *history.starved])
    held_up_or_away = _merged([*held_up, *history.outages])
    for event in history.terminals:
        if event.started_at is None or _meets(held_up, event.started_at, event.finished_at):
            continue
        due = event.started_at + event.budget_s
        late_s, written_late_s = event.finished_at - due, event.written_at - due
        report.lateness_s.append(late_s)
        if limits.late_s is not None and late_s > limits.late_s:
            report.late.append(f"{event.ce_id} ended {late_s:.3f} s after its budget")
        if _meets(held_up_or_away, event.started_at, event.written_at):
            continue
        report.written_lateness_s.append(written_late_s)
        if limits.written_late_s is not None and written_late_s > limits.written_late_s:
            report.late.append(f"{event.ce_id} was written {written_late_s:.3f} s after its budget")
    report.lateness_s.sort()
    report.written_lateness_s.sort()


def _merged(intervals: Iterable[Interval]) -> list[Interval]:
    """The same moments as disjoint intervals, in order."""
    found: list[Interval] = []
    for interval in sorted(intervals):
        if found and interval.begin <= found[-1].end:
            found[-1] = found[-1]._replace(end=max(found[-1].end, interval.end))
        else:
            found.append(interval)
    return found


def _meets(merged: list[Interval], begin: float, end: float) -> bool:
    """Whether one of them has a moment in common with the time from *begin* to *end*."""
    at = bisect_right(merged, end, key=lambda interval: interval.begin)
    return at > 0 and merged[at - 1].end >= begin


def _judge_samples(report: Report, samples: Iterable[Sample], limits: Limits) -> None:
    for sample in samples:
        for name in ("in_flight", "unfinished", "rss_mb"):
            limit, value = getattr(limits, name), getattr(sample, name)
            if limit is not None and value > limit:
                report.over_cap.append(f"{sample.instance}: {name} {value:.0f} of {limit}")


def _judge_endings(report: Report, history: History, limits: Limits) -> None:
    """Without its broker an instance cannot commit what it has finished: it says so by ending with 1."""
    outages = _merged(history.outages)
    for ending in history.endings:
        excused = _meets(outages, ending.began_at, ending.began_at + ending.took_s)
        well = ending.code == 0 or (ending.code == 1 and excused)
        too_long = limits.shutdown_s is not None and ending.took_s > limits.shutdown_s
        if too_long or not well:
            text = f"{ending.instance} ended with {ending.code} after {ending.took_s:.1f} s"
            report.bad_endings.append(text)


def _name(place: Place) -> str:
    return f"{place[0]}/{place[1]}"
