"""What a simulated consumer knows of its partitions; after aiokafka's subscription_state.py."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from aiokafka.errors import IllegalStateError

if TYPE_CHECKING:
    from aiokafka import TopicPartition


class RebalanceListener(Protocol):
    """What the consumer calls around a rebalance."""

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
        """Whether it is known where to read on."""
        return self.position is not None

    def seek(self, position: int) -> None:
        """Read on from there."""
        self.position = position
        self.awaiting_reset = False
        self.positioned.set()

    def reset(self) -> None:
        """Read on from the beginning, wherever that is."""
        self.position = None
        self.awaiting_reset = True
        self.positioned.clear()


class Assignment:
    """The partitions of one generation."""

    def __init__(self, partitions: list[TopicPartition]) -> None:
        self.states = {partition: PartitionState() for partition in partitions}
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def active(self) -> bool:
        """No other has taken its place."""
        return not self.ended.done()

    def state_value(self, partition: TopicPartition) -> PartitionState | None:
        """Of one partition, if it is in this assignment."""
        return self.states.get(partition)


class Subscription:
    """Which assignment holds, and who waits for the next one."""

    def __init__(self) -> None:
        self.listener: RebalanceListener | None = None
        self.subscribed = asyncio.Event()
        self.assignment: Assignment | None = None
        self.reassigning = True
        self._waiters: list[asyncio.Future[None]] = []
        self.fetch_waiters: set[asyncio.Future[None]] = set()

    @property
    def subscription(self) -> Subscription | None:
        """Itself: the object in which aiokafka keeps the assignment. None before it subscribes."""
        return self if self.listener is not None else None

    def subscribe(self, listener: RebalanceListener) -> None:
        """From now on the group is to be joined."""
        self.listener = listener
        self.subscribed.set()

    def assign(self, partitions: list[TopicPartition]) -> None:
        """A new assignment takes the place of the old one."""
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
        """Tell all who wait that there is no use in it."""
        for waiter in [*self._waiters, *self.fetch_waiters]:
            if not waiter.done():
                waiter.set_exception(error)

    def state(self, partition: TopicPartition) -> PartitionState:
        """Of one assigned partition.

        Raises:
            IllegalStateError: it is not assigned.
        """
        if self.assignment is None or partition not in self.assignment.states:
            raise IllegalStateError(f"No current assignment for partition {partition}")
        return self.assignment.states[partition]
