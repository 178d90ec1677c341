"""Access of clients to the simulated brokers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from aiokafka import TopicPartition

    from .broker import Broker
    from .loop import Process
    from .network import Connection, Network
    from .trace import Trace


class Cluster(NamedTuple):
    """The brokers, the network, and one process that uses it."""

    broker: Broker
    network: Network
    trace: Trace
    process: Process


class Client:
    """The connections of a consumer or a producer; it knows all topics."""

    def __init__(self) -> None:
        self._sync_task = None
        self._conns: dict[Any, Connection] = {}
        self.cluster = self

    def _on_connection_closed(self, connection: object, reason: object) -> None:
        """Do nothing."""

    def leader_for_partition(self, place: TopicPartition) -> int:  # noqa: ARG002
        """Return the same broker for all partitions of a consumer."""
        return 1

    async def send(self, *_: Any, **__: Any) -> Any:
        """Send a consumer's request over its connections."""

    unauthorized_topics: frozenset[str] = frozenset()

    def partitions_for_topic(self, _: str) -> set[int]:
        """Return the partitions: every topic exists."""
        return {0}
