"""A concurrency limit learned from latency.

The algorithm is Gradient2 of Netflix/concurrency-limits (``Gradient2Limit``, fed by ``WindowedLimit``):
the mean round-trip time of a short window is compared with a long average, the baseline. While it is
within the tolerance the limit rises by what may queue; beyond it the limit falls with the ratio of the
two, smoothed. As in its ``GradientLimit``, the square root of the limit may queue: a constant would make
large limits recover slowly. Not taken over is the least of 4 there, which holds any limit at 8 or more.

Two things are added. A timeout is a drop, and a window with many of them backs the limit off, as in
``AIMDLimit``. And the baseline knows the concurrency it was measured at: in Gradient2 it follows the queue
that the limit itself has built, so under lasting overload the limit creeps to its maximum.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite, sqrt
from typing import Final

WARM_UP_WINDOWS: Final = 10
"""The baseline is the plain mean of the first windows; an average over hundreds begins after them."""
RECOVERY: Final = 0.05
"""How far the baseline goes in one window once latency is less than half of it."""
MIN_RTT_S: Final = 1e-4
"""Faster is not told apart: ratios of less are noise."""


@dataclass(frozen=True, slots=True)
class LimiterPolicy:
    """Where the limit may go, and how fast.

    Args:
        max_limit: Never more than this in flight.
        min_limit: Never fewer; where it is above *max_limit*, it is *max_limit*.
        initial: The first limit, *max_limit* if None. A baseline first measured under overload takes it
            for normal: where work may begin with a backlog, begin low.
        tolerance: How many times the baseline latency may be before the limit falls.
        smoothing: Share of a window's verdict in the new limit.
        long_window: Length of the baseline, in windows.
        window_s: Shortest window.
        window_samples: Fewest samples in a window.
        drop_share: Share of dropped samples that makes a window back off.
        backoff: What such a window multiplies the limit by.
    """

    max_limit: int
    min_limit: int = 4
    initial: int | None = None
    tolerance: float = 1.5
    smoothing: float = 0.2
    long_window: int = 600
    window_s: float = 0.25
    window_samples: int = 10
    drop_share: float = 0.1
    backoff: float = 0.9

    def __post_init__(self) -> None:
        if self.max_limit < 1 or self.min_limit < 1:
            raise ValueError(f"limits are at least 1, got min={self.min_limit} max={self.max_limit}")
        object.__setattr__(self, "min_limit", min(self.min_limit, self.max_limit))
        if not self.min_limit <= self.start <= self.max_limit:
            raise ValueError(f"initial is {self.start}, not in {self.min_limit}..{self.max_limit}")
        if not (self.tolerance >= 1 and isfinite(self.tolerance)):
            raise ValueError(f"tolerance is at least 1, got {self.tolerance}")
        if self.long_window < 1 or self.window_samples < 1:
            raise ValueError("long_window and window_samples are at least 1")
        if not (self.window_s >= 0 and isfinite(self.window_s)):
            raise ValueError(f"window_s is at least 0, got {self.window_s}")
        if not (0 < self.smoothing <= 1 and 0 < self.drop_share <= 1):
            raise ValueError("smoothing and drop_share are more than 0, at most 1")
        if not 0 < self.backoff < 1:
            raise ValueError(f"backoff is between 0 and 1, got {self.backoff}")

    @property
    def start(self) -> int:
        """The first limit."""
        return self.max_limit if self.initial is None else self.initial


class ConcurrencyLimiter:
    """The state of a LimiterPolicy: tell it how each query ended, ask it how many may be in flight."""

    __slots__ = ("_baseline", "_limit", "_policy", "_short_rtt_s", "_window")

    def __init__(self, policy: LimiterPolicy) -> None:
        self._policy = policy
        self._limit = float(policy.start)
        self._baseline = _Baseline(policy)
        self._short_rtt_s = 0.0
        self._window = _Window()

    def __repr__(self) -> str:
        bounds = f"{self._policy.min_limit}..{self._policy.max_limit}"
        rtt_ms = self._short_rtt_s * 1000
        return f"<ConcurrencyLimiter limit={self.limit} in {bounds} rtt={rtt_ms:.1f} ms {self._baseline}>"

    @property
    def limit(self) -> int:
        """How many may be in flight now."""
        return int(self._limit)

    def record(self, now: float, *, rtt_s: float, in_flight: int, dropped: bool = False) -> None:
        """A query ended after *rtt_s*; *in_flight* counts it and all others under way at that time.

        Args:
            now: Monotonic seconds.
            rtt_s: How long it took; not looked at when *dropped*.
            in_flight: The concurrency it ended in.
            dropped: It was given up at its deadline, so nobody knows how long it would have taken.
        """
        window, policy = self._window, self._policy
        if not window.samples:
            window.opened_at = now
        window.samples += 1
        if dropped:
            window.dropped += 1
        else:
            window.rtt_sum_s += rtt_s
        window.peak = max(window.peak, in_flight)
        if window.samples >= policy.window_samples and now - window.opened_at >= policy.window_s:
            self._window = _Window()
            self._move(self._verdict(window))

    def _verdict(self, window: _Window) -> float:
        """The limit as a closed window would have it."""
        policy, limit = self._policy, self._limit
        if window.dropped >= policy.drop_share * window.samples:
            return limit * policy.backoff  # the baseline learns nothing of those that survived
        short_rtt_s = self._short_rtt_s = window.mean_rtt_s
        baseline_s = self._baseline.learn(short_rtt_s, window.peak)
        # At most halved, and that smoothed: one slow window takes a tenth.
        gradient = max(0.5, min(1.0, policy.tolerance * baseline_s / short_rtt_s))
        step = (limit * gradient + sqrt(limit) - limit) * policy.smoothing
        if step > 0 and window.peak < limit / 2:
            return limit  # half empty: that it was fast says nothing about more
        return limit + step

    def _move(self, limit: float) -> None:
        self._limit = float(max(self._policy.min_limit, min(self._policy.max_limit, limit)))


class _Window:
    """Samples that are judged together."""

    __slots__ = ("dropped", "opened_at", "peak", "rtt_sum_s", "samples")

    def __init__(self) -> None:
        self.opened_at = 0.0
        self.samples = 0
        self.dropped = 0
        self.rtt_sum_s = 0.0
        self.peak = 0
        """The highest concurrency seen."""

    @property
    def mean_rtt_s(self) -> float:
        """Of the samples not dropped, of which there must be one."""
        return max(MIN_RTT_S, self.rtt_sum_s / (self.samples - self.dropped))


class _Baseline:
    """What latency is normal: an exponential average of windows, and of the concurrency they were taken at.

    A window slower than normal at a higher concurrency is not learned from: its latency may be our own
    doing. If it is not, the limit falls, the concurrency with it, and the next windows are learned from.
    """

    __slots__ = ("_in_flight", "_policy", "_rtt_s", "_windows")

    def __init__(self, policy: LimiterPolicy) -> None:
        self._policy = policy
        self._rtt_s = 0.0
        self._in_flight = 0.0
        self._windows = 0

    def __repr__(self) -> str:
        return f"normal={self._rtt_s * 1000:.1f} ms at {self._in_flight:.0f}"

    def learn(self, rtt_s: float, in_flight: int) -> float:
        """Take a window into account; return the normal latency in seconds."""
        if self._windows and self._may_be_our_doing(rtt_s, in_flight):
            return self._rtt_s
        self._windows += 1
        if self._windows <= min(WARM_UP_WINDOWS, self._policy.long_window):
            share = 1 / self._windows
        else:
            share = 2 / (self._policy.long_window + 1)  # the centre of mass of a mean over so many
        self._follow(rtt_s, in_flight, share)
        if self._rtt_s > 2 * rtt_s:
            self._follow(rtt_s, in_flight, RECOVERY)
        return self._rtt_s

    def _may_be_our_doing(self, rtt_s: float, in_flight: int) -> bool:
        """Half way to the tolerance: noise stays below it, and the limit settles above."""
        suspicious = (1 + self._policy.tolerance) / 2
        return in_flight > self._in_flight and rtt_s > suspicious * self._rtt_s

    def _follow(self, rtt_s: float, in_flight: int, share: float) -> None:
        self._rtt_s += (rtt_s - self._rtt_s) * share
        self._in_flight += (in_flight - self._in_flight) * share
