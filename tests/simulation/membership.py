"""The group membership of a simulated consumer; after aiokafka's group_coordinator.py, await by await."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from aiokafka import TopicPartition
from aiokafka.errors import (
    CommitFailedError,
    GroupCoordinatorNotAvailableError,
    GroupLoadInProgressError,
    IllegalGenerationError,
    KafkaError,
    NotCoordinatorForGroupError,
    RebalanceInProgressError,
    UnknownMemberIdError,
)

from .broker import QUERIES
from .network import RETRY_BACKOFF_S, Connection

if TYPE_CHECKING:
    from aiokafka.structs import OffsetAndMetadata

    from .cluster import Cluster
    from .group import Joined
    from .subscription import Assignment, Subscription

COORDINATOR_MOVED = (GroupCoordinatorNotAvailableError, NotCoordinatorForGroupError)
GROUP_MOVED = (UnknownMemberIdError, IllegalGenerationError, RebalanceInProgressError)


class Membership:
    """Joins, sends heartbeats, commits and leaves.

    Args:
        cluster: Reaches the coordinator.
        subscription: Receives assignments.
        options: The options of AIOKafkaConsumer.
    """

    def __init__(self, cluster: Cluster, subscription: Subscription, options: dict[str, Any]) -> None:
        self._cluster = cluster
        self._group = cluster.broker.group
        self._subscription = subscription
        self._session_s = options["session_timeout_ms"] / 1000
        self._heartbeat_s = options["heartbeat_interval_ms"] / 1000
        self._rebalance_s = options["rebalance_timeout_ms"] / 1000
        self.connection = Connection(
            cluster.network, cluster.process.name, timeout_s=options["request_timeout_ms"] / 1000
        )
        loop = self._loop = asyncio.get_running_loop()
        self.generation = -1
        self.member_id = ""
        self.coordinator_id: int | None = None
        self._prepared = False
        self._rejoin_needed_fut: asyncio.Future[None] = loop.create_future()
        self._coordinator_dead: asyncio.Future[None] = loop.create_future()
        self._closing: asyncio.Future[None] = loop.create_future()
        self._lookup_lock = asyncio.Lock()
        self._commit_lock = asyncio.Lock()
        self._pending_error: Exception | None = None
        self._error_consumed: asyncio.Future[None] | None = None
        self._heartbeat_task: asyncio.Task[None] | None = None
        self._commit_refresh_task = None
        self._send_req = None  # the service has aiokafka's raise the errors that ``committed`` below knows
        self._coordination_task = loop.create_task(self._coordinate())

    def check_errors(self) -> None:
        """Raise errors of the background tasks."""
        if self._coordination_task.done():
            self._coordination_task.result()
        if self._error_consumed is not None:
            self._error_consumed.set_result(None)
            self._error_consumed = None
        if self._pending_error is not None:
            error, self._pending_error = self._pending_error, None
            raise error

    async def close(self) -> None:
        """Leave the group."""
        if self._closing.done():
            return
        self._closing.set_result(None)
        if not self._coordination_task.done():
            await self._coordination_task
        await self._stop_heartbeats()
        if self.generation > 0:
            with contextlib.suppress(KafkaError):
                await self._send("leave", self._group.leave, self.member_id)
        self._reset_generation()

    async def _send(self, what: str, handler: Any, *args: Any) -> Any:
        if self.coordinator_id is None:
            raise GroupCoordinatorNotAvailableError
        try:
            return await self.connection.call(what, handler, *args)
        except KafkaError:
            self._coordinator_is_dead()
            raise

    def _coordinator_is_dead(self) -> None:
        if self.coordinator_id is not None:
            self.coordinator_id = None
            self._coordinator_dead.set_result(None)

    def _reset_generation(self) -> None:
        self.generation = -1
        self.member_id = ""
        self._request_rejoin()

    def _request_rejoin(self) -> None:
        if not self._rejoin_needed_fut.done():
            self._rejoin_needed_fut.set_result(None)

    async def _ensure_coordinator(self) -> None:
        if self.coordinator_id is not None:
            return
        async with self._lookup_lock:
            while self.coordinator_id is None and not self._closing.done():
                try:
                    answer = await self.connection.call("find coordinator", lambda reply: reply(None))
                except KafkaError:
                    await asyncio.sleep(RETRY_BACKOFF_S)
                    continue
                if answer is not None:
                    await asyncio.sleep(RETRY_BACKOFF_S)
                    continue
                self.coordinator_id = 1
                self._coordinator_dead = self._loop.create_future()

    # Joining

    async def _coordinate(self) -> None:
        subscription = self._subscription
        while not self._closing.done():
            if not subscription.subscribed.is_set():
                waiting = self._loop.create_task(subscription.subscribed.wait())
                either: set[asyncio.Future[Any]] = {waiting, self._closing}
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
                waiting.cancel()
                continue
            try:
                await self._ensure_coordinator()
                needed = subscription.assignment is None or self._rejoin_needed_fut.done()
                if needed and not await self._join_once():
                    continue
            except KafkaError as error:
                await self._push(error)
                continue
            waited: set[Any] = {self._closing, self._coordinator_dead, self._rejoin_needed_fut}
            if self._heartbeat_task is not None:
                waited.add(self._heartbeat_task)
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            if self._heartbeat_task is not None and self._heartbeat_task.done():
                failure = self._heartbeat_task.exception()
                if failure is not None:
                    await self._push(failure)

    async def _push(self, error: Any) -> None:
        self._subscription.abort(error)
        self._pending_error = error
        self._error_consumed = self._loop.create_future()
        await asyncio.wait({self._error_consumed, self._closing}, return_when=asyncio.FIRST_COMPLETED)

    async def _join_once(self) -> bool:
        """Try once: give up the assignment, join, take the new one."""
        subscription = self._subscription
        if not self._prepared:
            subscription.reassigning = True
            revoked = set(subscription.assignment.states) if subscription.assignment is not None else set()
            self._cluster.trace.add(self._cluster.process.name, "revoking", *_numbers(revoked))
            await subscription.listener.on_partitions_revoked(revoked)  # type: ignore[union-attr]
            self._prepared = True
        await self._stop_heartbeats()
        assigned = await self._perform_join()
        if assigned is None:
            await asyncio.sleep(RETRY_BACKOFF_S)
            return False
        partitions = [TopicPartition(QUERIES, number) for number in sorted(assigned)]
        subscription.assign(partitions)
        await asyncio.sleep(0)  # for the task that refreshes committed positions to end
        self._cluster.trace.add(self._cluster.process.name, "assigned", *sorted(assigned))
        await subscription.listener.on_partitions_assigned(set(partitions))  # type: ignore[union-attr]
        self._prepared = False
        if self._heartbeat_task is None:
            self._heartbeat_task = self._loop.create_task(self._heartbeats())
        return True

    async def _perform_join(self) -> frozenset[int] | None:
        name = self._cluster.process.name
        args = (name, self.member_id, self._session_s, self._rebalance_s)
        try:
            joined: Joined | type[Exception] = await self._send("join", self._group.join, *args)
        except KafkaError:
            return None
        if isinstance(joined, type):
            self._on_refusal(joined)
            return None
        self.member_id, self.generation = joined.member_id, joined.generation
        self._rejoin_needed_fut = self._loop.create_future()
        asked = joined.member_id, joined.generation
        try:
            assigned: frozenset[int] | type[Exception] = await self._send("sync", self._group.sync, *asked)
        except KafkaError:
            self._request_rejoin()
            return None
        if isinstance(assigned, type):
            self._request_rejoin()
            self._on_refusal(assigned)
            return None
        self.member_id, self.generation = asked
        return assigned

    def _on_refusal(self, error: type[Exception]) -> None:
        """Handle an error of JoinGroup or SyncGroup."""
        if issubclass(error, COORDINATOR_MOVED):
            self._coordinator_is_dead()
        elif issubclass(error, (UnknownMemberIdError, IllegalGenerationError)):
            self._reset_generation()
        elif not issubclass(error, (GroupLoadInProgressError, RebalanceInProgressError)):
            raise KafkaError(repr(error()))

    # Heartbeats

    async def _stop_heartbeats(self) -> None:
        if self._heartbeat_task is not None:
            if not self._heartbeat_task.done():
                self._heartbeat_task.cancel()
                await self._heartbeat_task
            self._heartbeat_task = None

    async def _heartbeats(self) -> None:
        clock = self._loop.time
        last_ok, sleep_s = clock(), self._heartbeat_s
        while self.member_id:
            try:
                await asyncio.sleep(sleep_s)
                await self._ensure_coordinator()
                started_at = clock()
                success = await self._heartbeat()
            except asyncio.CancelledError:
                break
            if success:
                last_ok = clock()
                sleep_s = max(0.0, self._heartbeat_s - last_ok + started_at)
            else:
                sleep_s = RETRY_BACKOFF_S
            if clock() - last_ok > self._session_s:
                self._coordinator_is_dead()

    async def _heartbeat(self) -> bool:
        try:
            error = await self._send("heartbeat", self._group.heartbeat, self.member_id, self.generation)
        except KafkaError:
            return False
        if error is None:
            return True
        if error is RebalanceInProgressError:
            self._request_rejoin()
            return True
        if issubclass(error, COORDINATOR_MOVED):
            self._coordinator_is_dead()
        elif issubclass(error, (UnknownMemberIdError, IllegalGenerationError)):
            self._reset_generation()
        else:
            raise KafkaError(f"Unexpected exception in heartbeat task: {error()!r}")
        return False

    # Commits

    async def commit_offsets(self, _: None, offsets: dict[TopicPartition, OffsetAndMetadata]) -> None:
        """Commit, and retry retriable errors."""
        while True:
            await self._ensure_coordinator()
            try:
                async with self._commit_lock:
                    await asyncio.shield(self._do_commit_offsets(offsets))
            except GROUP_MOVED as error:
                raise CommitFailedError("the group has rebalanced") from error
            except KafkaError as error:
                if not error.retriable:
                    raise
                await asyncio.sleep(RETRY_BACKOFF_S)
            else:
                break

    async def _do_commit_offsets(self, offsets: dict[TopicPartition, OffsetAndMetadata]) -> None:
        positions = {partition.partition: offset.offset for partition, offset in offsets.items()}
        args = self.member_id, self.generation, positions  # the current generation, whatever it was then
        error = await self._send("commit", self._group.commit, *args)
        if error is None:
            return
        if issubclass(error, COORDINATOR_MOVED):
            self._coordinator_is_dead()
        elif error is RebalanceInProgressError:
            self._request_rejoin()
        elif issubclass(error, (UnknownMemberIdError, IllegalGenerationError)):
            self._reset_generation()
        raise error

    async def committed(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        """Return the group's positions; partitions without one are absent."""
        while True:
            await self._ensure_coordinator()
            try:
                found = await self._send("fetch committed", self._cluster.broker.fetch_committed, partitions)
            except KafkaError as error:
                if not error.retriable:
                    raise
            else:
                if not isinstance(found, type):
                    return dict(found)
                if found is NotCoordinatorForGroupError:
                    self._coordinator_is_dead()
                elif found is not GroupLoadInProgressError:
                    raise KafkaError(repr(found()))
            await asyncio.sleep(RETRY_BACKOFF_S)


def _numbers(partitions: set[TopicPartition]) -> list[int]:
    return sorted(partition.partition for partition in partitions)


def is_assigned(assignment: Assignment | None, partition: TopicPartition) -> bool:
    """Return whether a partition is in an assignment."""
    return assignment is not None and partition in assignment.states
