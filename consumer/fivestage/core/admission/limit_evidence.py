"""Looks for reasons to try a lower concurrency limit: timeouts, slow windows, or a long time at the limit."""

from __future__ import annotations

from math import hypot, inf, log
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from fivestage.core.admission.concurrency_limit import LimiterPolicy
    from fivestage.core.admission.latency import Latency, QueryWindow

CONFIDENCE: Final = 3.0
"""Standard errors by which a latency must be beyond the tolerance."""
SLOW_WINDOWS: Final = 2
"""This many windows in a row must be slow, or have timeouts: one may be due to a pause of a node. Where
nearly all queries time out, one is enough."""
MARGIN: Final = 1.25
"""A limit that was set to bring latency to the tolerance is changed again when off by this factor."""
NEARLY_ALL: Final = 0.9
IN_TIME_AGAIN: Final = 20
"""Timeouts are over when this many queries in a row were in time since."""
EXPLORE_S, EXPLORE_LATENCIES = 60.0, 300.0
"""After this time with waiting queries, and as many times the latency, a lower limit is tried in any case."""
FORGET: Final = 0.05
"""How much the normal share of timeouts falls towards that of a window with fewer."""


class LimitEvidence:
    """What the last windows say against the limit in force."""

    __slots__ = ("_bound_since", "_late", "_policy", "normal_drops", "slow")

    def __init__(self, policy: LimiterPolicy) -> None:
        self._policy = policy
        self._bound_since = inf
        """Since when queries have waited all the time, or since the last failed trial (monotonic seconds)."""
        self._late = 0
        """In how many windows in a row many queries timed out."""
        self.slow = 0
        """How many windows in a row were slow."""
        self.normal_drops = 0.0
        """The share of timeouts that does not depend on the limit."""

    def limit_changed(self) -> None:
        """Start again: the windows so far say nothing about the new limit."""
        self.slow = self._late = 0

    def trial_failed(self, now: float) -> None:
        """Wait for the full time at the limit before the next experiment."""
        self._bound_since = now

    def reason(self, window: QueryWindow, normal: Latency | None, now: float) -> str:
        """Add a window; return the reason for trying a lower limit, empty if there is none.

        Args:
            window: It is over.
            normal: The latency at little load; None while unknown.
            now: Monotonic seconds.
        """
        self._bound_since = min(self._bound_since, window.opened_at) if window.all_bound else inf
        if self._has_timeouts(window):
            return f"{window.dropped} of {window.ended} timed out"
        if not window.all_bound:
            self.slow = 0
            return ""
        latency = window.latency()
        if normal is not None:
            margin = log(self._policy.tolerance * MARGIN) + CONFIDENCE * hypot(latency.error, normal.error)
            self.slow = self.slow + 1 if latency.mean > normal.mean + margin else 0
            if self.slow >= SLOW_WINDOWS:
                times = latency.seconds / normal.seconds
                return (
                    f"latency {latency.seconds * 1000:.0f} ms is {times:.1f} times"
                    f" the normal {normal.seconds * 1000:.0f} ms"
                )
        if now - self._bound_since >= max(EXPLORE_S, EXPLORE_LATENCIES * latency.seconds):
            return f"queries waited for {now - self._bound_since:.0f} s"
        return ""

    def _has_timeouts(self, window: QueryWindow) -> bool:
        self.normal_drops -= max(0.0, self.normal_drops - window.drop_share) * FORGET
        many = min(1.0, self.normal_drops + self._policy.drop_share)
        late = window.drop_share >= many and window.in_time < IN_TIME_AGAIN
        nearly_all = window.drop_share >= NEARLY_ALL
        self._late = (SLOW_WINDOWS if nearly_all else self._late + 1) if late else 0
        return self._late >= SLOW_WINDOWS
