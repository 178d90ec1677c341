"""Bounds how long an event loop works on one thing before everything else has its turn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

SLICE_S: Final = 0.001
"""The usual length: short against a query's deadline, long against one step of work."""


class TimeSlice:
    """Counts from its creation on.

    An event loop runs its timers only between callbacks. Work that comes in bursts is therefore done by
    slices, and the rest rescheduled.

    Args:
        clock: Returns seconds.
        length_s: How long the slice is.
    """

    __slots__ = ("_clock", "_ends_at", "now")

    def __init__(self, clock: Callable[[], float], length_s: float = SLICE_S) -> None:
        self._clock = clock
        self.now = clock()
        """The clock when it was last read."""
        self._ends_at = self.now + length_s

    def __repr__(self) -> str:
        return f"<TimeSlice {self._ends_at - self.now:.6f} s left>"

    def is_over(self) -> bool:
        """Read the clock; return True once the slice has been used up."""
        self.now = self._clock()
        return self.now >= self._ends_at
