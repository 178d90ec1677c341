"""Records that a simulated consumer has fetched and not returned yet."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiokafka.errors import KafkaError

    from fivestage.core.records import PlainRecord

    from .subscription import Assignment, PartitionState


class Buffer:
    """Fetched and unread records of one partition.

    Args:
        bad: The exceptions of unreadable records, by offset.
    """

    def __init__(
        self,
        assignment: Assignment,
        state: PartitionState,
        records: list[PlainRecord],
        bad: dict[int, Exception],
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
        """Take records and advance the position; nothing if it was moved meanwhile.

        Raises:
            CorruptRecordException: a record is unreadable; the position stays.
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
                raise self._bad[record.offset]
            taken.append(self._records.pop(0))
            self._next = record.offset + 1
            if len(taken) >= room:
                state.position = self._next
                return taken
        state.position = self._next
        self.is_empty = True
        return taken


class Failed:
    """The error of a partition without a position, raised once to the next reader."""

    def __init__(self, error: KafkaError) -> None:
        self.error = error
        self.made_at = asyncio.get_running_loop().time()
