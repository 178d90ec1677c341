"""A limit: confluent-kafka with no work at all.

For each record that is read six of the usual size are written; positions are committed when the brokers have
all that was written for them.
"""

from __future__ import annotations

import time
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition

from .arguments import Arguments
from .payloads import payloads

MAX_RECORDS = 1000
COMMIT_S = 0.5


def main() -> None:
    """Work until killed."""
    given = Arguments.read()
    patterns = payloads(given)
    consumer = Consumer(
        {
            "bootstrap.servers": given.bootstrap,
            "group.id": given.group_id,
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
        }
    )
    producer = Producer(
        {"bootstrap.servers": given.bootstrap, "acks": "all", "enable.idempotence": True, "linger.ms": 5}
    )
    consumer.subscribe([given.queries])
    done: dict[int, int] = {}
    committed_at = time.monotonic()
    while True:
        for record in consumer.consume(MAX_RECORDS, 0.2):
            if record.error() is not None:
                continue
            for pattern in patterns:
                produce(producer, pattern.topic, pattern.value, record.key(), pattern.headers)
            done[record.partition() or 0] = (record.offset() or 0) + 1
        if done and time.monotonic() - committed_at > COMMIT_S:
            producer.flush()
            positions = [TopicPartition(given.queries, *place) for place in done.items()]
            consumer.commit(offsets=positions, asynchronous=False)
            done, committed_at = {}, time.monotonic()


def produce(producer: Producer, topic: str, value: bytes, key: Any, headers: Any) -> None:
    """Hand over a record; wait where the client's queue is full."""
    while True:
        try:
            producer.produce(topic, value, key=key, headers=headers)
            return
        except BufferError:
            producer.poll(0.1)


if __name__ == "__main__":
    main()
