"""What aiokafka (0.14.0, pinned) does not show: whether its tasks live, what it reads, how to be rid of it.

All its private names that the service uses are used here, and stand in NAMES, which a test holds against this
module, and ``check`` against what is installed.
"""

from __future__ import annotations

import asyncio
import contextlib
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any, Final

import aiokafka
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.client import AIOKafkaClient
from aiokafka.cluster import ClusterMetadata
from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.consumer.fetcher import Fetcher
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.errors import UnknownMemberIdError
from aiokafka.producer.message_accumulator import MessageAccumulator

from fivestage._asyncio import ignore_result
from fivestage.errors import ConfigurationError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable, Iterator

    from aiokafka import TopicPartition

# ruff: noqa: SLF001 - the point of this module

FENCED_INSTANCE_ID: Final = 82
"""Kafka's error code, which aiokafka does not know."""
NAMES: Final[dict[type[Any], tuple[str, ...]]] = {
    AIOKafkaConsumer: ("_client", "_coordinator", "_fetcher", "_subscription"),
    AIOKafkaProducer: ("_message_accumulator", "_sender"),
    AIOKafkaClient: (
        "_bootstrap_servers",
        "_conns",
        "_md_update_fut",
        "_on_connection_closed",
        "_ssl_context",
        "_sync_task",
    ),
    AIOKafkaConnection: ("_requests",),
    Fetcher: ("_fetch_task", "_proc_fetch_request", "_records"),
    GroupCoordinator: (
        "_commit_refresh_task",
        "_coordination_task",
        "_do_commit_offsets",
        "_do_rejoin_group",
        "_heartbeat_task",
        "_perform_assignment",
        "_rejoin_needed_fut",
        "_send_req",
    ),
    ClusterMetadata: ("_last_successful_refresh_ms",),
    MessageAccumulator: ("_batches", "_pending_batches"),
}
"""Attributes and methods, by the class that has them."""


def check() -> None:
    """Make sure that the aiokafka that is installed has all of NAMES.

    Raises:
        ConfigurationError: it is a release with which this does not work.
    """
    missing = [
        f"{kind.__name__}.{name}"
        for kind, names in NAMES.items()
        for name in names
        if name not in _names_in(kind)
    ]
    if missing:
        raise ConfigurationError(
            f"aiokafka {aiokafka.__version__} does not work with this release, which needs {missing[0]}: "
            "install the version that it asks for"
        )


def _names_in(kind: type[Any]) -> set[str]:
    """The names of a class's methods, and those that their code mentions: its attributes are among them."""
    functions = [one for one in vars(kind).values() if isinstance(one, FunctionType)]
    return {*vars(kind), *(name for one in functions for name in one.__code__.co_names)}


def read_through(consumer: AIOKafkaConsumer, records: Callable[[bytes], object]) -> None:
    """Have *records* take the place of ``MemoryRecords`` for one consumer; others are left alone."""
    fetcher: Any = consumer._fetcher
    shared: Any = type(fetcher)._proc_fetch_request
    own = FunctionType(shared.__code__, {**shared.__globals__, "MemoryRecords": records})
    fetcher._proc_fetch_request = MethodType(own, fetcher)


def ended_task(consumer: AIOKafkaConsumer) -> str | None:
    """The name of a background task that has ended and should not have; aiokafka never tells.

    One that stays so: between the end of a "position" task and its successor the loop may turn once.
    """
    client: Any = consumer
    coordinator, subscription = client._coordinator, client._subscription.subscription
    if _is_done(client._fetcher._fetch_task):
        return "fetch"
    if _is_done(coordinator._coordination_task):
        return "group"
    if coordinator._rejoin_needed_fut.done():  # these two end before each rebalance, to be started anew
        return None
    if _is_done(coordinator._heartbeat_task) and coordinator.member_id:
        return "heartbeat"
    assignment = subscription.assignment if subscription is not None else None
    if _is_done(coordinator._commit_refresh_task) and assignment is not None and assignment.active:
        return "position"
    return None


def _is_done(task: asyncio.Task[None] | None) -> bool:
    return task is not None and task.done()


def knows_coordinator(consumer: AIOKafkaConsumer) -> bool:
    """Whether the group's coordinator is known, and was reached when it was last asked."""
    client: Any = consumer
    return client._coordinator.coordinator_id is not None


