"""The orchestrator in virtual time, to the millisecond, with user code of every kind."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import uuid
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from fivestage import Orchestrator, Pipeline, Plan, run_with_timeout
from fivestage.pipeline.answers import answer_of
from fivestage.testing import VirtualTimeLoop
from fivestage_schemas import Outcome, PipelineStatus, StageType

from .samples import block

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fivestage import Query, StageContext
    from fivestage_schemas import PipelineResult

    Stage = Callable[[Query, StageContext], Awaitable[Any]]

INTENT, DECISION, PROCESSING, VALIDATION, REFLECTION = StageType
S, T, E, X = Outcome
OK, FAILED, LATE = PipelineStatus.SUCCESS, PipelineStatus.ERROR, PipelineStatus.TIMEOUT
LIMITS_MS = {INTENT: 50, DECISION: 100, PROCESSING: 120, VALIDATION: 40, REFLECTION: 30}
GOOD: dict[StageType, Any] = {
    INTENT: {"intent": "general"},
    DECISION: "main",
    PROCESSING: {"answer": 22, "confidence": 0.9},
    VALIDATION: True,
    REFLECTION: {"verdict": "confirmed"},
}


def now() -> float:
    """Return the virtual seconds since the test started."""
    return asyncio.get_running_loop().time()


def returning(value: Any, *, after_ms: float = 0) -> Stage:
    """Build a stage that takes a time and returns a value."""

    async def stage(query: Query, ctx: StageContext) -> Any:  # noqa: ARG001
        if after_ms:
            await asyncio.sleep(after_ms / 1000)
        return value

    return stage


class Intent(BaseModel):
    """An intent as a model."""

    intent: str = "general"


def raising(error: BaseException, *, after_ms: float = 0) -> Stage:
    """Build a stage that raises."""

    async def stage(query: Query, ctx: StageContext) -> Any:  # noqa: ARG001
        if after_ms:
            await asyncio.sleep(after_ms / 1000)
        raise error

    return stage


def stubborn(value: Any, *, for_ms: float) -> Stage:
    """Build a stage that ignores cancellations until a time has passed."""

    async def stage(query: Query, ctx: StageContext) -> Any:  # noqa: ARG001
        end = now() + for_ms / 1000
        while now() < end:
            try:
                await asyncio.sleep(end - now())
            except asyncio.CancelledError:
                continue
        return value

    return stage


def app_of(**stages: Stage) -> Pipeline:
    """Build an app with one node; the stages not given return at once."""
    app = Pipeline(builtins=False)
    for stage_type in StageType:
        function = stages.get(stage_type.value) or returning(GOOD[stage_type])
        if stage_type is PROCESSING:
            app.node("main")(function)
        else:
            getattr(app, stage_type.value)(function)
    return app


async def ask(*, plan: Any = None, **stages: Stage) -> PipelineResult:
    """Put one query through an app with these stages."""
    return await Orchestrator(app_of(**stages), plan=plan).process_query("2+2")


def outcomes(result: PipelineResult) -> list[Outcome]:
    """Return the outcomes of the five stages."""
    return [stage.outcome for stage in result.stages]


# The clock of these tests


async def test_virtual_time() -> None:
    """A day of timers passes at once, in order and to the microsecond."""
    order: list[str] = []

    async def sleeper(seconds: float, name: str) -> None:
        await asyncio.sleep(seconds)
        order.append(name)

    await asyncio.gather(sleeper(86400, "a day"), sleeper(3600, "an hour"), sleeper(0, "nothing"))
    assert order == ["nothing", "an hour", "a day"]
    assert now() == pytest.approx(86400, abs=1e-6)


def test_a_hang_is_an_error() -> None:
    """A wait for an event that cannot happen raises instead of blocking."""
    with (
        asyncio.Runner(loop_factory=VirtualTimeLoop) as runner,
        pytest.raises(RuntimeError, match="deadlock"),
    ):
        runner.run(asyncio.Event().wait())


# Successes


async def test_all_stages_in_time() -> None:
    """A successful query has a complete result, with figures to the millisecond."""
    took_ms = [10, 20, 30, 20, 15]
    slow = {stage: returning(GOOD[stage], after_ms=ms) for stage, ms in zip(StageType, took_ms, strict=True)}
    app = app_of(**{stage.value: function for stage, function in slow.items()})
    result = await Orchestrator(app).process_query("2+2", query_id="q-7", lane="canary", budget_ms=200)
    assert (result.query_id, result.lane, result.status) == ("q-7", "canary", OK)
    assert (result.answer, result.confidence, result.node) == (22, 0.9, "main")
    assert (result.degraded, result.error, result.error_type, result.source) == (False, None, None, None)
    assert outcomes(result) == [S] * 5
    assert [stage.data for stage in result.stages] == list(GOOD.values())
    assert [stage.duration_ms for stage in result.stages] == pytest.approx(took_ms, abs=0.01)
    assert [stage.timeout_ms for stage in result.stages] == pytest.approx([50, 100, 120, 40, 30], abs=0.01)
    assert [stage.node for stage in result.stages] == [None, None, "main", None, None]


async def test_metrics() -> None:
    """Counts and sums agree with the stages."""
    result = await ask(
        intent=returning(GOOD[INTENT], after_ms=10),
        validation=raising(ValueError("x"), after_ms=5),
        reflection=returning(1, after_ms=500),
    )
    metrics = result.metrics
    assert metrics.total_duration_ms == pytest.approx(45, abs=0.01)
    assert metrics.stage_durations == pytest.approx(
        {"intent": 10, "decision": 0, "processing": 0, "validation": 5, "reflection": 30}, abs=0.01
    )
    assert (metrics.stages_completed, metrics.stages_failed, metrics.stages_skipped) == (3, 2, 0)
    assert (metrics.timeout_count, metrics.budget_ms, metrics.within_budget) == (1, 250, True)


async def test_stages_see_earlier_results_and_limits() -> None:
    """Each stage sees the earlier results, its own limit, and the query's deadline."""
    seen: list[dict[str, Any]] = []

    def looking(stage_type: StageType) -> Stage:
        async def stage(query: Query, ctx: StageContext) -> Any:
            await asyncio.sleep(0.01)
            seen.append(
                {
                    "query": (query.query_id, query.user_input, query.lane, dict(query.context)),
                    "ctx": (ctx.lane, ctx.stage_type, ctx.node, ctx.answer, ctx.confidence, ctx.validated),
                    "results": list(ctx.results.values()),
                    "left": round(ctx.remaining_ms()),
                    "deadline": round(ctx.deadline, 3),
                }
            )
            return GOOD[stage_type]

        return stage

    await asyncio.sleep(1)
    app = app_of(**{stage.value: looking(stage) for stage in StageType})
    await Orchestrator(app).process_query("hi", query_id="q", lane="l", context={"a": 1}, budget_ms=240)
    assert [look["query"] for look in seen] == [("q", "hi", "l", {"a": 1})] * 5
    assert [look["ctx"] for look in seen] == [
        ("l", INTENT, None, None, None, None),
        ("l", DECISION, None, None, None, None),
        ("l", PROCESSING, "main", None, None, None),
        ("l", VALIDATION, "main", 22, 0.9, None),
        ("l", REFLECTION, "main", 22, 0.9, True),
    ]
    assert [look["results"] for look in seen] == [list(GOOD.values())[:n] for n in range(5)]
    assert [look["left"] for look in seen] == [40, 90, 110, 30, 20]
    assert {look["deadline"] for look in seen} == {1.24}


