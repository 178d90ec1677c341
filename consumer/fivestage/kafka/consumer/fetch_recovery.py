"""Recovers after a fetch that raised: finds the unreadable record, passes over it, loses no other.

A fetch of aiokafka that raises for one partition may have moved the positions of others and dropped their
records, and it raises for the same record at every call. So every partition is put back to the first record
that was not handed over, and read alone. If reading a partition alone raises too, it is read record by
record, and the unreadable record is reported and passed over. A rebalance may interrupt the recovery: records
found before the rebalance are dropped, because their offsets are closed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import (
    ConsumerStoppedError,
    CorruptRecordException,
    IllegalStateError,
    KafkaError,
    RecordTooLargeError,
    UnsupportedCodecError,
)

from fivestage.core.records import CorruptRecord, PlainRecord
from fivestage.errors import BrokerError
from fivestage.kafka import aiokafka_internals
from fivestage.kafka.connection.connection import raise_if_forbidden, raise_if_not_joined
from fivestage.kafka.consumer.assigned import seek
from fivestage.kafka.consumer.batch_check import UnreadableBatchError
from fivestage.kafka.consumer.offset_reset import LOST_POSITION

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from fivestage.core.ledger import Ledger, PartitionKey, PartitionOffsets
    from fivestage.core.records import Record
    from fivestage.settings import Settings

    Found = list[tuple[PartitionOffsets, Record | CorruptRecord]]
    """Records, each with the offsets in which it was registered."""

READ_TIMEOUT_MS = 200
"""Milliseconds to wait for records of a partition that may have none."""

log = structlog.get_logger("fivestage.kafka.consumer.fetch_recovery")


class FetchRecovery:
    """Finds the record that makes a fetch raise.

    Args:
        consumer: The consumer that raised.
        ledger: Which records were handed over.
        register: Opens the offsets of records; drops records of partitions that were lost meanwhile.
        settings: Topic and group.
        longest_fetch_ms: How long a fetch may wait at the broker.
    """

    def __init__(
        self,
        consumer: AIOKafkaConsumer,
        ledger: Ledger,
        register: Callable[[Sequence[Record]], Sequence[Record]],
        settings: Settings,
        *,
        longest_fetch_ms: int,
    ) -> None:
        self._consumer = consumer
        self._ledger = ledger
        self._register = register
        self._topic = settings.topics.queries
        self._kafka = settings.kafka
        self._from_beginning = settings.kafka.auto_offset_reset == "earliest"
        self._patience_ms = max(READ_TIMEOUT_MS, 2 * longest_fetch_ms)
        """Milliseconds to wait for a record that exists. Longer than a fetch waits at the broker: aiokafka
        starts no fetch for a partition while one for other partitions is in flight."""

    def is_harmless(self, error: Exception) -> bool:
        """True if *error* needs no recovery; False if a record may be unreadable.

        Raises:
            ConfigurationError: this principal may not consume, or the group does not take this member.
            BrokerError: the consumer has failed.
        """
        if isinstance(error, LOST_POSITION):
            return True  # the next fetch raises it again, and resets the position
        raise_if_forbidden(error, topic=self._topic, group_id=self._kafka.group_id)
        raise_if_not_joined(error, self._kafka)
        match error:
            case ConsumerStoppedError() | IllegalStateError():
                return True
            case CorruptRecordException() | RecordTooLargeError() | UnsupportedCodecError():
                return False
            case KafkaError():
                raise BrokerError(f"the consumer failed: {type(error).__name__}: {error}") from error
            case OSError():
                raise BrokerError(f"the consumer failed: {type(error).__name__}") from error
        return False

    async def recover(self, room: int) -> list[Record | CorruptRecord]:
        """Rewind every partition, then read each alone, up to *room* records in all."""
        found: Found = []
        keys = list(self._ledger.partitions)
        for key in keys:  # also halted ones: after a rebalance they are read until they are paused again
            await self._rewind(key)
        for key in keys:
            if len(found) < room and key not in self._ledger.guard.halted:
                found += await self._read_alone(key, room - len(found))
        return [item for offsets, item in found if not offsets.closed]

    async def _rewind(self, key: PartitionKey) -> None:
        """Seek to the first record that was not handed over."""
        offsets, partition = self._ledger.offsets(key), TopicPartition(*key)
        if offsets is None:
            return
        try:
            offset = offsets.next_offset
            if offset is None:  # nothing was handed over: the committed offset, or the beginning
                offset = await self._consumer.committed(partition)
            if offsets.closed:
                return
            if offset is not None:
                seek(self._consumer, partition, offset)
            elif self._from_beginning:  # otherwise the next fetch raises a lost position
                await self._consumer.seek_to_beginning(partition)
        except Exception as error:
            if not self.is_harmless(error):
                raise

    async def _read_alone(self, key: PartitionKey, room: int) -> Found:
        """Read one partition; if that raises, record by record up to the unreadable one."""
        partition, offsets = TopicPartition(*key), self._ledger.offsets(key)
        highwater = aiokafka_internals.highwater_of(self._consumer, partition)
        if offsets is None or (offsets.next_offset is not None and offsets.next_offset == highwater):
            return []
        try:
            fetched = await self._consumer.getmany(partition, timeout_ms=READ_TIMEOUT_MS, max_records=room)
        except Exception as error:  # noqa: BLE001 - see Source.fetch
            if self.is_harmless(error):
                return []
            await self._rewind(key)
            return await self._read_one_by_one(key, room)
        return self._register_fetched(key, fetched)

    async def _read_one_by_one(self, key: PartitionKey, room: int) -> Found:
        partition = TopicPartition(*key)
        found: Found = []
        while len(found) < room and (offsets := self._ledger.offsets(key)) is not None:
            position = aiokafka_internals.position_of(self._consumer, partition)
            if position is None:  # reassigned meanwhile: the next fetch reads from the new position
                return found
            try:
                fetched = await self._consumer.getmany(partition, timeout_ms=self._patience_ms, max_records=1)
            except Exception as error:
                if (name := aiokafka_internals.ended_task(self._consumer)) is not None:
                    raise BrokerError(f"the Kafka client's {name} task has ended") from error
                if not (self.is_harmless(error) or offsets.closed):
                    passed = self._pass_over(key, offsets, position, error, room - len(found))
                    found += [(offsets, record) for record in passed]
                return found
            if not fetched:
                return found
            found += self._register_fetched(key, fetched)
        return found

    def _register_fetched(
        self, key: PartitionKey, fetched: Mapping[TopicPartition, Sequence[Record]]
    ) -> Found:
        registered = [record for records in fetched.values() for record in self._register(records)]
        offsets = self._ledger.offsets(key)
        return [] if offsets is None else [(offsets, record) for record in registered]

    def _pass_over(
        self, key: PartitionKey, offsets: PartitionOffsets, position: int, error: Exception, room: int
    ) -> list[CorruptRecord]:
        """Pass over the record at *position*, or over the rest of its batch, up to *room* records."""
        partition, first, end = TopicPartition(*key), position, position + 1
        detail = f"it cannot be read from its batch ({type(error).__name__})"
        if isinstance(error, UnreadableBatchError):
            first, detail = max(position, error.first), error.detail  # compaction leaves gaps before a batch
            known = min(
                error.end or 0, first + room, aiokafka_internals.highwater_of(self._consumer, partition) or 0
            )
            end = max(first + 1, known)
        seek(self._consumer, partition, end)
        log.error("records passed over", partition=key.partition, offset=first, end=end, reason=detail)
        for offset in range(first, end):
            offsets.begin(offset)
        return [CorruptRecord(PlainRecord(*key, offset), detail) for offset in range(first, end)]
