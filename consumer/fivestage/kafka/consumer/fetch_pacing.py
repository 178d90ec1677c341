"""Chooses how long a broker may hold back a fetch: for a few records under load, longer while idle."""

from __future__ import annotations

from math import exp
from typing import Final, NamedTuple

IDLE_AFTER_S: Final = 2.0
IDLE_FACTOR: Final = 5
"""An idle consumer's fetches wait this many times ``kafka.fetch_max_wait_ms``."""
RATE_OVER_S: Final = 0.5
"""The time constant of the rate: an exponentially decaying count of records, divided by this."""
GATHERED: Final = 3
"""Records that are worth waiting for: each further one saves less of a fetch."""
FULL_BYTES: Final = 16_384
"""A fetch with as much is answered at once: a backlog never waits."""


class FetchWait(NamedTuple):
    """What a fetch asks of the broker: to answer when it has *min_bytes*, or after *max_wait_ms*."""

    min_bytes: int
    max_wait_ms: int


class FetchPacing:
    """Chooses the wait of each fetch by the recent rate of records.

    A record costs a fetch, and all that follows it, where each fetch brings one. So under load a fetch waits
    for about GATHERED records, at most *linger_ms*. At higher rates as many come while the last ones are
    worked on.

    Args:
        max_wait_ms: How long a fetch waits that has nothing to bring.
        linger_ms: How long a record may wait at the broker for others; 0 for not at all.
    """

    __slots__ = ("_count", "_last_at", "_linger_ms", "_max_wait_ms")

    def __init__(self, *, max_wait_ms: int, linger_ms: int) -> None:
        self._max_wait_ms = max_wait_ms
        self._linger_ms = linger_ms
        self._count = 0.0
        self._last_at = 0.0

    def note(self, records: int, now: float) -> None:
        """Count *records* that came at *now*, in monotonic seconds."""
        self._count = self._decayed(now) + records
        self._last_at = now

    def wait(self, now: float) -> FetchWait:
        """The wait of a fetch that is sent at *now*."""
        if now - self._last_at > IDLE_AFTER_S:
            return FetchWait(1, self._max_wait_ms * IDLE_FACTOR)
        per_ms = self._decayed(now) / RATE_OVER_S / 1000
        if per_ms * self._linger_ms < 1:
            return FetchWait(1, self._max_wait_ms)
        linger_ms = min(self._linger_ms, int(GATHERED / per_ms))
        return FetchWait(FULL_BYTES, linger_ms) if linger_ms else FetchWait(1, self._max_wait_ms)

    def _decayed(self, now: float) -> float:
        return self._count * exp((self._last_at - now) / RATE_OVER_S)
