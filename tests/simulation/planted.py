"""Mistakes planted in the real code one at a time: the simulation must find each."""

from __future__ import annotations

import asyncio
import re
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any
from unittest.mock import patch
from weakref import WeakKeyDictionary

from fivestage._deadline_timer import DeadlineTimer
from fivestage.core.ledger import Ledger, PartitionKey, PartitionOffsets
from fivestage.dispatch.screening import Screening
from fivestage.kafka import aiokafka_internals
from fivestage.kafka.consumer.committer import Committer
from fivestage.kafka.consumer.fetch_recovery import FetchRecovery
from fivestage.kafka.producer.sender import Sender
from fivestage.observability import tracing

from .tampered import TAMPERED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from aiokafka import TopicPartition
    from aiokafka.errors import KafkaError

    from fivestage.kafka.producer.partition_queue import PartitionQueue


class _NoLock:
    """A lock that never waits."""

    async def __aenter__(self) -> None:
        return

    async def __aexit__(self, *_: object) -> None:
        return


def stale_offsets() -> list[Any]:
    """The committer keeps the offsets of revoked partitions until the next assignment."""
    taken_away: WeakKeyDictionary[Ledger, dict[PartitionKey, PartitionOffsets]] = WeakKeyDictionary()
    assign_properly, revoke_properly = Ledger.assign, Ledger.revoke
    committable_properly = Ledger.committable

    def assign(ledger: Ledger, keys: frozenset[PartitionKey]) -> None:
        taken_away.pop(ledger, None)
        assign_properly(ledger, keys)

    def revoke(ledger: Ledger, keys: frozenset[PartitionKey]) -> None:
        books = taken_away.setdefault(ledger, {})
        books.update({key: book for key, book in ledger.partitions.items() if key in keys})
        revoke_properly(ledger, keys)

    def committable(ledger: Ledger) -> dict[PartitionKey, int]:
        found = committable_properly(ledger)
        for key, book in taken_away.get(ledger, {}).items():
            if ledger.offsets(key) is None and book.position not in (None, book.committed):
                found[key] = book.position
        return found

    return [
        patch.object(Ledger, "assign", assign),
        patch.object(Ledger, "revoke", revoke),
        patch.object(Ledger, "committable", committable),
    ]


def no_lock() -> list[Any]:
    """A rebalance does not wait for the running commit."""
    original = Committer.commit

    async def commit(committer: Committer, timeout_s: float | None = None) -> bool:
        committer._lock = _NoLock()  # type: ignore[assignment]
        return await original(committer, timeout_s)

    return [patch.object(Committer, "commit", commit)]


def highest_finished() -> list[Any]:
    """The highest finished offset is committed, whatever is unfinished below it."""
    original = PartitionOffsets.finish

    def finish(book: PartitionOffsets, offset: int) -> None:
        highest = max(book.position or 0, offset + 1)
        original(book, offset)
        book.position = highest

    return [patch.object(PartitionOffsets, "finish", finish)]


def no_seek_back() -> list[Any]:
    """After a failed fetch, partitions are not reset to the records handed over."""

    async def rewind(_recovery: FetchRecovery, _key: object) -> None:
        return

    return [patch.object(FetchRecovery, "_rewind", rewind)]


def acked_when_sent() -> list[Any]:
    """Events count as acknowledged when their batch is sent."""
    original = Sender._next

    def taken(sender: Sender, broker: int) -> list[PartitionQueue]:
        queues = original(sender, broker)
        for queue in queues:
            acknowledged, queue.in_flight = queue.in_flight, []
            sender._on_acked.__self__._acknowledge(acknowledged)  # type: ignore[attr-defined] # the sink's
        return queues

    return [patch.object(Sender, "_next", taken)]


def renumbered() -> list[Any]:
    """A retried batch gets new sequence numbers."""
    original = Sender._try_again

    def try_again(sender: Sender, queue: PartitionQueue, error: KafkaError) -> None:
        queue.requeue()
        queue.busy = True
        original(sender, queue, error)

    return [patch.object(Sender, "_try_again", try_again)]


def kept_over_a_rebalance() -> list[Any]:
    """A recovery also hands over records that it found before a rebalance."""

    async def recover(recovery: FetchRecovery, room: int) -> list[Any]:
        found: list[Any] = []
        keys = list(recovery._ledger.partitions)
        for key in keys:
            await recovery._rewind(key)
        for key in keys:
            if len(found) < room and key not in recovery._ledger.guard.halted:
                found += await recovery._read_alone(key, room - len(found))
        return [item for _, item in found]

    return [patch.object(FetchRecovery, "recover", recover)]


def commit_not_cancelled() -> list[Any]:
    """A timed-out commit is left to the client, which goes on retrying."""

    async def send(committer: Committer, offsets: dict[TopicPartition, int], timeout_s: float) -> str | None:
        sending = asyncio.ensure_future(committer._member.consumer.commit(offsets))
        sending.add_done_callback(lambda done: done.cancelled() or done.exception())
        done, _ = await asyncio.wait({sending}, timeout=min(timeout_s, 0.5))
        if not done:
            return "timeout"
        return None if sending.exception() is None else "error"

    return [patch.object(Committer, "_send", send)]


def dropped_member() -> list[Any]:
    """A commit is retried after the group has dropped its member, as one from outside."""
    return [patch.object(aiokafka_internals, "commit_only_as_member", lambda _: None)]


def one_too_far() -> list[Any]:
    """One record more than finished is committed."""
    original = Ledger.committable

    def committable(ledger: Ledger) -> dict[PartitionKey, int]:
        return {key: position + 1 for key, position in original(ledger).items()}

    return [patch.object(Ledger, "committable", committable)]


def ends_late() -> list[Any]:
    """An expired query runs on, or waits on, for ten milliseconds."""
    original = DeadlineTimer._set
    return [patch.object(DeadlineTimer, "_set", lambda timer, at: original(timer, at + 0.01))]


def deadlines_unread() -> list[Any]:
    """Deadlines of queries are ignored."""
    original = Screening.budget

    def budget(screening: Screening, record: Any, readable: Any, *times: float) -> Any:
        event = readable.event.model_copy(update={"deadline": None, "budget_ms": None})
        return original(screening, record, readable._replace(event=event), *times)

    return [patch.object(Screening, "budget", budget)]


def traces_broken() -> list[Any]:
    """Events start a new trace instead of the query's."""
    return [patch.object(tracing, "_TRACEPARENT", re.compile("none"))]


PLANTED: dict[str, Callable[[], list[Any]]] = {
    "stale-offsets": stale_offsets,
    "no-lock": no_lock,
    "highest-finished": highest_finished,
    "no-seek-back": no_seek_back,
    "acked-when-sent": acked_when_sent,
    "renumbered": renumbered,
    "commit-not-cancelled": commit_not_cancelled,
    "kept-over-a-rebalance": kept_over_a_rebalance,
    "dropped-member": dropped_member,
    "one-too-far": one_too_far,
    "ends-late": ends_late,
    "deadlines-unread": deadlines_unread,
    "traces-broken": traces_broken,
    **TAMPERED,
}


@contextmanager
def planted(name: str) -> Iterator[None]:
    """Run with one of the mistakes."""
    with ExitStack() as stack:
        for one in PLANTED[name]():
            stack.enter_context(one)
        yield
