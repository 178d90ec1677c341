"""The source: records from the input topic, none skipped, none twice within an assignment.

What aiokafka does and what is done about it (version 0.14.0, pinned):

* a fetch that raises may have lost records and raises for ever: see ``fetch_recovery``;
* a batch is decompressed to whatever it becomes: see ``batch_check``;
* cancelling a fetch switches ``max_poll_interval_ms`` off for good: fetches are never cancelled;
* where a position is missing or out of range it would start elsewhere without a word: see ``offset_reset``;
* a pause is forgotten in every rebalance and drops what was fetched ahead: it is applied again, and used
  only when the wait is long;
* exceptions of the rebalance listener are logged and forgotten: they are kept and raised from ``fetch``;
* a fetch that is answered with an unknown error is repeated at once, for ever: see ``aiokafka_internals``;
* a commit is tried again also when the group has dropped the member meanwhile: see ``aiokafka_internals``;
* one bootstrap server after the other is tried, each for a whole time-out: see ``aiokafka_internals``;
* a dead connection is noticed by each client for itself, after a whole time-out: see ``aiokafka_internals``;
* a background task that has ended is not told of, and a consumer cannot be started again: see
  ``group_member``.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from aiokafka.errors import KafkaError

from fivestage.core.ledger import Ledger, PartitionKey, numbers_of
from fivestage.errors import BrokerError, FencedError, FivestageError
from fivestage.kafka import aiokafka_internals
from fivestage.kafka.connection.connection import client_options
from fivestage.kafka.connection.preflight import answering_server
from fivestage.kafka.connection.rebuild_policy import Trouble
from fivestage.kafka.consumer.batch_check import check_batches
from fivestage.kafka.consumer.fetch_recovery import FetchRecovery
from fivestage.kafka.consumer.offset_reset import LOST_POSITION, OffsetReset

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from fivestage.core.observer import Observer
    from fivestage.core.records import CorruptRecord, Record
    from fivestage.settings import Settings

    MakeConsumer = Callable[..., AIOKafkaConsumer]
    OnUnanswered = Callable[[str, int], None]

FETCH_TIMEOUT_MS = 200
"""How long an empty fetch waits; also how soon the loop sees that it should stop."""
REFUSED_PAUSE_S = 0.1

log = structlog.get_logger("fivestage.kafka.consumer.source")


class Source:
    """Consumes one topic as a member of a group, for as long as its consumer lives.

    Args:
        settings: Where to connect and how.
        ledger: Opened and closed here, in step with the assignment.
        on_revoked: Awaited while partitions are being taken away, before their books are closed: finish,
            publish and commit what is in flight, within a bound well below the rebalance timeout.
        observer: Told of what happens.
        on_unanswered: Called with the address of a broker that has not answered for too long.
        make_consumer: Makes the client; tests put another in its place.
    """

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        on_revoked: Callable[[frozenset[PartitionKey]], Awaitable[None]],
        observer: Observer,
        *,
        on_unanswered: OnUnanswered = lambda _host, _port: None,
        make_consumer: MakeConsumer = AIOKafkaConsumer,
    ) -> None:
        self._on_unanswered = on_unanswered
        self._kafka = settings.kafka
        self._topics = settings.topics
        self._max_batch_bytes = settings.kafka.max_batch_bytes
        self._wait_s = settings.kafka.fetch_max_wait_ms / 1000
        self._ledger = ledger
        self._on_revoked = on_revoked
        self._paused = False
        self._held: set[PartitionKey] = set()
        """The halted partitions that the client was told not to fetch."""
        self._failure: BaseException | None = None
        self._observer = observer
        self._joined = False
        self._retired = False
        self.consumer = make_consumer(**_consumer_options(settings))
        self._positions = OffsetReset(
            self.consumer,
            ledger,
            observer,
            topic=self._topics.queries,
            group_id=settings.kafka.group_id,
            reset=settings.kafka.auto_offset_reset,
        )
        self._recovery = FetchRecovery(
            self.consumer,
            ledger,
            self._begin,
            topic=self._topics.queries,
            group_id=settings.kafka.group_id,
            from_beginning=settings.kafka.auto_offset_reset == "earliest",
            patience_ms=max(FETCH_TIMEOUT_MS, 2 * settings.kafka.fetch_max_wait_ms),
        )

    def __repr__(self) -> str:
        return f"<Source {self._topics.queries} {self._ledger}{' paused' if self._paused else ''}>"

    async def start(self) -> None:
        """Connect and subscribe; the first ``fetch`` joins the group.

        Raises:
            BrokerError: no broker answers.
        """
        client = aiokafka_internals.client_of(self.consumer)
        aiokafka_internals.bootstrap_from(client, lambda: answering_server(self._kafka))
        try:
            await self.consumer.start()
        except KafkaError as error:
            raise BrokerError(f"cannot connect: {error}") from error
        check_batches(self.consumer, max_bytes=self._max_batch_bytes)
        aiokafka_internals.brake_fetches(self.consumer, soon_s=self._wait_s / 2, pause_s=REFUSED_PAUSE_S)
        aiokafka_internals.commit_only_as_member(self.consumer)
        aiokafka_internals.when_unanswered(self.consumer, self._on_unanswered)
        aiokafka_internals.when_throttled(self.consumer, partial(self._observer.throttled, "consumer"))
        if self._kafka.group_instance_id is not None:
            aiokafka_internals.when_fenced(self.consumer, self._fenced)
        topics, pattern = self._topics.inputs, self._topics.pattern
        self.consumer.subscribe(topics, pattern=pattern, listener=_Listener(self))

    async def fetch(self, max_records: int) -> list[Record | CorruptRecord]:
        """Wait a little for records. Never cancel this; it returns by itself.

        Raises:
            ConfigurationError: this principal may not read the topic or use the group.
            BrokerError: the consumer is beyond repair.
        """
        self._raise_failure()
        self._follow_halts()
        partitions = {TopicPartition(*key) for key in self._ledger.within_span()}
        # Halted ones bring nothing, but a halt may be long, and the group must see a live member.
        partitions = partitions or self.consumer.paused()
        if self._ledger.partitions and not partitions:
            await asyncio.sleep(FETCH_TIMEOUT_MS / 1000)
            return []
        try:
            fetched = await self.consumer.getmany(
                *partitions, timeout_ms=FETCH_TIMEOUT_MS, max_records=max_records
            )
        except LOST_POSITION as error:
            await self._positions.restore(error)
            return []
        except Exception as error:  # noqa: BLE001 - whatever a broken batch makes the client raise
            self._raise_failure()
            if self._recovery.is_over(error):
                return []
            log.warning("fetch failed", error_type=type(error).__name__)
            return await self._recovery.recover(max_records)
        return [record for records in fetched.values() for record in self._begin(records)]

    def _follow_halts(self) -> None:
        """Stop reading partitions that were halted, and go on with those whose pause is over."""
        for key in self._ledger.resumable(asyncio.get_running_loop().time()):
            offset, partition = self._ledger.resume(key), TopicPartition(*key)
            if offset is not None:
                self.consumer.seek(partition, offset)
            if not self._paused:
                self.consumer.resume(partition)
            self._held.discard(key)
            log.warning("partition resumed", topic=key.topic, partition=key.partition, offset=offset)
        for key in self._ledger.halted():
            if key not in self._held:
                self._held.add(key)
                self.consumer.pause(TopicPartition(*key))
                halt, offsets = self._ledger.guard.halted[key], self._ledger.partitions[key]
                where = {"topic": key.topic, "partition": key.partition, "position": offsets.position}
                log.error("partition halted", **where, reason=halt.reason)

    def held_up(self) -> str | None:
        """Which partitions are halted, and why; None while none is."""
        halted = self._ledger.halted()
        if not halted:
            return None
        names = ", ".join(map(str, numbers_of(halted)))
        return f"halted: partition {names}: {self._ledger.guard.halted[halted[0]].reason}"

    def _begin(self, records: Sequence[Record]) -> Sequence[Record]:
        """Enter records into their books; drop those of partitions lost meanwhile."""
        first = records[0]
        key = PartitionKey(first.topic, first.partition)
        offsets = self._ledger.offsets(key)
        if offsets is None or self._retired:  # the book may be another consumer's
            return []
        if offsets.next_offset is not None and first.offset < offsets.next_offset:
            where = {"topic": key.topic, "partition": key.partition, "offset": first.offset}
            log.warning("offsets went back: a new log", **where)
            self._ledger.assign(frozenset({key}))
            return self._begin(records)
        for record in records:
            offsets.begin(record.offset)
        return records

    def pause(self) -> None:
        """Stop fetching; keep calling ``fetch`` so that the group sees a live member."""
        self._paused = True
        self.consumer.pause(*self.consumer.assignment())

    def resume(self) -> None:
        """Fetch again."""
        self._paused = False
        halted = {TopicPartition(*key) for key in self._held}
        self.consumer.resume(*(self.consumer.assignment() - halted))

    def lag(self) -> dict[PartitionKey, int]:
        """Records written and not yet handed over, by partition, as far as the last fetch told."""
        lags = {}
        # another thread reads while it may change
        for key, offsets in list(self._ledger.partitions.items()):
            highwater = self.consumer.highwater(TopicPartition(*key))
            if highwater is not None and offsets.next_offset is not None:
                lags[key] = max(0, highwater - offsets.next_offset)
        return lags

    @property
    def trouble(self) -> Trouble | None:
        """Why no record will ever come again, which aiokafka itself never tells; None while all is well."""
        if (name := aiokafka_internals.ended_task(self.consumer)) is None:
            return None
        return Trouble(f"{name}_ended", f"the Kafka client's {name} task has ended")

    @property
    def is_joining(self) -> bool:
        """Not a member, although the coordinator can be reached."""
        return not self._joined and aiokafka_internals.knows_coordinator(self.consumer)

    def not_joined(self) -> str | None:
        """Why this member takes no records now; None when it does (be it of no partition)."""
        if not self._joined:
            return "not a member of the group yet"
        if not aiokafka_internals.knows_coordinator(self.consumer):
            return "the group's coordinator cannot be reached"
        gone = [name for name in self._topics.inputs if self.consumer.partitions_for_topic(name) is None]
        return f"topic {gone[0]!r} does not exist any more" if gone else None

    def retire(self) -> None:
        """Touch the ledger no more: another consumer takes over. Its books are closed by the caller."""
        self._retired = True
        self._joined = False

    async def stop(self) -> None:
        """Leave the group and disconnect. The caller bounds this: it can hang."""
        await self.consumer.stop()

    # Rebalances

    async def revoked(self, keys: frozenset[PartitionKey]) -> None:
        """Partitions are being taken away."""
        if self._retired:
            return
        self._joined = False
        try:
            if keys:
                await self._on_revoked(keys)
        finally:
            self._ledger.revoke(keys)

    async def assigned(self, keys: frozenset[PartitionKey]) -> None:
        """Partitions were given to us."""
        if self._retired:
            return
        self._observer.rebalanced()
        self._joined = True
        self._ledger.assign(keys)
        self._held.clear()
        if self._paused:
            self.consumer.pause(*self.consumer.assignment())
        names, epoch = numbers_of(keys), self._ledger.epoch
        log.info("assigned", topic=self._topics.queries, partitions=names, epoch=epoch)

    def fail(self, error: BaseException) -> None:
        """Keep a failure of the listener until the next fetch can raise it."""
        self._failure = error

    def _fenced(self) -> None:
        kafka = self._kafka
        self.fail(
            FencedError(
                f"another process has joined group {kafka.group_id!r} with kafka.group_instance_id = "
                f"{kafka.group_instance_id!r}, and has this one's partitions now: each instance needs an id "
                "of its own"
            )
        )

    def _raise_failure(self) -> None:
        if isinstance(self._failure, FivestageError):
            raise self._failure
        if self._failure is not None:
            raise BrokerError(f"a rebalance failed: {type(self._failure).__name__}") from self._failure


class _Listener(ConsumerRebalanceListener):
    """Passes rebalances on; aiokafka would swallow what they raise."""

    def __init__(self, source: Source) -> None:
        self._source = source

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        try:
            await self._source.revoked(frozenset(PartitionKey(*tp) for tp in revoked))
        except Exception as error:  # noqa: BLE001 - kept, see Source.fail
            self._source.fail(error)

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        try:
            await self._source.assigned(frozenset(PartitionKey(*tp) for tp in assigned))
        except Exception as error:  # noqa: BLE001 - kept, see Source.fail
            self._source.fail(error)


def _consumer_options(settings: Settings) -> dict[str, object]:
    kafka = settings.kafka
    return {
        **client_options(kafka),
        "group_id": kafka.group_id,
        "group_instance_id": kafka.group_instance_id,
        "enable_auto_commit": False,
        "auto_offset_reset": "none",
        "isolation_level": "read_committed",
        "client_rack": kafka.client_rack,
        "partition_assignment_strategy": (StickyPartitionAssignor,),
        "session_timeout_ms": kafka.session_timeout_ms,
        "heartbeat_interval_ms": kafka.heartbeat_interval_ms,
        "rebalance_timeout_ms": kafka.rebalance_timeout_ms,
        "fetch_max_wait_ms": kafka.fetch_max_wait_ms,
        "fetch_max_bytes": kafka.fetch_max_bytes,
        "max_partition_fetch_bytes": kafka.max_partition_fetch_bytes,
        "check_crcs": False,  # verified in batch_check.py
    }
