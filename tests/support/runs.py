"""A result, and the events of the same run of its query."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .events import instant

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .events import Event

STAGES = ("intent", "decision", "processing", "validation", "reflection")
LEFT_OUT = frozenset({"result_too_large", "publish_refused"})
"""The text of events without their data."""
_NOTHING: tuple[str, ...] = ()
_DATA = ("data", "error", "error_type")
_NEXT = {"error": "failover", "timeout": "failover", "skipped": "resumed"}
"""The kind of attempt that follows one of this outcome."""
_ROUNDING_S = 5e-6
"""Times in events are whole microseconds."""
READINGS_S = (_ROUNDING_S, 0.002, -0.002)
"""How much earlier than the deadline a stage may have ended that ran until then. The wall clock in events
is not the clock that decides: where both are this close, either reading is right."""


def companions(result: Event, reading_s: float = _ROUNDING_S) -> dict[str, dict[str, Any]]:
    """Return the events that belong to a result: by kind, the known fields of the value.

    Args:
        result: The terminal event.
        reading_s: One of `READINGS_S`.
    """
    value = result.value
    found = {f"stage_result/{number}": stage for number, stage in enumerate(value["stages"])}
    about = {
        "query_id": value["query_id"],
        "lane": value["lane"],
        "occurred_at": value["finished_at"],
        "source": value["source"],
    }
    if value["status"] == "expired":
        waited: dict[str, Any] = {"scope": "queue", "stage_type": None, "node": None, "completed": []}
        found["timeout"] = {**about, **waited, "elapsed_ms": value["metrics"]["queue_ms"]}
    for kind, fields in _timeouts(value, reading_s):
        found[kind] = {**about, **fields}
    return found


def is_companion(event: Event, result: Event, fields: dict[str, Any]) -> bool:
    """Return whether an event is of the same run as a result."""
    value, left_out = event.value, _NOTHING
    if LEFT_OUT & {value.get("error_type"), fields.get("error_type")}:
        left_out = _DATA  # one of the two is without data, as it did not fit
    trace = result.headers.get("traceparent", "")[3:35]
    return event.headers.get("traceparent", "")[3:35] == trace and all(
        name in left_out or value.get(name) == wanted for name, wanted in fields.items()
    )


def _timeouts(value: dict[str, Any], reading_s: float) -> Iterator[tuple[str, dict[str, Any]]]:
    """Return the timeouts of a started query, as in section 4 of the contract."""
    stages = value["stages"]
    done = [stage["stage_type"] for stage in stages if stage["success"]]
    at_the_end = None
    for stage in stages:
        for number, attempt in enumerate(_earlier(stage), 1):
            if attempt["outcome"] == "timeout":
                yield _stage_timeout(stage, attempt, number, done)
        if not stage["timeout"]:
            continue
        if _ran_to_the_end(stage, value, reading_s):
            at_the_end = at_the_end or stage
            continue
        yield _stage_timeout(stage, stage, stage["attempt"], done)
    failed = first_failure(value)
    if at_the_end is not None or (failed is not None and failed["outcome"] == "skipped"):
        yield (
            "timeout",
            {
                "scope": "pipeline",
                "reason": "pipeline_timeout",
                "stage_type": at_the_end and at_the_end["stage_type"],
                "node": at_the_end and at_the_end["node"],
                "limit_ms": value["metrics"]["budget_ms"],
                "elapsed_ms": value["metrics"]["total_duration_ms"],
                "completed": done,
            },
        )


def _earlier(stage: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the attempts at a stage that were followed by another, or by a skipped stage."""
    attempts: list[dict[str, Any]] = stage["attempts"]
    return attempts if stage["outcome"] == "skipped" else attempts[:-1]


