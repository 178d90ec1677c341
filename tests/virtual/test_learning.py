"""Learning from ended queries (latencies, limits, breakers), and its effect on later queries."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any

import pytest

from fivestage.core.adaptive.breaker import BreakerState
from fivestage.observability.exposition import render
from fivestage.observability.gauges import add_gauges
from fivestage.observability.metrics import Metrics
from fivestage.settings import Settings
from fivestage.testing.memory import MemoryBus
from fivestage_schemas import StageType

from .samples import (
    FakeNode,
    Listening,
    ask_for_a_second,
    ask_in_turn,
    ask_many,
    finish,
    know,
    outcomes,
    pipeline,
    query,
    stage,
    statuses,
)

if TYPE_CHECKING:
    from fivestage import Query, StageContext
    from fivestage_schemas import PipelineResult

INTENT, DECISION, PROCESSING, VALIDATION, REFLECTION = StageType
FIXED: dict[str, Any] = {"adaptive": {"enabled": False}}
CONFIGURED_MS = [50, 100, 120, 40, 30]


def limits_ms(result: PipelineResult) -> list[float]:
    """Return the limits that the stages were given."""
    return [round(stage.timeout_ms or 0, 1) for stage in result.stages]


def learned_ms(bus: MemoryBus, lane: str = "prod") -> list[float]:
    """Return the learned limits of a lane."""
    return [round(limit.limit_s * 1000, 1) for limit in bus.dispatcher.learned.lane(lane).limits]


# The budget flows


async def test_a_critical_stage_leaves_later_ones_what_they_need() -> None:
    """An early stage is cut so that later critical stages have their known latencies."""
    takes_s = {INTENT: 0.005, DECISION: 0.06, VALIDATION: 0.01, REFLECTION: 0.01}
    node = FakeNode(0.08)
    settings = Settings.model_validate(FIXED)
    async with MemoryBus(pipeline(takes_s, any=node), settings=settings) as bus:
        before = await bus.ask("any", budget_ms=170)
        await ask_in_turn(bus, 50)
        known = await bus.ask("any", budget_ms=170)
        takes_s[INTENT] = 0.2
        cut = await bus.ask("any", budget_ms=170)
    assert limits_ms(before)[:3] == [50, 100, 105]
    assert limits_ms(known)[:3] == [30, 85, 105]  # 170 less 60 and 80; 165 less 80; all that is left
    assert (str(known.status), str(cut.status)) == ("success", "timeout")
    assert outcomes(cut) == ["timeout", *["skipped"] * 4]
    assert cut.metrics.total_duration_ms == pytest.approx(30)


async def test_a_slow_non_critical_stage_does_not_cost_the_answer() -> None:
    """A slow non-critical stage gets only what later critical stages leave, and the query is answered."""
    takes_s = {DECISION: 0.001}
    settings = Settings.model_validate({**FIXED, "pipeline": {"critical": ["processing"]}})
    async with MemoryBus(pipeline(takes_s, any=FakeNode(0.1)), settings=settings) as bus:
        know(bus, {DECISION: 0.001, PROCESSING: 0.1})
        takes_s[DECISION] = 0.09
        slow = await bus.ask("any", budget_ms=160)
        takes_s[DECISION] = 0.02
        quick = await bus.ask("any", budget_ms=160)
    assert (outcomes(slow)[1], limits_ms(slow)[1]) == ("timeout", 60)
    assert (str(quick.status), outcomes(quick)[1], limits_ms(quick)[1]) == ("success", "success", 60)


async def test_a_non_critical_stage_without_enough_time_is_skipped() -> None:
    """A non-critical stage with too little time is skipped, with the figures as its reason."""
    takes_s = {VALIDATION: 0.03, REFLECTION: 0.001}
    settings = Settings.model_validate(FIXED)
    async with MemoryBus(pipeline(takes_s, any=FakeNode(0.08)), settings=settings) as bus:
        await ask_in_turn(bus, 51)
        result = await bus.ask("any", budget_ms=100)
    validation = stage(result, VALIDATION)
    assert outcomes(result) == ["success", "success", "success", "skipped", "success"]
    assert validation.error == "20 ms were left, it takes 30"
    assert (str(result.status), result.degraded, result.answer) == ("success", True, "any")
    assert result.metrics.total_duration_ms == pytest.approx(81)


# Learned limits

QUICK: dict[str, Any] = {"pipeline": {"total_timeout_ms": 400}}


class Cache(FakeNode):
    """Takes 5 ms, and 100 ms for every n-th call."""

    def __init__(self, slow_every: int) -> None:
        super().__init__()
        self.slow_every = slow_every

    async def __call__(self, query: Query, ctx: StageContext) -> str:
        self.takes_s = 0.1 if len(self.calls) % self.slow_every == 0 else 0.005
        return await super().__call__(query, ctx)


async def test_a_quick_stage_keeps_its_configured_limit_while_slots_are_free() -> None:
    """The learned limit falls to the floor but is not applied while slots are free."""
    async with MemoryBus(pipeline(any=FakeNode(0.01))) as bus:
        results = await ask_in_turn(bus, 110)
        assert learned_ms(bus) == pytest.approx([25, 50, 60, 20, 15], abs=0.2)
    assert {tuple(limits_ms(result)) for result in results} == {tuple(CONFIGURED_MS)}


async def test_occasional_slow_calls_are_answered() -> None:
    """A node with a cache takes 5 ms, and 100 of its 120 ms every 25th time: all 2,000 are answered."""
    async with MemoryBus(pipeline(any=Cache(25))) as bus:
        for number in range(2000):
            bus.put(query(f"q{number}"))
            await asyncio.sleep(0.01)
        await finish(bus, 2000)
        assert statuses(bus) == {"success": 2000}


@pytest.mark.parametrize(
    ("often", "due", "lowered"), [(25, True, True), (25, False, False), (2, True, False)]
)
async def test_while_queries_wait_a_limit_that_pays_is_applied(
    often: int, *, due: bool, lowered: bool
) -> None:
    """While queries with deadlines wait, one slow call in 25 is cut; one in two is not."""
    listening = Listening()
    settings = Settings.model_validate({"admission": {"max_in_flight": 8, "adaptive_limit": False}})
    fields = {"deadline": "2099-01-01T00:00:00Z"} if due else {}
    async with MemoryBus(pipeline(any=Cache(often)), observer=listening, settings=settings) as bus:
        await ask_in_turn(bus, 110)
        for _ in range(15):
            for number in range(100):
                bus.put(query(f"q{number}", **fields))
            await asyncio.sleep(0.05)
        busy_s = bus.dispatcher.learned.lane("prod").routing.stages[2].limit_s
        await finish(bus, 1610)
        await asyncio.sleep(1)
        calm = await ask_in_turn(bus, 2)
    assert busy_s == pytest.approx(0.06, abs=0.001) if lowered else busy_s >= 0.12
    assert limits_ms(calm[1])[2] >= 120
    changes = [(one.change, one.subject) for one in listening.controls if one.control == "stage_limit"]
    assert changes == ([("lowered", "processing"), ("restored", "processing")] if lowered else [])


async def test_a_stage_that_becomes_slow_is_given_more() -> None:
    """Timeouts count as longer than the limit: after some of them the limit exceeds the latency."""
    node = FakeNode(0.01)
    async with MemoryBus(pipeline(any=node), settings=Settings.model_validate(QUICK)) as bus:
        await ask_in_turn(bus, 150)
        node.takes_s = 0.15
        slow = await ask_in_turn(bus, 260)
    assert str(slow[0].status) == "timeout"
    assert [str(result.status) for result in slow[30:]] == ["success"] * 230
    granted = [limits_ms(result)[2] for result in slow]
    assert granted[0] == 120
    assert granted[-1] == pytest.approx(225, abs=5)  # 1.5 times its latency


@pytest.mark.parametrize("options", [{"enabled": False}, {"min_samples": 200}])
async def test_configured_limits_hold_without_samples_or_when_off(options: dict[str, Any]) -> None:
    """Below min_samples, and with adaptive.enabled off, the configured limits hold."""
    settings = Settings.model_validate({"adaptive": options})
    async with MemoryBus(pipeline(any=FakeNode(0.01)), settings=settings) as bus:
        await ask_many(bus, "q", 199)
        last = await bus.ask("any")
        expected = CONFIGURED_MS if "enabled" in options else [47.5, 95, 114, 38, 28.5]
        assert learned_ms(bus) == expected
    assert limits_ms(last) == CONFIGURED_MS


async def test_each_lane_learns_for_itself() -> None:
    """A fast stage in one lane keeps its limit in another."""
    async with MemoryBus(pipeline(any=FakeNode(0.01))) as bus:
        await ask_in_turn(bus, 120)
        other = await bus.ask("any", lane="canary")
        assert learned_ms(bus) == pytest.approx([25, 50, 60, 20, 15], abs=0.2)
        assert learned_ms(bus, "canary") == CONFIGURED_MS
    assert limits_ms(other) == CONFIGURED_MS


def gauges_of(bus: MemoryBus) -> list[str]:
    """Return the lines of the service's gauges for a memory bus."""
    metrics = Metrics(topic="queries", group_id="g")
    add_gauges(
        metrics,
        dispatcher=bus.dispatcher,
        executor=bus.executor,
        ledger=bus.ledger,
        lag=dict,
        bus_lag_s=lambda: 0.0,
        is_ready=lambda: True,
    )
    return render(metrics.registry, "")[0].decode().splitlines()


