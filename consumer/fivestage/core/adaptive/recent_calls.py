"""Counts the recent calls of a node, and tests whether a share of them exceeds a rate significantly."""

from __future__ import annotations

from collections import deque
from math import sqrt
from typing import Final, NamedTuple

BUCKET_S: Final = 0.1
"""Calls that end within this time are counted together."""
SPAN_S: Final = 1.0
"""A breaker judges at least this much time: a shorter disturbance is a hiccup."""
Z: Final = 4.0
"""Standard deviations between a share and the rate that it exceeds. The breaker judges after each failed
call: with 3.1 (99.9 %) a node of which 20 % fail, at 20 calls/s, is found above 30 % every 2.5 hours by
chance, with 4 every 50 hours (simulated), and at 200/s never."""


class Span(NamedTuple):
    """The calls since a moment."""

    calls: int
    failed: int
    slow: int
    since: float
    """When the first of them ended (monotonic seconds)."""


class _Bucket:
    __slots__ = ("calls", "failed", "slow", "start")

    def __init__(self, start: float) -> None:
        self.start = start
        self.calls = 0
        self.failed = 0
        self.slow = 0


class RecentCalls:
    """The last *window* calls, or those of the last second where that is more."""

    __slots__ = ("_buckets", "_window", "calls", "failed", "slow")

    def __init__(self, window: int) -> None:
        self._window = window
        self._buckets: deque[_Bucket] = deque()
        self.calls = 0
        self.failed = 0
        self.slow = 0

    def clear(self) -> None:
        """Forget all of them."""
        self._buckets.clear()
        self.calls = self.failed = self.slow = 0

    def add(self, now: float, *, failed: bool, slow: bool) -> None:
        """Count a call that ended at *now*."""
        buckets = self._buckets
        if not buckets or now - buckets[-1].start >= BUCKET_S:
            buckets.append(_Bucket(now))
            while len(buckets) > 1 and self._is_outside(buckets[0], buckets[1], now):
                self._forget(buckets.popleft())
        last = buckets[-1]
        last.calls += 1
        last.failed += failed
        last.slow += slow
        self.calls += 1
        self.failed += failed
        self.slow += slow

    def _is_outside(self, oldest: _Bucket, second: _Bucket, now: float) -> bool:
        return self.calls - oldest.calls >= self._window and now - second.start >= SPAN_S

    def _forget(self, bucket: _Bucket) -> None:
        self.calls -= bucket.calls
        self.failed -= bucket.failed
        self.slow -= bucket.slow

    def newest(self, now: float, minimum: int) -> Span | None:
        """The last second, extended to *minimum* calls; None where fewer are kept."""
        calls, failed, slow = 0, 0, 0
        for bucket in reversed(self._buckets):
            calls += bucket.calls
            failed += bucket.failed
            slow += bucket.slow
            if calls >= minimum and now - bucket.start >= SPAN_S:
                return Span(calls, failed, slow, bucket.start)
        return None

    def all(self) -> Span:
        """All calls that are kept, of which there must be one."""
        return Span(self.calls, self.failed, self.slow, self._buckets[0].start)


def exceeds(count: int, calls: int, rate: float, *, enough: int) -> bool:
    """Whether *count* of *calls* is significantly more than *rate*.

    That is so where the lower bound of Wilson's score interval is above *rate* (E. B. Wilson, *Probable
    inference, the law of succession, and statistical inference*, 1927). A window is too short to show this
    for rates near 1: there *count* must equal *calls*, for at least *enough* calls, or any number for a rate
    of 1.
    """
    if count == calls:
        return rate >= 1 or calls >= enough or calls / (calls + Z * Z) > rate
    share, z2 = count / calls, Z * Z / calls
    if share <= rate:
        return False
    margin = Z * sqrt(share * (1 - share) / calls + z2 / (4 * calls))
    return share + z2 / 2 - margin > rate * (1 + z2)
