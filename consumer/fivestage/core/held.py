"""Queries that ran while nothing else did: the whole process stood still, for longer than their time.

One of them may be the reason, and may have cost the process its place in the group. Then what was answered
cannot be committed, the record is read again, and the same would happen again, for ever.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fivestage.core.records import Record

HELD_UP_S = 1.0
"""A deadline that is noticed so late was not missed for want of a little CPU. Sessions are longer."""
MOST = 10_000


class HeldUp:
    """Remembers the records of such queries, the latest ones.

    A record is known by its timestamp too: a topic that is made anew counts from 0 again.

    Args:
        most: How many are remembered.
    """

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._records: dict[tuple[str, int, int, int], None] = {}

    def __repr__(self) -> str:
        return f"<HeldUp {len(self._records)}>"

    def __contains__(self, record: Record) -> bool:
        return bool(self._records) and _name(record) in self._records

    def note(self, record: Record, late_s: float) -> None:
        """Its query has ended, so long after its deadline."""
        if late_s < HELD_UP_S:
            return
        if len(self._records) >= self._most:
            del self._records[next(iter(self._records))]
        self._records[_name(record)] = None


def _name(record: Record) -> tuple[str, int, int, int]:
    return record.topic, record.partition, record.offset, record.timestamp
