"""Builds record batches in Kafka's wire format.

aiokafka's builder encodes the headers of each record; here ``core.codec`` has encoded them before.
"""

from __future__ import annotations

import time
from struct import Struct
from typing import TYPE_CHECKING, Final

from aiokafka.record.util import calc_crc32c

from fivestage.core.codec.record_format import record_bytes

if TYPE_CHECKING:
    from fivestage.core.records import OutputRecord
    from fivestage.kafka.producer.compression import Codec

_UP_TO_CRC: Final = Struct(">qiibI")
"""Base offset, length of what follows, leader epoch, format, checksum of what follows."""
_AFTER_CRC: Final = Struct(">hiqqqhii")
"""Attributes, last offset, first and last time, producer's id and epoch, first sequence number, count."""
_FORMAT: Final = 2
_AFTER_LENGTH_BYTES: Final = _UP_TO_CRC.size - 12
HEADER_BYTES: Final = _UP_TO_CRC.size + _AFTER_CRC.size


class RecordBatch:
    """Records for one partition.

    Args:
        max_bytes: The largest size before compression; a larger record gets a batch to itself.
    """

    __slots__ = ("_max_bytes", "_records", "_timestamp", "size")

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._records: list[bytes] = []
        self._timestamp = int(time.time() * 1000)
        self.size = HEADER_BYTES
        """Bytes of the batch before compression."""

    def __repr__(self) -> str:
        return f"<RecordBatch {len(self._records)} records, {self.size} bytes>"

    def __len__(self) -> int:
        return len(self._records)

    def add(self, record: OutputRecord) -> bool:
        """Add a record; False if it does not fit."""
        encoded = record_bytes(record, len(self._records))
        if self._records and self.size + len(encoded) > self._max_bytes:
            return False
        self._records.append(encoded)
        self.size += len(encoded)
        return True

    def encode(
        self, producer_id: int, producer_epoch: int, sequence: int, codec: Codec | None = None
    ) -> bytes:
        """Encode the batch; *sequence* is the sequence number of its first record."""
        count, when = len(self._records), self._timestamp
        attributes, records = 0, b"".join(self._records)
        if codec is not None:
            compressed = codec.compress(records)
            if len(compressed) < len(records):
                attributes, records = codec.number, compressed
        fields = attributes, count - 1, when, when, producer_id, producer_epoch, sequence, count
        body = _AFTER_CRC.pack(*fields) + records
        head = _UP_TO_CRC.pack(0, _AFTER_LENGTH_BYTES + len(body), -1, _FORMAT, calc_crc32c(body))
        return head + body
