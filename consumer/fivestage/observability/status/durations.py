"""Percentiles of durations over the last minutes, with an error of at most 5 %.

Durations are counted in buckets whose bounds grow by 9 %, as in HdrHistogram and Prometheus's native
histograms: one addition for each duration, and counts of several slots of time can be added up.
"""

from __future__ import annotations

from array import array
from collections import deque
from itertools import accumulate
from math import log
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

GROWTH: Final = 1.09
SHORTEST_S: Final = 0.00001
"""Shorter durations are counted as this long."""
LONGEST_S: Final = 120.0
"""Longer durations are counted as this long."""
_PER_FACTOR: Final = 1 / log(GROWTH)
_OFFSET: Final = -log(SHORTEST_S) * _PER_FACTOR
_SHORTEST: Final = SHORTEST_S
_LONGEST: Final = LONGEST_S
_LAST: Final = int(log(LONGEST_S) * _PER_FACTOR + _OFFSET)
BUCKETS: Final = _LAST + 1
_MIDDLES_S: Final[tuple[float, ...]] = tuple(SHORTEST_S * GROWTH ** (index + 0.5) for index in range(BUCKETS))


def bucket_of(seconds: float) -> int:
    """Return the index of the bucket that counts a duration."""
    if seconds <= _SHORTEST:
        return 0
    if seconds >= _LONGEST:
        return _LAST
    return int(log(seconds) * _PER_FACTOR + _OFFSET)


def percentiles_ms(counts: Sequence[int], shares: Sequence[float]) -> list[float | None]:
    """Return the durations in milliseconds that these shares of all do not exceed; None if there are none.

    Args:
        counts: How many durations each bucket has; what follows the buckets is ignored.
        shares: In ascending order, 0 to 1.
    """
    below = list(accumulate(counts[:BUCKETS]))
    if not below[-1]:
        return [None] * len(shares)
    found: list[float | None] = []
    index = 0
    for share in shares:
        rank = max(1.0, share * below[-1])
        while below[index] < rank:
            index += 1
        found.append(round(1000 * _MIDDLES_S[index], 3))
    return found


def total_s(counts: Sequence[int]) -> float:
    """Return the sum of the durations in seconds; what follows the buckets is ignored."""
    return sum(count * middle for count, middle in zip(counts, _MIDDLES_S, strict=False) if count)


class RollingCounts:
    """Counts over the last slots of time: durations by bucket, and outcomes.

    Args:
        slots: How many slots are kept, besides the current one.
        outcomes: How many outcomes are counted separately.
    """

    __slots__ = ("_closed", "_older", "current", "slots")

    def __init__(self, slots: int, outcomes: int) -> None:
        self.slots = slots
        self.current = [0] * (BUCKETS + outcomes)
        """The counts of this slot: the buckets, then the outcomes."""
        self._older = [0] * (BUCKETS + outcomes)
        """The sum of the slots that are closed."""
        self._closed: deque[array[int]] = deque()
        """Of each of them the counts that are not 0: index, count, index, count and so on."""

    def close_slot(self) -> None:
        """Start a new slot, and forget the oldest one."""
        current, older = self.current, self._older
        counted = array("I")
        if any(current):
            for index, count in enumerate(current):
                if count:
                    older[index] += count
                    counted.extend((index, count))
            self.current = [0] * len(current)
        self._closed.append(counted)
        if len(self._closed) > self.slots:
            oldest = self._closed.popleft()
            for place in range(0, len(oldest), 2):
                older[oldest[place]] -= oldest[place + 1]

    @property
    def is_empty(self) -> bool:
        """Whether nothing was counted in any slot."""
        return not any(self._closed) and not any(self.current)

    def total(self) -> list[int]:
        """Return the counts of all slots."""
        return [before + now for before, now in zip(self._older, self.current, strict=True)]
