"""After a fetch that raised: which record is at fault, and what was lost with it.

A fetch of aiokafka that raises for one partition has already moved the positions of others and dropped
their records, and it raises for the same record for ever. So every partition is put back to what was really
handed over, read by itself, and, where that raises, record by record; the one at fault is reported and
passed over. All that takes a while: what was found before a rebalance is in closed books, and forgotten.
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
from fivestage.kafka.connection.connection import missing_right
from fivestage.kafka.consumer.batch_check import UnreadableBatchError
from fivestage.kafka.consumer.offset_reset import LOST_POSITION

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from fivestage.core.ledger import Ledger, PartitionKey, PartitionOffsets
    from fivestage.core.records import Record

    Found = list[tuple[PartitionOffsets, Record | CorruptRecord]]
    """What was entered into which book."""

READ_TIMEOUT_MS = 200
"""How long a partition is waited for that may have nothing."""

log = structlog.get_logger("fivestage.kafka.consumer.fetch_recovery")


class FetchRecovery:
    """Finds the record that broke a fetch.

    Args:
        consumer: The consumer that raised.
        ledger: What was handed over.
        begin: Enters records into their books; those of partitions lost meanwhile are dropped.
        topic: For messages.
        group_id: For messages.
        from_beginning: A partition without a position is read from its beginning, see Positions.
        patience_ms: How long a record is waited for that is there. Longer than a fetch waits at the broker:
            the client begins none for a partition as long as one for others is under way.
    """

    def __init__(
        self,
        consumer: AIOKafkaConsumer,
        ledger: Ledger,
        begin: Callable[[Sequence[Record]], Sequence[Record]],
        *,
        topic: str,
        group_id: str,
        patience_ms: int,
        from_beginning: bool = True,
    ) -> None:
        self._from_beginning = from_beginning
        self._consumer = consumer
        self._ledger = ledger
        self._begin = begin
        self._topic = topic
        self._group_id = group_id
        self._patience_ms = patience_ms

    def is_over(self, error: Exception) -> bool:
        """Whether *error* says that there is nothing to read here any more; False: a record is at fault.

        Raises:
            ConfigurationError, BrokerError: the fault lies elsewhere.
        """
        if isinstance(error, LOST_POSITION):
            return True  # the next fetch raises it again, and deals with it
        refused = missing_right(error, topic=self._topic, group_id=self._group_id)
        if refused is not None:
            raise refused from error
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
        """Put every partition back to what was handed over, then read each by itself."""
        found: Found = []
        keys = list(self._ledger.partitions)
        for key in keys:  # halted ones as well: a rebalance has them read again until they are told to pause
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
            if offset is None:  # nothing was handed over: where the group stands, or the beginning
                offset = await self._consumer.committed(partition)
            if offsets.closed:
                return
            if offset is not None:
                self._consumer.seek(partition, offset)
            elif self._from_beginning:  # otherwise nothing was read of it yet, and the next fetch says so
                await self._consumer.seek_to_beginning(partition)
        except Exception as error:
            if not self.is_over(error):
                raise

    async def _read_alone(self, key: PartitionKey, room: int) -> Found:
        """What one partition has; where that raises, its records one by one up to the one that does."""
        partition, offsets = TopicPartition(*key), self._ledger.offsets(key)
        highwater = self._consumer.highwater(partition) if offsets is not None else None
        if offsets is None or (offsets.next_offset is not None and offsets.next_offset == highwater):
            return []
        try:
            fetched = await self._consumer.getmany(partition, timeout_ms=READ_TIMEOUT_MS, max_records=room)
        except Exception as error:  # noqa: BLE001 - see fetch
            if self.is_over(error):
                return []
            await self._rewind(key)
            return await self._read_one_by_one(key, room)
        return self._enter(key, fetched)

    async def _read_one_by_one(self, key: PartitionKey, room: int) -> Found:
        partition = TopicPartition(*key)
        found: Found = []
        while len(found) < room and (offsets := self._ledger.offsets(key)) is not None:
            position = aiokafka_internals.position_of(self._consumer, partition)
            if position is None:  # given anew meanwhile: whether there is one the next fetch finds out
                return found
            try:
                fetched = await self._consumer.getmany(partition, timeout_ms=self._patience_ms, max_records=1)
            except Exception as error:
                if (name := aiokafka_internals.ended_task(self._consumer)) is not None:
                    raise BrokerError(f"the Kafka client's {name} task has ended") from error
                if not (self.is_over(error) or offsets.closed):
                    passed = self._pass_over(key, offsets, position, error, room - len(found))
                    found += [(offsets, record) for record in passed]
                return found
            if not fetched:
                return found
            found += self._enter(key, fetched)
        return found

    def _enter(self, key: PartitionKey, fetched: Mapping[TopicPartition, Sequence[Record]]) -> Found:
        started = [record for records in fetched.values() for record in self._begin(records)]
        offsets = self._ledger.offsets(key)
        return [] if offsets is None else [(offsets, record) for record in started]

    def _pass_over(
        self, key: PartitionKey, offsets: PartitionOffsets, position: int, error: Exception, room: int
    ) -> list[CorruptRecord]:
        """Report the record at *position*, or all of its batch from there on, as far as there is room."""
        first, end = position, position + 1
        detail = f"it cannot be taken out of its batch ({type(error).__name__})"
        if isinstance(error, UnreadableBatchError):
            first, detail = max(position, error.first), error.detail  # compaction leaves gaps
            known = min(error.end or 0, first + room, self._consumer.highwater(TopicPartition(*key)) or 0)
            end = max(first + 1, known)
        self._consumer.seek(TopicPartition(*key), end)
        log.error("records passed over", partition=key.partition, offset=first, end=end, reason=detail)
        for offset in range(first, end):
            offsets.begin(offset)
        return [CorruptRecord(PlainRecord(*key, offset), detail) for offset in range(first, end)]
