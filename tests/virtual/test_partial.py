"""Partial answers: what a node offered counts where the node does not end in time."""

from __future__ import annotations

import asyncio
import math
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from fivestage import Orchestrator, Pipeline, Plan, StageContext, Unanswerable
from fivestage.core.records import Output
from fivestage.errors import NodeError
from fivestage.settings import Settings
from fivestage.testing import MemoryBus
from fivestage_schemas import PipelineStatus, StageType
from support.documents import blocks, section, text_of
from support.events import Event
from support.runs import inconsistencies

if TYPE_CHECKING:
    from fivestage import Query
    from fivestage_schemas import PipelineResult

OK, FAILED, LATE = PipelineStatus.SUCCESS, PipelineStatus.ERROR, PipelineStatus.TIMEOUT
GENERAL = {"general", "mathematical", "factual"}
MAX_BYTES = 5000
ALLOWED: dict[str, Any] = {"allow_partial": True}


def app_of(*nodes: Any, **stages: Any) -> Pipeline:
    """Build an app whose nodes are n0, n1 and so on; decision chooses the first."""
    app = Pipeline(builtins=False)
    for number, node in enumerate(nodes):
        app.node(f"n{number}", intents=GENERAL)(node)

    @app.decision
    async def first(query: Query, ctx: StageContext) -> str:  # noqa: ARG001
        return "n0"

    for stage, function in stages.items():
        getattr(app, stage)(function)
    return app


async def ask(app: Pipeline, *, plan: Plan | None = None, **fields: Any) -> PipelineResult:
    """Ask one query without Kafka, and check the result against itself."""
    result = await Orchestrator(app, plan=plan, max_data_bytes=MAX_BYTES).process_query("2 + 2", **fields)
    assert_consistent(result.model_dump(mode="json"))
    return result


def assert_consistent(value: dict[str, Any]) -> None:
    """Assert that the independent checker finds no contradiction in a result."""
    event: Any = Event("results", None, (0, 0), "result", {}, value)  # type: ignore[arg-type]
    assert inconsistencies(event) == []


def offering(*offers: Any, then: float | BaseException = 60.0, after: float = 0.0) -> Any:
    """Build a node that offers answers, and later returns one or raises."""

    async def node(query: Query, ctx: StageContext) -> str:  # noqa: ARG001
        for offer in offers:
            ctx.offer(offer, confidence=0.4)
        await asyncio.sleep(after if isinstance(then, BaseException) else then)
        if isinstance(then, BaseException):
            raise then
        return "final"

    return node


def outcomes(result: PipelineResult) -> list[str]:
    """Return the outcomes of processing and the stages after it."""
    return [str(stage.outcome) for stage in result.stages[2:]]


# What a query with an offer ends as


async def test_a_query_that_allows_it_succeeds_with_the_last_offer() -> None:
    """Validation and reflection run on the offer, once the node has reached its limit."""
    seen: list[tuple[Any, ...]] = []

    async def look(query: Query, ctx: StageContext) -> bool:  # noqa: ARG001
        seen.append((ctx.partial, ctx.answer, ctx.confidence, ctx.node, StageType.PROCESSING in ctx.results))
        return True

    result = await ask(app_of(offering("a", {"b": [1]}), validation=look, reflection=look), **ALLOWED)
    assert (result.status, result.degraded, result.partial, result.validated) == (OK, True, True, True)
    assert (result.answer, result.confidence, result.node) == ({"b": [1]}, 0.4, "n0")
    assert (outcomes(result), result.error_type) == (["timeout", "success", "success"], None)
    assert result.metrics.total_duration_ms == pytest.approx(120, abs=0.01)
    assert seen == [(True, {"b": [1]}, 0.4, "n0", False)] * 2
    assert (result.stages[2].data, result.stages[2].error_type) == (None, "timeout")


@pytest.mark.parametrize("fields", [{}, {"allow_partial": False}, {"allow_partial": None}])
async def test_any_other_query_times_out_with_the_offer(fields: dict[str, Any]) -> None:
    """The status is that of any timeout, and the answer is filled and marked."""
    result = await ask(app_of(offering("a", "b")), **fields)
    assert (result.status, result.error_type) == (LATE, "timeout")
    assert (result.answer, result.confidence, result.partial, result.node) == ("b", 0.4, True, "n0")
    assert (result.degraded, result.validated) == (False, None)
    assert outcomes(result) == ["timeout", "skipped", "skipped"]


