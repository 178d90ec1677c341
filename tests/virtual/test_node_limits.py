"""A node's limit of calls at a time, and its own timeout."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import pytest

from fivestage import Orchestrator, Pipeline
from fivestage.core.adaptive.breaker import BreakerState
from fivestage.settings import Settings
from fivestage.testing.memory import MemoryBus

from .ruled import FIXED, KNOWN, PROCESSING, app_of, ask_at_once, attempts, choose_first
from .samples import FakeNode, Listening, ask_in_turn, stage

if TYPE_CHECKING:
    from fivestage import Query, StageContext
    from fivestage_schemas import PipelineResult
    from fivestage_schemas.stage_result import Attempt


def now() -> float:
    """Return the virtual seconds since the test started."""
    return asyncio.get_running_loop().time()


def last(result: PipelineResult) -> Attempt:
    """Return the call that the stage ended with."""
    return stage(result, PROCESSING).attempts[-1]


@pytest.mark.parametrize("limit", [1, 3, 8])
async def test_no_more_calls_run_than_the_limit(limit: int) -> None:
    """All are answered, in as many rounds as needed."""
    node = FakeNode(0.02)
    async with MemoryBus(app_of(node, limit=limit), settings=FIXED) as bus:
        results = await ask_at_once(bus, 3 * limit)
        assert now() == pytest.approx(0.06)
    assert [str(result.status) for result in results] == ["success"] * 3 * limit
    assert node.highest == limit


async def test_the_wait_is_not_the_nodes_latency() -> None:
    """The call that waited has its whole limit and its own duration; the wait is beside them."""
    async with MemoryBus(app_of(FakeNode(0.05), limit=1), settings=FIXED) as bus:
        results = await ask_at_once(bus, 3)
    calls = [last(result) for result in results]
    assert [call.duration_ms for call in calls] == pytest.approx([50] * 3)
    assert [call.waited_ms for call in calls] == pytest.approx([0, 50, 100])
    assert [call.timeout_ms for call in calls] == pytest.approx([120] * 3)
    durations = [result.metrics.total_duration_ms for result in results]
    assert durations == pytest.approx([50, 100, 150])


async def test_calls_get_slots_in_their_order() -> None:
    """A query that comes later does not overtake those that wait."""
    node = FakeNode(0.02)
    async with MemoryBus(app_of(node, limit=1), settings=FIXED) as bus:
        early = asyncio.ensure_future(ask_at_once(bus, 4))
        await asyncio.sleep(0.03)
        await bus.ask("late", query_id="late")
        await early
    assert node.calls == [f"at-once-{n}" for n in range(4)] + ["late"]


async def test_a_query_waits_only_while_a_usual_call_fits() -> None:
    """Then it ends at once, as ``node_busy``: not at its deadline, and without being called."""
    node = FakeNode(0.1)
    async with MemoryBus(app_of(node, limit=1), settings=FIXED) as bus:
        await ask_in_turn(bus, KNOWN)
        node.calls.clear()
        results = await ask_at_once(bus, 4)
    assert [result.error_type for result in results] == [None, None, "node_busy", "node_busy"]
    assert len(node.calls) == 2
    busy = results[3]
    assert busy.metrics.total_duration_ms == pytest.approx(150, abs=2)  # 250 ms, of which a call needs 100
    assert stage(busy, PROCESSING).error == (
        "node 'first' is not called: 1 calls of it run, its limit, and too little time is left"
    )
    assert attempts(busy) == [("first", "first", "error")]
    assert (last(busy).duration_ms, last(busy).timeout_ms) == (0, 0)
    assert last(busy).waited_ms == pytest.approx(150, abs=2)


async def test_the_next_node_is_called_instead_while_it_can_answer() -> None:
    """The wait leaves the other node the time that it is known to need."""
    first, second = FakeNode(fails=True), FakeNode(0.05)
    app = app_of(first, second, limit=1)
    app.decision(choose_first)
    settings = Settings.model_validate({"adaptive": {"enabled": False}, "breaker": {"enabled": False}})
    async with MemoryBus(app, settings=settings) as bus:
        await ask_in_turn(bus, KNOWN)
        first.fails, first.takes_s, second.takes_s = False, 10, 0.02
        first.calls.clear()
        results = await ask_at_once(bus, 3)
    assert [str(result.status) for result in results] == ["success", "timeout", "success"]
    assert attempts(results[2]) == [("first", "first", "error"), ("second", "failover", "success")]
    calls = stage(results[2], PROCESSING).attempts
    assert [call.waited_ms for call in calls] == pytest.approx([200, 0])
    assert [call.duration_ms for call in calls] == pytest.approx([0, 20])
    assert first.calls == ["at-once-0", "at-once-1"]


async def test_a_busy_node_is_no_failure() -> None:
    """Neither its breaker nor its health counts a query for which it had no slot."""
    node, listening = FakeNode(0.1), Listening()
    async with MemoryBus(app_of(node, limit=1), settings=FIXED, observer=listening) as bus:
        await ask_in_turn(bus, 10)
        for number in range(10):
            await ask_at_once(bus, 20, f"crowd-{number}")
        routing = bus.dispatcher.active._learned.lane("prod").routing.node("first")
    assert (routing.state, routing.score) == (BreakerState.CLOSED, 1.0)
    assert listening.breakers == []


async def test_a_call_that_ignores_its_cancellation_keeps_its_slot() -> None:
    """The slot is free when the code has ended, not when its query has."""
    end, calls = asyncio.Event(), []

    async def stubborn(query: Query, _ctx: StageContext) -> str:
        calls.append(query.user_input)
        while query.user_input == "stubborn" and not end.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await end.wait()
        return "done"

    async with MemoryBus(app_of(stubborn, limit=1), settings=FIXED) as bus:
        late = await bus.ask("stubborn")
        await asyncio.sleep(10)
        busy = await bus.ask("too early")
        end.set()
        fine = await bus.ask("now")
    assert [one.error_type for one in (late, busy, fine)] == ["timeout", "node_busy", None]
    assert calls == ["stubborn", "now"]


async def test_slots_survive_whatever_ends_a_call() -> None:
    """After errors, timeouts and cancelled waits as many calls run as before."""
    node = FakeNode(0.05)
    async with MemoryBus(app_of(node, limit=2), settings=FIXED) as bus:
        node.fails = True
        await ask_at_once(bus, 4, "failed")
        node.fails, node.takes_s = False, 10
        await ask_at_once(bus, 6, "late")
        node.takes_s = 0.05
        await ask_at_once(bus, 6, "short", budget_ms=20)
        node.highest = 0
        results = await ask_at_once(bus, 4)
    assert [str(result.status) for result in results] == ["success"] * 4
    assert node.highest == 2


async def test_a_cancelled_caller_gives_its_place_to_the_next() -> None:
    """Without Kafka too: the waiting caller gives up, the one behind it is called."""
    node = FakeNode(0.05)
    orchestrator = Orchestrator(app_of(node, limit=1))
    calls = [asyncio.ensure_future(orchestrator.process_query(f"query {n}")) for n in range(3)]
    await asyncio.sleep(0.01)
    calls[1].cancel()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(result).__name__ for result in results] == [
        "PipelineResult",
        "CancelledError",
        "PipelineResult",
    ]
    assert now() == pytest.approx(0.1)


async def test_a_node_declared_again_has_its_new_limit() -> None:
    """As a reload does; calls of the old one do not count."""
    app = Pipeline()
    node = FakeNode(0.05)
    app.node("first", intents={"general"}, limit=1)(node)
    orchestrator = Orchestrator(app)
    await asyncio.gather(*(orchestrator.process_query("hello there") for _ in range(2)))
    assert node.highest == 1
    app.node("first", intents={"general"}, limit=2)(node)
    await asyncio.gather(*(orchestrator.process_query("hello there") for _ in range(2)))
    assert node.highest == 2


# The node's own timeout


async def test_a_node_may_have_less_time_than_its_stage() -> None:
    """It is cut at its own limit, and another node gets the rest."""
    first, second = FakeNode(10), FakeNode(0.01)
    async with MemoryBus(app_of(first, second, timeout_ms=30), settings=FIXED) as bus:
        result = await bus.ask("any")
    assert attempts(result) == [("first", "first", "timeout"), ("second", "failover", "success")]
    assert stage(result, PROCESSING).attempts[0].timeout_ms == pytest.approx(30)
    assert result.metrics.total_duration_ms == pytest.approx(40)


@pytest.mark.parametrize(("declared", "answers"), [(None, 0), (45, 1), (55, 0)])
async def test_a_node_that_was_never_called_needs_no_more_than_its_limit(
    declared: float | None, answers: int
) -> None:
    """Without one it may need as long as the stage, so that it is not called where less time is left."""
    app = app_of(FakeNode(10), timeout_ms=200)
    app.node("second", intents={"any"}, timeout_ms=declared)(FakeNode(0.01))
    settings = Settings.model_validate(
        {"adaptive": {"enabled": False}, "pipeline": {"stage_timeouts_ms": {"processing": 250}}}
    )
    async with MemoryBus(app, settings=settings) as bus:
        result = await bus.ask("any")
    assert (result.answer is not None) == answers
    assert len(attempts(result)) == 1 + answers


@pytest.mark.parametrize(("declared", "answered"), [(None, ["first", "second"]), (20, ["first", "first"])])
async def test_a_query_waits_for_a_slot_as_long_as_the_other_nodes_limit_allows(
    declared: float | None, answered: list[str]
) -> None:
    """The node that would be called instead, and was not yet, needs what it declares, or a stage's time."""
    app = app_of(FakeNode(0.1), limit=1)
    app.node("second", intents={"any"}, timeout_ms=declared)(FakeNode(0.01))
    settings = Settings.model_validate(
        {"adaptive": {"enabled": False}, "pipeline": {"stage_timeouts_ms": {"processing": 250}}}
    )
    async with MemoryBus(app, settings=settings) as bus:
        results = await ask_at_once(bus, 2)
    assert [result.node for result in results] == answered


