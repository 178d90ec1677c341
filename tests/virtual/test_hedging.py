"""A call of an idempotent node that is slow is hedged: another node is called beside it."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from fivestage import Unanswerable
from fivestage.core.adaptive.breaker import BreakerState
from fivestage.pipeline.running_call import running_call
from fivestage.settings import Settings
from fivestage.testing.memory import MemoryBus

from .ruled import PROCESSING, app_of, ask_at_once, attempts, choose_first
from .samples import Listening, stage, timeouts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fivestage import Query, StageContext
    from fivestage_schemas import Outcome, PipelineResult

LOAD = 0.05
SETTINGS = {"adaptive": {"enabled": False}, "hedge": {"max_extra_load": LOAD}}
USUAL_S = 0.01
KNOWN = 100
"""Calls after which a slow one is recognized."""
WON = [("first", "first", "skipped"), ("second", "hedge", "success")]
LOST = [("second", "hedge", "skipped"), ("first", "first", "success")]


class Scripted:
    """A node that takes its usual time, unless a query says otherwise: ``{"first": 0.05}`` in its context.

    A negative time is that of an exception.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.attempts: list[int] = []
        self.cancelled_at: list[float] = []
        self.running = self.highest = 0
        self.clean_up_s = 0.0
        self.error: type[Exception] = LookupError
        self.offers: list[tuple[float, Any]] = []
        """What is offered, and when after the start."""
        self.late_offer = ""

    async def __call__(self, query: Query, ctx: StageContext) -> str:
        self.attempts.append(ctx.attempt)
        self.running += 1
        self.highest = max(self.highest, self.running)
        takes_s = query.context.get(self.name, USUAL_S)
        at_s = 0.0
        try:
            for offered_s, answer in self.offers if query.context else ():
                await asyncio.sleep(offered_s - at_s)
                ctx.offer(answer)
                at_s = offered_s
            await asyncio.sleep(abs(takes_s) - at_s)
        except asyncio.CancelledError:
            await self._clean_up(ctx)
            raise
        finally:
            self.running -= 1
        if takes_s < 0:
            raise self.error("scripted")
        return f"{self.name} {ctx.attempt} {ctx.node}"

    async def _clean_up(self, ctx: StageContext) -> None:
        clock = asyncio.get_running_loop().time
        self.cancelled_at.append(clock())
        ends_at = clock() + self.clean_up_s
        while clock() < ends_at - 1e-6:
            try:
                await asyncio.sleep(ends_at - clock())
            except asyncio.CancelledError:
                self.cancelled_at.append(clock())
        if self.late_offer:
            ctx.offer(self.late_offer)


class Hedges(Listening):
    """Counts hedges too."""

    def __init__(self) -> None:
        super().__init__()
        self.hedges: Counter[str] = Counter()
        self.retries = 0

    def hedged(self, lane: str, outcome: Outcome) -> None:
        assert lane == "prod"
        self.hedges[str(outcome)] += 1

    def retried(self, lane: str, attempts: int) -> None:  # noqa: ARG002
        self.retries += attempts


class World:
    """An app with scripted nodes, on a bus that knows how long the first one takes."""

    def __init__(self, *names: str, idempotent: bool = True, **rules: Any) -> None:
        self.nodes = {name: Scripted(name) for name in names or ("first", "second")}
        self.app = app_of(self.nodes["first"], idempotent=idempotent, **rules)
        self.app.decision(choose_first)
        for name, node in list(self.nodes.items())[1:]:
            self.app.node(name, intents={"any"}, idempotent=True)(node)
        self.seen = Hedges()

    def bus(self, settings: Mapping[str, Any] = SETTINGS, **more: Any) -> MemoryBus:
        made = Settings.model_validate({**settings, **more})
        return MemoryBus(self.app, settings=made, observer=self.seen)

    def __getitem__(self, name: str) -> Scripted:
        return self.nodes[name]


async def learn(bus: MemoryBus, count: int = KNOWN) -> None:
    """Ask queries of the usual duration."""
    await ask_at_once(bus, count, "known")
    bus.dispatcher.learned.lane("prod").refresh(asyncio.get_running_loop().time())


async def ask(bus: MemoryBus, budget_ms: float = 250, **takes_s: float) -> PipelineResult:
    """Ask a query for which the nodes take these times."""
    return await bus.ask("any", context=takes_s, budget_ms=round(budget_ms))