@pytest.mark.parametrize(
    ("stage", "verdict"),
    [
        (returning(True), True),
        (returning(False), False),
        (returning({"valid": True}), True),
        (returning({"valid": False}), False),
        (raising(ValueError("x")), None),
        (returning(True, after_ms=99), None),
    ],
)
async def test_the_verdict(stage: Stage, *, verdict: bool | None) -> None:
    """Reflection sees the verdict of validation, or None without one."""

    async def reflect(query: Query, ctx: StageContext) -> Any:  # noqa: ARG001
        return [ctx.validated, VALIDATION in ctx.results]

    result = await ask(validation=stage, reflection=reflect)
    assert result.stages[4].data == [verdict, verdict is not None]
    assert (result.status, result.answer, result.validated) == (OK, 22, verdict)
    assert result.degraded is (verdict is not True)


@pytest.mark.parametrize(
    ("returned", "got"),
    [
        ("maybe", "str"),
        (None, "NoneType"),
        (1, "int"),
        ({}, 'a dict whose "valid" is NoneType'),
        ({"valid": "yes"}, 'a dict whose "valid" is str'),
    ],
)
async def test_an_invalid_verdict_is_an_error(returned: Any, got: str) -> None:
    """An invalid verdict fails validation, and the error names what is valid."""
    result = await ask(validation=returning(returned))
    failed = result.stages[3]
    assert (failed.outcome, failed.error_type) == (E, "NodeError")
    assert failed.error == f'validation must return True or False, or a dict with it as "valid"; got {got}'
    assert (result.status, result.degraded, result.validated) == (OK, True, None)


@pytest.mark.parametrize(
    ("returned", "fault"),
    [
        (None, "there is no answer: it is null"),
        ({"answer": ""}, "there is no answer: it is an empty str"),
        ({"answer": "x", "confidence": 7}, "the confidence is 7, not a number from 0 to 1"),
        (
            {"answer": "x", "confidence": "high"},
            "the confidence is a text, not a number from 0 to 1: return a float",
        ),
    ],
)
async def test_a_rejection_says_why(returned: Any, fault: str) -> None:
    """The error of the stage names the rule that rejected the answer; its data is the verdict as before."""
    app = Pipeline(builtins=False)
    app.node("mine", intents={"general"})(returning(returned))
    result = await Orchestrator(app).process_query("so")
    stage = result.stages[3]
    assert (stage.outcome, stage.data, stage.error, stage.error_type) == (S, False, fault, None)
    assert (result.status, result.degraded, result.validated, result.error) == (OK, True, False, None)


@pytest.mark.parametrize(
    ("returned", "got"),
    [
        (("search", 0.5), "list"),
        (None, "NoneType"),
        ("", "an empty text"),
        ({}, 'a dict without "intent"'),
        ({"intent": None}, 'a dict whose "intent" is NoneType'),
        ({"intent": ["search"]}, 'a dict whose "intent" is list'),
    ],
)
async def test_an_invalid_intent_is_an_error(returned: Any, got: str) -> None:
    """Where the built-in decision goes by the intent, the error of the stage says what it may return."""
    app = Pipeline()
    app.intent(returning(returned))
    failed = (await Orchestrator(app).process_query("so")).stages[0]
    assert (failed.outcome, failed.error_type) == (E, "NodeError")
    assert failed.error == (
        f'the intent stage must return {{"intent": ..., "confidence": ...}}, or only the intent; got {got}'
    )


@pytest.mark.parametrize(
    "returned", ["general", {"intent": "general"}, Intent()], ids=["text", "dict", "model"]
)
async def test_valid_intents(returned: Any) -> None:
    """A text, a dict and a model with the intent."""
    app = Pipeline()
    app.intent(returning(returned))
    assert (await Orchestrator(app).process_query("so")).stages[0].outcome is S


async def test_an_intent_of_any_shape_for_a_decision_of_the_authors() -> None:
    """A decision stage of the author's sees what the intent stage returned, whatever it is."""
    app = Pipeline()
    app.intent(returning(["search", 0.5]))

    @app.decision
    async def choose(_query: Query, ctx: StageContext) -> str:
        assert ctx.results[StageType.INTENT] == ["search", 0.5]
        return "facts"

    assert (await Orchestrator(app).process_query("so")).node == "facts"


