"""Chooses how long a broker may hold back a fetch: for a few records under load, longer while idle."""

from __future__ import annotations

from math import exp, inf
from typing import Final, NamedTuple

IDLE_AFTER_S: Final = 2.0
IDLE_FACTOR: Final = 5
LONGEST_IDLE_MS: Final = 500
RATE_OVER_S: Final = 0.5
"""The time constant of the rate: an exponentially decaying count of records, divided by this."""
GATHERED: Final = 3
"""Records that are worth waiting for: each further one saves less of a fetch."""
FULL_BYTES: Final = 16_384
"""A fetch with as much is answered at once: a large backlog never waits."""


class FetchWait(NamedTuple):
    """What a fetch asks of the broker: to answer when it has *min_bytes*, or after *max_wait_ms*."""

    min_bytes: int
    max_wait_ms: int


class FetchPacing:
    """Chooses the wait of each fetch by the recent rate of records.

    A record costs a fetch, and all that follows it, where each fetch brings one. So under load a fetch waits
    for GATHERED records, at most *linger_ms*, where more than one comes meanwhile. At higher rates as many
    come while the last ones are worked on.

    Args:
        max_wait_ms: How long a fetch waits that has nothing to bring. IDLE_AFTER_S after the last record it
            waits IDLE_FACTOR times as long, but not over LONGEST_IDLE_MS for that.
        linger_ms: How long a record may wait at the broker for others; 0 for not at all.
    """

    __slots__ = ("_count", "_idle_ms", "_last_at", "_linger_ms", "_lingers", "_max_wait_ms")

    def __init__(self, *, max_wait_ms: int, linger_ms: int) -> None:
        self._max_wait_ms = max_wait_ms
        self._idle_ms = max(max_wait_ms, min(max_wait_ms * IDLE_FACTOR, LONGEST_IDLE_MS))
        self._linger_ms = min(linger_ms, max_wait_ms)
        self._lingers = True
        self._count = 0.0
        self._last_at = -inf

    @property
    def longest_ms(self) -> int:
        """The longest wait of any fetch."""
        return self._idle_ms

    def note(self, records: int, now: float) -> None:
        """Count *records* that came at *now*, in monotonic seconds; with 0, it only counts as not idle."""
        self._count = self._decayed(now) + records
        self._last_at = now

    def note_fetch(self, *, brought_records: bool) -> None:
        """After a fetch without records the next one does not linger: a rejected one would not be noticed."""
        self._lingers = brought_records

    def wait(self, now: float, brokers: int) -> FetchWait:
        """The wait of a fetch that is sent at *now*, to one of so many brokers."""
        if now - self._last_at > IDLE_AFTER_S:
            return FetchWait(1, self._idle_ms)
        per_ms = self._decayed(now) / RATE_OVER_S / 1000 / max(1, brokers)
        if not self._lingers or per_ms * self._linger_ms < 1:
            return FetchWait(1, self._max_wait_ms)
        linger_ms = min(self._linger_ms, int(GATHERED / per_ms))
        return FetchWait(FULL_BYTES, linger_ms) if linger_ms else FetchWait(1, self._max_wait_ms)

    def _decayed(self, now: float) -> float:
        return self._count * exp((self._last_at - now) / RATE_OVER_S)
