"""Detects slot pressure: queries recently had to wait for a slot.

A learned limit below the configured one may end a query early only while slots are scarce: only then another
query gains by it.
"""

from __future__ import annotations

from math import inf
from typing import Final

PRESSURE_S: Final = 1.0
"""Seconds for which slots count as scarce after a query had to wait."""
GAP_S: Final = 0.1
"""Longest pause, in seconds, between queries that had to wait within one period of waiting."""
LASTING_S: Final = 0.5
"""Seconds of a period of waiting from which on it is more than a burst."""


class Pressure:
    """Remembers when queries had to wait for a slot.

    >>> pressure = Pressure()
    >>> for ms in range(0, 700, 50):
    ...     pressure.note_wait(ms / 1000)
    >>> pressure.is_on(1.6), pressure.is_on(1.7), pressure.is_lasting(0.7), pressure.is_lasting(0.9)
    (True, False, True, False)
    """

    __slots__ = ("_due_at", "_last", "_since")

    def __init__(self) -> None:
        self._since = -inf
        self._last = -inf
        self._due_at = -inf
        """When a query with an end-to-end deadline last had to wait."""

    def __repr__(self) -> str:
        return f"<Pressure from {self._since:.1f} to {self._last:.1f}>"

    def note_wait(self, now: float, *, due: bool = True) -> None:
        """Record that a query had to wait at *now* (monotonic seconds); *due*: it has ``due_at``."""
        if now - self._last > GAP_S:
            self._since = now
        self._last = now
        if due:
            self._due_at = now

    def is_on(self, now: float) -> bool:
        """Whether slots are scarce, or were within the last second."""
        return now - self._last < PRESSURE_S

    def is_lasting(self, now: float) -> bool:
        """Whether slots are scarce now and have been for a while."""
        return now - self._last <= GAP_S and self._last - self._since >= LASTING_S

    def costs_answers(self, now: float) -> bool:
        """Whether the pressure lasts and waiting costs answers, of queries with an end-to-end deadline."""
        return self.is_lasting(now) and now - self._due_at <= GAP_S