def move(bus: MemoryBus) -> None:
    """Move the only query that runs, as when other code blocks its loop."""
    (job,) = bus.dispatcher.active.jobs.values()
    bus.executor.cancel(job)
    job.move()
    bus.executor.submit(job)


async def test_a_slow_call_is_hedged_and_the_first_answer_taken() -> None:
    """The second node is called once the first takes longer than usual; both are in the result."""
    world = World()
    async with world.bus() as bus:
        await learn(bus)
        result = await ask(bus, first=0.2)
    found = stage(result, PROCESSING)
    assert (result.answer, result.node, str(result.status)) == ("second 2 second", "second", "success")
    assert attempts(result) == WON
    assert found.attempts[1].waited_ms == pytest.approx(10)
    assert [one.duration_ms for one in found.attempts] == pytest.approx([20, 10])
    assert result.metrics.total_duration_ms == pytest.approx(20)
    assert (len(world["first"].cancelled_at), world.seen.hedges) == (1, {"success": 1})
    assert (world.seen.failovers, result.degraded) == (0, False)


async def test_the_slow_call_may_still_answer_first() -> None:
    """Then the hedge is given up; the answer is that of the first attempt."""
    world = World()
    async with world.bus() as bus:
        await learn(bus)
        result = await ask(bus, first=0.015, second=0.1)
    assert (attempts(result), result.answer) == (LOST, "first 1 first")
    assert (stage(result, PROCESSING).attempt, world.seen.hedges) == (1, {"skipped": 1})


@pytest.mark.parametrize(
    "why", ["off", "few", "first", "second", "def", "time", "open", "half open", "slots"]
)
async def test_when_nothing_is_hedged(why: str) -> None:
    """Off by default; and not without samples, permission of both authors, time, a breaker, or a slot."""
    world = World(idempotent=why != "first")
    node = world["second"]
    if why == "def":
        world.app.node("second", intents={"any"}, idempotent=True)(lambda _query, _ctx: "second")
    elif why == "second":
        world.app.node("second", intents={"any"})(node)
    elif why == "slots":
        world.app.node("second", intents={"any", "taken"}, idempotent=True, limit=1)(node)
    settings = {"adaptive": {"enabled": False}} if why == "off" else SETTINGS
    async with world.bus(settings) as bus:
        await learn(bus, KNOWN - (why == "few"))
        routing = bus.dispatcher.learned.lane("prod").routing
        other = routing.node("second")
        if why == "time":
            other = other._replace(p50_s=0.095)
        elif why == "open":
            other = other._replace(state=BreakerState.OPEN)
        elif why == "half open":
            other, routing.probes = other._replace(state=BreakerState.HALF_OPEN), {"second": True}
        routing.nodes = {**routing.nodes, "second": other}
        before = None
        if why == "slots":
            world.app.decision(_choose)
            before = asyncio.ensure_future(bus.ask("any", context={"second": 0.2, "to": 2}))
            await asyncio.sleep(0.001)
        result = await ask(bus, budget_ms=100, first=0.05)
        if before is not None:
            await before
    assert attempts(result) == [("first", "first", "success")]
    assert not world.seen.hedges


async def _choose(query: Query, _ctx: StageContext) -> str:
    return "second" if "to" in query.context else "first"


async def test_hedges_are_paid_from_a_budget() -> None:
    """A twentieth of the first calls of the last seconds, and not more."""
    world = World()
    async with world.bus() as bus:
        await learn(bus)
        results = [await ask(bus, first=0.05) for _ in range(10)]
    kinds = [[str(one.kind) for one in stage(result, PROCESSING).attempts] for result in results]
    assert sum("hedge" in one for one in kinds) == 5
    assert world.seen.hedges.total() == 5 <= LOAD * 110


async def test_retries_and_failovers_use_up_the_budget() -> None:
    """Where calls fail and others follow them, these are the extra load that is permitted."""
    world = World()
    async with world.bus() as bus:
        await learn(bus)
        for _ in range(6):
            assert attempts(await ask(bus, first=-0.001))[-1] == ("second", "failover", "success")
        result = await ask(bus, first=0.05)
    assert attempts(result) == [("first", "first", "success")]
    assert (world.seen.failovers, world.seen.hedges.total()) == (6, 0)


