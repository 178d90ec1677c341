"""The committer: the only one who commits, one commit at a time, each within a bound."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog
from aiokafka import TopicPartition
from aiokafka.errors import (
    CommitFailedError,
    IllegalStateError,
    KafkaError,
)

from fivestage._asyncio import wait_at_most
from fivestage.kafka.connection.connection import missing_right
from fivestage.kafka.connection.rebuild_policy import Trouble

if TYPE_CHECKING:
    from fivestage.core.ledger import Ledger
    from fivestage.core.observer import Observer
    from fivestage.kafka.consumer.group_member import GroupMember

log = structlog.get_logger("fivestage.kafka.consumer.committer")


class Committer:
    """Commits the contiguous finished prefix of every assigned partition.

    A commit that was not answered in time is *unknown*: the ledger stays as it is and the next commit
    carries newer positions. Brokers accept a commit for a partition that the member no longer owns, so a
    rebalance takes the same lock and waits for the commit under way.

    Args:
        member: The group member to commit as; it gets another consumer when a commit is refused.
        ledger: What is finished.
        interval_s: How long finished work may stay uncommitted.
        timeout_s: How long one commit may take.
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
        """Commit at every interval until cancelled.

        Raises:
            ConfigurationError: this principal may not commit.
        """
        while True:
            await asyncio.sleep(self._interval_s)
            await self.commit()

    async def commit(self, timeout_s: float | None = None) -> bool:
        """Commit what is finished now; whether everything finished is committed.

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
        """Send one commit; what went wrong, or None."""
        consumer = self._member.consumer
        try:
            task = await wait_at_most(timeout_s, consumer.commit(offsets))
            if not task.done():
                return "timeout"
            task.result()
        except (CommitFailedError, IllegalStateError) as error:
            return type(error).__name__  # the group has moved on: others will read this again
        except KafkaError as error:
            name, group_id = type(error).__name__, str(error.args[0] if error.args else "")
            refused = missing_right(error, topic=next(iter(offsets)).topic, group_id=group_id)
            if refused is not None:
                raise refused from error
            if not error.retriable:
                self._member.mark_for_replacement(
                    consumer, Trouble(name, f"commits are refused: {name}: {error}")
                )
            return name
        return None
