"""Judges before a query starts whether it would be answered too late, and must be rejected.

After Finagle's DeadlineFilter: the estimate may be wrong, and rejected queries give no feedback, so the
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
LIKELY, EVEN, RARE = 0.95, 0.5, 0.02
"""Quantiles of the time to an answer. While slots are free, a query is rejected only if nearly all answers
take longer than its time (RARE)."""
MARGIN, MAX_SHARE, EVEN_MARGIN = 2.0, 0.5, 1.1
"""While slots are scarce some queries are rejected in any case: better those that would be only just in time,
since a queue worked off at the very edge of its deadlines loses many to the least disturbance. Needed is
twice the p95, up to half of the total time; where answers take longer than that, a tenth more than the
median."""


class ShedMode(StrEnum):
    """What happens to a query whose time is shorter than an answer takes."""

    OFF = "off"
    OBSERVE = "observe"
    """It is counted, and run."""
    ON = "on"


class Verdict(StrEnum):
    """The decision about one query."""

    RUN = "run"
    OBSERVED = "observed"
    """It would have been rejected, and is run."""
    REJECT = "reject"


_RUN: Final = Verdict.RUN


@dataclass(frozen=True, slots=True)
class ShedPolicy:
    """Whether and how many queries may be rejected."""

    mode: ShedMode = ShedMode.ON
    max_share: float = 0.95
    """The largest share of the queries of the last window_s that is rejected."""
    window_s: float = 2.0


class Shedder:
    """Judges queries, and counts seen and rejected ones in buckets of a second.

    Args:
        policy: Whether and how many queries may be rejected.
        total_s: The service's total limit.
        pressure: Whether slots are scarce.
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
        """Judge one query; a query with the service's whole time is always run.

        Args:
            budget: What is left of its time.
            answer_time_s: A quantile of the time to an answer; None while unknown.
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
            return answer_time_s(RARE) or 0.0
        likely_s = answer_time_s(LIKELY) or 0.0
        # Without a deadline waiting costs a query none of its time.
        if budget.due_at is None or not self._pressure.is_lasting(now):
            return likely_s
        even_s = answer_time_s(EVEN) or 0.0
        return max(min(MARGIN * likely_s, MAX_SHARE * self._total_s), EVEN_MARGIN * even_s)

    def _bucket(self, now: float) -> list[float]:
        buckets = self._buckets
        while buckets and buckets[0][0] <= now - self._policy.window_s:
            _, seen, rejected = buckets.popleft()
            self._seen -= seen
            self._rejected -= rejected
        if not buckets or buckets[-1][0] <= now - BUCKET_S:
            buckets.append([now, 0.0, 0.0])
        return buckets[-1]
