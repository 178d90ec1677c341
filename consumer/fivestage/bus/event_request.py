"""Produce requests, written in one go.

aiokafka writes a request field by field and level by level, and each level copies all the batches below it.
"""

from __future__ import annotations

from struct import Struct
from typing import Any, Final

from aiokafka.protocol.produce import ProduceRequest

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