@pytest.mark.parametrize(
    ("stage", "said"),
    [
        ("intent", "not JSON: coroutine; did you forget await?"),
        ("decision", "the decision stage must return a node's name, got coroutine; did you forget await?"),
        ("processing", "not JSON: answer: coroutine; did you forget await?"),
        ("validation", "not JSON: coroutine; did you forget await?"),
    ],
)
@pytest.mark.filterwarnings("ignore:coroutine 'sleep' was never awaited")
async def test_a_forgotten_await(stage: str, said: str) -> None:
    """A stage that returns a coroutine instead of its value is asked whether it lacks an await."""

    async def forgets(_query: Query, ctx: StageContext) -> Any:
        call = asyncio.sleep(0)
        return {"answer": call} if ctx.stage_type is StageType.PROCESSING else call

    app = Pipeline()
    app.node("facts", intents={"factual"})(forgets) if stage == "processing" else getattr(app, stage)(forgets)
    result = await Orchestrator(app).process_query("What is it?")
    (failed,) = (one for one in result.stages if one.outcome is E)
    assert (failed.error, failed.error_type) == (said, "NodeError" if stage == "decision" else "TypeError")


@pytest.mark.parametrize(
    "plan", [Plan.of(rejected="error"), Plan.of(critical=StageType)], ids=["setting", "critical"]
)
async def test_a_rejected_answer_may_be_an_error(plan: Plan) -> None:
    """With the setting on, a rejected answer ends the query as an error; other answers succeed."""
    result = await ask(validation=returning(False), plan=plan)
    assert (result.status, result.error_type) == (FAILED, "rejected")
    assert result.error == "Validation rejected the answer"
    assert (result.answer, result.degraded, result.validated) == (None, False, False)
    assert outcomes(result) == [S, S, S, S, X]
    assert result.stages[4].error == "Validation rejected the answer"
    good = await ask(plan=plan)
    assert (good.status, good.answer, good.validated) == (OK, 22, True)


@pytest.mark.parametrize(
    ("data", "answer", "confidence"),
    [
        ({"answer": 1, "confidence": 0.5}, 1, 0.5),
        ({"answer": None}, None, None),
        ({"answer": 1, "confidence": 7}, 1, 1.0),
        ({"answer": 1, "confidence": -0.1}, 1, 0.0),
        ({"answer": 1, "confidence": True}, 1, None),
        ({"answer": 1, "confidence": "high"}, 1, None),
        ({"result": 1}, {"result": 1}, None),
        ("text", "text", None),
        ([1], [1], None),
        (None, None, None),
    ],
)
async def test_answers(data: Any, answer: Any, confidence: float | None) -> None:
    """Answers are a dict with ``answer`` or any other value; an invalid confidence is ignored."""
    assert answer_of(data) == (answer, confidence)
    result = await ask(processing=returning(data))
    assert (result.status, result.answer, result.confidence) == (OK, answer, confidence)


async def test_ids_are_made_up_when_missing() -> None:
    """Two queries without an id get different ids."""
    orchestrator = Orchestrator(app_of())
    first, second = await orchestrator.process_query("a"), await orchestrator.process_query("a")
    assert first.query_id != second.query_id


@pytest.mark.parametrize(
    "wrong",
    [
        {"query_id": "two words"},
        {"query_id": "x" * 129},
        {"lane": ""},
        {"lane": "a/b"},
        {"budget_ms": 0},
        {"budget_ms": -5},
    ],
)
async def test_wrong_arguments_are_refused_at_once(wrong: dict[str, Any]) -> None:
    """Arguments that no event can carry raise ValueError before any stage runs."""
    started: list[str] = []

    async def intent(query: Query, ctx: StageContext) -> Any:  # noqa: ARG001
        started.append(query.query_id)

    orchestrator = Orchestrator(app_of(intent=intent))
    with pytest.raises(ValueError, match=next(iter(wrong))):
        await orchestrator.process_query("2+2", **wrong)
    assert started == []


# Limits


@pytest.mark.parametrize("stage", StageType)
async def test_each_stage_has_its_own_limit(stage: StageType) -> None:
    """A hanging stage is cut at its limit; its criticality decides how the query ends."""
    result = await ask(**{stage.value: returning(1, after_ms=60_000)})
    place = list(StageType).index(stage)
    cut = result.stages[place]
    assert (cut.outcome, cut.timeout, cut.data, cut.error_type) == (T, True, None, "timeout")
    assert cut.duration_ms == cut.timeout_ms == pytest.approx(LIMITS_MS[stage], abs=0.01)
    assert now() == pytest.approx(LIMITS_MS[stage] / 1000)
    critical = stage in {INTENT, DECISION, PROCESSING}
    assert (result.status, result.degraded) == ((LATE, False) if critical else (OK, True))
    assert outcomes(result) == [*[S] * place, T, *[X if critical else S] * (4 - place)]


@pytest.mark.parametrize("stage", StageType)
async def test_just_in_time(stage: StageType) -> None:
    """A stage one millisecond below its limit is in time, one millisecond above it is not."""
    for spare_ms, outcome in [(1, S), (-1, T)]:
        late = returning(GOOD[stage], after_ms=LIMITS_MS[stage] - spare_ms)
        result = await ask(**{stage.value: late})
        assert result.stages[list(StageType).index(stage)].outcome is outcome


@pytest.mark.parametrize("way", ["raises", "hangs"])
@pytest.mark.parametrize("stage", StageType)
async def test_a_critical_stage_ends_the_query(stage: StageType, way: str) -> None:
    """The only critical stage, any of the five, fails the query; later stages are skipped."""
    bad = raising(ValueError("boom")) if way == "raises" else returning(1, after_ms=999)
    result = await ask(plan=Plan.of(critical={stage}), **{stage.value: bad})
    place = list(StageType).index(stage)
    assert outcomes(result) == [*[S] * place, E if way == "raises" else T, *[X] * (4 - place)]
    assert (result.status, result.answer) == (FAILED if way == "raises" else LATE, None)
    assert (result.error or "").startswith(stage.value.capitalize())
    assert result.error_type == ("ValueError" if way == "raises" else "timeout")
    assert [s.critical for s in result.stages] == [s is stage for s in StageType]


