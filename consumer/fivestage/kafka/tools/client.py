"""The two ends of the service, for commands: writing queries, and following results."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self

import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from fivestage.errors import BrokerError, ConfigurationError
from fivestage.kafka import aiokafka_internals, topics
from fivestage.kafka.connection.preflight import reachable_options
from fivestage.kafka.connection.rebuild import STOP_S, attempt_within

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Collection

    from aiokafka.structs import ConsumerRecord

    from fivestage.settings import Settings

SEND_TIMEOUT_S = 15.0
MAX_PENDING = 1000
_POLL_MS = 200


class QueryProducer:
    """Writes query events; leaving the ``async with`` waits until the broker has all of them."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._topic = settings.topics.only_input()
        self._pending: list[asyncio.Future[object]] = []

    async def __aenter__(self) -> Self:
        found = await topics.describe(self._settings, [self._topic])
        problem = topics.problem_of(found.get(self._topic), self._topic, is_input=False)
        if problem is not None:
            raise ConfigurationError(problem)
        # Made here and not before the check: one that was never started complains at its collection.
        self._producer = AIOKafkaProducer(
            **await reachable_options(self._settings.kafka), enable_idempotence=True, linger_ms=5
        )
        await connect(self._producer)
        return self

    async def __aexit__(self, exception_type: type[BaseException] | None, *_: object) -> None:
        try:
            if exception_type is None:
                await self._flush()
        finally:
            await end(self._producer)

    async def send(
        self, value: bytes, *, key: bytes | None = None, headers: dict[str, bytes] | None = None
    ) -> str:
        """Write one record; returns the query's id, or ``(no id)`` where its value has none.

        The key defaults to the query's id, so that its events share a partition in every topic.

        Raises:
            BrokerError: the record, or one before it, cannot be sent.
        """
        query_id = _query_id(value)
        key = key or (query_id.encode() if query_id else None)
        try:
            sent = await self._producer.send(
                self._topic, value, key=key, headers=list((headers or {}).items())
            )
        except KafkaError as error:
            raise BrokerError(f"a record cannot be sent: {type(error).__name__}: {error}") from None
        self._pending.append(sent)
        if len(self._pending) >= MAX_PENDING:
            await self._flush()
        return query_id or "(no id)"

    async def _flush(self) -> None:
        pending, self._pending = self._pending, []
        await acknowledged(pending)


async def connect(producer: AIOKafkaProducer) -> None:
    """Start a producer.

    Raises:
        BrokerError: no broker answers.
    """
    try:
        await producer.start()
    except KafkaError as error:
        raise BrokerError(f"cannot connect: {error}") from None


async def end(producer: AIOKafkaProducer) -> None:
    """Disconnect, also from brokers that are away: aiokafka would wait for them for ever."""
    if await attempt_within(producer.stop, STOP_S) is not None:
        aiokafka_internals.abort_producer(producer)


async def acknowledged(pending: Collection[asyncio.Future[object]]) -> None:
    """Wait until the broker has acknowledged what was sent.

    Raises:
        BrokerError: it refused a record, or does not answer.
    """
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
    settings: Settings, *names: str, from_beginning: bool, to_end: bool = False
) -> AsyncGenerator[ConsumerRecord[bytes, bytes], None]:
    """All records of some topics as they come, without a consumer group.

    Args:
        settings: Where Kafka is.
        names: The topics.
        from_beginning: Also the records that are there already.
        to_end: Stop after the records that are there already.

    Raises:
        ConfigurationError: a topic is not there.
    """
    found = await topics.describe(settings, names)
    for name in names:
        problem = topics.problem_of(found.get(name), name, is_input=True)
        if problem is not None:
            raise ConfigurationError(problem)
    options = await reachable_options(settings.kafka)
    consumer = AIOKafkaConsumer(**options, fetch_max_wait_ms=50, group_id=None, auto_offset_reset="earliest")
    await consumer.start()
    try:
        partitions = [
            TopicPartition(name, number) for name in names for number in range(found[name].partitions)
        ]
        consumer.assign(partitions)
        if from_beginning:
            await consumer.seek_to_beginning(*partitions)
        else:
            await consumer.seek_to_end(*partitions)
        left = await _unread(consumer, await consumer.end_offsets(partitions)) if to_end else None
        while left is None or left:
            fetched = await consumer.getmany(timeout_ms=_POLL_MS)
            for records in fetched.values():
                for record in records:
                    yield record
            if left is not None:
                left = await _unread(consumer, left)
    finally:
        await consumer.stop()


async def _unread(consumer: AIOKafkaConsumer, ends: dict[TopicPartition, int]) -> dict[TopicPartition, int]:
    """Those partitions that have records left to read before their end."""
    return {partition: end for partition, end in ends.items() if await consumer.position(partition) < end}
