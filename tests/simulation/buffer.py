"""What a simulated consumer has fetched of a partition; after the FetchResult of aiokafka's fetcher.py."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from aiokafka.errors import CorruptRecordException

if TYPE_CHECKING:
    from fivestage.core.records import PlainRecord

    from .subscription import Assignment, PartitionState


class Buffer:
    """What was fetched of one partition and not read yet.

    Args:
        bad: The offsets at which reading raises.
    """

    def __init__(
        self, assignment: Assignment, state: PartitionState, records: list[PlainRecord], bad: set[int]
    ) -> None:
        self._assignment = assignment
        self._state = state
        self._records = records
        self._bad = bad
        self._next = state.position
        self._raised = False
        self.made_at = asyncio.get_running_loop().time()
        self.is_empty = False

    def take(self, room: int) -> list[PlainRecord]:
        """Take records, and move the position; nothing where it was moved meanwhile.

        Raises:
            CorruptRecordException: one cannot be read; the position stays.
        """
        state = self._state
        if not self._assignment.active or state.paused or state.position != self._next or self.is_empty:
            self.is_empty = True
            return []
        taken: list[PlainRecord] = []
        while self._records and not self._raised:
            record = self._records[0]
            if record.offset in self._bad:
                self._raised = True
                raise CorruptRecordException("Invalid CRC")
            taken.append(self._records.pop(0))
            self._next = record.offset + 1
            if len(taken) >= room:
                state.position = self._next
                return taken
        state.position = self._next
        self.is_empty = True
        return taken
