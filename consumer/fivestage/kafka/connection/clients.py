"""The consumer's and the producer's connections, for what is done to both: checks, rebuilds, certificates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import structlog

from fivestage.errors import ConfigurationError
from fivestage.kafka import aiokafka_internals
from fivestage.kafka.connection.connection import certificate_stamp, ssl_context

if TYPE_CHECKING:
    from fivestage.kafka.connection.rebuild_policy import ClientFault
    from fivestage.kafka.consumer.group_member import GroupMember
    from fivestage.kafka.producer.producer import Producer
    from fivestage.settings import KafkaSettings

log = structlog.get_logger("fivestage.kafka.connection.clients")


class Clients:
    """The current consumer and the current producer of a running service.

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
        self._last_answers: dict[int, tuple[Any, float]] = {}
        """Each client and when it last received metadata, by ``id(client)``, which is unique while the client
        is kept."""

    def _connected(self) -> list[Any]:
        """The aiokafka clients that are not being rebuilt."""
        found = []
        if self._member.fault is None:
            found.append(aiokafka_internals.client_of(self._member.consumer))
        if self._producer.fault is None:
            found.append(self._producer.client.client)
        return found

    def all_have_answers(self) -> bool:
        """Let each client request metadata; return whether all requests of the last call were answered."""
        before, self._last_answers = self._last_answers, {}
        answered = True
        for client in self._connected():
            at = aiokafka_internals.last_refresh_ms(client)
            self._last_answers[id(client)] = (client, at)
            _, last_at = before.get(id(client), (client, None))
            answered = answered and at != last_at
            client.force_metadata_update()
        return answered

    def rebuild(self, fault: ClientFault) -> None:
        """Replace both clients; new ones resolve addresses again and read the current certificates."""
        self._member.mark_for_replacement(self._member.consumer, fault)
        self._producer.rebuild(fault)

    def renew_certificates(self) -> None:
        """Use changed certificate files for new connections."""
        stamp = certificate_stamp(self._kafka)
        if stamp == self._stamp:
            return
        try:
            context = ssl_context(self._kafka)
        except ConfigurationError as problem:  # the files may be half written: try again at the next call
            log.warning("certificates not renewed yet", reason=str(problem))
            return
        self._stamp = stamp
        for client in self._connected():
            aiokafka_internals.use_certificates(client, context)
        log.info("certificates renewed")
