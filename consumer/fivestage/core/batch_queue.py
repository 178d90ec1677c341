"""The queue of a batch node: which items form the next batch, when it starts, and which items are dropped."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from itertools import count
from math import inf
from typing import Final, Generic, TypeVar

from fivestage.core.batch_cost import BatchCost

T = TypeVar("T")

MARGIN: Final = 1.1
"""A batch starts when this many times its predicted duration is left before its earliest deadline."""
SLACK_S: Final = 0.001
"""Seconds in addition, as a loop may be late."""


class BatchQueue(Generic[T]):
    """Items in the order of their deadlines. Times are monotonic seconds.

    Args:
        max_size: The most items of a batch.
        max_wait_s: How long an item waits for others while no batch runs.
    """

    __slots__ = ("_added", "_max_size", "_max_wait_s", "_numbers", "_waiting", "cost")

    def __init__(self, max_size: int, max_wait_s: float) -> None:
        self._max_size = max_size
        self._max_wait_s = max_wait_s
        self._numbers = count()
        self._waiting: list[tuple[float, int, T]] = []
        """Deadline, number and item, sorted; numbers are unique, so items are never compared."""
        self._added: dict[int, tuple[float, float]] = {}
        """When each waiting item was added, and its deadline, by number; the oldest first."""
        self.cost = BatchCost()
        """Learns from the batches that have ended."""

    def __len__(self) -> int:
        return len(self._waiting)

    def __repr__(self) -> str:
        return f"<BatchQueue {len(self)} waiting, {self.cost}>"

    def put(self, item: T, deadline: float, now: float) -> int:
        """Add an item; returns its number, for ``remove``."""
        number = next(self._numbers)
        insort(self._waiting, (deadline, number, item), key=_order)
        self._added[number] = now, deadline
        return number

    def remove(self, number: int) -> bool:
        """Remove an item before it is in a batch; False if it does not wait any more."""
        added = self._added.pop(number, None)
        if added is None:
            return False
        del self._waiting[bisect_left(self._waiting, (added[1], number), key=_order)]
        return True

    def postpone(self, lost_s: float) -> None:
        """Move all deadlines by the time that was lost because other code blocked the loop."""
        self._waiting = [(deadline + lost_s, number, item) for deadline, number, item in self._waiting]
        self._added = {number: (at, deadline + lost_s) for number, (at, deadline) in self._added.items()}

    @property
    def due_at(self) -> float:
        """When the next batch starts if none runs: it is full, old enough, or as late as it may be."""
        if not self._waiting:
            return inf
        size = len(self._waiting)
        if size >= self._max_size:
            return -inf
        last_start = self._waiting[0][0] - MARGIN * self.cost.predicted_s(size) - SLACK_S
        oldest_at, _ = next(iter(self._added.values()))
        return min(oldest_at + self._max_wait_s, last_start)

    def take(self, now: float) -> tuple[list[T], list[T]]:
        """Remove the next batch, the earliest deadline first; and the items that it would answer too late.

        Where it would answer none in time, it has those whose deadline has not passed: the prediction may be
        wrong, and only another batch can correct it.
        """
        waiting, dropped = self._waiting, 0
        while dropped < len(waiting):
            size = min(len(waiting) - dropped, self._max_size)
            if waiting[dropped][0] > now + self.cost.certain_s(size):
                break
            dropped += 1
        if dropped == len(waiting):
            dropped = max(self._count_until(now), len(waiting) - self._max_size)
        hopeless = self._pop(dropped)
        return self._pop(self._max_size), hopeless

    @property
    def hopeless_at(self) -> float:
        """When an item becomes hopeless that waits for the end of a running batch.

        As long as nothing is known of the cost of a batch: just after its deadline, which ends its wait.
        """
        return self._waiting[0][0] - (self.cost.certain_s(1) or -SLACK_S) if self._waiting else inf

    def drop_hopeless(self, now: float) -> list[T]:
        """Remove the items that would be late even if a batch of one item started now."""
        return self._pop(self._count_until(now + self.cost.certain_s(1)))

    def _count_until(self, time: float) -> int:
        """How many items have their deadline at *time* or before."""
        return bisect_right(self._waiting, time, key=_deadline)

    def _pop(self, size: int) -> list[T]:
        """Remove the first *size* items."""
        taken = self._waiting[:size]
        del self._waiting[:size]
        for _, number, _ in taken:
            del self._added[number]
        return [item for _, _, item in taken]


def _deadline(entry: tuple[float, int, T]) -> float:
    return entry[0]


def _order(entry: tuple[float, int, T]) -> tuple[float, int]:
    return entry[:2]
