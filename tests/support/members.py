"""Sources and group members without a service: nothing is in flight when they give up partitions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiokafka import AIOKafkaConsumer

from fivestage.core.ledger import Ledger
from fivestage.core.observer import Observer
from fivestage.core.reachability import Reachability
from fivestage.kafka.consumer.group_member import GroupMember
from fivestage.kafka.consumer.source import Source

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fivestage.core.ledger import PartitionKey
    from fivestage.kafka.consumer.client import OnUnanswered
    from fivestage.kafka.consumer.source import MakeConsumer
    from fivestage.settings import Settings


async def drain_nothing(_: frozenset[PartitionKey]) -> None:
    """See Source."""


def ignore_unanswered(_host: str, _port: int) -> None:
    """See Source."""


def make_source(settings: Settings) -> Source:
    """Make a source that is not started."""
    return Source(
        settings,
        Ledger(max_span=1000),
        drain_nothing,
        Observer(),
        on_unanswered=ignore_unanswered,
        make_consumer=AIOKafkaConsumer,
    )


def make_member(
    settings: Settings,
    ledger: Ledger,
    *,
    on_revoked: Callable[[frozenset[PartitionKey]], Awaitable[None]] = drain_nothing,
    observer: Observer | None = None,
    on_unanswered: OnUnanswered = ignore_unanswered,
    make_consumer: MakeConsumer = AIOKafkaConsumer,
) -> GroupMember:
    """Make a group member that is not started."""
    return GroupMember(
        settings,
        ledger,
        on_revoked,
        observer or Observer(),
        on_unanswered=on_unanswered,
        make_consumer=make_consumer,
        reach=Reachability(),
    )
