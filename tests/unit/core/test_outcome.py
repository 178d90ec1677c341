"""Query outcomes: the table of the contract."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fivestage.core.offer import Offer, SentOffer
from fivestage.core.outcome import microseconds
from fivestage.core.plan import Plan
from fivestage_schemas import Outcome, PipelineStatus, StageType, TimeoutReason, TimeoutScope
from support.fields import fields

from .samples import (
    DECISION,
    ERROR,
    INTENT,
    PLAN,
    PROCESSING,
    REFLECTION,
    SKIPPED,
    STARTED_AT,
    SUCCESS,
    TIMEOUT,
    VALIDATION,
    altered,
    concluded,
    ended,
    history_of,
    run_of,
    running_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from fivestage.core.outcome import QueryOutcome
    from fivestage.core.stage_history import StageHistory
    from fivestage.core.stage_run import RunningStage, StageRun

STAGE, PIPELINE = (
    (TimeoutScope.STAGE, TimeoutReason.STAGE_TIMEOUT),
    (
        TimeoutScope.PIPELINE,
        TimeoutReason.PIPELINE_TIMEOUT,
    ),
)
END = 0.25
"""The total, in seconds after the start."""


class Row(NamedTuple):
    """One row of the table: what happened, and the expected outcome."""

    what: str
    history: Callable[[], StageHistory]
    status: PipelineStatus
    outcomes: list[Outcome]
    timeouts: list[tuple[TimeoutScope, TimeoutReason, StageType | None]]
    error: str | None = None
    error_type: str | None = None
    degraded: bool = False
    after_s: float = 0.05
    plan: Plan = PLAN


def cut(stage: StageType, *, after: list[Outcome], at_s: float, granted_s: float) -> StageHistory:
    """Build a stage history with a stage still running."""
    return history_of(ended(after), running_of(stage, at=STARTED_AT + at_s, granted_s=granted_s))


def late_reflection() -> StageHistory:
    """Build a reflection that timed out with the remaining total as its limit."""
    runs = ended([SUCCESS] * 4)
    at = STARTED_AT + END - 0.02
    return history_of([*runs, run_of(REFLECTION, TIMEOUT, at=at, granted_s=0.02, took_s=0.02)])


ALL_CRITICAL = Plan.of(critical=StageType)
NONE_CRITICAL = Plan.of(critical=())
S, E, T, X = SUCCESS, ERROR, TIMEOUT, SKIPPED
OK, FAILED, LATE = PipelineStatus.SUCCESS, PipelineStatus.ERROR, PipelineStatus.TIMEOUT
TABLE = [
    Row("all in time", lambda: history_of(ended([S] * 5)), OK, [S] * 5, []),
    Row(
        "a non-critical stage failed",
        lambda: history_of(ended([S, S, S, E, S])),
        OK,
        [S, S, S, E, S],
        [],
        degraded=True,
    ),
    Row(
        "a non-critical stage timed out",
        lambda: history_of(ended([S, S, S, T, S])),
        OK,
        [S, S, S, T, S],
        [(*STAGE, VALIDATION)],
        degraded=True,
    ),
    Row(
        "both non-critical stages timed out",
        lambda: history_of(ended([S, S, S, T, T])),
        OK,
        [S, S, S, T, T],
        [(*STAGE, VALIDATION), (*STAGE, REFLECTION)],
        degraded=True,
    ),
    Row(
        "a non-critical stage had no time left",
        lambda: history_of(ended([S, S, S, S, X])),
        OK,
        [S, S, S, S, X],
        [],
        degraded=True,
        after_s=END,
    ),
    *[
        Row(
            f"critical {stage} timed out",
            lambda n=place: history_of(ended([*[S] * n, T])),  # type: ignore[misc]
            LATE,
            [*[S] * place, T, *[X] * (4 - place)],
            [(*STAGE, stage)],
            error=f"{stage.capitalize()} timed out after {PLAN.stages[place].limit_s * 1000:.0f} ms",
            error_type="timeout",
            after_s=0.2,
        )
        for place, stage in enumerate([INTENT, DECISION, PROCESSING])
    ],
    *[
        Row(
            f"critical {stage} raised",
            lambda n=place: history_of(ended([*[S] * n, E])),  # type: ignore[misc]
            FAILED,
            [*[S] * place, E, *[X] * (4 - place)],
            [],
            error=f"{stage.capitalize()} failed: boom",
            error_type="ValueError",
        )
        for place, stage in enumerate([INTENT, DECISION, PROCESSING])
    ],
    *[
        Row(
            f"the total ran out in critical {stage}",
            lambda n=place, s=stage: cut(s, after=[S] * n, at_s=END - 0.03, granted_s=0.03),  # type: ignore[misc]
            LATE,
            [*[S] * place, T, *[X] * (4 - place)],
            [(*PIPELINE, stage)],
            error="Pipeline timeout exceeded (250 ms)",
            error_type="timeout",
            after_s=END,
        )
        for place, stage in enumerate([INTENT, DECISION, PROCESSING])
    ],
    Row(
        "the total ran out, all critical stages had finished",
        lambda: cut(VALIDATION, after=[S] * 3, at_s=END - 0.01, granted_s=0.01),
        OK,
        [S, S, S, T, X],
        [(*PIPELINE, VALIDATION)],
        degraded=True,
        after_s=END,
    ),
    Row(
        "the total ran out in the last stage",
        late_reflection,
        OK,
        [S, S, S, S, T],
        [(*PIPELINE, REFLECTION)],
        degraded=True,
        after_s=END,
    ),
    Row(
        "the total ran out before a critical stage could begin",
        lambda: history_of(ended([S, S, X])),
        LATE,
        [S, S, X, X, X],
        [(*PIPELINE, None)],
        error="Pipeline timeout exceeded (250 ms)",
        error_type="timeout",
        after_s=END,
    ),
    Row(
        "nothing had started at the deadline",
        lambda: history_of([]),
        LATE,
        [X] * 5,
        [(*PIPELINE, None)],
        error="Pipeline timeout exceeded (250 ms)",
        error_type="timeout",
        after_s=END,
    ),
    Row(
        "a stage swallowed its cancellation and ran on to the deadline",
        lambda: cut(PROCESSING, after=[S, S], at_s=0.02, granted_s=0.12),
        LATE,
        [S, S, T, X, X],
        [(*PIPELINE, PROCESSING)],
        error="Pipeline timeout exceeded (250 ms)",
        error_type="timeout",
        after_s=END,
    ),
    Row(
        "a stage timed out, then the total ran out",
        lambda: history_of(
            ended([S, S, S, T]), running_of(REFLECTION, at=STARTED_AT + END - 0.02, granted_s=0.02)
        ),
        OK,
        [S, S, S, T, T],
        [(*STAGE, VALIDATION), (*PIPELINE, REFLECTION)],
        degraded=True,
        after_s=END,
    ),
    Row(
        "critical validation raised",
        lambda: history_of(ended([S, S, S, E], plan=ALL_CRITICAL)),
        FAILED,
        [S, S, S, E, X],
        [],
        error="Validation failed: boom",
        error_type="ValueError",
        plan=ALL_CRITICAL,
    ),
    Row(
        "critical reflection timed out",
        lambda: history_of(ended([S, S, S, S, T], plan=ALL_CRITICAL)),
        LATE,
        [S, S, S, S, T],
        [(*STAGE, REFLECTION)],
        error="Reflection timed out after 30 ms",
        error_type="timeout",
        plan=ALL_CRITICAL,
    ),
    Row(
        "nothing is critical and everything failed",
        lambda: history_of(ended([E] * 5, plan=NONE_CRITICAL)),
        OK,
        [E] * 5,
        [],
        degraded=True,
        plan=NONE_CRITICAL,
    ),
]


@pytest.mark.parametrize("row", TABLE, ids=[row.what for row in TABLE])
def test_the_table(row: Row) -> None:
    """Each row of the contract's table holds for each stage that it can happen to."""
    got = concluded(row.history(), plan=row.plan, after_s=row.after_s)
    assert got.status is row.status
    assert [run.outcome for run in got.runs] == row.outcomes
    stages = [(note.scope, note.reason, note.spec and note.spec.stage_type) for note in got.timeouts]
    assert stages == row.timeouts
    assert (got.error, got.error_type, got.degraded) == (row.error, row.error_type, row.degraded)
    answered = row.status is OK and row.outcomes[2] is SUCCESS
    assert (got.answer_json, got.confidence) == ((b"22", 0.75) if answered else (None, None))
    assert got.within_budget is not any(note.scope is TimeoutScope.PIPELINE for note in got.timeouts)
    assert got.node == ("math" if row.outcomes[2] is not SKIPPED else None)


