"""The expected values of events, from the query and its run.

Values that only the service has (a time, a text for people) are copied from the event.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import orjson

from fivestage.core.stage_run import StageRun

from .endings import CRITICAL, STAGES
from .questions import answer_to, data_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fivestage.core.job import Job
    from fivestage.core.records import PlainRecord

    from .endings import Attempt, QueryEnding, Stage
    from .questions import Query

    Value = dict[str, Any]

PROCESSING: Final = 2
TOO_LARGE: Final = 10
"""The code of a record larger than its topic allows."""
MAX_RECORD_BYTES: Final = 40_000
"""The largest record of the event topics."""
SKIPPED: Final[Value] = {
    "data": None, "error": None, "error_type": "skipped", "node": None, "attempt": 1, "attempts": [],
    "duration_ms": 0, "timeout_ms": 0, "started_at": None,
}  # fmt: skip
UNSTARTED: Final[Value] = {
    "total_duration_ms": 0, "stage_durations": {}, "stages_completed": 0, "stages_failed": 0,
    "stages_skipped": 0, "timeout_count": 0, "budget_ms": 0, "within_budget": False,
}  # fmt: skip


class Asked(NamedTuple):
    """A record with its expectations, and one run of it: by an executor, or by none."""

    record: PlainRecord
    query: Query
    job: Job | None
    ending: QueryEnding | None
    refused: Mapping[str, int] = MappingProxyType({})
    """The codes of events that the brokers have rejected, by kind."""

    @property
    def query_id(self) -> str:
        """Return the id in every event."""
        return self.query.query_id or ""

    @property
    def source(self) -> Value:
        """Return the source of the query."""
        record = self.record
        return {"topic": str(record.topic), "partition": record.partition, "offset": record.offset}

    @property
    def common(self) -> Value:
        """Return the common fields of every value."""
        return {"query_id": self.query_id, "lane": self.query.lane, "schema_version": "1"}


def unstarted(asked: Asked, values: dict[str, Value], at: str) -> dict[str, Value]:
    """Return the values of all events of a rejected record."""
    found, note = values.get("result", {}), values.get("timeout", {})
    queue_ms = found.get("metrics", {}).get("queue_ms", note.get("elapsed_ms"))
    invalid = bool(asked.query.reason)
    due: Value = {
        "status": "error" if invalid else "expired", "answer": None, "confidence": None, "degraded": False,
        "validated": None, "partial": False, "error": found.get("error"), "node": None, "stages": [],
        "started_at": None,
        "error_type": "invalid_query" if invalid else "expired",
        "metrics": UNSTARTED | {"queue_ms": queue_ms}, "finished_at": at, "source": asked.source,
    } | asked.common  # fmt: skip
    if invalid:
        return {"result": due}
    timeout = {
        "scope": "queue", "reason": note.get("reason"), "stage_type": None, "node": None,
        "limit_ms": note.get("limit_ms"), "elapsed_ms": queue_ms, "completed": [], "occurred_at": at,
        "source": asked.source,
    } | asked.common  # fmt: skip
    return {"result": due, "timeout": timeout}


def started(
    asked: Asked, job: Job, ending: QueryEnding, values: dict[str, Value], at: str
) -> dict[str, Value]:
    """Return the values of all events of a started query."""
    answer = _answer(asked, ending)
    size = len(orjson.dumps(answer))
    due: dict[str, Value] = {}
    said = values.get("result", {}).get("stages") or [{}] * 5
    for number, (stage, outcome) in enumerate(zip(ending.stages, ending.outcomes, strict=True)):
        found = values.get(f"stage_result/{number}") or said[number]
        data = answer if number == PROCESSING else data_of(asked.query_id, number)
        due[f"stage_result/{number}"] = stage_due = _stage(asked, stage, outcome, data, found, number)
        stage_due["attempts"] = _attempts(ending.attempts[number], stage_due, found)
    stages = [due[f"stage_result/{number}"] for number in range(5)]
    due["stage_result/2"] = (
        _without_data(stages[PROCESSING]) if size > MAX_RECORD_BYTES else stages[PROCESSING]
    )
    due["result"] = result = _result(asked, job, ending, values.get("result", {}), stages, at)
    if size * 2 > MAX_RECORD_BYTES:
        result["stages"] = [_without_data(stage) for stage in stages]
    if size > MAX_RECORD_BYTES and result["answer"] is not None:
        too_large = {"status": "error", "error_type": "result_too_large", "answer": None, "confidence": None}
        result |= too_large | {"degraded": False, "error": _text(values.get("result", {}))}
    for kind, code in asked.refused.items():
        due[kind] = _instead(due[kind], "result_too_large" if code == TOO_LARGE else "publish_refused")
    for kind in ending.timeouts:
        due[kind] = _timeout(asked, ending, kind, result, at)
        if "result" not in values and kind == "timeout":  # the only duration of the whole query
            due[kind]["elapsed_ms"] = values.get(kind, {}).get("elapsed_ms")
    return due


def _answer(asked: Asked, ending: QueryEnding) -> Any:
    """Return the answer of processing, with the executor double's padding."""
    run = ending.stages[PROCESSING]
    if not isinstance(run, StageRun) or run.data_json is None:
        return None
    padding = len(orjson.loads(run.data_json).get("padding", ""))
    return answer_to(asked.query_id, asked.query.asks, padding)


