"""Produce requests, written in one go.

aiokafka writes a request field by field and level by level, and each level copies all the batches below it.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Any, Final

from aiokafka.errors import IncompatibleBrokerVersion
from aiokafka.protocol.api import Request
from aiokafka.protocol.produce import (
    ProduceRequest_v3,
    ProduceRequest_v4,
    ProduceRequest_v5,
    ProduceRequest_v6,
    ProduceRequest_v7,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

_NO_TRANSACTION: Final = b"\xff\xff"
_ACKS_TIMEOUT_TOPICS: Final = Struct(">hii")
_NAME: Final = Struct(">h")
_COUNT: Final = Struct(">i")
_PARTITION_AND_SIZE: Final = Struct(">ii")
OLDEST: Final = ProduceRequest_v3.API_VERSION
NEWEST: Final = ProduceRequest_v7.API_VERSION
"""From OLDEST to NEWEST the fields of a request are these; what aiokafka may learn later is not used."""


class EventRequest(
    Request[ProduceRequest_v3 | ProduceRequest_v4 | ProduceRequest_v5 | ProduceRequest_v6 | ProduceRequest_v7]
):
    """A request of a producer without transactions.

    Args:
        acks: -1 for those of all in-sync replicas.
        timeout_ms: How long the broker may take to have them.
        topics: Batches, by partition, by topic.
    """

    API_KEY = 0

    def __init__(
        self, acks: int, timeout_ms: int, topics: Sequence[tuple[str, list[tuple[int, bytes]]]]
    ) -> None:
        self._acks = acks
        self._timeout_ms = timeout_ms
        self._topics = topics

    def prepare(self, versions: dict[int, tuple[int, int]]) -> Any:
        """The request in the newest version that the broker takes and this can write.

        Raises:
            IncompatibleBrokerVersion: there is none.
        """
        oldest, newest = versions.get(self.API_KEY, (0, 0))
        if newest < OLDEST or oldest > NEWEST:
            raise IncompatibleBrokerVersion(
                f"the broker takes produce requests of the versions {oldest} to {newest}, and this writes "
                f"{OLDEST} to {NEWEST}"
            )
        return super().prepare(versions)

    def build(self, request_struct_class: Any) -> Any:
        """See Request."""
        built: Any = request_struct_class(None, self._acks, self._timeout_ms, self._topics)
        built.encode = self._encode
        return built

    def _encode(self) -> bytes:
        parts = [_NO_TRANSACTION, _ACKS_TIMEOUT_TOPICS.pack(self._acks, self._timeout_ms, len(self._topics))]
        for topic, partitions in self._topics:
            name = topic.encode()
            parts += (_NAME.pack(len(name)), name, _COUNT.pack(len(partitions)))
            for partition, batch in partitions:
                parts += (_PARTITION_AND_SIZE.pack(partition, len(batch)), batch)
        return b"".join(parts)
