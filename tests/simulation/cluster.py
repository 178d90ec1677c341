"""What clients need to reach the simulated brokers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from .broker import Broker
    from .loop import Process
    from .network import Connection, Network
    from .trace import Trace


class Cluster(NamedTuple):
    """The brokers, the way to them, and one process that goes it."""

    broker: Broker
    network: Network
    trace: Trace
    process: Process


class Client:
    """What a consumer or a producer has its connections in; it knows all topics."""

    def __init__(self) -> None:
        self._sync_task = None
        self._conns: dict[Any, Connection] = {}
        self.cluster = self

    def _on_connection_closed(self, connection: object, reason: object) -> None:
        """Nothing to do."""

    async def send(self, *_: Any, **__: Any) -> Any:
        """What a consumer sends goes by its connections."""

    unauthorized_topics: frozenset[str] = frozenset()

    def partitions_for_topic(self, _: str) -> set[int]:
        """Each topic is there."""
        return {0}