def _stage_timeout(
    stage: dict[str, Any], late: dict[str, Any], number: int, done: list[str]
) -> tuple[str, dict[str, Any]]:
    """Return the timeout of an attempt at a stage: kind, and fields."""
    kind = f"timeout/{stage['sequence']}"
    return (
        kind if number == 1 else f"{kind}/{number}",
        {
            "scope": "stage",
            "reason": "stage_timeout",
            "stage_type": stage["stage_type"],
            "node": late["node"],
            "limit_ms": late["timeout_ms"],
            "elapsed_ms": late["duration_ms"],
            "completed": [name for name in done if STAGES.index(name) < stage["sequence"]],
        },
    )


def _ran_to_the_end(stage: dict[str, Any], value: dict[str, Any], reading_s: float) -> bool:
    """Return whether the stage ran until the deadline, or its limit was the deadline."""
    stage_at, query_at = instant(stage["started_at"]), instant(value["started_at"])
    if stage_at is None or query_at is None:
        return False
    took_s = float(max(stage["timeout_ms"], stage["duration_ms"])) / 1000
    return stage_at - query_at + took_s >= float(value["metrics"]["budget_ms"]) / 1000 - reading_s


def first_failure(value: dict[str, Any]) -> dict[str, Any] | None:
    """Return the stage that failed the query: a critical one without success, or a rejection.

    Processing does not fail a query that goes on with an offered answer.
    """
    goes_on = (value["partial"] and value["status"] == "success") or value["error_type"] == "rejected"
    for stage in value["stages"]:
        if stage["stage_type"] == "processing" and goes_on:
            continue
        rejected = stage["stage_type"] == "validation" and value["error_type"] == "rejected"
        if rejected or (stage["critical"] and not stage["success"]):
            return dict(stage)
    return None


def inconsistencies(result: Event) -> list[str]:
    """Return where a result contradicts its own stages, with any reading of its times."""
    return min((list(_inconsistencies(result.value, reading_s)) for reading_s in READINGS_S), key=len)


def _inconsistencies(value: dict[str, Any], reading_s: float) -> Iterator[str]:
    stages = value["stages"]
    if value["started_at"] is None:
        if stages or value["status"] not in {"expired", "error"} or value["answer"] is not None:
            yield f"it was not started and has status {value['status']}, {len(stages)} stages"
        return
    if [(stage["stage_type"], stage["sequence"]) for stage in stages] != list(
        zip(STAGES, range(5), strict=True)
    ):
        yield f"its stages are {[stage['stage_type'] for stage in stages]}"
        return
    for stage in stages:
        yield from _flaws_of_stage(stage, value)
    yield from _flaws_of_verdict(value, reading_s)
    yield from _flaws_of_metrics(value, reading_s)


def _flaws_of_stage(stage: dict[str, Any], value: dict[str, Any]) -> Iterator[str]:
    outcome = stage["outcome"]
    if (stage["success"], stage["timeout"]) != (outcome == "success", outcome == "timeout"):
        yield f"{stage['stage_type']}: its outcome is {outcome}, success {stage['success']}"
    if (stage["query_id"], stage["lane"]) != (value["query_id"], value["lane"]):
        yield f"{stage['stage_type']}: of query {stage['query_id']}, lane {stage['lane']}"
    if outcome == "skipped" and (stage["started_at"] or stage["error_type"] != "skipped"):
        yield f"{stage['stage_type']}: skipped, and started at {stage['started_at']}"
    yield from _flaws_of_attempts(stage)


def _flaws_of_attempts(stage: dict[str, Any]) -> Iterator[str]:
    """Return faults of attempts: numbers, order, and the last one's equality with the stage."""
    attempts, name = stage["attempts"], stage["stage_type"]
    if stage["outcome"] != "skipped":
        if len(attempts) != stage["attempt"]:
            yield f"{name}: {len(attempts)} attempts, and it is attempt {stage['attempt']}"
            return
        for field in ("node", "outcome", "duration_ms", "timeout_ms"):
            if attempts[-1][field] != stage[field]:
                yield f"{name}: its {field} is {stage[field]}, that of its last attempt {attempts[-1][field]}"
    kind = "first"
    for attempt in attempts:
        if attempt["kind"] != kind:
            yield f"{name}: an attempt is {attempt['kind']}, not {kind}"
        kind = _NEXT.get(attempt["outcome"], "none at all")


