"""The expectations of an input record, parsed without the service's own decoder.

Only what its events repeat: id, lane, key, trace. Whether it is valid is not decided here: a record
that no JSON parser reads has no id, and its events say themselves that it was rejected.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from .reading import parsed

if TYPE_CHECKING:
    from .reading import Record

MAX_HEADERS = 64
MAX_HEADER_BYTES = 1024
MAX_KEY_BYTES = 4096
KNOWN = frozenset(
    {"content-type", "ce_id", "ce_correlationid", "ce_expirytime", "traceparent", "tracestate", "lane"}
)
TRACEPARENT = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_LANE = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Asked(NamedTuple):
    """The fields that a record's events repeat."""

    query_id: str | None
    lane: str | None
    """None: the service's own."""
    key: bytes | None
    trace_id: str | None
    tracestate: str | None
    correlation_id: str | None
    causation_id: str | None

    @classmethod
    def of(cls, record: Record) -> Self:
        """Parse a record."""
        headers = _known_headers(record)
        fields = _fields(parsed(record.value), headers)
        trace = TRACEPARENT.fullmatch(headers.get("traceparent", ""))
        key = record.key if record.key is not None and len(record.key) <= MAX_KEY_BYTES else None
        query_id = _first(_ID, fields.get("query_id"), headers.get("ce_id"))
        return cls(
            query_id=query_id,
            lane=_first(_LANE, fields.get("lane"), headers.get("lane")),
            key=key if key is not None else (query_id or "").encode() or None,
            trace_id=trace[1] if trace else None,
            tracestate=headers.get("tracestate") if trace else None,
            correlation_id=headers.get("ce_correlationid") or query_id,
            causation_id=headers.get("ce_id"),
        )


def kept_headers(record: Record) -> list[tuple[str, bytes]]:
    """Return the headers that a dead letter keeps for a replay."""
    return [
        (name, value)
        for name, value in record.headers[:MAX_HEADERS]
        if (name in KNOWN or name.startswith("ce_") or name == "dlq.replayed-from")
        and value is not None
        and len(value) <= MAX_HEADER_BYTES
    ]


def _known_headers(record: Record) -> dict[str, str]:
    found = {}
    for name, value in record.headers[:MAX_HEADERS]:
        if name in KNOWN and value is not None and len(value) <= MAX_HEADER_BYTES:
            try:
                found[name] = value.decode()
            except UnicodeDecodeError:
                continue
    return found


def _fields(value: Any, headers: dict[str, str]) -> dict[str, Any]:
    """Return the query's fields; attributes of a structured CloudEvent go to the headers."""
    if not isinstance(value, dict):
        return {}
    if not headers.get("content-type", "").lower().startswith("application/cloudevents"):
        return value
    for attribute in ("id", "correlationid"):
        if isinstance(text := value.get(attribute), str):
            headers[f"ce_{attribute}"] = text
    for attribute in ("traceparent", "tracestate"):
        if isinstance(text := value.get(attribute), str):
            headers.setdefault(attribute, text)
    data = value.get("data")
    return data if isinstance(data, dict) else {}


def _first(pattern: re.Pattern[str], *candidates: object) -> str | None:
    """Return the first valid name."""
    return next((text for text in candidates if isinstance(text, str) and pattern.fullmatch(text)), None)
