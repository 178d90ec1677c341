"""Chooses the lane that gets the next free slot: lanes share the slots by weight, and borrow idle ones.

The rule is max-min fairness over the running queries: the next slot goes to the waiting lane with the fewest
slots by weight. Nothing is reserved and no history is kept, so a lane that is alone may use all slots, and a
lane that returns is served first until it has its share.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

T = TypeVar("T")


class LaneShares:
    """The weights of the lanes, relative to each other: 9 and 1 mean the same as 0.9 and 0.1.

    A lane without a share has the smallest weight, so that inventing lanes gains nothing. Without any shares
    all lanes are equal.

    >>> LaneShares({"interactive": 0.9, "bulk": 0.1}).weight("unheard of")
    0.1
    """

    __slots__ = ("_shares", "_unnamed")

    def __init__(self, shares: Mapping[str, float]) -> None:
        self._shares = dict(shares)
        self._unnamed = min(shares.values(), default=1.0)

    def weight(self, lane: str) -> float:
        """The weight of *lane*."""
        return self._shares.get(lane, self._unnamed)


class LaneQueues(Generic[T]):
    """Queues of items that wait for a slot, one for each lane with such items; no item is queued twice.

    ``put`` and ``remove`` take constant time, ``take`` grows with the number of waiting lanes, ``remove_if``
    with the number of waiting items.
    """

    __slots__ = ("_queues", "_shares", "_size")

    def __init__(self, shares: LaneShares) -> None:
        self._shares = shares
        self._queues: dict[str, OrderedDict[int, T]] = {}
        """By lane, none empty; in the order in which lanes were last served, or had their first item."""
        self._size = 0

    def __repr__(self) -> str:
        waiting = ", ".join(f"{lane}={len(queue)}" for lane, queue in self._queues.items())
        return f"<LaneQueues {waiting or 'empty'}>"

    def __len__(self) -> int:
        return self._size

    def put(self, lane: str, item: T) -> None:
        """Append *item* to the queue of its lane."""
        queue = self._queues.get(lane)
        if queue is None:
            queue = self._queues[lane] = OrderedDict()
        queue[id(item)] = item
        self._size += 1

    def take(self, running: Mapping[str, int]) -> tuple[str, T] | None:
        """Remove and return the item that gets the next slot, with its lane; None when none waits.

        The lane is the one with the fewest *running* slots by weight; among equals, the one that has waited
        longest since it was last served or got its first waiting item. The oldest item of that lane is next.

        Args:
            running: How many slots each lane uses or waits for in the executor; 0 for a lane not named.
        """
        if not self._size:
            return None
        lane = self._next_lane(running)
        # If items are left, the lane goes to the end: among equal lanes the first in the dict is next.
        queue = self._queues.pop(lane)
        item = queue.popitem(last=False)[1]
        if queue:
            self._queues[lane] = queue
        self._size -= 1
        return lane, item

    def _next_lane(self, running: Mapping[str, int]) -> str:
        if len(self._queues) == 1:
            return next(iter(self._queues))
        weight = self._shares.weight
        return min(self._queues, key=lambda lane: running.get(lane, 0) / weight(lane))

    def oldest(self) -> list[T]:
        """Return the oldest item of each lane that waits."""
        return [next(iter(queue.values())) for queue in self._queues.values()]

    def remove(self, lane: str, item: T) -> None:
        """Remove one item from the queue of *lane*, wherever it stands there.

        Raises:
            KeyError: *item* does not wait in *lane*.
        """
        queue = self._queues[lane]
        del queue[id(item)]
        if not queue:
            del self._queues[lane]
        self._size -= 1

    def remove_if(self, predicate: Callable[[T], bool]) -> list[T]:
        """Remove and return the items for which *predicate* is true: lane by lane, the oldest first.

        *predicate* is called once for each item. If it raises, nothing is removed.
        """
        queues = self._queues.items()
        found = [(lane, item) for lane, queue in queues for item in queue.values() if predicate(item)]
        for lane, item in found:
            self.remove(lane, item)
        return [item for _, item in found]
