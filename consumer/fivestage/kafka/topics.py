"""Topics: checked before anything is consumed, created where asked for."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResourceType
from aiokafka.errors import (
    KafkaConnectionError,
    KafkaError,
    RequestTimedOutError,
    TopicAlreadyExistsError,
    for_code,
)
from aiokafka.protocol.admin import DescribeConfigsRequest

from fivestage._asyncio import first_of
from fivestage.core.records import Output
from fivestage.errors import ConfigurationError
from fivestage.kafka.connection.metadata_request import DescribeTopics
from fivestage.kafka.connection.preflight import ask, preflight, reachable_options

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from aiokafka.protocol.api import Request

    from fivestage.settings import KafkaSettings, Settings

_IS_INTERNAL: Final = 2
"""Where a topic of a response to DescribeTopics says so."""
_READ, _WRITE = 3, 4
"""Bits of an AclOperation set (Kafka's AclOperation codes)."""
_EMBEDDED_CLUSTER: Final = "mockCluster"
"""How librdkafka's mock begins its cluster's id; those of real brokers are 22 random characters."""
EMBEDDED_PARTITIONS: Final = 4
"""What the embedded broker gives a topic that it creates for a client."""
BROKERS_DEFAULT: Final = -1
"""A replication factor: what the brokers' ``default.replication.factor`` says."""
_NOT_TOLD: Final = -(2**31)
_CHECK_TIMEOUT_S: Final = 12.0
_VISIBLE_TRIES: Final = 20
_VISIBLE_PAUSE_S: Final = 0.25
DEAD_LETTER_BYTES: Final = 2 * 1024 * 1024
BATCH_OVERHEAD_BYTES: Final = 100
"""What a batch of one record is larger than the record, rounded up."""


@dataclass(frozen=True, slots=True)
class TopicInfo:
    """What the cluster says of one topic."""

    name: str
    partitions: int
    error: str | None = None
    may_read: bool | None = None
    """None where the broker does not tell."""
    may_write: bool | None = None
    cluster_id: str | None = None
    """None where the broker is too old to tell."""
    replicas: int = 0
    """The fewest that a partition has."""


async def describe(settings: Settings, names: Iterable[str] | None) -> dict[str, TopicInfo]:
    """Look topics up; all that this principal may see, but those of Kafka itself, where *names* is None.

    Raises:
        ConfigurationError: no broker can be reached, or none answers.
    """
    try:
        response = await _ask(settings, DescribeTopics(None if names is None else list(names)))
    except KafkaError as error:
        raise _unanswered(settings, error) from None
    cluster_id = getattr(response, "cluster_id", None)
    wanted = [topic for topic in response.topics if names is not None or not topic[_IS_INTERNAL]]
    return {info.name: info for info in (_info(topic, cluster_id) for topic in wanted)}


async def _ask(settings: Settings, request: Request[Any]) -> Any:
    """Ask all brokers side by side: some may be away, or silent, and are listed for a while.

    Raises:
        ConfigurationError: no bootstrap server can be reached, or no broker answers in time.
        KafkaError: a broker does not know such requests, or none can be reached.
    """
    reached = await preflight(settings.kafka)
    try:
        async with asyncio.timeout(_CHECK_TIMEOUT_S):
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


def _unanswered(settings: Settings, error: KafkaError) -> ConfigurationError:
    return ConfigurationError(
        f"cannot talk to Kafka at {settings.kafka.bootstrap_servers}: {error}. Check security_protocol, "
        "the credentials, and that the addresses the brokers advertise are reached from here"
    )


def _info(topic: Any, cluster_id: str | None) -> TopicInfo:
    error_code, name, _, partitions, *rights = topic
    error = for_code(error_code).__name__ if error_code else None
    of_replicas = 4 if rights else 3  # the newer response has the leader's epoch before them
    replicas = min((len(partition[of_replicas]) for partition in partitions), default=0)
    if not rights or rights[0] == _NOT_TOLD:
        return TopicInfo(name, len(partitions), error, cluster_id=cluster_id, replicas=replicas)
    may_read, may_write = bool(rights[0] >> _READ & 1), bool(rights[0] >> _WRITE & 1)
    return TopicInfo(name, len(partitions), error, may_read, may_write, cluster_id, replicas)


def is_embedded(found: Mapping[str, TopicInfo]) -> bool:
    """Whether the broker that described these topics is the embedded one."""
    return any((info.cluster_id or "").startswith(_EMBEDDED_CLUSTER) for info in found.values())


async def check(settings: Settings) -> dict[str, TopicInfo]:
    """Make sure that all topics are there and may be used.

    Raises:
        ConfigurationError: one is missing or a right is; the text says what to do.
    """
    names, found = await look_up(settings)
    for name in names:
        problem = problem_of(found.get(name), name, is_input=settings.topics.is_input(name))
        if problem is not None:
            raise ConfigurationError(problem)
    return found


async def look_up(settings: Settings) -> tuple[tuple[str, ...], dict[str, TopicInfo]]:
    """The names of all topics, those that match a pattern too, and what the cluster says of them.

    Raises:
        ConfigurationError: no broker answers, or no topic matches the pattern.
    """
    topics = settings.topics
    found = await describe(settings, topics.all)
    if topics.pattern is None:
        return topics.all, found
    every = await describe(settings, None)
    matching = {name: every[name] for name in sorted(every) if topics.is_input(name)}
    if not matching:
        raise ConfigurationError(
            f"no topic that this principal may see matches topics.queries = {topics.pattern!r}: create one, "
            "or grant Describe on those that are there"
        )
    return (*matching, *topics.all), {**found, **matching}


def problem_of(info: TopicInfo | None, name: str, *, is_input: bool) -> str | None:
    """What stands in the way of using a topic, in one line; None when nothing does."""
    if (
        info is None
        or info.error == "UnknownTopicOrPartitionError"
        or (not info.error and not info.partitions)
    ):
        routing = 'create it with "fivestage topics create", or set topics.create = true'
        return f"topic {name!r} does not exist: {routing}"
    if info.error == "TopicAuthorizationFailedError":
        return f"not allowed to see topic {name!r}: grant Describe on it to this principal"
    if info.error is not None:
        return f"topic {name!r} cannot be used now: {info.error}"
    if is_input and info.may_read is False:
        return f"not allowed to read topic {name!r}: grant Read on it to this principal"
    if not is_input and info.may_write is False:
        return f"not allowed to write topic {name!r}: grant Write on it to this principal"
    return None


async def create(
    settings: Settings, *, partitions: int = 8, replication_factor: int = BROKERS_DEFAULT
) -> list[str]:
    """Create those topics that are named and missing; returns their names when they can be used.

    The embedded broker gives each EMBEDDED_PARTITIONS, whatever is asked for.

    Raises:
        ConfigurationError: the cluster refuses.
    """
    found = await describe(settings, settings.topics.all)
    if is_embedded(found):
        return await _create_on_embedded(settings, [name for name, info in found.items() if info.error])
    admin = AIOKafkaAdminClient(**await reachable_options(settings.kafka))
    # A dead letter is its record and six headers more: it must fit where its record did.
    roomy = {settings.topics.dead_letters: {"max.message.bytes": str(DEAD_LETTER_BYTES)}}
    # The client takes a default only with assignments, which may be none.
    nowhere: dict[int, list[int]] | None = {} if replication_factor == BROKERS_DEFAULT else None
    wanted = [
        NewTopic(name, partitions, replication_factor, nowhere, topic_configs=roomy.get(name))
        for name in settings.topics.all
    ]
    try:
        async with asyncio.timeout(_CHECK_TIMEOUT_S):
            await admin.start()
            response: Any = await admin.create_topics(wanted)
    except TimeoutError:
        raise ConfigurationError(f"Kafka at {settings.kafka.bootstrap_servers} does not answer") from None
    except (KafkaError, AttributeError) as error:
        raise ConfigurationError(f"cannot create topics: {type(error).__name__}: {error}") from None
    finally:
        await admin.close()
    created = _created(response.topic_errors)
    await _until_visible(settings, created)
    return created


async def _create_on_embedded(settings: Settings, names: list[str]) -> list[str]:
    """Ask for topics by their names: the embedded broker has no other way to create one."""
    if names:
        await _ask(settings, DescribeTopics(names, create=True))
    await _until_visible(settings, names)
    return names


def _created(answers: Iterable[tuple[str, int, str | None]]) -> list[str]:
    """The names of the topics that are new; aiokafka raises for none of the others."""
    created = []
    for name, code, message in answers:
        error = for_code(code)
        if code == 0:
            created.append(name)
        elif error is not TopicAlreadyExistsError:
            raise ConfigurationError(f"cannot create topic {name!r}: {error.__name__}: {message}")
    return created


async def _until_visible(settings: Settings, names: list[str]) -> None:
    """Wait until new topics have their partitions everywhere: brokers learn of them one after the other."""
    for _ in range(_VISIBLE_TRIES if names else 0):
        found = await describe(settings, names)
        if all(problem_of(found.get(name), name, is_input=False) is None for name in names):
            return
        await asyncio.sleep(_VISIBLE_PAUSE_S)


async def largest_records(settings: Settings) -> dict[Output, int]:
    """The largest record that each output topic takes, in bytes; the setting where the cluster does not say.

    Reading a topic's settings needs DescribeConfigs on it, a right that is useful but not required.

    Raises:
        ConfigurationError: no broker answers.
    """
    default = settings.kafka.max_record_bytes
    outputs = settings.topics.outputs
    sizes = await output_configs(settings, "max.message.bytes")
    told = {name: size - BATCH_OVERHEAD_BYTES for name, size in sizes.items()}
    limits = {output: min(default, told.get(name, default)) for output, name in outputs.items()}
    letters = outputs[Output.DEAD_LETTERS]
    return {**limits, Output.DEAD_LETTERS: told.get(letters, default)}


async def output_configs(settings: Settings, config: str) -> dict[str, int]:
    """A configuration of the output topics that is a number, as far as the cluster tells."""
    resources = [(ConfigResourceType.TOPIC, name, None) for name in settings.topics.outputs.values()]
    try:
        response = await _ask(settings, DescribeConfigsRequest(resources))
    except (KafkaConnectionError, RequestTimedOutError) as error:
        raise _unanswered(settings, error) from None
    except (KafkaError, AttributeError):  # a broker that does not know such requests
        return {}
    return {
        name: int(entry[1])
        for _, _, _, name, entries in response.resources
        for entry in entries
        if entry[0] == config
    }
