"""The two ends of the service, for commands: writing queries, and following results."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self

import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from fivestage.bus import topics
from fivestage.bus.connection import client_options
from fivestage.errors import BrokerError, ConfigurationError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aiokafka.structs import ConsumerRecord

    from fivestage.settings import Settings

SEND_TIMEOUT_S = 15.0
MAX_PENDING = 1000


class QueryProducer:
    """Writes query events; leaving the ``async with`` waits until the broker has all of them."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._topic = settings.topics.queries
        self._producer = AIOKafkaProducer(
            **client_options(settings.kafka), enable_idempotence=True, linger_ms=5
        )
        self._pending: list[asyncio.Future[object]] = []

    async def __aenter__(self) -> Self:
        found = await topics.describe(self._settings, [self._topic])
        problem = topics.problem_of(found.get(self._topic), self._topic, is_input=True)
        if problem is not None and "read" not in problem:  # producers need not be allowed to read
            raise ConfigurationError(problem)
        await self._producer.start()
        return self

    async def __aexit__(self, exception_type: type[BaseException] | None, *_: object) -> None:
        try:
            if exception_type is None:
                await self._flush()
        finally:
            await self._producer.stop()

    async def send(
        self, value: bytes, *, key: bytes | None = None, headers: dict[str, bytes] | None = None
    ) -> str:
        """Write one record; returns the query's id, or ``(no id)`` where its value has none.

        The key defaults to the query's id, so that its events share a partition in every topic.
        """
        query_id = _query_id(value)
        key = key or (query_id.encode() if query_id else None)
        sent = await self._producer.send(self._topic, value, key=key, headers=list((headers or {}).items()))
        self._pending.append(sent)
        if len(self._pending) >= MAX_PENDING:
            await self._flush()
        return query_id or "(no id)"

    async def _flush(self) -> None:
        pending, self._pending = self._pending, []
        if not pending:
            return
        done, late = await asyncio.wait(pending, timeout=SEND_TIMEOUT_S)
        if late:
            raise BrokerError(f"{len(late)} records were not acknowledged within {SEND_TIMEOUT_S:.0f} s")
        for sent in done:
            if (error := sent.exception()) is not None:
                raise BrokerError(f"the broker refused a record: {error}")


def _query_id(value: bytes) -> str | None:
    try:
        fields = orjson.loads(value)
    except orjson.JSONDecodeError:
        return None
    found = fields.get("query_id") if isinstance(fields, dict) else None
    return found if isinstance(found, str) else None


async def follow(
    settings: Settings, topic: str, *, from_beginning: bool
) -> AsyncIterator[ConsumerRecord[bytes, bytes]]:
    """All records of a topic as they come, without a consumer group.

    Raises:
        ConfigurationError: the topic is not there.
    """
    found = await topics.describe(settings, [topic])
    problem = topics.problem_of(found.get(topic), topic, is_input=True)
    if problem is not None:
        raise ConfigurationError(problem)
    consumer = AIOKafkaConsumer(**client_options(settings.kafka), fetch_max_wait_ms=50, group_id=None)
    await consumer.start()
    try:
        partitions = [TopicPartition(topic, number) for number in range(found[topic].partitions)]
        consumer.assign(partitions)
        move = consumer.seek_to_beginning if from_beginning else consumer.seek_to_end
        await move(*partitions)  # type: ignore[no-untyped-call] # aiokafka leaves both untyped
        async for record in consumer:
            yield record
    finally:
        await consumer.stop()