def test_within_budget_to_the_microsecond() -> None:
    """within_budget compares the times as events show them: a difference of floats is no lateness."""
    got = concluded(history_of(ended([S] * 5)), after_s=END)._replace(budget_s=0.25)
    for over_s, within in ((0, True), (1e-12, True), (4e-7, True), (6e-7, False), (1e-6, False)):
        assert got._replace(duration_s=0.25 + over_s).within_budget is within, over_s


def test_the_notes_have_figures() -> None:
    """Timeout notes have limit, elapsed time, node and finished stages, for a stage and for the pipeline."""
    runs = ended([S, S, S, T])
    running = running_of(REFLECTION, at=STARTED_AT + END - 0.02, granted_s=0.02)
    stage, pipeline = concluded(history_of(runs, running), after_s=END).timeouts
    assert (stage.limit_s, stage.completed) == (0.04, (INTENT, DECISION, PROCESSING))
    assert stage.elapsed_s == 0.04
    assert (pipeline.limit_s, pipeline.elapsed_s) == (END, END)
    assert pipeline.completed == (INTENT, DECISION, PROCESSING)


def test_the_running_stage_is_reported() -> None:
    """A stage cut at the deadline has its start, duration, node and attempt."""
    running = altered(running_of(PROCESSING, at=STARTED_AT + 0.2, granted_s=0.05), attempt=2)
    run = concluded(history_of(ended([S, S]), running), after_s=END).runs[2]
    assert (run.outcome, run.error_type, run.node, run.attempt) == (TIMEOUT, "timeout", "math", 2)
    assert run.started_at == STARTED_AT + 0.2
    assert run.duration_s == pytest.approx(0.05)
    assert run.granted_s == 0.05
    assert run.error == "timed out after 50 ms: it was running at the deadline"


