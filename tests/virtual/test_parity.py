"""The behaviour that users of the earlier orchestrator had by its tests, rewritten for this one."""

from __future__ import annotations

import asyncio
import json
import random
from typing import TYPE_CHECKING, Any

import pytest

from fivestage import Orchestrator, Pipeline, Plan, run_with_timeout
from fivestage.core.plan import DEFAULT_CRITICAL, DEFAULT_STAGE_TIMEOUTS_MS, DEFAULT_TOTAL_TIMEOUT_MS
from fivestage_schemas import Outcome, PipelineStatus, StageType

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from fivestage import Query, StageContext
    from fivestage_schemas import PipelineResult

    Work = Callable[[Query, StageContext], Coroutine[Any, Any, Any]]

OK, FAILED, LATE = PipelineStatus.SUCCESS, PipelineStatus.ERROR, PipelineStatus.TIMEOUT


def now() -> float:
    """Return the virtual seconds since the test started."""
    return asyncio.get_running_loop().time()


def node(seconds: float = 0.0, answer: Any = "done") -> Work:
    """Build a node that works for a time."""

    async def work(query: Query, ctx: StageContext) -> dict[str, Any]:  # noqa: ARG001
        await asyncio.sleep(seconds)
        return {"answer": answer, "confidence": 0.9}

    return work


def app_of(work: Work | None = None, **stages: Work) -> Pipeline:
    """Build the built-in stages around one node that takes every query, with some stages replaced."""
    app = Pipeline(builtins=False)
    app.node("math", intents={"general", "mathematical", "factual"})(work or node())
    for stage, function in stages.items():
        getattr(app, stage)(function)
    return app


async def ask(work: Work | None = None, *, plan: Any = None, **stages: Work) -> PipelineResult:
    """Ask one query."""
    return await Orchestrator(app_of(work, **stages), plan=plan).process_query("What is 15 + 7?")


# Defaults


def test_defaults() -> None:
    """250 ms in total, 50 for intent, and the three critical stages."""
    plan = Orchestrator(app_of()).plan
    assert plan.total_s == 0.250
    assert plan.stages[0].limit_s == 0.05
    assert DEFAULT_TOTAL_TIMEOUT_MS == 250
    assert list(DEFAULT_STAGE_TIMEOUTS_MS.values()) == [50, 100, 120, 40, 30]
    assert sum(DEFAULT_STAGE_TIMEOUTS_MS.values()) == 340
    assert {"intent", "decision", "processing"} == DEFAULT_CRITICAL


def test_limits_and_criticality_can_be_configured() -> None:
    """The constructor sets one stage or all of them."""
    plan = Plan.of(
        total_timeout_ms=500, stage_timeouts_ms={StageType.INTENT: 10}, critical={StageType.REFLECTION}
    )
    orchestrator = Orchestrator(app_of(), plan=plan)
    assert (orchestrator.plan.total_s, orchestrator.plan.stages[0].limit_s) == (0.5, 0.01)
    assert [spec.critical for spec in orchestrator.plan.stages] == [False, False, False, False, True]


# Stages


async def test_stage_timeout() -> None:
    """A stage that takes longer than its limit is a timeout at the limit."""
    result = await run_with_timeout(asyncio.sleep(1), StageType.INTENT, timeout_sec=0.05)
    assert (result.success, result.timeout, result.stage_type) == (False, True, "intent")
    assert result.error == "timed out after 50 ms"
    assert now() == pytest.approx(0.05)


async def test_stage_completes_in_time() -> None:
    """A stage within its limit returns its data."""
    result = await run_with_timeout(asyncio.sleep(0.01, {"result": "ok"}), StageType.INTENT)
    assert (result.success, result.timeout, result.data) == (True, False, {"result": "ok"})
    assert result.duration_ms == pytest.approx(10, abs=0.01)


async def test_stage_error() -> None:
    """An exception becomes an error text and type."""

    async def broken() -> None:
        raise ValueError("Test error")

    result = await run_with_timeout(broken(), StageType.PROCESSING)
    assert (result.success, result.timeout) == (False, False)
    assert (result.error, result.error_type) == ("Test error", "ValueError")


# The pipeline


async def test_fast_path() -> None:
    """A fast node's answer comes with five successful stages, within the budget."""
    result = await ask(node(0.01, 22))
    assert (result.status, result.answer, result.confidence) == (OK, 22, 0.9)
    assert result.metrics.stages_completed == 5
    assert result.metrics.within_budget is True
    assert now() == pytest.approx(0.01)


async def test_slow_node() -> None:
    """A node that takes a second costs its limit of 120 ms."""
    result = await ask(node(1.0))
    assert (result.status, result.error) == (LATE, "Processing timed out after 120 ms")
    assert now() == pytest.approx(0.12)


