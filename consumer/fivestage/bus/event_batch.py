"""A batch of records to publish, written as it goes over the wire.

aiokafka's own is given keys, values and single headers. This one takes records as ``core.encode`` has written
them, and is handed to ``send_batch`` all the same.
"""

from __future__ import annotations

import time
from struct import Struct
from typing import TYPE_CHECKING, Any, Final

from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.util import calc_crc32c

from fivestage.core.record_format import record_bytes

if TYPE_CHECKING:
    from fivestage.core.records import OutputRecord

_UP_TO_CRC: Final = Struct(">qiibI")
"""Base offset, length of what follows, leader epoch, format, checksum of what follows."""
_AFTER_CRC: Final = Struct(">hiqqqhii")
"""Attributes, last offset, first and last time, producer's id and epoch, first sequence number, count."""
_FORMAT: Final = 2
_AFTER_LENGTH_BYTES: Final = _UP_TO_CRC.size - 12
HEADER_BYTES: Final = _UP_TO_CRC.size + _AFTER_CRC.size


class EventBatch(BatchBuilder):
    """Records for one partition, not compressed.

    Args:
        max_bytes: When it is full; a larger record gets a batch of its own.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._records: list[bytes] = []
        self._size = HEADER_BYTES
        self._timestamp = int(time.time() * 1000)
        self._producer = -1, -1, -1
        self._buffer: bytes | None = None
        self._closed = True  # to whom it is handed: nothing is added any more

    def __repr__(self) -> str:
        return f"<EventBatch {len(self._records)} records, {self._size} bytes>"

    def add(self, record: OutputRecord) -> bool:
        """Add a record; False when it is full."""
        encoded = record_bytes(record, len(self._records))
        if self._records and self._size + len(encoded) > self._max_bytes:
            return False
        self._records.append(encoded)
        self._size += len(encoded)
        return True

    # What aiokafka asks of a batch

    def append(self, **_: Any) -> None:
        """See BatchBuilder: it takes no more."""

    def size(self) -> int:
        """See BatchBuilder."""
        return self._size

    def record_count(self) -> int:
        """See BatchBuilder."""
        return len(self._records)

    def _set_producer_state(self, producer_id: int, producer_epoch: int, base_sequence: int) -> None:
        self._producer = producer_id, producer_epoch, base_sequence

    def _build(self) -> bytes:
        if self._buffer is None:
            count, when = len(self._records), self._timestamp
            body = b"".join(
                (_AFTER_CRC.pack(0, count - 1, when, when, *self._producer, count), *self._records)
            )
            head = _UP_TO_CRC.pack(0, _AFTER_LENGTH_BYTES + len(body), -1, _FORMAT, calc_crc32c(body))
            self._buffer = head + body
        return self._buffer
