"""All uses of aiokafka's private names: task health, corrections of its behaviour, forced disconnects.

Written for aiokafka 0.14.0, which is pinned. ``aiokafka_check`` lists the names and checks the installed
version for them. ``consumer/source.py`` says why each correction is needed.
"""

from __future__ import annotations

import asyncio
import contextlib
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any, Final

from aiokafka.conn import CloseReason
from aiokafka.errors import (
    GroupAuthorizationFailedError,
    GroupCoordinatorNotAvailableError,
    NotCoordinatorForGroupError,
    UnknownMemberIdError,
    for_code,
)
from aiokafka.protocol.commit import OffsetFetchRequest
from aiokafka.structs import OffsetAndMetadata

from fivestage._asyncio import ignore_result

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable, Mapping

    from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

    from fivestage.kafka.consumer.fetch_pacing import FetchPacing

# ruff: noqa: SLF001 - the point of this module

FENCED_INSTANCE_ID: Final = 82  # Kafka's error code, which aiokafka does not define


def use_record_reader(consumer: AIOKafkaConsumer, reader: Callable[[bytes], object]) -> None:
    """Parse the fetched bytes of one consumer with *reader* instead of aiokafka's ``MemoryRecords``."""
    fetcher: Any = consumer._fetcher
    original: Any = type(fetcher)._proc_fetch_request
    function = FunctionType(original.__code__, {**original.__globals__, "MemoryRecords": reader})
    fetcher._proc_fetch_request = MethodType(function, fetcher)


def pace_fetches(consumer: AIOKafkaConsumer, pacing: FetchPacing) -> None:
    """Let *pacing* choose the wait of each fetch that is about to be sent; aiokafka has one for all."""
    fetcher: Any = consumer._fetcher
    plan, fetch, clock = (
        fetcher._get_actions_per_node,
        fetcher._proc_fetch_request,
        asyncio.get_running_loop().time,
    )
    leader_of = client_of(consumer).cluster.leader_for_partition

    def plan_with_wait(assignment: Any) -> Any:
        brokers = len({leader_of(partition) for partition in assignment.tps})
        fetcher._fetch_min_bytes, fetcher._fetch_max_wait_ms = pacing.wait(clock(), brokers)
        return plan(assignment)

    async def fetch_and_note(*args: Any) -> bool:
        brought_records: bool = await fetch(*args)
        pacing.note_fetch(brought_records=brought_records)
        return brought_records

    fetcher._get_actions_per_node = plan_with_wait
    fetcher._proc_fetch_request = fetch_and_note


def back_off_failed_fetches(consumer: AIOKafkaConsumer, *, pause_s: float) -> None:
    """Pause after each fetch that returns no records in less than half its wait, as a rejected one does.

    After most error codes aiokafka fetches again at once, thousands of times a second. A fetch that waits for
    new records returns after its full wait, so it is not slowed down.
    """
    fetcher: Any = consumer._fetcher
    fetch, clock = fetcher._proc_fetch_request, asyncio.get_running_loop().time

    async def fetch_then_pause(*args: Any) -> bool:
        started_at, soon_s = clock(), fetcher._fetch_max_wait_ms / 1000 / 2
        has_records: bool = await fetch(*args)
        task = asyncio.current_task()
        is_cancelled = task is not None and task.cancelling() > 0
        if not (has_records or is_cancelled) and clock() - started_at < soon_s:
            with contextlib.suppress(asyncio.CancelledError):  # aiokafka's fetches return when cancelled
                await asyncio.sleep(pause_s)
        return has_records

    fetcher._proc_fetch_request = fetch_then_pause


def position_of(consumer: AIOKafkaConsumer, partition: TopicPartition) -> int | None:
    """The offset of the next record to hand over; None while it is unknown or the partition not assigned."""
    state = _state_of(consumer, partition)
    return state.position if state is not None and state.has_valid_position else None


def highwater_of(consumer: AIOKafkaConsumer, partition: TopicPartition) -> int | None:
    """The end of a partition as of the last fetch; None while it is unknown or the partition not assigned."""
    state = _state_of(consumer, partition)
    return None if state is None else state.highwater


def _state_of(consumer: AIOKafkaConsumer, partition: TopicPartition) -> Any:
    """What is known of a partition; None if it is not assigned. May be called in another thread."""
    client: Any = consumer
    subscription = client._subscription.subscription
    assignment = subscription.assignment if subscription is not None else None
    return assignment.state_value(partition) if assignment is not None else None


def count_as_poll(consumer: AIOKafkaConsumer) -> None:
    """Let the group see a poll although nothing is fetched."""
    client: Any = consumer
    with client._subscription.fetch_context():
        pass