async def test_a_node_never_has_more_time_than_its_stage() -> None:
    """A larger limit changes nothing."""
    async with MemoryBus(app_of(FakeNode(10), timeout_ms=5000), settings=FIXED) as bus:
        result = await bus.ask("any")
    assert (result.error, last(result).timeout_ms) == ("Processing timed out after 120 ms", 120)


async def test_the_clients_timeout_follows_the_nodes() -> None:
    """``ctx.timeout()`` is of the time that the node has."""

    async def node(_query: Query, ctx: StageContext) -> float:
        return ctx.timeout()

    async with MemoryBus(app_of(node, timeout_ms=40), settings=FIXED) as bus:
        result = await bus.ask("any")
    assert result.answer == pytest.approx(0.035)


async def test_timeouts_at_the_nodes_own_limit_count() -> None:
    """Although the stage would have granted more, breaker and health see a node that does not answer."""
    node, listening = FakeNode(10), Listening()
    async with MemoryBus(app_of(node, timeout_ms=30), settings=FIXED, observer=listening) as bus:
        for _ in range(60):
            await bus.ask("any")
    assert listening.breakers[0] == ("prod", "first", "open")


async def test_timeouts_at_the_nodes_own_limit_do_not_move_the_stages() -> None:
    """The learned limit of the stage is of all nodes."""
    node = FakeNode(0.02)
    settings = Settings.model_validate({"breaker": {"enabled": False}})
    async with MemoryBus(app_of(node, timeout_ms=110), settings=settings) as bus:
        await ask_in_turn(bus, 200)
        before = bus.dispatcher.active._learned.lane("prod").limits[2].p95_s
        node.takes_s = 10
        await ask_in_turn(bus, 100)
        assert bus.dispatcher.active._learned.lane("prod").limits[2].p95_s == before
