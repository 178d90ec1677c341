"""Reads topics and positions with librdkafka, not with our own client."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from typing import Any

from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

Positions = dict[int, int]
"""An offset for each partition."""
AWAY = (KafkaException, TimeoutError)
"""What a call raises while a broker is away."""
Place = tuple[int, int]
"""A partition and an offset: where a record is."""


def read_all(bootstrap: str, topic: str) -> list[Message]:
    """Everything that is in a topic now."""
    consumer = make_consumer(bootstrap)
    try:
        partitions = _partitions(consumer, topic)
        ends = {number: _watermarks(consumer, topic, number) for number in partitions}
        left = {number for number, (low, high) in ends.items() if high > low}
        consumer.assign([TopicPartition(topic, number, ends[number][0]) for number in left])
        messages, limit = [], time.monotonic() + 60
        while left:
            assert time.monotonic() < limit, f"could not read {topic} to its end"
            for message in consumer.consume(10_000, timeout=0.5):
                assert message.error() is None, message.error()
                if (message.offset() or 0) < ends[message.partition() or 0][1]:
                    messages.append(message)
            for position in consumer.position([TopicPartition(topic, number) for number in left]):
                if position.offset >= ends[position.partition][1]:
                    left.discard(position.partition)
        return messages
    finally:
        consumer.close()


def headers_of(message: Message) -> dict[str, str]:
    """A record's headers as text."""
    found: Any = message.headers() or []  # a list of pairs, although its stub allows more
    return {name: value.decode() for name, value in found if value is not None}


def json_of(message: Message) -> Any:
    """A record's value, parsed."""
    value = message.value()
    return None if value is None else json.loads(value)


def place_of(message: Message) -> Place:
    """Where a record is."""
    return message.partition() or 0, message.offset() or 0


def wait_for_results(bootstrap: str, topic: str, count: int, limit_s: float = 60.0) -> None:
    """Wait until a topic has at least so many records."""
    consumer = make_consumer(bootstrap)
    try:
        end = time.monotonic() + limit_s
        pause = threading.Event()
        found = 0
        while found < count:
            assert time.monotonic() < end, f"{found} of {count} records in {topic} after {limit_s} s"
            with contextlib.suppress(*AWAY):
                found = sum(ends_of(consumer, topic).values())
            if found < count:
                pause.wait(0.1)
    finally:
        consumer.close()


def committed(bootstrap: str, group_id: str, topic: str) -> Positions:
    """The group's committed positions; partitions without one are absent."""
    consumer = make_consumer(bootstrap, group_id)
    try:
        return positions_of(consumer, topic)
    finally:
        consumer.close()


def wait_until_committed(
    bootstrap: str, group_id: str, topic: str, count: int, limit_s: float = 120.0
) -> None:
    """Wait until the committed positions add up to *count*."""
    consumer = make_consumer(bootstrap, group_id)
    end, pause, total = time.monotonic() + limit_s, threading.Event(), 0
    try:
        while total < count:
            assert time.monotonic() < end, f"{total} of {count} committed after {limit_s} s"
            with contextlib.suppress(*AWAY):  # the broker may be away for a while
                total = sum(positions_of(consumer, topic).values())
            if total < count:
                pause.wait(0.2)
    finally:
        consumer.close()


def make_consumer(bootstrap: str, group_id: str = "checker") -> Consumer:
    """A consumer that commits nothing and says nothing."""
    options: dict[str, Any] = {
        "bootstrap.servers": bootstrap,
        "group.id": group_id,
        "enable.auto.commit": False,
        "isolation.level": "read_committed",
        "log_level": 0,
    }
    return Consumer(options)


def ends_of(consumer: Consumer, topic: str) -> Positions:
    """The offset after the last record of each partition."""
    return {number: _watermarks(consumer, topic, number)[1] for number in _partitions(consumer, topic)}


def positions_of(consumer: Consumer, topic: str) -> Positions:
    """The committed positions of the consumer's group; partitions without one are absent."""
    wanted = [TopicPartition(topic, number) for number in _partitions(consumer, topic)]
    found = consumer.committed(wanted, timeout=20)
    return {position.partition: position.offset for position in found if position.offset >= 0}


def _partitions(consumer: Consumer, topic: str) -> list[int]:
    return sorted(consumer.list_topics(topic, timeout=20).topics[topic].partitions)


def _watermarks(consumer: Consumer, topic: str, partition: int) -> tuple[int, int]:
    found = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=20)
    if found is None:
        raise TimeoutError(f"no watermarks of {topic}/{partition}")
    return found