@pytest.mark.parametrize("fields", [ALLOWED, {}])
async def test_at_the_total_deadline_it_is_a_timeout(fields: dict[str, Any]) -> None:
    """A node that runs until the end of the query leaves no time to check its offer, even where allowed."""

    async def ignores_its_end(query: Query, ctx: StageContext) -> None:  # noqa: ARG001
        for text in "abc":
            ctx.offer(text)
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                continue

    result = await ask(app_of(ignores_its_end), **fields)
    assert (result.status, result.partial, result.metrics.within_budget) == (LATE, True, False)
    assert (result.answer, outcomes(result)) == ("b", ["timeout", "skipped", "skipped"])
    assert result.metrics.total_duration_ms == pytest.approx(250, abs=0.01)


async def test_a_limit_as_long_as_the_query_leaves_time_to_check_the_offer() -> None:
    """With allow_partial processing ends some milliseconds before the query; without, at its end."""
    plan = Plan.of(stage_timeouts_ms={StageType.PROCESSING: 250})
    result = await ask(app_of(offering("a")), plan=plan, **ALLOWED)
    assert (result.status, result.partial) == (OK, True)
    assert result.metrics.total_duration_ms == pytest.approx(245, abs=0.01)
    late = await ask(app_of(offering("a")), plan=plan)
    assert (late.status, late.partial, late.answer) == (LATE, True, "a")
    assert late.metrics.total_duration_ms == pytest.approx(250, abs=0.01)


@pytest.mark.parametrize(("fields", "status", "answer"), [(ALLOWED, OK, "a"), ({}, OK, None)])
async def test_processing_that_is_not_critical(fields: dict[str, Any], status: str, answer: Any) -> None:
    """A success has the offer only if the query allows it."""
    result = await ask(app_of(offering("a")), plan=Plan.of(critical=()), **fields)
    assert (result.status, result.degraded, result.answer) == (status, True, answer)
    assert result.partial is (answer is not None)


async def test_a_slow_validation_of_an_offer() -> None:
    """The total time runs out while validation looks at the offer: the query has succeeded by then."""

    async def slow(query: Query, ctx: StageContext) -> bool:  # noqa: ARG001
        await asyncio.sleep(60)
        return True

    result = await ask(app_of(offering("a"), validation=slow), **ALLOWED, budget_ms=130)
    assert (result.status, result.partial, result.answer, result.validated) == (OK, True, "a", None)
    assert outcomes(result) == ["timeout", "timeout", "skipped"]


@pytest.mark.parametrize(
    ("rejected", "ends_as"),
    [("degrade", (OK, "a", True, None)), ("error", (FAILED, None, False, "rejected"))],
)
async def test_validation_rejects_the_offer(rejected: Any, ends_as: tuple[Any, ...]) -> None:
    """A rejected offer ends as any rejected answer."""

    async def never(query: Query, ctx: StageContext) -> bool:  # noqa: ARG001
        return False

    result = await ask(app_of(offering("a"), validation=never), plan=Plan.of(rejected=rejected), **ALLOWED)
    assert (result.status, result.answer, result.partial, result.error_type) == ends_as
    assert result.validated is False


async def test_the_final_answer_replaces_offers() -> None:
    """A node that ends in time is not partial."""
    result = await ask(app_of(offering("a", then=0.01)), **ALLOWED)
    assert (result.status, result.answer, result.partial, result.degraded) == (OK, "final", False, False)


@pytest.mark.parametrize("fields", [ALLOWED, {}])
async def test_an_exception_discards_offers(fields: dict[str, Any]) -> None:
    """A node that raises before its limit has no answer, whatever it offered."""
    result = await ask(app_of(offering("a", then=ValueError("no"))), **fields)
    assert (result.status, result.error_type, result.answer, result.partial) == (
        FAILED,
        "ValueError",
        None,
        False,
    )


class BrokenOffError(Exception):
    """The stream of an answer broke off."""

    keeps_offer: Any = True