@pytest.mark.parametrize(
    ("outcomes", "reason"),
    [([S, E], "decision did not succeed"), ([T], "intent did not succeed"), ([S, S], "no time left")],
)
def test_skipped_stages_say_why(outcomes: list[Outcome], reason: str) -> None:
    """A skipped stage names the failed stage, or the lack of time; it has no times."""
    got = concluded(history_of(ended(outcomes)), after_s=END)
    for run in got.runs[len(outcomes) :]:
        assert (run.error, run.error_type, run.started_at, run.duration_s) == (reason, "skipped", None, 0.0)


def test_an_answer_needs_a_processing_stage_that_succeeded() -> None:
    """An answer that processing is writing at the deadline is not in time, also when non-critical."""
    plan = Plan.of(critical=[INTENT])
    history = history_of(
        ended([S, S], plan=plan), running_of(PROCESSING, at=STARTED_AT + 0.2, granted_s=0.05, plan=plan)
    )
    history.answer_json, history.confidence = b'"too late"', 0.5
    got = concluded(history, plan=plan, after_s=END)
    assert got.status is OK
    assert (got.answer_json, got.confidence) == (None, None)


# Rejected answers

REJECTING = Plan.of(rejected="error")


def validated(verdict: bool | None, plan: Plan = PLAN, *, runs: int = 5) -> StageHistory:  # noqa: FBT001
    """Build a successful stage history with a verdict of validation."""
    made = ended([S] * runs, plan=plan)
    altered(made[3], verdict=verdict)
    return history_of(made)


@pytest.mark.parametrize("verdict", [True, False, None])
def test_the_verdict_is_part_of_the_outcome(verdict: bool | None) -> None:  # noqa: FBT001
    """A rejected answer degrades a success; an accepted one does not."""
    got = concluded(validated(verdict))
    assert (got.status, got.answer_json, got.error_type) == (OK, b"22", None)
    assert (got.validated, got.degraded) == (verdict, verdict is False)


@pytest.mark.parametrize("plan", [REJECTING, ALL_CRITICAL])
@pytest.mark.parametrize("runs", [4, 5])
def test_a_rejection_may_end_the_query(plan: Plan, runs: int) -> None:
    """With the setting on a rejection ends the query as an error; skipped stages name it."""
    got = concluded(validated(False, plan, runs=runs), plan=plan)
    assert (got.status, got.error_type, got.error) == (FAILED, "rejected", "Validation rejected the answer")
    assert (got.validated, got.degraded, got.answer_json) == (False, False, None)
    assert [run.outcome for run in got.runs] == [S] * runs + [X] * (5 - runs)
    assert runs == 5 or got.runs[4].error == "Validation rejected the answer"
    assert concluded(validated(True, plan), plan=plan).status is OK


