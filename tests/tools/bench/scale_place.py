"""Topics with any number of partitions, and a backlog in them."""

from __future__ import annotations

import asyncio
import itertools
import json
import uuid
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from fivestage.kafka.embedded_broker import EmbeddedBroker
from fivestage.settings import TopicSettings

from .place import QUIET, SETTLE_S, Place
from .scale_axes import PARTITIONS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from .scale_axes import Point

WAIT_S = 180.0
GONE_AT_ONCE = {"file.delete.delay.ms": "0"}
GONE_S = 0.005
"""Settings for a broker to delete a partition's files at once: by default it starts a minute later, in the
middle of another measurement."""
INDEX_INTERVAL_BYTES, TOUCHES = 4096, 3
POLL_EVERY = 10_000


@asynccontextmanager
async def place_for(point: Point, kafka: str | None) -> AsyncIterator[Place]:
    """An embedded broker, or with *kafka* (``host:port``) topics on a real one, deleted afterwards."""
    if kafka is None:
        async with _embedded(point) as place:
            yield place
        return
    mark = f"bench-{uuid.uuid4().hex[:8]}"
    names = {key: f"{mark}.{key}" for key in TopicSettings().model_dump(exclude={"create"})}
    topics = TopicSettings(**names)
    admin = AdminClient({"bootstrap.servers": kafka, **QUIET})
    partitions = dict.fromkeys(topics.all, PARTITIONS)
    partitions |= {
        topics.queries: point.inputs,
        topics.results: point.outputs,
        topics.stage_results: point.outputs,
    }
    wanted = [NewTopic(name, count, 1, config=GONE_AT_ONCE) for name, count in partitions.items()]
    made = admin.create_topics(wanted, operation_timeout=WAIT_S)
    await asyncio.to_thread(lambda: [future.result(WAIT_S) for future in made.values()])
    try:
        await asyncio.sleep(
            SETTLE_S
        )  # the broker announces a leader somewhat before it accepts requests for it
        place = Place(kafka, topics, mark)
        await asyncio.to_thread(_touch, place, point)
        yield place
    finally:
        gone = admin.delete_topics(list(topics.all), operation_timeout=WAIT_S)
        await asyncio.to_thread(lambda: [future.result(WAIT_S) for future in gone.values()])
        await asyncio.sleep(SETTLE_S + GONE_S * sum(partitions.values()))


@asynccontextmanager
async def _embedded(point: Point) -> AsyncIterator[Place]:
    """Start a broker, which creates an unconfigured topic at its first use, with PARTITIONS partitions."""
    topics = TopicSettings()
    configured, partitions = [topics.queries], point.inputs
    if point.outputs != PARTITIONS:
        if point.inputs != PARTITIONS:
            raise SystemExit("an embedded broker has one number of partitions, besides the usual one")
        configured, partitions = list(topics.outputs.values()), point.outputs
    async with EmbeddedBroker(configured, partitions=partitions) as broker:
        admin = AdminClient({"bootstrap.servers": broker.bootstrap, **QUIET})
        for name in topics.all:
            await asyncio.to_thread(admin.list_topics, name, timeout=WAIT_S)
        yield Place(broker.bootstrap, topics, "bench")


def _touch(place: Place, point: Point) -> None:
    """Write to each partition that will be written to, more than once.

    The first record, and the first after 4 KB, cost the broker some milliseconds: it makes files.
    """
    producer = Producer({"bootstrap.servers": place.bootstrap, "linger.ms": 50, **QUIET})
    for _ in range(TOUCHES):
        for topic in (place.topics.results, place.topics.stage_results):
            for number in range(point.outputs):
                producer.produce(topic, b" " * INDEX_INTERVAL_BYTES, partition=number)
        if left := producer.flush(WAIT_S):
            raise SystemExit(f"{left} of {2 * point.outputs} partitions could not be written to")


def fill(place: Place, point: Point) -> None:
    """Write the backlog.

    Raises:
        SystemExit: not all of it is there: an embedded broker drops the oldest beyond 5 MiB a partition.
    """
    producer = Producer(
        {
            "bootstrap.servers": place.bootstrap,
            "linger.ms": 50,
            "compression.type": "lz4",
            "queue.buffering.max.messages": 1_000_000,
            **QUIET,
        }
    )
    for number, text in zip(range(point.backlog), itertools.cycle(point.texts), strict=False):
        name = f"q{number}"
        key = name if point.keys is None else f"k{number % point.keys}"
        value = json.dumps({"query_id": name, "user_input": text})
        producer.produce(place.topics.queries, value, key=key)
        if number % POLL_EVERY == 0:
            producer.poll(0)
    producer.flush(WAIT_S)
    if (found := _written(place)) != point.backlog:
        raise SystemExit(f"of {point.backlog} queries {found} are there")


def _written(place: Place) -> int:
    consumer = Consumer({"bootstrap.servers": place.bootstrap, "group.id": "bench-look", **QUIET})
    try:
        found = consumer.list_topics(place.topics.queries, timeout=WAIT_S).topics[place.topics.queries]
        count = 0
        for number in found.partitions:
            marks = consumer.get_watermark_offsets(
                TopicPartition(place.topics.queries, number), timeout=WAIT_S
            )
            assert marks is not None
            low, high = marks
            count += high - low
        return count
    finally:
        consumer.close()
