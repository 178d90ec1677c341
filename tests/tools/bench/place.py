"""The place of a measurement: a fresh embedded broker, or new topics on a real one."""

from __future__ import annotations

import asyncio
import time
import uuid
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from fivestage.kafka.embedded_broker import EmbeddedBroker
from fivestage.settings import TopicSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

PARTITIONS = 16
"""The embedded broker keeps 5 MiB per partition, and drops the oldest silently."""
LEADERS_S, SETTLE_S = 20.0, 1.0
QUIET: dict[str, Any] = {"log_level": 0}
"""For clients of this benchmark: a broker that has done its work goes away before they do."""


class Place(NamedTuple):
    """A broker, and the topics to use there."""

    bootstrap: str
    topics: TopicSettings
    group_id: str
    embedded: bool = True
    """Whether the broker is embedded: it knows one member per group, and no configurations."""
    also: Mapping[str, object] = {}
    """Further settings of the service."""

    @property
    def settings(self) -> dict[str, object]:
        """The service's settings for this place."""
        names = {f"topics.{key}": name for key, name in self.topics.model_dump(exclude={"create"}).items()}
        return {
            "kafka.bootstrap_servers": self.bootstrap,
            "kafka.group_id": self.group_id,
            **names,
            **self.also,
        }


@asynccontextmanager
async def place(kafka: str | None = None, partitions: int = PARTITIONS) -> AsyncIterator[Place]:
    """An embedded broker, or with *kafka* (``host:port``) topics on a real one, deleted afterwards."""
    if kafka is None:
        async with EmbeddedBroker(TopicSettings().all, partitions=partitions) as broker:
            yield Place(broker.bootstrap, TopicSettings(), "bench")
        return
    async with places(1, kafka, partitions) as found:
        yield found[0]


@asynccontextmanager
async def places(
    count: int, kafka: str | None = None, partitions: int = PARTITIONS
) -> AsyncIterator[list[Place]]:
    """Yield several places on one broker, each with its own topics."""
    marks = [f"bench-{uuid.uuid4().hex[:8]}" for _ in range(count)]
    names = [
        TopicSettings(**{key: f"{mark}.{key}" for key in TopicSettings().model_dump(exclude={"create"})})
        for mark in marks
    ]
    every = [name for topics in names for name in topics.all]
    async with _topics(every, kafka, partitions) as bootstrap:
        yield [
            Place(bootstrap, topics, mark, kafka is None) for topics, mark in zip(names, marks, strict=True)
        ]


@asynccontextmanager
async def _topics(names: list[str], kafka: str | None, partitions: int) -> AsyncIterator[str]:
    """A broker that has these topics."""
    if kafka is None:
        async with EmbeddedBroker(names, partitions=partitions) as broker:
            yield broker.bootstrap
        return
    admin = AdminClient({"bootstrap.servers": kafka, **QUIET})
    made = admin.create_topics([NewTopic(name, partitions, 1) for name in names])
    await asyncio.to_thread(lambda: [future.result(30) for future in made.values()])
    try:
        await asyncio.to_thread(_until_led, admin, names, partitions)
        yield kafka
    finally:
        gone = admin.delete_topics(names)
        await asyncio.to_thread(lambda: [future.result(30) for future in gone.values()])


def _until_led(admin: AdminClient, names: list[str], partitions: int) -> None:
    """Wait until all partitions have leaders: a consumer that is too early retries only much later."""
    limit = time.monotonic() + LEADERS_S
    while time.monotonic() < limit:
        found = admin.list_topics(timeout=10).topics
        led = [p.leader >= 0 for name in names if name in found for p in found[name].partitions.values()]
        if len(led) == partitions * len(names) and all(led):
            break
        time.sleep(0.1)
    time.sleep(SETTLE_S)  # the broker announces a leader somewhat before it accepts requests for it
