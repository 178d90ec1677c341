"""Calls of a consumer about partitions that may not be assigned to it any more.

With a pattern aiokafka gives up the assignment as soon as other topics match, some time before it revokes
the partitions, and these calls of it would raise an AssertionError. What they set would be lost with the
assignment.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiokafka import AIOKafkaConsumer, TopicPartition


def seek(consumer: AIOKafkaConsumer, partition: TopicPartition, offset: int) -> None:
    """Read on at *offset*, if the partition is assigned."""
    if partition in consumer.assignment():
        consumer.seek(partition, offset)


def pause(consumer: AIOKafkaConsumer, partition: TopicPartition) -> None:
    """Fetch no records of a partition, if it is assigned."""
    if partition in consumer.assignment():
        consumer.pause(partition)


def resume(consumer: AIOKafkaConsumer, partition: TopicPartition) -> None:
    """Fetch records of a partition again, if it is assigned."""
    if partition in consumer.assignment():
        consumer.resume(partition)
