"""The checks of each event: its topic, key, headers and value, compared with the query and its run.

Values and header blocks are compared as a whole, so that missing, wrong and additional parts are
found.
"""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from aiokafka.partitioner import murmur2
from pydantic import BaseModel, ValidationError

from fivestage.settings import TopicSettings
from fivestage_schemas import PipelineResult, StageResult, TimeoutEvent
from fivestage_schemas import headers as h

from .questions import WALL_AT_START
from .values import difference, started, unstarted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fivestage.core.job import Job

    from .answers import Written
    from .values import Asked, Value

TOPICS: Final = TopicSettings()
TYPES: Final[dict[str, tuple[str, bytes, type[BaseModel]]]] = {
    "stage_result": (TOPICS.stage_results, b"fivestage.stage_result.v1", StageResult),
    "result": (TOPICS.results, b"fivestage.result.v1", PipelineResult),
    "timeout": (TOPICS.timeouts, b"fivestage.timeout.v1", TimeoutEvent),
}
"""Topic, ``ce_type`` and model of each kind of event."""
OWN = frozenset({h.CONTENT_TYPE, h.TRACEPARENT, h.TRACESTATE, h.LANE})
"""The record's headers that a dead letter keeps, beside those of CloudEvents."""
CORRUPT_RECORD: Final = "corrupt_record"
SHAPES: Final = (AttributeError, IndexError, KeyError, TypeError, ValueError)
"""Exceptions while reading an invalid value."""
CLOCK_S: Final = 3e-6
"""Events have microseconds, and the wall clock as float is not much finer."""


def check_run(asked: Asked, events: Sequence[Written], partitions: int, *, thorough: bool) -> Iterator[str]:
    """Return all faults of one run's events, some of which may be missing if it was broken off.

    Args:
        asked: The record and the run.
        events: In the order they were written.
        partitions: Of each output topic.
        thorough: Parse values with their models too.
    """
    first: dict[str, Written] = {}
    for one in events:
        before = first.setdefault(one.kind, one)
        if before is not one and before._replace(producer="") != one._replace(producer=""):
            yield f"{one.kind} is published again with other bytes"
    leading = first.get("result", events[0])
    common = _headers(asked, leading)
    for one in first.values():
        yield from _wrong_record(asked, one, common, partitions)
        if thorough:
            yield from _wrong_model(one)
    values: dict[str, Value] = {}
    for kind, one in first.items():
        if isinstance(one.event, dict):
            values[kind] = one.event
        else:
            yield f"{kind}: its value is {one.value!r}"
    try:
        yield from _wrong_values(asked, values, common[h.CE_TIME].decode())
    except SHAPES as error:
        yield f"values of another shape: {error!r}"


def check_letter(asked: Asked, letter: Written, *, damaged: bool) -> Iterator[str]:
    """Return all faults of a dead letter; one of a *damaged* record may be empty."""
    record, found = asked.record, dict(letter.headers)
    lost = asked.query.reason == CORRUPT_RECORD or (
        damaged and found[h.DLQ_REASON] == CORRUPT_RECORD.encode()
    )
    due = {
        h.DLQ_REASON: (CORRUPT_RECORD if lost else asked.query.reason).encode(),
        h.DLQ_DETAIL: found.get(h.DLQ_DETAIL) or b"some text",
        h.DLQ_TOPIC: record.topic.encode(),
        h.DLQ_PARTITION: b"%d" % record.partition,
        h.DLQ_OFFSET: b"%d" % record.offset,
        h.DLQ_TIMESTAMP: b"-1" if lost else b"%d" % record.timestamp,
    }
    own = {name: text for name, text in record.headers if name in OWN or name.startswith("ce_")}
    due |= {} if lost else own
    if found != due or len(letter.headers) != len(due):
        yield f"headers: {difference(found, due)}"
    if (letter.key, letter.value) != ((None, None) if lost else (record.key, record.value)):
        yield f"it has {letter.key!r}: {letter.value!r}, not {record.key!r}: {record.value!r}"
    if letter.topic != TOPICS.dead_letters:
        yield f"it is in the topic {letter.topic}"
    if asked.query.asks and asked.query.asks.encode() in due[h.DLQ_DETAIL]:
        yield f"it repeats what was asked: {due[h.DLQ_DETAIL]!r}"


# Keys and headers


def _headers(asked: Asked, leading: Written) -> dict[str, bytes]:
    """Return the expected headers of all events of a run."""
    record, query = asked.record, asked.query
    place = f"{record.topic}/{record.partition}/{record.offset}"
    headers = {
        h.CE_SPECVERSION: b"1.0",
        h.CE_SOURCE: b"/simulation",
        h.CE_SUBJECT: asked.query_id.encode(),
        h.CE_TIME: dict(leading.headers).get(h.CE_TIME) or b"",
        h.CE_CORRELATION_ID: (query.correlation or asked.query_id).encode(),
        h.CE_CAUSATION_ID: (query.causation or place).encode(),
        h.CONTENT_TYPE: b"application/json",
        h.TRACEPARENT: leading.run,
        h.LANE: query.lane.encode(),
        h.CE_ID: f"{place}/".encode(),
    }
    state = dict(record.headers).get(h.TRACESTATE) if query.traceparent else None
    return headers if state is None else headers | {h.TRACESTATE: state}


