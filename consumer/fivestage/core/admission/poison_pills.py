"""Detects poison pills: queries in flight during process-wide stalls.

When the whole process stalls beyond the deadline of a running query, this query may be the cause. The stall
can cost the process its place in the consumer group: then no answer is committed, the records are consumed
again, and the next stall follows, for ever. The other queries in flight are not the cause, so each record is
run again once; after its second stall it is rejected.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fivestage.core.records import Record

STALLED_S = 1.0
"""Seconds after its deadline at which the end of a query means a stall, not a shortage of CPU; shorter than a
session timeout."""
MAX_REMEMBERED = 10_000
MAX_STALLS = 2


class PoisonPills:
    """Counts the stalls in which the query of each record ran; drops the oldest records beyond *most*.

    A record is identified by its timestamp too, since the offsets of a topic that is created again start at
    0.

    Args:
        most: How many records are kept.
    """

    def __init__(self, most: int = MAX_REMEMBERED) -> None:
        self._most = most
        self._stalls: dict[tuple[str, int, int, int], int] = {}

    def __contains__(self, record: Record) -> bool:
        """Whether the query of *record* ran during MAX_STALLS stalls."""
        return bool(self._stalls) and self._stalls.get(_identity(record), 0) >= MAX_STALLS

    def note(self, record: Record, late_s: float) -> None:
        """Count a stall if the query of *record* ended *late_s* after its deadline, at least STALLED_S."""
        if late_s < STALLED_S:
            return
        identity = _identity(record)
        before = self._stalls.pop(identity, 0)
        if len(self._stalls) >= self._most:
            del self._stalls[next(iter(self._stalls))]
        self._stalls[identity] = before + 1


def _identity(record: Record) -> tuple[str, int, int, int]:
    return record.topic, record.partition, record.offset, record.timestamp
