"""A flood of dead letters on the embedded broker halts its partition, which later resumes by itself."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from confluent_kafka import Producer

from fivestage.kafka.embedded_broker import EmbeddedBroker
from fivestage.settings import TopicSettings
from support.checker import committed, headers_of, read_all, wait_for_results, wait_until_committed
from support.feeder import event
from support.probe import get
from support.process import ServiceProcess

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = [pytest.mark.broker, pytest.mark.fault(29)]
TOPICS = TopicSettings()
GROUP = "fivestage"


@pytest.fixture
async def bootstrap() -> AsyncIterator[str]:
    """Start an embedded broker with two partitions."""
    async with EmbeddedBroker(TOPICS.all, partitions=2) as broker:
        yield broker.bootstrap


def put(bootstrap: str, partition: int, *values: bytes) -> None:
    """Write records to one partition."""
    producer = Producer({"bootstrap.servers": bootstrap, "acks": "all"})
    for value in values:
        producer.produce(TOPICS.queries, value, partition=partition)
    assert producer.flush(20) == 0


async def until(port: int, status: int) -> str:
    """Wait for a status of /readyz; return its text."""
    async with asyncio.timeout(30):
        while (probe := await asyncio.to_thread(get, port, "/readyz"))[0] != status:
            await asyncio.sleep(0.05)
    return probe[1]


async def test_halted_and_resumed(bootstrap: str) -> None:
    """Too many dead letters stop reading and commits, readiness fails, and the partition resumes later."""
    limits = {"dlq.max_consecutive": 20, "dlq.pause_ms": 2000}
    with ServiceProcess("support.apps:load", bootstrap, limits) as service:
        port = service.log[-1]["admin_port"]
        put(bootstrap, 0, event("first", "fast"), *[b"{"] * 30, event("last", "fast"))
        line = await asyncio.to_thread(service.wait_for, "partition halted")
        assert (line["level"], line["partition"]) == ("error", 0)
        assert "20 records in a row could not be read (dlq.max_consecutive)" in line["reason"]
        assert "halted: partition 0: 20 records in a row" in await until(port, 503)
        assert (
            'fivestage_partition_halted{partition="0",topic="fivestage.queries"} 1.0'
            in get(port, "/metrics")[1]
        )
        put(bootstrap, 1, event("other", "fast"))
        wait_for_results(bootstrap, TOPICS.results, 2)
        wait_until_committed(bootstrap, GROUP, TOPICS.queries, 22)
        assert committed(bootstrap, GROUP, TOPICS.queries) == {0: 21, 1: 1}
        assert len(read_all(bootstrap, TOPICS.dead_letters)) == 20
        await asyncio.to_thread(service.wait_for, "partition resumed")
        wait_until_committed(bootstrap, GROUP, TOPICS.queries, 33)
        await until(port, 200)
        assert service.end() == 0
    ids = sorted(headers_of(message)["ce_subject"] for message in read_all(bootstrap, TOPICS.results))
    assert ids == ["first", "last", "other"]
    offsets = [int(headers_of(message)["dlq.offset"]) for message in read_all(bootstrap, TOPICS.dead_letters)]
    assert sorted(offsets) == list(range(1, 31))


async def test_every_partition_halted(bootstrap: str) -> None:
    """With every partition halted the client is still polled, stays in its group, and stops cleanly."""
    limits = {"dlq.max_consecutive": 5, "dlq.pause_ms": 0}
    with ServiceProcess("support.apps:load", bootstrap, limits) as service:
        port = service.log[-1]["admin_port"]
        for partition in (0, 1):
            put(bootstrap, partition, *[b"{"] * 8)
        for _ in range(2):
            await asyncio.to_thread(service.wait_for, "partition halted")
        assert "halted: partition 0, 1: 5 records in a row" in await until(port, 503)
        wait_until_committed(bootstrap, GROUP, TOPICS.queries, 10)
        assert get(port, "/livez") == (200, "ok\n")
        assert service.end() == 0
    assert len(read_all(bootstrap, TOPICS.dead_letters)) == 10
