"""The client of a producer without transactions: connections, an id, and the numbers of its records."""

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
FOR_EVER_MS: Final = 2**31 - 1
PAUSE_S: Final = 0.1


class ProducerClient:
    """Made anew for each id: brokers refuse numbers that have a gap.

    Args:
        options: Those of AIOKafkaClient.
    """

    def __init__(self, **options: Any) -> None:
        self.client = AIOKafkaClient(**options)
        self.identity = (-1, -1)
        """The id and the epoch that the brokers have given it."""
        self.numbers: dict[TopicPartition, int] = defaultdict(int)
        """The number that the next record has, by partition."""

    def __repr__(self) -> str:
        return f"<ProducerClient {self.identity[0]}>"

    async def start(self) -> None:
        """Connect and get an id; the caller bounds this.

        Raises:
            KafkaError: no broker answers, or none gives an id to this principal.
        """
        await self.client.bootstrap()
        while (identity := await self._introduced()) is None:
            await self._look_again()
        self.identity = identity

    async def _introduced(self) -> tuple[int, int] | None:
        """An id from any broker; None where one must be asked again."""
        request = InitProducerIdRequest(NO_TRANSACTION, FOR_EVER_MS)
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

    async def _look_again(self) -> None:
        await self.client.force_metadata_update()
        await asyncio.sleep(PAUSE_S)

    async def partitions(self, topics: Collection[str], within_s: float) -> dict[str, list[int]]:
        """The partitions of topics, which the client watches from now on.

        Raises:
            KafkaError: a topic is not there, or must not be seen.
        """
        cluster, clock = self.client.cluster, asyncio.get_running_loop().time
        end = clock() + within_s
        await self.client.set_topics(topics)
        while missing := [topic for topic in topics if not cluster.partitions_for_topic(topic)]:
            if missing[0] in cluster.unauthorized_topics:
                raise TopicAuthorizationFailedError(missing[0])
            if clock() > end:
                raise UnknownTopicOrPartitionError(missing[0])
            await self._look_again()
        return {topic: sorted(cluster.partitions_for_topic(topic) or ()) for topic in topics}

    async def stop(self) -> None:
        """Disconnect."""
        await self.client.close()