@pytest.mark.parametrize("way", ["raises", "hangs"])
@pytest.mark.parametrize("stage", StageType)
async def test_a_stage_that_is_not_critical_does_not_end_the_query(stage: StageType, way: str) -> None:
    """A failed non-critical stage, any of the five, leaves a degraded query; later stages run."""
    bad = raising(ValueError("boom")) if way == "raises" else returning(1, after_ms=999)
    critical = set(StageType) - {stage} - ({PROCESSING} if stage is DECISION else set())
    result = await ask(plan=Plan.of(critical=critical), **{stage.value: bad})
    place = list(StageType).index(stage)
    after = [E, S, S] if stage is DECISION else [S] * (4 - place)  # no decision, no node
    assert outcomes(result) == [*[S] * place, E if way == "raises" else T, *after]
    assert (result.status, result.degraded, result.error) == (OK, True, None)
    assert result.answer == (None if stage in {DECISION, PROCESSING} else 22)


# The total budget


async def test_340_ms_of_limits_in_250() -> None:
    """Where the limits exceed the total, the later stages get what is left."""
    result = await ask(
        intent=returning(GOOD[INTENT], after_ms=45),
        decision=returning("main", after_ms=95),
        processing=returning(GOOD[PROCESSING], after_ms=100),
        validation=returning(True, after_ms=35),
    )
    assert now() == pytest.approx(0.25)
    assert outcomes(result) == [S, S, S, T, X]
    assert [stage.timeout_ms for stage in result.stages] == pytest.approx([50, 100, 110, 10, 0], abs=0.01)
    assert (result.status, result.degraded, result.answer) == (OK, True, 22)
    assert result.metrics.within_budget is False


async def test_the_critical_tail_is_cut_at_the_total() -> None:
    """Processing with a limit of 120 ms gets the 102 ms that intent and decision left."""
    result = await ask(
        intent=returning(GOOD[INTENT], after_ms=49),
        decision=returning("main", after_ms=99),
        processing=returning(1, after_ms=110),
    )
    assert now() == pytest.approx(0.25)
    assert result.stages[2].timeout_ms == pytest.approx(102, abs=0.01)
    assert outcomes(result) == [S, S, T, X, X]
    assert (result.status, result.error) == (LATE, "Pipeline timeout exceeded (250 ms)")
    assert result.metrics.within_budget is False


async def test_time_that_is_not_used_flows_on() -> None:
    """After fast stages the last one has its whole limit, which is less than what is left."""
    result = await ask(reflection=returning(1, after_ms=29))
    assert outcomes(result) == [S] * 5
    assert result.stages[4].timeout_ms == 30


@pytest.mark.parametrize("budget_ms", [1, 20, 249, 250, 10_000])
async def test_the_budget_of_a_query_only_shortens(budget_ms: int) -> None:
    """A hanging query ends after its own budget or the total, whichever is less."""
    plan = Plan.of(stage_timeouts_ms=dict.fromkeys(StageType, 1000))
    orchestrator = Orchestrator(app_of(intent=returning(1, after_ms=60_000)), plan=plan)
    result = await orchestrator.process_query("2+2", budget_ms=budget_ms)
    assert now() == pytest.approx(min(budget_ms, 250) / 1000)
    assert result.status is LATE
    assert result.metrics.budget_ms == min(budget_ms, 250)
    assert (result.error or "").startswith("Pipeline timeout exceeded")


# What user code does


async def test_a_timeout_of_its_own_is_an_error() -> None:
    """A stage that raises TimeoutError before its limit is an error, not a timeout."""

    async def impatient(query: Query, ctx: StageContext) -> Any:  # noqa: ARG001
        async with asyncio.timeout(0.01):
            await asyncio.sleep(1)

    for stage in (impatient, raising(TimeoutError("mine"), after_ms=10)):
        result = await ask(processing=stage)
        assert outcomes(result) == [S, S, E, X, X]
        assert (result.status, result.error_type) == (FAILED, "TimeoutError")
        assert result.metrics.timeout_count == 0


async def test_a_timeout_of_its_own_after_the_limit_is_a_timeout() -> None:
    """Anything raised after the limit is a timeout."""

    async def translating(query: Query, ctx: StageContext) -> Any:  # noqa: ARG001
        try:
            await asyncio.sleep(1)
        except asyncio.CancelledError:
            raise ValueError("interrupted") from None

    result = await ask(processing=translating)
    assert (result.stages[2].outcome, result.stages[2].error_type) == (T, "timeout")


@pytest.mark.parametrize("after_ms", [0, 10])
@pytest.mark.parametrize("stage", [PROCESSING, VALIDATION])
async def test_cancelled_error_raised_by_user_code(stage: StageType, after_ms: int) -> None:
    """A CancelledError raised without a cancellation is an error of that stage only."""
    result = await ask(**{stage.value: raising(asyncio.CancelledError(), after_ms=after_ms)})
    place = list(StageType).index(stage)
    assert (result.stages[place].outcome, result.stages[place].error_type) == (E, "CancelledError")
    assert result.status is (FAILED if stage is PROCESSING else OK)


async def test_a_cancelled_helper_task_is_an_error() -> None:
    """A stage whose own sub-task was cancelled fails; the query is not cancelled."""

    async def with_helper(query: Query, ctx: StageContext) -> Any:  # noqa: ARG001
        helper = asyncio.ensure_future(asyncio.sleep(1))
        asyncio.get_running_loop().call_later(0.01, helper.cancel)
        await helper

    result = await ask(validation=with_helper)
    assert (result.stages[3].outcome, result.stages[3].error_type) == (E, "CancelledError")


@pytest.mark.parametrize("stage", [INTENT, DECISION, PROCESSING])
async def test_swallowed_cancellation_does_not_hold_the_caller(stage: StageType) -> None:
    """A stage that ignores its cancellation for two seconds does not delay the result."""
    result = await ask(**{stage.value: stubborn(GOOD[stage], for_ms=2000)})
    assert now() == pytest.approx(0.25)
    place = list(StageType).index(stage)
    assert outcomes(result) == [*[S] * place, T, *[X] * (4 - place)]
    assert (result.status, result.answer) == (LATE, None)
    await asyncio.sleep(3)
    assert result.status is LATE


async def test_a_late_result_is_a_timeout() -> None:
    """An answer after a swallowed cancellation is late and does not count."""
    result = await ask(validation=stubborn(GOOD[VALIDATION], for_ms=70))
    assert outcomes(result) == [S, S, S, T, S]
    assert (result.stages[3].data, result.stages[3].timeout_ms) == (None, 40)
    assert result.stages[3].duration_ms == pytest.approx(70, abs=0.01)
    assert (result.status, result.degraded) == (OK, True)


