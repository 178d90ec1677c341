"""Which offsets are finished, and how far may be committed.

A partition's committable position is the end of its contiguous finished prefix, as in
confluentinc/parallel-consumer: only offsets that were *received* count, so gaps left by compaction or
transaction markers need no handling. Every assignment opens a new book with a new epoch; what belongs
to an earlier epoch can no longer move a commit.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

from fivestage.core.partition_halt import HaltGuard, HaltPolicy

if TYPE_CHECKING:
    from collections.abc import Collection

MAX_IN_LINE: Final = 1024
MIN_IN_LINE: Final = 16
MAX_LINE_BYTES: Final = 16 * 1024 * 1024
"""So many records may wait for others of their keys, and take so many bytes. Each partition has its share, of
at least MIN_IN_LINE records: one that has used it up is not read until some have started; the others are."""


class PartitionKey(NamedTuple):
    """Names a partition."""

    topic: str
    partition: int


def numbers_of(keys: Collection[PartitionKey]) -> list[int] | list[str]:
    """Partitions in a log line: their numbers, or ``topic/number`` where they are of several topics."""
    if len({key.topic for key in keys}) > 1:
        return [f"{key.topic}/{key.partition}" for key in sorted(keys)]
    return sorted(key.partition for key in keys)


class PartitionOffsets:
    """The book of one partition for one assignment.

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
        "_finished",
        "_prefix_end",
        "_put_back",
        "_started",
        "closed",
        "committed",
        "drained",
        "epoch",
        "in_line",
        "leaving",
        "line_bytes",
        "next_offset",
        "reached",
    )

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self.closed = False
        """The partition was taken away: nothing of this book may be committed any more."""
        self.committed: int | None = None
        """The position last acknowledged by the broker; at first where this epoch began to read."""
        self.reached = -1
        """The highest offset that was refused, answered or begun to be answered: none below it may be left to
        the next reader, or that would be answered twice."""
        self.leaving = False
        """A drain has started: what has not started is left to the next reader, as far as it may be."""
        self.drained = False
        """The drain is over: whatever has not started is left to the next reader."""
        self.in_line = 0
        """Records that wait for another of their key."""
        self.line_bytes = 0
        """What these take."""
        self.next_offset: int | None = None
        """One past the highest offset begun or skipped; None before the first."""
        self._started: deque[int] = deque()
        self._finished: set[int] = set()
        self._prefix_end: int | None = None
        self._put_back = 0

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"in_flight={self.in_flight} span={self.span}"
        return f"<PartitionOffsets epoch={self.epoch} position={self.position} {state}>"

    def begin(self, offset: int) -> None:
        """A record was received. Offsets rise; a repeated one is a bug in the source.

        Raises:
            ValueError: *offset* was begun before in this epoch.
        """
        if self.next_offset is not None and offset < self.next_offset:
            raise ValueError(f"offset {offset} was begun before; the next is {self.next_offset}")
        if self._prefix_end is None:
            self._prefix_end = self.committed = offset
        self._started.append(offset)
        self.next_offset = offset + 1

    def skip_to(self, offset: int) -> None:
        """The records from the next one up to *offset* will never come: they are gone.

        Raises:
            ValueError: records from *offset* on were begun before.
        """
        if self.next_offset is not None and offset < self.next_offset:
            raise ValueError(f"offset {offset} was begun before; the next is {self.next_offset}")
        self.next_offset = offset
        if not self._started:
            self._prefix_end = offset

    def finish(self, offset: int) -> None:
        """All events of a record are acknowledged.

        Raises:
            ValueError: *offset* was not begun, or was finished before.
        """
        started, finished = self._started, self._finished
        if offset in finished or not started or not started[0] <= offset <= started[-1]:
            raise ValueError(f"offset {offset} is not in flight")
        finished.add(offset)
        while started and started[0] in finished:
            finished.remove(started.popleft())
        self._prefix_end = started[0] if started else self.next_offset

    def reach(self, offset: int) -> None:
        """A record is being answered."""
        self.reached = max(self.reached, offset)

    def put_back(self) -> None:
        """A record that was begun is left to the partition's next reader: nothing from it on is committed."""
        self._put_back += 1

    def begin_again(self) -> None:
        """What was put back is received once more. Everything before it must be finished."""
        if self._prefix_end is not None:
            self._started.clear()
            self._finished.clear()
            self.next_offset = self._prefix_end
            self._put_back = 0

    @property
    def position(self) -> int | None:
        """The end of the contiguous finished prefix; None before the first record."""
        return self._prefix_end

    @property
    def committable(self) -> int | None:
        """What to commit now; None when there is nothing new or the book is closed."""
        if self.closed or self._prefix_end == self.committed:
            return None
        return self._prefix_end

    @property
    def in_flight(self) -> int:
        """Records begun, not finished and not put back."""
        return len(self._started) - len(self._finished) - self._put_back

    @property
    def span(self) -> int:
        """Offsets between the commit position and the highest one received: what a crash would repeat."""
        if self.next_offset is None or self._prefix_end is None:
            return 0
        return self.next_offset - self._prefix_end


