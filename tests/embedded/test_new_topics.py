"""A topic that comes to match the pattern of the input topics while the member consumes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka import TopicPartition

from fivestage.core.ledger import Ledger, PartitionKey
from fivestage.core.observer import Observer
from fivestage.kafka.aiokafka_internals import client_of, highwater_of
from fivestage.kafka.consumer.assigned import pause, resume, seek
from fivestage.kafka.consumer.committer import Committer
from fivestage.kafka.embedded_broker import EmbeddedBroker
from fivestage.kafka.embedded_group import EmbeddedConsumer
from fivestage.settings import Settings
from support.feeder import write
from support.members import make_member

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.broker
OLD, NEW = "orders.eu", "orders.us"


class Reader:
    """A member that finishes all records at once, and commits when partitions are revoked."""

    def __init__(self, bootstrap: str) -> None:
        kafka = {"bootstrap_servers": bootstrap, "fetch_max_wait_ms": 20}
        settings = Settings.load(None, {"kafka": kafka, "topics": {"queries": r"^orders\."}})
        self.bootstrap = bootstrap
        self.ledger = Ledger(max_span=1000)
        self.member = make_member(
            settings, self.ledger, on_revoked=self.revoked, make_consumer=EmbeddedConsumer
        )
        self.committer = Committer(self.member, self.ledger, Observer(), interval_s=60, timeout_s=30)
        self.values: list[bytes | None] = []
        self.revocations: list[tuple[Any, ...]] = []

    async def revoked(self, _: frozenset[PartitionKey]) -> None:
        """Commit, and do what else the service may do meanwhile."""
        consumer, place = self.member.consumer, TopicPartition(OLD, 0)
        seek(consumer, place, 0)
        pause(consumer, place)
        resume(consumer, place)
        self.member.lag()
        still_assigned = highwater_of(consumer, place) is not None
        self.revocations.append((still_assigned, await self.committer.commit()))

    async def read_until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(30):
            while not condition():
                for record in await self.member.fetch(10):
                    self.values.append(record.value)  # type: ignore[union-attr]
                    offsets = self.ledger.offsets(PartitionKey(record.topic, record.partition))  # type: ignore[union-attr]
                    assert offsets is not None
                    offsets.finish(record.offset)  # type: ignore[union-attr]


async def test_a_topic_comes_to_match() -> None:
    """The partitions are finished and committed before they are revoked, and no record is read again."""
    async with EmbeddedBroker((OLD,), partitions=1) as broker:
        reader = Reader(broker.bootstrap)
        await reader.member.start()
        await asyncio.to_thread(write, broker.bootstrap, OLD, [(None, b"first")])
        await reader.read_until(lambda: reader.values == [b"first"])
        await asyncio.to_thread(write, broker.bootstrap, NEW, [(None, b"second")])
        await client_of(reader.member.consumer).force_metadata_update()
        await reader.read_until(lambda: b"second" in reader.values)
        assert reader.revocations[-1] == (False, True)
        assert await reader.member.consumer.committed(TopicPartition(OLD, 0)) == 1
        assert reader.values == [b"first", b"second"]
        await reader.member.stop()
