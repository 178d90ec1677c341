"""Reads partitions backwards in windows, so that a recent record is found without reading a whole topic."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from aiokafka import TopicPartition

from fivestage.core.records import Record
from fivestage.errors import BrokerError
from fivestage.kafka.tools.client import CANNOT_READ, POLL_MS, as_broker_error

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from aiokafka import AIOKafkaConsumer

FIRST_WINDOW = 500
"""Offsets of a partition that are read first; each window before it is twice as large."""
MAX_WINDOW = 16_000
IDLE_S = 15.0
"""How long a window may go on without a record."""


class Scan(NamedTuple):
    """What was found in a topic, and how much of it was read."""

    matching: Sequence[Record]
    """The oldest first."""
    read: int


async def newest_first(
    consumer: AIOKafkaConsumer,
    partitions: Collection[TopicPartition],
    matches: Callable[[Record], bool],
    *,
    enough: int,
    since_ms: float,
    on_read: Callable[[int], None],
) -> Scan:
    """Read partitions from their ends backwards until *enough* records match.

    Args:
        consumer: Gets other partitions assigned.
        partitions: Where to look.
        matches: Whether a record is wanted.
        enough: How many records are wanted; all that match in the last window are returned.
        since_ms: Stop at a window whose records are all older, in milliseconds since the epoch. Brokers are
            not asked for an offset by time, which the embedded one does not know.
        on_read: Called with the number of records after each fetch.

    Raises:
        BrokerError: the broker does not let them be read, or sends nothing for IDLE_S.
    """
    with as_broker_error(CANNOT_READ):
        firsts = await consumer.beginning_offsets(list(partitions))
        ends = await consumer.end_offsets(list(partitions))
    found: list[Record] = []
    size, read = FIRST_WINDOW, 0
    while ends := {partition: end for partition, end in ends.items() if end > firsts[partition]}:
        starts = {partition: max(firsts[partition], end - size) for partition, end in ends.items()}
        window = _Window(starts, ends)
        await window.read(consumer, matches, on_read)
        found, read = window.matching + found, read + window.count
        if len(found) >= enough:
            break
        ends = {
            partition: start
            for partition, start in starts.items()
            if not window.is_before(partition, since_ms)
        }
        size = min(2 * size, MAX_WINDOW)
    return Scan([record for record in found if record.timestamp >= since_ms], read)


async def read_one(
    consumer: AIOKafkaConsumer, partition: TopicPartition, offset: int, on_read: Callable[[int], None]
) -> Sequence[Record]:
    """Read the record at an offset; nothing if the topic does not have it any more. Raises as above."""
    with as_broker_error(CANNOT_READ):
        firsts = await consumer.beginning_offsets([partition])
        ends = await consumer.end_offsets([partition])
    if not firsts[partition] <= offset < ends[partition]:
        return []
    window = _Window({partition: offset}, {partition: offset + 1})
    await window.read(consumer, lambda _: True, on_read)
    return window.matching


class _Window:
    """Some offsets of each partition, and what was found there."""

    def __init__(self, starts: dict[TopicPartition, int], ends: dict[TopicPartition, int]) -> None:
        self.matching: list[Record] = []
        self.count = 0
        self._starts = starts
        self._ends = ends
        self._newest: dict[TopicPartition, int] = {}

    def is_before(self, partition: TopicPartition, since_ms: float) -> bool:
        """Whether all records of a partition in this window are older than *since_ms*."""
        newest = self._newest.get(partition)
        return newest is not None and newest < since_ms

    async def read(
        self,
        consumer: AIOKafkaConsumer,
        matches: Callable[[Record], bool],
        on_read: Callable[[int], None],
    ) -> None:
        """Read all records of the window."""
        loop = asyncio.get_running_loop()
        consumer.assign(list(self._starts))
        for partition, start in self._starts.items():
            consumer.seek(partition, start)
        left, last_at = set(self._starts), loop.time()
        while left:
            with as_broker_error(CANNOT_READ):
                fetched = await consumer.getmany(*left, timeout_ms=POLL_MS)
            before = self.count
            for records in fetched.values():
                self._take(records, matches)
            on_read(self.count - before)
            if fetched:
                last_at = loop.time()
            done = {
                partition for partition in left if await consumer.position(partition) >= self._ends[partition]
            }
            consumer.pause(*done)
            left -= done
            if loop.time() - last_at > IDLE_S:
                raise BrokerError(f"{CANNOT_READ}: nothing came for {IDLE_S:.0f} s")

    def _take(
        self,
        records: Sequence[Record],
        matches: Callable[[Record], bool],
    ) -> None:
        for record in records:
            partition = TopicPartition(record.topic, record.partition)
            if record.offset >= self._ends[partition]:
                return
            self.count += 1
            self._newest[partition] = max(record.timestamp, self._newest.get(partition, record.timestamp))
            if matches(record):
                self.matching.append(record)
