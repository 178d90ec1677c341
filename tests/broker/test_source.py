"""The source against batches that aiokafka cannot read: only the broken record is passed over."""

from __future__ import annotations

import asyncio
import contextlib
import operator
import struct
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.record.util import calc_crc32c

from fivestage.bus.embedded import EmbeddedBroker
from fivestage.bus.source import Source
from fivestage.core.events import Observer
from fivestage.core.ledger import Ledger
from fivestage.core.records import CorruptRecord
from fivestage.settings import Settings, TopicSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

pytestmark = pytest.mark.broker
TOPIC = TopicSettings().queries
MARK = "MARKMARK"
CRC_AT, CRC_FROM = 17, 21
"""Where a record batch (format v2) has its checksum, and what it covers."""


@pytest.fixture
async def producer() -> AsyncIterator[AIOKafkaProducer]:
    """A producer on an embedded broker with three partitions."""
    async with EmbeddedBroker(TopicSettings().all, partitions=3) as broker:
        client = AIOKafkaProducer(bootstrap_servers=broker.bootstrap, acks="all")
        await client.start()
        yield client
        await client.stop()


async def write(
    producer: AIOKafkaProducer,
    partition: int,
    values: list[bytes],
    spoil: Callable[[bytearray], None] | None = None,
) -> None:
    """Write one batch, spoiled on its way."""
    batch = producer.create_batch()
    for value in values:
        batch.append(timestamp=None, key=None, value=value, headers=[(MARK, b"x")])
    batch.close()
    if spoil is not None:
        data = bytearray(batch._build())
        spoil(data)
        batch._buffer = bytes(data)
    await (await producer.send_batch(batch, TOPIC, partition=partition))


def bad_header_name(data: bytearray) -> None:
    """A header name that is no UTF-8, under a checksum that is right: brokers take it."""
    data[:] = data.replace(MARK.encode(), b"\xff" * len(MARK))
    data[CRC_AT:CRC_FROM] = struct.pack(">I", calc_crc32c(bytes(data[CRC_FROM:])))


def bad_checksum(data: bytearray) -> None:
    """A checksum that is wrong."""
    data[CRC_AT] ^= 0xFF


@contextlib.asynccontextmanager
async def reading(producer: AIOKafkaProducer, *, fetch_max_wait_ms: int = 20) -> AsyncIterator[Source]:
    """A source that has started."""

    async def nothing(_: object) -> None:
        return

    servers = f"{producer.client.hosts[0][0]}:{producer.client.hosts[0][1]}"
    kafka = {"bootstrap_servers": servers, "fetch_max_wait_ms": fetch_max_wait_ms}
    source = Source(Settings.load(None, {"kafka": kafka}), Ledger(max_span=1000), nothing, Observer())
    await source.start()
    try:
        yield source
    finally:
        await source.stop()


def coordinates(item: Any) -> tuple[int, int, Any]:
    """Partition, offset, and the value or the word ``corrupt``."""
    corrupt = isinstance(item, CorruptRecord)
    record = item.record if corrupt else item
    return record.partition, record.offset, "corrupt" if corrupt else record.value


async def read(producer: AIOKafkaProducer, count: int) -> list[tuple[int, int, Any]]:
    """Fetch until *count* records came."""
    found: list[tuple[int, int, Any]] = []
    async with reading(producer) as source, asyncio.timeout(30):
        while len(found) < count:
            found += [coordinates(item) for item in await source.fetch(100)]
    return sorted(found, key=lambda row: row[:2])


@pytest.mark.parametrize("spoil", [bad_header_name, bad_checksum])
async def test_a_broken_record_is_passed_over_alone(
    producer: AIOKafkaProducer, spoil: Callable[[bytearray], None]
) -> None:
    """A record that cannot be read is reported once; all others of all partitions come, once and in order."""
    for partition in range(3):
        await write(producer, partition, [b"0", b"1", b"2"])
    await write(producer, 1, [b"3"], spoil)
    for partition in range(3):
        await write(producer, partition, [b"4"])
    good = [(partition, offset, str(offset).encode()) for partition in (0, 2) for offset in range(3)]
    good += [(partition, 3, b"4") for partition in (0, 2)]
    middle = [(1, 0, b"0"), (1, 1, b"1"), (1, 2, b"2"), (1, 3, "corrupt"), (1, 4, b"4")]
    assert await read(producer, 13) == sorted(good + middle, key=lambda row: row[:2])


@pytest.mark.parametrize("path", ["_fetcher._fetch_task", "_coordinator._coordination_task"])
async def test_a_dead_task_of_the_client_is_seen(producer: AIOKafkaProducer, path: str) -> None:
    """Where a task inside aiokafka has ended, which it would never tell, the source says so."""

    async def nothing(_: object) -> None:
        return

    servers = f"{producer.client.hosts[0][0]}:{producer.client.hosts[0][1]}"
    settings = Settings.load(None, {"kafka": {"bootstrap_servers": servers, "fetch_max_wait_ms": 20}})
    source = Source(settings, Ledger(max_span=1000), nothing, Observer())
    await source.start()
    while source.not_joined() is not None:
        await source.fetch(10)
    assert source.failure is None
    task: asyncio.Task[None] = operator.attrgetter(path)(source.consumer)
    while not task.done():
        task.cancel()
        await asyncio.sleep(0)
    assert source.failure is not None
    with contextlib.suppress(asyncio.CancelledError):
        async with asyncio.timeout(5):
            await source.stop()


@pytest.mark.parametrize("spoil", [bad_header_name, bad_checksum])
@pytest.mark.parametrize("bad", [0, 1, 2])
async def test_a_new_group_loses_nothing_to_a_first_record_that_is_broken(
    producer: AIOKafkaProducer, spoil: Callable[[bytearray], None], bad: int
) -> None:
    """Where the group has no position yet, records that the failed fetch had taken out come all the same."""
    await write(producer, bad, [b"0"], spoil)
    for partition in range(3):
        if partition != bad:
            await write(producer, partition, [b"0"])
        await write(producer, partition, [b"1", b"2"])
    expected = [
        (partition, offset, "corrupt" if (partition, offset) == (bad, 0) else str(offset).encode())
        for partition in range(3)
        for offset in range(3)
    ]
    assert await read(producer, 9) == expected


async def test_a_broken_record_is_found_while_fetches_wait_for_others(producer: AIOKafkaProducer) -> None:
    """The client fetches nothing of a partition while a fetch for others waits: it is given that time."""
    await write(producer, 1, [b"0"])
    found: list[tuple[int, int, Any]] = []
    async with reading(producer, fetch_max_wait_ms=2000) as source, asyncio.timeout(20):
        while len(found) < 1:
            found += [coordinates(item) for item in await source.fetch(100)]
        await write(producer, 1, [b"1"], bad_checksum)
        await write(producer, 1, [b"2"])
        while len(found) < 3:
            found += [coordinates(item) for item in await source.fetch(100)]
    assert found == [(1, 0, b"0"), (1, 1, "corrupt"), (1, 2, b"2")]