async def test_critical_failure() -> None:
    """A node's exception fails the query with its text and raises nothing at the caller."""

    async def broken(query: Query, ctx: StageContext) -> Any:  # noqa: ARG001
        raise RuntimeError("Node failed!")

    result = await ask(broken)
    assert (result.status, result.error_type, result.answer) == (FAILED, "RuntimeError", None)
    assert result.error == "Processing failed: Node failed!"
    assert [stage.outcome for stage in result.stages[3:]] == [Outcome.SKIPPED] * 2


@pytest.mark.parametrize("stage", ["validation", "reflection"])
@pytest.mark.parametrize("way", ["fails", "hangs"])
async def test_fail_soft(stage: str, way: str) -> None:
    """Failed or hanging validation and reflection leave the answer, marked as degraded."""

    async def bad(query: Query, ctx: StageContext) -> Any:  # noqa: ARG001
        if way == "hangs":
            await asyncio.sleep(1)
        raise ValueError("broken")

    result = await ask(**{stage: bad})
    assert (result.status, result.answer, result.degraded) == (OK, "done", True)
    assert (result.metrics.stages_completed, result.metrics.stages_failed) == (4, 1)


async def test_total_timeout() -> None:
    """The query takes no longer than the total, and finished stages are reported."""
    plan = Plan.of(total_timeout_ms=100, stage_timeouts_ms={StageType.PROCESSING: 1000})
    result = await ask(node(1.0), plan=plan)
    assert now() == pytest.approx(0.1)
    assert (result.status, result.error) == (LATE, "Pipeline timeout exceeded (100 ms)")
    assert [stage.stage_type for stage in result.stages if stage.success] == ["intent", "decision"]
    assert result.stages[2].timeout is True
    assert result.metrics.within_budget is False


async def test_cascading_timeouts() -> None:
    """The total holds when every stage uses its whole limit."""

    async def slow(query: Query, ctx: StageContext) -> Any:  # noqa: ARG001
        await asyncio.sleep(1)

    everywhere = dict.fromkeys(["intent", "decision", "validation", "reflection"], slow)
    result = await ask(slow, plan=Plan.of(critical=()), **everywhere)
    assert [stage.outcome for stage in result.stages[:2]] == [Outcome.TIMEOUT] * 2
    assert (result.status, result.degraded) == (OK, True)
    assert now() <= 0.25 + 1e-6


async def test_stage_trail() -> None:
    """Stages come in order, with plain names, durations and rising start times."""
    result = await ask(node(0.02))
    assert [stage.stage_type.value for stage in result.stages] == [
        "intent",
        "decision",
        "processing",
        "validation",
        "reflection",
    ]
    starts = [stage.started_at for stage in result.stages if stage.started_at is not None]
    assert len(starts) == 5
    assert starts == sorted(starts)
    assert result.started_at == starts[0]
    assert result.stages[2].node == result.node == "math"


async def test_metrics() -> None:
    """Durations per stage, and counts of completed, failed and late stages."""
    result = await ask(node(0.03))
    metrics = result.metrics
    assert set(metrics.stage_durations) == set(StageType)
    assert metrics.stage_durations["processing"] == pytest.approx(30, abs=0.01)
    assert metrics.total_duration_ms == pytest.approx(sum(metrics.stage_durations.values()), abs=0.01)
    assert (metrics.stages_completed, metrics.stages_failed, metrics.timeout_count) == (5, 0, 0)


async def test_metrics_do_not_add_up_over_queries() -> None:
    """The figures of a second query do not include the first."""
    orchestrator = Orchestrator(app_of(node(0.01)))
    for _ in range(3):
        result = await orchestrator.process_query("What is 15 + 7?")
        assert (result.metrics.stages_completed, result.metrics.timeout_count) == (5, 0)


async def test_results_are_json() -> None:
    """A result can be serialized and parsed."""
    result = await ask()
    assert type(result).model_validate(json.loads(result.model_dump_json())) == result


async def test_context_is_preserved() -> None:
    """The producer's context reaches every stage and is not shared between queries."""
    seen: dict[str, list[Any]] = {}

    async def work(query: Query, ctx: StageContext) -> Any:  # noqa: ARG001
        seen.setdefault(query.query_id, []).append(query.context["session"])
        await asyncio.sleep(0.01)
        seen[query.query_id].append(query.context["session"])
        return True

    orchestrator = Orchestrator(app_of(work, validation=work))
    queries = [
        orchestrator.process_query("2+2", query_id=f"q-{n}", context={"session": n}) for n in range(20)
    ]
    await asyncio.gather(*queries)
    assert seen == {f"q-{n}": [n] * 4 for n in range(20)}


async def test_context_variables_are_preserved() -> None:
    """The built-in stages pass on their results: intent to decision, answer to validation."""
    result = await ask(node(answer=22))
    assert isinstance(result.stages[0].data, dict)
    assert result.stages[0].data["intent"] == "mathematical"
    assert (result.stages[1].data, result.stages[3].data) == ("math", True)


# Many queries


