"""Refusing queries that would be answered too late, before they cost anything.

After Finagle's DeadlineFilter: the estimate may be wrong, and what is refused teaches nothing, so the refused
share has a cap, and there is a dark mode that only counts.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import StrEnum

BUCKET_S = 1.0


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
    window_s: float = 10.0

    def __post_init__(self) -> None:
        if not 0 < self.max_share <= 1 or self.window_s < BUCKET_S:
            raise ValueError(f"need 0 < max_share <= 1 and window_s >= {BUCKET_S:.0f}, got {self}")


class Shedder:
    """Counts what it refuses, by seconds."""

    __slots__ = ("_buckets", "_policy", "_refused", "_seen")

    def __init__(self, policy: ShedPolicy) -> None:
        self._policy = policy
        self._buckets: deque[list[float]] = deque()
        """``[begun at, seen, refused]``"""
        self._seen = 0.0
        self._refused = 0.0

    def __repr__(self) -> str:
        return f"<Shedder {self._policy.mode} refused {self._refused:.0f} of {self._seen:.0f}>"

    def judge(self, now: float, *, left_s: float, needed_s: float | None) -> Verdict:
        """Judge one query.

        Args:
            now: Monotonic seconds.
            left_s: What is left of its time.
            needed_s: What an answer takes; None while that is not known.
        """
        bucket = self._bucket(now)
        bucket[1] += 1
        self._seen += 1
        if needed_s is None or left_s >= needed_s or self._policy.mode is ShedMode.OFF:
            return Verdict.RUN
        if self._policy.mode is ShedMode.OBSERVE:
            return Verdict.OBSERVED
        if self._refused + 1 > self._policy.max_share * self._seen:
            return Verdict.RUN
        bucket[2] += 1
        self._refused += 1
        return Verdict.REFUSE

    def _bucket(self, now: float) -> list[float]:
        buckets = self._buckets
        while buckets and buckets[0][0] <= now - self._policy.window_s:
            _, seen, refused = buckets.popleft()
            self._seen -= seen
            self._refused -= refused
        if not buckets or buckets[-1][0] <= now - BUCKET_S:
            buckets.append([now, 0.0, 0.0])
        return buckets[-1]
