"""The connections, the producer id and the sequence numbers of an idempotent producer."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import (
    ConcurrentTransactions,
    KafkaError,
    NodeNotReadyError,
    NoError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
    for_code,
)
from aiokafka.protocol.transaction import InitProducerIdRequest

if TYPE_CHECKING:
    from collections.abc import Collection

    from aiokafka import TopicPartition

NO_TRANSACTION: Final[Any] = None
NO_TIMEOUT_MS: Final = 2**31 - 1
PAUSE_S: Final = 0.1


class ProducerClient:
    """A client with one producer id. Brokers reject a gap in the sequence numbers; then a new id is needed.

    Args:
        options: See AIOKafkaClient.
    """

    def __init__(self, **options: Any) -> None:
        self.client = AIOKafkaClient(**options)
        self.identity = (-1, -1)
        """The producer id and its epoch, assigned by a broker."""
        self.numbers: dict[TopicPartition, int] = defaultdict(int)
        """The sequence number of the next record, by partition."""

    def __repr__(self) -> str:
        return f"<ProducerClient {self.identity[0]}>"

    async def start(self) -> None:
        """Connect and get a producer id. The caller limits the time.

        Raises:
            KafkaError: no broker answers, or this principal may not get a producer id.
        """
        await self.client.bootstrap()
        while (identity := await self._request_id()) is None:
            await self._refresh_metadata()
        self.identity = identity

    async def _request_id(self) -> tuple[int, int] | None:
        """Request an id from any broker; None if that must be repeated."""
        request = InitProducerIdRequest(NO_TRANSACTION, NO_TIMEOUT_MS)
        try:
            answer: Any = await self.client.send(self.client.get_random_node(), request)
            error = for_code(answer.error_code)
        except NodeNotReadyError:
            return None
        except KafkaError as failure:
            if not failure.retriable:
                raise
            return None
        if error is NoError:
            return answer.producer_id, answer.producer_epoch
        if not (error.retriable or error is ConcurrentTransactions):
            raise error
        return None

    async def _refresh_metadata(self) -> None:
        await self.client.force_metadata_update()
        await asyncio.sleep(PAUSE_S)

    async def partitions(self, topics: Collection[str], within_s: float) -> dict[str, list[int]]:
        """Look up the partitions of topics, and keep their metadata current from now on.

        Raises:
            KafkaError: a topic does not exist, or this principal may not describe it.
        """
        cluster, clock = self.client.cluster, asyncio.get_running_loop().time
        end = clock() + within_s
        await self.client.set_topics(topics)
        while missing := [topic for topic in topics if not cluster.partitions_for_topic(topic)]:
            if missing[0] in cluster.unauthorized_topics:
                raise TopicAuthorizationFailedError(missing[0])
            if clock() > end:
                raise UnknownTopicOrPartitionError(missing[0])
            await self._refresh_metadata()
        return {topic: sorted(cluster.partitions_for_topic(topic) or ()) for topic in topics}

    async def stop(self) -> None:
        """Disconnect."""
        await self.client.close()
