"""Handles batches that brokers reject for good: finds the bad record, rebuilds the producer, or fails."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog
from aiokafka.errors import IncompatibleBrokerVersion, InvalidTopicError, TopicAuthorizationFailedError

from fivestage.core.codec.refused_event import REFUSED, TOO_LARGE, name_of, without_data
from fivestage.errors import ConfigurationError, PublishError
from fivestage.kafka.connection.rebuild_policy import ClientFault
from fivestage.kafka.producer.partition_queue import ANY_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiokafka.errors import KafkaError

    from fivestage.core.observer import Observer
    from fivestage.kafka.producer.partition_queue import PartitionQueue
    from fivestage.kafka.producer.produce_response import ContentRefusedError
    from fivestage.kafka.producer.producer import Producer

PERMANENT_ERRORS = (InvalidTopicError, IncompatibleBrokerVersion)
"""Errors that a new producer would get again."""

log = structlog.get_logger("fivestage.kafka.producer.rejected_batch")


class RejectedBatches:
    """Decides what happens to a rejected batch.

    Args:
        producer: Rebuilt when the batch was rejected for anything but its content.
        observer: Notified of every record that is published without its data.
        on_failure: Called when a partition can no longer be published to; its records stay unacknowledged.
    """

    def __init__(
        self, producer: Producer, observer: Observer, on_failure: Callable[[Exception], None]
    ) -> None:
        self._producer = producer
        self._observer = observer
        self._on_failure = on_failure

    def rejected(self, queue: PartitionQueue, error: KafkaError) -> None:
        """Rebuild the producer, or fail where a new producer would get the same error."""
        topic, text = queue.partition.topic, f"cannot publish to topic {queue.partition.topic!r}: {error}"
        if isinstance(error, TopicAuthorizationFailedError):
            advice = f"not allowed to write topic {topic!r}: grant Write on it to this principal"
            self._fail(queue, ConfigurationError(advice))
        elif isinstance(error, PERMANENT_ERRORS):
            self._fail(queue, PublishError(text))
        else:
            self._producer.rebuild(ClientFault(type(error).__name__, text))

    def split(self, queue: PartitionQueue, error: ContentRefusedError) -> bool:
        """Send the records of a batch that was rejected for its content one by one: none of them is stored.

        A record that was rejected alone is replaced by one without its data. Returns False if that is
        impossible, else True: the queue has something to send.
        """
        if len(queue.in_flight) > 1:
            if error.is_too_large:
                queue.refused_bytes = len(queue.batch)
        elif not self._replace(queue, error):
            return False
        queue.split()
        return True

    def _replace(self, queue: PartitionQueue, error: ContentRefusedError) -> bool:
        """Replace the record in flight by one without its data; False if that is impossible."""
        [(record, delivery)] = queue.in_flight
        topic, name = queue.partition.topic, name_of(record)
        error_type = TOO_LARGE if error.is_too_large else REFUSED
        replacement = without_data(record, error_type, error.why)
        if replacement is None:
            text = f"cannot publish {name} to topic {topic!r}, even without its data: {error.why}"
            self._fail(queue, PublishError(text))
            return False
        self._observer.event_refused(error_type)
        log.warning("event refused", topic=topic, event_id=name, reason=error.why)
        queue.in_flight[0] = (replacement, delivery)
        queue.refused_bytes = ANY_SIZE
        return True

    def _fail(self, queue: PartitionQueue, error: Exception) -> None:
        queue.closed = True
        self._on_failure(error)
