"""The record source with batches that aiokafka cannot read: only the broken record is skipped."""

from __future__ import annotations

import asyncio
import contextlib
import operator
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import CommitFailedError
from aiokafka.protocol.commit import OffsetCommitRequest
from aiokafka.protocol.fetch import FetchRequest

from fivestage.core.records import CorruptRecord
from fivestage.kafka import aiokafka_internals
from fivestage.kafka.aiokafka_internals import client_of
from fivestage.kafka.consumer.fetch_pacing import FULL_BYTES, FetchWait
from fivestage.kafka.embedded_broker import EmbeddedBroker
from fivestage.settings import Settings, TopicSettings
from support.members import make_source
from support.wire import (
    FRAMED_SNAPPY,
    GZIP,
    LZ4,
    SNAPPY,
    ZSTD,
    bad_checksum,
    bad_header_name,
    bomb,
    not_gzip,
    packed,
    unknown_codec,
    write_batch,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from fivestage.kafka.consumer.source import Source
    from support.wire import Spoil

pytestmark = pytest.mark.broker
HOUR_S = 3600
TOPIC = TopicSettings().queries


@pytest.fixture
async def producer() -> AsyncIterator[AIOKafkaProducer]:
    """Start a producer on an embedded broker with three partitions."""
    async with EmbeddedBroker(TopicSettings().all, partitions=3) as broker:
        client = AIOKafkaProducer(bootstrap_servers=broker.bootstrap, acks="all")
        await client.start()
        yield client
        await client.stop()


async def write(
    producer: AIOKafkaProducer, partition: int, values: list[bytes], spoil: Spoil | None = None
) -> None:
    """Write one batch, corrupted on its way."""
    await write_batch(producer, TOPIC, partition, values, spoil)


@contextlib.asynccontextmanager
async def reading(producer: AIOKafkaProducer, *, fetch_max_wait_ms: int = 20) -> AsyncIterator[Source]:
    """Start a source."""
    servers = f"{producer.client.hosts[0][0]}:{producer.client.hosts[0][1]}"
    kafka = {"bootstrap_servers": servers, "fetch_max_wait_ms": fetch_max_wait_ms}
    source = make_source(Settings.load(None, {"kafka": kafka}))
    await source.start()
    try:
        yield source
    finally:
        await source.stop()


def coordinates(item: Any) -> tuple[int, int, Any]:
    """Return partition, offset, and the value or the fault."""
    if isinstance(item, CorruptRecord):
        return item.record.partition, item.record.offset, item.detail
    return item.partition, item.offset, item.value


async def read(producer: AIOKafkaProducer, count: int) -> list[tuple[int, int, Any]]:
    """Fetch until *count* records came; return partition, offset, and the value or the fault."""
    found: list[tuple[int, int, Any]] = []
    async with reading(producer) as source, asyncio.timeout(30):
        while len(found) < count:
            found += [coordinates(item) for item in await source.fetch(100)]
    return sorted(found, key=lambda row: row[:2])


ALONE: dict[Spoil, str] = {
    bad_header_name: "it cannot be read from its batch (UnicodeDecodeError)",
    bad_checksum: "the checksum of its batch is wrong",
}
"""The fault of a batch of one record."""
BOMB_BYTES = 12_000_000
"""More than kafka.max_batch_bytes."""
WHOLE_BATCH = {
    "bad checksum": (bad_checksum, "the checksum of its batch is wrong"),
    "unknown codec": (unknown_codec, "its batch uses an unknown compression codec, 6"),
    "not gzip": (not_gzip, "its batch cannot be decompressed"),
    **{
        f"bomb {codec}": (
            bomb(codec, BOMB_BYTES),
            "its decompressed batch is larger than 8388608 bytes (kafka.max_batch_bytes)",
        )
        for codec in (GZIP, SNAPPY, FRAMED_SNAPPY, LZ4, ZSTD)
    },
}


@pytest.mark.fault(30)
async def test_a_broken_batch_is_skipped_whole(producer: AIOKafkaProducer) -> None:
    """Each record of a broken batch is reported once with the fault; all others arrive in order."""
    expected: list[tuple[int, int, Any]] = []
    for number, (spoil, detail) in enumerate(WHOLE_BATCH.values()):
        start = number * 4
        await write(producer, 1, [b"1", b"2", b"3"], spoil)
        expected += [(1, offset, detail) for offset in range(start, start + 3)]
        for partition in range(3):
            await write(producer, partition, [b"4"])
            expected.append((partition, start + 3 if partition == 1 else number, b"4"))
    assert await read(producer, len(expected)) == sorted(expected, key=lambda row: row[:2])


@pytest.mark.fault(30)
async def test_batches_of_every_codec_are_read(producer: AIOKafkaProducer) -> None:
    """Batches of each codec are decompressed here, up to the size limit."""
    values = [b"%d" % number * 100 for number in range(50)]
    large = b"\0" * 8_000_000
    expected: list[tuple[int, int, Any]] = []
    for codec in (GZIP, SNAPPY, FRAMED_SNAPPY, LZ4, ZSTD):
        await write(producer, 0, values, packed(codec))
        await write(producer, 0, [large], packed(codec))
        expected += [(0, len(expected) + number, value) for number, value in enumerate([*values, large])]
    assert await read(producer, len(expected)) == expected


@pytest.mark.fault(30)
@pytest.mark.parametrize("spoil", [bad_header_name, bad_checksum])
async def test_a_broken_record_is_skipped_alone(producer: AIOKafkaProducer, spoil: Spoil) -> None:
    """An unreadable record is reported once; all others of all partitions arrive once and in order."""
    for partition in range(3):
        await write(producer, partition, [b"0", b"1", b"2"])
    await write(producer, 1, [b"3"], spoil)
    for partition in range(3):
        await write(producer, partition, [b"4"])
    good = [(partition, offset, str(offset).encode()) for partition in (0, 2) for offset in range(3)]
    good += [(partition, 3, b"4") for partition in (0, 2)]
    middle = [(1, 0, b"0"), (1, 1, b"1"), (1, 2, b"2"), (1, 3, ALONE[spoil]), (1, 4, b"4")]
    assert await read(producer, 13) == sorted(good + middle, key=lambda row: row[:2])


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("_fetcher._fetch_task", "fetch_ended"),
        ("_coordinator._coordination_task", "group_ended"),
        ("_coordinator._heartbeat_task", "heartbeat_ended"),
        ("_coordinator._commit_refresh_task", "position_ended"),
    ],
)
async def test_a_dead_task_of_the_client_is_seen(producer: AIOKafkaProducer, path: str, reason: str) -> None:
    """A dead task inside aiokafka, which reports nothing, is reported by the source."""
    servers = f"{producer.client.hosts[0][0]}:{producer.client.hosts[0][1]}"
    settings = Settings.load(None, {"kafka": {"bootstrap_servers": servers, "fetch_max_wait_ms": 20}})
    source = make_source(settings)
    await source.start()
    while source.unready is not None:
        await source.fetch(10)
    assert source.fault is None
    task: asyncio.Task[None] = operator.attrgetter(path)(source.consumer)
    while not task.done():
        task.cancel()
        await asyncio.sleep(0)
    assert source.fault is not None
    assert source.fault.reason == reason
    with contextlib.suppress(asyncio.CancelledError):
        async with asyncio.timeout(5):
            await source.stop()