async def test_a_hedge_that_fails_costs_nothing() -> None:
    """The slow call goes on and answers."""
    world = World()
    async with world.bus() as bus:
        await learn(bus)
        result = await ask(bus, first=0.05, second=-0.01)
    assert attempts(result) == [("second", "hedge", "error"), ("first", "first", "success")]
    assert (world.seen.hedges, world.seen.failovers, len(world["first"].cancelled_at)) == ({"error": 1}, 0, 0)


async def test_the_slow_call_may_fail() -> None:
    """The hedge goes on, as after a failover."""
    world = World()
    async with world.bus() as bus:
        await learn(bus)
        result = await ask(bus, first=-0.015, second=0.03)
    assert attempts(result) == [("first", "first", "error"), ("second", "hedge", "success")]
    assert (result.answer, world.seen.failovers) == ("second 2 second", 0)


async def test_both_fail_and_another_node_is_called() -> None:
    """The failover has the next number, and the query is answered."""
    world = World("first", "second", "third")
    async with world.bus() as bus:
        await learn(bus)
        result = await ask(bus, first=-0.02, second=-0.02)
    assert result.answer == "third 3 third"


@pytest.mark.parametrize("last", ["first", "second"])
async def test_the_last_of_two_failures_is_the_error(last: str) -> None:
    """Where no further node is there; both calls are listed."""
    world = World()
    takes_s = {"first": -0.02, "second": -0.05} if last == "second" else {"first": -0.05, "second": -0.02}
    async with world.bus() as bus:
        await learn(bus)
        result = await ask(bus, **takes_s)
    assert (result.error_type, result.node) == ("LookupError", last)
    kinds = [("first", "first", "error"), ("second", "hedge", "error")]
    assert attempts(result) == (kinds if last == "second" else kinds[::-1])


async def test_after_a_failure_of_one_the_next_node_is_called_at_once() -> None:
    """With two in flight at most, and for another token."""
    world = World("first", "second", "third")
    async with world.bus() as bus:
        await learn(bus)
        result = await ask(bus, first=0.1, second=-0.005)
    assert attempts(result) == [
        ("first", "first", "skipped"),
        ("second", "hedge", "error"),
        ("third", "hedge", "success"),
    ]
    assert result.metrics.total_duration_ms == pytest.approx(25)
    assert world.seen.hedges == {"error": 1, "success": 1}


async def test_a_query_without_an_answer_ends_with_the_first_who_says_so() -> None:
    """Unanswerable says something about the query, so the call beside it is given up."""
    world = World()
    world["second"].error = Unanswerable
    async with world.bus() as bus:
        await learn(bus)
        result = await ask(bus, first=0.1, second=-0.01)
    assert (result.error_type, len(world["first"].cancelled_at)) == ("Unanswerable", 1)
    assert attempts(result) == [("first", "first", "skipped"), ("second", "hedge", "error")]


@pytest.mark.parametrize("clean_up_s", [0.0, 0.08])
async def test_both_are_slow_until_the_deadline(clean_up_s: float) -> None:
    """One timeout of the query; both calls are cancelled once, and both are listed."""
    world = World()
    for node in world.nodes.values():
        node.clean_up_s = clean_up_s
    async with world.bus() as bus:
        await learn(bus)
        result = await ask(bus, budget_ms=100, first=5, second=5)
        await asyncio.sleep(0.3)
        assert [str(one.scope) for one in timeouts(bus)] == ["pipeline"]
    assert (str(result.status), round(result.metrics.total_duration_ms)) == ("timeout", 100)
    calls = [("first", "first", "timeout"), ("second", "hedge", "timeout")]
    assert sorted(attempts(result)) == calls
    assert [len(node.cancelled_at) for node in world.nodes.values()] == [1, 1]
    assert world.seen.hedges == {"timeout": 1}


async def test_each_call_has_its_own_limit() -> None:
    """The slow one ends at its timeout, and the hedge goes on."""
    world = World(timeout_ms=20)
    async with world.bus() as bus:
        await learn(bus)
        result = await ask(bus, first=1, second=0.03)
    assert attempts(result) == [("first", "first", "timeout"), ("second", "hedge", "success")]