async def test_the_learned_limits_are_shown() -> None:
    """The gauge has a line per lane and stage, with the limit in force."""
    async with MemoryBus(pipeline(any=FakeNode(0.1))) as bus:
        await ask_in_turn(bus, 200)
        await bus.ask("any", lane="canary")
        lines = gauges_of(bus)
    limits = [line for line in lines if line.startswith("fivestage_stage_limit_seconds{")]
    assert len(limits) == 10
    assert 'fivestage_stage_limit_seconds{lane="prod",stage="processing"} 0.15' in limits
    assert 'fivestage_stage_limit_seconds{lane="canary",stage="processing"} 0.12' in limits


async def test_the_gauges_of_nodes_and_queries() -> None:
    """Running, waiting and unfinished queries, the limit, and each node's health and breaker per lane."""
    bad = FakeNode(fails=True, intents={"bad"})
    settings = Settings.model_validate({"admission": {"max_in_flight": 1}})
    async with MemoryBus(pipeline(any=FakeNode(0.05), bad=bad), settings=settings) as bus:
        for number in range(21):
            bus.put(query(f"bad{number}", "bad"))
            await asyncio.sleep(0.05)
        for _ in range(4):
            await bus.ask("any", lane="canary")
        bus.put(query("a"))
        bus.put(query("b"))
        await asyncio.sleep(0.01)
        lines = gauges_of(bus)
        await asyncio.sleep(1)
        later = gauges_of(bus)
    for line in (
        "fivestage_in_flight 1.0",
        "fivestage_waiting 1.0",
        "fivestage_unfinished 2.0",
        "fivestage_concurrency_limit 1.0",
        'fivestage_breaker_state{lane="prod",node="bad"} 2.0',
        'fivestage_breaker_state{lane="canary",node="any"} 0.0',
        'fivestage_node_health{lane="prod",node="bad"} 0.05',
        'fivestage_node_health{lane="canary",node="any"} 1.0',
    ):
        assert line in lines
    assert {"fivestage_in_flight 0.0", "fivestage_waiting 0.0", "fivestage_unfinished 0.0"} <= set(later)


