"""Scores the health of a node from the outcomes of its calls.

Successes and calls are counted with weights that halve every half-life, as in Finagle's FailureAccrualPolicy
by success rate within a duration. A prior success of constant weight makes a node healthy that is new or was
not used for long, so that it is tried.
"""

from __future__ import annotations

from math import exp2, inf

from fivestage.core.adaptive.window import Window
from fivestage.core.hedge import hedge_after_s

PRIOR = 1.0
"""The weight of the success that every node is credited with."""
DURATIONS = 100
"""Number of last durations that are kept."""
MIN_DURATIONS = 10
"""Fewest durations for a quantile."""


class NodeHealth:
    """The score and the call durations of one node.

    >>> health = NodeHealth(half_life_s=30.0)
    >>> health.failed(now=100.0)
    >>> health.score(100.0), round(health.score(130.0), 2)
    (0.5, 0.67)
    """

    __slots__ = ("_at", "_durations", "_successes", "_total", "half_life_s")

    def __init__(self, half_life_s: float = 30.0) -> None:
        self.half_life_s = half_life_s
        self._durations = Window(DURATIONS)
        self._successes = 0.0
        self._total = 0.0
        self._at = -inf

    def succeeded(self, now: float, duration_s: float) -> None:
        """Count a call that was answered."""
        self._durations.add(duration_s)
        self._count(now, success=1.0)

    def rejected(self, now: float, duration_s: float) -> None:
        """Count an answer that validation rejected: a failure, but with a duration."""
        self._durations.add(duration_s)
        self._count(now, success=0.0)

    def failed(self, now: float) -> None:
        """Count a call that raised; its duration says nothing about how long the work takes."""
        self._count(now, success=0.0)

    def timed_out(self, now: float, duration_s: float) -> None:
        """Count a call that was cancelled after *duration_s*: a failure that would have taken longer."""
        self._durations.add(duration_s, censored=True)
        self._count(now, success=0.0)

    def overtaken(self, duration_s: float) -> None:
        """Note a call that was given up after *duration_s*, as another one had answered: no failure."""
        if duration_s > 0:
            self._durations.add_longer_than(duration_s)

    def forget(self) -> None:
        """Reset: the node has recovered."""
        self._durations = Window(DURATIONS)
        self._successes = self._total = 0.0

    def _count(self, now: float, *, success: float) -> None:
        kept = self._kept(now)
        self._successes = self._successes * kept + success
        self._total = self._total * kept + 1.0
        self._at = max(now, self._at)

    def _kept(self, now: float) -> float:
        """The share of the weights that is left at *now*; 1 if the last outcome is later than *now*."""
        return exp2(-max(now - self._at, 0.0) / self.half_life_s)

    def score(self, now: float) -> float:
        """The weighted share of successes, above 0 and at most 1."""
        kept = self._kept(now)
        return (self._successes * kept + PRIOR) / (self._total * kept + PRIOR)

    @property
    def p95_s(self) -> float | None:
        """The p95 of the durations; None for fewer than ten, infinite if more than 5 % were cancelled."""
        return self._quantile(0.95)

    @property
    def p50_s(self) -> float | None:
        """The median of the durations; None for fewer than ten, infinite if most were cancelled."""
        return self._quantile(0.5)

    def hedge_after_s(self, max_extra_load: float) -> float | None:
        """How long a call takes before it is hedged; see ``core.hedge``."""
        return hedge_after_s(self._durations, max_extra_load)

    def _quantile(self, share: float) -> float | None:
        return None if len(self._durations) < MIN_DURATIONS else self._durations.quantile(share)