@pytest.mark.parametrize("spoil", [bad_header_name, bad_checksum])
@pytest.mark.parametrize("bad", [0, 1, 2])
async def test_a_new_group_loses_nothing_to_a_first_record_that_is_broken(
    producer: AIOKafkaProducer, spoil: Spoil, bad: int
) -> None:
    """Without a committed position, records that the failed fetch had taken out arrive all the same."""
    await write(producer, bad, [b"0"], spoil)
    for partition in range(3):
        if partition != bad:
            await write(producer, partition, [b"0"])
        await write(producer, partition, [b"1", b"2"])
    expected = [
        (partition, offset, ALONE[spoil] if (partition, offset) == (bad, 0) else str(offset).encode())
        for partition in range(3)
        for offset in range(3)
    ]
    assert await read(producer, 9) == expected


async def test_a_broken_record_is_found_while_fetches_wait_for_others(producer: AIOKafkaProducer) -> None:
    """A broken record is found although the client fetches nothing while another fetch waits."""
    await write(producer, 1, [b"0"])
    found: list[tuple[int, int, Any]] = []
    async with reading(producer, fetch_max_wait_ms=400) as source, asyncio.timeout(20):
        while len(found) < 1:
            found += [coordinates(item) for item in await source.fetch(100)]
        await write(producer, 1, [b"1"], bad_checksum)
        await write(producer, 1, [b"2"])
        while len(found) < 3:
            found += [coordinates(item) for item in await source.fetch(100)]
    assert found == [(1, 0, b"0"), (1, 1, ALONE[bad_checksum]), (1, 2, b"2")]


async def test_each_fetch_asks_for_the_wait_of_its_time(
    producer: AIOKafkaProducer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Brokers hold back an idle consumer's fetch for long, and one under load for more records."""
    asked: set[FetchWait] = set()
    async with reading(producer) as source, asyncio.timeout(20):
        client = client_of(source.consumer)
        send = client.send

        async def noted(node: object, request: Any, **options: Any) -> Any:
            if isinstance(request, FetchRequest):
                asked.add(FetchWait(request._min_bytes, request._max_wait_ms))
            return await send(node, request, **options)

        monkeypatch.setattr(client, "send", noted)
        while FetchWait(1, 100) not in asked:
            await source.fetch(10)
        asked.clear()
        for number in range(50):
            await write(producer, 1, [b"%d" % number] * 20)
            await source.fetch(100)
            if any(one.min_bytes == FULL_BYTES for one in asked):
                break
        assert any(one.min_bytes == FULL_BYTES and one.max_wait_ms <= 8 for one in asked)


async def test_no_partition_may_be_read(producer: AIOKafkaProducer, monkeypatch: pytest.MonkeyPatch) -> None:
    """While all partitions are too far ahead of their commits, the group still sees polls."""
    async with reading(producer) as source, asyncio.timeout(20):
        while not source._ledger.partitions:
            await source.fetch(10)
        subscription: Any = source.consumer._subscription
        monkeypatch.setattr(source._ledger, "within_span", list)
        # A fetch that raised, for want of a committed position, still counts as running.
        subscription._fetch_count = 0
        subscription._last_fetch_ended -= HOUR_S
        assert await source.fetch(10) == []
        assert subscription.fetcher_idle_time < HOUR_S


async def test_an_expelled_member_sends_no_commit(
    producer: AIOKafkaProducer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An expelled member sends no commit: brokers accept it from outside while the group is empty."""
    sent: list[object] = []
    async with reading(producer) as source, asyncio.timeout(20):
        while source.unready is not None:
            await source.fetch(10)
        coordinator: Any = source.consumer._coordinator
        send = coordinator._send_req

        async def noted(request: object) -> Any:
            sent.append(type(request))
            return await send(request)

        with monkeypatch.context() as patch:
            patch.setattr(coordinator, "_send_req", noted)
            patch.setattr(coordinator, "generation", -1)
            with pytest.raises(CommitFailedError):
                await aiokafka_internals.commit(source.consumer, {TopicPartition(TOPIC, 0): 1})
    assert OffsetCommitRequest not in sent
