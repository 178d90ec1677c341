"""Asks the cluster which topics it has, without aiokafka's consumer or producer."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from aiokafka.errors import KafkaConnectionError, KafkaError, RequestTimedOutError, for_code

from fivestage._asyncio import first_of
from fivestage.errors import ConfigurationError
from fivestage.kafka.connection.metadata_request import DescribeTopics
from fivestage.kafka.connection.preflight import ask, preflight

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from aiokafka.protocol.api import Request

    from fivestage.settings import KafkaSettings, Settings

_IS_INTERNAL: Final = 2
"""The index of ``is_internal`` in a topic of the response to DescribeTopics."""
_READ, _WRITE = 3, 4
"""Bits of a set of rights (Kafka's AclOperation codes)."""
_EMBEDDED_CLUSTER: Final = "mockCluster"
"""The prefix of the cluster id of librdkafka's mock; that of real brokers is 22 random characters."""
_RIGHTS_UNKNOWN: Final = -(2**31)
ANSWER_TIMEOUT_S: Final = 12.0
"""Seconds within which a broker must answer."""


@dataclass(frozen=True, slots=True)
class TopicInfo:
    """One topic as the cluster describes it."""

    name: str
    partitions: int
    error: str | None = None
    may_read: bool | None = None
    """None if the broker does not report rights."""
    may_write: bool | None = None
    cluster_id: str | None = None
    """None if the broker is too old to report it."""
    replicas: int = 0
    """The smallest number of replicas of a partition."""


async def describe(settings: Settings, names: Iterable[str] | None) -> dict[str, TopicInfo]:
    """Describe topics; if *names* is None, all that this principal may see, except Kafka's internal ones.

    Raises:
        ConfigurationError: no broker can be reached, or none answers.
    """
    try:
        response = await ask_any(settings, DescribeTopics(None if names is None else list(names)))
    except KafkaError as error:
        raise no_answer(settings, error) from None
    cluster_id = getattr(response, "cluster_id", None)
    wanted = [topic for topic in response.topics if names is not None or not topic[_IS_INTERNAL]]
    return {info.name: info for info in (_info(topic, cluster_id) for topic in wanted)}


async def ask_any(settings: Settings, request: Request[Any]) -> Any:
    """Send a request to all brokers at once; return the first answer.

    One broker is not enough: a lost broker is still advertised for a while.

    Raises:
        ConfigurationError: no bootstrap server can be reached, or no broker answers in time.
        KafkaError: no broker can be reached, or none supports the request.
    """
    reached = await preflight(settings.kafka)
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            return await first_of(
                [_ask_one(settings.kafka, host, port, request) for host, port in reached.brokers]
            )
    except TimeoutError:
        raise ConfigurationError(
            f"Kafka at {settings.kafka.bootstrap_servers} accepts connections but does not answer"
        ) from None


async def _ask_one(kafka: KafkaSettings, host: str, port: int, request: Request[Any]) -> Any:
    try:
        return await ask(kafka, host, port, request)
    except TimeoutError:
        raise RequestTimedOutError(f"no answer from {host}:{port}") from None
    except OSError as error:
        raise KafkaConnectionError(f"{host}:{port}: {error.strerror or type(error).__name__}") from None


def no_answer(settings: Settings, error: KafkaError) -> ConfigurationError:
    """Return the error for brokers that cannot be asked, or do not answer."""
    return ConfigurationError(
        f"cannot talk to Kafka at {settings.kafka.bootstrap_servers}: {error}. Check security_protocol, "
        "the credentials, and that this host can reach the addresses that the brokers advertise"
    )


def _info(topic: Any, cluster_id: str | None) -> TopicInfo:
    error_code, name, _, partitions, *rights = topic
    error = for_code(error_code).__name__ if error_code else None
    at = 4 if rights else 3  # the newer response has the leader's epoch before the replicas
    replicas = min((len(partition[at]) for partition in partitions), default=0)
    known = bool(rights) and rights[0] != _RIGHTS_UNKNOWN
    may_read, may_write = (bool(rights[0] >> bit & 1) if known else None for bit in (_READ, _WRITE))
    return TopicInfo(name, len(partitions), error, may_read, may_write, cluster_id, replicas)


def is_embedded(found: Mapping[str, TopicInfo]) -> bool:
    """Whether the embedded broker described these topics."""
    return any((info.cluster_id or "").startswith(_EMBEDDED_CLUSTER) for info in found.values())
