"""Tracks finished offsets, and the position to which each partition may be committed.

The commit position of a partition is the end of its contiguous finished prefix, as in
confluentinc/parallel-consumer. Only offsets that were *received* count, so gaps left by compaction or
transaction markers need no handling. Each assignment starts a new epoch with new PartitionOffsets; results of
an earlier epoch cannot move a commit.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

from fivestage.core.partition_halt import HaltGuard, HaltPolicy

if TYPE_CHECKING:
    from collections.abc import Collection

MAX_IN_LINE: Final = 1024
"""Records that may wait behind an earlier one of their key, in equal shares for all partitions."""
MIN_IN_LINE: Final = 16
"""The smallest share of a partition, in records."""
MAX_LINE_BYTES: Final = 16 * 1024 * 1024
"""Bytes of such records. A partition is not consumed while its share of records or bytes is used up."""


class PartitionKey(NamedTuple):
    """A topic and partition number."""

    topic: str
    partition: int


def numbers_of(keys: Collection[PartitionKey]) -> list[int] | list[str]:
    """Partitions for a log line: their numbers, or ``topic/number`` if there are several topics."""
    if len({key.topic for key in keys}) > 1:
        return [f"{key.topic}/{key.partition}" for key in sorted(keys)]
    return sorted(key.partition for key in keys)


class PartitionOffsets:
    """The offsets of one partition in one assignment.

    >>> offsets = PartitionOffsets(epoch=1)
    >>> for offset in (5, 6, 9):
    ...     offsets.begin(offset)
    >>> offsets.finish(6)
    >>> offsets.committable
    >>> offsets.finish(5)
    >>> offsets.committable
    9
    """

    __slots__ = (
        "_finished", "_put_back", "_started", "closed", "committed", "drained", "epoch", "in_line",
        "leaving", "line_bytes", "next_offset", "position", "reached",
    )  # fmt: skip

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self.closed = False
        """The partition was revoked: nothing may be committed any more."""
        self.committed: int | None = None
        """The position that the broker last acknowledged; before that, the first received offset."""
        self.reached = -1
        """The highest offset already decided (rejected, started or answered). Lower offsets must not be
        handed back, or later ones would be answered twice."""
        self.leaving = False
        """A drain has started: records that have not started are handed back, unless below ``reached``."""
        self.drained = False
        """The drain is over: all records that have not started are handed back."""
        self.in_line = 0
        """Records that wait behind another of their key."""
        self.line_bytes = 0
        """Bytes of the records that wait behind another of their key."""
        self.next_offset: int | None = None
        """One past the highest offset received or skipped; None before the first."""
        self._started: deque[int] = deque()
        self._finished: set[int] = set()
        self.position: int | None = None
        """The end of the contiguous finished prefix; None before the first received or skipped offset."""
        self._put_back = 0

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"in_flight={self.in_flight} span={self.span}"
        return f"<PartitionOffsets epoch={self.epoch} position={self.position} {state}>"

    def begin(self, offset: int) -> None:
        """Add a received record. Offsets must rise; a repeated one is a bug in the consumer.

        Raises:
            ValueError: *offset*, or a higher one, was received before in this epoch.
        """
        if self.next_offset is not None and offset < self.next_offset:
            raise ValueError(f"offset {offset} was received before; the next is {self.next_offset}")
        if self.position is None:
            self.position = self.committed = offset
        self._started.append(offset)
        self.next_offset = offset + 1

    def skip_to(self, offset: int) -> None:
        """Skip the offsets before *offset*: their records no longer exist.

        Raises:
            ValueError: *offset*, or a higher one, was received before in this epoch.
        """
        if self.next_offset is not None and offset < self.next_offset:
            raise ValueError(f"offset {offset} was received before; the next is {self.next_offset}")
        self.next_offset = offset
        if not self._started:
            self.position = offset

    def finish(self, offset: int) -> None:
        """Finish a record: all of its events are acknowledged.

        Raises:
            ValueError: *offset* was not received, or was finished before.
        """
        started, finished = self._started, self._finished
        if offset in finished or not started or not started[0] <= offset <= started[-1]:
            raise ValueError(f"offset {offset} is not in flight")
        finished.add(offset)
        while started and started[0] in finished:
            finished.remove(started.popleft())
        self.position = started[0] if started else self.next_offset

    def reach(self, offset: int) -> None:
        """Note that an offset has been decided."""
        self.reached = max(self.reached, offset)

    def put_back(self) -> None:
        """Hand back a received record: it stays uncommitted, to be read again, perhaps by another member."""
        self._put_back += 1

    def begin_again(self) -> None:
        """Prepare to receive handed-back records again. No other record may be in flight."""
        if self.position is not None:
            self._started.clear()
            self._finished.clear()
            self.next_offset = self.position
            self._put_back = 0

    @property
    def committable(self) -> int | None:
        """The position to commit now; None if there is nothing new, or the partition was revoked."""
        if self.closed or self.position == self.committed:
            return None
        return self.position

    @property
    def in_flight(self) -> int:
        """Records received, not finished and not handed back."""
        return len(self._started) - len(self._finished) - self._put_back

    @property
    def span(self) -> int:
        """Offsets from the finished prefix to the highest received one: a crash repeats at least these."""
        if self.next_offset is None or self.position is None:
            return 0
        return self.next_offset - self.position


class Ledger:
    """The offsets of all assigned partitions.

    Args:
        max_span: How far a partition may be consumed ahead of its commit position, in offsets.
        halt_policy: When to halt a partition because too many of its records are unreadable.
    """

    def __init__(self, *, max_span: int, halt_policy: HaltPolicy | None = None) -> None:
        self._max_span = max_span
        self.guard = HaltGuard(halt_policy or HaltPolicy())
        self.epoch = 0
        """The number of assignments so far."""
        self.partitions: dict[PartitionKey, PartitionOffsets] = {}
        """The offsets of all assigned partitions."""

    def __repr__(self) -> str:
        return f"<Ledger {self.partitions}>"

    def assign(self, keys: frozenset[PartitionKey]) -> None:
        """Start a new epoch with new offsets for each partition."""
        self.epoch += 1
        for key in keys:
            self._close(key)
            self.partitions[key] = PartitionOffsets(self.epoch)

    def revoke(self, keys: frozenset[PartitionKey]) -> None:
        """Close the offsets of revoked partitions."""
        for key in keys:
            self._close(key)

    def _close(self, key: PartitionKey) -> None:
        offsets = self.partitions.pop(key, None)
        if offsets is not None:
            offsets.closed = True

    def offsets(self, key: PartitionKey) -> PartitionOffsets | None:
        """The offsets of a partition; None if it is not assigned."""
        return self.partitions.get(key)

    def in_flight(self, keys: frozenset[PartitionKey] | None = None) -> int:
        """Records received and not finished, in all or some partitions."""
        found = self.partitions.items()
        return sum(offsets.in_flight for key, offsets in found if keys is None or key in keys)

    def within_span(self) -> list[PartitionKey]:
        """The partitions to consume: not halted, and below the limits of uncommitted and waiting records."""
        halted, max_span = self.guard.halted, self._max_span
        return [
            key
            for key, offsets in self.partitions.items()
            if offsets.span < max_span and key not in halted and not self.is_line_full(offsets)
        ]

    def is_line_full(self, offsets: PartitionOffsets) -> bool:
        """Whether too many records of a partition wait behind others of their keys."""
        partitions = max(1, len(self.partitions))
        most = max(MIN_IN_LINE, MAX_IN_LINE // partitions)
        return offsets.in_line >= most or offsets.line_bytes >= MAX_LINE_BYTES // partitions

    def halted(self) -> list[PartitionKey]:
        """The assigned partitions that are halted."""
        return [key for key in self.guard.halted if key in self.partitions]

    def resumable(self, now: float) -> list[PartitionKey]:
        """The halted partitions to resume: the pause is over, and nothing is in flight."""
        found = self.partitions
        return [key for key in self.guard.over(now) if key in found and not found[key].in_flight]

    def resume(self, key: PartitionKey) -> int | None:
        """Resume a halted partition; return the offset to seek to, None if the position is right already."""
        self.guard.resume(key)
        offsets = self.partitions[key]
        offsets.begin_again()
        return offsets.next_offset

    def committable(self) -> dict[PartitionKey, int]:
        """The positions to commit now."""
        found = {key: offsets.committable for key, offsets in self.partitions.items()}
        return {key: position for key, position in found.items() if position is not None}

    def note_committed(self, positions: dict[PartitionKey, int], *, epoch: int) -> None:
        """Record that the broker acknowledged a commit sent in *epoch*, unless reassigned since."""
        for key, position in positions.items():
            offsets = self.partitions.get(key)
            if offsets is not None and offsets.epoch <= epoch:  # not reassigned
                offsets.committed = position
