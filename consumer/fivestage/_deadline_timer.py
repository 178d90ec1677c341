"""Watches many deadlines on one event loop with one timer."""

from __future__ import annotations

import asyncio
from heapq import heapify, heappop, heappush
from math import inf
from typing import TYPE_CHECKING, Final, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

SWEEP_AT: Final = 1000
"""Deadlines, besides two for each that the last sweep left, at which the next sweep comes."""


class DeadlineTimer(Generic[T]):
    """Calls back when deadlines pass, of things of which nearly all end long before theirs.

    What ends is not removed, but skipped, or swept with others: so a deadline costs a fifth of a timer of its
    own. Things are known by keys that can be compared. Used on one loop.

    Args:
        is_live: Whether a deadline still counts.
        on_time: Called at the earliest deadline or soon after, with the time for which the timer was set
            (seconds of the loop's clock): it takes those that have passed with ``pop``. What it leaves is due
            in the next pass of the loop.
    """

    def __init__(self, is_live: Callable[[T], bool], on_time: Callable[[float], None]) -> None:
        self._is_live = is_live
        self._on_time = on_time
        self._heap: list[tuple[float, T]] = []
        self._sweep_at = SWEEP_AT
        self._timer: asyncio.TimerHandle | None = None
        self.set_for = inf
        """The earliest deadline, perhaps of something that has ended; infinite if there is none."""

    def __len__(self) -> int:
        return len(self._heap)

    def __repr__(self) -> str:
        return f"<DeadlineTimer of {len(self)}, set for {self.set_for:.3f}>"

    def watch(self, at: float, key: T) -> None:
        """Watch a deadline. A key may have several."""
        if len(self._heap) >= self._sweep_at:
            self._sweep()
        heappush(self._heap, (at, key))
        if at < self.set_for:
            self._set(at)

    def pop(self, until: float) -> tuple[float, T] | None:
        """Remove the earliest deadline that counts if it is not later than *until*, and return it."""
        heap = self._heap
        while heap and heap[0][0] <= until:
            deadline = heappop(heap)
            if self._is_live(deadline[1]):
                return deadline
        return None

    def clear(self) -> None:
        """Watch nothing any more."""
        self._heap.clear()
        self._sweep_at = SWEEP_AT
        self._cancel()

    def _sweep(self) -> None:
        self._heap[:] = [entry for entry in self._heap if self._is_live(entry[1])]
        heapify(self._heap)
        self._sweep_at = SWEEP_AT + 2 * len(self._heap)

    def _set(self, at: float) -> None:
        self._cancel()
        self.set_for = at
        self._timer = asyncio.get_running_loop().call_at(at, self._fire)

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self.set_for = None, inf

    def _fire(self) -> None:
        at, self.set_for, self._timer = self.set_for, inf, None
        try:
            self._on_time(at)
        finally:  # an error with one must not cost the others their deadlines
            heap = self._heap
            while heap and not self._is_live(heap[0][1]):
                heappop(heap)
            if heap and heap[0][0] < self.set_for:
                self._set(heap[0][0])
