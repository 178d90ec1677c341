"""When a client is to be made anew: what is wrong with it, whether it moves, and how often is too often."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from fivestage.core.ledger import PartitionKey

OffsetReset = dict["PartitionKey", int | None]
"""Where each partition is read next; None where that is not known."""

MAX_REBUILDS = 3
WINDOW_S = 300.0
FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 5.0
STALLED_AFTER_S = 30.0
APART_S = 0.1
MAX_GAP_S = 5.0
"""Whoever did not look for so long (stopped, or the loop held up) cannot say what happened meanwhile."""


class Trouble(NamedTuple):
    """Why a client must be made anew."""

    reason: str
    """One of a few words, for metrics."""
    text: str
    """For people."""


def pause_s(attempt: int, random: float) -> float:
    """How long to wait before an attempt (the first is 0), with up to half of it left to chance (0 to 1)."""
    return min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 4.0 ** min(attempt, 8)) * (1 - random / 2)


class RebuildBudget:
    """How often a client may be made anew within a while.

    Args:
        random: Numbers from 0 to 1, for the pauses.

    >>> budget = RebuildBudget(lambda: 0.0, most=2, window_s=300)
    >>> [budget.take(now) for now in (0.0, 10.0, 20.0, 300.0)]
    [0.2, 0.8, None, 0.8]
    """

    def __init__(
        self, random: Callable[[], float], *, most: int = MAX_REBUILDS, window_s: float = WINDOW_S
    ) -> None:
        self._random = random
        self.most = most
        self.window_s = window_s
        self._taken: deque[float] = deque()

    def take(self, now: float) -> float | None:
        """How many seconds to wait before the next rebuild; None when there were too many lately."""
        while self._taken and now - self._taken[0] >= self.window_s:
            self._taken.popleft()
        if len(self._taken) >= self.most:
            return None
        self._taken.append(now)
        return pause_s(len(self._taken) - 1, self._random())


class Sightings:
    """What is seen twice in a row, at times that are apart: what is seen once may be about to pass.

    >>> sightings = Sightings(apart_s=0.1)
    >>> [sightings.look(seen, now) for seen, now in (("a", 1.0), ("a", 1.0), (None, 1.2), ("a", 1.4))]
    [None, None, None, None]
    >>> sightings.look("a", 1.5)
    'a'
    """

    def __init__(self, apart_s: float = APART_S) -> None:
        self._apart_s = apart_s
        self._first: tuple[str, float] | None = None

    def look(self, seen: str | None, now: float) -> str | None:
        """Take note of what is seen, if anything; it is returned when it has been seen before."""
        if seen is None:
            self._first = None
        elif self._first is None or self._first[0] != seen:
            self._first = (seen, now)
        elif now - self._first[1] >= self._apart_s:
            return seen
        return None


class Progress:
    """Which partitions have not moved for long, although they were read all the time.

    Args:
        limit_s: How long is long.
    """

    def __init__(self, limit_s: float = STALLED_AFTER_S) -> None:
        self._limit_s = limit_s
        self._since: dict[PartitionKey, tuple[int | None, float]] = {}
        self._looked_at = float("-inf")

    def excuse(self) -> None:
        """Nothing was to move; count anew."""
        self._since.clear()

    def look(self, positions: Mapping[PartitionKey, int | None], now: float) -> OffsetReset:
        """Take note of where the partitions are; those that have not moved for long, once per limit."""
        if now - self._looked_at > MAX_GAP_S:
            self.excuse()
        self._looked_at = now
        before, self._since = self._since, {}
        quiet: OffsetReset = {}
        for key, position in positions.items():
            last, since = before.get(key, (position, now))
            if last != position:
                since = now
            elif now - since >= self._limit_s:
                quiet[key] = position
                since = now
            self._since[key] = (position, since)
        return quiet
