"""Bounds how long one task keeps an event loop busy before timers and other callbacks run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

SLICE_S: Final = 0.001
"""The usual length in seconds: short against a query's deadline, long against one step of work."""


class TimeSlice:
    """One slice of time, from its creation on.

    An event loop runs its timers only between callbacks. Work that comes in bursts is therefore done in
    slices; what is left at the end of a slice is rescheduled.

    Args:
        clock: Returns seconds.
        length_s: The length of the slice.
    """

    __slots__ = ("_clock", "_ends_at", "now")

    def __init__(self, clock: Callable[[], float], length_s: float = SLICE_S) -> None:
        self._clock = clock
        self.now = clock()
        """The time at the last reading of the clock."""
        self._ends_at = self.now + length_s

    def __repr__(self) -> str:
        return f"<TimeSlice {self._ends_at - self.now:.6f} s left>"

    def is_over(self) -> bool:
        """Read the clock; return True once the slice has been used up."""
        self.now = self._clock()
        return self.now >= self._ends_at
