"""The reason in words of how a query ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from fivestage.core.codec.event_json import EventJson
from fivestage.core.offer import Offer
from fivestage.core.plan import Plan
from fivestage.core.why import decisive, why
from fivestage_schemas import PipelineResult, PipelineStatus, StageType, TimeoutReason

from .samples import (
    DECISION,
    ERROR,
    INTENT,
    PROCESSING,
    SKIPPED,
    STARTED_AT,
    SUCCESS,
    TIMEOUT,
    VALIDATION,
    concluded,
    ended,
    envelope,
    history_of,
    run_of,
    running_of,
)

if TYPE_CHECKING:
    from fivestage.core.outcome import QueryOutcome
    from fivestage.core.stage_history import StageHistory

CANARY = "canary-4711"


def published(outcome: QueryOutcome, **fields: Any) -> PipelineResult:
    """Return the result that is published for an outcome."""
    events = EventJson(envelope(**fields))
    stages = [events.stage(run, outcome.earlier) for run in outcome.runs]
    return PipelineResult.model_validate_json(events.result(outcome, stages))


def unstarted(status: PipelineStatus, error_type: str, **fields: Any) -> PipelineResult:
    """Return the result of a query that was not started."""
    return PipelineResult.model_validate_json(
        EventJson(envelope(**fields)).unstarted(status, CANARY, error_type)
    )


def failed_over(last: str = "qa-b") -> StageHistory:
    """Build a stage history in which the first node failed and the second did not answer in time."""
    history = history_of(ended([SUCCESS] * 2))
    history.fail_over(run_of(PROCESSING, ERROR, at=STARTED_AT + 0.02, took_s=0.081, node="qa-a"))
    history.finish(
        run_of(PROCESSING, TIMEOUT, at=STARTED_AT + 0.1, took_s=0.12, granted_s=0.12, node=last, attempt=2)
    )
    return history


def test_a_slow_answer_names_the_slowest_stage() -> None:
    """A query in time says how long it took, and where."""
    runs = ended([SUCCESS] * 5)
    runs[2] = run_of(PROCESSING, took_s=0.18, node="llm")
    got = why(published(concluded(history_of(runs), after_s=0.212)))
    assert got == "answered in 212 ms of 250 ms; processing (llm) took 180 ms"


def test_time_in_which_no_stage_ran() -> None:
    """The time between the stages is the cause if it is longer than each of them, however the query ended."""
    runs = [run_of(stage, took_s=0.0004) for stage in StageType]
    idle = "passed while no stage ran: the event loop was busy or blocked"
    assert why(published(concluded(history_of(runs), after_s=0.225))) == (
        f"answered in 225 ms of 250 ms; 223 ms {idle}"
    )
    runs[2] = run_of(PROCESSING, took_s=0.06, node="llm")
    assert why(published(concluded(history_of(runs), after_s=0.225))) == (
        f"answered in 225 ms of 250 ms; 163 ms {idle}, and processing (llm) took 60 ms"
    )
    assert why(published(concluded(history_of(runs[:2]), after_s=0.25))) == (
        f"no time was left for processing within 250 ms; 249 ms {idle}"
    )
    running = running_of(PROCESSING, at=STARTED_AT + 0.24, granted_s=0.01)
    assert why(published(concluded(history_of(runs[:2], running), after_s=0.25))) == (
        f"the 250 ms of the query ran out while processing (math) had run for 10 ms; 239 ms {idle}"
    )


def test_the_wait_before_the_start_is_mentioned() -> None:
    """A query that was old when it was reached says so; a fresh one does not."""
    outcome = concluded(history_of(ended([SUCCESS] * 5)))
    assert why(published(outcome, queue_s=12.4)).endswith("; it was 12 s old when it was reached")
    assert "old" not in why(published(outcome, queue_s=0.01))


def test_a_stage_timeout_names_limit_and_earlier_attempts() -> None:
    """The attempts that came before are part of the reason."""
    outcome = concluded(failed_over(), after_s=0.22)
    expected = "processing (qa-b) did not end within the 120 ms it was granted, after qa-a failed in 81 ms"
    assert why(published(outcome)) == expected


def test_the_total_time_ran_out() -> None:
    """The stage that was running is named, and what used up the time."""
    runs = [
        run_of(INTENT, took_s=0.05),
        run_of(DECISION, at=STARTED_AT + 0.05, took_s=0.1),
    ]
    running = running_of(PROCESSING, at=STARTED_AT + 0.15, granted_s=0.1)
    outcome = concluded(history_of(runs, running), after_s=0.25)
    assert why(published(outcome)) == (
        "the 250 ms of the query ran out while processing (math) had run for 100 ms; "
        "decision took 100 ms and intent took 50 ms"
    )


def test_no_time_was_left_for_a_stage() -> None:
    """A critical stage that could not start is named."""
    runs = [run_of(INTENT, took_s=0.05), run_of(DECISION, took_s=0.2)]
    outcome = concluded(history_of(runs), after_s=0.25)
    assert why(published(outcome)).startswith("no time was left for processing within 250 ms; decision took")


@pytest.mark.parametrize(
    ("error_type", "expected"),
    [
        ("ConnectionError", "processing (pricing) failed with ConnectionError after 10 ms"),
        (
            "ModelError",
            "processing (pricing) failed after 10 ms: the model's server refused the request (ModelError)",
        ),
        ("breaker_open", "node pricing was not called because its breaker was open"),
        ("node_busy", "node pricing was not called because no thread, or no slot of its limit, was free"),
        ("worker_died", "the worker process died while it ran the query"),
    ],
)
def test_an_error_names_node_and_class(error_type: str, expected: str) -> None:
    """The class of the exception and the node, without its message."""
    failed = run_of(PROCESSING, ERROR, node="pricing", error_type=error_type, error=CANARY)
    result = published(concluded(history_of([*ended([SUCCESS] * 2), failed])))
    assert why(result) == expected
    assert (stage := decisive(result)) is not None
    assert stage.stage_type is PROCESSING


def test_a_node_without_a_free_slot_names_the_wait() -> None:
    """How long the query waited for it."""
    busy = run_of(PROCESSING, ERROR, node="pricing", error_type="node_busy")
    busy.waited_s = 0.14
    result = published(concluded(history_of([*ended([SUCCESS] * 2), busy])))
    assert why(result).endswith("no slot of its limit, was free for 140 ms")


def test_a_degraded_answer_names_what_is_missing() -> None:
    """The stages without success, in order."""
    result = published(concluded(history_of(ended([SUCCESS, SUCCESS, SUCCESS, TIMEOUT, SKIPPED]))))
    assert why(result) == (
        "answered without all stages: validation did not end within the 40 ms it was granted, "
        "reflection was skipped"
    )


def test_a_partial_answer_names_who_offered_it() -> None:
    """The node that offered the answer, and the one that did not end, also for a timeout."""
    runs = [*ended([SUCCESS, SUCCESS, TIMEOUT]), *ended([SUCCESS] * 5)[3:]]
    history = history_of(runs)
    history.offer = Offer(b"22", 0.5, "math")
    assert why(published(concluded(history, after_s=0.15))) == (
        "processing (math) did not end within the 120 ms it was granted; math had offered an answer"
    )
    runs[2].partial = True
    assert why(published(concluded(history, after_s=0.15))) == (
        "answered with what math had offered: processing (math) did not end within the 120 ms it was granted"
    )


def test_a_rejected_answer() -> None:
    """The verdict of validation is the reason, whether the query is degraded or fails."""
    runs = ended([SUCCESS] * 5)
    runs[3] = run_of(VALIDATION, verdict=False)
    expected = "answered, but validation rejected the answer"
    assert why(published(concluded(history_of(runs)))) == expected
    plan = Plan.of(rejected="error")
    runs = ended([SUCCESS] * 3, plan=plan)
    runs.append(run_of(VALIDATION, plan=plan, verdict=False))
    assert why(published(concluded(history_of(runs), plan=plan))) == "validation rejected the answer"
    runs[-1].error = "there is no answer: it is null"
    assert why(published(concluded(history_of(runs), plan=plan))) == (
        "validation rejected the answer: there is no answer: it is null"
    )


@pytest.mark.parametrize("stage", [PROCESSING, VALIDATION])
def test_code_that_did_not_give_control_back(stage: StageType) -> None:
    """Without Kafka nothing ends a stage that blocks: the reason says so, with what to do."""
    said = ", as it did not give control back to the event loop; code that blocks belongs in a def, or in "
    number = list(StageType).index(stage)
    late = run_of(stage, TIMEOUT, took_s=1.0, granted_s=0.1)
    runs = [*ended([SUCCESS] * number), late, *ended([SUCCESS] * 5)[number + 1 :]]

    def reason(after_s: float, **fields: Any) -> str:
        history = history_of(runs[: number + 1] if late.ends_query else runs)
        return why(published(concluded(history, after_s=after_s)).model_copy(update=fields))

    assert "control back" not in reason(1.1)  # from Kafka: its worker may have got no CPU
    assert said in reason(1.1, source=None)
    late.duration_s = 0.2
    doubt = ", as it blocked the event loop, or ignored its cancellation; code that blocks belongs in a def"
    assert doubt in reason(0.25, source=None)
    late.duration_s = 0.19  # it may have cleaned up
    assert "event loop" not in reason(0.25, source=None)


@pytest.mark.parametrize("outcome", [SUCCESS, TIMEOUT, ERROR])
def test_skipped_attempts_beside_a_hedge(outcome: Any) -> None:
    """Overtaken only where another call has answered; else the query was moved away from the hedge."""
    history, at = history_of(ended([SUCCESS] * 2)), STARTED_AT + 0.02
    late = run_of(PROCESSING, ERROR, at=at + 0.02, took_s=0.03, node="b", attempt=2, hedge=True)
    late.outcome, late.overtaken = SKIPPED, outcome is SUCCESS
    history.superseded.append(late)
    last = run_of(PROCESSING, outcome, at=at, took_s=0.05, node="a")
    last.partial, last.error_type = outcome is not SUCCESS, "worker_died" if outcome is ERROR else None
    history.finish(last)
    history.runs += ended([SUCCESS] * 5)[3:]
    word = "overtaken" if outcome is SUCCESS else "given up"
    assert f"after b was {word} after 30 ms" in why(published(concluded(history, after_s=0.1)))


def test_a_query_that_was_not_started() -> None:
    """The age at which it was reached, and the reason of its timeout event where that is known."""
    result = unstarted(PipelineStatus.EXPIRED, "expired", queue_s=0.26)
    assert why(result) == (
        "its answer would have come too late, so it was not started; it was 260 ms old when it was reached"
    )
    assert why(result, TimeoutReason.WOULD_EXPIRE).startswith("less time was left than an answer takes")
    unreadable = unstarted(PipelineStatus.ERROR, "invalid_query")
    assert why(unreadable) == "the record could not be read as a query"


@pytest.mark.parametrize("stage", range(5))
@pytest.mark.parametrize("outcome", [ERROR, TIMEOUT, SKIPPED])
def test_texts_of_exceptions_are_never_shown(stage: int, outcome: Any) -> None:
    """Whichever stage fails however: one line, without the message."""
    outcomes = [SUCCESS] * stage + [outcome]
    runs = ended(outcomes)
    if outcome is not SKIPPED:
        runs[-1].error = CANARY
    result = published(concluded(history_of(runs), after_s=0.2))
    assert CANARY not in why(result)
    assert "\n" not in why(result)
