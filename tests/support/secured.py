"""A foreign client (librdkafka) with credentials: creates topics, asks, and reads the answers."""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING

from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from kafka.broker import TopicSet

from .reading import ANSWER_S

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from confluent_kafka import Message


class SecuredClient:
    """Talks to a broker with librdkafka's own options, such as ``{"security.protocol": "ssl"}``."""

    def __init__(self, bootstrap: str, options: Mapping[str, str]) -> None:
        self.options = {"bootstrap.servers": bootstrap, "log_level": "0", **options}
        self.admin = AdminClient(dict(self.options))

    def create_topics(self, partitions: int = 2) -> TopicSet:
        """Create the five topics with a unique prefix."""
        topics = TopicSet(f"t{uuid.uuid4().hex[:12]}", partitions)
        wanted = [NewTopic(name, num_partitions=partitions, replication_factor=1) for name in topics.names]
        made = self.admin.create_topics(wanted, operation_timeout=30, request_timeout=ANSWER_S)
        for future in made.values():
            future.result()
        return topics

    def write(self, topic: str, values: Iterable[bytes | None]) -> None:
        """Write records and wait until the broker has them."""
        failures: list[object] = []
        producer = Producer(dict(self.options))
        for value in values:
            producer.produce(topic, value, on_delivery=lambda error, _: failures.append(error))
        producer.flush(ANSWER_S)
        assert failures
        assert not any(failures), failures[:3]

    def read(self, topic: str, count: int, limit_s: float = 60.0) -> list[Message]:
        """Return the first records of a topic, as soon as there are this many."""
        consumer = Consumer(
            {**self.options, "group.id": uuid.uuid4().hex, "auto.offset.reset": "earliest"},
        )
        try:
            consumer.subscribe([topic])
            found: list[Message] = []
            end = time.monotonic() + limit_s
            while len(found) < count:
                assert time.monotonic() < end, f"{len(found)} of {count} records in {topic}"
                found += [message for message in consumer.consume(500, 0.2) if message.error() is None]
            return found
        finally:
            consumer.close()
