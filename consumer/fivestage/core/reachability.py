"""Tracks whether brokers can be reached: time waited for brokers does not count during an outage."""

from __future__ import annotations

from math import inf


class Reachability:
    """Whether brokers can be reached, as far as known; at the start they are assumed to be.

    >>> reach = Reachability()
    >>> reach.waited_s(0.0, 30.0)
    30.0
    >>> reach.lost()
    >>> reach.waited_s(0.0, 600.0)
    0.0
    >>> reach.found(610.0)
    >>> reach.waited_s(0.0, 615.0)
    5.0
    """

    def __init__(self) -> None:
        self._counts = True
        self._was_lost = False
        self._since = -inf

    def doubt(self) -> None:
        """A connection was lost; whether any broker can be reached is unknown."""
        self._counts = False

    def lost(self) -> None:
        """No broker can be reached."""
        self._counts = False
        self._was_lost = True

    def found(self, now: float) -> None:
        """A broker can be reached."""
        if self._was_lost:
            self._since = now
        self._counts, self._was_lost = True, False

    def waited_s(self, since: float, now: float) -> float:
        """Seconds since *since* or the end of a later outage; 0 unless brokers are known to be reachable."""
        return now - max(since, self._since) if self._counts else 0.0