# Breakers

OPEN_S = 1.0
OPEN_AT_MOST_S = 1.2 * OPEN_S + 0.2


def state(bus: MemoryBus, lane: str = "prod", node: str = "any") -> BreakerState:
    """Return a node's breaker state as the stages see it."""
    return bus.dispatcher.learned.lane(lane).routing.node(node).state


async def opened(bus: MemoryBus, node: FakeNode, **fields: Any) -> None:
    """Fail a node until its breaker is open."""
    node.fails = True
    await ask_for_a_second(bus, **fields)
    await asyncio.sleep(0.1)
    assert state(bus) is BreakerState.OPEN
    node.fails = False


async def test_failures_for_a_second_open_it() -> None:
    """15 failures of the last 20 open the breaker; the node is not called, and the reason is reported."""
    node, listening = FakeNode(), Listening()
    async with MemoryBus(pipeline(any=node), observer=listening) as bus:
        await ask_for_a_second(bus, 41)
        node.fails = True
        await ask_for_a_second(bus, 40)
        rejected = await bus.ask("any")
        await asyncio.sleep(0.1)
    assert len(node.calls) < 41 + 30
    assert (str(rejected.status), rejected.error_type, rejected.node) == ("error", "breaker_open", "any")
    assert rejected.error == "Processing failed: node 'any' is not called: its breaker is open"
    assert outcomes(rejected) == ["success", "success", "error", "skipped", "skipped"]
    assert listening.breakers == [("prod", "any", "open")]
    [change] = listening.controls
    assert (change.control, change.change, change.lane, change.subject) == ("breaker", "open", "prod", "any")
    assert re.fullmatch(r"\d+ of \d+ calls failed in 1\.\d s: open for 1(\.\d)? s", change.why)


