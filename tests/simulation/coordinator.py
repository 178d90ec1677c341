"""How a simulated consumer reaches the group's coordinator, and commits; after aiokafka's, await by await."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

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

from .network import MOVED, RETRY_BACKOFF_S, Connection

if TYPE_CHECKING:
    from aiokafka import TopicPartition

    from .cluster import Cluster

GROUP_MOVED = (UnknownMemberIdError, IllegalGenerationError, RebalanceInProgressError)


class Coordinator:
    """The coordinator, as a member sees it.

    Args:
        cluster: Where it is.
        request_timeout_s: How long an answer is waited for.
    """

    def __init__(self, cluster: Cluster, request_timeout_s: float) -> None:
        self._cluster = cluster
        self._group = cluster.broker.group
        self._connection = Connection(cluster.network, cluster.process.name, timeout_s=request_timeout_s)
        self._loop = asyncio.get_running_loop()
        self.generation = -1
        self.member_id = ""
        self.coordinator_id: int | None = None
        self._rejoin: asyncio.Future[None] = self._loop.create_future()
        self._coordinator_dead: asyncio.Future[None] = self._loop.create_future()
        self._closing: asyncio.Future[None] = self._loop.create_future()
        self._lookup_lock = asyncio.Lock()
        self._commit_lock = asyncio.Lock()

    async def _send(self, what: str, handler: Any, *args: Any) -> Any:
        if self.coordinator_id is None:
            raise GroupCoordinatorNotAvailableError
        try:
            return await self._connection.call(what, handler, *args)
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
        if not self._rejoin.done():
            self._rejoin.set_result(None)

    async def _ensure_coordinator(self) -> None:
        if self.coordinator_id is not None:
            return
        async with self._lookup_lock:
            while self.coordinator_id is None and not self._closing.done():
                try:
                    answer = await self._connection.call("find coordinator", lambda reply: reply(None))
                except KafkaError:
                    await asyncio.sleep(RETRY_BACKOFF_S)
                    continue
                if answer is not None:
                    await asyncio.sleep(RETRY_BACKOFF_S)
                    continue
                self.coordinator_id = 1
                self._coordinator_dead = self._loop.create_future()

    # Commits

    async def commit(self, offsets: dict[TopicPartition, int]) -> None:
        """Commit, and try again for as long as there is hope."""
        while True:
            await self._ensure_coordinator()
            try:
                async with self._commit_lock:
                    await asyncio.shield(self._commit_once(offsets))
            except GROUP_MOVED as error:
                raise CommitFailedError("the group has rebalanced") from error
            except KafkaError as error:
                if not error.retriable:
                    raise
                await asyncio.sleep(RETRY_BACKOFF_S)
            else:
                break

    async def _commit_once(self, offsets: dict[TopicPartition, int]) -> None:
        positions = {partition.partition: offset for partition, offset in offsets.items()}
        args = self.member_id, self.generation, positions  # the generation of now, whatever it was then
        error = await self._send("commit", self._group.commit, *args)
        if error is None:
            return
        if issubclass(error, MOVED):
            self._coordinator_is_dead()
        elif error is RebalanceInProgressError:
            self._request_rejoin()
        elif issubclass(error, (UnknownMemberIdError, IllegalGenerationError)):
            self._reset_generation()
        raise error

    async def committed(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        """The group's positions; partitions without one are absent."""
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