@pytest.mark.parametrize(("fields", "status"), [(ALLOWED, OK), ({}, FAILED)])
async def test_an_exception_may_keep_offers(fields: dict[str, Any], status: PipelineStatus) -> None:
    """After one with ``keeps_offer`` a query that allows it goes on with the offer; others end with it."""
    result = await ask(app_of(offering("a", then=BrokenOffError())), **fields)
    assert (result.status, result.answer, result.partial, result.node) == (status, "a", True, "n0")
    assert (result.stages[2].outcome, result.stages[2].error_type) == ("error", "BrokenOffError")
    assert result.stages[3].outcome == ("success" if fields else "skipped")


@pytest.mark.parametrize("said", [False, None, 1, "yes"])
async def test_only_true_keeps_offers(said: object) -> None:
    """Any other value is as without the attribute."""
    error = BrokenOffError()
    error.keeps_offer = said
    result = await ask(app_of(offering("a", then=error)), **ALLOWED)
    assert (result.status, result.answer, result.partial) == (FAILED, None, False)


async def test_a_kept_offer_outlasts_a_second_failure() -> None:
    """Where the next node raises too, whose exception discards only its own offers."""
    nodes = offering("a", then=BrokenOffError()), offering("b", then=ValueError("no"))
    result = await ask(app_of(*nodes), **ALLOWED)
    assert (result.status, result.answer, result.node) == (OK, "a", "n0")


async def test_an_exception_after_the_limit_does_not() -> None:
    """What a client raises when its node is cancelled at the limit leaves a timeout, and the offer."""

    async def converts(query: Query, ctx: StageContext) -> None:  # noqa: ARG001
        ctx.offer("a")
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            raise ConnectionError("closed") from None

    result = await ask(app_of(converts), **ALLOWED)
    assert (result.status, result.partial, result.answer) == (OK, True, "a")


# Failover


async def test_the_last_attempt_counts_else_the_earlier_one() -> None:
    """The offer of the second of two late nodes counts; if it has none, or raises, that of the first."""
    plan = Plan.of(stage_timeouts_ms={StageType.PROCESSING: 60})
    for second, answer, node in (
        (offering("b"), "b", "n1"),
        (offering(), "a", "n0"),
        (offering("b", then=ValueError("no")), "a", "n0"),
    ):
        result = await ask(app_of(offering("a"), second), plan=plan, **ALLOWED)
        assert (result.status, result.partial, result.answer, result.node) == (OK, True, answer, node)
        assert [attempt.node for attempt in result.stages[2].attempts] == ["n0", "n1"]


async def test_a_failed_second_node_keeps_its_status() -> None:
    """Without allow_partial the query is the error that it would be, with the first node's offer."""
    plan = Plan.of(stage_timeouts_ms={StageType.PROCESSING: 60})
    result = await ask(app_of(offering("a"), offering(then=ValueError("no"))), plan=plan)
    assert (result.status, result.error_type, result.answer, result.partial, result.node) == (
        FAILED,
        "ValueError",
        "a",
        True,
        "n0",
    )


async def test_a_query_without_an_answer_has_no_partial_one() -> None:
    """If the second node says that there is no answer, the first one's offer does not count."""
    plan = Plan.of(stage_timeouts_ms={StageType.PROCESSING: 60})
    app = app_of(offering("a"), offering(then=Unanswerable("unknown unit")))
    result = await ask(app, plan=plan, **ALLOWED)
    assert (result.status, result.error_type, result.answer, result.partial) == (
        FAILED,
        "Unanswerable",
        None,
        False,
    )


async def test_a_second_node_that_answers_is_as_if_nothing_had_been_offered() -> None:
    """The first node's offer is forgotten, also what its abandoned task still offers."""
    late: list[asyncio.Task[None]] = []

    async def leaves_a_task(query: Query, ctx: StageContext) -> None:  # noqa: ARG001
        async def offer_later() -> None:
            while True:
                ctx.offer("from the first node")
                await asyncio.sleep(0.001)

        late.append(asyncio.ensure_future(offer_later()))
        await asyncio.sleep(60)

    plan = Plan.of(stage_timeouts_ms={StageType.PROCESSING: 60})
    result = await ask(app_of(leaves_a_task, offering("b", then=0.01)), plan=plan, **ALLOWED)
    assert (result.status, result.answer, result.partial, result.degraded) == (OK, "final", False, False)
    result = await ask(app_of(leaves_a_task, offering("b")), plan=plan, **ALLOWED)
    assert (result.answer, result.node) == ("b", "n1")
    for task in late:
        task.cancel()


