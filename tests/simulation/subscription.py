"""A simulated consumer's subscription; after aiokafka's subscription_state.py."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Protocol

from aiokafka.errors import IllegalStateError

if TYPE_CHECKING:
    from aiokafka import TopicPartition


class RebalanceListener(Protocol):
    """The callbacks of a consumer around a rebalance."""

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None: ...
    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None: ...


class PartitionState:
    """One assigned partition."""

    __slots__ = ("awaiting_reset", "highwater", "paused", "position", "positioned")

    def __init__(self) -> None:
        self.position: int | None = None
        self.highwater: int | None = None
        self.paused = False
        self.awaiting_reset = False
        self.positioned = asyncio.Event()

    @property
    def has_valid_position(self) -> bool:
        """Return whether the next offset is known."""
        return self.position is not None

    def seek(self, position: int) -> None:
        """Seek to an offset."""
        self.position = position
        self.awaiting_reset = False
        self.positioned.set()

    def reset(self) -> None:
        """Seek to the beginning, whose offset is unknown."""
        self.position = None
        self.awaiting_reset = True
        self.positioned.clear()


class Assignment:
    """The partitions of one generation."""

    def __init__(self, partitions: list[TopicPartition]) -> None:
        self.states = {partition: PartitionState() for partition in partitions}
        self.tps = frozenset(partitions)
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def active(self) -> bool:
        """Return whether no other has taken its place."""
        return not self.ended.done()

    def state_value(self, partition: TopicPartition) -> PartitionState | None:
        """Return a partition's state, if it is in this assignment."""
        return self.states.get(partition)


class Subscription:
    """The current assignment, and the waiters for the next one."""

    def __init__(self) -> None:
        self.listener: RebalanceListener | None = None
        self.subscribed = asyncio.Event()
        self.assignment: Assignment | None = None
        self.reassigning = True
        self._waiters: list[asyncio.Future[None]] = []
        self.fetch_waiters: set[asyncio.Future[None]] = set()

    @property
    def subscription(self) -> Subscription | None:
        """Return itself, as aiokafka keeps the assignment in an object; None before it subscribes."""
        return self if self.listener is not None else None

    def fetch_context(self) -> contextlib.nullcontext[None]:
        """Count a poll, for a limit that no schedule reaches."""
        return contextlib.nullcontext()

    def subscribe(self, listener: RebalanceListener) -> None:
        """Start to join the group."""
        self.listener = listener
        self.subscribed.set()

    def assign(self, partitions: list[TopicPartition]) -> None:
        """Replace the assignment."""
        if self.assignment is not None:
            self.assignment.ended.set_result(None)
        self.assignment = Assignment(partitions)
        self.reassigning = False
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def next_assignment(self) -> asyncio.Future[None]:
        """Wait for the next assignment, even if there is one."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        return waiter

    def abort(self, error: Exception) -> None:
        """Abort all waiters."""
        for waiter in [*self._waiters, *self.fetch_waiters]:
            if not waiter.done():
                waiter.set_exception(error)

    def state(self, partition: TopicPartition) -> PartitionState:
        """Return the state of an assigned partition.

        Raises:
            IllegalStateError: it is not assigned.
        """
        if self.assignment is None or partition not in self.assignment.states:
            raise IllegalStateError(f"No current assignment for partition {partition}")
        return self.assignment.states[partition]
