"""Exact quantiles over the last samples.

Samples are added far more often than quantiles are read (a few times a second). So adding is one append, and
the first read after it sorts: microseconds for a few hundred nearly sorted floats.
"""

from __future__ import annotations

from collections import deque
from math import ceil, inf

_ROUNDING = 1e-9
"""0.07 * 100 is 7.000000000000001 in floats: a rounding error must not raise a rank."""


class Window:
    """The last *size* samples, sorted.

    Of a censored sample, such as a call that was cancelled at its limit, only a lower bound is known: it
    sorts as longer than all others. A call that was given up for another reason, perhaps early, is added by
    ``add_longer_than``: its weight is that of all longer samples (E. L. Kaplan and P. Meier, *Nonparametric
    estimation from incomplete observations*, 1958; B. Efron, *The two sample problem with censored data*,
    1967).

    >>> window = Window(3)
    >>> for seconds in (9.0, 1.0, 2.0):
    ...     window.add(seconds)
    >>> window.quantile(0.5)
    2.0
    >>> window.add(0.3, censored=True)
    >>> window.quantile(0.5), window.quantile(1.0)
    (2.0, inf)
    >>> window.add_longer_than(1.5)  # 2.0 now stands for itself and for half of this one
    >>> window.quantile(0.5)
    2.0
    """

    __slots__ = ("_arrived", "_ordered")

    def __init__(self, size: int) -> None:
        self._arrived: deque[float] = deque(maxlen=size)
        self._ordered: list[float] | None = []
        """The samples sorted; None after a sample was added."""

    def __repr__(self) -> str:
        size = self._arrived.maxlen
        return f"<Window {len(self)}/{size} p50={self.quantile(0.5)} p95={self.quantile(0.95)}>"

    def __len__(self) -> int:
        return len(self._arrived)

    def add(self, seconds: float, *, censored: bool = False) -> None:
        """Add a sample; when the window is full, the oldest one leaves.

        Args:
            seconds: The sample; not NaN, which cannot be sorted.
            censored: The true value is larger, but unknown.
        """
        self._arrived.append(inf if censored else seconds)
        self._ordered = None

    def add_longer_than(self, seconds: float) -> None:
        """Add a sample that is longer than *seconds*, above 0, by an unknown amount."""
        self._arrived.append(-seconds)  # durations are not negative, so the sign marks the bound
        self._ordered = None

    def quantile(self, q: float) -> float | None:
        """The sample at or below which a share *q* of all lie, by nearest rank; never interpolated.

        None when there are no samples; infinite when this sample is censored.

        Raises:
            ValueError: *q* is not within 0..1.
        """
        if not 0 <= q <= 1:
            raise ValueError(f"q must be within 0..1, got {q}")
        ordered = self._ordered
        if ordered is None:
            ordered = self._ordered = sorted(self._arrived)
        if not ordered:
            return None
        if ordered[0] < 0:
            return _weighted_quantile(ordered, q)
        return ordered[max(ceil(q * len(ordered) - _ROUNDING) - 1, 0)]

    @property
    def longest(self) -> float | None:
        """The longest sample that is known exactly; None without one."""
        return max((sample for sample in self._arrived if 0 <= sample < inf), default=None)

    def answers_per_second(self, limit_s: float, other_s: float = 0.0) -> float:
        """The rate of answers from one slot if work were cancelled at a limit.

        That is the share of samples within the limit, divided by the mean time that a sample occupies the
        slot. A lower limit gives more answers if few samples take much longer than most. It gives no more, or
        fewer, if all take about the same, or if the time so far does not predict the time left.

        Args:
            limit_s: Where work is cancelled, above 0; a censored sample counts as cancelled.
            other_s: How long each query occupies the slot for other work.
        """
        if not self._arrived:
            return 0.0
        within = sum(seconds <= limit_s for seconds in self._arrived)
        kept_s = sum(min(seconds, limit_s) for seconds in self._arrived)
        total_s = kept_s + other_s * len(self._arrived)
        return within / total_s if total_s > 0 else inf


def _weighted_quantile(samples: list[float], q: float) -> float:
    """A quantile of samples of which the negative ones are lower bounds.

    Each sample has the weight of one, and passes it on to all longer ones in equal parts if it is a bound.
    The longest one, if it is a bound, counts as exact.
    """
    left, weight, below = len(samples), 1.0, 0.0
    longest = 0.0
    for sample in sorted(samples, key=lambda one: (abs(one), one < 0)):
        longest = abs(sample)
        if sample < 0:
            if left > 1:
                weight += weight / (left - 1)
        else:
            below += weight
            if below >= q * len(samples) - _ROUNDING:
                return sample
        left -= 1
    return longest
