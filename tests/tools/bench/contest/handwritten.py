"""A contestant: a consumer loop by a competent engineer on aiokafka.

A task for each query, up to a limit; an offset is done when the brokers have all six events.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from fivestage_schemas import QueryEvent

from .arguments import Arguments
from .work import Where, Work, texts

SLOTS = 64
"""More cost more, and let stages exceed their limits while they wait for the others."""
COMMIT_S = 0.5
FETCH_WAIT_MS = 500
"""The client's default."""


class Loop:
    """Consumes queries, publishes their events."""

    def __init__(self, given: Arguments) -> None:
        self.given = given
        self.work = Work(given.group_id)
        self.consumer = AIOKafkaConsumer(
            given.queries,
            bootstrap_servers=given.bootstrap,
            group_id=given.group_id,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            fetch_max_wait_ms=given.option("--fetch-wait-ms", FETCH_WAIT_MS),
        )
        self.producer = AIOKafkaProducer(
            bootstrap_servers=given.bootstrap,
            acks="all",
            enable_idempotence=True,
            linger_ms=5,
            max_batch_size=64 * 1024,
        )
        self.slots = asyncio.Semaphore(SLOTS)
        self.unfinished: dict[TopicPartition, set[int]] = defaultdict(set)

    async def run(self) -> None:
        """Work until cancelled."""
        async with self.consumer, self.producer, asyncio.TaskGroup() as tasks:
            tasks.create_task(self.commit_often())
            while True:
                found = await self.consumer.getmany(timeout_ms=1000)
                for where, records in found.items():
                    self.unfinished[where].update(record.offset for record in records)
                for where, records in found.items():
                    for record in records:
                        await self.slots.acquire()
                        tasks.create_task(self.answer(record, where))

    async def answer(self, record: Any, where: TopicPartition) -> None:
        """Process one query and publish its events."""
        try:
            query = QueryEvent.model_validate_json(record.value)
            read = Where(
                record.topic, record.partition, record.offset, record.timestamp, texts(record.headers)
            )
            events = await self.work.answer(query, read)
            sent = [
                await self.producer.send(
                    self.given.topic(is_result=event.is_result),
                    event.encoded(),
                    key=record.key,
                    headers=event.header_list(),
                )
                for event in events
            ]
        finally:
            self.slots.release()
        for future in sent:
            await future
        self.unfinished[where].discard(record.offset)

    async def commit_often(self) -> None:
        """Commit repeatedly everything before the first unfinished query."""
        while True:
            await asyncio.sleep(COMMIT_S)
            await self.commit()

    async def commit(self) -> None:
        """Commit finished offsets once."""
        offsets = {}
        for where in self.consumer.assignment():
            position = await self.consumer.position(where)
            offsets[where] = min(self.unfinished[where], default=position)
        if offsets:
            await self.consumer.commit(offsets)


async def main() -> None:
    """Serve until killed."""
    await Loop(Arguments.read()).run()


if __name__ == "__main__":
    asyncio.run(main())
