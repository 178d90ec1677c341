"""Checks and creates topics, without aiokafka's consumer or producer."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, NamedTuple

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

from fivestage.core.records import Output
from fivestage.errors import ConfigurationError
from fivestage.kafka.connection.metadata_request import DescribeTopics
from fivestage.kafka.connection.preflight import reachable_options
from fivestage.kafka.topic_info import ANSWER_TIMEOUT_S, ask_any, describe, is_embedded, no_answer

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from fivestage.kafka.topic_info import TopicInfo
    from fivestage.settings import Settings

EMBEDDED_PARTITIONS: Final = 4
"""Partitions that the embedded broker gives to a topic that a client creates."""
BROKERS_DEFAULT: Final = -1
"""A replication factor: the brokers use their ``default.replication.factor``."""
_VISIBLE_PAUSE_S: Final = 0.25
_CREATED_TRIES: Final = 20
_MISSING_TRIES: Final = 8
"""How often the start asks again for a topic that is missing: it may have been created a moment ago."""
DEAD_LETTER_BYTES: Final = 2 * 1024 * 1024
BATCH_OVERHEAD_BYTES: Final = 100
"""Bytes by which a batch of one record is larger than the record, rounded up."""


class RecordSizes(NamedTuple):
    """Bytes of the largest records that the output topics accept."""

    events: int
    """Accepted by each topic of events."""
    dead_letters: int


async def check(settings: Settings) -> dict[str, TopicInfo]:
    """Describe all topics of the service; waits up to 2 s for those that are missing.

    Raises:
        ConfigurationError: a topic or a right is missing, or no broker answers; the text says what to do.
    """
    names, found = await look_up(settings)
    if _has_missing(found, names):
        await _until_visible(settings, names, _MISSING_TRIES)
        names, found = await look_up(settings)
    for name in names:
        _raise_problem(found, name, is_input=settings.topics.is_input(name))
    return found


async def require(settings: Settings, names: Collection[str], *, is_input: bool) -> dict[str, TopicInfo]:
    """Describe topics that a command reads (*is_input*) or writes; raises as ``check`` does."""
    found = await describe(settings, names)
    for name in names:
        _raise_problem(found, name, is_input=is_input)
    return found


def _raise_problem(found: Mapping[str, TopicInfo], name: str, *, is_input: bool) -> None:
    problem = problem_of(found.get(name), name, is_input=is_input)
    if problem is not None:
        raise ConfigurationError(problem)


async def look_up(settings: Settings) -> tuple[tuple[str, ...], dict[str, TopicInfo]]:
    """Describe all topics of the service, including those that match the pattern; returns names and topics.

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
            "or grant Describe on the existing ones"
        )
    return (*matching, *topics.all), {**found, **matching}


def _has_missing(found: Mapping[str, TopicInfo], names: Iterable[str]) -> bool:
    """Whether a topic cannot be used because it does not exist, or not yet on the broker that was asked."""
    return any(_is_missing(info := found.get(name)) or _has_no_leader(info) for name in names)


def _is_missing(info: TopicInfo | None) -> bool:
    return (
        info is None
        or info.error == "UnknownTopicOrPartitionError"
        or (not info.error and not info.partitions)
    )


def _has_no_leader(info: TopicInfo | None) -> bool:
    return info is not None and info.error == "LeaderNotAvailableError"


def problem_of(info: TopicInfo | None, name: str, *, is_input: bool) -> str | None:
    """Why a topic cannot be used and what to do, in one line; None if it can."""
    if info is None or _is_missing(info):
        advice = 'create it with "fivestage topics create", or set topics.create = true'
        return f"topic {name!r} does not exist: {advice}"
    if info.error == "TopicAuthorizationFailedError":
        return f"not allowed to see topic {name!r}: grant Describe on it to this principal"
    if info.error is not None:
        return f"topic {name!r} cannot be used now: {info.error}"
    right, is_granted = ("read", info.may_read) if is_input else ("write", info.may_write)
    if is_granted is False:
        return f"not allowed to {right} topic {name!r}: grant {right.title()} on it to this principal"
    return None


