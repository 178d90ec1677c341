"""A contestant: what a competent engineer writes on aiokafka.

At most so many queries at a time, each in a task; one result record per query; commits of what is done,
never beyond what is not.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections import defaultdict
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

COMMIT_S = 0.5


class Worker:
    """Consumes *queries*, answers to *results*."""

    def __init__(self, bootstrap: str, group_id: str, queries: str, results: str, slots: int) -> None:
        self.consumer = AIOKafkaConsumer(
            queries,
            bootstrap_servers=bootstrap,
            group_id=group_id,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            fetch_max_wait_ms=10,
        )
        self.producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all")
        self.results = results
        self.slots = asyncio.Semaphore(slots)
        self.tasks: set[asyncio.Task[None]] = set()
        self.unfinished: dict[TopicPartition, set[int]] = defaultdict(set)

    async def run(self) -> None:
        """Work until cancelled."""
        async with self.consumer, self.producer:
            committing = asyncio.create_task(self.commit_often())
            try:
                async for record in self.consumer:
                    where = TopicPartition(record.topic, record.partition)
                    self.unfinished[where].add(record.offset)
                    await self.slots.acquire()
                    task = asyncio.create_task(self.answer(record, where))
                    self.tasks.add(task)
                    task.add_done_callback(self.tasks.discard)
            finally:
                committing.cancel()

    async def answer(self, record: Any, where: TopicPartition) -> None:
        """Do the work of one query and publish what came of it; the slot is for the work alone."""
        try:
            query = json.loads(record.value)
            answer = await work(query)
        finally:
            self.slots.release()
        value = json.dumps({"query_id": query["query_id"], "answer": answer}).encode()
        await self.producer.send_and_wait(self.results, value, key=record.key)
        self.unfinished[where].discard(record.offset)

    async def commit_often(self) -> None:
        """Commit, again and again, what lies before the first unfinished query."""
        while True:
            await asyncio.sleep(COMMIT_S)
            offsets = {}
            for where in self.consumer.assignment():
                position = await self.consumer.position(where)
                offsets[where] = min(self.unfinished[where], default=position)
            if offsets:
                await self.consumer.commit(offsets)


async def work(query: dict[str, Any]) -> str:
    """Wait, as for a model or a database."""
    await asyncio.sleep(int(query["user_input"]) / 1000)
    return str(query["query_id"])


def main() -> None:
    """Serve until SIGTERM."""
    bootstrap, group_id, queries, results, slots = sys.argv[1:6]

    async def serve() -> None:
        await Worker(bootstrap, group_id, queries, results, int(slots)).run()

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve())


if __name__ == "__main__":
    main()
