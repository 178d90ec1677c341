"""The group member on the embedded broker: stalls that no task reports."""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka.conn import CloseReason

from fivestage.core.ledger import Ledger
from fivestage.core.observer import Observer
from fivestage.core.records import CorruptRecord
from fivestage.kafka.connection.rebuild_policy import ClientFault, StallTracker
from fivestage.kafka.consumer.committer import Committer
from fivestage.kafka.consumer.progress import ProgressWatch
from fivestage.kafka.embedded_broker import EmbeddedBroker
from fivestage.settings import Settings, TopicSettings
from support.feeder import write
from support.members import make_member
from support.mock import OFFSET_COMMIT, SYNC_GROUP, Mock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

pytestmark = pytest.mark.broker
TOPIC = TopicSettings().queries
REBALANCE_IN_PROGRESS, INVALID_COMMIT_SIZE = 27, 28


class Counted(Observer):
    """Records rebuilds and failed commits."""

    def __init__(self) -> None:
        self.rebuilds: list[tuple[str, str]] = []
        self.failures: list[str] = []

    def commit_failed(self, error_type: str) -> None:
        self.failures.append(error_type)

    def client_rebuilt(self, client: str, reason: str) -> None:
        self.rebuilds.append((client, reason))


class Reader:
    """A member with short timeouts, and the records it has read."""

    def __init__(self, bootstrap: str) -> None:
        # The mock takes as long as a session for a member that joins after another has left.
        session = {"session_timeout_ms": 2500, "heartbeat_interval_ms": 500}
        kafka = {"bootstrap_servers": bootstrap, "fetch_max_wait_ms": 20, **session}
        settings = Settings.load(None, {"kafka": kafka})
        self.bootstrap = bootstrap
        self.observer = Counted()
        self.ledger = Ledger(max_span=1000)
        self.unanswered: list[tuple[str, int]] = []
        self.member = make_member(
            settings,
            self.ledger,
            on_revoked=self.revoked,
            observer=self.observer,
            on_unanswered=lambda host, port: self.unanswered.append((host, port)),
        )
        self.member.progress = ProgressWatch(
            self.ledger, self.member.mark_for_replacement, stalled_after_s=0.5, confirm_s=0.2
        )
        self.reasons: list[str | None] = []
        self.values: list[bytes | None] = []

    async def revoked(self, _keys: object) -> None:
        """Do nothing: called before a consumer is replaced."""
        self.reasons.append(self.member.unready)

    async def write(self, *values: bytes) -> None:
        await asyncio.to_thread(write, self.bootstrap, TOPIC, [(None, value) for value in values])

    async def read_until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(30):
            while not condition():
                fetched = await self.member.fetch(100)
                self.values += [item.value for item in fetched if not isinstance(item, CorruptRecord)]

    async def watched(self, reading: Coroutine[Any, Any, None]) -> None:
        """Read, and check the member as the health monitor does."""
        task = asyncio.create_task(reading)
        while not task.done():
            self.member.look()
            await asyncio.wait({task}, timeout=0.1)
        await task


@pytest.fixture
async def reader() -> AsyncIterator[Reader]:
    """Start a member with partitions that has read one record."""
    async with EmbeddedBroker(TopicSettings().all, partitions=2) as broker:
        reader = Reader(broker.bootstrap)
        await reader.member.start()
        await reader.write(b"first")
        await reader.read_until(lambda: reader.values == [b"first"])
        yield reader
        await reader.member.stop()


async def test_a_stall_without_a_cause(reader: Reader) -> None:
    """Where no available record arrives although all tasks live, a new consumer reads them."""
    reader.member.consumer.pause(*reader.member.consumer.assignment())  # unknown to the member
    await reader.write(b"second")
    await reader.read_until(lambda: b"second" in reader.values)
    assert reader.observer.rebuilds == [("consumer", "stalled")]
    [reason] = reader.reasons
    assert reason is not None
    assert reason.startswith("the consumer is being rebuilt: partitions [")
    assert reason.endswith("] have records to read, but deliver none")


@pytest.mark.fault(38)
async def test_a_fetch_that_never_returns(reader: Reader) -> None:
    """Where the group's task dies in a rebalance, the fetch that waits for it is ended."""
    consumer: Any = reader.member.consumer
    consumer._subscription.begin_reassignment()
    await reader.write(b"second")
    task = consumer._coordinator._coordination_task
    while not task.done():
        task.cancel()
        await asyncio.sleep(0)
    await reader.watched(reader.read_until(lambda: b"second" in reader.values))
    assert reader.observer.rebuilds == [("consumer", "group_ended")]


@pytest.mark.fault(38)
async def test_a_task_that_is_being_replaced_is_no_fault(reader: Reader) -> None:
    """An ended task in a rebalance may soon be replaced and is no fault; one that stays ended is."""
    coordinator: Any = reader.member.consumer._coordinator
    alive, ended = coordinator._commit_refresh_task, asyncio.create_task(asyncio.sleep(0))
    await ended
    coordinator._commit_refresh_task = ended
    await reader.member.fetch(100)
    coordinator._commit_refresh_task = alive
    await reader.write(b"second")
    await reader.read_until(lambda: b"second" in reader.values)
    assert reader.observer.rebuilds == []
    coordinator._commit_refresh_task = ended
    await reader.read_until(lambda: reader.observer.rebuilds)
    assert reader.observer.rebuilds == [("consumer", "position_ended")]
    alive.cancel()


