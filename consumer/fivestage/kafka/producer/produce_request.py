"""Produce requests, encoded with one copy of the batches.

aiokafka encodes a request level by level, and each level copies all batches again.
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
"""From OLDEST to NEWEST the fields are the same; later versions are not used even if aiokafka adds them."""


class EventRequest(
    Request[ProduceRequest_v3 | ProduceRequest_v4 | ProduceRequest_v5 | ProduceRequest_v6 | ProduceRequest_v7]
):
    """A request of a producer without transactions.

    Args:
        acks: -1: all in-sync replicas must acknowledge.
        timeout_ms: Milliseconds that the broker may wait for these acknowledgements.
        topics: For each topic its partitions, each with its batch.
    """

    API_KEY = 0

    def __init__(
        self, acks: int, timeout_ms: int, topics: Sequence[tuple[str, list[tuple[int, bytes]]]]
    ) -> None:
        self._acks = acks
        self._timeout_ms = timeout_ms
        self._topics = topics

    def prepare(self, versions: dict[int, tuple[int, int]]) -> Any:
        """Build the request in the newest version that both the broker and this class support.

        Raises:
            IncompatibleBrokerVersion: there is no such version.
        """
        oldest, newest = versions.get(self.API_KEY, (0, 0))
        if newest < OLDEST or oldest > NEWEST:
            raise IncompatibleBrokerVersion(
                f"the broker supports versions {oldest} to {newest} of produce requests, fivestage "
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