async def create(
    settings: Settings, *, partitions: int = 8, replication_factor: int = BROKERS_DEFAULT
) -> list[str]:
    """Create the missing topics of the service; returns their names once they can be used, or after 5 s.

    The embedded broker gives each EMBEDDED_PARTITIONS, whatever *partitions* is.

    Raises:
        ConfigurationError: no broker answers, or the cluster does not create a topic.
    """
    found = await describe(settings, settings.topics.all)
    if is_embedded(found):
        created = [name for name, info in found.items() if info.error]
        if created:  # metadata requests are how the embedded broker creates topics
            await ask_any(settings, DescribeTopics(created, create=True))
    else:
        created = await _create_on_cluster(settings, partitions, replication_factor)
    if created:
        await _until_visible(settings, created, _CREATED_TRIES)
    return created


async def _create_on_cluster(settings: Settings, partitions: int, replication_factor: int) -> list[str]:
    admin = AIOKafkaAdminClient(**await reachable_options(settings.kafka))
    # A dead letter is larger than its record, by six headers, so its topic must accept larger records.
    larger = {settings.topics.dead_letters: {"max.message.bytes": str(DEAD_LETTER_BYTES)}}
    # aiokafka accepts the default replication factor only with replica assignments, which may be empty.
    assignments: dict[int, list[int]] | None = {} if replication_factor == BROKERS_DEFAULT else None
    wanted = [
        NewTopic(name, partitions, replication_factor, assignments, topic_configs=larger.get(name))
        for name in settings.topics.all
    ]
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            await admin.start()
            response: Any = await admin.create_topics(wanted)
    except TimeoutError:
        raise ConfigurationError(f"Kafka at {settings.kafka.bootstrap_servers} does not answer") from None
    except (KafkaError, AttributeError) as error:
        raise ConfigurationError(f"cannot create topics: {type(error).__name__}: {error}") from None
    finally:
        await admin.close()
    return _created(response.topic_errors)


def _created(answers: Iterable[tuple[str, int, str | None]]) -> list[str]:
    """The names of the new topics; raises for a topic that was not created, as aiokafka does not."""
    created = []
    for name, code, message in answers:
        error = for_code(code)
        if code == 0:
            created.append(name)
        elif error is not TopicAlreadyExistsError:
            raise ConfigurationError(f"cannot create topic {name!r}: {error.__name__}: {message}")
    return created


async def _until_visible(settings: Settings, names: Collection[str], tries: int) -> None:
    """Wait a few seconds until new topics can be used: the brokers create them one after the other."""
    for _ in range(tries):
        if not _has_missing(await describe(settings, names), names):
            return
        await asyncio.sleep(_VISIBLE_PAUSE_S)


async def largest_records(settings: Settings) -> RecordSizes:
    """Ask for the largest records that the output topics accept.

    At most ``kafka.max_record_bytes``, except for dead letters; that setting where the limit cannot be read.

    Reading a topic's configuration needs the right DescribeConfigs, which is optional.

    Raises:
        ConfigurationError: no broker answers.
    """
    default = settings.kafka.max_record_bytes
    outputs = settings.topics.outputs
    sizes = await output_configs(settings, "max.message.bytes")
    known = {name: size - BATCH_OVERHEAD_BYTES for name, size in sizes.items()}
    letters = outputs.pop(Output.DEAD_LETTERS)
    events = min(default, *(known.get(name, default) for name in outputs.values()))
    return RecordSizes(events, known.get(letters, default))


async def output_configs(settings: Settings, config: str) -> dict[str, int]:
    """A numeric configuration of the output topics, as far as this principal may read it."""
    resources = [(ConfigResourceType.TOPIC, name, None) for name in settings.topics.outputs.values()]
    try:
        response = await ask_any(settings, DescribeConfigsRequest(resources))
    except (KafkaConnectionError, RequestTimedOutError) as error:
        raise no_answer(settings, error) from None
    except (KafkaError, AttributeError):  # the broker does not support the request
        return {}
    return {
        name: int(entry[1])
        for _, _, _, name, entries in response.resources
        for entry in entries
        if entry[0] == config
    }
