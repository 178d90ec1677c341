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
"""Windows in a row that must be slow, or have timeouts: a single one may be due to a pause of a node. Where
nearly all queries time out, one window is enough."""
MARGIN: Final = 1.25
"""Factor by which latency must differ from the tolerance, or a new limit from the old one, for a change."""
NEARLY_ALL: Final = 0.9
IN_TIME_AGAIN: Final = 20
"""Queries in time in a row, after the last timeout, that make up for the timeouts of a window."""
EXPLORE_S, EXPLORE_LATENCIES = 60.0, 300.0
"""Seconds, and multiples of the latency, for which queries must have waited (the longer one counts) until a
lower limit is tried in any case."""
DROPS_DECAY: Final = 0.05
"""The part of the way that the normal share of timeouts falls towards the lower share of one window."""


class LimitEvidence:
    """The evidence of the last windows against the limit in force."""

    __slots__ = ("_bound_since", "_late", "_policy", "normal_drops", "slow")

    def __init__(self, policy: LimiterPolicy) -> None:
        self._policy = policy
        self._bound_since = inf
        """Since when queries have waited without a break, or when a trial last failed (monotonic seconds)."""
        self._late = 0
        """Windows in a row in which many queries timed out."""
        self.slow = 0
        """Windows in a row that were slow."""
        self.normal_drops = 0.0
        """The share of timeouts that does not depend on the limit."""

    def limit_changed(self) -> None:
        """Count slow and late windows from 0: those so far say nothing about the new limit."""
        self.slow = self._late = 0

    def trial_failed(self, now: float) -> None:
        """Count the time of waiting queries from *now*: the next experiment comes after the full time."""
        self._bound_since = now

    def add(self, window: QueryWindow, normal: Latency | None, now: float) -> str:
        """Add a window; return the reason for trying a lower limit, empty if there is none.

        Args:
            window: A window that is over.
            normal: The latency at low concurrency; None while unknown.
            now: Monotonic seconds.
        """
        self._bound_since = min(self._bound_since, window.opened_at) if window.all_bound else inf
        if self._note_timeouts(window):
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

    def _note_timeouts(self, window: QueryWindow) -> bool:
        """Note the timeouts of a window; return whether there were too many in enough windows in a row."""
        self.normal_drops -= max(0.0, self.normal_drops - window.drop_share) * DROPS_DECAY
        many = min(1.0, self.normal_drops + self._policy.drop_share)
        late = window.drop_share >= many and window.in_time < IN_TIME_AGAIN
        nearly_all = window.drop_share >= NEARLY_ALL
        self._late = (SLOW_WINDOWS if nearly_all else self._late + 1) if late else 0
        return self._late >= SLOW_WINDOWS