def commit_only_as_member(consumer: AIOKafkaConsumer) -> None:
    """Have commits fail, also while they are tried again, once the group has dropped this member.

    A commit of one that was dropped looks like that of a consumer outside of any group, and brokers take
    those while the group has no members: it would put back what others have committed since.

    An answer that comes late, to a commit of an earlier generation, says nothing about the one of now: the
    commit fails, and the member stays what it is. aiokafka would have it join again under another name.

    What comes of a commit that nothing waits for any more is no error: the committer has said that it
    was not answered in time. aiokafka leaves it behind in a task of its own.
    """
    coordinator: Any = consumer._coordinator
    send = coordinator._do_commit_offsets.__func__

    async def send_as_member(*args: Any) -> None:
        task = asyncio.current_task()
        if task is not None:
            task.add_done_callback(ignore_result)
        if coordinator.generation < 0:
            raise UnknownMemberIdError
        await send(_AsOfNow(coordinator), *args)

    coordinator._do_commit_offsets = send_as_member


class _AsOfNow:
    """The coordinator for one commit, which cannot end what the member is by the time it is answered."""

    def __init__(self, coordinator: Any) -> None:
        self._coordinator = coordinator
        self.known_generation = coordinator.generation

    def __getattr__(self, name: str) -> Any:
        return getattr(self._coordinator, name)

    def reset_generation(self) -> None:
        """The broker does not know the member, or its generation has ended."""
        if self._coordinator.generation == self.known_generation:
            self._coordinator.reset_generation()

    def request_rejoin(self) -> None:
        """The group is rebalancing."""
        if self._coordinator.generation == self.known_generation:
            self._coordinator.request_rejoin()


def when_fenced(consumer: AIOKafkaConsumer, call: Callable[[], None]) -> None:
    """Have *call* called when another process has taken the place of this static member.

    Brokers say so only to a member that joins as the one it was. aiokafka's heartbeats do not carry the
    instance id, so they are answered as those of an unknown member, which aiokafka takes for an expired
    session: it would join again, under no name, and take the place back, for ever.
    """
    coordinator: Any = consumer._coordinator
    reset, join, send = coordinator.reset_generation, coordinator._do_rejoin_group, coordinator._send_req
    joining = False

    def reset_unless_to_be_asked() -> None:
        if joining:
            reset()
        else:
            coordinator.generation = -1
            coordinator.request_rejoin()

    async def join_as_before(subscription: Any) -> Any:
        nonlocal joining
        joining = True
        try:
            return await join(subscription)
        finally:
            joining = False

    async def send_and_look(request: Any) -> Any:
        answer = await send(request)
        if getattr(answer, "error_code", 0) == FENCED_INSTANCE_ID:
            call()
        return answer

    coordinator.reset_generation = reset_unless_to_be_asked
    coordinator._do_rejoin_group = join_as_before
    coordinator._send_req = send_and_look


def let_leader_wait(consumer: AIOKafkaConsumer, wait_s: float) -> None:
    """Have this member, where it leads its group, hand out the partitions so much later."""
    coordinator: Any = consumer._coordinator
    assign = coordinator._perform_assignment

    async def assign_later(response: Any) -> Any:
        assignments = await assign(response)
        if len(assignments) > 1:
            await asyncio.sleep(wait_s)
        return assignments

    coordinator._perform_assignment = assign_later


def position_of(consumer: AIOKafkaConsumer, partition: TopicPartition) -> int | None:
    """The next offset to be handed out; None where it is not known (yet), or not assigned."""
    client: Any = consumer
    subscription = client._subscription.subscription
    assignment = subscription.assignment if subscription is not None else None
    state = assignment.state_value(partition) if assignment is not None else None
    return state.position if state is not None and state.has_valid_position else None


def has_fetched(consumer: AIOKafkaConsumer, partition: TopicPartition) -> bool:
    """Whether there is something of a partition that only waits to be handed out."""
    client: Any = consumer
    return partition in client._fetcher._records


async def end_offsets(
    consumer: AIOKafkaConsumer, partitions: list[TopicPartition], timeout_ms: int
) -> dict[TopicPartition, int]:
    """Where partitions end, for a reader of what is committed.

    Raises:
        KafkaError: the brokers do not say, or not in time.
    """
    fetcher: Any = consumer._fetcher
    ends: dict[TopicPartition, int] = await fetcher.end_offsets(partitions, timeout_ms)
    return ends