async def test_flaky_node() -> None:
    """A node that fails every third time fails exactly those queries."""
    calls = iter(range(1000))

    async def flaky(query: Query, ctx: StageContext) -> Any:  # noqa: ARG001
        if next(calls) % 3 == 2:
            raise ConnectionError("flaky")
        return {"answer": "ok"}

    orchestrator = Orchestrator(app_of(flaky))
    results = [await orchestrator.process_query(f"query {n}?") for n in range(9)]
    assert [result.status for result in results] == [OK, OK, FAILED] * 3
    assert {result.error_type for result in results} == {None, "ConnectionError"}


async def test_a_hundred_nodes() -> None:
    """Of a hundred nodes only the one chosen by decision runs."""
    ran: list[str] = []
    app = Pipeline(builtins=False)

    def register(name: str) -> None:
        @app.node(name)
        async def work(query: Query, ctx: StageContext) -> Any:  # noqa: ARG001
            ran.append(name)
            return {"answer": name}

    for number in range(100):
        register(f"node-{number}")

    @app.decision
    async def decide(query: Query, ctx: StageContext) -> str:  # noqa: ARG001
        return query.user_input

    orchestrator = Orchestrator(app)
    names = [f"node-{number}" for number in range(99, -1, -1)]
    results = [await orchestrator.process_query(name) for name in names]
    assert [result.answer for result in results] == ran == names


async def test_ten_concurrent() -> None:
    """Ten concurrent queries of 100 ms take 100 ms together."""
    orchestrator = Orchestrator(app_of(node(0.1)))
    results = await asyncio.gather(*(orchestrator.process_query(f"query {n}?") for n in range(10)))
    assert {result.status for result in results} == {OK}
    assert len({result.query_id for result in results}) == 10
    assert now() == pytest.approx(0.1)


async def test_a_thousand_concurrent() -> None:
    """A thousand concurrent queries are answered within the budget."""
    orchestrator = Orchestrator(app_of(node(0.05)))
    results = await asyncio.gather(*(orchestrator.process_query(f"query {n}?") for n in range(1000)))
    assert [result.status for result in results] == [OK] * 1000
    assert all(result.metrics.total_duration_ms <= 250 for result in results)
    assert now() == pytest.approx(0.05)


async def test_cancellation() -> None:
    """Half of the queries are cancelled and raise; the others are answered."""
    orchestrator = Orchestrator(app_of(node(0.05)))
    tasks = [asyncio.ensure_future(orchestrator.process_query(f"query {n}?")) for n in range(10)]
    await asyncio.sleep(0.01)
    for task in tasks[::2]:
        task.cancel()
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(end).__name__ for end in ended] == ["CancelledError", "PipelineResult"] * 5
    assert now() == pytest.approx(0.05)


async def test_stress_mix() -> None:
    """One in ten hangs, one in twenty raises: all hangs are cut, the other 85 % are answered."""
    fates = ["hang"] * 50 + ["raise"] * 25 + ["answer"] * 425
    shuffled = random.Random(7)  # noqa: S311 - a fixed order, not a secret
    shuffled.shuffle(fates)

    async def work(query: Query, ctx: StageContext) -> Any:  # noqa: ARG001
        fate = query.user_input
        await asyncio.sleep(3600 if fate == "hang" else 0.03)
        if fate == "raise":
            raise RuntimeError(fate)
        return {"answer": fate}

    orchestrator = Orchestrator(app_of(work))
    results = await asyncio.gather(*(orchestrator.process_query(fate) for fate in fates))
    expected = {"hang": LATE, "raise": FAILED, "answer": OK}
    assert [result.status for result in results] == [expected[fate] for fate in fates]
    assert sum(result.status is OK for result in results) >= 0.85 * len(results)
    durations = sorted(result.metrics.total_duration_ms for result in results)
    assert durations[int(len(durations) * 0.95)] <= 250
    assert sum(result.metrics.timeout_count for result in results) == 50
    assert now() == pytest.approx(0.12)


# Lanes


@pytest.mark.parametrize("lane", ["prod", "canary", "candidate", "experimental"])
async def test_lanes(lane: str) -> None:
    """The lane is the query's, not the process's: stages and events have it."""
    seen: list[str] = []

    async def work(query: Query, ctx: StageContext) -> Any:
        seen.extend([query.lane, ctx.lane])
        return 1

    result = await Orchestrator(app_of(work)).process_query("2+2", lane=lane)
    assert seen == [lane, lane]
    assert {result.lane, *(stage.lane for stage in result.stages)} == {lane}


async def test_concurrent_lanes_do_not_mix() -> None:
    """Two lanes on one orchestrator do not mix."""
    lanes = ["prod", "canary"] * 20
    orchestrator = Orchestrator(app_of(node(0.01)))
    results = await asyncio.gather(*(orchestrator.process_query("2+2", lane=lane) for lane in lanes))
    assert [result.lane for result in results] == lanes
