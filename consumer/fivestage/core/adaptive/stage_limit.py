"""Learns the time limit of a stage from the durations of its runs.

Each sample moves the limit a little towards a multiple of the stage's p95, the exponential smoothing of TCP's
retransmission timer (RFC 6298), within bounds around the configured limit. A limit below the configured one
is applied only while that gains answers. A run that was cancelled at the limit is a censored sample: it would
have taken longer. Without censored samples all would lie below the limit, and the limit could only shrink.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from fivestage.core.adaptive.window import Window

MIN_GAIN: Final = 1.05
"""Times the answers of the configured limit that a lower limit must give, since the samples are few."""


@dataclass(frozen=True, slots=True)
class AdaptivePolicy:
    """How a limit is learned.

    By default a limit is learned once there are 50 samples, of which the last 200 count. Each sample moves it
    a tenth of the way to 1.5 times the p95, between half and three times the configured limit.
    """

    enabled: bool = True
    min_samples: int = 50
    floor_ratio: float = 0.5
    ceiling_ratio: float = 3.0
    learning_rate: float = 0.1
    window: int = 200
    headroom: float = 1.5


class LearnedLimit:
    """The limit of one stage in one lane, and the durations from which it is learned.

    Errors and skips are no samples: they say nothing about how long the work takes.

    >>> limit = LearnedLimit(0.1, AdaptivePolicy(min_samples=1, learning_rate=0.5))
    >>> limit.succeeded(0.04)  # the target is 60 ms, and half the way is 80
    >>> round(limit.limit_s, 3)
    0.08
    """

    __slots__ = ("_ceiling_s", "_floor_s", "_limit_s", "_new", "_samples", "configured_s", "policy")

    def __init__(self, configured_s: float, policy: AdaptivePolicy) -> None:
        self.configured_s = configured_s
        self.policy = policy
        self._floor_s = configured_s * policy.floor_ratio
        self._ceiling_s = configured_s * policy.ceiling_ratio
        self._limit_s = configured_s
        self._samples = Window(policy.window)
        self._new = 0
        """Samples that have not moved the limit yet; reading ``limit_s`` applies them."""

    def __repr__(self) -> str:
        how = "learned" if self.is_learned else "configured"
        return f"<LearnedLimit {self.limit_s:.4g}s {how} p95={self.p95_s} samples={len(self._samples)}>"

    def succeeded(self, duration_s: float) -> None:
        """Add a run that succeeded."""
        self._samples.add(duration_s)
        if self._new or self.is_learned:
            self._new += 1

    def timed_out(self, duration_s: float) -> None:
        """Add a run that was cancelled after *duration_s*; it would have taken longer."""
        self._samples.add(duration_s, censored=True)
        self._new += self.is_learned

    def _learn(self) -> None:
        """Move the limit by all new samples at once, each of them a part of the way that is left."""
        p95_s = self._samples.quantile(0.95) or 0.0
        target_s = self._within(self.policy.headroom * p95_s)
        left = (1 - self.policy.learning_rate) ** self._new
        self._limit_s = self._within(target_s + left * (self._limit_s - target_s))  # rounding
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
        """The learned limit; the configured one until there are enough samples."""
        if self._new:
            self._learn()
        return self._limit_s

    def in_force_s(self, *, scarce: bool, other_s: float = 0.0) -> float:
        """The limit to apply: the learned one, but below the configured one only where that gains answers.

        Cancelling work early loses an answer, and gives the slot to a waiting query. So a lower limit applies
        only while slots are scarce, and if a slot then gives more answers (MIN_GAIN).

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
        gains = rate(limit_s, other_s) >= MIN_GAIN * rate(configured_s, other_s)
        return limit_s if gains else configured_s

    @property
    def p95_s(self) -> float | None:
        """The p95 of the durations, at most the larger limit; None below ``min_samples``."""
        return self._quantile(0.95)

    @property
    def p50_s(self) -> float | None:
        """The median of the durations, at most the larger limit; None below ``min_samples``."""
        return self._quantile(0.5)

    def _quantile(self, q: float) -> float | None:
        """A quantile of the durations, at most the learned or the configured limit, whichever is larger."""
        found = self._samples.quantile(q)
        if found is None or len(self._samples) < self.policy.min_samples:
            return None
        return min(found, max(self.limit_s, self.configured_s))
