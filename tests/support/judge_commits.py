"""Commits: none before everything below it had its events, none backwards."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from .history import History, Snapshot
    from .letters import Letter
    from .reading import Place, Positions
    from .report import Report
    from .terminal import Terminal


def judge_commits(report: Report, history: History, answered_ms: Mapping[Place, float]) -> None:
    """Compare every commit's time with the append times of the events below it.

    Both are the brokers' own times, in milliseconds, so that no tolerance is needed.
    """
    there = {record.at for record in history.queries}
    highest: Positions = {}
    for partition, position, at_ms in history.commits:
        if position is None:  # the group was deleted
            highest.pop(partition, None)
            continue
        known = highest.get(partition, 0)
        if position < known:
            report.commit_regressions.append(f"{partition}: {known} -> {position}")
        for offset in range(known, position):
            late_ms = answered_ms.get((partition, offset), float("inf")) - at_ms
            if late_ms > 0 and ((partition, offset) in there or offset >= history.ends.get(partition, 0)):
                report.commit_ahead.append(f"{partition}/{offset}, by {late_ms:.0f} ms")
        highest[partition] = max(position, known)


def judge_snapshots(
    report: Report, snapshots: Iterable[Snapshot], terminals: Iterable[Terminal], letters: Iterable[Letter]
) -> None:
    """Check snapshots: an offset is answered once its first terminal event, or dead letter, is in a topic."""
    answers: dict[Place, list[tuple[str, Place]]] = defaultdict(list)
    for terminal in terminals:
        answers[terminal.source].append(("results", terminal.at))
    for letter in letters:
        answers[letter.source].append(("letters", letter.record.at))
    highest: Positions = {}
    ends: dict[tuple[str, int], int] = {}
    for snapshot in snapshots:
        _extend(ends, snapshot)
        for partition, position in snapshot.committed.items():
            known = highest.get(partition, 0)
            if position < known:
                report.commit_regressions.append(f"{partition}: {known} -> {position}")
            for offset in range(known, position):
                if not _answered(answers[partition, offset], ends):
                    report.commit_ahead.append(f"{partition}/{offset}")
            highest[partition] = max(position, known)


def _extend(ends: dict[tuple[str, int], int], snapshot: Snapshot) -> None:
    """Extend the known ends: a broker that has just become leader may not know its end yet."""
    for topic, seen in (("results", snapshot.results_end), ("letters", snapshot.letters_end)):
        for partition, end in seen.items():
            ends[topic, partition] = max(end, ends.get((topic, partition), 0))


def _answered(answers: list[tuple[str, Place]], ends: dict[tuple[str, int], int]) -> bool:
    return any(offset < ends.get((topic, partition), 0) for topic, (partition, offset) in answers)
