"""Judges before a query starts whether it would be answered too late, and must be rejected.

As in Finagle's DeadlineFilter: the estimate may be wrong, and rejected queries give no feedback, so the
rejected share is capped, and the mode ``observe`` only counts.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from fivestage.core.adaptive.slot_pressure import Pressure
    from fivestage.core.deadline import Budget

    AnswerTime = Callable[[float], float | None]

BUCKET_S = 1.0
P95, P50, P02 = 0.95, 0.5, 0.02
"""Quantiles of the time to an answer. While slots are free, a query is rejected only if nearly all answers
take longer than its time (P02)."""
P95_MARGIN, MAX_SHARE, P50_MARGIN = 2.0, 0.5, 1.1
"""While slots stay scarce, a query needs P95_MARGIN times the p95, at most MAX_SHARE of the total time, and
at least P50_MARGIN times the median. Some queries are rejected then in any case: without those that would be
just in time, a small delay makes fewer of the others late."""


class ShedMode(StrEnum):
    """What happens to a query whose time is shorter than an answer takes."""

    OFF = "off"
    OBSERVE = "observe"
    """The query is counted, and run."""
    ON = "on"


class Verdict(StrEnum):
    """The decision about one query."""

    RUN = "run"
    OBSERVED = "observed"
    """The query could be rejected in the mode ``on``, and is run."""
    REJECT = "reject"


_RUN: Final = Verdict.RUN


@dataclass(frozen=True, slots=True)
class ShedPolicy:
    """Whether and how many queries may be rejected."""

    mode: ShedMode = ShedMode.ON
    max_share: float = 0.95
    """The largest share rejected, of the queries of the last window_s with less than the total time."""
    window_s: float = 2.0


class Shedder:
    """Judges queries, and counts those with less than the total time, and the rejected ones, by second.

    Args:
        policy: Whether and how many queries may be rejected.
        total_s: The total time of the pipeline.
        pressure: Shows whether slots are scarce.
    """

    __slots__ = ("_buckets", "_policy", "_pressure", "_rejected", "_seen", "_total_s")

    def __init__(self, policy: ShedPolicy, total_s: float, pressure: Pressure) -> None:
        self._policy = policy
        self._total_s = total_s
        self._pressure = pressure
        self._buckets: deque[list[float]] = deque()
        """``[start, seen, rejected]``"""
        self._seen = 0.0
        self._rejected = 0.0

    def __repr__(self) -> str:
        return f"<Shedder {self._policy.mode} rejected {self._rejected:.0f} of {self._seen:.0f}>"

    def judge(self, budget: Budget, answer_time_s: AnswerTime, now: float) -> Verdict:
        """Judge one query; a query with the total time is always run.

        Args:
            budget: The time that the query has left.
            answer_time_s: Returns a quantile of the time to an answer; None while unknown.
            now: Monotonic seconds.
        """
        if budget.granted_s >= self._total_s:
            return _RUN
        bucket = self._bucket(now)
        bucket[1] += 1
        self._seen += 1
        mode = self._policy.mode
        if mode is ShedMode.OFF or budget.granted_s >= self._needed_s(budget, answer_time_s, now):
            return _RUN
        if mode is ShedMode.OBSERVE:
            return Verdict.OBSERVED
        if self._rejected + 1 > self._policy.max_share * self._seen:
            return _RUN
        bucket[2] += 1
        self._rejected += 1
        return Verdict.REJECT

    def _needed_s(self, budget: Budget, answer_time_s: AnswerTime, now: float) -> float:
        """The time that a query must have left to be run."""
        if not self._pressure.is_on(now):
            return answer_time_s(P02) or 0.0
        p95_s = answer_time_s(P95) or 0.0
        # Without an end-to-end deadline, a query keeps its time while it waits.
        if budget.due_at is None or not self._pressure.is_lasting(now):
            return p95_s
        p50_s = answer_time_s(P50) or 0.0
        return max(min(P95_MARGIN * p95_s, MAX_SHARE * self._total_s), P50_MARGIN * p50_s)

    def _bucket(self, now: float) -> list[float]:
        buckets = self._buckets
        while buckets and buckets[0][0] <= now - self._policy.window_s:
            _, seen, rejected = buckets.popleft()
            self._seen -= seen
            self._rejected -= rejected
        if not buckets or buckets[-1][0] <= now - BUCKET_S:
            buckets.append([now, 0.0, 0.0])
        return buckets[-1]