def test_a_rejection_says_why() -> None:
    """The error of a query that ends by a rejection has the reason that validation gives."""
    history = validated(False, REJECTING)
    history.runs[3].error = "there is no answer: it is null"
    got = concluded(history, plan=REJECTING)
    assert got.error == "Validation rejected the answer: there is no answer: it is null"


# Arbitrary histories

seconds = st.floats(0, 0.3, allow_subnormal=False)


@st.composite
def histories(draw: st.DrawFn) -> tuple[StageHistory, Plan]:
    """Any number of stages with any outcome, possibly one running; any stages critical."""
    critical = draw(st.sets(st.sampled_from(StageType)))
    plan = Plan.of(critical=critical, rejected=draw(st.sampled_from(["degrade", "error"])))
    outcomes = draw(st.lists(st.sampled_from(Outcome), max_size=5))
    runs: list[StageRun] = []
    for stage, outcome in zip(StageType, outcomes, strict=False):
        times = {"at": STARTED_AT + draw(seconds), "took_s": draw(seconds), "granted_s": draw(seconds)}
        runs.append(run_of(stage, outcome, plan=plan, **times))
        if stage is VALIDATION and outcome is SUCCESS:
            altered(runs[-1], verdict=draw(st.sampled_from([True, False, None])))
    running: RunningStage | None = None
    if len(runs) < 5 and draw(st.booleans()):
        stage = list(StageType)[len(runs)]
        at, granted_s = STARTED_AT + draw(seconds), draw(seconds)
        running = running_of(stage, at=at, granted_s=granted_s, plan=plan)
    return history_of(runs, running), plan


def check_runs(got: QueryOutcome, history: StageHistory) -> None:
    """Five stages in order: ended ones unchanged, then the one that was cut, then skipped ones."""
    assert [run.spec.stage_type for run in got.runs] == list(StageType)
    assert [run.spec.sequence for run in got.runs] == [0, 1, 2, 3, 4]
    done = len(history.runs)
    assert list(got.runs[:done]) == history.runs
    if history.running is not None:
        assert got.runs[done].outcome is TIMEOUT
        done += 1
    assert all(run.outcome is SKIPPED for run in got.runs[done:])


def is_rejected(run: StageRun) -> bool:
    """Return whether it is validation with a verdict that ends the query."""
    return run.verdict is False and run.spec.rejects


def check_status(got: QueryOutcome) -> None:
    """Success needs all critical stages; only a success is degraded or has an answer."""
    missing = [run for run in got.runs if (run.spec.critical and not run.success) or is_rejected(run)]
    assert (got.status is OK) is (not missing)
    assert got.validated is got.runs[3].verdict
    assert got.status is not PipelineStatus.EXPIRED
    good = all(run.success for run in got.runs) and got.validated is not False
    assert got.degraded is (got.status is OK and not good)
    assert (got.error is None) is (got.error_type is None) is (got.status is OK)
    assert got.answer_json is None or (got.status is OK and got.runs[2].success)
    if got.status is FAILED:
        assert missing[0].outcome is ERROR or is_rejected(missing[0])
        assert got.error_type == ("rejected" if is_rejected(missing[0]) else missing[0].error_type)
    if got.status is LATE:
        assert got.error_type == "timeout"
        assert got.timeouts


def check_timeouts(got: QueryOutcome) -> None:
    """Each late stage has a note; the pipeline at most one, the last."""
    late = [run.spec.stage_type for run in got.runs if run.outcome is TIMEOUT]
    scopes = [note.scope for note in got.timeouts]
    assert scopes.count(TimeoutScope.PIPELINE) <= 1
    assert TimeoutScope.PIPELINE not in scopes[:-1]
    named = [note.spec.stage_type for note in got.timeouts if note.spec is not None]
    assert len(named) == len(set(named))
    assert set(named) <= set(late)
    assert bool(named) is bool(late)
    for note in got.timeouts:
        assert all(got.runs[list(StageType).index(stage)].success for stage in note.completed)
    assert not (got.within_budget and TimeoutScope.PIPELINE in scopes)


