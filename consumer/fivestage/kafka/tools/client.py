"""Kafka clients of the commands: writing queries, and following topics."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Self

import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from fivestage.errors import BrokerError
from fivestage.kafka import aiokafka_internals, topics
from fivestage.kafka.connection.preflight import reachable_options
from fivestage.kafka.connection.rebuild import STOP_S, attempt_within

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Collection, Iterator

    from aiokafka.structs import ConsumerRecord

    from fivestage.settings import Settings

SEND_TIMEOUT_S = 15.0
MAX_PENDING = 1000
CANNOT_READ = "the records cannot be read"
POLL_MS = 200


class QueryProducer:
    """Writes queries; leaving the ``async with`` without an exception waits until all are acknowledged."""

    def __init__(self, settings: Settings) -> None:
        self._topic = settings.topics.only_input()
        self._opening = open_producer(settings, self._topic)
        self._pending: list[asyncio.Future[object]] = []

    async def __aenter__(self) -> Self:
        self._producer = await self._opening.__aenter__()
        return self

    async def __aexit__(self, exception_type: type[BaseException] | None, *details: object) -> None:
        try:
            if exception_type is None:
                await self._flush()
        finally:
            await self._opening.__aexit__(None, None, None)

    async def send(
        self, value: bytes, *, key: bytes | None = None, headers: dict[str, bytes] | None = None
    ) -> str:
        """Write one record; returns the query's id, or ``(no id)`` if the value has none.

        The default key is the query's id, so that all events of a query go to the same partition of a topic.

        Raises:
            BrokerError: this record or an earlier one cannot be sent.
        """
        query_id = _query_id(value)
        key = key or (query_id.encode() if query_id else None)
        with as_broker_error("a record cannot be sent"):
            sent = await self._producer.send(
                self._topic, value, key=key, headers=list((headers or {}).items())
            )
        self._pending.append(sent)
        if len(self._pending) >= MAX_PENDING:
            await self._flush()
        return query_id or "(no id)"

    async def _flush(self) -> None:
        pending, self._pending = self._pending, []
        await acknowledged(pending)


@asynccontextmanager
async def open_producer(
    settings: Settings, *names: str, **options: Any
) -> AsyncGenerator[AIOKafkaProducer, None]:
    """Connect an idempotent producer to topics that this principal may write; disconnect it at the end.

    Raises:
        ConfigurationError: no broker can be reached, or a topic does not exist or may not be written.
        BrokerError: the connection failed after these checks.
    """
    await topics.require(settings, names, is_input=False)
    connection = await reachable_options(settings.kafka)
    # Made after all checks: a producer that was never started warns when it is garbage collected.
    producer = AIOKafkaProducer(**connection, **options, enable_idempotence=True, linger_ms=5)
    try:
        await producer.start()
    except KafkaError as error:
        raise BrokerError(f"cannot connect: {error}") from None
    try:
        yield producer
    finally:  # aiokafka waits without a limit for brokers that do not answer
        if await attempt_within(producer.stop, STOP_S) is not None:
            aiokafka_internals.abort_producer(producer)


@contextmanager
def as_broker_error(text: str) -> Iterator[None]:
    """Raise Kafka errors as BrokerError, with *text* before them."""
    try:
        yield
    except KafkaError as error:
        raise BrokerError(f"{text}: {type(error).__name__}: {error}") from None


async def answered(pending: Collection[asyncio.Future[object]]) -> None:
    """Wait until the broker has answered for all records.

    Raises:
        BrokerError: the broker does not answer within SEND_TIMEOUT_S.
    """
    if not pending:
        return
    _, late = await asyncio.wait(pending, timeout=SEND_TIMEOUT_S)
    if late:
        raise BrokerError(f"{len(late)} records were not acknowledged within {SEND_TIMEOUT_S:.0f} s")


async def acknowledged(pending: Collection[asyncio.Future[object]]) -> None:
    """Wait until the broker has acknowledged all records.

    Raises:
        BrokerError: the broker rejects a record, or does not answer.
    """
    await answered(pending)
    for sent in pending:
        if (error := sent.exception()) is not None:
            raise BrokerError(f"the broker rejected a record: {error}")


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
    """Read all records of topics as they come, without a consumer group.

    Args:
        settings: Where to connect and how.
        names: The topics.
        from_beginning: Start with the oldest records instead of new ones.
        to_end: Stop after the records that exist at the start.

    Raises:
        ConfigurationError: no broker can be reached, or a topic does not exist or may not be read.
        BrokerError: the connection failed after these checks, or the topics cannot be read any more.
    """
    found = await topics.require(settings, names, is_input=True)
    partitions = [TopicPartition(name, number) for name in names for number in range(found[name].partitions)]
    async with open_consumer(settings) as consumer:
        with as_broker_error(CANNOT_READ):
            consumer.assign(partitions)
            if from_beginning:
                await consumer.seek_to_beginning(*partitions)
            else:
                await consumer.seek_to_end(*partitions)
            left = await _unread(consumer, await consumer.end_offsets(partitions)) if to_end else None
        while left is None or left:
            with as_broker_error(CANNOT_READ):
                fetched = await consumer.getmany(timeout_ms=POLL_MS)
            for records in fetched.values():
                for record in records:
                    yield record
            if left is not None:
                with as_broker_error(CANNOT_READ):
                    left = await _unread(consumer, left)


@asynccontextmanager
async def open_consumer(settings: Settings) -> AsyncGenerator[AIOKafkaConsumer, None]:
    """Connect a consumer without a group and without partitions; disconnect it at the end.

    Raises:
        BrokerError: no broker answers.
    """
    options = await reachable_options(settings.kafka)
    consumer = AIOKafkaConsumer(**options, fetch_max_wait_ms=50, group_id=None, auto_offset_reset="earliest")
    try:
        with as_broker_error("cannot connect"):
            await consumer.start()
        yield consumer
    finally:
        await attempt_within(consumer.stop, STOP_S)


async def _unread(consumer: AIOKafkaConsumer, ends: dict[TopicPartition, int]) -> dict[TopicPartition, int]:
    """The partitions that are not yet read up to their end, with that end."""
    return {partition: end for partition, end in ends.items() if await consumer.position(partition) < end}
