"""Records of a clean run, which tests change before the checker judges them.

One partition: records 0 to 5 are answered, 6 is unreadable, 7 has a slow stage, 8 had expired, 9 is
unreadable with an id, 10 runs out of budget. Each starts a second after the one before.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from support.checker import History, InstanceExit, Record, Sample
from support.commits import Commit
from support.history import DEAD_LETTERS, OUTPUTS, RESULTS, STAGE_RESULTS, TIMEOUTS

QUERIES = 6
UNREADABLE, SLOW, EXPIRED, REJECTED, OVER = range(QUERIES, QUERIES + 5)
COUNT = OVER + 1
STAGES = ("intent", "decision", "processing", "validation", "reflection")
CRITICAL = ("intent", "decision", "processing")
TRACE = "00-{:032x}-00f067aa0ba902b7-01"
_TYPES = {RESULTS: "result", STAGE_RESULTS: "stage_result", TIMEOUTS: "timeout"}


@dataclass
class Event:
    """An event that is not encoded yet."""

    output: str
    offset: int
    """The offset of its record."""
    kind: str
    key: bytes | None
    value: Any
    headers: dict[str, str]
    timestamp_ms: int

    def again(self, **changes: Any) -> Event:
        """Return a copy."""
        copy: Event = replace(self, value=json.loads(json.dumps(self.value)), headers=dict(self.headers))
        copy.value.update(changes)
        return copy


@dataclass
class Planted:
    """The history under judgement."""

    queries: list[Record] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    letters: list[Record] = field(default_factory=list)
    history: History = field(default_factory=lambda: History(asked=set()))

    def event(self, offset: int, kind: str = "result") -> Event:
        """Return the first event of this kind about a record."""
        return next(event for event in self.events if (event.offset, event.kind) == (offset, kind))

    def of(self, offset: int) -> list[Event]:
        """Return all events about a record."""
        return [event for event in self.events if event.offset == offset]

    def made(self) -> History:
        """Return the finished history."""
        outputs: dict[str, list[Record]] = defaultdict(list, {DEAD_LETTERS: self.letters})
        for event in self.events:
            outputs[event.output].append(_written(event, len(outputs[event.output])))
        return replace(self.history, queries=self.queries, outputs={name: outputs[name] for name in OUTPUTS})


def clean() -> Planted:
    """Build the clean history."""
    planted = Planted()
    for offset in range(COUNT):
        planted.queries.append(_query(offset))
        _answer(planted, offset)
    asked = {f"q{offset}" for offset in range(COUNT) if offset != UNREADABLE}
    planted.history = History(
        asked=asked,
        ends={0: COUNT},
        rejects={(0, UNREADABLE), (0, REJECTED)},
        commits=[Commit(0, offset + 1, _ms(1000.9 + offset)) for offset in range(COUNT)],
        samples=[Sample("a", 8, 16, 100.0)],
        endings=[InstanceExit("a", 2.0, 0)],
    )
    return planted


def fail_over(planted: Planted, offset: int) -> None:
    """Add a failover: a node that timed out was called before the one that answered."""
    first = attempt("other", "timeout", 30.0, 30.0)
    second = attempt("work", "success", 20.0, 120.0, "failover")
    result = planted.event(offset)
    for stage in (result.value["stages"][2], planted.event(offset, "stage_result/2").value):
        stage.update(attempt=2, attempts=[first, second])
    fields = {"stage_type": "processing", "completed": ["intent", "decision"], "limit_ms": 30.0}
    _add_timeout(planted, offset, "timeout/2", "stage", "stage_timeout", {**fields, "elapsed_ms": 30.0})
    event = planted.event(offset, "timeout/2")
    event.value["node"] = "other"
    event.value["occurred_at"] = event.headers["ce_time"] = result.value["finished_at"]


def rerun(planted: Planted, offset: int, **changes: Any) -> None:
    """Run a query again a minute later: repeat its events, with *changes* in the result."""
    at = 1060.0 + offset
    stages = planted.event(offset).again().value["stages"]
    for stage in stages:
        stage["started_at"] = stage["started_at"] and _time(at)
    when = {"started_at": _time(at), "finished_at": _time(at + 0.13), "stages": stages}
    for event in planted.of(offset):
        copy = event.again()
        if event.output == STAGE_RESULTS:
            copy.value = stages[copy.value["sequence"]]
        elif event.output == RESULTS:
            copy.value.update({**when, **changes})
        copy.headers["ce_time"] = _time(at + 0.13)
        copy.timestamp_ms = _ms(at + 0.2)
        planted.events.append(copy)


def _query(offset: int) -> Record:
    name = f"q{offset}"
    headers = (("traceparent", TRACE.format(offset + 1).encode()), ("x-own", b"1"))
    value = json.dumps({"query_id": name, "user_input": 7 if offset == REJECTED else "work"}).encode()
    if offset == UNREADABLE:
        return Record((0, offset), None, b"[" * 2000, headers, _ms(999.0 + offset))
    return Record((0, offset), name.encode(), value, headers, _ms(999.0 + offset))


def _answer(planted: Planted, offset: int) -> None:
    if offset in {UNREADABLE, REJECTED}:
        planted.letters.append(_letter(planted.queries[offset], len(planted.letters)))
    if offset == UNREADABLE:
        return
    value = _result(offset)
    for number, stage in enumerate(value["stages"]):
        _add(planted, offset, STAGE_RESULTS, f"stage_result/{number}", stage)
    _add(planted, offset, RESULTS, "result", value)
    if offset == SLOW:
        fields = {"stage_type": "processing", "completed": ["intent", "decision"], "limit_ms": 120.0}
        _add_timeout(planted, offset, "timeout/2", "stage", "stage_timeout", {**fields, "elapsed_ms": 121.0})
    if offset == OVER:
        fields = {"stage_type": "reflection", "completed": list(STAGES[:4]), "limit_ms": 250.0}
        _add_timeout(
            planted, offset, "timeout", "pipeline", "pipeline_timeout", {**fields, "elapsed_ms": 250.0}
        )
    if offset == EXPIRED:
        fields = {"stage_type": None, "completed": [], "limit_ms": 500.0}
        waited = {**fields, "elapsed_ms": 1000.0}
        _add_timeout(planted, offset, "timeout", "queue", "expired_before_start", waited)


def _result(offset: int) -> dict[str, Any]:
    name, at = f"q{offset}", 1000.0 + offset
    unstarted = offset in {EXPIRED, REJECTED}
    outcomes = ["success"] * 5
    if offset == SLOW:
        outcomes[2:] = ["timeout", "skipped", "skipped"]
    if offset == OVER:
        outcomes[4] = "timeout"
    stages = [] if unstarted else [_stage(name, number, outcomes[number], at) for number in range(5)]
    took_ms = 0.0 if unstarted else 250.0 if offset == OVER else 130.0
    status = {SLOW: "timeout", EXPIRED: "expired", REJECTED: "error"}.get(offset, "success")
    errors = {SLOW: "timeout", EXPIRED: "expired", REJECTED: "invalid_query"}
    answer = f"a{offset}" if status == "success" else None
    return {
        "query_id": name,
        "status": status,
        "answer": answer,
        "confidence": None,
        "degraded": offset == OVER,
        "partial": False,
        "validated": True if answer else None,
        "error": errors.get(offset),
        "error_type": errors.get(offset),
        "node": None if unstarted else "work",
        "stages": stages,
        "metrics": {
            "total_duration_ms": took_ms,
            "queue_ms": 1000.0,
            "stage_durations": {s["stage_type"]: s["duration_ms"] for s in stages if s["started_at"]},
            "stages_completed": sum(stage["success"] for stage in stages),
            "stages_failed": sum(stage["timeout"] for stage in stages),
            "stages_skipped": sum(stage["outcome"] == "skipped" for stage in stages),
            "timeout_count": sum(stage["timeout"] for stage in stages),
            "budget_ms": 0.0 if unstarted else 250.0,
            "within_budget": not unstarted and offset != OVER,
        },
        "started_at": None if unstarted else _time(at),
        "finished_at": _time(at + took_ms / 1000),
        "source": {"topic": "in", "partition": 0, "offset": offset},
        "lane": "prod",
        "schema_version": "1",
    }


def _stage(name: str, number: int, outcome: str, at: float) -> dict[str, Any]:
    processing, skipped, late = number == 2, outcome == "skipped", outcome == "timeout"
    limit_ms, took_ms = 120.0, 121.0 if late else 20.0
    if late and not processing:  # until the end
        at, took_ms, limit_ms = at + 0.22, 30.0, 30.0
    return {
        "query_id": name,
        "stage_type": STAGES[number],
        "sequence": number,
        "outcome": outcome,
        "success": outcome == "success",
        "timeout": late,
        "critical": STAGES[number] in CRITICAL,
        "data": {"answer": f"a{name[1:]}"} if processing and not late else None,
        "error": None,
        "error_type": None if outcome == "success" else outcome,
        "node": "work" if processing else None,
        "attempt": 1,
        "attempts": [] if skipped else [attempt("work" if processing else None, outcome, took_ms, limit_ms)],
        "duration_ms": 0.0 if skipped else took_ms,
        "timeout_ms": 0.0 if skipped else limit_ms,
        "started_at": None if skipped else _time(at),
        "lane": "prod",
        "schema_version": "1",
    }


def attempt(
    node: str | None, outcome: str, took_ms: float, limit_ms: float, kind: str = "first"
) -> dict[str, Any]:
    """Build one attempt at a stage."""
    return {
        "node": node,
        "kind": kind,
        "outcome": outcome,
        "duration_ms": took_ms,
        "timeout_ms": limit_ms,
        "waited_ms": 0.0,
    }


def _add(planted: Planted, offset: int, output: str, kind: str, value: dict[str, Any]) -> None:
    name = f"q{offset}"
    stamp = value.get("finished_at") or value.get("occurred_at") or _time(1000.13 + offset)
    headers = {
        "ce_specversion": "1.0",
        "ce_id": f"in/0/{offset}/{kind}",
        "ce_source": "/fivestage/g",
        "ce_type": f"fivestage.{_TYPES[output]}.v1",
        "ce_subject": name,
        "ce_time": stamp,
        "ce_correlationid": name,
        "ce_causationid": f"in/0/{offset}",
        "content-type": "application/json",
        "traceparent": TRACE.format(offset + 1),
        "lane": "prod",
        **({"status": value["status"]} if output == RESULTS else {}),
    }
    at_ms = _ms(1000.4 + offset)
    planted.events.append(
        Event(output, offset, kind, name.encode(), json.loads(json.dumps(value)), headers, at_ms)
    )


def _add_timeout(
    planted: Planted, offset: int, kind: str, scope: str, reason: str, fields: dict[str, Any]
) -> None:
    result = planted.event(offset).value
    node = "work" if fields["stage_type"] == "processing" else None
    rest = {name: result[name] for name in ("query_id", "lane", "source", "schema_version")}
    value = {"scope": scope, "reason": reason, "node": node, "occurred_at": result["finished_at"]}
    _add(planted, offset, TIMEOUTS, kind, {**rest, **value, **fields})


def _letter(record: Record, number: int) -> Record:
    offset = record.at[1]
    own = {
        "dlq.reason": "not_json",
        "dlq.detail": "not JSON at character 7",
        "dlq.topic": "in",
        "dlq.partition": "0",
        "dlq.offset": str(offset),
        "dlq.timestamp": str(record.timestamp_ms),
    }
    headers = (*((name, text.encode()) for name, text in own.items()), record.headers[0])
    return Record((0, number), record.key, record.value, headers, _ms(1000.4 + offset), by_broker=True)


def _written(event: Event, number: int) -> Record:
    value = event.value if isinstance(event.value, bytes) else json.dumps(event.value).encode()
    headers = tuple((name, text.encode()) for name, text in event.headers.items())
    return Record((0, number), event.key, value, headers, event.timestamp_ms, by_broker=True)


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _ms(at: float) -> int:
    return round(at * 1000)