async def test_a_late_processing_result_is_not_answered() -> None:
    """A late answer of processing does not count either, critical or not."""
    result = await ask(plan=Plan.of(critical=[INTENT]), processing=stubborn(GOOD[PROCESSING], for_ms=150))
    assert outcomes(result) == [S, S, T, S, S]
    assert (result.answer, result.confidence) == (None, None)


async def test_blocking_the_loop_past_the_limit_is_a_timeout() -> None:
    """A stage that blocks the loop past its limit is a timeout, although no timer could fire."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)

    async def holding(query: Query, ctx: StageContext) -> Any:  # noqa: ARG001
        loop._jumps.waited_s += 0.041
        return True

    result = await ask(validation=holding)
    assert (result.stages[3].outcome, result.stages[3].data) == (T, None)
    assert result.stages[3].duration_ms == pytest.approx(41, abs=0.01)


class _OddError(BaseException):
    """A BaseException that is not an Exception."""


ERRORS: list[tuple[BaseException, str]] = [
    (ValueError("x"), "ValueError"),
    (SystemExit(3), "SystemExit"),
    (KeyboardInterrupt(), "KeyboardInterrupt"),
    (GeneratorExit(), "GeneratorExit"),
    (_OddError("x"), "_OddError"),
    (ExceptionGroup("x", [ValueError("y")]), "ExceptionGroup"),
    (BaseExceptionGroup("x", [KeyboardInterrupt()]), "BaseExceptionGroup"),
    (StopIteration(1), "RuntimeError"),
    (StopAsyncIteration(), "StopAsyncIteration"),
    (MemoryError(), "MemoryError"),
    (RecursionError("x"), "RecursionError"),
]


@pytest.mark.fault(16)
@pytest.mark.parametrize("after_ms", [0, 1])
@pytest.mark.parametrize(("error", "name"), ERRORS, ids=[type(error).__name__ for error, _ in ERRORS])
async def test_whatever_a_stage_raises_is_an_error(error: BaseException, name: str, after_ms: int) -> None:
    """Any BaseException that a stage raises, before or after an await, is an error of that stage."""
    result = await ask(processing=raising(error, after_ms=after_ms))
    assert (result.stages[2].outcome, result.stages[2].error_type) == (E, name)
    assert (result.status, result.error_type) == (FAILED, name)
    result = await ask(validation=raising(error, after_ms=after_ms))
    assert (result.status, outcomes(result)) == (OK, [S, S, S, E, S])


class _MuteError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text either")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("a\x00b\n\u202e"), "a\x00b\n\u202e"),
        (ValueError(), "ValueError"),
        (ValueError("x" * 9999), "x" * 512),
        (OSError(2, "no such file", "caf\udce9"), "[Errno 2] no such file: 'caf\\udce9'"),
        (ValueError("caf\udce9"), "caf\\udce9"),
        (ValueError("\ud800" * 9999), ("\\ud800" * 86)[:512]),
        (_MuteError(), "_MuteError"),
    ],
)
async def test_error_texts_fit_the_events(error: Exception, text: str) -> None:
    """Error texts are valid text of at most 512 characters, whatever the exception's str() does."""
    result = await ask(validation=raising(error))
    assert result.stages[3].error == text
    assert (result.stages[3].error_type, result.status) == (type(error).__name__, OK)


CIRCLE: list[Any] = []
CIRCLE.append(CIRCLE)
NOT_JSON: dict[str, Any] = {
    "an object": object(),
    "bytes": b"x",
    "a function": print,
    "a lone surrogate": "\ud800",
    "a surrogate as key": {"\ud800": 1},
    "a circle": CIRCLE,
    "an exception": ValueError("x"),
    "deep inside": {"a": [{"b": object()}]},
}


@pytest.mark.parametrize("value", NOT_JSON.values(), ids=NOT_JSON)
@pytest.mark.parametrize("stage", [INTENT, PROCESSING, VALIDATION])
async def test_data_that_is_not_json_is_an_error(stage: StageType, value: Any) -> None:
    """A result that no event can carry is an error of its stage and is not passed on."""
    result = await ask(**{stage.value: returning(value)})
    place = list(StageType).index(stage)
    assert (result.stages[place].outcome, result.stages[place].data) == (E, None)
    assert result.stages[place].error_type == "TypeError"
    assert (result.stages[place].error or "").startswith("not JSON: ")
    assert result.status is (OK if stage is VALIDATION else FAILED)


class _Colour(Enum):
    RED = "red"


@dataclasses.dataclass
class _Point:
    x: int