def _stage(asked: Asked, stage: Stage, outcome: str, data: Any, found: Value, number: int) -> Value:
    due = SKIPPED | asked.common
    if stage is not None:
        due["attempt"] = stage.attempt
    if stage is not None and outcome != "skipped":
        due |= {"timeout_ms": ms(stage.granted_s), "node": stage.node, "error_type": "timeout"}
        due["duration_ms"] = found.get("duration_ms")
        due["started_at"] = None if stage.started_at is None else found.get("started_at")
    if isinstance(stage, StageRun):
        due |= {"error_type": stage.error_type, "duration_ms": ms(stage.duration_s)}
    due["data"] = data if outcome == "success" else None
    due["error"] = None if outcome == "success" else _text(found)
    return due | {
        "stage_type": STAGES[number], "sequence": number, "outcome": outcome, "critical": number < CRITICAL,
        "success": outcome == "success", "timeout": outcome == "timeout",
    }  # fmt: skip


def _attempts(tried: tuple[Attempt, ...], stage: Value, found: Value) -> list[Value]:
    """Return all attempts at a stage; the last one has the stage's outcome."""
    said = found.get("attempts") or []
    return [
        {
            "node": one.run.node, "kind": one.kind, "outcome": one.outcome,
            "duration_ms": _took_ms(number, tried, stage, said),
            "timeout_ms": ms(one.run.granted_s), "waited_ms": ms(one.run.waited_s),
        }
        for number, one in enumerate(tried)
    ]  # fmt: skip


def _took_ms(number: int, tried: tuple[Attempt, ...], stage: Value, said: list[Value]) -> Any:
    """Return the duration of an attempt: a lost one lasts until the next one starts."""
    run, following = tried[number].run, tried[number + 1 :]
    if isinstance(run, StageRun):
        return ms(run.duration_s)
    if following and following[0].run.started_at is not None:
        return ms(max(0.0, following[0].run.started_at - run.started_at))
    if tried[number].outcome == "timeout":
        return stage["duration_ms"]
    return said[number].get("duration_ms") if number < len(said) else None


def _without_data(stage: Value, error_type: str = "result_too_large") -> Value:
    if stage["data"] is None:
        return stage
    return stage | {"data": None, "error": ANY_TEXT, "error_type": error_type}


def _instead(due: Value, error_type: str) -> Value:
    """Return the replacement of a rejected event."""
    if "stages" not in due:
        return _without_data(due, error_type)
    stages = [_without_data(stage, error_type) for stage in due["stages"]]
    bare: Value = {"status": "error", "answer": None, "confidence": None, "stages": stages}
    bare |= {"degraded": False, "partial": False}
    return due | bare | {"error": ANY_TEXT, "error_type": error_type}


