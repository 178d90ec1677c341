"""Queries that ran while nothing else did: the whole process stood still, for longer than their time.

One of them may be the reason, and may have cost the process its place in the group. Then what was answered
cannot be committed, the record is read again, and the same would happen again, for ever. Its neighbours are
innocent, so each gets a second chance; the reason takes it too, and gets no third.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fivestage.core.records import Record

STALLED_S = 1.0
"""A deadline that is noticed so late was not missed for want of a little CPU. Sessions are longer."""
MOST = 10_000
MAX_STALLS = 2


class PoisonPills:
    """Remembers the records of such queries, the latest ones.

    A record is known by its timestamp too: a topic that is made anew counts from 0 again.

    Args:
        most: How many are remembered.
    """

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._records: dict[tuple[str, int, int, int], int] = {}

    def __repr__(self) -> str:
        return f"<PoisonPills {len(self._records)}>"

    def __contains__(self, record: Record) -> bool:
        """Whether it had all its chances."""
        return bool(self._records) and self._records.get(_name(record), 0) >= MAX_STALLS

    def note(self, record: Record, late_s: float) -> None:
        """Its query has ended, so long after its deadline."""
        if late_s < STALLED_S:
            return
        name = _name(record)
        before = self._records.pop(name, 0)
        if len(self._records) >= self._most:
            del self._records[next(iter(self._records))]
        self._records[name] = before + 1


def _name(record: Record) -> tuple[str, int, int, int]:
    return record.topic, record.partition, record.offset, record.timestamp
