"""A member of the consumer group that replaces its consumer when it is broken.

Queries in flight are finished and committed first, as in a rebalance, if the old consumer still can commit.
The new consumer joins as another member and opens its partitions again in the ledger, so queries of the old
consumer that finish later move no offset.
"""

from __future__ import annotations

import asyncio
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, TypeVar

import structlog

from fivestage.core.ledger import PartitionKey
from fivestage.errors import BrokerError, FencedError, FivestageError
from fivestage.kafka import aiokafka_internals
from fivestage.kafka.connection.rebuild import Rebuilder
from fivestage.kafka.connection.rebuild_policy import ClientFault, Debounce, StallTracker
from fivestage.kafka.consumer.progress import ProgressWatch
from fivestage.kafka.consumer.source import Source

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence

    from aiokafka import AIOKafkaConsumer

    from fivestage.core.ledger import Ledger
    from fivestage.core.observer import Observer
    from fivestage.core.reachability import Reachability
    from fivestage.core.records import CorruptRecord, Record
    from fivestage.kafka.consumer.client import OnUnanswered
    from fivestage.kafka.consumer.source import MakeConsumer
    from fivestage.settings import Settings

JOINED_WITHIN_S = 120.0
"""Seconds that joining may take, or three times kafka.rebalance_timeout_ms where that is longer."""
LOG_WAIT_AFTER_S = 1.0
"""Seconds of joining after which the wait is logged; an ordinary rebalance takes less."""

T = TypeVar("T")

log = structlog.get_logger("fivestage.kafka.consumer.group_member")


