"""Bounds the records in flight: the poller waits while as many as the limit are not acknowledged."""

from __future__ import annotations


class Gate:
    """Closes at *limit* records in flight and opens again when a quarter is free.

    Closing and opening at the same number would pause and resume the source for every record, and each pause
    discards the prefetched records.
    """

    __slots__ = ("_high", "_low", "is_open")

    def __init__(self, limit: int) -> None:
        self._high = limit
        self._low = limit - max(1, limit // 4)
        self.is_open = True

    def __repr__(self) -> str:
        return f"<Gate {'open' if self.is_open else 'closed'} {self._low}..{self._high}>"

    def update(self, in_flight: int) -> bool:
        """Open or close the gate by the number in flight; return whether it is open."""
        threshold = self._high if self.is_open else self._low + 1
        self.is_open = in_flight < threshold
        return self.is_open

    def room(self, in_flight: int) -> int:
        """How many more records may be received now."""
        return max(0, self._high - in_flight) if self.is_open else 0
