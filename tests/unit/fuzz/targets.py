"""Fuzz targets: each takes bytes and raises when a promise is broken."""

from __future__ import annotations

import contextlib
import mmap
import re
from typing import TYPE_CHECKING, Any, Final

import orjson
from aiokafka.errors import CorruptRecordException
from opentelemetry.sdk.trace import TracerProvider

from fivestage.core.codec.decode import DecodeLimits, Readable, UnreadableReason, decode
from fivestage.core.codec.encode import Encoder
from fivestage.core.codec.event_json import Envelope
from fivestage.core.records import PlainRecord
from fivestage.kafka.consumer.batch_check import CheckedRecords
from fivestage.observability.tracing import Tracing
from fivestage_schemas import headers as h

if TYPE_CHECKING:
    from collections.abc import Callable

    Target = Callable[[bytes], None]

LIMITS: Final = DecodeLimits(lanes=frozenset({"prod", "canary"}), max_value_bytes=65536)
ENCODER: Final = Encoder(source="/fuzz", max_record_bytes=100_000, max_dead_letter_bytes=200_000)
TRACING: Final = Tracing(
    results_topic="results", group_id="g", provider=TracerProvider(shutdown_on_exit=False)
)
NAMES: Final = (h.CONTENT_TYPE, h.CE_ID, h.CE_EXPIRY_TIME, h.LANE, h.TRACEPARENT, h.TRACESTATE, "ce_x", "x")
_FIELDS: Final = "query_id|user_input|lane|deadline|budget_ms|context|allow_partial|schema_version"
_DETAIL: Final = re.compile(
    r"the record has no value|the (value|key) has \d+ bytes, at most \d+ are (read|repeated on events)"
    r"|nested more than \d+ deep|not JSON at character \d+"
    r"|a JSON object is needed, got (an array|a string|a boolean|null|a number)"
    r"|only application/cloudevents\+json is read|specversion and id are required"
    r"|data must be a JSON object|the header lane is no lane's name"
    r"|the lane is not one of those accepted here|ce_expirytime: RFC 3339 with offset is needed"
    rf'|schema_version must be "1"|({_FIELDS}): [a-z_]+( \(and \d+ more\))?'
)
"""All valid details, none of which can hold text of the payload."""
_ROOM: Final = mmap.mmap(-1, 1_000_000)


class BrokenPromiseError(AssertionError):
    """A target broke a promise."""


def record_of(data: bytes) -> PlainRecord:
    """Build a record: the first byte is the number of headers, each a byte for its name and a line."""
    count, rest = (data[0] % 5 if data else 0), data[1:]
    headers: list[tuple[str, bytes]] = []
    for _ in range(count):
        line, _, rest = rest.partition(b"\n")
        headers.append((NAMES[line[0] % len(NAMES)] if line else "", line[1:]))
    return PlainRecord("t", 0, 0, 1000, b"k", rest, headers)


def decoder(data: bytes) -> None:
    """Check that any record is a query or a reason without text of it, and that its events can be encoded."""
    record = record_of(data)
    got = decode(record, LIMITS)
    TRACING.begin(got.headers, record, None, 0.0)
    if isinstance(got, Readable):
        orjson.dumps(got.event.context)
        _require(got.lane in LIMITS.lanes, "a lane that is not accepted")
        return
    _require(got.reason in UnreadableReason, "an unknown reason")
    _require(_DETAIL.fullmatch(got.detail) is not None, f"an unknown detail: {got.detail}")
    envelope = Envelope(record, got.query_id or "", got.lane, None, None, (), 1000.0)
    letter, *_ = ENCODER.unreadable(envelope, got)
    _require(letter.value == record.value, "a letter that is not the record")


def batches(data: bytes) -> None:
    """Check that the bytes of any fetch are batches, or raise only the expected errors."""
    checked = CheckedRecords(_ROOM, data)
    try:
        while checked.has_next():
            _take_out(checked.next_batch())
    except CorruptRecordException:
        return


def _take_out(batch: Any) -> None:
    """Read records as the client does; a record that raises is the one that is skipped."""
    with contextlib.suppress(Exception):
        for record in batch:
            len(record.value or b"")


TARGETS: Final[dict[str, Target]] = {"decoder": decoder, "batches": batches}


def _require(true: bool, broken: str) -> None:  # noqa: FBT001
    if not true:
        raise BrokenPromiseError(broken)
