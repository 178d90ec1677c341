"""Decides when a client must be replaced and how often it may be. Pure: the caller passes the time."""

from __future__ import annotations

from collections import deque
from math import inf
from typing import TYPE_CHECKING, NamedTuple

from fivestage.core.backoff import backoff_s

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from fivestage.core.ledger import PartitionKey

Positions = dict["PartitionKey", int | None]
"""The offset that is read next, by partition; None where it is not known."""

MAX_REBUILDS = 3
WINDOW_S = 300.0
FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 5.0
APART_S = 0.1
MAX_GAP_S = 5.0
"""Seconds: after a longer gap between updates (stopped process, blocked loop) earlier ones do not count."""


class ClientFault(NamedTuple):
    """Why a client must be replaced."""

    reason: str
    """One of a few words: a label of metrics."""
    text: str
    """For logs and probes."""


def pause_s(attempt: int, random: float) -> float:
    """Seconds to wait before a rebuild or an attempt to connect; see backoff_s."""
    return backoff_s(attempt, random, first_s=FIRST_PAUSE_S, max_s=LONGEST_PAUSE_S, factor=4.0)


class RebuildBudget:
    """Limits the rebuilds of a client to *most* within *window_s*, with a growing pause before each.

    Args:
        random: Returns numbers from 0 to 1, for the jitter of the pauses.

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
        """Take one rebuild: the seconds to wait before it, or None when the budget is spent."""
        while self._taken and now - self._taken[0] >= self.window_s:
            self._taken.popleft()
        if len(self._taken) >= self.most:
            return None
        self._taken.append(now)
        return pause_s(len(self._taken) - 1, self._random())


class Debounce:
    """Confirms an observation when it is made again, at least *apart_s* later and with no other in between.

    >>> debounce = Debounce(apart_s=0.1)
    >>> [debounce.update(seen, now) for seen, now in (("a", 1.0), ("a", 1.0), (None, 1.2), ("a", 1.4))]
    [None, None, None, None]
    >>> debounce.update("a", 1.5)
    'a'
    """

    def __init__(self, apart_s: float = APART_S) -> None:
        self._apart_s = apart_s
        self._first: tuple[str, float] | None = None

    def update(self, seen: str | None, now: float) -> str | None:
        """Record an observation, None for nothing; return it once it is confirmed."""
        if seen is None:
            self._first = None
        elif self._first is None or self._first[0] != seen:
            self._first = (seen, now)
        elif now - self._first[1] >= self._apart_s:
            return seen
        return None


class StallTracker:
    """Finds partitions whose position does not move although they are read all the time.

    Args:
        limit_s: Seconds after which a position that has stayed the same is stalled.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._since: dict[PartitionKey, tuple[int | None, float]] = {}
        self._updated_at = -inf

    def reset(self) -> None:
        """Start again: no position was expected to move."""
        self._since.clear()

    def update(self, positions: Mapping[PartitionKey, int | None], now: float) -> Positions:
        """Record the positions; returns those that have not moved for the limit, each once per limit."""
        if now - self._updated_at > MAX_GAP_S:
            self.reset()
        self._updated_at = now
        before, self._since = self._since, {}
        stalled: Positions = {}
        for key, position in positions.items():
            last, since = before.get(key, (position, now))
            if last != position:
                since = now
            elif now - since >= self._limit_s:
                stalled[key] = position
                since = now
            self._since[key] = (position, since)
        return stalled
