"""What clients need to reach the simulated brokers."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from .broker import Broker
    from .loop import Process
    from .network import Network
    from .trace import Trace


class Cluster(NamedTuple):
    """The brokers, the way to them, and one process that goes it."""

    broker: Broker
    network: Network
    trace: Trace
    process: Process
