"""Exact quantiles over the last samples.

Samples are added far more often than quantiles are read (a few times a second), so a sample costs one append
and the first reading after it sorts them, which for some hundreds nearly sorted floats takes microseconds.
"""

from __future__ import annotations

from collections import deque
from math import ceil, inf

_ROUNDING = 1e-9
"""0.07 * 100 is 7.000000000000001 in floats: a rank may not rise by a rounding."""


class Window:
    """The last *size* samples, sorted.

    A censored sample is one of which only a lower bound is known, such as a call that was cut: it sorts
    as longer than any.

    >>> window = Window(3)
    >>> for seconds in (9.0, 1.0, 2.0):
    ...     window.add(seconds)
    >>> window.quantile(0.5)
    2.0
    >>> window.add(0.3, censored=True)
    >>> window.quantile(0.5), window.quantile(1.0)
    (2.0, inf)
    """

    __slots__ = ("_arrived", "_ordered", "size")

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ValueError(f"size must be at least 1, got {size}")
        self.size = size
        self._arrived: deque[float] = deque(maxlen=size)
        self._ordered: list[float] | None = []
        """The samples sorted; None when one has come since."""

    def __repr__(self) -> str:
        return f"<Window {len(self)}/{self.size} p50={self.quantile(0.5)} p95={self.quantile(0.95)}>"

    def __len__(self) -> int:
        return len(self._arrived)

    def add(self, seconds: float, *, censored: bool = False) -> None:
        """Take a sample in; the oldest one leaves when the window is full.

        Args:
            seconds: How long it took; not NaN, which has no place in an order.
            censored: It took at least that long, nobody knows how much longer.
        """
        self._arrived.append(inf if censored else seconds)
        self._ordered = None

    def quantile(self, q: float) -> float | None:
        """The sample that *q* of all are at or below, by nearest rank: always one of them, never between.

        None when there are no samples; infinite when it falls among the censored ones.

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
        return ordered[max(ceil(q * len(ordered) - _ROUNDING) - 1, 0)]

    def answers_per_second(self, limit_s: float, other_s: float = 0.0) -> float:
        """How many answers a slot would give in a second if work were cut at a limit.

        That is the share of samples within the limit, by the mean time that a sample keeps the slot. A lower
        limit gives more where few take much longer than most do; where all take about the same, or where how
        long it has taken says nothing about how much longer it takes, it gives no more, or less.

        Args:
            limit_s: Where work is cut, above 0; a censored sample counts as one that would be cut.
            other_s: How long the slot is kept for other work besides, each time.
        """
        if not self._arrived:
            return 0.0
        within = sum(seconds <= limit_s for seconds in self._arrived)
        kept_s = sum(min(seconds, limit_s) for seconds in self._arrived)
        total_s = kept_s + other_s * len(self._arrived)
        return within / total_s if total_s > 0 else inf