async def test_the_overtaken_call_is_cancelled_once() -> None:
    """Its clean-up is not cut short, not even by its own limit; it keeps its slot until it has ended."""
    world = World(limit=1, timeout_ms=40)
    world["first"].clean_up_s = 0.08
    async with world.bus() as bus:
        await learn_one_by_one(bus)
        result = await ask(bus, first=1)
        assert attempts(result) == WON
        abandoned = bus.executor.abandoned()
        assert [one.name for one in abandoned] == ["first"]
        started_at = asyncio.get_running_loop().time()
        following = await ask(bus)
        assert asyncio.get_running_loop().time() - started_at == pytest.approx(0.09)
        assert stage(following, PROCESSING).attempts[-1].waited_ms == pytest.approx(80)
        assert not bus.executor.abandoned()
    assert len(world["first"].cancelled_at) == 1


async def learn_one_by_one(bus: MemoryBus) -> None:
    """Ask queries of the usual duration one after the other."""
    for _ in range(KNOWN):
        await bus.ask("any")
    bus.dispatcher.learned.lane("prod").refresh(asyncio.get_running_loop().time())


async def test_an_overtaken_call_is_no_failure() -> None:
    """Its duration counts as a lower bound; health and breaker do not change."""
    world = World()
    async with world.bus() as bus:
        await learn(bus)
        for _ in range(4):
            await ask(bus, first=0.2)
        state = bus.dispatcher.learned.lane("prod").nodes["first"]
        assert (state.calls, state.health.score(0.0)) == (KNOWN, 1.0)
        assert (state.health.p50_s, state.health.p95_s) == pytest.approx((USUAL_S, USUAL_S))
        assert state.health._durations.quantile(1.0) == pytest.approx(0.02)
        assert state.health.hedge_after_s(LOAD) == pytest.approx(USUAL_S)
    assert world.seen.hedges == {"success": 4}


async def test_a_late_offer_of_the_overtaken_call_has_no_effect() -> None:
    """Nor what it offered before: the answer is that of the winner."""
    world = World()
    world["first"].offers, world["first"].late_offer = [(0.001, "draft"), (0.012, "better")], "late"
    async with world.bus() as bus:
        await learn(bus)
        result = await ask(bus, first=0.2)
        await asyncio.sleep(0.01)
    assert (result.answer, result.partial) == ("second 2 second", False)


@pytest.mark.parametrize("both", [True, False])
async def test_offers_of_two_calls_at_the_deadline(both: bool) -> None:  # noqa: FBT001
    """The last attempt that has offered an answer counts, as after a failover."""
    world = World()
    world["first"].offers = [(0.001, "of the first"), (0.07, "of the first, later")]
    world["second"].offers = [(0.02, "of the hedge")] if both else []
    async with world.bus() as bus:
        await learn(bus)
        result = await ask(bus, budget_ms=100, first=5, second=5)
    offered = ("of the hedge", "second") if both else ("of the first, later", "first")
    assert (result.answer, result.node, result.partial) == (*offered, True)


async def test_a_node_that_was_declared_again() -> None:
    """Hedges call the new function."""
    world = World()
    async with world.bus() as bus:
        await learn(bus)

        @world.app.node("second", intents={"any"}, idempotent=True)
        async def second(_query: Query, _ctx: StageContext) -> str:
            return "the new one"

        result = await ask(bus, first=0.1)
    assert (result.answer, attempts(result)) == ("the new one", WON)


async def test_a_call_that_ignores_its_limit_beside_its_hedge() -> None:
    """The hedge goes on and answers: the watchdog waits for the limit of that one too."""
    world = World(timeout_ms=20)
    world["first"].clean_up_s = 3.0
    async with world.bus() as bus:
        await learn(bus)
        result = await ask(bus, first=1, second=0.06)
        await asyncio.sleep(4)
    assert attempts(result) == WON
    assert result.metrics.total_duration_ms == pytest.approx(70)
    assert len(world["second"].attempts) == 1


async def test_a_hedge_fails_beside_a_call_that_ignores_its_limit() -> None:
    """The watchdog ends that call in its next round, and the query fails over."""
    world = World(timeout_ms=20)
    world["first"].clean_up_s = 3.0
    world.app.node("third", intents={"any"})(Scripted("third"))
    async with world.bus() as bus:
        await learn(bus)
        result = await ask(bus, first=1, second=-0.06)
        await asyncio.sleep(4)
    assert attempts(result) == [
        ("first", "first", "timeout"),
        ("second", "hedge", "error"),
        ("third", "failover", "success"),
    ]


