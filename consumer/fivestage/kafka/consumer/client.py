"""Configures, starts and corrects the aiokafka consumer; ``source`` lists the corrections."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from aiokafka.errors import KafkaError

from fivestage.errors import BrokerError
from fivestage.kafka import aiokafka_internals
from fivestage.kafka.connection.connection import client_options
from fivestage.kafka.connection.preflight import answering_server
from fivestage.kafka.consumer.batch_check import check_batches

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiokafka import AIOKafkaConsumer

    from fivestage.core.observer import Observer
    from fivestage.settings import KafkaSettings

    OnUnanswered = Callable[[str, int], None]

FAILED_FETCH_PAUSE_S = 0.1


def consumer_options(kafka: KafkaSettings) -> dict[str, object]:
    """The options of AIOKafkaConsumer."""
    return {
        **client_options(kafka),
        "group_id": kafka.group_id,
        "group_instance_id": kafka.group_instance_id,
        "enable_auto_commit": False,
        "auto_offset_reset": "none",  # see offset_reset.py
        "isolation_level": "read_committed",
        "client_rack": kafka.client_rack,
        "partition_assignment_strategy": (StickyPartitionAssignor,),
        "session_timeout_ms": kafka.session_timeout_ms,
        "heartbeat_interval_ms": kafka.heartbeat_interval_ms,
        "rebalance_timeout_ms": kafka.rebalance_timeout_ms,
        "fetch_max_wait_ms": kafka.fetch_max_wait_ms,
        "fetch_max_bytes": kafka.fetch_max_bytes,
        "max_partition_fetch_bytes": kafka.max_partition_fetch_bytes,
        "check_crcs": False,  # verified in batch_check.py
    }


async def start_consumer(
    consumer: AIOKafkaConsumer,
    kafka: KafkaSettings,
    observer: Observer,
    *,
    on_unanswered: OnUnanswered,
    on_fenced: Callable[[], None],
) -> None:
    """Connect a consumer and correct its behaviour.

    Args:
        consumer: Made with ``consumer_options``.
        kafka: The settings that *consumer* was made with.
        observer: Notified when brokers throttle the consumer.
        on_unanswered: Called with host and port of a broker when a request to it timed out.
        on_fenced: Called when another process has taken over this static member's place.

    Raises:
        ConfigurationError: no bootstrap server can be used; see preflight.
        BrokerError: the connection failed although a server answered the preflight.
    """
    aiokafka_internals.bootstrap_from(aiokafka_internals.client_of(consumer), lambda: answering_server(kafka))
    try:
        await consumer.start()
    except KafkaError as error:
        raise BrokerError(f"cannot connect: {error}") from error
    check_batches(consumer, max_bytes=kafka.max_batch_bytes)
    aiokafka_internals.back_off_failed_fetches(consumer, pause_s=FAILED_FETCH_PAUSE_S)
    aiokafka_internals.check_committed_offsets(consumer)
    aiokafka_internals.commit_only_as_member(consumer)
    aiokafka_internals.when_unanswered(consumer, on_unanswered)
    when_throttled(consumer, partial(observer.throttled, "consumer"))
    if kafka.group_instance_id is not None:
        aiokafka_internals.when_fenced(consumer, on_fenced)


def when_throttled(consumer: AIOKafkaConsumer, call: Callable[[float], None]) -> None:
    """Call *call* with the seconds for which a broker's quota delays this consumer."""
    client = aiokafka_internals.client_of(consumer)
    send = client.send

    async def send_and_report(*args: Any, **options: Any) -> Any:
        answer = await send(*args, **options)
        if throttled_ms := getattr(answer, "throttle_time_ms", 0):
            call(throttled_ms / 1000)
        return answer

    client.send = send_and_report
