"""Commits finished offsets: one commit at a time, each with a time limit. Nothing else commits."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog
from aiokafka import TopicPartition
from aiokafka.errors import CommitFailedError, KafkaError

from fivestage._asyncio import wait_at_most
from fivestage.kafka import aiokafka_internals
from fivestage.kafka.connection.connection import raise_if_forbidden
from fivestage.kafka.connection.rebuild_policy import ClientFault

if TYPE_CHECKING:
    from fivestage.core.ledger import Ledger
    from fivestage.core.observer import Observer
    from fivestage.kafka.consumer.group_member import GroupMember

log = structlog.get_logger("fivestage.kafka.consumer.committer")


class Committer:
    """Commits the finished prefix of every assigned partition.

    The outcome of a commit that times out is unknown: the ledger stays as it is, and the next commit carries
    the same or newer positions. Brokers accept a commit for a partition that the member no longer owns, so a
    rebalance commits under the same lock, after the commit in flight.

    Args:
        member: The group member to commit as; its consumer is replaced when a commit is rejected for good.
        ledger: Which offsets are finished.
        observer: Notified of every commit, also of a failed one.
        interval_s: Seconds from the end of a commit to the next one.
        timeout_s: Seconds that one commit may take.
    """

    def __init__(
        self,
        member: GroupMember,
        ledger: Ledger,
        observer: Observer,
        *,
        interval_s: float,
        timeout_s: float,
    ) -> None:
        self._member = member
        self._ledger = ledger
        self._observer = observer
        self._interval_s = interval_s
        self._timeout_s = timeout_s
        self._lock = asyncio.Lock()

    async def run(self) -> None:
        """Commit at every interval until cancelled; raises what ``commit`` raises."""
        while True:
            await asyncio.sleep(self._interval_s)
            await self.commit()

    async def commit(self, timeout_s: float | None = None) -> bool:
        """Commit the offsets that are finished now; False if the commit failed or has timed out.

        Raises:
            ConfigurationError: this principal may not commit.
        """
        async with self._lock:
            epoch, positions = self._ledger.epoch, self._ledger.committable()
            if not positions:
                return True
            loop = asyncio.get_running_loop()
            started_at = loop.time()
            offsets = {TopicPartition(*key): position for key, position in positions.items()}
            failure = await self._send(offsets, timeout_s or self._timeout_s)
            if failure is not None:
                self._observer.commit_failed(failure)
                log.warning("commit failed", error_type=failure, partitions=len(positions))
                return False
            self._ledger.note_committed(positions, epoch=epoch)
            self._observer.committed(len(positions), loop.time() - started_at)
            return True

    async def _send(self, offsets: dict[TopicPartition, int], timeout_s: float) -> str | None:
        """Send one commit; returns the reason of a failure, or None."""
        consumer = self._member.consumer
        try:
            task = await wait_at_most(timeout_s, aiokafka_internals.commit(consumer, offsets))
            if not task.done():
                return "timeout"
            task.result()
        except CommitFailedError as error:
            return type(error).__name__  # the new owners of the partitions read their records again
        except KafkaError as error:
            name, group_id = type(error).__name__, str(error.args[0] if error.args else "")
            raise_if_forbidden(error, topic=next(iter(offsets)).topic, group_id=group_id)
            if not error.retriable:
                fault = ClientFault(name, f"commits are rejected: {name}: {error}")
                self._member.mark_for_replacement(consumer, fault)
            return name
        return None