async def test_below_the_minimum_of_calls_it_stays_closed() -> None:
    """Nineteen failures of nineteen do not open the breaker; the twentieth does."""
    node = FakeNode(fails=True)
    async with MemoryBus(pipeline(any=node)) as bus:
        await ask_for_a_second(bus, 19)
        await asyncio.sleep(0.2)
        assert state(bus) is BreakerState.CLOSED
        await ask_in_turn(bus, 5)
    assert len(node.calls) == 20


async def test_one_probe_at_a_time_then_it_closes() -> None:
    """After the open time one call probes the node; successes close the breaker; changes come in order."""
    node, listening = FakeNode(0.02), Listening()
    async with MemoryBus(pipeline(any=node), observer=listening) as bus:
        await opened(bus, node)
        await asyncio.sleep(OPEN_S - 0.2)
        assert (await bus.ask("any")).error_type == "breaker_open"
        await asyncio.sleep(OPEN_AT_MOST_S - OPEN_S + 0.2)
        node.calls.clear()
        for number in range(10):
            bus.put(query(f"half{number}"))
        await asyncio.sleep(0.015)
        assert (node.calls, statuses(bus)["error"]) == (["half0"], 31)
        await asyncio.sleep(0.1)
        assert state(bus) is BreakerState.CLOSED
        await ask_many(bus, "well", 10)
        await asyncio.sleep(0.1)
    assert len(node.calls) == 11
    assert listening.breakers == [("prod", "any", name) for name in ("open", "half_open", "closed")]


async def test_a_probe_that_fails_opens_it_for_twice_as_long() -> None:
    """A failed probe doubles the open time before the next probe."""
    node, listening = FakeNode(), Listening()
    async with MemoryBus(pipeline(any=node), observer=listening) as bus:
        await opened(bus, node)
        await asyncio.sleep(OPEN_AT_MOST_S)
        node.fails = True
        node.calls.clear()
        probe, refused = await ask_in_turn(bus, 2)
        assert (probe.error_type, refused.error_type) == ("LookupError", "breaker_open")
        await asyncio.sleep(2 * OPEN_S - 0.2)
        assert (await bus.ask("any")).error_type == "breaker_open"
        await asyncio.sleep(OPEN_AT_MOST_S)
        node.fails = False
        assert [str(result.status) for result in await ask_in_turn(bus, 2)] == ["success", "success"]
        await asyncio.sleep(0.1)
    assert len(node.calls) == 3

    logged_states = [name for _, _, name in listening.breakers]

    assert logged_states == ["open", "half_open", "open", "half_open", "closed"]


async def test_a_query_after_a_long_silence_is_the_probe() -> None:
    """The first query after a long idle time sees a fresh routing snapshot and becomes the probe."""
    node = FakeNode()
    async with MemoryBus(pipeline(any=node)) as bus:
        await opened(bus, node)
        await asyncio.sleep(3600)
        first, second = await ask_in_turn(bus, 2)
    assert (str(first.status), str(second.status)) == ("success", "success")