# What may be offered


@pytest.mark.parametrize("stage", ["intent", "decision", "validation", "reflection"])
async def test_other_stages_cannot_offer(stage: str) -> None:
    """The call raises in the stage's own code, and says where it may be called."""

    async def offers(query: Query, ctx: StageContext) -> Any:  # noqa: ARG001
        ctx.offer("a")

    result = await ask(app_of(offering(then=0.0), **{stage: offers}), plan=Plan.of(critical=()))
    failed = next(one for one in result.stages if one.stage_type == stage)
    text = f"only nodes can offer answers: ctx.offer was called in {stage}"
    assert (failed.error_type, failed.error, result.partial) == ("NodeError", text, False)


@pytest.mark.parametrize(
    ("answer", "confidence", "error", "text"),
    [
        (b"bytes", None, TypeError, "not JSON: bytes"),
        ({"a": [object()]}, None, TypeError, r"not JSON: a\[0\]: object"),
        ("x" * MAX_BYTES, None, ValueError, "takes more than 5000 bytes as JSON"),
        (["x"] * MAX_BYTES, None, ValueError, "takes more than 5000 bytes as JSON"),
        ("a", "high", TypeError, "confidence must be a number from 0 to 1, got str"),
        ("a", True, TypeError, "confidence must be a number from 0 to 1, got bool"),
    ],
)
async def test_wrong_offers_raise_in_the_node(answer: Any, confidence: Any, error: Any, text: str) -> None:
    """The node's own code gets the error, and the offer before it counts on."""

    async def node(query: Query, ctx: StageContext) -> None:  # noqa: ARG001
        ctx.offer("before")
        with pytest.raises(error, match=text):
            ctx.offer(answer, confidence=confidence)
        await asyncio.sleep(60)

    assert (await ask(app_of(node))).answer == "before"


@pytest.mark.parametrize(
    ("answer", "confidence", "wanted"),
    [
        ("a", 7, ("a", 1.0)),
        ("a", -1.5, ("a", 0.0)),
        ("a", math.nan, ("a", 0.0)),
        ("a", Fraction(1, 2), ("a", 0.5)),
        ({"answer": "a", "confidence": 0.3}, None, ("a", 0.3)),
        ({"answer": "a", "confidence": 0.3}, 0.6, ("a", 0.6)),
        ({1, 2}, None, ([1, 2], None)),
        (2**80, None, (2**80, None)),
        (None, None, (None, None)),
    ],
)
async def test_an_offer_may_be_what_a_node_may_return(answer: Any, confidence: Any, wanted: Any) -> None:
    """A dict with answer and confidence is read as such; other forms of JSON are converted."""
    seen: list[Any] = []

    async def node(query: Query, ctx: StageContext) -> None:  # noqa: ARG001
        ctx.offer(answer, confidence=confidence)
        await asyncio.sleep(60)

    async def look(query: Query, ctx: StageContext) -> bool:  # noqa: ARG001
        seen.append((ctx.answer, ctx.confidence))
        return True

    result = await ask(app_of(node, validation=look), **ALLOWED)
    assert (result.answer, result.confidence, result.partial) == (*wanted, True)
    assert seen == [wanted]


async def test_an_offer_is_a_copy() -> None:
    """What the node changes after the call is not part of the offer."""

    async def node(query: Query, ctx: StageContext) -> None:  # noqa: ARG001
        words = ["a"]
        ctx.offer(words)
        words.append("b")
        await asyncio.sleep(60)

    assert (await ask(app_of(node))).answer == ["a"]