def has_buffered(consumer: AIOKafkaConsumer, partition: TopicPartition) -> bool:
    """Whether fetched records of a partition wait to be handed over."""
    client: Any = consumer
    return partition in client._fetcher._records


async def end_offsets(
    consumer: AIOKafkaConsumer, partitions: list[TopicPartition], timeout_ms: int
) -> dict[TopicPartition, int]:
    """Look up the ends of partitions as ``consumer.end_offsets`` does, but with *timeout_ms*."""
    fetcher: Any = consumer._fetcher
    ends: dict[TopicPartition, int] = await fetcher.end_offsets(partitions, timeout_ms)
    return ends


def ended_task(consumer: AIOKafkaConsumer) -> str | None:
    """The name of a background task that ended although the consumer is in use; aiokafka does not report it.

    Act only on an answer that persists: aiokafka may replace an ended "position" task one round later.
    """
    client: Any = consumer
    coordinator, subscription = client._coordinator, client._subscription.subscription
    if _is_done(client._fetcher._fetch_task):
        return "fetch"
    if _is_done(coordinator._coordination_task):
        return "group"
    if coordinator._rejoin_needed_fut.done():  # a rebalance ends the two below, and restarts them
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
    """Whether the group's coordinator is known and answered the last request."""
    client: Any = consumer
    return client._coordinator.coordinator_id is not None


async def commit(consumer: AIOKafkaConsumer, offsets: Mapping[TopicPartition, int]) -> None:
    """Commit offsets of partitions that have not been revoked.

    With a pattern ``consumer.commit`` refuses them from the moment when other topics match, until the member
    has rejoined: aiokafka gives up the assignment before the partitions are revoked.
    """
    coordinator: Any = consumer._coordinator
    await coordinator.commit_offsets(None, {key: OffsetAndMetadata(at, "") for key, at in offsets.items()})


def check_committed_offsets(consumer: AIOKafkaConsumer) -> None:
    """Raise the errors with which brokers answer a request for committed offsets as a whole.

    While a coordinator loads the group, and after it has moved, the answer is one error and no partition.
    aiokafka reads the errors of partitions only: it would take that for a group without committed offsets,
    and all records would be read again or, from the end, none of them. After the errors raised here it tries
    again.
    """
    coordinator: Any = consumer._coordinator
    send = coordinator._send_req

    async def send_and_check(request: Any) -> Any:
        answer = await send(request)
        code = getattr(answer, "error_code", 0) if isinstance(request, OffsetFetchRequest) else 0
        if not code:
            return answer
        error: Any = for_code(code)
        if error in {GroupCoordinatorNotAvailableError, NotCoordinatorForGroupError}:
            coordinator.coordinator_dead()
        raise error(coordinator.group_id) if error is GroupAuthorizationFailedError else error()

    coordinator._send_req = send_and_check


def commit_only_as_member(consumer: AIOKafkaConsumer) -> None:
    """Make commits fail, retries included, once the group has dropped this member.

    aiokafka sends the commit of a dropped member like that of a consumer without a group. Brokers accept such
    a commit while the group is empty, so it would overwrite newer commits of other members.

    A late answer to a commit of an earlier generation fails that commit only. aiokafka would apply the answer
    to the current generation and make the member rejoin under a new id. The task in which aiokafka commits
    outlives a cancelled caller, so the task's exception is retrieved here.
    """
    coordinator: Any = consumer._coordinator
    send = coordinator._do_commit_offsets.__func__

    async def send_as_member(*args: Any) -> None:
        task = asyncio.current_task()
        if task is not None:
            task.add_done_callback(ignore_result)
        if coordinator.generation < 0:
            raise UnknownMemberIdError
        await send(_GenerationGuard(coordinator), *args)

    coordinator._do_commit_offsets = send_as_member


class _GenerationGuard:
    """The coordinator as one commit sees it: it can reset the generation of that commit, but no later one."""

    def __init__(self, coordinator: Any) -> None:
        self._coordinator = coordinator
        self.commit_generation = coordinator.generation

    def __getattr__(self, name: str) -> Any:
        return getattr(self._coordinator, name)

    def reset_generation(self) -> None:
        if self._coordinator.generation == self.commit_generation:
            self._coordinator.reset_generation()

    def request_rejoin(self) -> None:
        if self._coordinator.generation == self.commit_generation:
            self._coordinator.request_rejoin()


