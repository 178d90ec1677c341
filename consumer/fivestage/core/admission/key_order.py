"""Order by key: of all that have the same key one is under way, the others wait in line.

The processing order KEY of confluentinc/parallel-consumer, for work that is started rather than polled:
whoever ends something starts what comes next.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class KeyOrder(Generic[K, T]):
    """Strictly first in, first out for each key; no order between keys, and none without a key.

    Equal record keys of different partitions have nothing to do with each other: the caller makes the
    partition part of the key. Only keys under way are remembered.

    >>> order = KeyOrder[tuple[str, int, bytes], str]()
    >>> order.enter(("queries", 0, b"k"), "first"), order.enter(("queries", 0, b"k"), "second")
    (True, False)
    >>> order.leave(("queries", 0, b"k"))
    'second'
    """

    __slots__ = ("_lines", "_waiting")

    def __init__(self) -> None:
        self._lines: dict[K, deque[T] | None] = {}
        """By key under way who waits for it; None as long as nobody ever did."""
        self._waiting = 0

    def __repr__(self) -> str:
        return f"<KeyOrder under_way={self.under_way} waiting={self._waiting}>"

    @property
    def under_way(self) -> int:
        """Keys of which one is under way."""
        return len(self._lines)

    @property
    def waiting(self) -> int:
        """Items in line, of all keys."""
        return self._waiting

    def enter(self, key: K | None, item: T) -> bool:
        """Whether *item* may start now, and if so it is under way; otherwise it waits in line.

        Without a key (None) everything may start.
        """
        if key is None:
            return True
        lines = self._lines
        if key not in lines:
            lines[key] = None
            return True
        line = lines[key]
        if line is None:
            lines[key] = deque((item,))
        else:
            line.append(item)
        self._waiting += 1
        return False

    def leave(self, key: K | None) -> T | None:
        """The one under way has ended: return the next in line, which now is under way, or None.

        Call it once for every item, in whatever way it ended. One that ended while it waited, at its
        deadline, keeps its place: it is returned in its turn, and leaves at once.

        Raises:
            ValueError: None of *key* is under way.
        """
        if key is None:
            return None
        if key not in self._lines:
            raise ValueError(f"none of key {key!r} is under way")
        line = self._lines[key]
        if not line:
            del self._lines[key]
            return None
        self._waiting -= 1
        return line.popleft()
