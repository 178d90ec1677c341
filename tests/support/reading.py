"""Reads topics and positions with librdkafka, not with the service's own client."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from typing import Any, NamedTuple, Self

from confluent_kafka import (
    TIMESTAMP_LOG_APPEND_TIME,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

Positions = dict[int, int]
"""An offset for each partition."""
LOOKS = 40
"""How often a partition without a leader is checked."""
AWAY = (KafkaException, TimeoutError)
"""The errors of a call while a broker is away."""
ANSWER_S = 60.0
"""How long a broker may take to answer: a disk of a busy machine may stand still for half a minute."""
WAIT_S = 0.1
"""librdkafka waits this long where it has fewer records than requested: at every end of a topic."""
Place = tuple[int, int]
"""A partition and an offset: the place of a record."""


class Record(NamedTuple):
    """An unparsed record of any topic."""

    at: Place
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]
    timestamp_ms: int
    by_broker: bool = False
    """Its timestamp is when the broker appended it, not when its producer made it."""

    @classmethod
    def of(cls, message: Message) -> Self:
        """Read a record with any bytes."""
        try:
            found: Any = message.headers() or []
        except UnicodeDecodeError:  # a name that is no text
            found = []
        kind, timestamp_ms = message.timestamp()
        key, value = _bytes(message.key()), _bytes(message.value())
        by_broker = kind == TIMESTAMP_LOG_APPEND_TIME
        return cls(place_of(message), key, value, tuple(found), timestamp_ms, by_broker)


def parsed(value: bytes | None) -> Any:
    """Return JSON, or None for bytes that are no JSON, or nested too deeply to be parsed here."""
    try:
        return json.loads(value or b"")
    except (ValueError, RecursionError):  # what is no Unicode is a ValueError too
        return None


def _bytes(part: Any) -> bytes | None:
    return part.encode() if isinstance(part, str) else part


def read_records(bootstrap: str, topic: str) -> list[Record]:
    """Read everything that is in a topic now, unparsed."""
    return [Record.of(message) for message in read_all(bootstrap, topic)]


def read_all(bootstrap: str, topic: str, only: int | None = None) -> list[Message]:
    """Read everything that is in a topic, or in one partition of it, now."""
    consumer = make_consumer(bootstrap)
    try:
        partitions = partitions_of(consumer, topic) if only is None else [only]
        ends = {number: _watermarks(consumer, topic, number) for number in partitions}
        left = {number for number, (low, high) in ends.items() if high > low}
        consumer.assign([TopicPartition(topic, number, ends[number][0]) for number in left])
        messages, limit = [], time.monotonic() + 60
        while left:
            assert time.monotonic() < limit, f"could not read {topic} to its end"
            for message in consumer.consume(10_000, timeout=WAIT_S):
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
    """Return a record's headers as text."""
    found: Any = message.headers() or []  # a list of pairs, although its stub allows more
    return {name: value.decode() for name, value in found if value is not None}


def json_of(message: Message) -> Any:
    """Return a record's value, parsed."""
    value = message.value()
    return None if value is None else json.loads(value)


def place_of(message: Message) -> Place:
    """Return the place of a record."""
    return message.partition() or 0, message.offset() or 0


def wait_for_results(bootstrap: str, topic: str, count: int, limit_s: float = 2 * ANSWER_S) -> None:
    """Wait until a topic has at least this many records."""
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
    """Return the group's committed positions; partitions without one are absent."""
    consumer = make_consumer(bootstrap, group_id)
    try:
        return positions_of(consumer, topic)
    finally:
        consumer.close()


def wait_until_committed(
    bootstrap: str, group_id: str, topic: str, count: int, limit_s: float = 2 * ANSWER_S
) -> None:
    """Wait until the committed positions add up to *count*."""
    consumer = make_consumer(bootstrap, group_id)
    end, pause, positions = time.monotonic() + limit_s, threading.Event(), dict[int, int]()
    read_at, failure = time.monotonic(), ""
    try:
        while (total := sum(positions.values())) < count:
            if time.monotonic() > end:
                text = f"{total} of {count} committed after {limit_s:g} s: positions {positions}"
                text += f", read {time.monotonic() - read_at:.0f} s ago{failure}"
                with contextlib.suppress(*AWAY):
                    text += f"; ends {ends_of(consumer, topic)}"
                raise AssertionError(text)
            try:
                positions, read_at, failure = positions_of(consumer, topic), time.monotonic(), ""
            except AWAY as error:  # the broker may be away for a while
                failure = f", since then {error!r}"
            if sum(positions.values()) < count:
                pause.wait(0.2)
    finally:
        consumer.close()


def make_consumer(bootstrap: str, group_id: str = "checker") -> Consumer:
    """Build a consumer that commits and logs nothing."""
    options: dict[str, Any] = {
        "bootstrap.servers": bootstrap,
        "group.id": group_id,
        "enable.auto.commit": False,
        "isolation.level": "read_committed",
        "log_level": 0,
    }
    return Consumer(options)


def ends_now(bootstrap: str, topic: str) -> Positions:
    """The same, with a consumer for this call."""
    consumer = make_consumer(bootstrap)
    try:
        return ends_of(consumer, topic)
    finally:
        consumer.close()


def ends_of(consumer: Consumer, topic: str) -> Positions:
    """Return the offset after the last record of each partition."""
    return {number: _watermarks(consumer, topic, number)[1] for number in partitions_of(consumer, topic)}


def positions_of(consumer: Consumer, topic: str) -> Positions:
    """Return the committed positions of the consumer's group; partitions without one are absent."""
    wanted = [TopicPartition(topic, number) for number in partitions_of(consumer, topic)]
    found = consumer.committed(wanted, timeout=ANSWER_S)
    return {position.partition: position.offset for position in found if position.offset >= 0}


def partitions_of(consumer: Consumer, topic: str) -> list[int]:
    """Return the numbers of a topic's partitions; none where there is no such topic."""
    found = consumer.list_topics(timeout=ANSWER_S).topics.get(topic)
    return [] if found is None else sorted(found.partitions)


def _watermarks(consumer: Consumer, topic: str, partition: int) -> tuple[int, int]:
    """Retry while the partition, which may be new, has no leader, or one that has just become it."""
    pause = threading.Event()
    for _ in range(LOOKS):
        try:
            found = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=ANSWER_S)
        except KafkaException as error:
            if error.args[0].code() not in {
                KafkaError.NOT_LEADER_FOR_PARTITION,
                KafkaError.OFFSET_NOT_AVAILABLE,
            }:
                raise
            pause.wait(0.25)
            continue
        if found is not None:
            return found
    raise TimeoutError(f"no watermarks of {topic}/{partition}")