def _wrong_record(asked: Asked, one: Written, common: dict[str, bytes], partitions: int) -> Iterator[str]:
    kind, record = one.kind, asked.record
    topic, ce_type, _ = TYPES.get(kind.split("/", 1)[0], ("", b"", BaseModel))
    due = common | {h.CE_ID: common[h.CE_ID] + kind.encode(), h.CE_TYPE: ce_type}
    if kind == "result" and isinstance(one.event, dict):
        due[h.STATUS] = str(one.event.get("status")).encode()
    found = dict(one.headers)
    if found != due or len(one.headers) != len(due):
        yield f"{kind}: headers: {difference(found, due)}"
    key = record.key or asked.query_id.encode()
    if one.key != key:
        yield f"{kind}: its key is {one.key!r}, not {key!r}"
    elif one.partition != _partition(key, partitions):
        yield f"{kind}: it is in the partition {one.partition} of another key"
    if one.topic != topic:
        yield f"{kind}: it is in the topic {one.topic}"
    if not _is_span(one.run.decode(), asked.query.traceparent):
        yield f"{kind}: its traceparent is {one.run!r}, not of the trace {asked.query.traceparent}"


@lru_cache(maxsize=1024)
def _partition(key: bytes, partitions: int) -> int:
    """Return the partition of a key by Kafka's own clients."""
    return int(murmur2(key) & 0x7FFFFFFF) % partitions


def _is_span(found: str, parent: str | None) -> bool:
    """Return whether it is a new span, in the query's trace if that has one."""
    if [len(part) for part in found.split("-")] != [2, 32, 16, 2]:
        return False
    return parent is None or (found[:36] == parent[:36] and found[36:52] != parent[36:52])


def _wrong_model(one: Written) -> Iterator[str]:
    model = TYPES.get(one.kind.split("/", 1)[0], ("", b"", BaseModel))[2]
    try:
        model.model_validate_json(one.value or b"")
    except ValidationError as error:
        yield f"{one.kind}: {error}"


# Values


def _wrong_values(asked: Asked, values: dict[str, Value], at: str) -> Iterator[str]:
    result = values.get("result", {})
    if asked.job is not None and asked.ending is not None:
        due = started(asked, asked.job, asked.ending, values, at)
    else:
        due = unstarted(asked, values, at)
    for kind, found in values.items():
        if kind not in due:
            yield f"{kind} does not belong there, only {sorted(due)}"
        elif found != due[kind]:
            yield f"{kind}: {difference(found, due[kind])}"
    if result and (result.get("error") is None) != (result.get("status") == "success"):
        yield f"result: its error is {result.get('error')!r}"
    if asked.job is not None:
        yield from _wrong_times(asked, asked.job, values)
    else:
        yield from _wrong_refusal(asked, values, at)
    virtual_s = seconds(at) - WALL_AT_START
    if not asked.query.at_s - 0.001 <= virtual_s < 1000:
        yield f"its time is {at}"


def _wrong_refusal(asked: Asked, values: dict[str, Value], at: str) -> Iterator[str]:
    """Return faults of the reason and the wait of a query that was not started."""
    query, result, note = asked.query, values.get("result"), values.get("timeout")
    written_s = asked.record.timestamp / 1000
    if result is not None and query.reason and not str(result["error"]).startswith(query.reason):
        yield f"result: its error is {result['error']!r}, not {query.reason}"
    waited_ms = result["metrics"]["queue_ms"] if result is not None else 0.0
    if not 0 <= waited_ms <= (seconds(at) - written_s + CLOCK_S) * 1000:
        yield f"it waited {waited_ms} ms from {written_s} to {at}"
    if note is None:
        return
    early = query.due_s is None or seconds(at) < WALL_AT_START + query.due_s - CLOCK_S
    if note["reason"] != "would_expire" and (early or note["reason"] != "expired_before_start"):
        yield f"timeout: it was refused at {at} as {note['reason']}"
    limit_ms = query.budget_ms
    if query.due_s is not None:
        limit_ms = max(0.0, WALL_AT_START + query.due_s - written_s) * 1000
    if abs(note["limit_ms"] - limit_ms) > CLOCK_S * 1000:
        yield f"timeout: its limit is {note['limit_ms']} ms, not {limit_ms:.3f}"


def _wrong_times(asked: Asked, job: Job, values: dict[str, Value]) -> Iterator[str]:
    """Return faults of the start times of the query and its stages."""
    result = values.get("result")
    if result is not None:
        metrics, written_s = result["metrics"], asked.record.timestamp / 1000
        began, ended = seconds(result["started_at"]), seconds(result["finished_at"])
        if abs(began - WALL_AT_START - job.started_at) > CLOCK_S:
            yield f"result: it started at {result['started_at']}, not at {job.started_at:.6f} s"
        if abs(ended - began - metrics["total_duration_ms"] / 1000) > CLOCK_S:
            yield f"result: it took {ended - began:.6f} s, not {metrics['total_duration_ms']} ms"
        if abs(max(0.0, began - written_s) - metrics["queue_ms"] / 1000) > CLOCK_S:
            yield f"result: it waited {began - written_s:.6f} s, not {metrics['queue_ms']} ms"
    runs: list[Any] = [*job.history.runs, *([job.history.running] if job.history.running else [])]
    for kind, value in values.items():
        at, number = value.get("started_at"), value.get("sequence", 5)
        if at is not None and number < len(runs) and runs[number].started_at is not None:
            started_at = runs[number].started_at
            if abs(seconds(at) - WALL_AT_START - started_at) > CLOCK_S:
                yield f"{kind}: it started at {at}, not at {started_at:.6f} s"


def seconds(text: str) -> float:
    """Return the seconds since the epoch of an event's time; 0 if it is invalid."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except (TypeError, ValueError):
        return 0.0