def _flaws_of_verdict(value: dict[str, Any], reading_s: float) -> Iterator[str]:
    failed, error_type = first_failure(value), value["error_type"]
    ran_out = any(fields["scope"] == "pipeline" for _, fields in _timeouts(value, reading_s))
    wanted = "success"
    if failed is not None:
        ends = {"timeout": "timeout", "skipped": "timeout"}
        wanted = "timeout" if ran_out else ends.get(failed["outcome"], "error")
    if error_type in LEFT_OUT and value["answer"] is None:
        wanted = "error"
    if value["status"] != wanted:
        yield f"its status is {value['status']}, after its stages {wanted}"
        return
    if (wanted == "success") != (error_type is None):
        yield f"its status is {wanted}, its error_type {error_type}"
    if (
        wanted == "error"
        and failed is not None
        and error_type not in {failed["error_type"], "rejected", *LEFT_OUT}
    ):
        yield f"its error_type is {error_type}, that of {failed['stage_type']} {failed['error_type']}"
    yield from _flaws_of_partial(value, failed)
    whole = all(stage["success"] for stage in value["stages"]) and value["validated"] is not False
    if value["degraded"] != (wanted == "success" and not whole):
        yield f"degraded is {value['degraded']}"
    yield from _flaws_of_answer(value)


def _flaws_of_partial(value: dict[str, Any], failed: dict[str, Any] | None) -> Iterator[str]:
    """Return faults of an offered answer: the query failed in processing, or went on without its success."""
    processing = value["stages"][STAGES.index("processing")]
    if not value["partial"]:
        return
    if processing["success"] or (failed is not None and failed["stage_type"] != "processing"):
        yield f"it is partial, and processing ended as {processing['outcome']}"
    if value["node"] not in {attempt["node"] for attempt in processing["attempts"]}:
        yield f"it is partial, and node {value['node']} was not called"


def _flaws_of_answer(value: dict[str, Any]) -> Iterator[str]:
    processing = value["stages"][STAGES.index("processing")]
    data = processing["data"]
    if value["partial"]:
        return
    if value["status"] != "success":
        if value["answer"] is not None:
            yield "it has an answer without success"
    elif processing["success"] and processing["error_type"] not in LEFT_OUT:
        answer = data["answer"] if isinstance(data, dict) and "answer" in data else data
        if value["answer"] != answer:
            yield "its answer is not what processing returned"
    if value["node"] != processing["node"]:
        yield f"its node is {value['node']}, that of processing {processing['node']}"


def _flaws_of_metrics(value: dict[str, Any], reading_s: float) -> Iterator[str]:
    stages, metrics = value["stages"], value["metrics"]
    outcomes = [stage["outcome"] for stage in stages]
    wanted = {
        "stages_completed": outcomes.count("success"),
        "stages_failed": outcomes.count("error") + outcomes.count("timeout"),
        "stages_skipped": outcomes.count("skipped"),
        "timeout_count": outcomes.count("timeout"),
        "stage_durations": {s["stage_type"]: s["duration_ms"] for s in stages if s["started_at"]},
    }
    for name, figure in wanted.items():
        if metrics[name] != figure:
            yield f"{name} is {metrics[name]}, after its stages {figure}"
    started, finished = instant(value["started_at"]), instant(value["finished_at"])
    took_s = metrics["total_duration_ms"] / 1000
    if started is None or finished is None or abs(finished - started - took_s) > _ROUNDING_S:
        yield f"it took {took_s} s, and from {value['started_at']} to {value['finished_at']}"
    ran_out = any(fields["scope"] == "pipeline" for _, fields in _timeouts(value, reading_s))
    in_time = metrics["total_duration_ms"] <= metrics["budget_ms"] and not ran_out
    if metrics["within_budget"] != in_time:
        yield f"within_budget is {metrics['within_budget']}"
