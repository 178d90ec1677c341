"""Detects poison pills: queries in flight during process-wide stalls.

When the whole process stalls for longer than a query may take, one of the queries in flight may be the cause.
The stall can cost the process its place in the consumer group; its answers then cannot be committed, the
record is consumed again, and the same happens again, for ever. Queries beside the cause are innocent, so each
record is run again once; after its second stall it is rejected.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fivestage.core.records import Record

STALLED_S = 1.0
"""A deadline that is noticed this late means a stall, not a shortage of CPU. Session timeouts are longer."""
MOST = 10_000
MAX_STALLS = 2


class PoisonPills:
    """Counts the stalls in which each record was in flight; forgets the oldest records beyond a maximum.

    A record is identified by its timestamp too, since the offsets of a topic that is created again start at
    0.

    Args:
        most: How many records are remembered.
    """

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._stalls: dict[tuple[str, int, int, int], int] = {}

    def __contains__(self, record: Record) -> bool:
        """Whether the record was in flight during MAX_STALLS stalls."""
        return bool(self._stalls) and self._stalls.get(_name(record), 0) >= MAX_STALLS

    def note(self, record: Record, late_s: float) -> None:
        """Record how late after its deadline the query ended."""
        if late_s < STALLED_S:
            return
        name = _name(record)
        before = self._stalls.pop(name, 0)
        if len(self._stalls) >= self._most:
            del self._stalls[next(iter(self._stalls))]
        self._stalls[name] = before + 1


def _name(record: Record) -> tuple[str, int, int, int]:
    return record.topic, record.partition, record.offset, record.timestamp