@pytest.mark.parametrize(
    ("value", "data"),
    [
        (None, None),
        ((1, 2), [1, 2]),
        ({2: "a", None: "b", True: "c"}, {"2": "a", "null": "b", "true": "c"}),
        (_Point(1), {"x": 1}),
        (_Colour.RED, "red"),
        (float("nan"), None),
        (datetime(2030, 1, 1, tzinfo=UTC), "2030-01-01T00:00:00+00:00"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        ({1}, [1]),
        (Decimal("1.50"), "1.50"),
        ({"at": [_Point(2**100)]}, {"at": [{"x": 2**100}]}),
    ],
)
async def test_usual_values_become_json(value: Any, data: Any) -> None:
    """The usual Python values become JSON."""
    result = await ask(processing=returning(value), reflection=returning(value))
    assert (result.answer, result.stages[2].data, result.stages[4].data) == (data, data, data)


class _Found(BaseModel):
    answer: Decimal
    confidence: float


@dataclasses.dataclass
class _Judged:
    valid: bool
    why: frozenset[str]


async def test_later_stages_see_what_the_event_says() -> None:
    """Later stages see a model or dataclass as the dict that is published, moved or not."""
    seen: list[Any] = []

    async def validate(query: Query, ctx: StageContext) -> Any:  # noqa: ARG001
        seen.extend((ctx.answer, ctx.confidence, ctx.results[PROCESSING]))
        return _Judged(valid=False, why=frozenset({"too little"}))

    async def reflect(query: Query, ctx: StageContext) -> Any:  # noqa: ARG001
        seen.extend((ctx.validated, ctx.results[VALIDATION]))

    found = _Found(answer=Decimal("1.50"), confidence=0.7)
    result = await ask(processing=returning(found), validation=validate, reflection=reflect)
    whole, verdict = {"answer": "1.50", "confidence": 0.7}, {"valid": False, "why": ["too little"]}
    assert seen == ["1.50", 0.7, whole, False, verdict]
    assert (result.answer, result.confidence, result.validated) == ("1.50", 0.7, False)
    assert [stage.data for stage in result.stages[2:4]] == [whole, verdict]


async def test_an_answer_is_kept_beside_data_that_is_too_large() -> None:
    """The answer is kept where the stage's other data is too large."""
    orchestrator = Orchestrator(
        app_of(processing=returning({"answer": Decimal(1), "text": "x" * 5001})), max_data_bytes=5000
    )
    result = await orchestrator.process_query("x")
    assert (result.answer, result.stages[2].error_type) == ("1", "result_too_large")


@pytest.mark.parametrize("size", [4500, 5001])
async def test_an_answer_that_no_event_takes_is_an_error(size: int) -> None:
    """An answer that makes the event too large ends the query as the service would end it."""
    orchestrator = Orchestrator(app_of(processing=returning("x" * size)), max_data_bytes=5000)
    result = await orchestrator.process_query("x")
    assert (result.status, result.error_type, result.answer) == ("error", "result_too_large", None)
    assert "more than the 5000 bytes" in (result.error or "")


async def test_verdicts_of_numpy() -> None:
    """Booleans of numpy are verdicts, and numpy numbers confidences."""
    numpy = pytest.importorskip("numpy")
    score = numpy.float32(0.25)
    found = {"answer": numpy.arange(3), "confidence": score}
    result = await ask(processing=returning(found), validation=returning(score > 0.2))
    assert (result.answer, result.confidence, result.validated) == ([0, 1, 2], 0.25, True)


class _HostileDict(dict[str, Any]):
    def __contains__(self, key: object) -> bool:
        raise RuntimeError("do not look")

    def get(self, *_: object) -> Any:
        raise RuntimeError("do not look")


async def test_methods_of_the_class_of_data_are_not_called() -> None:
    """Data of a subclass of dict is read as JSON, whatever its methods do."""
    result = await ask(processing=returning(_HostileDict(answer=1)), validation=returning(_HostileDict()))
    assert (result.status, result.answer) == (OK, 1)
    assert (result.stages[3].error_type, result.validated) == ("NodeError", None)


async def test_an_extended_limit_is_reported_with_rejected_data() -> None:
    """A stage whose limit was extended reports the extended limit, also as an error."""
    loop = asyncio.get_running_loop()

    async def waiting(query: Query, ctx: StageContext) -> Any:  # noqa: ARG001
        loop.call_later(0.005, block, 0.1)
        await asyncio.sleep(0.01)
        return "no verdict"

    failed = (await ask(validation=waiting)).stages[3]
    assert (failed.outcome, failed.error_type) == (E, "NodeError")
    assert failed.timeout_ms == pytest.approx(40 + 130, abs=2)  # noticed 65 ms late, at 105


@pytest.mark.parametrize("chosen", ["unknown", "", None, 7, ["main"], {"node": "main"}])
async def test_decisions_for_no_node(chosen: Any) -> None:
    """Names of unknown nodes, and values that are no names, are errors of the decision stage."""
    result = await ask(decision=returning(chosen))
    assert outcomes(result) == [S, E, X, X, X]
    assert result.error_type == ("NoNodeError" if isinstance(chosen, str) else "NodeError")
    assert (result.status, result.node) == (FAILED, None)


async def test_without_any_node() -> None:
    """A query to an app without nodes ends with an error that says so."""
    result = await Orchestrator(Pipeline(builtins=False)).process_query("2+2")
    assert (result.status, result.error_type) == (FAILED, "NoNodeError")


behaviours = st.one_of(
    st.builds(
        returning,
        st.none()
        | st.integers()
        | st.text(max_size=5)
        | st.sampled_from([*GOOD.values(), *NOT_JSON.values()]),
        after_ms=st.floats(0, 200),
    ),
    st.builds(raising, st.sampled_from([error for error, _ in ERRORS]), after_ms=st.floats(0, 200)),
    st.builds(raising, st.just(asyncio.CancelledError()), after_ms=st.floats(0, 200)),
    st.builds(stubborn, st.sampled_from(list(GOOD.values())), for_ms=st.floats(0, 500)),
)


@pytest.mark.fault(16)
@hypothesis.settings(max_examples=200)
@given(
    stages=st.dictionaries(st.sampled_from([stage.value for stage in StageType]), behaviours, max_size=5),
    critical=st.sets(st.sampled_from(StageType)),
    budget_ms=st.none() | st.integers(1, 300),
)
def test_any_behaviour_has_a_valid_end_in_time(
    stages: dict[str, Stage], critical: set[StageType], budget_ms: int | None
) -> None:
    """Any behaviour of the five stages gives one valid result in time."""

    async def scenario() -> tuple[PipelineResult, float]:
        orchestrator = Orchestrator(app_of(**stages), plan=Plan.of(critical=critical))
        result = await orchestrator.process_query("2+2", budget_ms=budget_ms)
        return result, now()

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        result, ended_at = runner.run(scenario())
    assert ended_at <= min(budget_ms or 250, 250) / 1000 + 1e-6
    assert [stage.stage_type for stage in result.stages] == list(StageType)
    missing = [stage for stage in result.stages if stage.critical and not stage.success]
    assert (result.status is OK) is (not missing)
    assert result.degraded is (result.status is OK and not all(stage.success for stage in result.stages))
    for stage in result.stages:
        assert stage.success or stage.data is None
        assert (stage.error is None) is stage.success
        assert (stage.started_at is None) is (stage.outcome is X)
    for before, after in pairwise(stage for stage in result.stages if stage.started_at is not None):
        assert before.sequence + 1 == after.sequence
    assert result.answer is None or (result.status is OK and result.stages[2].success)


# Cancellation by the caller


async def test_cancelling_the_caller_propagates() -> None:
    """Cancelling the caller raises CancelledError at once and cancels the running stage."""
    ended: list[float] = []

    async def patient(query: Query, ctx: StageContext) -> Any:  # noqa: ARG001
        try:
            await asyncio.sleep(1)
        finally:
            ended.append(now())

    task = asyncio.ensure_future(ask(processing=patient))
    await asyncio.sleep(0.03)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0)
    assert ended == [pytest.approx(0.03)]
    assert now() == pytest.approx(0.03)


