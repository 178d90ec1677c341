"""Learned limits: what a stage may take follows what it takes.

The limit is moved a little with every sample towards a multiple of the stage's 95th percentile, the
exponential smoothing of TCP's retransmission timer (RFC 6298), and kept within bounds around the
configured figure. What was learned is applied below that figure only while answers are gained by it. A call
that was cut is a censored sample: only a lower bound of what it would have
taken is known. Were those left out, what remains would lie below the limit by construction, and the limit
could only ever shrink.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Final

from fivestage.core.adaptive.window import Window

GAIN: Final = 1.05
"""So many times the answers a limit below the configured one must give: the samples are few."""


@dataclass(frozen=True, slots=True)
class AdaptivePolicy:
    """How a limit is learned.

    The defaults need 50 of the last 200 samples to begin with, aim at 1.5 times P95, go a tenth of the
    way with each sample, and stay between half and three times the configured limit.
    """

    enabled: bool = True
    min_samples: int = 50
    floor_ratio: float = 0.5
    ceiling_ratio: float = 3.0
    learning_rate: float = 0.1
    window: int = 200
    headroom: float = 1.5

    def __post_init__(self) -> None:
        if not 1 <= self.min_samples <= self.window:
            raise ValueError(
                f"need 1 <= min_samples <= window, got min_samples={self.min_samples} window={self.window}"
            )
        if not 0 < self.floor_ratio <= 1 <= self.ceiling_ratio < inf:
            raise ValueError(
                "need 0 < floor_ratio <= 1 <= ceiling_ratio, "
                f"got floor_ratio={self.floor_ratio} ceiling_ratio={self.ceiling_ratio}"
            )
        if not 0 < self.learning_rate <= 1:
            raise ValueError(f"learning_rate must be above 0 and at most 1, got {self.learning_rate}")
        if not 1 <= self.headroom < inf:
            raise ValueError(f"headroom must be at least 1, got {self.headroom}")


class LearnedLimit:
    """The limit of one stage, and what was learned of it.

    Errors and skips are no samples: they say nothing about how long the work takes.

    >>> limit = LearnedLimit(0.1, AdaptivePolicy(min_samples=1, learning_rate=0.5))
    >>> limit.succeeded(0.04)  # aims at 60 ms and goes half the way
    >>> round(limit.limit_s, 3)
    0.08
    """

    __slots__ = ("_ceiling_s", "_floor_s", "_limit_s", "_new", "_samples", "configured_s", "policy")

    def __init__(self, configured_s: float, policy: AdaptivePolicy) -> None:
        if not 0 < configured_s < inf:
            raise ValueError(f"configured_s must be above 0, got {configured_s}")
        self.configured_s = configured_s
        self.policy = policy
        self._floor_s = configured_s * policy.floor_ratio
        self._ceiling_s = configured_s * policy.ceiling_ratio
        self._limit_s = configured_s
        self._samples = Window(policy.window)
        self._new = 0
        """Samples that have not moved the limit yet: that is done when it is read."""

    def __repr__(self) -> str:
        how = "learned" if self.is_learned else "configured"
        return f"<LearnedLimit {self.limit_s:.4g}s {how} p95={self.p95_s} samples={len(self._samples)}>"

    def succeeded(self, duration_s: float) -> None:
        """The stage ended by itself."""
        self._samples.add(duration_s)
        if self._new or self.is_learned:
            self._new += 1

    def timed_out(self, duration_s: float) -> None:
        """The stage was cut after *duration_s*: it would have taken longer."""
        self._samples.add(duration_s, censored=True)
        self._new += self.is_learned

    def _learn(self) -> None:
        """Go with each new sample a part of the way that is left."""
        p95_s = self._samples.quantile(0.95) or 0.0
        target_s = self._within(self.policy.headroom * p95_s)
        left = (1 - self.policy.learning_rate) ** self._new
        self._limit_s = self._within(target_s + left * (self._limit_s - target_s))  # a sum may overshoot
        self._new = 0

    def _within(self, seconds: float) -> float:
        if seconds < self._floor_s:
            return self._floor_s
        return min(seconds, self._ceiling_s)

    @property
    def is_learned(self) -> bool:
        """Whether samples move the limit: learning is on and there are enough of them."""
        return self.policy.enabled and len(self._samples) >= self.policy.min_samples

    @property
    def limit_s(self) -> float:
        """What was learned; the configured limit until enough is known."""
        if self._new:
            self._learn()
        return self._limit_s

    def in_force_s(self, *, scarce: bool, other_s: float = 0.0) -> float:
        """The limit to apply: the learned one, but below the configured one only where answers are gained.

        Cutting work early takes an answer away, and gives the rest of its time to a query that waits. So it
        is done only while slots are scarce, and where a slot then gives more answers (GAIN).

        Args:
            scarce: Queries have waited for slots for a while.
            other_s: What a query usually takes besides this stage.
        """
        limit_s, configured_s = self.limit_s, self.configured_s
        if limit_s >= configured_s:
            return limit_s
        if not scarce:
            return configured_s
        rate = self._samples.answers_per_second
        gains = rate(limit_s, other_s) >= GAIN * rate(configured_s, other_s)
        return limit_s if gains else configured_s

    @property
    def p95_s(self) -> float | None:
        """What 95 of 100 stay within, at most the limit; None below ``min_samples``."""
        return self._quantile(0.95)

    @property
    def p50_s(self) -> float | None:
        """What half of them stay within, at most the limit; None below ``min_samples``."""
        return self._quantile(0.5)

    def _quantile(self, q: float) -> float | None:
        found = self._samples.quantile(q)
        if found is None or len(self._samples) < self.policy.min_samples:
            return None
        return min(found, max(self.limit_s, self.configured_s))
