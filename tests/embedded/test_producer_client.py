"""The producer's client on a mock broker: its producer id and its partitions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from aiokafka.errors import ClusterAuthorizationFailedError, UnknownTopicOrPartitionError

from fivestage.errors import ConfigurationError
from fivestage.kafka.producer.client import ProducerClient
from fivestage.settings import TopicSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from support.mock import Mock
    from support.publisher import Publisher

pytestmark = pytest.mark.broker
INIT_PRODUCER_ID, METADATA = 22, 3


@pytest.fixture
async def client(mock: Mock) -> AsyncIterator[ProducerClient]:
    """Build a client that was not started."""
    client = ProducerClient(bootstrap_servers=mock.bootstrap)
    yield client
    await client.stop()


@pytest.mark.parametrize("code", [7, 14, 15, 16, 51])
async def test_an_id_is_requested_until_it_is_issued(client: ProducerClient, mock: Mock, code: int) -> None:
    """Brokers that have just started cannot issue an id, so it is requested again."""
    mock.push(INIT_PRODUCER_ID, [code] * 2)
    await client.start()
    assert client.identity[0] >= 0
    assert mock.requests(INIT_PRODUCER_ID) == 3


async def test_each_client_has_an_id_of_its_own(client: ProducerClient, mock: Mock) -> None:
    """Each client has its own id, and numbers from 0."""
    other = ProducerClient(bootstrap_servers=mock.bootstrap)
    await client.start()
    await other.start()
    await other.stop()
    assert client.identity != other.identity
    assert client.numbers == {}


async def test_a_principal_that_gets_no_id(client: ProducerClient, mock: Mock) -> None:
    """A principal without the right to an id fails at once."""
    mock.push(INIT_PRODUCER_ID, [31])
    with pytest.raises(ClusterAuthorizationFailedError):
        await client.start()


async def test_a_service_that_gets_no_id(publisher: Publisher, mock: Mock) -> None:
    """The error names the right to grant."""
    await publisher.sink.stop()
    mock.push(INIT_PRODUCER_ID, [31])
    with pytest.raises(ConfigurationError, match="grant IdempotentWrite on the cluster"):
        await publisher.sink.start()


async def test_partitions_are_learned_in_one_request(client: ProducerClient, mock: Mock) -> None:
    """One request gets the partitions of all topics, which the client then tracks."""
    await client.start()
    before = mock.requests(METADATA)
    topics = TopicSettings().outputs.values()
    assert await client.partitions(topics, 10.0) == {topic: [0, 1, 2, 3] for topic in topics}
    assert mock.requests(METADATA) == before + 1


async def test_a_topic_that_does_not_come(client: ProducerClient) -> None:
    """A missing topic is awaited for the given time."""
    await client.start()
    client.client.cluster.partitions_for_topic = lambda _: None  # type: ignore[method-assign,assignment]
    with pytest.raises(UnknownTopicOrPartitionError):
        await client.partitions(["nowhere"], 0.0)
