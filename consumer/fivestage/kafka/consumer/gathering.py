"""Lets records gather at the broker, because a fetch costs the same for one record as for ten.

The brokers could do this (``fetch.min.bytes``), but they would delay the first record after a pause as well,
and an idle consumer would have to ask again every few milliseconds. aiokafka asks a broker again only when
all that it has fetched is taken, so taking it a little later is enough.
"""

from __future__ import annotations

from math import inf
from typing import Final

ENOUGH: Final = 4
"""Records in a fetch, with which its cost no longer matters."""
LONGEST_S: Final = 0.01
"""The longest that a record waits for others, in seconds; a twenty-fifth of the usual deadline."""


class Gathering:
    """Computes how long to wait until enough records have gathered, at the rate of the last ones.

    Args:
        now: Seconds of a monotonic clock.
    """

    def __init__(self, now: float) -> None:
        self._taken_at = now
        self._next_at = -inf

    def __repr__(self) -> str:
        return f"<Gathering until {self._next_at:.3f}>"

    def took(self, count: int, now: float) -> None:
        """A fetch has brought so many records, perhaps none."""
        passed_s, self._taken_at = now - self._taken_at, now
        if 0 < count < 2 * ENOUGH and passed_s < count * LONGEST_S:  # else none would come, or enough do
            self._next_at = now + min(passed_s * ENOUGH / count, LONGEST_S)

    def pause_s(self, now: float) -> float:
        """Seconds to wait before the next fetch."""
        return max(0.0, self._next_at - now)
