"""How well a node is doing, scored from every outcome.

Successes and outcomes are counted with weights that halve every half life, as in Finagle's
FailureAccrualPolicy by success rate within a duration. A prior success of constant weight makes a node
that nobody knows, or that was not used for long, a healthy one: it deserves to be tried.
"""

from __future__ import annotations

from math import exp2, inf

from fivestage.core.adaptive.window import Window

PRIOR = 1.0
"""The weight of the success every node is credited with."""
DURATIONS = 100
"""How many of the last durations are remembered."""
MIN_DURATIONS = 10
"""How many of them it takes to tell a quantile."""


class NodeHealth:
    """The score and the durations of one node.

    >>> health = NodeHealth(half_life_s=30.0)
    >>> health.failed(now=100.0)
    >>> health.score(100.0), round(health.score(130.0), 2)
    (0.5, 0.67)
    """

    __slots__ = ("_at", "_durations", "_successes", "_total", "half_life_s")

    def __init__(self, half_life_s: float = 30.0) -> None:
        if not 0 < half_life_s < inf:
            raise ValueError(f"half_life_s must be above 0, got {half_life_s}")
        self.half_life_s = half_life_s
        self._durations = Window(DURATIONS)
        self._successes = 0.0
        self._total = 0.0
        self._at = -inf

    def __repr__(self) -> str:
        weights = f"successes={self._successes:.3g} total={self._total:.3g}"
        return f"<NodeHealth {weights} at={self._at:.3f} p95={self.p95_s}>"

    def succeeded(self, now: float, duration_s: float) -> None:
        """The node answered."""
        self._durations.add(duration_s)
        self._count(now, success=1.0)

    def rejected(self, now: float, duration_s: float) -> None:
        """Validation rejected the node's answer: a failure that says how long its work takes."""
        self._durations.add(duration_s)
        self._count(now, success=0.0)

    def failed(self, now: float) -> None:
        """The node raised; how long that took says nothing about how long its work takes."""
        self._count(now, success=0.0)

    def timed_out(self, now: float, duration_s: float) -> None:
        """The node was cut after *duration_s*: a failure, and a duration of at least that."""
        self._durations.add(duration_s, censored=True)
        self._count(now, success=0.0)

    def forget(self) -> None:
        """Start again: what is known of it is over."""
        self._durations = Window(DURATIONS)
        self._successes = self._total = 0.0

    def _count(self, now: float, *, success: float) -> None:
        kept = self._kept(now)
        self._successes = self._successes * kept + success
        self._total = self._total * kept + 1.0
        self._at = max(now, self._at)

    def _kept(self, now: float) -> float:
        """What is left at *now* of weights of the last outcome; all of it if that was reported later."""
        return exp2(-max(now - self._at, 0.0) / self.half_life_s)

    def score(self, now: float) -> float:
        """The weighted share of successes, above 0 and at most 1; asking changes nothing."""
        kept = self._kept(now)
        return (self._successes * kept + PRIOR) / (self._total * kept + PRIOR)

    @property
    def p95_s(self) -> float | None:
        """What 95 of 100 calls stay within; None below ten durations, infinite if more than 5 % were cut."""
        return self._quantile(0.95)

    @property
    def p50_s(self) -> float | None:
        """What half of the calls stay within; None below ten durations, infinite if most were cut."""
        return self._quantile(0.5)

    def _quantile(self, share: float) -> float | None:
        return None if len(self._durations) < MIN_DURATIONS else self._durations.quantile(share)