def when_fenced(consumer: AIOKafkaConsumer, call: Callable[[], None]) -> None:
    """Call *call* when another process has joined with this static member's instance id.

    Brokers report that only to a member that joins with its old member id. aiokafka's heartbeats carry no
    instance id, so brokers answer them with "unknown member"; aiokafka would then join as a new member and
    take the place back, and the two processes would replace each other for ever.
    """
    coordinator: Any = consumer._coordinator
    reset, join, send = coordinator.reset_generation, coordinator._do_rejoin_group, coordinator._send_req
    joining = False

    def reset_but_keep_id() -> None:
        if joining:
            reset()
        else:
            coordinator.generation = -1
            coordinator.request_rejoin()

    async def join_with_old_id(subscription: Any) -> Any:
        nonlocal joining
        joining = True
        try:
            return await join(subscription)
        finally:
            joining = False

    async def send_and_check(request: Any) -> Any:
        answer = await send(request)
        if getattr(answer, "error_code", 0) == FENCED_INSTANCE_ID:
            call()
        return answer

    coordinator.reset_generation = reset_but_keep_id
    coordinator._do_rejoin_group = join_with_old_id
    coordinator._send_req = send_and_check


def delay_leader(consumer: AIOKafkaConsumer, delay_s: float) -> None:
    """Delay the assignment of partitions while this member is the leader of a group of several."""
    coordinator: Any = consumer._coordinator
    assign = coordinator._perform_assignment

    async def assign_later(response: Any) -> Any:
        assignments = await assign(response)
        if len(assignments) > 1:
            await asyncio.sleep(delay_s)
        return assignments

    coordinator._perform_assignment = assign_later


def client_of(consumer: AIOKafkaConsumer) -> Any:
    """The client inside a consumer: its connections and cluster metadata."""
    return consumer._client


def bootstrap_from(client: Any, find_server: Callable[[], Awaitable[str]]) -> None:
    """Make the client bootstrap from the one server that *find_server* returns.

    aiokafka tries the bootstrap servers in turn, each for a whole request timeout, so one that accepts
    connections and stays silent would use up the time of a start.
    """

    async def bootstrap() -> None:
        client._bootstrap_servers = await find_server()
        await type(client).bootstrap(client)

    client.bootstrap = bootstrap


def when_unanswered(consumer: AIOKafkaConsumer, call: Callable[[str, int], None]) -> None:
    """Call *call* with a broker's host and port when a request of this consumer to it timed out."""
    client: Any = consumer._client
    original = client._on_connection_closed

    def remove_and_report(connection: Any, reason: CloseReason | None) -> None:
        original(connection, reason)
        if reason is CloseReason.CONNECTION_TIMEOUT:
            call(connection.host, connection.port)

    client._on_connection_closed = remove_and_report


def close_idle_connections(client: Any, host: str, port: int) -> None:
    """Close the connections to a broker that have no request in flight; the next request opens a new one."""
    for connection in list(client._conns.values()):
        if (connection.host, connection.port) == (host, port) and not connection._requests:
            connection.close()


def use_certificates(client: Any, context: ssl.SSLContext | None) -> None:
    """Set the TLS context of connections that the client opens from now on."""
    client._ssl_context = context


def last_refresh_ms(client: Any) -> float:
    """When the client last received cluster metadata. Only for comparison with an earlier value."""
    refreshed_at_ms: float = client.cluster._last_successful_refresh_ms
    return refreshed_at_ms


def is_refreshing_metadata(client: Any) -> bool:
    """Whether the client is requesting cluster metadata now."""
    return client._md_update_fut is not None


def abort_consumer(consumer: AIOKafkaConsumer) -> None:
    """End a consumer whose ``stop`` failed or hung: cancel its tasks, close its connections."""
    client: Any = consumer
    coordinator, fetcher = client._coordinator, client._fetcher
    if fetcher is not None:
        _cancel(fetcher._fetch_task)
    if coordinator is not None:
        _cancel(coordinator._heartbeat_task, coordinator._commit_refresh_task, coordinator._coordination_task)
    abort_client(client._client)


def abort_producer(producer: AIOKafkaProducer) -> None:
    """End a producer whose ``stop`` failed or hung; batches that are not acknowledged are dropped."""
    client: Any = producer
    accumulator, sender = client._message_accumulator, client._sender
    queued = [batch for batches in accumulator._batches.values() for batch in batches]
    # A batch that ends removes itself from this set if it was sent before, and raises if the set lacks it.
    accumulator._pending_batches.update(queued)
    for batch in list(accumulator._pending_batches):
        batch.future.cancel()
    if sender is not None:
        _cancel(sender.sender_task)
    abort_client(client.client)


def abort_client(client: Any) -> None:
    """End a client whose ``close`` failed or hung."""
    _cancel(client._sync_task)
    for connection in list(client._conns.values()):
        connection.close()


def _cancel(*tasks: asyncio.Task[None] | None) -> None:
    for task in tasks:
        if task is not None:
            task.cancel()