class GroupMember:
    """Consumes the input topics as a member of a group, with one consumer after another.

    Args:
        settings: Where to connect and how.
        ledger: See Source.
        on_revoked: See Source; also awaited before a consumer is replaced.
        observer: See Source; also notified of every rebuild.
        on_unanswered: See Source.
        make_consumer: See Source.
        reach: Whether brokers can be reached.
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
        reach: Reachability,
    ) -> None:
        self._kafka = settings.kafka
        self._ledger = ledger
        self._on_revoked = on_revoked
        self._make_source = partial(
            Source,
            settings,
            ledger,
            on_revoked,
            observer,
            on_unanswered=on_unanswered,
            make_consumer=make_consumer,
        )
        self._source = self._make_source()
        self._rebuilder = Rebuilder("consumer", observer, reach)
        self.progress = ProgressWatch(ledger, self.mark_for_replacement)
        self._join_within_s = max(JOINED_WITHIN_S, 3 * settings.kafka.rebalance_timeout_ms / 1000)
        self.join_tracker = StallTracker(self._join_within_s)
        self._group = PartitionKey(settings.topics.queries, -1)
        """The key of the group in ``join_tracker``, whose keys are partitions."""
        self._joining_since: float | None = None
        """When the member started to wait for the group; infinite once the wait is logged."""
        self._to_replace: ClientFault | None = None
        self._debounce = Debounce()
        self._fetching: asyncio.Timeout | None = None
        """The timeout of the fetch in flight, without a limit until the consumer is found broken."""
        self._paused = False
        self._stopping = False
        self._replacing: asyncio.Task[Any] | None = None
        """The step of a rebuild that ``stop_rebuilding`` cancels."""
        self.fault: ClientFault | None = None
        """Why the consumer is being replaced, while it is."""

    def __repr__(self) -> str:
        return f"<GroupMember {self._source}{' being rebuilt' if self.fault else ''}>"

    @property
    def consumer(self) -> AIOKafkaConsumer:
        """The current consumer."""
        return self._source.consumer

    async def start(self) -> None:
        """See Source."""
        await self._source.start()

    async def fetch(self, max_records: int) -> Sequence[Record | CorruptRecord]:
        """Wait a little for records, or replace a broken consumer and return none. Do not cancel this.

        Raises:
            ConfigurationError: see Source.
            FencedError: another process has this static member's place.
            BrokerError: the consumer was rebuilt too often, or a new one cannot connect.
        """
        if self._paused:
            self.progress.reset()
        else:
            self.progress.check(self.consumer)
        fault = self._confirmed_fault()
        if fault is None:
            fetched = await self._fetch(max_records)
            if not isinstance(fetched, ClientFault):
                return fetched
            fault = fetched
        if not self._stopping:
            await self._rebuild(fault)
        return []

    async def _fetch(self, max_records: int) -> Sequence[Record | CorruptRecord] | ClientFault:
        """Fetch; returns the fault if the consumer must be replaced.

        A fetch of a broken consumer may never return, so ``look`` can end it.
        """
        try:
            async with asyncio.timeout(None) as scope:
                self._fetching = scope
                return await self._source.fetch(max_records)
        except TimeoutError:
            return self._current_fault() or ClientFault("timeout", "a fetch of the Kafka client timed out")
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            return self._current_fault() or ClientFault("cancelled", "the Kafka client has cancelled a fetch")
        except FencedError:
            raise  # a new consumer would take the place back, and be replaced in turn, for ever
        except BrokerError as error:
            return ClientFault(type(error.__cause__ or error).__name__, str(error))
        finally:
            self._fetching = None

    def look(self) -> None:
        """Check the consumer, and end the fetch in flight if it is broken.

        Called in each round of the HealthMonitor.
        """
        joining = self.fault is None and self._source.is_joining
        now = asyncio.get_running_loop().time()
        self._log_join(now, joining=joining)
        if self.join_tracker.update({self._group: None} if joining else {}, now):
            text = (
                "the group's coordinator answers, but the member has not joined for "
                f"{self._join_within_s:.0f} s"
            )
            self.mark_for_replacement(self.consumer, ClientFault("not_joined", text))
        fetching = self._fetching
        if fetching is not None and not fetching.expired() and self._confirmed_fault() is not None:
            fetching.reschedule(now)

    def _log_join(self, now: float, *, joining: bool) -> None:
        """Log once what joining waits for: a killed member keeps its place until its session ends."""
        if not joining:
            self._joining_since = None
        elif self._joining_since is None:
            self._joining_since = now
        elif now - self._joining_since >= LOG_WAIT_AFTER_S:
            self._joining_since = inf
            log.info(
                "waiting for the group",
                group=self._kafka.group_id,
                at_most_s=self._kafka.rebalance_timeout_ms / 1000,
                reason="running members finish their queries; the session of a killed one must time out",
            )

    def _confirmed_fault(self) -> ClientFault | None:
        """Why the consumer must be replaced. An ended task must be seen twice: aiokafka may restart it."""
        fault = self._source.fault
        now = asyncio.get_running_loop().time()
        is_confirmed = self._debounce.update(fault and fault.reason, now) is not None
        return self._to_replace or (fault if is_confirmed else None)

    def _current_fault(self) -> ClientFault | None:
        """The likely cause of a failed fetch: the failure itself confirms an ended task."""
        return self._to_replace or self._source.fault

    def mark_for_replacement(self, consumer: AIOKafkaConsumer, fault: ClientFault) -> None:
        """Replace *consumer* at the next fetch, unless it is being replaced or was replaced already."""
        if consumer is self.consumer and self.fault is None:
            self._to_replace = fault

    # Replacing the consumer

    def stop_rebuilding(self) -> None:
        """Make no new consumer and wait for none: the service stops. A retirement in progress is finished."""
        self._stopping = True
        if self._replacing is not None:
            self._replacing.cancel()

    async def _rebuild(self, fault: ClientFault) -> None:
        self.fault = fault
        await self._unless_stopping(self._rebuilder.permit(fault))
        if self._stopping:
            return
        await self._retire()
        connecting = self._rebuilder.connect(self._make_source, lambda source: source.start())
        source = await self._unless_stopping(connecting)
        if source is None:
            return
        self._source = source
        self._to_replace = self.fault = None
        self._debounce = Debounce()
        self.progress.reset()
        if self._stopping:
            await self._source.stop()
        elif self._paused:
            self._source.pauses.pause_all()

    async def _unless_stopping(self, step: Coroutine[Any, Any, T]) -> T | None:
        """Wait for a step of a rebuild; None if the service stops before the step has ended."""
        task = self._replacing = asyncio.ensure_future(step)
        if self._stopping:
            task.cancel()
        try:
            await asyncio.wait({task})
        finally:
            task.cancel()
            self._replacing = None
        return None if task.cancelled() and self._stopping else task.result()

    async def _retire(self) -> None:
        """Finish and commit what is in flight and leave the group, as far as the old consumer can."""
        old, keys = self._source, frozenset(self._ledger.partitions)
        try:
            if keys:
                await self._on_revoked(keys)
        except FivestageError as error:
            log.warning("not committed before the rebuild", error_type=type(error).__name__)
        finally:
            old.retire()
            self._ledger.revoke(frozenset(self._ledger.partitions))
        await self._rebuilder.stop(old)
        aiokafka_internals.abort_consumer(old.consumer)

    # The current source

    def pause(self) -> None:
        """Stop fetching; ``fetch`` must still be called, so that the group sees a live member."""
        self._paused = True
        self._source.pauses.pause_all()

    def resume(self) -> None:
        """Fetch again."""
        self._paused = False
        self._source.pauses.resume_all()

    def lag(self) -> dict[PartitionKey, int]:
        """See Source."""
        return self._source.lag()

    @property
    def unready(self) -> str | None:
        """See Source; the fault while the consumer is being replaced."""
        if self.fault is not None:
            return f"the consumer is being rebuilt: {self.fault.text}"
        return self._source.unready

    @property
    def halted(self) -> str | None:
        """See PartitionPauses."""
        return self._source.pauses.halted

    async def stop(self) -> None:
        """Leave the group and disconnect. This can hang: the caller limits it."""
        self.stop_rebuilding()
        await self._source.stop()
