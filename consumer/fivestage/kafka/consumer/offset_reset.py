"""Chooses where to read when there is no position or an out-of-range one (``kafka.auto_offset_reset``).

aiokafka would reset silently. Here every reset is logged and counted, with the number of records that
retention deleted before they were read.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog
from aiokafka.errors import IllegalStateError, KafkaError, NoOffsetForPartitionError, OffsetOutOfRangeError

from fivestage.core.ledger import PartitionKey
from fivestage.errors import ConfigurationError
from fivestage.kafka.connection.connection import raise_if_forbidden
from fivestage.kafka.consumer.assigned import seek

if TYPE_CHECKING:
    from aiokafka import AIOKafkaConsumer, TopicPartition

    from fivestage.core.ledger import Ledger, PartitionOffsets
    from fivestage.core.observer import Observer
    from fivestage.settings import Settings

LOST_POSITION = (NoOffsetForPartitionError, OffsetOutOfRangeError)
"""The errors that every fetch raises, for one partition at a time, until ``seek`` sets its position."""

RETRY_S = 0.2

log = structlog.get_logger("fivestage.kafka.consumer.offset_reset")


class OffsetReset:
    """Sets the position of a partition to its earliest record, or to its end.

    Args:
        consumer: The consumer whose fetch raised.
        ledger: Skips the offsets of records that will never be read.
        observer: Counts every reset.
        settings: Topic and group, and ``kafka.auto_offset_reset``.
    """

    def __init__(
        self, consumer: AIOKafkaConsumer, ledger: Ledger, observer: Observer, settings: Settings
    ) -> None:
        self._topic = settings.topics.queries
        self._group_id = settings.kafka.group_id
        self._reset = settings.kafka.auto_offset_reset
        self._consumer = consumer
        self._ledger = ledger
        self._observer = observer

    async def restore(self, error: NoOffsetForPartitionError | OffsetOutOfRangeError) -> None:
        """Set the position of the partition in *error*. If that fails, the next fetch raises again.

        Raises:
            ConfigurationError: the setting is ``error``, or this principal may not read the topic.
        """
        try:
            if isinstance(error, NoOffsetForPartitionError):
                await self._set_first(error.args[0])
            else:
                for partition, position in error.args[0].items():
                    await self._replace(partition, position)
        except IllegalStateError:  # the partition was revoked meanwhile
            return
        except KafkaError as failure:
            raise_if_forbidden(failure, topic=self._topic, group_id="")
            log.warning("cannot look up where to read on", error_type=type(failure).__name__)
            await asyncio.sleep(RETRY_S)

    async def _set_first(self, partition: TopicPartition) -> None:
        """Set the position of a partition where nothing was committed, or the commit has expired."""
        offsets = self._ledger.offsets(PartitionKey(*partition))
        if self._reset == "latest":
            offset = (await self._consumer.end_offsets([partition]))[partition]
        else:
            offset = (await self._consumer.beginning_offsets([partition]))[partition]
        if offsets is None or offsets.closed:  # reassigned meanwhile: there may be a position now
            return
        self._raise_if_error(partition, "it has no committed position")
        seek(self._consumer, partition, offset)
        self._skip_to_end(offsets, offset)
        self._observer.position_reset("none", 0)
        log.info("no committed position", **_where(partition), offset=offset, from_the=self._reset)

    def _skip_to_end(self, offsets: PartitionOffsets, offset: int) -> None:
        """With ``latest``, let *offset* be committed: the next owner would start at a later end otherwise."""
        if self._reset == "latest":
            offsets.skip_to(offset)

    def _raise_if_error(self, partition: TopicPartition, why: str) -> None:
        if self._reset == "error":
            where = f"partition {partition.partition} of {partition.topic!r}"
            raise ConfigurationError(
                f"group {self._group_id!r} cannot read {where}: {why}, and kafka.auto_offset_reset is "
                "'error'. Set a position (kafka-consumer-groups --reset-offsets), or choose earliest or "
                "latest"
            )

    async def _replace(self, partition: TopicPartition, position: int) -> None:
        """Replace a position that, by the broker's answer, is out of range."""
        offsets = self._ledger.offsets(PartitionKey(*partition))
        begins_at = (await self._consumer.beginning_offsets([partition]))[partition]
        ends_at = (await self._consumer.end_offsets([partition]))[partition]
        if offsets is None or offsets.closed:  # reassigned meanwhile, perhaps with another position
            return
        if begins_at <= position <= ends_at:  # a lagging replica gave that answer
            await asyncio.sleep(RETRY_S)
            return
        kind = "beyond its end" if position > ends_at else "of deleted records"
        self._raise_if_error(
            partition, f"position {position} is {kind} (offsets {begins_at} to {ends_at} exist)"
        )
        offset = ends_at if self._reset == "latest" else begins_at
        seek(self._consumer, partition, offset)
        where = {**_where(partition), "position": position, "offset": offset}
        if position > ends_at:
            self._reopen(partition, offset)
            log.error("position beyond the end", **where, from_the=self._reset)
            return
        skipped = offset - position
        self._observer.position_reset("deleted", skipped)
        log.error("records were deleted before they were read", skipped=skipped, **where)
        offsets.skip_to(offset)

    def _reopen(self, partition: TopicPartition, offset: int) -> None:
        """Open the partition in the ledger again: its topic was recreated, so offsets may have gone back."""
        key = PartitionKey(*partition)
        self._ledger.assign(frozenset({key}))
        self._skip_to_end(self._ledger.partitions[key], offset)
        self._observer.position_reset("beyond_end", 0)


def _where(partition: TopicPartition) -> dict[str, object]:
    return {"topic": partition.topic, "partition": partition.partition}
