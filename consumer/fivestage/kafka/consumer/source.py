"""Reads records from the input topics with one aiokafka consumer, as a member of a group.

What aiokafka 0.14.0 (pinned) does, and what is done about it:

Fetching

* A fetch that raises may have dropped records of other partitions, and raises again at every call:
  ``fetch_recovery`` seeks back, finds the unreadable record and passes over it.
* A batch is decompressed without a size limit, and the error for a broken one does not name its offsets:
  ``batch_check`` reads batches instead.
* After most error codes a fetch is repeated at once, thousands of times a second:
  ``aiokafka_internals.back_off_failed_fetches`` pauses.
* All fetches wait equally long: ``fetch_pacing`` chooses the wait of each.
* Cancelling a fetch disables ``max_poll_interval_ms`` for good: a fetch returns after FETCH_TIMEOUT_MS and is
  not cancelled, unless the consumer is broken and the fetch may never return (see ``group_member``).
* A consumer that is not polled for that time leaves the group, also where there is no partition to read:
  ``aiokafka_internals.count_as_poll`` stands for a poll then.
* Where a position is missing or out of range, reading starts elsewhere without a log line: ``offset_reset``
  chooses the position, logs it and counts it.
* With a pattern the assignment ends when other topics match, before partitions are revoked, and calls about
  them raise an AssertionError: ``assigned`` checks first, ``aiokafka_internals.commit`` still commits.
* A pause drops the records fetched ahead and is forgotten in every rebalance: ``pauses`` applies the
  pause again, and the poller pauses for long waits only.
* A partition may bring no records although all tasks run: ``progress`` compares positions with the brokers.

Membership of the group

* Exceptions of the rebalance listener are logged and ignored: here the next ``fetch`` raises them.
* A commit is retried after the group has dropped the member, and a late answer to a commit changes the state
  of a later generation: ``aiokafka_internals.commit_only_as_member`` prevents both.
* An error in place of the committed offsets is taken for a group without any:
  ``aiokafka_internals.check_committed_offsets`` raises it.
* A static member that is replaced takes its place back: ``aiokafka_internals.when_fenced`` reports it.
* A background task that has ended is not reported, and a consumer cannot be restarted:
  ``aiokafka_internals.ended_task`` detects it, and ``group_member`` makes a new consumer.
* ``stop`` may hang: it is bounded, and ``aiokafka_internals.abort_consumer`` ends what is left.

Connections

* Bootstrap servers are tried in turn, each for a whole request timeout: ``aiokafka_internals.bootstrap_from``
  uses the first that answers.
* Each client needs a whole request timeout to detect that its connection to a broker is dead:
  ``aiokafka_internals.when_unanswered`` lets the producer close its idle connections to the same broker.
* Throttling by quotas is not reported: ``client.when_throttled`` reports it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition

from fivestage.core.ledger import Ledger, PartitionKey, numbers_of
from fivestage.errors import BrokerError, FencedError, FivestageError
from fivestage.kafka import aiokafka_internals
from fivestage.kafka.connection.rebuild_policy import ClientFault
from fivestage.kafka.consumer.client import consumer_options, start_consumer
from fivestage.kafka.consumer.fetch_pacing import FetchPacing
from fivestage.kafka.consumer.fetch_recovery import FetchRecovery
from fivestage.kafka.consumer.offset_reset import LOST_POSITION, OffsetReset
from fivestage.kafka.consumer.pauses import PartitionPauses

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from fivestage.core.observer import Observer
    from fivestage.core.records import CorruptRecord, Record
    from fivestage.kafka.consumer.client import OnUnanswered
    from fivestage.settings import Settings

    MakeConsumer = Callable[..., AIOKafkaConsumer]

FETCH_TIMEOUT_MS = 200
"""Milliseconds that a fetch waits for records; the poller notices a stop within this time."""

log = structlog.get_logger("fivestage.kafka.consumer.source")


class Source(ConsumerRebalanceListener):
    """Consumes the input topics as a member of a group, with one consumer.

    Args:
        settings: Where to connect and how.
        ledger: Partitions are opened and closed in it, in step with the assignment.
        on_revoked: Awaited while partitions are being revoked, before they are closed in the ledger: finish,
            publish and commit what is in flight, well within the rebalance timeout.
        observer: Notified of rebalances, resets and throttling.
        on_unanswered: Called with host and port of a broker when a request to it timed out.
        make_consumer: Makes the aiokafka consumer; on the embedded broker another one.
    """

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        on_revoked: Callable[[frozenset[PartitionKey]], Awaitable[None]],
        observer: Observer,
        *,
        on_unanswered: OnUnanswered,
        make_consumer: MakeConsumer,
    ) -> None:
        self._kafka = settings.kafka
        self._topics = settings.topics
        self._ledger = ledger
        self._on_revoked = on_revoked
        self._observer = observer
        self._on_unanswered = on_unanswered
        self._failure: BaseException | None = None
        self._joined = False
        self._retired = False
        kafka = settings.kafka
        self.consumer = make_consumer(**consumer_options(kafka))
        self._pacing = FetchPacing(max_wait_ms=kafka.fetch_max_wait_ms, linger_ms=kafka.fetch_linger_ms)
        self.pauses = PartitionPauses(self.consumer, ledger)
        self._offset_reset = OffsetReset(self.consumer, ledger, observer, settings)
        self._recovery = FetchRecovery(
            self.consumer, ledger, self._register, settings, longest_fetch_ms=self._pacing.longest_ms
        )

    def __repr__(self) -> str:
        return f"<Source {self._topics.queries} {self._ledger}{' paused' if self.pauses.all_paused else ''}>"

    async def start(self) -> None:
        """Connect and subscribe; the first ``fetch`` joins the group.

        Raises:
            ConfigurationError, BrokerError: see ``client.start_consumer``.
        """
        await start_consumer(
            self.consumer,
            self._kafka,
            self._observer,
            on_unanswered=self._on_unanswered,
            on_fenced=self._fenced,
        )
        aiokafka_internals.pace_fetches(self.consumer, self._pacing)
        self._note(0)  # a start is not idle
        self.consumer.subscribe(self._topics.inputs, pattern=self._topics.pattern, listener=self)

    async def fetch(self, max_records: int) -> list[Record | CorruptRecord]:
        """Wait up to FETCH_TIMEOUT_MS for records, longer to recover from an error. Do not cancel this.

        Raises:
            ConfigurationError: this principal may not read the topic or use the group, or a position is
                missing and ``kafka.auto_offset_reset`` is ``error``.
            BrokerError: the consumer cannot go on.
        """
        self._raise_failure()
        self.pauses.update()
        partitions = {TopicPartition(*key) for key in self._ledger.within_span()}
        # Paused partitions deliver nothing, but while all are halted the group must still see polls.
        partitions = partitions or self.consumer.paused()
        if self._ledger.partitions and not partitions:
            aiokafka_internals.count_as_poll(self.consumer)
            await asyncio.sleep(FETCH_TIMEOUT_MS / 1000)
            return []
        try:
            fetched = await self.consumer.getmany(
                *partitions, timeout_ms=FETCH_TIMEOUT_MS, max_records=max_records
            )
        except LOST_POSITION as error:
            await self._offset_reset.restore(error)
            return []
        except Exception as error:  # noqa: BLE001 - a broken batch can make aiokafka raise anything
            self._raise_failure()
            if self._recovery.is_harmless(error):
                return []
            log.warning("fetch failed", error_type=type(error).__name__)
            return await self._recovery.recover(max_records)
        if fetched:
            self._note(sum(map(len, fetched.values())))
        return [record for records in fetched.values() for record in self._register(records)]

    def _note(self, records: int) -> None:
        self._pacing.note(records, asyncio.get_running_loop().time())

    def _register(self, records: Sequence[Record]) -> Sequence[Record]:
        """Open the offsets of records of one partition; returns none if the partition was lost meanwhile."""
        first = records[0]
        key = PartitionKey(first.topic, first.partition)
        offsets = self._ledger.offsets(key)
        if offsets is None or self._retired:  # once retired, the offsets belong to another consumer
            return []
        if offsets.next_offset is not None and first.offset < offsets.next_offset:
            where = {"topic": key.topic, "partition": key.partition, "offset": first.offset}
            log.warning("offsets went back", **where)
            self._ledger.assign(frozenset({key}))
            return self._register(records)
        for record in records:
            offsets.begin(record.offset)
        return records

    def lag(self) -> dict[PartitionKey, int]:
        """The number of records not yet handed over, by partition, as of the last fetch."""
        lags = {}
        # The metrics server calls this in another thread, while partitions may change.
        for key, offsets in list(self._ledger.partitions.items()):
            partition, next_offset = TopicPartition(*key), offsets.next_offset
            highwater = aiokafka_internals.highwater_of(self.consumer, partition)
            if highwater is not None and next_offset is not None:
                # The position passes what is never handed over: transaction markers and aborted records.
                position = aiokafka_internals.position_of(self.consumer, partition) or 0
                lags[key] = max(0, highwater - max(next_offset, position))
        return lags

    @property
    def fault(self) -> ClientFault | None:
        """Why the consumer must be replaced: a task of aiokafka has ended. None while all run."""
        if (name := aiokafka_internals.ended_task(self.consumer)) is None:
            return None
        return ClientFault(f"{name}_ended", f"the Kafka client's {name} task has ended")

    @property
    def is_joining(self) -> bool:
        """Whether this consumer is not a member of the group, although the coordinator can be reached."""
        return not self._joined and aiokafka_internals.knows_coordinator(self.consumer)

    @property
    def unready(self) -> str | None:
        """Why this member can receive no records now; None otherwise, even if no partition is assigned."""
        if not self._joined:
            return "not a member of the group yet"
        if not aiokafka_internals.knows_coordinator(self.consumer):
            return "the group's coordinator cannot be reached"
        gone = [name for name in self._topics.inputs if self.consumer.partitions_for_topic(name) is None]
        return f"topic {gone[0]!r} does not exist any more" if gone else None

    def retire(self) -> None:
        """Stop using the ledger, which another consumer takes over. The caller closes its partitions."""
        self._retired = True
        self._joined = False

    async def stop(self) -> None:
        """Leave the group and disconnect. This can hang: the caller limits it."""
        await self.consumer.stop()

    # Rebalances. aiokafka ignores exceptions of these two methods, so the next fetch raises them.

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        """Finish what is in flight for the partitions being revoked, then close them in the ledger."""
        if self._retired:
            return
        self._joined = False
        keys = frozenset(PartitionKey(*partition) for partition in revoked)
        try:
            try:
                if keys:
                    await self._on_revoked(keys)
            finally:
                self._ledger.revoke(keys)
        except Exception as error:  # noqa: BLE001 - raised by the next fetch
            self._failure = error

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        """Open the assigned partitions in the ledger: all that this member has now."""
        if self._retired:
            return
        keys = frozenset(PartitionKey(*partition) for partition in assigned)
        try:
            self._observer.rebalanced()
            self._joined = True
            self._ledger.assign(keys)
            self.pauses.reapply()
            names, epoch = numbers_of(keys), self._ledger.epoch
            log.info("assigned", topic=self._topics.queries, partitions=names, epoch=epoch)
        except Exception as error:  # noqa: BLE001 - raised by the next fetch
            self._failure = error

    def _fenced(self) -> None:
        kafka = self._kafka
        self._failure = FencedError(
            f"another process has joined group {kafka.group_id!r} with kafka.group_instance_id = "
            f"{kafka.group_instance_id!r} and now has the partitions of this one: give each process a "
            "different id"
        )

    def _raise_failure(self) -> None:
        if isinstance(self._failure, FivestageError):
            raise self._failure
        if self._failure is not None:
            raise BrokerError(f"a rebalance failed: {type(self._failure).__name__}") from self._failure
