"""The member of the group: a source that is made anew when its consumer is beyond repair.

What is in flight is finished and committed before, as in every rebalance, where the old consumer still can.
The new one joins the group as another member, and gets new books: what the old one finishes moves nothing.
"""

from __future__ import annotations

import asyncio
from math import inf
from typing import TYPE_CHECKING, Any, TypeVar

import structlog
from aiokafka import AIOKafkaConsumer

from fivestage.core.ledger import PartitionKey
from fivestage.errors import BrokerError, FencedError, FivestageError
from fivestage.kafka import aiokafka_internals
from fivestage.kafka.connection.rebuild import STOP_S, Rebuilds, attempt_within
from fivestage.kafka.connection.rebuild_policy import Progress, Sightings, Trouble
from fivestage.kafka.consumer.progress import ProgressWatch
from fivestage.kafka.consumer.source import Source

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence

    from fivestage.core.ledger import Ledger
    from fivestage.core.observer import Observer
    from fivestage.core.reachability import Reachability
    from fivestage.core.records import CorruptRecord, Record
    from fivestage.kafka.consumer.source import MakeConsumer, OnUnanswered
    from fivestage.settings import Settings

JOINED_WITHIN_S = 120.0
"""A rebalance takes as long as kafka.rebalance_timeout_ms, or a few of them."""

LOG_WAIT_AFTER_S = 1.0
"""An ordinary rebalance takes less."""

T = TypeVar("T")

log = structlog.get_logger("fivestage.kafka.consumer.group_member")


class _BrokenError(BrokerError):
    """The consumer is beyond repair."""

    def __init__(self, trouble: Trouble) -> None:
        super().__init__(trouble.text)
        self.trouble = trouble


