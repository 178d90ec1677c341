"""Both clients of a running service, for what is done to them together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import structlog

from fivestage.errors import ConfigurationError
from fivestage.kafka import aiokafka_internals
from fivestage.kafka.connection.connection import certificate_stamp, ssl_context

if TYPE_CHECKING:
    from fivestage.kafka.connection.rebuild_policy import Trouble
    from fivestage.kafka.consumer.group_member import GroupMember
    from fivestage.kafka.producer.producer import Producer
    from fivestage.settings import KafkaSettings

log = structlog.get_logger("fivestage.kafka.connection.clients")


class Clients:
    """The consumer and the producer of the moment.

    Args:
        kafka: How they connect.
        member: Has the consumer.
        producer: Has the producer.
    """

    def __init__(self, kafka: KafkaSettings, member: GroupMember, producer: Producer) -> None:
        self._kafka = kafka
        self._member = member
        self._producer = producer
        self._stamp = certificate_stamp(kafka)
        self._heard: dict[int, tuple[Any, float]] = {}
        """When a client last had an answer about the cluster, as of the last look; by the client's id."""

    def _connected(self) -> list[Any]:
        """The connections of those that are not being rebuilt."""
        found = []
        if self._member.trouble is None:
            found.append(aiokafka_internals.client_of(self._member.consumer))
        if self._producer.trouble is None:
            found.append(self._producer.client.client)
        return found

    def have_heard(self) -> bool:
        """Whether each has had an answer of any broker since the last call, and ask again."""
        before, self._heard = self._heard, {}
        heard = True
        for client in self._connected():
            at = aiokafka_internals.refreshed_at(client)
            self._heard[id(client)] = (client, at)
            _, last_at = before.get(id(client), (client, None))
            heard = heard and at != last_at
            aiokafka_internals.refresh(client)
        return heard

    def rebuild(self, trouble: Trouble) -> None:
        """Have both replaced: with fresh addresses, and with the certificates of now."""
        self._member.mark_for_replacement(self._member.consumer, trouble)
        self._producer.rebuild(trouble)

    def renew_certificates(self) -> None:
        """Have new connections use the certificate files as they are now, where these have changed."""
        stamp = certificate_stamp(self._kafka)
        if stamp == self._stamp:
            return
        try:
            context = ssl_context(self._kafka)
        except ConfigurationError as problem:  # half of them is written, perhaps
            log.warning("certificates not renewed yet", reason=str(problem))
            return
        self._stamp = stamp
        for client in self._connected():
            aiokafka_internals.use_certificates(client, context)
        log.info("certificates renewed")
