"""Decodes a record into a query: plain JSON, or CloudEvents in binary or structured mode.

An unreadable record gives a value (Unreadable) with a reason from a fixed set, never an exception, and never
quotes the content. The size of a value is checked before parsing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import orjson
from pydantic import ValidationError

from fivestage.core.tuples import new
from fivestage_schemas import QueryEvent
from fivestage_schemas import headers as h

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fivestage.core.records import Record

MAX_DETAIL_CHARS: Final = 512
MAX_KEY_BYTES: Final = 4096
MAX_DEPTH: Final = 254
"""The deepest nesting that orjson writes. It reads deeper values, but could not encode them again."""
MAX_HEADERS: Final = 64
MAX_HEADER_BYTES: Final = 1024
_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_LANE: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
KNOWN_HEADERS: Final = frozenset(
    (h.CONTENT_TYPE, h.CE_ID, h.CE_CORRELATION_ID, h.CE_EXPIRY_TIME, h.TRACEPARENT, h.TRACESTATE, h.LANE)
)

_VALIDATE: Final = QueryEvent.__pydantic_validator__.validate_python
"""``model_validate`` without its interpreted wrapper."""


class UnreadableReason(StrEnum):
    """Why a record could not be read: the value of the header ``dlq.reason``."""

    EMPTY_VALUE = "empty_value"
    TOO_LARGE = "too_large"
    NOT_JSON = "not_json"
    NOT_AN_OBJECT = "not_an_object"
    MISSING_FIELD = "missing_field"
    INVALID_FIELD = "invalid_field"
    UNSUPPORTED_VERSION = "unsupported_version"
    BAD_CLOUDEVENT = "bad_cloudevent"
    UNKNOWN_LANE = "unknown_lane"
    CORRUPT_RECORD = "corrupt_record"
    """The client could not read the record from its batch; there are no bytes to keep."""


class Unreadable(NamedTuple):
    """A record that could not be read."""

    reason: UnreadableReason
    detail: str
    """The error in words, at most 512 characters, without payload text."""
    query_id: str | None = None
    """The query id, if it could be read."""
    lane: str = ""
    headers: Mapping[str, str] = MappingProxyType({})
    """The known headers."""


class Readable(NamedTuple):
    """A query and its known headers."""

    event: QueryEvent
    lane: str
    headers: dict[str, str]
    expiry_time: datetime | None = None


@dataclass(frozen=True, slots=True)
class DecodeLimits:
    """The accepted lanes and sizes of records."""

    default_lane: str = "prod"
    lanes: frozenset[str] = field(default_factory=frozenset)
    """The accepted lanes; empty = all."""
    max_value_bytes: int = 262144


class _RejectedError(Exception):
    """Ends decoding with a reason; never leaves this module."""

    def __init__(self, reason: UnreadableReason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail[:MAX_DETAIL_CHARS]


def decode(record: Record, limits: DecodeLimits) -> Readable | Unreadable:
    """Decode a record."""
    headers = known_headers(record.headers)
    fields: dict[str, Any] = {}
    try:
        _check_value_size(record.value, limits)
        fields = _fields(record.value or b"", headers)
        _check_depth(record.value or b"", fields)
        _check_key_size(record.key)
        return _readable(fields, headers, limits)
    except _RejectedError as rejected:
        query_id, lane = _id_of(fields, headers), _lane_of(fields, headers, limits)
        return Unreadable(rejected.reason, rejected.detail, query_id, lane, headers)


def known_headers(headers: Sequence[tuple[str, bytes | None]]) -> dict[str, str]:
    """The known headers as text; of a repeated header the last one counts.

    Unknown, oversized and undecodable headers are skipped.
    """
    found = {}
    for name, value in headers[:MAX_HEADERS]:
        if name in KNOWN_HEADERS and value is not None and len(value) <= MAX_HEADER_BYTES:
            try:
                found[name] = value.decode()
            except UnicodeDecodeError:
                continue
    return found


def _check_value_size(value: bytes | None, limits: DecodeLimits) -> None:
    if not value:
        raise _RejectedError(UnreadableReason.EMPTY_VALUE, "the record has no value")
    if len(value) > limits.max_value_bytes:
        detail = f"the value has {len(value)} bytes, at most {limits.max_value_bytes} are read"
        raise _RejectedError(UnreadableReason.TOO_LARGE, detail)


def _check_depth(value: bytes, fields: dict[str, Any]) -> None:
    if value.count(b"{") + value.count(b"[") <= MAX_DEPTH:
        return
    try:
        orjson.dumps(fields)
    except orjson.JSONEncodeError:
        detail = f"nested more than {MAX_DEPTH} deep"
        raise _RejectedError(UnreadableReason.TOO_LARGE, detail) from None


def _check_key_size(key: bytes | None) -> None:
    if key is not None and len(key) > MAX_KEY_BYTES:
        detail = f"the key has {len(key)} bytes, at most {MAX_KEY_BYTES} are repeated on events"
        raise _RejectedError(UnreadableReason.TOO_LARGE, detail)


def _fields(value: bytes, headers: dict[str, str]) -> dict[str, Any]:
    """The fields of the query, from any of the three forms."""
    content_type = headers.get(h.CONTENT_TYPE, "").lower()
    if content_type.startswith(h.STRUCTURED_CONTENT_TYPE):
        return _structured(value, content_type, headers)
    fields = _object(value)
    if "query_id" not in fields and h.CE_ID in headers:
        fields["query_id"] = headers[h.CE_ID]
    return fields


def _structured(value: bytes, content_type: str, headers: dict[str, str]) -> dict[str, Any]:
    """Unwrap a structured CloudEvent; except for the trace, its attributes replace those in headers."""
    if not content_type.startswith("application/cloudevents+json"):
        raise _RejectedError(UnreadableReason.BAD_CLOUDEVENT, "only application/cloudevents+json is read")
    envelope = _object(value)
    for attribute in ("id", "correlationid", "expirytime"):
        text = envelope.get(attribute)
        if isinstance(text, str) and len(text.encode()) <= MAX_HEADER_BYTES:
            headers[f"ce_{attribute}"] = text
    for attribute in (h.TRACEPARENT, h.TRACESTATE):  # a trace header, if any, is from a later hop
        if isinstance(text := envelope.get(attribute), str):
            headers.setdefault(attribute, text)
    if not isinstance(envelope.get("specversion"), str) or h.CE_ID not in headers:
        raise _RejectedError(UnreadableReason.BAD_CLOUDEVENT, "specversion and id are required")
    data = envelope.get("data")
    if not isinstance(data, dict):
        raise _RejectedError(UnreadableReason.BAD_CLOUDEVENT, "data must be a JSON object")
    data.setdefault("query_id", headers[h.CE_ID])
    return data


def _object(value: bytes) -> dict[str, Any]:
    try:
        parsed = orjson.loads(value)
    except orjson.JSONDecodeError as error:
        detail = f"not JSON at character {error.pos}"  # the message could quote the text
        raise _RejectedError(UnreadableReason.NOT_JSON, detail) from None
    if not isinstance(parsed, dict):
        raise _RejectedError(UnreadableReason.NOT_AN_OBJECT, f"a JSON object is needed, got {_kind(parsed)}")
    return parsed


def _readable(fields: dict[str, Any], headers: dict[str, str], limits: DecodeLimits) -> Readable:
    try:
        event: QueryEvent = _VALIDATE(fields)
    except ValidationError as error:
        raise _rejection(error) from None
    lane = event.lane or headers.get(h.LANE) or limits.default_lane
    if event.lane is None and not _LANE.fullmatch(lane):
        raise _RejectedError(UnreadableReason.INVALID_FIELD, "the header lane is no lane's name")
    if limits.lanes and lane not in limits.lanes:
        raise _RejectedError(UnreadableReason.UNKNOWN_LANE, "the lane is not one of those accepted here")
    return new(Readable, (event, lane, headers, _expiry_time(headers)))


def _expiry_time(headers: dict[str, str]) -> datetime | None:
    text = headers.get(h.CE_EXPIRY_TIME)
    if text is None:
        return None
    try:
        when = datetime.fromisoformat(text.upper())  # RFC 3339 allows t and z
    except ValueError:
        when = None
    if when is None or when.tzinfo is None:
        detail = f"{h.CE_EXPIRY_TIME}: RFC 3339 with offset is needed"
        raise _RejectedError(UnreadableReason.INVALID_FIELD, detail)
    return when


def _rejection(error: ValidationError) -> _RejectedError:
    """The first error of pydantic as field and kind, without the quoted input."""
    first = error.errors(include_input=False, include_url=False, include_context=False)[0]
    name = ".".join(str(part)[:40] for part in first["loc"][:3])
    if name == "schema_version":
        return _RejectedError(UnreadableReason.UNSUPPORTED_VERSION, 'schema_version must be "1"')
    reasons = {"missing": UnreadableReason.MISSING_FIELD, "too_large": UnreadableReason.TOO_LARGE}
    reason = reasons.get(first["type"], UnreadableReason.INVALID_FIELD)
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return _RejectedError(reason, f"{name}: {first['type']}{more}")


def _id_of(fields: dict[str, Any], headers: dict[str, str]) -> str | None:
    """The query id of an unreadable record; None if there is no valid one."""
    for candidate in (fields.get("query_id"), headers.get(h.CE_ID)):
        if isinstance(candidate, str) and _ID.fullmatch(candidate):
            return candidate
    return None


def _lane_of(fields: dict[str, Any], headers: dict[str, str], limits: DecodeLimits) -> str:
    """The lane for the result of an unreadable query."""
    for candidate in (fields.get("lane"), headers.get(h.LANE)):
        if not isinstance(candidate, str) or not _LANE.fullmatch(candidate):
            continue
        if not limits.lanes or candidate in limits.lanes:
            return candidate
    return limits.default_lane


def _kind(value: object) -> str:
    names = {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
