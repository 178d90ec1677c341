"""Counts whose code blocks event loops, over the last five minutes."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from fivestage.observability.status.figures import MAX_NODES, OTHER, RECENT_SLOTS
from fivestage.observability.status.summary import iso

if TYPE_CHECKING:
    from fivestage.observability.status.model import BlockedBy


class _Blocks:
    """How often code of one name has blocked a loop."""

    def __init__(self) -> None:
        self.current = 0
        self.closed: deque[int] = deque(maxlen=RECENT_SLOTS)
        self.at = 0.0
        self.where: str | None = None

    @property
    def count(self) -> int:
        return self.current + sum(self.closed)


class BlockedLoops:
    """Blocked event loops by the node or stage whose code it was; the name of other code is empty."""

    def __init__(self) -> None:
        self.total = 0
        """Since the start."""
        self._names: dict[str, _Blocks] = {}

    def add(self, name: str, where: str | None, at: float) -> None:
        """Count a loop that code at *where* blocks; *at* is in seconds since the epoch."""
        self.total += 1
        if name not in self._names and len(self._names) >= MAX_NODES - 1:
            name = OTHER
        found = self._names.setdefault(name, _Blocks())
        found.current += 1
        found.at, found.where = at, where

    def close_slot(self) -> None:
        """Start a new slot, and forget the names that were not seen in any."""
        for name, found in list(self._names.items()):
            found.closed.append(found.current)
            found.current = 0
            if not found.count:
                del self._names[name]

    def count_of(self, name: str) -> tuple[int, str | None]:
        """Return how often code of this name has blocked a loop, and when last."""
        found = self._names.get(name)
        return (0, None) if found is None else (found.count, iso(found.at))

    def rows(self) -> list[BlockedBy]:
        """Return all names, the one that blocks most often first."""
        found = sorted(self._names.items(), key=lambda item: -item[1].count)
        return [
            {"name": name, "count": one.count, "at": iso(one.at), "where": one.where} for name, one in found
        ]