def _text(found: Value) -> Any:
    """Match any non-empty text for people."""
    return found.get("error") or ANY_TEXT


class _AnyText(str):
    """Equal to any non-empty text."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and other != ""

    __hash__ = str.__hash__


ANY_TEXT: Final = _AnyText("some text")


def _result(asked: Asked, job: Job, ending: QueryEnding, found: Value, stages: list[Value], at: str) -> Value:
    answered, node = ending.status == "success", stages[PROCESSING]["node"]
    answer, confidence = (stages[PROCESSING]["data"], job.history.confidence) if answered else (None, None)
    if ending.partial:
        assert job.history.offer is not None
        answer, confidence, node = answer_to(asked.query_id, asked.query.asks), 0.25, job.history.offer.node
    return {
        "status": ending.status, "answer": answer, "confidence": confidence, "degraded": ending.degraded,
        "validated": ending.validated, "partial": ending.partial, "error": None if answered else _text(found),
        "error_type": ending.error_type, "node": node, "stages": stages,
        "metrics": _metrics(job, ending, found.get("metrics", {}), stages),
        "started_at": found.get("started_at"), "finished_at": at, "source": asked.source,
    } | asked.common  # fmt: skip


def _metrics(job: Job, ending: QueryEnding, found: Value, stages: list[Value]) -> Value:
    outcomes, budget_ms = ending.outcomes, ms(job.ends_at - job.started_at)
    took_ms = found.get("total_duration_ms", 0.0)
    return {
        "total_duration_ms": took_ms, "queue_ms": found.get("queue_ms"), "budget_ms": budget_ms,
        "stage_durations": {
            one["stage_type"]: one["duration_ms"] for one in stages if one["started_at"] is not None
        },
        "stages_completed": outcomes.count("success"), "stages_skipped": outcomes.count("skipped"),
        "stages_failed": outcomes.count("error") + outcomes.count("timeout"),
        "timeout_count": outcomes.count("timeout"),
        "within_budget": took_ms <= budget_ms and "timeout" not in ending.timeouts,
    }  # fmt: skip


def _timeout(asked: Asked, ending: QueryEnding, kind: str, result: Value, at: str) -> Value:
    metrics, outcomes = result["metrics"], ending.outcomes
    due: Value = {
        "scope": "pipeline", "reason": "pipeline_timeout", "stage_type": None, "node": None,
        "limit_ms": metrics["budget_ms"], "elapsed_ms": metrics["total_duration_ms"], "occurred_at": at,
        "completed": _completed(outcomes), "source": asked.source,
    } | asked.common  # fmt: skip
    stage = ending.ran_out
    if kind != "timeout":
        number, _, attempt = kind.removeprefix("timeout/").partition("/")
        stage = ending.attempts[int(number)][int(attempt or 1) - 1].run
        assert isinstance(stage, StageRun)
        due |= {"scope": "stage", "reason": "stage_timeout", "completed": _completed(outcomes[: int(number)])}
        due |= {"limit_ms": ms(stage.granted_s), "elapsed_ms": ms(stage.duration_s)}
    if stage is not None:
        due |= {"stage_type": stage.spec.stage_type, "node": stage.node}
    return due


def _completed(outcomes: tuple[str, ...]) -> list[str]:
    return [str(stage) for stage, outcome in zip(STAGES, outcomes, strict=False) if outcome == "success"]


def ms(seconds: float) -> float:
    """Milliseconds as events have them."""
    return int(seconds * 1e6 + 0.5) / 1000


def difference(found: Any, due: Any) -> str:
    """Return where two objects differ, for people."""
    if isinstance(found, list) and isinstance(due, list) and len(found) == len(due):
        found, due = dict(enumerate(found)), dict(enumerate(due))
    if not (isinstance(found, dict) and isinstance(due, dict)):
        return f"is {found!r:.100}, not {due!r:.100}"
    missing = "absent"
    names = [name for name in {**found, **due} if found.get(name, missing) != due.get(name, missing)]
    return "; ".join(
        f"{name} {difference(found.get(name, missing), due.get(name, missing))}" for name in names[:3]
    )
