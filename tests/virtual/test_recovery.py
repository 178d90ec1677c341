"""A rebalance in the middle of what is done about a fetch that raised: nothing of before it counts."""

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
    """Of the group g."""
    kafka = {"group_id": "g", "auto_offset_reset": reset}
    return Settings.load(None, {"kafka": kafka, "topics": {"queries": "queries"}})


class RebalancingConsumer:
    """A member whose group rebalances while it does *during* with a partition.

    Args:
        ledger: Told of the rebalance, which gives back what it has taken.
        during: The method and the partition.
        corrupt: Partitions whose first record cannot be read.
        position: Where the next record is read; None while that is not known.
    """

    def __init__(
        self,
        ledger: Ledger,
        during: tuple[str, PartitionKey],
        corrupt: Sequence[PartitionKey] = (),
        position: int | None = 7,
    ) -> None:
        state = SimpleNamespace(position=position, has_valid_position=position is not None)
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
        """Where the group stands."""
        self.sought: list[tuple[int, int]] = []
        """Partition and offset of every seek after the rebalance."""

    def _rebalance(self, method: str, partition: TopicPartition) -> None:
        if (method, PartitionKey(*partition)) == self._during and not self.rebalanced:
            self.rebalanced = True
            self._ledger.revoke(BOTH)
            self._ledger.assign(BOTH)

    async def committed(self, partition: TopicPartition) -> int | None:
        """Where the group stands."""
        self._rebalance("committed", partition)
        return self.position

    async def seek_to_beginning(self, partition: TopicPartition) -> None:
        """Read from there on."""
        self.seek(partition, 0)

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """Read on from there."""
        if self.rebalanced:
            self.sought.append((partition.partition, offset))

    def end_task(self) -> None:
        """One of the client's tasks ends; what it raised comes out of fetches."""
        self._fetcher._fetch_task = SimpleNamespace(done=lambda: True)

    def highwater(self, _: TopicPartition) -> None:
        """The end of the log is not known."""

    async def beginning_offsets(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        """Where the log begins."""
        self._rebalance("beginning_offsets", partitions[0])
        return {partitions[0]: 3}

    async def end_offsets(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        """Where it ends."""
        self._rebalance("end_offsets", partitions[0])
        return {partitions[0]: 9}

    async def getmany(
        self,
        partition: TopicPartition,
        *,
        timeout_ms: int,  # noqa: ARG002 - it has something at once
        max_records: int,
    ) -> dict[TopicPartition, list[PlainRecord]]:
        """One record, unless it is corrupt."""
        self._rebalance("read one" if max_records == 1 else "read all", partition)
        if PartitionKey(*partition) in self._corrupt:
            raise CorruptRecordException
        return {partition: [PlainRecord(*partition, 5)]}


async def recover(
    during: tuple[str, PartitionKey], corrupt: Sequence[PartitionKey] = (), position: int | None = 7
) -> tuple[list[Any], RebalancingConsumer, Ledger]:
    """What a recovery finds that is disturbed."""
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
    recovery = FetchRecovery(client, ledger, begin, settings())
    return await recovery.recover(100), consumer, ledger


async def test_records_of_before_a_rebalance_are_not_handed_over() -> None:
    """They are in closed books: whoever has their partition now, be it the same member, reads them again."""
    last = list(BOTH)[-1]  # in the order of the ledger's books
    found, _, ledger = await recover(("read all", last))
    assert [(record.partition, record.offset) for record in found] == [(last.partition, 5)]
    assert ledger.in_flight() == 1


async def test_no_record_is_passed_over_for_one_of_before_a_rebalance() -> None:
    """Where the corrupt record was is not where the next assignment reads."""
    found, consumer, ledger = await recover(("read one", FIRST), corrupt=[FIRST])
    assert (0, 8) not in consumer.sought
    offsets = ledger.offsets(FIRST)
    assert offsets is not None
    assert offsets.next_offset is None
    assert not any(isinstance(one, CorruptRecord) for one in found)


async def test_nothing_is_sought_in_an_assignment_it_was_not_asked_for() -> None:
    """A position that was asked for before a rebalance may be behind the one of now."""
    _, consumer, _ = await recover(("committed", FIRST))
    assert (0, 5) not in consumer.sought


async def test_a_position_that_may_never_come_is_not_waited_for() -> None:
    """A partition that was given anew in the middle may have none, which only the next fetch can tell."""
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
    """Others may have committed one meanwhile: to begin anew would answer all before it again."""
    ledger = Ledger(max_span=10)
    ledger.assign(BOTH)
    consumer = RebalancingConsumer(ledger, (during, FIRST))
    client: Any = consumer
    await OffsetReset(client, ledger, Observer(), settings()).restore(error)
    offsets = ledger.offsets(FIRST)
    assert offsets is not None
    assert (consumer.sought, offsets.next_offset) == ([], None)


async def test_a_halted_partition_is_put_back_too() -> None:
    """A rebalance makes the client forget pauses: what the fetch brought of it is gone, and not read now."""
    ledger = Ledger(max_span=10)
    ledger.assign(BOTH)
    ledger.guard.halted[FIRST] = Halt("too much of it cannot be read", None)
    consumer = RebalancingConsumer(ledger, ("nothing", FIRST))
    consumer.rebalanced = True  # in the middle of the fetch
    client: Any = consumer
    recovery = FetchRecovery(client, ledger, list, settings())
    found = await recovery.recover(10)
    assert sorted(consumer.sought) == [(0, 5), (1, 5)]
    assert [record.partition for record in found if isinstance(record, PlainRecord)] == [1]


async def test_a_task_of_the_client_that_dies_is_no_records_fault() -> None:
    """What it raised comes out of a fetch, and no readable record is passed over for it."""
    ledger = Ledger(max_span=10)
    ledger.assign(BOTH)
    consumer = RebalancingConsumer(ledger, ("nothing", FIRST), [FIRST])
    consumer.end_task()
    client: Any = consumer
    recovery = FetchRecovery(client, ledger, list, settings())
    with pytest.raises(BrokerError, match="the Kafka client's fetch task has ended"):
        await recovery.recover(10)
    assert all(offsets.next_offset is None for offsets in ledger.partitions.values())


class Refusing(RebalancingConsumer):
    """A member that cannot look up where a partition begins."""

    def __init__(self, ledger: Ledger, error: KafkaError) -> None:
        super().__init__(ledger, ("nothing", FIRST))
        self._error = error

    async def beginning_offsets(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        """Refused."""
        assert partitions
        raise self._error


async def test_a_position_that_cannot_be_looked_up() -> None:
    """Without the right it is told what to grant; anything else is tried again, with a pause."""
    ledger = Ledger(max_span=10)
    ledger.assign(BOTH)
    lost = NoOffsetForPartitionError(TopicPartition(*FIRST))
    client: Any = Refusing(ledger, TopicAuthorizationFailedError())
    with pytest.raises(ConfigurationError, match="not allowed to read topic 'queries': grant Read on it"):
        await OffsetReset(client, ledger, Observer(), settings()).restore(lost)
    client = Refusing(ledger, RequestTimedOutError())
    before = asyncio.get_running_loop().time()
    await OffsetReset(client, ledger, Observer(), settings()).restore(lost)
    assert asyncio.get_running_loop().time() - before == pytest.approx(RETRY_S)


async def test_a_log_that_is_shorter_than_before_is_another_log() -> None:
    """What the old one had moves nothing any more: it begins in a new book."""
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
"""The log that the consumer sees holds offsets from 3 up to 9."""


class Counting(Observer):
    """Keeps which positions were given up."""

    def __init__(self) -> None:
        self.resets: list[tuple[str, int]] = []

    def position_reset(self, reason: str, skipped: int) -> None:
        self.resets.append((reason, skipped))


async def restored(reset: str, lost: str) -> tuple[RebalancingConsumer, Ledger, Counting]:
    """What becomes of a position that the log does not hold."""
    ledger, observer = Ledger(max_span=10), Counting()
    ledger.assign(BOTH)
    consumer = RebalancingConsumer(ledger, ("nothing", FIRST))
    consumer.rebalanced = True  # it keeps what is sought
    client: Any = consumer
    await OffsetReset(client, ledger, observer, settings(reset)).restore(LOST[lost])
    return consumer, ledger, observer


@pytest.mark.parametrize("lost", LOST)
async def test_reading_starts_at_the_earliest_record(lost: str) -> None:
    """By default; a group without a position commits none before it has answered something."""
    consumer, ledger, observer = await restored("earliest", lost)
    assert consumer.sought == [(0, 3)]
    assert observer.resets == [(lost, 1 if lost == "deleted" else 0)]
    assert ledger.committable() == ({FIRST: 3} if lost == "deleted" else {})


@pytest.mark.parametrize("lost", LOST)
async def test_reading_starts_at_the_end(lost: str) -> None:
    """With ``latest``; the end is committed, or the next member would start at another one."""
    consumer, ledger, observer = await restored("latest", lost)
    assert consumer.sought == [(0, 9)]
    assert observer.resets == [(lost, 7 if lost == "deleted" else 0)]
    assert ledger.committable() == {FIRST: 9}


@pytest.mark.parametrize("lost", LOST)
async def test_no_position_is_chosen(lost: str) -> None:
    """With ``error`` the service ends instead, and its last line names group, partition and setting."""
    said = r"group 'g' cannot read partition 0 of 'queries': .* kafka.auto_offset_reset is 'error'"
    with pytest.raises(ConfigurationError, match=said):
        await restored("error", lost)


async def test_a_partition_that_was_never_read_keeps_no_position() -> None:
    """After a fetch that raised, one without a position is not read from its beginning unless that is set."""
    ledger = Ledger(max_span=10)
    ledger.assign(BOTH)
    consumer = RebalancingConsumer(ledger, ("nothing", FIRST))
    consumer.rebalanced, consumer.position = True, None
    client: Any = consumer
    recovery = FetchRecovery(client, ledger, list, settings("latest"))
    await recovery.recover(10)
    assert consumer.sought == []
