"""Counts the recent calls of a node, and tests whether a share of them exceeds a rate significantly."""

from __future__ import annotations

from collections import deque
from math import sqrt
from typing import Final, NamedTuple

BUCKET_S: Final = 0.1
"""Seconds within which calls that end are counted together."""
SPAN_S: Final = 1.0
"""Fewest seconds that a breaker judges: shorter disturbances do not open it."""
Z: Final = 4.0
"""Standard deviations by which a share must exceed a rate. The breaker judges after each failed call: at 20
calls/s, a node that fails 20 % of them is by chance found above 30 % every 2.5 hours with 3.1 (99.9 %), and
every 50 hours with 4; at 200/s never (simulated)."""


class CallCounts(NamedTuple):
    """Counts of the calls that ended from *since* on."""

    calls: int
    failed: int
    slow: int
    since: float
    """When the first of these calls ended (monotonic seconds)."""


class _Bucket:
    __slots__ = ("calls", "failed", "slow", "start")

    def __init__(self, start: float) -> None:
        self.start = start
        self.calls = 0
        self.failed = 0
        self.slow = 0


class RecentCalls:
    """Counts of at least the last *window* calls, and at least those of the last second."""

    __slots__ = ("_buckets", "_window", "calls", "failed", "slow")

    def __init__(self, window: int) -> None:
        self._window = window
        self._buckets: deque[_Bucket] = deque()
        self.calls = 0
        self.failed = 0
        self.slow = 0

    def clear(self) -> None:
        """Drop all calls."""
        self._buckets.clear()
        self.calls = self.failed = self.slow = 0

    def add(self, now: float, *, failed: bool, slow: bool) -> None:
        """Count a call that ended at *now*."""
        buckets = self._buckets
        if not buckets or now - buckets[-1].start >= BUCKET_S:
            buckets.append(_Bucket(now))
            while len(buckets) > 1 and self._is_outside(buckets[0], buckets[1], now):
                self._drop(buckets.popleft())
        last = buckets[-1]
        last.calls += 1
        last.failed += failed
        last.slow += slow
        self.calls += 1
        self.failed += failed
        self.slow += slow

    def _is_outside(self, oldest: _Bucket, second: _Bucket, now: float) -> bool:
        return self.calls - oldest.calls >= self._window and now - second.start >= SPAN_S

    def _drop(self, bucket: _Bucket) -> None:
        self.calls -= bucket.calls
        self.failed -= bucket.failed
        self.slow -= bucket.slow

    def newest(self, now: float, minimum: int) -> CallCounts | None:
        """The last second, extended to *minimum* calls; None if fewer calls, or less time, are kept."""
        calls, failed, slow = 0, 0, 0
        for bucket in reversed(self._buckets):
            calls += bucket.calls
            failed += bucket.failed
            slow += bucket.slow
            if calls >= minimum and now - bucket.start >= SPAN_S:
                return CallCounts(calls, failed, slow, bucket.start)
        return None

    def kept(self) -> CallCounts:
        """All calls that are kept; there must be at least one."""
        return CallCounts(self.calls, self.failed, self.slow, self._buckets[0].start)


def exceeds(count: int, calls: int, rate: float, *, enough: int) -> bool:
    """Whether *count* of *calls* is significantly more than *rate*.

    That is so where the lower bound of Wilson's score interval is above *rate* (E. B. Wilson, *Probable
    inference, the law of succession, and statistical inference*, 1927). For rates near 1 a window is too
    short to show this: there *count* must equal *calls*, which must be at least *enough*; with a rate of 1
    any number of calls is.
    """
    if count == calls:
        return rate >= 1 or calls >= enough or calls / (calls + Z * Z) > rate
    share, z2 = count / calls, Z * Z / calls
    if share <= rate:
        return False
    margin = Z * sqrt(share * (1 - share) / calls + z2 / (4 * calls))
    return share + z2 / 2 - margin > rate * (1 + z2)
