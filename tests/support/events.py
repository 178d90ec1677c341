"""One event of an output topic: parsing, and the checks of the contract."""

from __future__ import annotations

import re
from collections import Counter
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import BaseModel, ValidationError

from fivestage_schemas import Attempt, PipelineMetrics, PipelineResult, StageResult, TimeoutEvent
from fivestage_schemas.base import Source

from .asked import TRACEPARENT
from .history import RESULTS, STAGE_RESULTS, TIMEOUTS
from .reading import parsed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .asked import Asked
    from .reading import Place, Record

MODELS: dict[str, type[BaseModel]] = {
    RESULTS: PipelineResult,
    STAGE_RESULTS: StageResult,
    TIMEOUTS: TimeoutEvent,
}
_PARTS: dict[str, type[BaseModel]] = {
    "attempts": Attempt,
    "metrics": PipelineMetrics,
    "source": Source,
    "stages": StageResult,
}
_FIELDS = {model: model.model_fields.keys() for model in {*MODELS.values(), *_PARTS.values()}}
_KINDS = {
    RESULTS: re.compile(r"result"),
    STAGE_RESULTS: re.compile(r"stage_result/[0-4]"),
    TIMEOUTS: re.compile(r"timeout(/[0-4](/([2-9]|[1-9][0-9]+))?)?"),
}
_TYPES = {
    RESULTS: "fivestage.result.v1",
    STAGE_RESULTS: "fivestage.stage_result.v1",
    TIMEOUTS: "fivestage.timeout.v1",
}
_WANTED = {
    *("ce_specversion", "ce_id", "ce_source", "ce_type", "ce_subject", "ce_time", "ce_correlationid"),
    *("ce_causationid", "content-type", "traceparent", "lane"),
}
_STAMPED = {RESULTS: "finished_at", TIMEOUTS: "occurred_at"}
"""The field equal to ``ce_time``."""


class Event(NamedTuple):
    """An event that names its record."""

    output: str
    record: Record
    source: Place
    kind: str
    """The last part of its id, such as ``stage_result/2``."""
    headers: dict[str, str]
    value: dict[str, Any]

    @property
    def ce_id(self) -> str:
        """Return its id."""
        return self.headers["ce_id"]

    @property
    def name(self) -> str:
        """Return its name in complaints."""
        return f"{self.ce_id} at {self.output} {self.record.at[0]}/{self.record.at[1]}"


def read_event(output: str, record: Record, topic: str) -> Event | str:
    """Parse an event, or return why that fails.

    Args:
        output: The topic's key.
        record: The record.
        topic: The query topic.
    """
    name = f"{output} {record.at[0]}/{record.at[1]}"
    value = parsed(record.value)
    if not isinstance(value, dict):
        return f"{name}: its value is no JSON object"
    headers = {header: (text or b"").decode(errors="replace") for header, text in record.headers}
    found = re.fullmatch(rf"{re.escape(topic)}/(\d+)/(\d+)/(.+)", headers.get("ce_id", ""))
    if found is None or not _KINDS[output].fullmatch(found[3]):
        return f"{name}: ce_id {headers.get('ce_id')!r} is none of this topic's"
    return Event(output, record, (int(found[1]), int(found[2])), found[3], headers, value)


def flaws(event: Event, asked: Asked | None, topic: str, lane: str) -> Iterator[str]:
    """Return the faults of key and headers, and disagreements with the record.

    Args:
        event: The event.
        asked: The expectations of its record; None where that no longer exists.
        topic: The query topic.
        lane: The service's own lane.
    """
    yield from _flaws_of_headers(event)
    if asked is not None:
        yield from _disagreements(event, asked, topic, lane)


def flaws_of_value(event: Event, topic: str) -> Iterator[str]:
    """Return where the value of an event does not match its model."""
    model, value = MODELS[event.output], event.value
    if event.output != STAGE_RESULTS:  # those are in their result, which is validated, and compared with it
        try:
            model.model_validate_json(event.record.value or b"")
        except ValidationError as error:
            yield f"no {model.__name__}: {error.errors(include_input=False, include_url=False)[0]}"
            return
        partition, offset = event.source
        if value.get("source") != {"topic": topic, "partition": partition, "offset": offset}:
            yield f"its source is {value.get('source')}"
    yield from _wrong_fields(model, value)


def _wrong_fields(model: type[BaseModel], value: Any) -> Iterator[str]:
    if not isinstance(value, dict):
        return
    if wrong := value.keys() ^ _FIELDS[model]:
        yield f"{model.__name__}: these fields are missing or unknown: {sorted(wrong)}"
    for name, part in _PARTS.items():
        parts = value.get(name)
        for one in parts if isinstance(parts, list) else [parts]:
            yield from _wrong_fields(part, one)


def _flaws_of_headers(event: Event) -> Iterator[str]:
    headers, value = event.headers, event.value
    names = [name for name, _ in event.record.headers]
    wanted = _WANTED | ({"status"} if event.output == RESULTS else set())
    if wrong := (set(names) ^ wanted) - {"tracestate"}:
        yield f"these headers are missing or unknown: {sorted(wrong)}"
        return
    if twice := [name for name, times in Counter(names).items() if times > 1]:
        yield f"these headers are there twice: {twice}"
    expected = {
        "ce_specversion": "1.0",
        "ce_type": _TYPES[event.output],
        "ce_subject": value.get("query_id"),
        "content-type": "application/json",
        "lane": value.get("lane"),
    }
    if event.output in _STAMPED:
        expected["ce_time"] = value.get(_STAMPED[event.output])
    if event.output == RESULTS:
        expected["status"] = value.get("status")
    for name, text in expected.items():
        if headers[name] != text:
            yield f"header {name} is {headers[name]!r}, not {text!r}"
    if not headers["ce_source"].startswith("/"):
        yield f"ce_source is {headers['ce_source']!r}"
    if instant(headers["ce_time"]) is None:
        yield f"ce_time is {headers['ce_time']!r}"
    if not TRACEPARENT.fullmatch(headers["traceparent"]):
        yield f"traceparent is {headers['traceparent']!r}"


def _disagreements(event: Event, asked: Asked, topic: str, lane: str) -> Iterator[str]:
    """Return where it disagrees with its record."""
    headers, place = event.headers, f"{topic}/{event.source[0]}/{event.source[1]}"
    rejected = event.value.get("error_type") == "invalid_query"  # perhaps for its lane
    own = rejected and event.value.get("lane") == lane
    said = {
        "query_id": (event.value.get("query_id"), asked.query_id),
        "lane": (event.value.get("lane"), lane if own else asked.lane or lane),
        "key": (event.record.key, asked.key),
        "ce_correlationid": (headers.get("ce_correlationid"), asked.correlation_id),
        "ce_causationid": (headers.get("ce_causationid"), asked.causation_id or place),
    }
    if asked.trace_id is not None:
        said["trace"] = (headers.get("traceparent", "")[3:35], asked.trace_id)
        said["tracestate"] = (headers.get("tracestate"), asked.tracestate)
    for name, (here, there) in said.items():
        if here != there:
            yield f"its {name} is {here!r}, that of its record {there!r}"


def instant(text: Any) -> float | None:
    """Return seconds since 1970, of RFC 3339 with an offset; None for anything else."""
    try:
        found = datetime.fromisoformat(text)
    except (ValueError, TypeError):
        return None
    return found.timestamp() if found.tzinfo is not None else None
