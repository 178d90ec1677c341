"""Trials of another concurrency limit: how a trial is judged, and how soon the next one may follow."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from fivestage.core.admission.latency import QueryWindow

KEPT_SHARE: Final = 0.9
"""The share of the earlier goodput that keeps a lower limit: short windows measure no more exactly."""
FEW_DROPS: Final = 0.05
KEPT_WITHOUT_DROPS: Final = 1.0
"""The same share where at most FEW_DROPS of the queries timed out before: there a lower limit gains little,
and the losses of several trials would add up."""
MIN_GAIN: Final = 1.25
"""A new limit is kept if goodput grows by at least this factor; a higher one only then."""
FEWER_DROPS: Final = 0.5
"""Timeouts are fewer if their share is at most this part of the earlier share."""
MOSTLY_FREE: Final = 0.5
"""Load was low if more than this share of the queries ended while none waited for their slot."""
STRAGGLERS: Final = 0.9
"""The share of the queries running at the start of a trial that must end before the trial is measured."""
RETRY_S: Final = 1.0
"""Seconds from the first failed trial to the next one; doubles with each failure."""
RETRY_LENGTHS: Final = 2.0
"""The same wait in lengths of the failed trial, where that is longer."""


class Trial:
    """A limit that is being tried, and the window before it for comparison."""

    __slots__ = (
        "_earlier", "_measuring", "_settled_at", "before", "goodput", "new", "old", "started_at", "why",
    )  # fmt: skip

    def __init__(self, old: int, new: int, before: QueryWindow, goodput: float, why: str, now: float) -> None:
        self.old = old
        self.new = new
        self.before = before
        self.goodput = goodput
        self.why = why
        self.started_at = now
        self._measuring = False
        self._earlier = STRAGGLERS * before.running
        """Queries started before the trial that must still end before the trial is measured."""
        self._settled_at = now + before.longest_s
        """Until when these queries are waited for: some end in ways that are not recorded."""

    def has_settled(self, now: float, *, earlier: bool, running: int) -> bool:
        """Count a query that ended; return True once the window shows the effect of the new limit."""
        if not self._measuring:
            if earlier:
                self._earlier -= 1.0
            self._measuring = running <= self.new and (self._earlier <= 0 or now >= self._settled_at)
        return self._measuring

    def is_kept(self, window: QueryWindow, goodput: float) -> bool:
        """Whether the new limit is better: a lower one if goodput did not fall, a higher one if it rose."""
        gained = goodput > 0 and goodput >= MIN_GAIN * self.goodput
        if gained or self.new > self.old or not goodput:
            return gained
        fewer_drops = window.drop_share <= FEWER_DROPS * self.before.drop_share
        share = KEPT_SHARE if self.before.drop_share > FEW_DROPS else KEPT_WITHOUT_DROPS
        if goodput < share * self.goodput:  # perhaps only because load fell, as while a breaker is open
            return fewer_drops and window.free > MOSTLY_FREE * window.ended
        # If slots were free before at times, an unchanged goodput proves nothing.
        return fewer_drops or self.before.all_bound

    def is_proportional(self, goodput: float) -> bool:
        """Whether goodput changed about as much as the limit: latency does not depend on the limit then."""
        middle = self.goodput * (1 + self.new / self.old) / 2
        return 0 < goodput < middle if self.new < self.old else 0 < middle <= goodput


class TrialBackoff:
    """Exponential backoff between trials in one direction."""

    __slots__ = ("_max_s", "_next_at", "_wait_s", "latency")

    def __init__(self, max_s: float) -> None:
        self._max_s = max_s
        self._next_at = -inf
        self._wait_s = RETRY_S
        self.latency = 0.0
        """Mean logarithm of the latency in seconds before the last failed trial."""

    def is_due(self, now: float) -> bool:
        """Whether a trial may start now."""
        return now >= self._next_at

    def failed(self, now: float, length_s: float, latency: float) -> None:
        """Back off after an undone trial that took *length_s*; 0.0 for one that is not worth trying."""
        if now > self._next_at + self._max_s:
            self._wait_s = RETRY_S
        self._next_at = now + max(1.0, length_s * RETRY_LENGTHS) * self._wait_s
        self._wait_s = min(self._max_s, 2 * self._wait_s)
        self.latency = latency

    def restart(self) -> None:
        """Reset: a new limit was kept, or latency has changed since the failures."""
        self._next_at, self._wait_s = -inf, RETRY_S