def test_a_context_made_in_a_test_keeps_the_last_offer() -> None:
    """Nodes can be tested without an app."""
    ctx = StageContext("prod", 1.0, lambda: 0.0, StageType.PROCESSING, node="llm")
    ctx.offer("a")
    ctx.offer({"b": 1}, confidence=0.5)
    assert ctx.last_offer == (b'{"b":1}', 0.5, "llm")
    ctx.stage_type = StageType.VALIDATION
    with pytest.raises(NodeError, match="called in validation"):
        ctx.offer("c")
    assert ctx.partial is False


# In the service


def settings(**pipeline: Any) -> Settings:
    """Return settings with these of the pipeline."""
    return Settings.model_validate({"pipeline": pipeline, "adaptive": {"enabled": False}})


@pytest.mark.parametrize(
    ("setting", "asked", "status"),
    [
        (False, None, LATE), (False, False, LATE), (False, True, OK),
        (True, None, OK), (True, False, LATE), (True, True, OK),
    ],
)  # fmt: skip
async def test_the_query_decides_else_the_setting(setting: bool, asked: Any, status: str) -> None:  # noqa: FBT001
    """``allow_partial`` of the query overrides ``pipeline.allow_partial``; null says nothing."""
    async with MemoryBus(app_of(offering("a")), settings=settings(allow_partial=setting)) as bus:
        result = await bus.ask("hello", allow_partial=asked)
        assert (result.status, result.partial, result.answer) == (status, True, "a")
        assert_consistent(orjson.loads(bus.sink.of(Output.RESULTS)[0].value or b""))
        timeouts = [orjson.loads(one.value or b"") for one in bus.sink.of(Output.TIMEOUTS)]
        assert [one["scope"] for one in timeouts] == ["stage"]
        assert len(bus.sink.of(Output.RESULTS)) == 1


@pytest.mark.parametrize("wrong", ["true", 1, 0, [], {}])
async def test_a_wrong_allow_partial_is_a_dead_letter(wrong: Any) -> None:
    """As any optional field of a wrong type it makes the query invalid, with a result that says so."""
    async with MemoryBus(app_of(offering("a"))) as bus:
        bus.put(orjson.dumps({"query_id": "q", "user_input": "a", "allow_partial": wrong}))
        await bus.sink.published()
        [result] = [orjson.loads(one.value or b"") for one in bus.sink.of(Output.RESULTS)]
        assert (result["error_type"], result["partial"]) == ("invalid_query", False)
        assert "allow_partial" in result["error"]
        [letter] = bus.sink.of(Output.DEAD_LETTERS)
        assert dict(letter.headers)["dlq.reason"] == b"invalid_field"


async def test_breaker_health_and_limits_learn_the_timeout() -> None:
    """A node that only ever offers is as unhealthy as one that never answers, and loses its breaker."""
    async with MemoryBus(app_of(offering("a")), settings=settings(allow_partial=True)) as bus:
        routing = bus.dispatcher.learned.lane("prod").routing
        while (result := await bus.ask("hello")).partial:
            assert result.status is OK
        assert (result.status, result.error_type, result.answer) == (FAILED, "breaker_open", None)
        assert not routing.allows("n0")
        assert bus.dispatcher.learned.lane("prod").nodes["n0"].fallback == ""


async def test_a_stage_that_does_not_end_leaves_its_offer_to_the_query() -> None:
    """The watchdog ends a node that ignores its limit, and the later stages run on what it offered."""

    async def ignores(query: Query, ctx: StageContext) -> None:  # noqa: ARG001
        for number in range(10):
            ctx.offer(number)
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                continue

    async with MemoryBus(app_of(ignores), settings=settings(allow_partial=True)) as bus:
        result = await bus.ask("hello")
        assert (result.status, result.partial, result.validated) == (OK, True, True)
        assert result.answer in {1, 2}
        assert outcomes(result) == ["timeout", "success", "success"]
        assert result.metrics.total_duration_ms < 250


async def test_the_node_in_the_documents() -> None:
    """The printed node offers what it has at its limit."""
    names: dict[str, Any] = {}
    exec(blocks("python", section("Partial answers", text_of("docs/authors.md")))[0], names)  # noqa: S102
    result = await Orchestrator(names["app"]).process_query("Compare the two offers", allow_partial=True)
    assert (result.status, result.partial, result.node) == (OK, True, "llm")
    assert (result.answer, result.confidence) == ("The first is cheaper", 0.4)