@pytest.mark.fault(37)
async def test_a_broker_that_does_not_answer_is_suspect(reader: Reader) -> None:
    """A request timeout marks the broker as suspect; a broken connection does not."""
    client: Any = reader.member.consumer._client
    fetching, coordinating = client._conns.values()
    fetching.close(CloseReason.CONNECTION_BROKEN)
    assert reader.unanswered == []
    coordinating.close(CloseReason.CONNECTION_TIMEOUT)  # as the client does when a request times out
    assert reader.unanswered == [(coordinating.host, coordinating.port)]
    await reader.write(b"second")
    await reader.read_until(lambda: b"second" in reader.values)


async def test_fetched_records_that_wait_are_no_stall(reader: Reader) -> None:
    """Fetched records that wait for those of another partition are no stall."""
    await reader.write(*[b"more"] * 200)
    end = asyncio.get_running_loop().time() + 2.5
    while asyncio.get_running_loop().time() < end:
        await reader.member.fetch(1)
        await asyncio.sleep(0.05)  # as slowly as slow nodes do
    assert reader.observer.rebuilds == []
    await reader.read_until(lambda: not sum(reader.member.lag().values()))
    assert reader.observer.rebuilds == []


async def test_nothing_to_read_is_no_stall(reader: Reader) -> None:
    """A fully read partition may be quiet for any time."""
    looks, end = 0, asyncio.get_running_loop().time() + 2.5

    def later() -> bool:
        nonlocal looks
        looks += 1
        return asyncio.get_running_loop().time() > end

    await reader.read_until(later)
    assert looks > 5
    assert reader.observer.rebuilds == []


async def test_a_pause_is_no_stall(reader: Reader) -> None:
    """Records paused by back-pressure are no stall."""
    reader.member.pause()
    await reader.write(b"second")
    end = asyncio.get_running_loop().time() + 2.5
    await reader.read_until(lambda: asyncio.get_running_loop().time() > end)
    assert reader.values == [b"first"]
    reader.member.resume()
    await reader.read_until(lambda: b"second" in reader.values)
    assert reader.observer.rebuilds == []


async def test_brokers_that_are_away_are_no_stall() -> None:
    """While no broker answers the consumer is kept, and continues after the outage."""
    with Mock(partitions=1) as mock:
        reader = Reader(mock.bootstrap)
        await reader.member.start()
        await reader.write(b"first")
        await reader.read_until(lambda: reader.values == [b"first"])
        mock.go_away()
        end = asyncio.get_running_loop().time() + 2
        await reader.read_until(lambda: asyncio.get_running_loop().time() > end and mock.refused() > 5)
        mock.come_back()
        await reader.write(b"second")
        await reader.read_until(lambda: b"second" in reader.values)
        assert reader.observer.rebuilds == []
        await reader.member.stop()


async def test_a_late_answer_to_a_commit_is_no_unexpected_error() -> None:
    """A rejection of a commit that had already timed out is not logged as an unexpected error."""
    errors: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
    with Mock(partitions=1) as mock:
        reader = Reader(mock.bootstrap)
        await reader.member.start()
        await reader.write(b"first")
        await reader.read_until(lambda: reader.values == [b"first"])
        [offsets] = reader.ledger.partitions.values()
        offsets.finish(0)
        committer = Committer(reader.member, reader.ledger, reader.observer, interval_s=60, timeout_s=30)
        mock.slow_down(500)
        mock.push(OFFSET_COMMIT, [INVALID_COMMIT_SIZE])
        assert not await committer.commit(timeout_s=0.1)
        mock.slow_down(0)
        assert await committer.commit()  # is answered after the first
        assert reader.observer.failures == ["timeout"]
        await reader.member.stop()
    gc.collect()
    assert errors == []


async def test_a_group_that_is_never_joined() -> None:
    """Where the coordinator answers but joining takes too long, a new consumer is tried."""
    with Mock(partitions=1) as mock:
        mock.push(SYNC_GROUP, [REBALANCE_IN_PROGRESS] * 1000)
        reader = Reader(mock.bootstrap)
        reader.member.join_tracker = StallTracker(limit_s=1)
        await reader.member.start()
        await reader.write(b"first")
        await reader.watched(reader.read_until(lambda: reader.observer.rebuilds))
        mock.clear(SYNC_GROUP)
        await reader.read_until(lambda: reader.values == [b"first"])
        assert reader.observer.rebuilds == [("consumer", "not_joined")]
        await reader.member.stop()


async def test_a_drain_ends_a_rebuild() -> None:
    """A rebuild that waits for brokers ends when the service drains, and no other starts."""
    with Mock(partitions=1) as mock:
        reader = Reader(mock.bootstrap)
        await reader.member.start()
        await reader.write(b"first")
        await reader.read_until(lambda: reader.values == [b"first"])
        consumer = reader.member.consumer
        mock.go_away()
        reader.member.mark_for_replacement(consumer, ClientFault("stalled", "for a test"))
        fetching = asyncio.create_task(reader.member.fetch(100))
        while mock.refused() < 4:
            await asyncio.wait({fetching}, timeout=0.1)
        await asyncio.wait({fetching}, timeout=0.2)  # into the pause: aiokafka drops a half-made connection
        reader.member.stop_rebuilding()
        async with asyncio.timeout(30):
            assert [await fetching, await reader.member.fetch(100)] == [[], []]
        mock.come_back()
        assert reader.member.consumer is consumer
        assert reader.observer.rebuilds == [("consumer", "stalled")]
        await reader.member.stop()
