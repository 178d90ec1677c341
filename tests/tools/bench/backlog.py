"""Writes a backlog of queries, and counts answers by offsets, without reading records."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import orjson
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

from .load import query_id
from .place import QUIET

if TYPE_CHECKING:
    from .place import Place

SAMPLED_EVERY = 20
"""One in twenty is to be traced: the producer has decided, and all contestants follow it."""
BATCH = 500
"""Records per batch at most: the embedded broker serves one batch per partition at a time."""
TRIES, TRY_AGAIN_S = 100, 0.2
LAST, READ_S = 20, 10.0
"""How many results of each partition are read, and how long that may take."""


def write(place: Place, count: int, *, traced: bool = True) -> None:
    """Write queries with a fast client that no contestant uses.

    Raises:
        SystemExit: not all could be written.
    """
    producer = Producer(
        {
            "bootstrap.servers": place.bootstrap,
            "acks": "all",
            "linger.ms": 20,
            "batch.num.messages": BATCH,
            "queue.buffering.max.messages": 1_000_000,
            **QUIET,
        }
    )
    for number in range(count):
        name = query_id(number)
        value = json.dumps({"query_id": name, "user_input": "2+2"})
        headers: Any = {"traceparent": traceparent(number)} if traced else None
        while True:
            try:
                producer.produce(place.topics.queries, value, key=name, headers=headers)
                break
            except BufferError:
                producer.poll(0.1)
        if number % 10_000 == 0:
            producer.poll(0)
    if producer.flush(60):
        raise SystemExit("the backlog could not be written")


def traceparent(number: int) -> str:
    """Return a new trace, the same for all contestants, so that their events can be compared."""
    return f"00-{number + 1:032x}-{number + 1:016x}-{number % SAMPLED_EVERY == 0:02x}"


class Ends:
    """The end offsets of a place's topics."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._client = Consumer({"bootstrap.servers": place.bootstrap, "group.id": place.group_id, **QUIET})
        name = place.topics.queries
        self._partitions = sorted(self._client.list_topics(name, timeout=20).topics[name].partitions)

    def results(self) -> int:
        """Return the number of records ever written to the results topic."""
        return self._written(self._place.topics.results)

    def stage_results(self) -> int:
        """Return the number of records ever written to the stage results topic."""
        return self._written(self._place.topics.stage_results)

    def _written(self, topic: str) -> int:
        return sum(self._end(one) for one in self._all(topic))

    def _end(self, one: TopicPartition) -> int:
        for _ in range(TRIES):
            try:
                found = self._client.get_watermark_offsets(one, timeout=20)
                return 0 if found is None else found[1]
            except KafkaException:  # a broker may not know yet that it leads
                time.sleep(TRY_AGAIN_S)
        raise SystemExit(f"{one.topic}/{one.partition} does not tell its end")

    def last_endings(self) -> list[str]:
        """Return what the last results of each partition say: their status, or that they are degraded."""
        topic = self._place.topics.results
        ends = {one.partition: self._end(one) for one in self._all(topic)}
        reader = Consumer(
            {
                "bootstrap.servers": self._place.bootstrap,
                "group.id": "bench-last",
                "enable.auto.commit": False,
                **QUIET,
            }
        )
        reader.assign([TopicPartition(topic, one, max(0, end - LAST)) for one, end in ends.items()])
        wanted = sum(min(LAST, end) for end in ends.values())
        found: list[Any] = []
        limit = time.monotonic() + READ_S
        while len(found) < wanted and time.monotonic() < limit:
            found += [one.value() for one in reader.consume(wanted - len(found), 0.1) if one.error() is None]
        reader.close()
        results = map(orjson.loads, found)
        return ["degraded" if one["degraded"] else one["status"] for one in results]

    def committed(self) -> int:
        """Return the number of queries below the group's committed positions; 0 while they cannot be read."""
        try:
            found = self._client.committed(self._all(self._place.topics.queries), timeout=20)
        except KafkaException:  # a new broker does not coordinate groups yet
            return 0
        return sum(max(0, one.offset) for one in found)

    def _all(self, topic: str) -> list[TopicPartition]:
        return [TopicPartition(topic, number) for number in self._partitions]

    def close(self) -> None:
        """Disconnect."""
        self._client.close()
