"""Latency of queries by how many ran at their start: the measurements for the concurrency limit.

All means are means of logarithms, that is geometric: one call in a hundred that takes fifty times as long
makes an arithmetic mean useless, and a median ignores the slower of two kinds of query.
"""

from __future__ import annotations

from math import exp, log, sqrt
from typing import Final, NamedTuple

MEMORY: Final = 64.0
"""Queries, about the last ones, that the mean of a level of concurrency covers."""
FEWEST: Final = 8
"""Fewest samples of a mean that is used."""
LEVELS: Final = 32
"""Levels of concurrency, by powers of two: 1, 2-3, 4-7, and so on."""
MIN_LATENCY_S: Final = 1e-4
"""Shorter latencies count as this one: ratios of shorter ones are noise."""
LOG_MIN: Final = log(MIN_LATENCY_S)


class Latency(NamedTuple):
    """A geometric mean with its uncertainty."""

    mean: float
    """Mean of the natural logarithms of seconds."""
    variance: float
    """Variance of these logarithms."""
    samples: float

    @property
    def error(self) -> float:
        """The standard error of the mean, if the samples are independent."""
        return sqrt(self.variance / self.samples)

    @property
    def seconds(self) -> float:
        """The geometric mean."""
        return exp(self.mean)


class _Level:
    """Moving mean and variance of about the last MEMORY samples."""

    __slots__ = ("mean", "variance", "weight")

    def __init__(self) -> None:
        self.weight = 0.0
        self.mean = 0.0
        self.variance = 0.0

    def add(self, log_s: float) -> None:
        if self.weight < MEMORY:
            self.weight += 1.0
        share, off = 1.0 / self.weight, log_s - self.mean
        self.mean += off * share
        self.variance = (1.0 - share) * (self.variance + off * off * share)


class LatencyProfile:
    """The latency of queries by how many ran when they started, themselves included.

    The number at the start is used because a query's latency does not affect it: at a fixed rate of arrivals
    a slow query ends among more queries than a fast one, whatever slowed it down.
    """

    __slots__ = ("_levels",)

    def __init__(self) -> None:
        self._levels = [_Level() for _ in range(LEVELS)]

    def add(self, concurrency: int, log_s: float) -> None:
        """Add a query that started as one of *concurrency* and took exp(*log_s*) seconds."""
        self._levels[concurrency.bit_length()].add(log_s)

    def below(self, concurrency: int) -> Latency | None:
        """The latency of queries that started as one of up to *concurrency*; None for too few samples."""
        levels = [level for bits, level in enumerate(self._levels) if (1 << bits) - 1 <= concurrency]
        count = sum([level.weight for level in levels])
        if count < FEWEST:
            return None
        mean = sum([level.weight * level.mean for level in levels]) / count
        squares = sum([level.weight * (level.variance + (level.mean - mean) ** 2) for level in levels])
        return Latency(mean, squares / count, count)

    def replace(self, latency: Latency) -> None:
        """Set the latency of all levels: it was found not to depend on the concurrency."""
        for level in self._levels:
            level.weight, level.mean, level.variance = MEMORY, latency.mean, latency.variance


class QueryWindow:
    """Sums over the queries that are evaluated together; ``ConcurrencyLimiter.record`` adds each query."""

    __slots__ = (
        "dropped", "ended", "free", "in_time", "longest_s", "opened_at", "running", "samples", "squares",
        "total",
    )  # fmt: skip

    def __init__(self) -> None:
        self.opened_at = 0.0
        """When the first query ended; monotonic seconds."""
        self.ended = 0
        self.dropped = 0
        self.free = 0
        """Queries that ended while none waited for their slot."""
        self.in_time = 0
        """Queries that ended in time since the last timeout."""
        self.longest_s = 0.0
        self.running = 0
        """Most queries that ran at a time."""
        self.samples = 0
        """Queries that count for the latency."""
        self.total = 0.0
        """Sum of the logarithms of their latencies; ``squares`` is the sum of the squares."""
        self.squares = 0.0

    def latency(self) -> Latency:
        """The mean of the samples; there must be at least one."""
        mean = self.total / self.samples
        return Latency(mean, max(0.0, self.squares / self.samples - mean * mean), self.samples)

    def goodput(self, now: float) -> float:
        """Queries that ended in time, per second, minus one for the query that opened the window."""
        good = self.ended - self.dropped - 1
        return max(0.0, good) / (now - self.opened_at) if now > self.opened_at else 0.0

    @property
    def all_bound(self) -> bool:
        """Whether a query waited for a slot at the end of each query."""
        return not self.free

    @property
    def drop_share(self) -> float:
        """The share of queries that timed out."""
        return self.dropped / self.ended if self.ended else 0.0
