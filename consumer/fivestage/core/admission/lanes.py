"""Who gets the next free slot: lanes share what may be in flight by weight, and borrow what is idle.

The rule is max-min fairness over what is running: the next slot goes to the waiting lane that uses least
of its weight. Nothing is reserved and nothing is remembered, so a lane that is alone may have all slots,
and one that comes back is served first until it has its share.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class LaneShares:
    """The weights of the lanes, relative to each other; 9 and 1 say the same as 0.9 and 0.1.

    >>> LaneShares({"interactive": 0.9, "bulk": 0.1}).weight("unheard of")
    0.1
    """

    shares: Mapping[str, float]
    unnamed: float = field(init=False)
    """The weight of a lane not named: the smallest there is, so that inventing lanes pays for nobody;
    1 when none is named, which makes all equal."""

    def __post_init__(self) -> None:
        for lane, share in self.shares.items():
            if not (share > 0 and isfinite(share)):
                raise ValueError(f"the share of lane {lane!r} is {share}, not more than 0")
        object.__setattr__(self, "shares", dict(self.shares))
        object.__setattr__(self, "unnamed", min(self.shares.values(), default=1.0))

    def weight(self, lane: str) -> float:
        """What *lane* weighs."""
        return self.shares.get(lane, self.unnamed)


class LaneQueues(Generic[T]):
    """Items that wait for a slot, by lane. A lane is known while something of it waits; an item waits once.

    ``put`` and ``remove`` take constant time, ``take`` time by the number of waiting lanes, ``remove_if`` by
    that of waiting items.
    """

    __slots__ = ("_queues", "_shares", "_size")

    def __init__(self, shares: LaneShares) -> None:
        self._shares = shares
        self._queues: dict[str, OrderedDict[int, T]] = {}
        """Never an empty one; the lane that was served longest ago, or never, comes first."""
        self._size = 0

    def __repr__(self) -> str:
        waiting = ", ".join(f"{lane}={len(queue)}" for lane, queue in self._queues.items())
        return f"<LaneQueues {waiting or 'empty'}>"

    def __len__(self) -> int:
        return self._size

    def waiting(self, lane: str) -> int:
        """How many of *lane* wait."""
        queue = self._queues.get(lane)
        return len(queue) if queue else 0

    def lanes(self) -> tuple[str, ...]:
        """The lanes of which something waits; the one that has waited longest comes first."""
        return tuple(self._queues)

    def put(self, lane: str, item: T) -> None:
        """Let *item* wait, behind what waits of its lane."""
        queue = self._queues.get(lane)
        if queue is None:
            queue = self._queues[lane] = OrderedDict()
        queue[id(item)] = item
        self._size += 1

    def take(self, running: Mapping[str, int]) -> tuple[str, T] | None:
        """Take out who gets the next slot, and its lane; None when nobody waits.

        It is the oldest item of the lane whose *running* by weight is lowest. Among equals it is the lane
        that has waited longest: since it was last served, or since something of it waits.

        Args:
            running: How many slots each lane has; 0 for a lane not named.
        """
        if not self._size:
            return None
        lane = self._next_lane(running)
        # Back in at the end, if at all: the order of the lanes is the order of their turns.
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

    def remove(self, lane: str, item: T) -> None:
        """Take out one item, wherever it stands in the line of *lane*.

        Raises:
            KeyError: it does not wait there.
        """
        queue = self._queues[lane]
        del queue[id(item)]
        if not queue:
            del self._queues[lane]
        self._size -= 1

    def remove_if(self, predicate: Callable[[T], bool]) -> list[T]:
        """Take out the items *predicate* is true of: lane by lane, the oldest of each first.

        It is asked once about each item. If it raises, nothing is taken out.
        """
        removed: list[T] = []
        changed: dict[str, OrderedDict[int, T]] = {}
        for lane, queue in self._queues.items():
            kept: OrderedDict[int, T] = OrderedDict()
            for name, item in queue.items():
                if predicate(item):
                    removed.append(item)
                else:
                    kept[name] = item
            if len(kept) < len(queue):
                changed[lane] = kept
        self._replace(changed)
        self._size -= len(removed)
        return removed

    def _replace(self, queues: dict[str, OrderedDict[int, T]]) -> None:
        for lane, queue in queues.items():
            if queue:
                self._queues[lane] = queue
            else:
                del self._queues[lane]