async def test_cancelling_the_caller_does_not_wait_for_stubborn_stages() -> None:
    """A stage that ignores its cancellation does not delay a cancelled caller."""
    task = asyncio.ensure_future(ask(processing=stubborn(1, for_ms=900)))
    await asyncio.sleep(0.03)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert now() == pytest.approx(0.03)


async def test_a_timeout_around_a_query_works() -> None:
    """``asyncio.timeout`` of the caller ends the wait on time."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await ask(processing=returning(1, after_ms=100))
    assert now() == pytest.approx(0.02)


async def test_the_cancelled_stage_may_clean_up() -> None:
    """A stage cut at its limit gets CancelledError and may still await briefly."""
    cleaned: list[float] = []

    async def tidy(query: Query, ctx: StageContext) -> Any:  # noqa: ARG001
        try:
            await asyncio.sleep(1)
        finally:
            await asyncio.sleep(0.001)
            cleaned.append(now())

    result = await ask(validation=tidy)
    assert cleaned == [pytest.approx(0.041)]
    assert outcomes(result) == [S, S, S, T, S]


# Concurrency


async def test_concurrent_queries_share_nothing() -> None:
    """A hundred concurrent queries with different fates have exact results of their own."""

    async def decide(query: Query, ctx: StageContext) -> str:  # noqa: ARG001
        return "main"

    async def work(query: Query, ctx: StageContext) -> Any:
        number = int(query.user_input)
        assert ctx.results[INTENT] == number
        await asyncio.sleep(number / 1000)
        if number % 10 == 0:
            raise ValueError(query.user_input)
        return {"answer": number, "confidence": number / 1000}

    async def intent(query: Query, ctx: StageContext) -> int:  # noqa: ARG001
        await asyncio.sleep(0.001)
        return int(query.user_input)

    async def validate(query: Query, ctx: StageContext) -> bool:
        await asyncio.sleep(0.1 if int(query.user_input) % 10 == 1 else 0)
        return bool(ctx.answer == int(query.user_input))

    orchestrator = Orchestrator(app_of(intent=intent, decision=decide, processing=work, validation=validate))
    queries = [
        orchestrator.process_query(str(n), query_id=f"q-{n}", lane=f"lane-{n % 3}") for n in range(1, 101)
    ]
    for number, result in enumerate(await asyncio.gather(*queries), 1):
        assert (result.query_id, result.lane) == (f"q-{number}", f"lane-{number % 3}")
        assert result.stages[2].duration_ms == pytest.approx(number, abs=0.01)
        metrics = result.metrics
        if number % 10 == 0:
            assert (result.status, result.error) == (FAILED, f"Processing failed: {number}")
            expected = (2, 1, 2, 0)
        elif number % 10 == 1:
            assert (result.status, result.degraded) == (OK, True)
            expected = (4, 1, 0, 1)
        else:
            assert (result.answer, result.confidence, result.degraded) == (number, number / 1000, False)
            expected = (5, 0, 0, 0)
        counts = (
            metrics.stages_completed,
            metrics.stages_failed,
            metrics.stages_skipped,
            metrics.timeout_count,
        )
        assert counts == expected
    assert now() == pytest.approx(
        0.132
    )  # 91 ms of processing, then 40 ms of validation, after 1 ms of intent


# run_with_timeout


async def work(value: Any, seconds: float = 0) -> Any:
    """Take a time and return a value."""
    await asyncio.sleep(seconds)
    return value


async def test_run_with_timeout_success() -> None:
    """The result has the return value, the duration, and the stage."""
    got = await run_with_timeout(work({"a": 1}, 0.02), INTENT)
    assert (got.outcome, got.success, got.timeout, got.data, got.error) == (S, True, False, {"a": 1}, None)
    assert (got.stage_type, got.sequence, got.critical) == (INTENT, 0, True)
    assert got.duration_ms == pytest.approx(20, abs=0.01)
    assert got.timeout_ms == 50


@pytest.mark.parametrize("stage", StageType)
async def test_run_with_timeout_uses_the_stages_default(stage: StageType) -> None:
    """Without a given limit the stage's default holds."""
    got = await run_with_timeout(work(1, 5), stage)
    assert (got.outcome, got.timeout, got.success, got.data) == (T, True, False, None)
    assert got.duration_ms == pytest.approx(LIMITS_MS[stage], abs=0.01)
    assert got.error_type == "timeout"
    assert now() == pytest.approx(LIMITS_MS[stage] / 1000)


async def test_run_with_timeout_with_a_limit() -> None:
    """A given limit holds, shorter or longer than the default."""
    assert (await run_with_timeout(work(1, 0.2), INTENT, 0.3)).success
    got = await run_with_timeout(work(1, 0.2), INTENT, timeout_sec=0.01)
    assert (got.timeout, got.timeout_ms) == (True, 10)


async def test_run_with_timeout_cancelled_inside() -> None:
    """A cancellation of something that the coroutine awaits is its error, not one of the caller."""

    async def waits() -> None:
        task = asyncio.create_task(asyncio.sleep(1))
        task.cancel()
        await task

    got = await run_with_timeout(waits(), INTENT)
    assert (got.outcome, got.error_type) == (E, "CancelledError")


async def test_run_with_timeout_error() -> None:
    """An exception becomes an error result with text and type."""

    async def broken() -> None:
        raise LookupError("not there")

    got = await run_with_timeout(broken(), VALIDATION)
    assert (got.outcome, got.error, got.error_type) == (E, "not there", "LookupError")
    assert (got.success, got.timeout, got.critical) == (False, False, False)