async def test_after_a_failed_hedge_a_moved_query_calls_the_same_node() -> None:
    """The slow call has not failed: it is started again elsewhere, although a hedge of it has failed."""
    world = World()
    async with world.bus() as bus:
        await learn(bus)
        asked = asyncio.ensure_future(ask(bus, first=0.05, second=-0.01))
        await asyncio.sleep(0.03)
        move(bus)
        result = await asked
    assert attempts(result) == [
        ("first", "first", "skipped"),
        ("second", "hedge", "error"),
        ("first", "resumed", "success"),
    ]
    assert result.answer == "first 3 first"


@pytest.mark.parametrize("who", [["first"], ["second"], ["first", "second"]])
async def test_which_of_two_calls_ignores_its_cancellation(who: list[str]) -> None:
    """When the query moves both are cancelled; those that run on are abandoned under their own names."""
    world = World()
    for name in who:
        world[name].clean_up_s = 3.0
    async with world.bus() as bus:
        await learn(bus)
        asked = asyncio.ensure_future(ask(bus, first=5, second=5))
        await asyncio.sleep(0.03)
        move(bus)
        await asyncio.sleep(0.01)
        assert sorted(one.name for one in bus.executor.abandoned()) == who
        await asked
        await asyncio.sleep(4)
        assert not bus.executor.abandoned()


@pytest.mark.parametrize("who", ["first", "second"])
async def test_later_stages_see_the_node_that_answered(who: str) -> None:
    """Its name, its answer, and its own check; what runs has the name of the later stage."""
    world, seen = World(), list[Any]()

    @world.app.validation
    async def validation(_query: Query, ctx: StageContext) -> bool:
        call = running_call()
        seen.append((ctx.node, ctx.answer, call and call.name))
        return True

    async with world.bus() as bus:
        await learn(bus)
        await ask(bus, first=0.1, second=USUAL_S if who == "second" else -USUAL_S)
    answer = "second 2 second" if who == "second" else "first 1 first"
    assert seen[-1] == (who, answer, "validation")


@pytest.mark.parametrize("failing", ["first", "second"])
async def test_both_end_at_the_same_time(failing: str) -> None:
    """The answer of one counts, and the other has failed, not been overtaken."""
    world = World()
    takes_s = {"first": 2 * USUAL_S, "second": USUAL_S}
    async with world.bus() as bus:
        await learn(bus)
        result = await ask(bus, **{**takes_s, failing: -takes_s[failing]})
    outcomes = {node: outcome for node, _, outcome in attempts(result)}
    assert outcomes == {"first": "success", "second": "success", failing: "error"}
    assert str(result.status) == "success"


async def test_one_answers_while_the_other_says_that_there_is_no_answer() -> None:
    """At the same time: the answer counts."""
    world = World()
    world["first"].error = Unanswerable
    async with world.bus() as bus:
        await learn(bus)
        result = await ask(bus, first=-2 * USUAL_S, second=USUAL_S)
    assert (str(result.status), result.node) == ("success", "second")


async def test_a_failover_after_both_is_charged_to_the_first_node() -> None:
    """Also if its hedge has failed before it."""
    world = World("first", "second", "third")
    async with world.bus() as bus:
        await learn(bus)
        routing = bus.dispatcher.learned.lane("prod").routing
        before = routing.nodes
        routing.nodes = {**before, "third": routing.node("third")._replace(state=BreakerState.OPEN)}
        asyncio.get_running_loop().call_later(0.03, setattr, routing, "nodes", before)
        result = await ask(bus, first=-0.05, second=-0.01)
        assert [kind for _, kind, _ in attempts(result)] == ["first", "hedge", "failover"]
        now = asyncio.get_running_loop().time()
        executor: Any = bus.executor
        budget = executor._orchestrator.hedges.budget("first", LOAD, now)
        assert sum(budget.take(now) for _ in range(10)) == 3


async def test_a_task_cancelled_by_code_of_an_earlier_stage() -> None:
    """The wait goes on: the query is answered, and nothing is hedged early."""
    world, tasks = World(), list[Any]()

    @world.app.intent
    async def intent(query: Query, _ctx: StageContext) -> str:
        if query.context:
            task = asyncio.current_task()
            tasks.append(asyncio.get_running_loop().call_later(0.005, task.cancel if task else print))
        return "any"

    async with world.bus() as bus:
        await learn(bus)
        result = await ask(bus, first=0.2)
    assert attempts(result) == WON
    assert result.metrics.total_duration_ms == pytest.approx(20)
