"""Where a measurement takes place: a fresh embedded broker, or topics of its own on a real one."""

from __future__ import annotations

import asyncio
import time
import uuid
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from fivestage.bus.embedded import EmbeddedBroker
from fivestage.settings import TopicSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PARTITIONS = 16
"""The embedded broker keeps 5 MiB a partition, and drops the oldest in silence."""
LEADERS_S, SETTLE_S = 20.0, 1.0
QUIET: dict[str, Any] = {"log_level": 0}
"""For clients of this benchmark: a broker that has done its work goes away before they do."""


class Place(NamedTuple):
    """A broker, and the topics to use there."""

    bootstrap: str
    topics: TopicSettings
    group_id: str

    @property
    def settings(self) -> dict[str, object]:
        """The service's settings for this place."""
        names = {f"topics.{key}": name for key, name in self.topics.model_dump(exclude={"create"}).items()}
        return {
            "kafka.bootstrap_servers": self.bootstrap,
            "kafka.group_id": self.group_id,
            **names,
        }


@asynccontextmanager
async def place(kafka: str | None = None, partitions: int = PARTITIONS) -> AsyncIterator[Place]:
    """An embedded broker, or with *kafka* (``host:port``) topics on a real one, deleted afterwards."""
    if kafka is None:
        async with EmbeddedBroker(TopicSettings().all, partitions=partitions) as broker:
            yield Place(broker.bootstrap, TopicSettings(), "bench")
        return
    mark = f"bench-{uuid.uuid4().hex[:8]}"
    names = {key: f"{mark}.{key}" for key in TopicSettings().model_dump(exclude={"create"})}
    topics = TopicSettings(**names)
    admin = AdminClient({"bootstrap.servers": kafka, **QUIET})
    made = admin.create_topics([NewTopic(name, partitions, 1) for name in topics.all])
    await asyncio.to_thread(lambda: [future.result(30) for future in made.values()])
    try:
        await asyncio.to_thread(_until_led, admin, topics, partitions)
        yield Place(kafka, topics, mark)
    finally:
        gone = admin.delete_topics(list(topics.all))
        await asyncio.to_thread(lambda: [future.result(30) for future in gone.values()])


def _until_led(admin: AdminClient, topics: TopicSettings, partitions: int) -> None:
    """Wait until all partitions have leaders: a consumer that looks too soon looks again only much later."""
    limit = time.monotonic() + LEADERS_S
    while time.monotonic() < limit:
        found = admin.list_topics(timeout=10).topics
        led = [p.leader >= 0 for name in topics.all if name in found for p in found[name].partitions.values()]
        if len(led) == partitions * len(topics.all) and all(led):
            break
        time.sleep(0.1)
    time.sleep(SETTLE_S)  # the broker tells of a leader somewhat before it takes its requests
