"""Leaves partitions: finishes what is in flight in them, and leaves the rest to their next readers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fivestage.core.admission.slots import Slots
    from fivestage.core.ledger import Ledger, PartitionKey
    from fivestage.dispatch.active_jobs import ActiveJobs
    from fivestage.dispatch.in_flight import InFlightQuery
    from fivestage.dispatch.key_lines import KeyLines
    from fivestage.dispatch.progress import Progress


class Drains:
    """Drains partitions that are about to be revoked, or all.

    Args:
        ledger: The offsets of the assigned partitions.
        slots: Where queries wait.
        active: Where queries run, or wait in the executor.
        key_lines: Where records wait behind earlier ones of their key.
        progress: Counts the records in flight.
    """

    def __init__(
        self,
        ledger: Ledger,
        slots: Slots[InFlightQuery],
        active: ActiveJobs,
        key_lines: KeyLines,
        progress: Progress,
    ) -> None:
        self._ledger = ledger
        self._slots = slots
        self._active = active
        self._key_lines = key_lines
        self._progress = progress
        self._full_drains = 0
        """Running drains of all partitions; these include partitions assigned during the drain."""

    def __repr__(self) -> str:
        return f"<Drains {self._full_drains} of all partitions>"

    async def drain(self, timeout_s: float, keys: frozenset[PartitionKey] | None = None) -> bool:
        """Wait until all records in flight, or those of the partitions *keys*, are finished.

        Queries that have not started are put back for the next reader, unless a later record of their
        partition was started, rejected or answered; those that wait in the executor count as started until
        *timeout_s* is over. Afterwards nothing starts in these partitions until they are assigned again.

        Returns:
            Whether all records were finished or put back within *timeout_s*.
        """
        drained = [offsets for key, offsets in self._ledger.partitions.items() if keys is None or key in keys]
        for offsets in drained:
            offsets.leaving = True
        self._full_drains += keys is None
        self._put_back_waiting()
        try:
            return await self._progress.wait_until(lambda: not self._ledger.in_flight(keys), timeout_s)
        finally:  # also when the client cancels the task that waits
            self._full_drains -= keys is None
            for offsets in drained if keys is not None else self._ledger.partitions.values():
                offsets.drained = True
            self._put_back_waiting()

    def _put_back_waiting(self) -> None:
        """Put back the queries that wait for a slot and that the drain leaves to the next reader."""
        for job in self._active.enqueued.dequeue_if(lambda job: job.origin.offsets.drained):
            self._active.drop_dequeued(job)
            self.put_back(job.origin)
        for query in self._slots.give_up(self.is_left_behind):
            query.is_waiting = False
            self.put_back(query)

    def is_left_behind(self, query: InFlightQuery) -> bool:
        """Return whether a drain leaves a query that has not started to the partition's next reader."""
        offsets = query.offsets
        if offsets.drained:
            return True
        if query.record.offset < offsets.reached:  # the next reader would repeat later records
            return False
        return offsets.leaving or self._full_drains > 0

    def put_back(self, query: InFlightQuery) -> None:
        """Leave a query to the next reader."""
        if query.record.offset >= query.offsets.reached:  # else it stays in flight: the drain is incomplete
            query.offsets.put_back()
        self.drop(query)

    def drop(self, query: InFlightQuery) -> None:
        """Drop a record that was put back, or whose partition was revoked."""
        self._slots.input_bytes -= query.size
        self._progress.finished()
        self._key_lines.leave(query)
