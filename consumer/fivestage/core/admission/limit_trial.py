"""Trials of another limit: what they are compared with, what is kept, and how often they may be."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from fivestage.core.admission.latency import Window

KEPT_SHARE: Final = 0.9
"""A lower limit is kept if it has this share of the earlier goodput: short windows measure no better."""
FEW_DROPS: Final = 0.05
KEPT_WITHOUT_DROPS: Final = 1.0
"""Where hardly any query times out nothing is gained by a lower limit but more goodput; and losses of several
trials would add up."""
GAIN: Final = 1.25
"""A doubled limit is kept if goodput is so many times that of before."""
STRAGGLERS: Final = 0.9
"""A trial is measured once this share of the queries that had started before it have ended."""
RETRY_S: Final = 1.0
"""From a trial that failed to the next one; it doubles with each that fails."""
RETRY_LENGTHS: Final = 2.0
"""Where a trial takes long, so many times longer."""
HALF: Final = 0.5


class Trial:
    """A limit that is being tried, and what it is compared with."""

    __slots__ = (
        "_earlier",
        "_measuring",
        "_settled_at",
        "before",
        "goodput",
        "new",
        "old",
        "started_at",
        "why",
    )

    def __init__(self, old: int, new: int, before: Window, goodput: float, why: str, now: float) -> None:
        self.old = old
        self.new = new
        self.before = before
        self.goodput = goodput
        self.why = why
        self.started_at = now
        self._measuring = False
        self._earlier = STRAGGLERS * before.running
        """How many queries that had started earlier have to end before it is measured."""
        self._settled_at = now + before.longest_s
        """When it is measured at the latest: some queries end in ways that are not recorded."""

    def has_settled(self, now: float, *, earlier: bool, running: int) -> bool:
        """Take a query that ended into account; return whether the limit shows its effect from now on."""
        if not self._measuring:
            if earlier:
                self._earlier -= 1.0
            self._measuring = running <= self.new and (self._earlier <= 0 or now >= self._settled_at)
        return self._measuring

    def is_kept(self, window: Window, goodput: float) -> bool:
        """Whether the new limit is better: a lower one if goodput did not fall, a higher one if it rose."""
        gained = goodput > 0 and goodput >= GAIN * self.goodput
        if gained or self.new > self.old or not goodput:
            return gained
        fewer_drops = window.drop_share <= HALF * self.before.drop_share
        share = KEPT_SHARE if self.before.drop_share > FEW_DROPS else KEPT_WITHOUT_DROPS
        if goodput < share * self.goodput:  # because fewer came, as while a breaker is open?
            return fewer_drops and window.free > HALF * window.ended
        return fewer_drops or self.before.all_bound  # else it was not in the way, and has to have done good

    def is_proportional(self, goodput: float) -> bool:
        """Whether goodput changed with the limit rather than not, so latency does not depend on it."""
        middle = self.goodput * (1 + self.new / self.old) / 2
        return 0 < goodput < middle if self.new < self.old else 0 < middle <= goodput


class Pace:
    """When the next trial of a kind may be: at once after one that was kept, else later and later."""

    __slots__ = ("_max_s", "_next_at", "_wait_s", "latency")

    def __init__(self, max_s: float) -> None:
        self._max_s = max_s
        self._next_at = -inf
        self._wait_s = RETRY_S
        self.latency = 0.0
        """Mean logarithm of seconds, before the trial that failed last."""

    def is_due(self, now: float) -> bool:
        """Whether there may be a trial now."""
        return now >= self._next_at

    def failed(self, now: float, length_s: float, latency: float) -> None:
        """A trial was undone that had taken *length_s*."""
        if now > self._next_at + self._max_s:
            self._wait_s = RETRY_S
        self._next_at = now + max(1.0, length_s * RETRY_LENGTHS) * self._wait_s
        self._wait_s = min(self._max_s, 2 * self._wait_s)
        self.latency = latency

    def restart(self) -> None:
        """A trial was kept, or what failed trials have shown holds no longer."""
        self._next_at, self._wait_s = -inf, RETRY_S