def brake_fetches(consumer: AIOKafkaConsumer, *, soon_s: float, pause_s: float) -> None:
    """Pause after a fetch that brings nothing and comes back soon, as one does that is refused.

    aiokafka asks again without a pause after most error codes, some thousand times a second. A fetch that
    finds nothing new is answered late, when its wait is over, and so is not slowed down.
    """
    fetcher: Any = consumer._fetcher
    fetch, clock = fetcher._proc_fetch_request, asyncio.get_running_loop().time

    async def fetch_or_pause(*args: Any) -> bool:
        started_at = clock()
        brought: bool = await fetch(*args)
        task = asyncio.current_task()
        is_cancelled = task is not None and task.cancelling() > 0
        if not (brought or is_cancelled) and clock() - started_at < soon_s:
            with contextlib.suppress(asyncio.CancelledError):  # as fetches do
                await asyncio.sleep(pause_s)
        return brought

    fetcher._proc_fetch_request = fetch_or_pause


def when_unanswered(consumer: AIOKafkaConsumer, call: Callable[[str, int], None]) -> None:
    """Have *call* called with the address of a broker that has not answered this consumer for too long."""
    client: Any = consumer._client
    forget = client._on_connection_closed

    def forget_and_tell(connection: Any, reason: CloseReason | None) -> None:
        forget(connection, reason)
        if reason is CloseReason.CONNECTION_TIMEOUT:
            call(connection.host, connection.port)

    client._on_connection_closed = forget_and_tell


def when_throttled(consumer: AIOKafkaConsumer, call: Callable[[float], None]) -> None:
    """Have *call* called with the seconds for which a broker's quotas make this consumer wait."""
    client: Any = consumer._client
    send = client.send

    async def send_and_tell(*args: Any, **options: Any) -> Any:
        answer = await send(*args, **options)
        if waits_ms := getattr(answer, "throttle_time_ms", 0):
            call(waits_ms / 1000)
        return answer

    client.send = send_and_tell


def hang_up(client: AIOKafkaClient, host: str, port: int) -> None:
    """Close the connections to a broker on which no answer is awaited; the next request makes another."""
    for connection in list(client._conns.values()):
        if (connection.host, connection.port) == (host, port) and not connection._requests:
            connection.close()


def client_of(consumer: AIOKafkaConsumer) -> Any:
    """Its connections, and what it knows about the cluster."""
    return consumer._client


def refreshed_at(client: Any) -> float:
    """When a broker last told the client about the cluster; any clock."""
    at: float = client.cluster._last_successful_refresh_ms
    return at


def refresh(client: Any) -> None:
    """Have the client ask about the cluster, unless it does."""
    client.force_metadata_update()


def use_certificates(client: Any, context: ssl.SSLContext | None) -> None:
    """For the connections that the client makes from now on."""
    client._ssl_context = context


def bootstrap_from(client: Any, find: Callable[[], Awaitable[str]]) -> None:
    """Have the client begin with the server that *find* returns.

    By itself it tries one bootstrap server after the other, each for as long as a request may take: one that
    accepts connections and says nothing costs as much as a whole start may.
    """

    async def bootstrap() -> None:
        client._bootstrap_servers = await find()
        await type(client).bootstrap(client)

    client.bootstrap = bootstrap


def cut(consumer: AIOKafkaConsumer) -> None:
    """End what ``stop`` has left of a consumer, without waiting: tasks, connections."""
    client: Any = consumer
    coordinator, fetcher = client._coordinator, client._fetcher
    tasks = [fetcher._fetch_task] if fetcher is not None else []
    if coordinator is not None:
        tasks += [
            coordinator._heartbeat_task,
            coordinator._commit_refresh_task,
            coordinator._coordination_task,
        ]
    for task in tasks:
        if task is not None:
            task.cancel()
    disconnect(client._client)


def cut_producer(producer: AIOKafkaProducer) -> None:
    """End what ``stop`` has left of a producer, without waiting: its batches are not acknowledged."""
    client: Any = producer
    accumulator, sender = client._message_accumulator, client._sender
    batches = list(_batches(accumulator))
    # The end of a batch that was tried before takes it out of there, and raises where it is not in.
    accumulator._pending_batches.update(batches)
    for batch in batches:
        batch.future.cancel()
    if sender is not None and sender.sender_task is not None:
        sender.sender_task.cancel()
    disconnect(client.client)


def _batches(accumulator: Any) -> Iterator[Any]:
    yield from list(accumulator._pending_batches)
    for batches in list(accumulator._batches.values()):
        yield from list(batches)


def disconnect(client: AIOKafkaClient) -> None:
    """End what ``close`` has left of a client, without waiting."""
    if client._sync_task is not None:
        client._sync_task.cancel()
    for connection in list(client._conns.values()):
        connection.close()


def is_refreshing(client: AIOKafkaClient) -> bool:
    """Whether it is finding out who leads which partition, for whatever reason."""
    return client._md_update_fut is not None
