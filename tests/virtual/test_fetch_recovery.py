"""Rebalances during the recovery from a failed fetch: results of the earlier assignment are dropped."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import (
    CorruptRecordException,
    KafkaError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
    RequestTimedOutError,
    TopicAuthorizationFailedError,
)

from fivestage.core.ledger import Ledger, PartitionKey
from fivestage.core.observer import Observer
from fivestage.core.partition_halt import Halt
from fivestage.core.records import CorruptRecord, PlainRecord
from fivestage.errors import BrokerError, ConfigurationError
from fivestage.kafka.consumer.fetch_recovery import FetchRecovery
from fivestage.kafka.consumer.offset_reset import RETRY_S, OffsetReset
from fivestage.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

FIRST, SECOND = PartitionKey("queries", 0), PartitionKey("queries", 1)
BOTH = frozenset({FIRST, SECOND})


def settings(reset: str = "earliest") -> Settings:
    """Return settings with the group g."""
    kafka = {"group_id": "g", "auto_offset_reset": reset}
    return Settings.load(None, {"kafka": kafka, "topics": {"queries": "queries"}})


class RebalancingConsumer:
    """A member whose group rebalances during the call *during* for a partition.

    Args:
        ledger: Revokes and assigns the partitions of the rebalance.
        during: The method and the partition that trigger the rebalance.
        corrupt: Partitions whose first record cannot be read.
        position: The offset of the next record; None while unknown.
    """

    def __init__(
        self,
        ledger: Ledger,
        during: tuple[str, PartitionKey],
        corrupt: Sequence[PartitionKey] = (),
        position: int | None = 7,
    ) -> None:
        state = SimpleNamespace(position=position, has_valid_position=position is not None, highwater=None)
        assignment = SimpleNamespace(state_value=lambda _: state)
        self._subscription = SimpleNamespace(subscription=SimpleNamespace(assignment=assignment))
        self._fetcher = SimpleNamespace(_fetch_task=None)
        self._coordinator = SimpleNamespace(
            _coordination_task=None,
            _heartbeat_task=None,
            _commit_refresh_task=None,
            _rejoin_needed_fut=SimpleNamespace(done=lambda: False),
        )
        self._ledger = ledger
        self._during = during
        self._corrupt = corrupt
        self.rebalanced = False
        self.position: int | None = 5
        """The committed offsets of the group."""
        self.sought: list[tuple[int, int]] = []
        """Partition and offset of every seek after the rebalance."""

    def _rebalance(self, method: str, partition: TopicPartition) -> None:
        if (method, PartitionKey(*partition)) == self._during and not self.rebalanced:
            self.rebalanced = True
            self._ledger.revoke(BOTH)
            self._ledger.assign(BOTH)

    async def committed(self, partition: TopicPartition) -> int | None:
        """Return the group's committed offset."""
        self._rebalance("committed", partition)
        return self.position

    async def seek_to_beginning(self, partition: TopicPartition) -> None:
        """Seek to the beginning."""
        self.seek(partition, 0)

    def assignment(self) -> set[TopicPartition]:
        """Return the partitions, which stay assigned."""
        return {TopicPartition(*key) for key in BOTH}

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """Seek to an offset."""
        if self.rebalanced:
            self.sought.append((partition.partition, offset))

    def end_task(self) -> None:
        """Fail a task of the client; its exception is raised by fetches."""
        self._fetcher._fetch_task = SimpleNamespace(done=lambda: True)

    async def beginning_offsets(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        """Return the beginning offsets."""
        self._rebalance("beginning_offsets", partitions[0])
        return {partitions[0]: 3}

    async def end_offsets(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        """Return the end offsets."""
        self._rebalance("end_offsets", partitions[0])
        return {partitions[0]: 9}

    async def getmany(
        self,
        partition: TopicPartition,
        *,
        timeout_ms: int,  # noqa: ARG002 - a record is ready
        max_records: int,
    ) -> dict[TopicPartition, list[PlainRecord]]:
        """Return one record, unless it is corrupt."""
        self._rebalance("read one" if max_records == 1 else "read all", partition)
        if PartitionKey(*partition) in self._corrupt:
            raise CorruptRecordException
        return {partition: [PlainRecord(*partition, 5)]}


async def recover(
    during: tuple[str, PartitionKey], corrupt: Sequence[PartitionKey] = (), position: int | None = 7
) -> tuple[list[Any], RebalancingConsumer, Ledger]:
    """Run a recovery with a rebalance in the middle."""
    ledger = Ledger(max_span=10)
    ledger.assign(BOTH)
    consumer = RebalancingConsumer(ledger, during, corrupt, position)

    def begin(records: Sequence[Any]) -> Sequence[Any]:
        offsets = ledger.offsets(PartitionKey(records[0].topic, records[0].partition))
        assert offsets is not None
        for record in records:
            offsets.begin(record.offset)
        return records

    client: Any = consumer
    recovery = FetchRecovery(client, ledger, begin, settings(), longest_fetch_ms=100)
    return await recovery.recover(100), consumer, ledger


async def test_records_of_a_revoked_assignment_are_dropped() -> None:
    """Records of a revoked assignment are dropped: the partition's owner fetches them again."""
    last = list(BOTH)[-1]  # in the order of the ledger's partitions
    found, _, ledger = await recover(("read all", last))
    assert [(record.partition, record.offset) for record in found] == [(last.partition, 5)]
    assert ledger.in_flight() == 1


async def test_a_corrupt_record_of_a_revoked_assignment_skips_none() -> None:
    """A corrupt record of an earlier assignment skips no record of the present one."""
    found, consumer, ledger = await recover(("read one", FIRST), corrupt=[FIRST])
    assert (0, 8) not in consumer.sought
    offsets = ledger.offsets(FIRST)
    assert offsets is not None
    assert offsets.next_offset is None
    assert not any(isinstance(one, CorruptRecord) for one in found)


async def test_a_position_of_an_earlier_assignment_is_not_sought() -> None:
    """A position requested before a rebalance is not sought: it may be behind the present one."""
    _, consumer, _ = await recover(("committed", FIRST))
    assert (0, 5) not in consumer.sought


async def test_a_position_that_may_never_come_is_not_waited_for() -> None:
    """A partition reassigned meanwhile may have no position until the next fetch; nothing waits for it."""
    found, consumer, _ = await recover(("read all", FIRST), corrupt=[FIRST], position=None)
    assert consumer.sought == [(0, 5)]
    assert not any(isinstance(one, CorruptRecord) for one in found)


@pytest.mark.parametrize("during", ["beginning_offsets", "end_offsets"])
@pytest.mark.parametrize(
    "error",
    [
        NoOffsetForPartitionError(TopicPartition(*FIRST)),
        OffsetOutOfRangeError({TopicPartition(*FIRST): 2}),
        OffsetOutOfRangeError({TopicPartition(*FIRST): 12}),
    ],
)
async def test_a_position_is_restored_only_in_the_assignment_that_had_none(
    during: str, error: NoOffsetForPartitionError | OffsetOutOfRangeError
) -> None:
    """A position is restored only in its own assignment: another member may have committed since."""
    ledger = Ledger(max_span=10)
    ledger.assign(BOTH)
    consumer = RebalancingConsumer(ledger, (during, FIRST))
    client: Any = consumer
    await OffsetReset(client, ledger, Observer(), settings()).restore(error)
    offsets = ledger.offsets(FIRST)
    assert offsets is not None
    assert (consumer.sought, offsets.next_offset) == ([], None)


async def test_a_halted_partition_stays_halted() -> None:
    """A halted partition loses its pause in a rebalance: its records are dropped and it is paused again."""
    ledger = Ledger(max_span=10)
    ledger.assign(BOTH)
    ledger.guard.halted[FIRST] = Halt("too much of it cannot be read", None)
    consumer = RebalancingConsumer(ledger, ("nothing", FIRST))
    consumer.rebalanced = True  # in the middle of the fetch
    client: Any = consumer
    recovery = FetchRecovery(client, ledger, list, settings(), longest_fetch_ms=100)
    found = await recovery.recover(10)
    assert sorted(consumer.sought) == [(0, 5), (1, 5)]
    assert [record.partition for record in found if isinstance(record, PlainRecord)] == [1]


async def test_a_failed_client_task_skips_no_record() -> None:
    """A client task's exception raised by a fetch skips no readable record."""
    ledger = Ledger(max_span=10)
    ledger.assign(BOTH)
    consumer = RebalancingConsumer(ledger, ("nothing", FIRST), [FIRST])
    consumer.end_task()
    client: Any = consumer
    recovery = FetchRecovery(client, ledger, list, settings(), longest_fetch_ms=100)
    with pytest.raises(BrokerError, match="the Kafka client's fetch task has ended"):
        await recovery.recover(10)
    assert all(offsets.next_offset is None for offsets in ledger.partitions.values())


class Refusing(RebalancingConsumer):
    """A member that may not look up beginning offsets."""

    def __init__(self, ledger: Ledger, error: KafkaError) -> None:
        super().__init__(ledger, ("nothing", FIRST))
        self._error = error

    async def beginning_offsets(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        """Fail with an authorization error."""
        assert partitions
        raise self._error


async def test_a_position_that_cannot_be_looked_up() -> None:
    """Without authorization the error names the right to grant; other errors are retried after a pause."""
    ledger = Ledger(max_span=10)
    ledger.assign(BOTH)
    lost = NoOffsetForPartitionError(TopicPartition(*FIRST))
    client: Any = Refusing(ledger, TopicAuthorizationFailedError())
    with pytest.raises(ConfigurationError, match="not allowed to read topic 'queries': grant Read on it"):
        await OffsetReset(client, ledger, Observer(), settings()).restore(lost)
    client = Refusing(ledger, TopicAuthorizationFailedError({"returns"}))
    with pytest.raises(ConfigurationError, match="not allowed to read topic 'returns'"):
        await OffsetReset(client, ledger, Observer(), settings()).restore(lost)
    client = Refusing(ledger, RequestTimedOutError())
    before = asyncio.get_running_loop().time()
    await OffsetReset(client, ledger, Observer(), settings()).restore(lost)
    assert asyncio.get_running_loop().time() - before == pytest.approx(RETRY_S)


async def test_a_shorter_log_starts_with_new_offsets() -> None:
    """Offsets of a log that was recreated are forgotten: the partition starts with new offsets."""
    ledger = Ledger(max_span=10)
    ledger.assign(BOTH)
    old = ledger.offsets(FIRST)
    client: Any = RebalancingConsumer(ledger, ("nothing", FIRST))
    lost = OffsetOutOfRangeError({TopicPartition(*FIRST): 12})
    await OffsetReset(client, ledger, Observer(), settings()).restore(lost)
    assert old is not None
    assert (old.closed, ledger.offsets(FIRST) is old) == (True, False)


LOST: dict[str, NoOffsetForPartitionError | OffsetOutOfRangeError] = {
    "none": NoOffsetForPartitionError(TopicPartition(*FIRST)),
    "deleted": OffsetOutOfRangeError({TopicPartition(*FIRST): 2}),
    "beyond_end": OffsetOutOfRangeError({TopicPartition(*FIRST): 12}),
}
"""The consumer's log holds offsets 3 to 9."""


class Counting(Observer):
    """Records the positions that were given up."""

    def __init__(self) -> None:
        self.resets: list[tuple[str, int]] = []

    def position_reset(self, reason: str, skipped: int) -> None:
        self.resets.append((reason, skipped))


async def restored(reset: str, lost: str) -> tuple[RebalancingConsumer, Ledger, Counting]:
    """Return the position that replaces one outside of the log."""
    ledger, observer = Ledger(max_span=10), Counting()
    ledger.assign(BOTH)
    consumer = RebalancingConsumer(ledger, ("nothing", FIRST))
    consumer.rebalanced = True  # the consumer keeps what is sought
    client: Any = consumer
    await OffsetReset(client, ledger, observer, settings(reset)).restore(LOST[lost])
    return consumer, ledger, observer


@pytest.mark.parametrize("lost", LOST)
async def test_reading_starts_at_the_earliest_record(lost: str) -> None:
    """Without a position reading starts at the earliest record; nothing is committed before an answer."""
    consumer, ledger, observer = await restored("earliest", lost)
    assert consumer.sought == [(0, 3)]
    assert observer.resets == [(lost, 1 if lost == "deleted" else 0)]
    assert ledger.committable() == ({FIRST: 3} if lost == "deleted" else {})


@pytest.mark.parametrize("lost", LOST)
async def test_reading_starts_at_the_end(lost: str) -> None:
    """With ``latest`` reading starts at the end, which is committed for the next member."""
    consumer, ledger, observer = await restored("latest", lost)
    assert consumer.sought == [(0, 9)]
    assert observer.resets == [(lost, 7 if lost == "deleted" else 0)]
    assert ledger.committable() == {FIRST: 9}


@pytest.mark.parametrize("lost", LOST)
async def test_no_position_is_chosen(lost: str) -> None:
    """With ``error`` the service ends, and its last line names group, partition and setting."""
    said = r"group 'g' cannot read partition 0 of 'queries': .* kafka.auto_offset_reset is 'error'"
    with pytest.raises(ConfigurationError, match=said):
        await restored("error", lost)


async def test_a_partition_that_was_never_read_keeps_no_position() -> None:
    """After a failed fetch, a partition without a position is not read from its beginning by default."""
    ledger = Ledger(max_span=10)
    ledger.assign(BOTH)
    consumer = RebalancingConsumer(ledger, ("nothing", FIRST))
    consumer.rebalanced, consumer.position = True, None
    client: Any = consumer
    recovery = FetchRecovery(client, ledger, list, settings("latest"), longest_fetch_ms=100)
    await recovery.recover(10)
    assert consumer.sought == []