async def test_a_permit_lasts_as_long_as_the_probe() -> None:
    """A probe permit that was kept for a while blocks other probes no longer than one used at once."""
    node = FakeNode()
    quiet = FakeNode(0.005, intents={"quiet"})
    settings = Settings.model_validate(FIXED)
    async with MemoryBus(pipeline(any=node, quiet=quiet), settings=settings) as bus:
        await opened(bus, node)
        await asyncio.sleep(OPEN_AT_MOST_S)
        node.takes_s, node.highest = 0.11, 0
        node.calls.clear()
        for _ in range(124):  # the half-open breaker is checked all the time, but the node is not called
            await bus.ask("quiet")
            await asyncio.sleep(0.005)
        for number in range(11):
            bus.put(query(f"q{number}"))
            await asyncio.sleep(0.01)
        assert node.highest == 1
    assert node.calls == ["q0"]


async def test_timeouts_count() -> None:
    """Timeouts open the breaker as errors do."""
    node = FakeNode(10)
    async with MemoryBus(pipeline(any=node)) as bus:
        await ask_for_a_second(bus)
        refused = await bus.ask("any")
    assert (refused.error_type, len(node.calls)) == ("breaker_open", 21)


async def test_each_lane_has_its_own_breaker() -> None:
    """Errors in one lane do not keep another lane from the node."""
    node, listening = FakeNode(), Listening()
    async with MemoryBus(pipeline(any=node), observer=listening) as bus:
        node.fails = True
        await ask_for_a_second(bus, 31, lane="canary")
        node.fails = False
        assert (await bus.ask("any", lane="canary")).error_type == "breaker_open"
        assert str((await bus.ask("any")).status) == "success"
        await asyncio.sleep(0.1)
    assert listening.breakers == [("canary", "any", "open")]


async def test_a_shutdown_is_no_failure() -> None:
    """Calls that are cancelled by the shutdown do not count against the node."""
    node = FakeNode(0.1)
    async with MemoryBus(pipeline(any=node)) as bus:
        for number in range(40):
            bus.put(query(f"q{number}"))
        await asyncio.sleep(0.05)
        assert not await bus.dispatcher.drain(0.01)
        await bus.executor.stop(1.0)
        assert (len(node.calls), node.running) == (40, set())
        assert (bus.dispatcher.learned.lane("prod").nodes, state(bus)) == ({}, BreakerState.CLOSED)


@pytest.mark.parametrize("why", ["the stages before it were slow", "the producer left it less"])
async def test_timeouts_of_shortened_calls_do_not_count(why: str) -> None:
    """Timeouts of a node that got less than its fair share of time do not open its breaker."""
    takes_s = {INTENT: 0.049, DECISION: 0.099} if why.startswith("the stages") else {}
    fields: dict[str, Any] = {"budget_ms": 230} if takes_s else {"budget_ms": 30}
    node = FakeNode(0.095)
    settings = Settings.model_validate({**FIXED, "admission": {"shed": "off"}})
    async with MemoryBus(pipeline(takes_s, any=node), settings=settings) as bus:
        late = await ask_in_turn(bus, 30, **fields)
        takes_s.clear()
        well = await bus.ask("any")
    assert {(str(result.status), outcomes(result)[2]) for result in late} == {("timeout", "timeout")}
    assert (str(well.status), len(node.calls)) == ("success", 31)
    assert bus.dispatcher.learned.lane("prod").nodes["any"].health.score(0) == 1.0


@pytest.mark.parametrize(("rate", "called"), [(0.5, 20), (1.0, 30), (None, 30)])
async def test_slow_calls_open_it_where_that_is_wanted(rate: float | None, called: int) -> None:
    """Calls that use nine tenths of their limit count as slow and open it, unless the setting is 1."""
    node = FakeNode(0.11 if rate else 0.105)
    breaker = {} if rate is None else {"slow_call_rate": rate}
    settings = Settings.model_validate({**FIXED, "breaker": breaker})
    async with MemoryBus(pipeline(any=node), settings=settings) as bus:
        results = await ask_in_turn(bus, 30)
    assert len(node.calls) == called
    assert [str(result.status) for result in results[:20]] == ["success"] * 20
