"""Two limits: aiokafka with no work at all, by ``send()`` and by whole batches (``--batch``).

For each record that is read six of the usual size are written. A fetch's records are committed when the
brokers have all that was written for them; the next fetch is worked on meanwhile.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import TYPE_CHECKING, Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from .arguments import Arguments
from .payloads import Payload, payloads

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    Writer = Callable[[AIOKafkaProducer, Sequence[Payload], TopicPartition, list[Any]], Awaitable[list[Any]]]

MAX_RECORDS = 1000
MAX_BATCH_BYTES = 64 * 1024
COMMIT_S = 0.5


async def by_send(
    producer: AIOKafkaProducer, patterns: Sequence[Payload], _where: TopicPartition, records: list[Any]
) -> list[Any]:
    """A record at a time."""
    return [
        await producer.send(pattern.topic, pattern.value, key=record.key, headers=pattern.headers)
        for record in records
        for pattern in patterns
    ]


async def by_batch(
    producer: AIOKafkaProducer, patterns: Sequence[Payload], where: TopicPartition, records: list[Any]
) -> list[Any]:
    """Batches that are filled here, one after the other, for the partition of the same number."""
    sent = []
    for topic in dict.fromkeys(pattern.topic for pattern in patterns):
        mine = [pattern for pattern in patterns if pattern.topic == topic]
        batch = producer.create_batch()
        for record in records:
            for pattern in mine:
                values = {"key": record.key, "value": pattern.value, "headers": pattern.headers}
                if batch.append(timestamp=None, **values) is None:
                    sent.append(await producer.send_batch(batch, topic, partition=where.partition))
                    batch = producer.create_batch()
                    batch.append(timestamp=None, **values)
        sent.append(await producer.send_batch(batch, topic, partition=where.partition))
    return sent


async def run(given: Arguments, patterns: Sequence[Payload], write: Writer) -> None:
    """Work until cancelled."""
    consumer = AIOKafkaConsumer(
        given.queries,
        bootstrap_servers=given.bootstrap,
        group_id=given.group_id,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )
    producer = AIOKafkaProducer(
        bootstrap_servers=given.bootstrap,
        acks="all",
        enable_idempotence=True,
        linger_ms=5,
        max_batch_size=MAX_BATCH_BYTES,
    )
    async with consumer, producer:
        waiting: list[Any] = []
        read: dict[TopicPartition, int] = {}
        done: dict[TopicPartition, int] = {}
        committed_at = time.monotonic()
        while True:
            found = await consumer.getmany(timeout_ms=200, max_records=MAX_RECORDS)
            sent = [
                one for where, new in found.items() for one in await write(producer, patterns, where, new)
            ]
            for future in waiting:
                await future
            done |= read
            if done and time.monotonic() - committed_at > COMMIT_S:
                await consumer.commit(done)
                done, committed_at = {}, time.monotonic()
            waiting = sent
            read = {where: records[-1].offset + 1 for where, records in found.items()}


if __name__ == "__main__":
    arguments = Arguments.read()
    writer = by_batch if "--batch" in sys.argv else by_send
    asyncio.run(run(arguments, payloads(arguments), writer))
