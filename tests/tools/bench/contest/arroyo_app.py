# mypy: disable-error-code="import-not-found, misc, no-any-return"
"""A contestant in Arroyo: RunTask, a step that publishes six records a message, CommitOffsets.

Its strategies are synchronous, so the asynchronous stages run on a separate loop, a message at a time.
Its own Produce publishes one record per message to one topic; this step does the same for six and two.
"""

from __future__ import annotations

import asyncio
import signal
from collections import deque
from typing import TYPE_CHECKING, Any

from arroyo.backends.kafka import KafkaConsumer, KafkaPayload, KafkaProducer
from arroyo.backends.kafka.configuration import (
    build_kafka_configuration,
    build_kafka_consumer_configuration,
)
from arroyo.commit import ONCE_PER_SECOND
from arroyo.processing import StreamProcessor
from arroyo.processing.strategies import (
    CommitOffsets,
    MessageRejected,
    ProcessingStrategy,
    ProcessingStrategyFactory,
    RunTask,
)
from arroyo.types import Topic

from fivestage_schemas import QueryEvent

from .arguments import Arguments
from .work import Where, Work, texts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from arroyo.types import Commit, Message, Partition

MAX_BUFFER = 10_000
"""Messages whose records are not acknowledged yet; as many as Produce takes."""


class ProduceAll(ProcessingStrategy[Any]):
    """Publishes each message's records; passes it on, in order, when the brokers have them all."""

    def __init__(self, producer: KafkaProducer, next_step: ProcessingStrategy[Any]) -> None:
        self._producer = producer
        self._next = next_step
        self._waiting: deque[tuple[Message[Any], list[Any]]] = deque()

    def submit(self, message: Message[Any]) -> None:
        """Publish."""
        if len(self._waiting) >= MAX_BUFFER:
            raise MessageRejected
        futures = [self._producer.produce(topic, payload) for topic, payload in message.payload]
        self._waiting.append((message, futures))

    def poll(self) -> None:
        """Pass on what is acknowledged."""
        while self._waiting and all(future.done() for future in self._waiting[0][1]):
            self._pass_on()
        self._next.poll()

    def _pass_on(self) -> None:
        message, futures = self._waiting.popleft()
        for future in futures:
            future.result()
        self._next.submit(message)

    def close(self) -> None:
        """Nothing more comes."""

    def terminate(self) -> None:
        """Leave what is not done."""
        self._next.terminate()

    def join(self, timeout: float | None = None) -> None:
        """Wait for what has been published."""
        while self._waiting:
            for future in self._waiting[0][1]:
                future.result(timeout)
            self._pass_on()
        self._next.close()
        self._next.join(timeout)


class Factory(ProcessingStrategyFactory[KafkaPayload]):
    """Chains the steps."""

    def __init__(self, given: Arguments) -> None:
        self._work = Work(given.group_id)
        self._loop = asyncio.new_event_loop()
        self._topics = {flag: Topic(given.topic(is_result=flag)) for flag in (False, True)}
        overrides = {"enable.idempotence": True, "acks": "all", "linger.ms": 5}
        configuration = build_kafka_configuration({}, [given.bootstrap], overrides)
        self._producer = KafkaProducer(configuration, use_simple_futures=True)

    def create_with_partitions(
        self, commit: Commit, partitions: Mapping[Partition, int]
    ) -> ProcessingStrategy[KafkaPayload]:
        """Build the steps after each rebalance."""
        del partitions
        return RunTask(self._answer, ProduceAll(self._producer, CommitOffsets(commit)))

    def _answer(self, message: Message[KafkaPayload]) -> list[tuple[Topic, KafkaPayload]]:
        read: Any = message.value  # what it was read as; the base class does not say where
        payload = message.payload
        where = Where(
            read.partition.topic.name,
            read.partition.index,
            read.offset,
            int(read.timestamp.timestamp() * 1000),
            texts(payload.headers),
        )
        query = QueryEvent.model_validate_json(payload.value)
        events = self._loop.run_until_complete(self._work.answer(query, where))
        return [
            (
                self._topics[event.is_result],
                KafkaPayload(payload.key, event.encoded(), event.header_list()),
            )
            for event in events
        ]

    def shutdown(self) -> None:
        """Send what has been published."""
        self._producer.close().result()


def main() -> None:
    """Serve until SIGTERM."""
    given = Arguments.read()
    configuration = build_kafka_consumer_configuration(
        {}, given.group_id, auto_offset_reset="earliest", bootstrap_servers=[given.bootstrap]
    )
    processor: StreamProcessor[KafkaPayload] = StreamProcessor(
        KafkaConsumer(configuration), Topic(given.queries), Factory(given), ONCE_PER_SECOND
    )
    signal.signal(signal.SIGTERM, lambda *_: processor.signal_shutdown())
    processor.run()


if __name__ == "__main__":
    main()