async def test_run_with_timeout_is_cancelled_with_its_caller() -> None:
    """Cancelling the caller raises and gives no result."""
    task = asyncio.ensure_future(run_with_timeout(work(1, 5), PROCESSING))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_run_with_timeout_takes_any_awaitable() -> None:
    """Futures and tasks are accepted like coroutines."""
    future = asyncio.get_running_loop().create_future()
    future.set_result(7)
    assert (await run_with_timeout(future, StageType.INTENT)).data == 7


async def test_run_with_timeout_leaves_a_deaf_coroutine_behind() -> None:
    """The limit holds for a coroutine that ignores its cancellation."""
    loop = asyncio.get_running_loop()

    async def deaf() -> None:
        for _ in range(3):
            try:
                await asyncio.sleep(5)
            except asyncio.CancelledError:  # the point of this coroutine
                continue

    started = loop.time()
    result = await run_with_timeout(deaf(), StageType.VALIDATION, 0.04)
    assert result.timeout
    assert loop.time() - started == pytest.approx(0.04)
    await asyncio.sleep(20)


async def test_no_stage_follows_one_that_swallowed_the_end() -> None:
    """After a query was abandoned in a stage that ignores its cancellation, later stages do not run."""
    ran = []
    app = Pipeline(builtins=False)

    @app.intent
    async def intent(_query: Query, _ctx: StageContext) -> dict[str, Any]:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(1)
        return {"intent": "any"}

    @app.decision
    async def decision(_query: Query, _ctx: StageContext) -> str:
        ran.append("decision")
        return "none"

    plan = Plan.of(total_timeout_ms=20)
    result = await Orchestrator(app, plan=plan).process_query("x")
    await asyncio.sleep(5)
    assert (result.status, ran) == ("timeout", [])


async def test_integers_of_any_size() -> None:
    """Integers of any size are valid answers, as in JSON."""
    app = Pipeline(builtins=False)

    @app.decision
    async def decision(_query: Query, _ctx: StageContext) -> str:
        return "large"

    @app.node("large")
    async def large(_query: Query, _ctx: StageContext) -> dict[str, Any]:
        return {"answer": 2**200, "confidence": 0.5}

    result = await Orchestrator(app).process_query("x")
    assert (result.answer, result.confidence) == (2**200, 0.5)


@pytest.mark.realtime
async def test_run_with_timeout_on_a_real_loop() -> None:
    """On a real clock, where two timers are never due at once, a timeout raises nothing."""
    for limit_s in (0.0, 1e-5, 0.001, 0.02):
        result = await run_with_timeout(asyncio.sleep(5), StageType.REFLECTION, limit_s)
        assert (result.timeout, result.error_type) == (True, "timeout")


async def test_a_stage_that_cancels_its_task_and_returns() -> None:
    """A stage that cancels its own task fails; the next stage is not cancelled."""
    app = Pipeline(builtins=False)

    @app.intent
    async def intent(_query: Query, _ctx: StageContext) -> dict[str, Any]:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        return {"intent": "any"}

    @app.decision
    async def decision(_query: Query, _ctx: StageContext) -> str:
        await asyncio.sleep(0.001)
        return "node"

    @app.node("node")
    async def node(_query: Query, _ctx: StageContext) -> int:
        return 1

    plan = Plan.of(critical=[StageType.DECISION])
    result = await Orchestrator(app, plan=plan).process_query("x")
    assert [stage.outcome for stage in result.stages[:3]] == ["error", "success", "success"]


@pytest.mark.parametrize("caught", [True, False])
async def test_a_task_group_that_fails(*, caught: bool) -> None:
    """Errors of a TaskGroup are the stage's errors, or handled by its author, as usual."""

    async def breaks() -> None:
        await asyncio.sleep(0.01)
        raise ValueError("x")

    async def gathers(query: Query, ctx: StageContext) -> Any:  # noqa: ARG001
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(asyncio.sleep(0.05))
                group.create_task(breaks())
        except ExceptionGroup:
            if not caught:
                raise
        return "instead"

    result = await ask(processing=gathers)
    assert outcomes(result) == ([S] * 5 if caught else [S, S, E, X, X])
    assert (result.answer, result.error_type) == (("instead", None) if caught else (None, "ExceptionGroup"))
    assert now() == pytest.approx(0.01)


# Boundaries between user code and the pipeline


@pytest.mark.parametrize(
    "chosen", [{"a", "b"}, object(), 7, None], ids=["set", "object", "number", "nothing"]
)
async def test_a_decision_that_is_no_name_is_an_error(chosen: Any) -> None:
    """A decision that is no name is an error that says so, JSON or not."""
    result = await ask(decision=returning(chosen))
    assert (result.status, result.error_type) == (FAILED, "NodeError")
    assert "must return a node's name" in (result.error or "")


@pytest.mark.parametrize("raised", [SystemExit(3), asyncio.CancelledError(), KeyError("x")], ids=repr)
async def test_a_function_that_raises_before_there_is_anything_to_await(raised: BaseException) -> None:
    """A callable that claims to be a coroutine function and raises at the call is an error of its stage."""

    class Early:
        async def __call__(self, query: Query, ctx: StageContext) -> Any:
            """Raise, although it is declared as a coroutine function."""

    early = Early()
    type(early).__call__ = lambda *_: raises_it(raised)  # type: ignore[method-assign, assignment]
    app = app_of()
    app._stages[INTENT] = dataclasses.replace(app.stage(INTENT), call=early, is_async=True)
    result = await Orchestrator(app).process_query("2+2")
    assert (result.status, result.error_type) == (FAILED, type(raised).__name__)


def raises_it(raised: BaseException) -> None:
    """Raise."""
    raise raised


@pytest.mark.parametrize("shift_s", [100_000, -100_000])
def test_a_loop_whose_clock_was_replaced(shift_s: float) -> None:
    """Limits follow the loop's own clock, also when one loop's clock was replaced."""
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        usual = loop.time
        loop.time = lambda: usual() + shift_s  # type: ignore[method-assign]
        result = runner.run(Orchestrator(app_of()).process_query("2+2"))
    assert (result.status, outcomes(result)) == (OK, [S] * 5)