class Ledger:
    """The books of all assigned partitions.

    Args:
        max_span: How far a partition may be read ahead of its commit position, in offsets.
        flood: When a partition is halted because too much of it cannot be read.
    """

    def __init__(self, *, max_span: int, flood: HaltPolicy | None = None) -> None:
        self._max_span = max_span
        self.guard = HaltGuard(flood or HaltPolicy())
        self._epoch = 0
        self._partitions: dict[PartitionKey, PartitionOffsets] = {}

    def __repr__(self) -> str:
        return f"<Ledger {self._partitions}>"

    def assign(self, keys: frozenset[PartitionKey]) -> None:
        """Open a new book for each partition: a new assignment is a new epoch for all of them."""
        self._epoch += 1
        for key in keys:
            self._close(key)
            self._partitions[key] = PartitionOffsets(self._epoch)

    def revoke(self, keys: frozenset[PartitionKey]) -> None:
        """Close the books of partitions that were taken away."""
        for key in keys:
            self._close(key)

    def _close(self, key: PartitionKey) -> None:
        offsets = self._partitions.pop(key, None)
        if offsets is not None:
            offsets.closed = True

    def offsets(self, key: PartitionKey) -> PartitionOffsets | None:
        """The open book of a partition; None when it is not assigned."""
        return self._partitions.get(key)

    @property
    def partitions(self) -> dict[PartitionKey, PartitionOffsets]:
        """The open books."""
        return self._partitions

    @property
    def epoch(self) -> int:
        """Counts assignments."""
        return self._epoch

    def in_flight(self, keys: frozenset[PartitionKey] | None = None) -> int:
        """Records begun and not finished, in all or some partitions."""
        books = self._partitions
        return sum(offsets.in_flight for key, offsets in books.items() if keys is None or key in keys)

    def within_span(self) -> list[PartitionKey]:
        """The partitions that may receive more: not halted, nor with too much uncommitted or in line."""
        halted, max_span = self.guard.halted, self._max_span
        return [
            key
            for key, offsets in self._partitions.items()
            if offsets.span < max_span and key not in halted and not self.is_line_full(offsets)
        ]

    def is_line_full(self, offsets: PartitionOffsets) -> bool:
        """Whether so many records of a partition wait for others of their keys that it must not be read."""
        partitions = max(1, len(self._partitions))
        most = max(MIN_IN_LINE, MAX_IN_LINE // partitions)
        return offsets.in_line >= most or offsets.line_bytes >= MAX_LINE_BYTES // partitions

    def halted(self) -> list[PartitionKey]:
        """The assigned partitions that are halted."""
        return [key for key in self.guard.halted if key in self._partitions]

    def resumable(self, now: float) -> list[PartitionKey]:
        """The assigned partitions that are halted and may go on: time is up, nothing is in flight."""
        books = self._partitions
        return [key for key in self.guard.over(now) if key in books and not books[key].in_flight]

    def resume(self, key: PartitionKey) -> int | None:
        """Let a halted partition go on; the offset to read from, None where its position is right already."""
        self.guard.resume(key)
        offsets = self._partitions[key]
        offsets.begin_again()
        return offsets.next_offset

    def committable(self) -> dict[PartitionKey, int]:
        """What to commit now, by partition."""
        found = {key: offsets.committable for key, offsets in self._partitions.items()}
        return {key: position for key, position in found.items() if position is not None}

    def note_committed(self, positions: dict[PartitionKey, int], *, epoch: int) -> None:
        """The broker acknowledged a commit that was sent in *epoch*."""
        for key, position in positions.items():
            offsets = self._partitions.get(key)
            if offsets is not None and offsets.epoch <= epoch:  # not one that was opened since
                offsets.committed = position
