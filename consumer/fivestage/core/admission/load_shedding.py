"""Refusing queries that would be answered too late, before they cost anything.

After Finagle's DeadlineFilter: the estimate may be wrong, and what is refused teaches nothing, so the refused
share has a cap, and there is a dark mode that only counts.
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
"""Shares of the answers. While slots are free only queries are rejected that would nearly all be late."""
MARGIN, MAX_SHARE, EVEN_MARGIN = 2.0, 0.5, 1.1
"""Where slots are scarce some queries are rejected in any case: better those that would only just be in time,
as a queue that is worked off at the very edge of its deadlines loses many to the least disturbance. Twice the
likely time, up to half of the total; where answers take longer than that, a tenth more than the median."""


class ShedMode(StrEnum):
    """What is done with a query whose time is shorter than an answer takes."""

    OFF = "off"
    OBSERVE = "observe"
    """It is counted, and run."""
    ON = "on"


class Verdict(StrEnum):
    """What to do with one query."""

    RUN = "run"
    OBSERVED = "observed"
    """It would have been refused, and is run."""
    REFUSE = "refuse"


_RUN: Final = Verdict.RUN


@dataclass(frozen=True, slots=True)
class ShedPolicy:
    """How queries are refused.

    Args:
        mode: See ShedMode.
        max_share: The largest share of the queries of the last window_s that is refused by this rule.
        window_s: What the share refers to, in seconds.
    """

    mode: ShedMode = ShedMode.ON
    max_share: float = 0.95
    window_s: float = 2.0

    def __post_init__(self) -> None:
        if not 0 < self.max_share <= 1 or self.window_s < BUCKET_S:
            raise ValueError(f"need 0 < max_share <= 1 and window_s >= {BUCKET_S:.0f}, got {self}")


class Shedder:
    """Judges queries, and counts what it refuses by seconds.

    Args:
        policy: How queries are refused.
        total_s: The service's total limit.
        pressure: Whether slots are scarce.
    """

    __slots__ = ("_buckets", "_policy", "_pressure", "_refused", "_seen", "_total_s")

    def __init__(self, policy: ShedPolicy, total_s: float, pressure: Pressure) -> None:
        self._policy = policy
        self._total_s = total_s
        self._pressure = pressure
        self._buckets: deque[list[float]] = deque()
        """``[begun at, seen, refused]``"""
        self._seen = 0.0
        self._refused = 0.0

    def __repr__(self) -> str:
        return f"<Shedder {self._policy.mode} refused {self._refused:.0f} of {self._seen:.0f}>"

    def judge(self, budget: Budget, answer_time_s: AnswerTime, now: float) -> Verdict:
        """Judge one query; one that has the service's whole time is always begun.

        Args:
            budget: What is left of its time.
            answer_time_s: Within what time a share of the answers are there; None while unknown.
            now: Monotonic seconds.
        """
        if budget.granted_s >= self._total_s:
            return _RUN
        bucket = self._bucket(now)
        bucket[1] += 1
        self._seen += 1
        if self._policy.mode is ShedMode.OFF or budget.granted_s >= self._needed_s(
            budget, answer_time_s, now
        ):
            return Verdict.RUN
        if self._policy.mode is ShedMode.OBSERVE:
            return Verdict.OBSERVED
        if self._refused + 1 > self._policy.max_share * self._seen:
            return Verdict.RUN
        bucket[2] += 1
        self._refused += 1
        return Verdict.REFUSE

    def _needed_s(self, budget: Budget, answer_time_s: AnswerTime, now: float) -> float:
        """The time that it must have left. Where slots are scarce its chances must be good."""
        if not self._pressure.is_on(now):
            return answer_time_s(RARE) or 0.0
        likely_s = answer_time_s(LIKELY) or 0.0
        if not self._pressure.is_lasting(now):
            return likely_s
        if budget.due_at is None:  # waiting has cost it nothing
            return likely_s
        even_s = answer_time_s(EVEN) or 0.0
        return max(min(MARGIN * likely_s, MAX_SHARE * self._total_s), EVEN_MARGIN * even_s)

    def _bucket(self, now: float) -> list[float]:
        buckets = self._buckets
        while buckets and buckets[0][0] <= now - self._policy.window_s:
            _, seen, refused = buckets.popleft()
            self._seen -= seen
            self._refused -= refused
        if not buckets or buckets[-1][0] <= now - BUCKET_S:
            buckets.append([now, 0.0, 0.0])
        return buckets[-1]
