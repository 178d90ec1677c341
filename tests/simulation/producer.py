"""The double of the producer's client, ``kafka/producer/producer_client.py``.

Private names that the service touches (``kafka/aiokafka_internals.py``) are those of aiokafka.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from aiokafka.errors import KafkaConnectionError, KafkaError
from aiokafka.record.default_records import DefaultRecordBatch

from .broker import Batch
from .cluster import Client
from .network import NO_FAULTS, Connection

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aiokafka import TopicPartition

    from fivestage.kafka.producer.produce_request import EventRequest

    from .cluster import Cluster


class SimProducer:
    """An idempotent producer, without the sending, which the real sender does.

    Args:
        cluster: The cluster.
        options: The options of AIOKafkaClient.
    """

    def __init__(self, cluster: Cluster, **options: Any) -> None:
        self._cluster = cluster
        self.client = _ProducingClient(cluster, options["request_timeout_ms"] / 1000)
        self.identity = (-1, -1)
        self.numbers: dict[TopicPartition, int] = defaultdict(int)

    async def start(self) -> None:
        """Connect, and get a producer id."""
        await self.client.look()
        connection = self.client.connection(None)
        self.identity = await connection.call("init producer", self._cluster.broker.init_producer), 0

    async def partitions(self, topics: Iterable[str], _: float) -> dict[str, list[int]]:
        """Return the partitions of topics."""
        return {topic: list(range(self._cluster.broker.output_partitions)) for topic in topics}

    async def stop(self) -> None:
        """Disconnect."""
        self.client.closed = True
        for connection in self.client._conns.values():
            connection.close()


class _ProducingClient(Client):
    """Caches the partition leaders of its last metadata request."""

    def __init__(self, cluster: Cluster, timeout_s: float) -> None:
        super().__init__()
        self._cluster = cluster
        self._timeout_s = timeout_s
        self._leaders: list[int] = []
        self._md_update_fut: asyncio.Task[None] | None = None
        self.closed = False

    def partitions_for_topic(self, _: str) -> set[int]:
        """Return the partitions of an output topic."""
        return set(range(self._cluster.broker.output_partitions))

    def leader_for_partition(self, place: TopicPartition) -> int:
        """Return the leader of a partition; -1 while there is none."""
        return self._leaders[place.partition]

    def force_metadata_update(self) -> asyncio.Future[None]:
        """Request metadata; done with its result or failure."""
        if self._md_update_fut is None:
            self._md_update_fut = asyncio.get_running_loop().create_task(self._try_to_look())
        return asyncio.shield(self._md_update_fut)

    async def _try_to_look(self) -> None:
        with contextlib.suppress(KafkaError):
            await self.look()
        self._md_update_fut = None

    async def look(self) -> None:
        """Request the leaders."""
        self._leaders = await self.connection(None).call("metadata", self._cluster.broker.leaders)

    def connection(self, to: int | None) -> Connection:
        """Return the connection to a broker; None = any broker, for shared metadata."""
        cluster, found = self._cluster, self._conns.get(to)
        if found is None:
            found = Connection(cluster.network, cluster.process.name, timeout_s=self._timeout_s)
            self._conns[to] = found
        return found

    async def send(self, broker: int, request: EventRequest) -> Any:
        """Send a request and wait for its response."""
        if self.closed:
            raise KafkaConnectionError
        network, brokers, who = self._cluster.network, self._cluster.broker, self._cluster.process.name
        if network.random.random() < network.faults.refused:
            brokers.move_leaders()
        batches = [_read(topic, *one) for topic, found in request._topics for one in found]
        said = await self.connection(broker).call("produce", brokers.produce, who, broker, batches)
        codes = said if isinstance(said, list) else [said.errno] * len(batches)
        if {10, 87} & {*codes} and network.faults is not NO_FAULTS:
            network.fatal.add(
                who
            )  # where a batch was sent before, that costs a producer, and too many end the service
        topics = [(*batch.at, code) for batch, code in zip(batches, codes, strict=True)]
        answers = [(topic, [(number, code)]) for topic, number, code in topics]
        return SimpleNamespace(topics=answers, throttle_time_ms=0)


def _read(topic: str, partition: int, data: bytes) -> Batch:
    """Parse a batch as a broker does."""
    batch = DefaultRecordBatch(data)
    records = [(one.key, one.value, one.headers) for one in batch]
    return Batch((topic, partition), batch.producer_id, batch.base_sequence, records, len(data))
