"""Processing in key order: of all queries with the same key one runs, and the others wait in a queue.

This is the processing order KEY of confluentinc/parallel-consumer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class KeyOrder(Generic[K, T]):
    """First in, first out for each key; no order between keys, and none without a key.

    The caller makes the partition part of the key, since equal record keys of different partitions are
    unrelated. Only keys with a running item are stored.

    >>> order = KeyOrder[tuple[str, int, bytes], str]()
    >>> order.enter(("queries", 0, b"k"), "first"), order.enter(("queries", 0, b"k"), "second")
    (True, False)
    >>> order.leave(("queries", 0, b"k"))
    'second'
    """

    __slots__ = ("_queues",)

    def __init__(self) -> None:
        self._queues: dict[K, deque[T] | None] = {}
        """The waiting items of each key with a running item; None until the first item of the key waits."""

    def enter(self, key: K | None, item: T) -> bool:
        """Return True if *item* may start now, and count it as running; otherwise queue it.

        Items without a key (None) may always start.
        """
        if key is None:
            return True
        queues = self._queues
        if key not in queues:
            queues[key] = None
            return True
        queue = queues[key]
        if queue is None:
            queues[key] = deque((item,))
        else:
            queue.append(item)
        return False

    def leave(self, key: K | None) -> T | None:
        """End the running item of *key*; return the next one, which now counts as running, or None.

        Call this once for every item, however it ended. An item that expires while it waits keeps its place:
        it is returned in its turn, and the caller ends it at once.

        Raises:
            ValueError: no item of *key* is running.
        """
        if key is None:
            return None
        if key not in self._queues:
            raise ValueError(f"no item of key {key!r} is running")
        queue = self._queues[key]
        if not queue:
            del self._queues[key]
            return None
        return queue.popleft()