class GroupMember:
    """Consumes one topic as a member of a group, with one consumer after another.

    Args:
        settings: Where to connect and how.
        ledger: See Source.
        on_revoked: See Source; also awaited before a consumer is replaced.
        observer: Notified of every rebuild.
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
        on_unanswered: OnUnanswered = lambda _host, _port: None,
        make_consumer: MakeConsumer = AIOKafkaConsumer,
        reach: Reachability | None = None,
    ) -> None:
        self._on_unanswered = on_unanswered
        self._settings = settings
        self._make_consumer = make_consumer
        self._observer = observer
        self._ledger = ledger
        self._on_revoked = on_revoked
        self._source = self._make()
        self._rebuilds = Rebuilds("consumer", observer, reach)
        self.stalls = ProgressWatch(ledger, self.mark_for_replacement)
        self.joining = Progress(JOINED_WITHIN_S)
        self._group = PartitionKey(settings.topics.queries, -1)
        self._waits_since: float | None = None
        """When the wait for the group began; infinite once the log says so."""
        self._to_replace: Trouble | None = None
        self._sightings = Sightings()
        self._fetching: asyncio.Timeout | None = None
        """The limit of the fetch under way, which has none until it is of no use."""
        self._paused = False
        self._stopping = False
        self._replacing: asyncio.Task[Any] | None = None
        """The wait for a new consumer, which may be long."""
        self.trouble: Trouble | None = None
        """Why the consumer is being made anew, while it is."""

    def _make(self) -> Source:
        return Source(
            self._settings,
            self._ledger,
            self._on_revoked,
            self._observer,
            on_unanswered=self._on_unanswered,
            make_consumer=self._make_consumer,
        )

    def __repr__(self) -> str:
        return f"<GroupMember {self._source}{' being rebuilt' if self.trouble else ''}>"

    @property
    def consumer(self) -> AIOKafkaConsumer:
        """The consumer of the moment."""
        return self._source.consumer

    async def start(self) -> None:
        """See Source."""
        await self._source.start()

    async def fetch(self, max_records: int) -> Sequence[Record | CorruptRecord]:
        """Wait a little for records, or for a new consumer. Never cancel this; it returns by itself.

        Raises:
            ConfigurationError: this principal may not read the topic or use the group.
            FencedError: another process has taken this one's place.
            BrokerError: the consumer was rebuilt too often, or cannot be.
        """
        if self._paused:
            self.stalls.excuse()
        else:
            self.stalls.look(self.consumer)
        trouble = self._broken()
        if trouble is None:
            try:
                return await self._fetch(max_records)
            except _BrokenError as broken:
                trouble = broken.trouble
            except FencedError:
                raise  # a new consumer would take the place back, and so on
            except BrokerError as error:
                trouble = Trouble(type(error.__cause__ or error).__name__, str(error))
        if not self._stopping:
            await self._rebuild(trouble)
        return []

    async def _fetch(self, max_records: int) -> Sequence[Record | CorruptRecord]:
        """Fetch until ``look`` says that it is no use: some fetches of a broken consumer never return."""
        try:
            async with asyncio.timeout(None) as scope:
                self._fetching = scope
                return await self._source.fetch(max_records)
        except TimeoutError:
            trouble = self._cause()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            trouble = self._cause() or Trouble("cancelled", "the Kafka client has cancelled a fetch")
        finally:
            self._fetching = None
        raise _BrokenError(trouble or Trouble("timeout", "the Kafka client gave up a fetch"))

    def look(self) -> None:
        """End the fetch under way where its consumer is beyond repair; to be called twice a second."""
        waiting = self.trouble is None and self._source.is_joining
        now = asyncio.get_running_loop().time()
        self._log_wait(now, waiting=waiting)
        if self.joining.look({self._group: None} if waiting else {}, now):
            text = "the group's coordinator answers, but the group is not joined for long"
            self.mark_for_replacement(self.consumer, Trouble("not_joined", text))
        fetching = self._fetching
        if fetching is not None and not fetching.expired() and self._broken() is not None:
            fetching.reschedule(now)

    def _log_wait(self, now: float, *, waiting: bool) -> None:
        """Say once what a start waits for: brokers keep a killed member's place until its session ends."""
        if not waiting:
            self._waits_since = None
        elif self._waits_since is None:
            self._waits_since = now
        elif now - self._waits_since >= LOG_WAIT_AFTER_S:
            self._waits_since = inf
            log.info(
                "waiting for the group",
                group=self._settings.kafka.group_id,
                at_most_s=self._settings.kafka.rebalance_timeout_ms / 1000,
                reason="running members finish their queries; the session of a killed one must time out",
            )

    def _broken(self) -> Trouble | None:
        """Why the consumer is of no use, if it is: an ended task may be about to have a successor."""
        trouble = self._source.trouble
        now = asyncio.get_running_loop().time()
        stays = self._sightings.look(trouble and trouble.reason, now) is not None
        return self._to_replace or (trouble if stays else None)

    def _cause(self) -> Trouble | None:
        """Why a fetch has failed: what is seen now is reason enough."""
        return self._to_replace or self._source.trouble

    def mark_for_replacement(self, consumer: AIOKafkaConsumer, trouble: Trouble) -> None:
        """Have *consumer* replaced, unless it has been already."""
        if consumer is self.consumer and self.trouble is None:
            self._to_replace = trouble

    # Another consumer

    def stop_rebuilding(self) -> None:
        """The service ends: make no new consumer, and wait for none. An old one still commits first."""
        self._stopping = True
        if self._replacing is not None:
            self._replacing.cancel()

    async def _rebuild(self, trouble: Trouble) -> None:
        self.trouble = trouble
        await self._unless_stopping(self._rebuilds.permit(trouble))
        if self._stopping:
            return
        await self._retire()
        connecting = self._rebuilds.connected(self._make, lambda source: source.start())
        source = await self._unless_stopping(connecting)
        if source is None:
            return
        self._source = source
        self._to_replace = self.trouble = None
        self._sightings = Sightings()
        self.stalls.excuse()
        if self._stopping:
            await self._source.stop()
        elif self._paused:
            self._source.pause()

    async def _unless_stopping(self, step: Coroutine[Any, Any, T]) -> T | None:
        """Wait for a step of a rebuild; None when the service ends before it does."""
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
        """Finish, commit and leave, as far as the old consumer can; nothing of it counts afterwards."""
        old, keys = self._source, frozenset(self._ledger.partitions)
        try:
            if keys:
                await self._on_revoked(keys)
        except FivestageError as error:
            log.warning("not committed", error_type=type(error).__name__)
        finally:
            old.retire()
            self._ledger.revoke(frozenset(self._ledger.partitions))
        failure = await attempt_within(old.stop, STOP_S)
        if failure is not None:
            log.warning("left behind", part="consumer", cause=failure)
        aiokafka_internals.cut(old.consumer)

    # The source of the moment

    def pause(self) -> None:
        """See Source."""
        self._paused = True
        self._source.pause()

    def resume(self) -> None:
        """See Source."""
        self._paused = False
        self._source.resume()

    def lag(self) -> dict[PartitionKey, int]:
        """See Source."""
        return self._source.lag()

    def not_joined(self) -> str | None:
        """See Source."""
        if self.trouble is not None:
            return f"the consumer is being rebuilt: {self.trouble.text}"
        return self._source.not_joined()

    def held_up(self) -> str | None:
        """See Source."""
        return self._source.held_up()

    async def stop(self) -> None:
        """See Source."""
        self.stop_rebuilding()
        await self._source.stop()
