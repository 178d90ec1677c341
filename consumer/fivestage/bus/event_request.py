"""Produce requests, written in one go.

aiokafka writes a request field by field and level by level, and each level copies all the batches below it.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Any, Final

from aiokafka.producer.sender import SendProduceReqHandler
from aiokafka.protocol.produce import ProduceRequest

if TYPE_CHECKING:
    from aiokafka import AIOKafkaProducer, TopicPartition
    from aiokafka.producer.message_accumulator import MessageBatch

# ruff: noqa: SLF001 - aiokafka has no other way to hand it a request

_NO_TRANSACTION: Final = b"\xff\xff"
_ACKS_TIMEOUT_TOPICS: Final = Struct(">hii")
_NAME: Final = Struct(">h")
_COUNT: Final = Struct(">i")
_PARTITION_AND_SIZE: Final = Struct(">ii")
_SINCE: Final = 3
"""The version since which its fields are these; aiokafka knows none in which they are others."""


class EventRequest(ProduceRequest):
    """A request of a producer without transactions."""

    def build(self, request_struct_class: Any) -> Any:
        """See Request."""
        built: Any = super().build(request_struct_class)
        if built.API_VERSION >= _SINCE and self._transactional_id is None:
            built.encode = self._encode
        return built

    def _encode(self) -> bytes:
        head = _ACKS_TIMEOUT_TOPICS.pack(self._required_acks, self._timeout, len(self._topics))
        parts = [_NO_TRANSACTION, head]
        for topic, partitions in self._topics:
            name = topic.encode()
            parts += (_NAME.pack(len(name)), name, _COUNT.pack(len(partitions)))
            for partition, batch in partitions:
                parts += (_PARTITION_AND_SIZE.pack(partition, len(batch)), batch)
        return b"".join(parts)


_Base: Any = SendProduceReqHandler  # it has no types


class _Handler(_Base):  # type: ignore[misc]
    def create_request(self) -> EventRequest:
        made = super().create_request()
        return EventRequest(made._transactional_id, made._required_acks, made._timeout, made._topics)


def write_in_one_go(producer: AIOKafkaProducer) -> None:
    """Have a producer send requests of this kind."""
    sender: Any = producer._sender

    async def send(node_id: int, batches: dict[TopicPartition, MessageBatch]) -> None:
        await _Handler(sender, batches).do(node_id)  # from here on as in aiokafka's own
        sender._in_flight.remove(node_id)
        for partition in batches:
            sender._muted_partitions.remove(partition)

    sender._send_produce_req = send