@given(made=histories(), after_s=seconds)
def test_any_history_has_one_valid_outcome(made: tuple[StageHistory, Plan], after_s: float) -> None:
    """Any history has an outcome that keeps the rules readers rely on."""
    history, plan = made
    got = concluded(history, plan=plan, after_s=after_s, budget_s=END)
    check_runs(got, history)
    check_status(got)
    check_timeouts(got)
    assert got.within_budget is (
        microseconds(got.duration_s) <= microseconds(got.budget_s)
        and all(note.scope is not TimeoutScope.PIPELINE for note in got.timeouts)
    )
    again = concluded(history, plan=plan, after_s=after_s, budget_s=END)
    assert [*map(fields, again.runs)] == [*map(fields, got.runs)]
    assert again._replace(runs=got.runs) == got


def superseded_history(*, running: bool) -> StageHistory:
    """Build a history: decision ended, a first node failed, a second is running or was not started."""
    history = history_of(ended([S, S]))
    history.fail_over(run_of(PROCESSING, ERROR, at=STARTED_AT + 0.02, node="first"))
    if running:
        made = running_of(PROCESSING, at=STARTED_AT + 0.03, granted_s=0.12)
        history.start(altered(made, node="second", attempt=2))
    return history


def test_the_deadline_between_two_attempts() -> None:
    """Without a second node the known failure is reported, not a lack of time."""
    got = concluded(superseded_history(running=False), after_s=END)
    assert (got.status, got.error, got.error_type) == (FAILED, "Processing failed: boom", "ValueError")
    assert [run.outcome for run in got.runs] == [S, S, E, X, X]
    assert (got.runs[2].node, got.runs[2].attempt, got.timeouts) == ("first", 1, ())


def test_the_deadline_in_the_second_attempt() -> None:
    """The running attempt is reported, the failed one before it is not."""
    got = concluded(superseded_history(running=True), after_s=END)
    assert (got.status, got.runs[2].outcome, got.runs[2].node) == (LATE, T, "second")
    assert (got.runs[2].attempt, got.node) == (2, "second")


def test_the_deadline_after_a_second_attempt_that_answered() -> None:
    """The first node's failure does not affect later stages."""
    history = superseded_history(running=True)
    history.answer_json = b"22"
    history.finish(run_of(PROCESSING, node="second", attempt=2))
    got = concluded(history, after_s=END)
    assert [run.outcome for run in got.runs] == [S, S, S, X, X]
    assert got.answer_json == b"22"


def test_a_second_attempt_that_answered() -> None:
    """A success of the second attempt shows nothing of the first to readers."""
    history = superseded_history(running=True)
    history.answer_json = b"22"
    history.finish(run_of(PROCESSING, node="second", attempt=2))
    for stage in (VALIDATION, REFLECTION):
        history.finish(run_of(stage))
    got = concluded(history)
    assert (got.status, got.degraded, got.timeouts) == (OK, False, ())
    assert [run.attempt for run in got.runs] == [1, 1, 2, 1, 1]


def test_a_stage_that_was_given_up_before_the_deadline() -> None:
    """Where the watchdog ended a non-critical stage, skipped stages name that stage."""
    runs = [*ended([S, S, S]), run_of(VALIDATION, TIMEOUT, at=STARTED_AT + 0.03, took_s=0.06)]
    got = concluded(history_of(runs), after_s=0.1)
    assert (got.status, got.degraded, got.answer_json) == (OK, True, b"22")
    assert got.runs[4].error == "validation did not succeed"
    assert concluded(history_of(runs), after_s=END).runs[4].error == "no time left"


def test_a_query_that_no_thread_was_free_for() -> None:
    """A stage that found no thread did not start: it is skipped with that reason."""
    history = history_of(ended([SUCCESS, SUCCESS]))
    history.waiting = running_of(PROCESSING, at=STARTED_AT, granted_s=0.0)
    got = concluded(history, after_s=END)
    assert (got.status, got.error_type) == (PipelineStatus.TIMEOUT, "timeout")
    assert [run.outcome for run in got.runs[2:]] == [SKIPPED] * 3
    assert got.runs[2].error == "no thread was free for its call: executor.threads of them were busy"
    assert [(note.scope, note.reason) for note in got.timeouts] == [PIPELINE]


# Partial answers


A, B = Offer(b'"a"', 0.25, "math"), Offer(b'"b"', None, "other")


