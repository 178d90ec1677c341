"""Whether slots are scarce: queries have had to wait for one lately.

What is learned may take something from one query only where another gains by it, and that is only so while
slots are scarce.
"""

from __future__ import annotations

from math import inf
from typing import Final

PRESSED_S: Final = 1.0
"""For so long after a query had to wait, slots are scarce."""
GAP_S: Final = 0.1
"""A longer pause between queries that had to wait ends a period of waiting."""
LASTING_S: Final = 0.5
"""A period of waiting that has lasted so long is more than a burst."""


class Pressure:
    """Remembers when queries had to wait for a slot.

    >>> pressure = Pressure()
    >>> for ms in range(0, 700, 50):
    ...     pressure.press(ms / 1000)
    >>> pressure.is_on(1.6), pressure.is_on(1.7), pressure.is_lasting(0.7), pressure.is_lasting(0.9)
    (True, False, True, False)
    """

    __slots__ = ("_last", "_since")

    def __init__(self) -> None:
        self._since = -inf
        self._last = -inf

    def __repr__(self) -> str:
        return f"<Pressure from {self._since:.1f} to {self._last:.1f}>"

    def press(self, now: float) -> None:
        """A query had to wait for its slot; *now* is in monotonic seconds."""
        if now - self._last > GAP_S:
            self._since = now
        self._last = now

    def is_on(self, now: float) -> bool:
        """Whether slots are scarce, or were within the last second."""
        return now - self._last < PRESSED_S

    def is_lasting(self, now: float) -> bool:
        """Whether they are scarce now and have been for a while."""
        return now - self._last <= GAP_S and self._last - self._since >= LASTING_S
