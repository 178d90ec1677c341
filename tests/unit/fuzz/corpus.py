"""The seeds of the fuzzers, and the words that mutations use."""

from __future__ import annotations

import json
import struct
from typing import Final

from aiokafka.record.default_records import DefaultRecordBatchBuilder

from support.wire import GZIP, LZ4, SNAPPY, ZSTD, packed, seal

QUERY: Final = {"query_id": "q-1", "user_input": "What is 15 + 7?"}
FULL: Final = {
    **QUERY,
    "lane": "prod",
    "deadline": "2030-01-01T00:00:00+02:00",
    "budget_ms": 100,
    "context": {"a": [1, None, {"b": "\u00fc"}]},
    "allow_partial": True,
    "schema_version": "1",
}
EVENT: Final = {"specversion": "1.0", "id": "ce-1", "source": "/s", "type": "t", "data": QUERY}
WORDS: Final = [
    *(json.dumps(name).encode() + b":" for name in [*FULL, *EVENT, "expirytime", "correlationid"]),
    *(b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b"\\ud800", b"\\u0000", b"\xff\xfe", b"\xef\xbb\xbf"),
    *(b"null", b"true", b"NaN", b"-0", b"1e999", b"9" * 400, b"[" * 300, b"]" * 300, b'{"a":' * 260),
    *(b"application/cloudevents+json", b"2030-01-01T00:00:00Z", b"prod", b"canary", b"\n", b"\0"),
    b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
]


def decoder_seeds() -> list[bytes]:
    """Return records of the three forms, as ``targets.record_of`` reads them."""
    bare, full, event = (json.dumps(value).encode() for value in (QUERY, FULL, EVENT))
    return [
        b"\0" + bare,
        b"\0" + full,
        b"\x01\x01ce-9\n" + bare.replace(b'"query_id": "q-1", ', b""),
        b"\x01\x00application/cloudevents+json\n" + event,
        b"\x03\x022030-01-01T00:00:00Z\n\x03canary\n\x0400-ab-cd-01\n" + full,
        b"\0",
        b"\0null",
        b"\0" + bare.replace(b"q-1", b"two words"),
    ]


def batch_seeds() -> list[bytes]:
    """Return fetches: a plain batch, two in a row, one of each codec, a truncated one."""
    plain = _batch()
    codecs = []
    for codec in (GZIP, SNAPPY, LZ4, ZSTD):
        data = bytearray(plain)
        packed(codec)(data)
        codecs.append(bytes(data))
    return [plain, plain + plain, *codecs, plain[:-3], plain + plain[:20]]


def sealed(data: bytes) -> bytes:
    """Return a batch with correct length and checksum, so that its content is parsed."""
    if len(data) < 61:
        return data
    batch = bytearray(data)
    batch[16] = 2
    seal(batch)
    return bytes(batch)


def _batch() -> bytes:
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=0,
        is_transactional=0,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=-1,
        batch_size=10_000,
    )
    for offset in range(3):
        value = json.dumps(QUERY).encode()
        builder.append(offset, timestamp=1000, key=b"k", value=value, headers=[("lane", b"prod")])
    data = bytearray(builder.build())
    struct.pack_into(">q", data, 0, 40)
    return bytes(data)