def offered(outcome: QueryOutcome) -> tuple[bool, bytes | None, float | None, str | None]:
    """Return what an outcome says of an offered answer."""
    return outcome.partial, outcome.answer_json, outcome.confidence, outcome.node


@pytest.mark.parametrize("third", [TIMEOUT, ERROR])
def test_a_query_that_processing_failed_has_the_last_offer(third: Outcome) -> None:
    """Whether the last attempt timed out or failed, with the status that it has without an offer."""
    history = history_of(ended([SUCCESS, SUCCESS, third]))
    bare = concluded(history)
    history.offer = A
    got = concluded(history)
    assert offered(got) == (True, *A)
    assert (got.status, got.error, got.error_type) == (bare.status, bare.error, bare.error_type)
    assert (got.degraded, offered(bare)) == (False, (False, None, None, "math"))


def test_a_node_that_runs_at_the_deadline_has_offered_its_last() -> None:
    """The offer of the running attempt counts, or else that of an earlier one."""
    running = running_of(PROCESSING, at=STARTED_AT + 0.2, granted_s=0.05)
    history = history_of(ended([SUCCESS, SUCCESS]), running)
    history.offer = B
    assert offered(concluded(history, after_s=0.25)) == (True, *B)
    running.offers = SentOffer(A)
    assert offered(concluded(history, after_s=0.25)) == (True, *A)


def test_stages_after_an_offer_decide_as_after_an_answer() -> None:
    """A partial run does not end the query; a later critical stage that fails does, without an answer."""
    runs = [*ended([SUCCESS, SUCCESS, TIMEOUT]), *ended([SUCCESS] * 5)[3:]]
    runs[2].partial = True
    history = history_of(runs)
    history.offer = A
    got = concluded(history, after_s=0.15)
    assert (got.status, got.degraded, offered(got)) == (OK, True, (True, *A))
    plan = Plan.of(critical=StageType)
    runs = [*ended([SUCCESS, SUCCESS, TIMEOUT], plan=plan), *ended([SUCCESS] * 3 + [ERROR], plan=plan)[3:]]
    runs[2].partial = True
    history = history_of(runs)
    history.offer = A
    got = concluded(history, plan=plan, after_s=0.15)
    assert (got.status, got.partial, got.answer_json) == (FAILED, False, None)


@pytest.mark.parametrize(
    ("outcomes", "fields"),
    [
        ([SUCCESS, ERROR], {}),
        ([SUCCESS] * 5, {}),
        ([SUCCESS, SUCCESS, ERROR], {"excused": True}),
    ],
)
def test_an_offer_that_does_not_count(outcomes: list[Outcome], fields: dict[str, bool]) -> None:
    """Neither if another stage failed, nor if there is an answer, nor if the query has none."""
    history = history_of([*ended(outcomes)[:-1], altered(ended(outcomes)[-1], **fields)])
    history.offer = A
    assert concluded(history).partial is False


def test_attempts_hand_on_what_they_offered() -> None:
    """An attempt that timed out or was moved leaves its offer; one that raised leaves the one before it."""
    history = history_of(ended([SUCCESS, SUCCESS]))
    for offer, outcome, left in ((A, TIMEOUT, A), (B, ERROR, A), (None, TIMEOUT, A), (B, TIMEOUT, B)):
        running = running_of(PROCESSING, at=STARTED_AT, granted_s=0.05)
        running.offers = SentOffer(offer)
        history.start(running)
        history.fail_over(run_of(PROCESSING, outcome))
        assert history.last_offer() == left
    running = running_of(PROCESSING, at=STARTED_AT, granted_s=0.05)
    running.offers = SentOffer(A)
    history.start(running)
    moved = history.continued()
    assert (moved.offer, moved.last_offer()) == (A, A)


def test_a_call_that_is_resumed_may_still_raise() -> None:
    """What a call in a thread has offered counts when the query moves, unless the call raises in the end."""
    history = history_of(ended([SUCCESS, SUCCESS]))
    running = running_of(PROCESSING, at=STARTED_AT, granted_s=0.05)
    running.call, running.offers = object(), SentOffer(A)
    history.start(running)
    moved = history.continued()
    assert (moved.offer, moved.last_offer()) == (None, A)
    moved.start(running)
    moved.fail_over(run_of(PROCESSING, ERROR))
    assert moved.last_offer() is None
