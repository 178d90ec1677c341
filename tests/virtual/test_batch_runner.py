"""Batch nodes in virtual time: when batches start, how each query ends, what breaker and health count."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from fivestage import BatchContext, BatchItem, Orchestrator, Plan, Query, Unanswerable
from fivestage.core.adaptive.breaker import BreakerState
from fivestage.core.batch_cost import MIN_BATCHES
from fivestage.core.job import Job
from fivestage.core.routing_snapshot import NodeRouting, RoutingSnapshot
from fivestage.settings import Settings
from fivestage.testing.memory import MemoryBus
from fivestage_schemas import StageType

from .samples import FakeNode, Listening, block, ends, finish, pipeline, query, stage

if TYPE_CHECKING:
    from fivestage import Pipeline, StageContext
    from fivestage.core.adaptive.node_state import NodeState
    from fivestage.core.stage_run import StageRun
    from fivestage_schemas import PipelineResult

FIXED = {"adaptive": {"enabled": False}}
LIMIT_S = 0.12
"""Of the processing stage."""
SEED = 7


def now() -> float:
    """Return the virtual seconds since the test started."""
    return asyncio.get_running_loop().time()


class Batches:
    """A scripted batch node that records its batches."""

    def __init__(self, takes_s: float = 0.0, each_s: float = 0.0) -> None:
        self.takes_s = takes_s
        self.each_s = each_s
        self.started: list[tuple[Any, list[str]]] = []
        """Time and query ids of each batch."""
        self.cancelled_at: list[float] = []
        self.cleaned_up = 0
        self.running = 0
        self.answers: Any = None
        """What to return; by default the question of each query."""

    async def __call__(self, items: list[BatchItem], _ctx: BatchContext) -> Any:
        assert not self.running, "two batches at a time"
        self.started.append((round(now(), 6), [item.query.query_id for item in items]))
        self.running += 1
        try:
            await asyncio.sleep(self.takes_s + self.each_s * len(items))
        except asyncio.CancelledError:
            self.cancelled_at.append(now())
            await asyncio.sleep(0.05)
            self.cleaned_up += 1
            raise
        finally:
            self.running -= 1
        if isinstance(self.answers, Exception):
            raise self.answers
        return [item.query.user_input for item in items] if self.answers is None else self.answers

    @property
    def ids(self) -> list[list[str]]:
        """The query ids of each batch."""
        return [ids for _, ids in self.started]


def app_of(node: Batches, *others: FakeNode, **options: Any) -> Pipeline:
    """Build an app with a batch node, and other nodes of the same intent."""
    app = pipeline(**{f"other{number}": other for number, other in enumerate(others)})
    app.batch_node("many", intents={"any"}, **options)(node)

    @app.decision
    async def decision(query: Query, _ctx: StageContext) -> str:
        return "many" if query.user_input == "any" else query.user_input

    return app


def add_blocking(app: Pipeline, after_s: float, for_s: float) -> None:
    """Add a node that blocks the loop, after it has waited."""

    @app.node("blocks", intents={"blocks"})
    async def blocks(_query: Any, _ctx: Any) -> None:
        await asyncio.sleep(after_s)
        block(for_s)


def bus_of(app: Pipeline, **settings: Any) -> MemoryBus:
    """Build a bus without learned limits."""
    return MemoryBus(app, settings=Settings.model_validate(FIXED | settings))


async def put(bus: MemoryBus, *names: str, **fields: Any) -> None:
    """Put queries, and wait until they are in their stage."""
    for name in names:
        bus.put(query(name, **fields))
    await asyncio.sleep(1e-6)


def result(bus: MemoryBus, name: str) -> PipelineResult:
    """The terminal event of a query that has ended."""
    found = bus.result(name)
    assert found is not None
    return found


def state_of(bus: MemoryBus) -> NodeState:
    """What is learned of the batch node."""
    return bus.dispatcher.learned.lane("prod").nodes["many"]


def processing(bus: MemoryBus, name: str) -> tuple[str, str | None, str | None]:
    """Outcome, error type and node of a query's processing stage."""
    found = stage(result(bus, name), StageType.PROCESSING)
    return str(found.outcome), found.error_type, found.node


# When a batch starts


async def test_queries_wait_for_others() -> None:
    """A batch starts when its oldest query has waited for max_wait_ms, with all that have come by then."""
    node = Batches(0.01)
    async with bus_of(app_of(node, max_wait_ms=5)) as bus:
        await put(bus, "a")
        await asyncio.sleep(0.003)
        await put(bus, "b", "c")
        await finish(bus, 3)
    assert node.started == [(pytest.approx(0.005, abs=1e-5), ["a", "b", "c"])]
    assert [result(bus, name).answer for name in "abc"] == ["any"] * 3
    assert result(bus, "a").node == "many"


async def test_a_full_batch_starts_at_once() -> None:
    """With max_size queries nothing is waited for; the rest follows when it has ended."""
    node = Batches(0.02)
    async with bus_of(app_of(node, max_size=2)) as bus:
        await put(bus, "a", "b", "c")
        await finish(bus, 3)
    assert node.started == [
        (pytest.approx(0, abs=1e-5), ["a", "b"]),
        (pytest.approx(0.02, abs=1e-5), ["c"]),
    ]


async def test_without_a_wait_batches_form_while_one_runs() -> None:
    """With max_wait_ms=0 the first query starts at once, and those that come meanwhile are the next batch."""
    node = Batches(0.02)
    async with bus_of(app_of(node, max_wait_ms=0)) as bus:
        await put(bus, "a", "b", "c")
        await finish(bus, 3)
    assert node.ids == [["a"], ["b", "c"]]


async def test_the_earliest_deadline_comes_first() -> None:
    """The queries with the least time are in the next batch, in that order."""
    node = Batches(0.02)
    async with bus_of(app_of(node, max_size=2)) as bus:
        await put(bus, "a", "b")
        await put(bus, "patient")
        await put(bus, "hurried", budget_ms=70)
        await put(bus, "quick", budget_ms=60)
        await finish(bus, 5)
    assert node.ids == [["a", "b"], ["quick", "hurried"], ["patient"]]


async def test_a_query_with_little_time_starts_the_batch_early() -> None:
    """A batch starts in time for its most urgent query, as soon as the duration is known."""
    node = Batches(0.02)
    async with bus_of(app_of(node, max_wait_ms=50)) as bus:
        await bus.ask("any")
        node.started.clear()
        before = now()
        await put(bus, "patient")
        await put(bus, "hurried", budget_ms=45)
        await finish(bus, 3)
        assert str(result(bus, "hurried").status) == "success"
    [(started_at, ids)] = node.started
    assert ids == ["hurried", "patient"]
    assert started_at - before == pytest.approx(0.045 - 1.1 * 0.02 - 0.001, abs=1e-4)


# How each query ends


async def test_an_exception_in_a_place_is_of_that_item_only() -> None:
    """The others are answered; one that says the query is unanswerable is no failure."""
    node = Batches()
    node.answers = [1, ValueError("bad"), Unanswerable("no unit"), {"answer": 4, "confidence": 0.5}]
    async with bus_of(app_of(node, max_size=4)) as bus:
        await put(bus, *"abcd")
        await finish(bus, 4)
        found = [(result(bus, name).answer, result(bus, name).error_type) for name in "abcd"]
    assert found == [(1, None), (None, "ValueError"), (None, "Unanswerable"), (4, None)]


@pytest.mark.parametrize(
    ("answers", "error_type", "text"),
    [
        (LookupError("none"), "LookupError", "none"),
        ([1], "NodeError", "a batch node must return one answer per item: 1 for 2 items"),
        ({1: 2, 3: 4}, "NodeError", "a batch node must return a list with one answer per item, got dict"),
        ("ab", "NodeError", "a batch node must return a list with one answer per item, got str"),
        (7, "NodeError", "a batch node must return a list with one answer per item, got int"),
    ],
)
async def test_a_batch_that_fails_fails_for_all(answers: Any, error_type: str, text: str) -> None:
    """All queries end with the error, and breaker and health count one call."""
    node = Batches()
    node.answers = answers
    async with bus_of(app_of(node, max_size=2)) as bus:
        await put(bus, "a", "b")
        await finish(bus, 2)
        state = state_of(bus)
    assert [processing(bus, name) for name in "ab"] == [("error", error_type, "many")] * 2
    assert stage(result(bus, "a"), StageType.PROCESSING).error == text
    assert (state.breaker.recent.calls, state.breaker.recent.failed, state.calls) == (1, 1, 1)


async def test_a_failed_batch_fails_over() -> None:
    """Each of its queries is answered by the other node."""
    node, other = Batches(), FakeNode()
    node.answers = LookupError()
    async with bus_of(app_of(node, other, max_size=3)) as bus:
        await put(bus, *"abc")
        await finish(bus, 3)
        answered = [(str(result(bus, name).status), result(bus, name).node) for name in "abc"]
    assert answered == [("success", "other0")] * 3


async def test_each_query_ends_at_its_own_deadline() -> None:
    """A query whose time runs out does not wait for the batch, and the batch goes on for the others."""
    node = Batches(0.1)
    async with bus_of(app_of(node, max_size=2)) as bus:
        await put(bus, "patient")
        await put(bus, "hurried", budget_ms=30)
        await finish(bus, 1)
        assert now() == pytest.approx(0.03, abs=1e-3)
        await finish(bus, 2)
        state = state_of(bus)
    assert [str(result(bus, name).status) for name in ("hurried", "patient")] == ["timeout", "success"]
    assert node.cancelled_at == []
    assert (state.breaker.recent.calls, state.breaker.recent.failed) == (1, 0)


async def test_a_batch_that_is_late_for_all_is_cancelled_once() -> None:
    """It is cancelled when no query waits for it, may clean up, and the next batch starts after that."""
    node = Batches(60)
    async with bus_of(app_of(node, max_size=2, max_wait_ms=0)) as bus:
        await put(bus, "a")
        await put(bus, "b", "c")
        await asyncio.sleep(LIMIT_S)
        await put(bus, "next")
        node.takes_s = 0.01
        await finish(bus, 4)
        state = state_of(bus)
    assert node.cancelled_at == [pytest.approx(LIMIT_S, abs=1e-4)]
    assert node.cleaned_up == 1
    assert node.ids == [["a"], ["next"]]
    assert node.started[1][0] == pytest.approx(LIMIT_S + 0.05, abs=1e-3)
    assert [str(result(bus, name).status) for name in ("a", "b", "c", "next")] == ["timeout"] * 3 + [
        "success"
    ]
    assert (state.breaker.recent.calls, state.breaker.recent.failed) == (2, 1)  # not those that only waited


async def test_a_batch_that_ignores_its_cancellation_is_abandoned() -> None:
    """After 100 ms the next batch starts; the code is listed as abandoned under the node's name."""

    class Deaf(Batches):
        async def __call__(self, items: list[BatchItem], ctx: BatchContext) -> Any:
            if self.started:
                return await super().__call__(items, ctx)
            self.started.append((now(), []))
            ends_at = now() + 5
            while (left_s := ends_at - now()) > 0:
                try:
                    await asyncio.sleep(left_s)
                except asyncio.CancelledError:
                    self.cancelled_at.append(now())
            return [None] * len(items)

    node = Deaf()
    async with bus_of(app_of(node, max_wait_ms=0)) as bus:
        await put(bus, "a")
        await asyncio.sleep(0.2)
        assert [left.name for left in bus.executor.abandoned()] == ["many"]
        before = now()
        await put(bus, "b")
        await finish(bus, 2)
        assert str(result(bus, "b").status) == "success"
        assert node.started[1][0] >= LIMIT_S + 0.1 - 1e-3
        assert now() < before + 0.1
        await asyncio.sleep(5)
        assert bus.executor.abandoned() == []


async def test_a_query_that_would_be_late_goes_to_another_node() -> None:
    """It is dropped before its batch starts, and while one runs, without a failure of the node."""
    node, other = Batches(0.06), FakeNode()
    async with bus_of(app_of(node, other, max_wait_ms=0)) as bus:
        for _ in range(MIN_BATCHES):  # so that it is known how long both take
            await bus.ask("any")
        for _ in range(20):
            await bus.ask("other0")
        bus.dispatcher.learned.lane("prod").refresh(now())
        await put(bus, "first")
        await put(bus, "second", budget_ms=100)
        await put(bus, "third", budget_ms=61)
        await finish(bus, MIN_BATCHES + 23)
        state = state_of(bus)
    assert [result(bus, name).node for name in ("first", "second", "third")] == ["many", "other0", "other0"]
    attempts = stage(result(bus, "second"), StageType.PROCESSING).attempts
    assert attempts is not None
    assert [(str(one.outcome), one.node) for one in attempts] == [("error", "many"), ("success", "other0")]
    assert state.breaker.recent.failed == 0


async def test_without_another_node_it_is_busy() -> None:
    """The error type is node_busy, and the log has no exception of the node."""
    node = Batches(0.06)
    async with bus_of(app_of(node, max_wait_ms=0)) as bus:
        for _ in range(MIN_BATCHES):
            await bus.ask("any")
        await put(bus, "first")
        await put(bus, "second", budget_ms=100)
        await finish(bus, MIN_BATCHES + 2)
    found = stage(result(bus, "second"), StageType.PROCESSING)
    assert (str(found.outcome), found.error_type) == ("error", "node_busy")
    assert found.error is not None
    assert found.error.startswith("its next batch would have ended too late")


async def test_one_bad_batch_in_many_opens_no_breaker() -> None:
    """Ten bad batches of 32 in a second count as ten failures."""
    node, listening = Batches(0.001), Listening()
    app = app_of(node)
    async with MemoryBus(app, settings=Settings.model_validate(FIXED), observer=listening) as bus:
        for number in range(40):
            node.answers = LookupError() if number % 10 == 5 else None
            await put(bus, *(f"q{number}-{item}" for item in range(32)))
            await asyncio.sleep(0.04)
        await finish(bus, 40 * 32)
        state = state_of(bus)
    assert listening.breakers == []
    assert (state.calls, state.breaker.recent.failed) == (40, 4)


async def test_a_probe_decides_about_the_breaker() -> None:
    """After failures the breaker opens, and the batch of the probe closes it."""
    node, listening = Batches(), Listening()
    app = app_of(node, max_wait_ms=1)
    async with MemoryBus(app, settings=Settings.model_validate(FIXED), observer=listening) as bus:
        node.answers = LookupError()
        for number in range(60):
            await put(bus, f"bad{number}")
            await asyncio.sleep(0.05)
        assert listening.breakers[0] == ("prod", "many", "open")
        node.answers = None
        await asyncio.sleep(2)
        await put(bus, *(f"good{number}" for number in range(5)))
        await asyncio.sleep(0.3)
        await put(bus, *(f"more{number}" for number in range(5)))
        await finish(bus, 70)
    assert listening.breakers[-1] == ("prod", "many", "closed")
    assert {str(result(bus, f"more{number}").status) for number in range(5)} == {"success"}


async def test_a_probe_that_is_never_called() -> None:
    """A probe that is dropped from the queue says nothing about the node, and gives its permit back."""
    node, plan, loop = Batches(takes_s=0.06), Plan.of(), asyncio.get_running_loop()
    app = app_of(node, max_wait_ms=0)
    orchestrator = Orchestrator(app)

    def job(name: str, left_s: float, routing: RoutingSnapshot | None = None) -> Job:
        ends_at = now() + left_s
        return Job(
            Query(name, "any"), plan, started_at=now(), ends_at=ends_at, due_at=ends_at, routing=routing
        )

    async def run(one: Job) -> StageRun:
        await orchestrator.run(one, one.history)
        return one.history.runs[2]

    for number in range(MIN_BATCHES + 1):
        await run(job(f"first{number}", 1.0))
    running = loop.create_task(run(job("other lane", 1.0)))
    await asyncio.sleep(0.005)
    routing = RoutingSnapshot.neutral(plan)
    routing.nodes, routing.probes = {"many": NodeRouting(BreakerState.HALF_OPEN)}, {"many": True}
    dropped = await run(job("probe", 0.08, routing))
    assert (dropped.error_type, dropped.probe, dropped.counted) == ("node_busy", True, False)
    assert ["probe"] not in node.ids
    await running


# What the function gets


async def test_items_and_context() -> None:
    """An item has its query, earlier results and time; the context has the time of the most patient item."""
    seen: list[Any] = []
    app = pipeline()

    @app.resource
    async def scale() -> Any:
        yield 3

    @app.batch_node("many", intents={"any"}, max_size=2)
    async def many(items: list[BatchItem], ctx: BatchContext) -> list[int]:
        for item in items:
            seen.append(
                (item.query.query_id, item.query.context, item.results[StageType.INTENT], item.attempt)
            )
            seen.append(round(item.remaining_ms()))
        seen.append(round(ctx.remaining_ms()))
        return [ctx.use(scale)] * len(items)

    async with bus_of(app) as bus:
        await put(bus, "b", context={"user": "ada"})
        await put(bus, "a", budget_ms=50)
        await finish(bus, 2)
        assert [result(bus, name).answer for name in "ab"] == [3, 3]
    assert seen == [
        *[("a", {}, {"intent": "any"}, 1), 50],
        *[("b", {"user": "ada"}, {"intent": "any"}, 1), 120],
        120,
    ]


async def test_code_that_blocks_the_loop_costs_the_other_queries_no_answer() -> None:
    """A batch whose end was delayed by other code is not late for that."""
    node = Batches(0.1)
    app = app_of(node, max_wait_ms=0)
    add_blocking(app, 0.05, 0.08)

    async with bus_of(app) as bus:
        await put(bus, "a")
        await put(bus, "b", text="blocks")
        await finish(bus, 2)
    assert str(result(bus, "a").status) == "success"


async def test_queries_that_wait_for_a_batch_get_back_the_time_that_other_code_took() -> None:
    """Their stages had no time while the loop was blocked, so it does not end them."""
    node = Batches(0.005)
    app = app_of(node, max_wait_ms=20)
    add_blocking(app, 0, 0.13)

    async with bus_of(app) as bus:
        bus.put(query("a"))
        await put(bus, "b", text="blocks")
        await finish(bus, 2)
        assert now() == pytest.approx(0.135, abs=1e-3)
    assert str(result(bus, "a").status) == "success"


async def test_queries_behind_a_first_batch_get_back_the_time_that_other_code_took() -> None:
    """The same while a batch runs, of which nothing is known yet."""
    node = Batches(0.1)
    app = app_of(node, max_wait_ms=0)
    add_blocking(app, 0.095, 0.04)

    async with bus_of(app) as bus:
        await put(bus, "a")
        await put(bus, "b", text="blocks")
        await put(bus, "first")
        await asyncio.sleep(0.008)
        await put(bus, "next")
        node.takes_s = 0.003
        await finish(bus, 4)
    assert [str(result(bus, name).status) for name in ("a", "next")] == ["success"] * 2


async def test_two_loops_have_two_queues() -> None:
    """The queue belongs to the loop: an app used by one loop after the other starts afresh."""
    node = Batches()
    app = app_of(node, max_size=1)
    for _ in range(2):
        async with bus_of(app) as bus:
            assert (await bus.ask("any")).answer == "any"
    assert len(node.started) == 2


# Anything


@pytest.mark.parametrize("seed", range(SEED, SEED + 8))
async def test_whatever_comes_each_query_ends_once_and_in_time(seed: int) -> None:
    """Random arrivals, budgets, durations: one answer each, none after its deadline, none in two batches."""
    print(f"seed {seed}")  # noqa: T201
    chance = random.Random(seed)  # noqa: S311
    node, asked = Batches(), 400
    app = app_of(
        node, FakeNode(0.01), max_size=chance.choice([1, 4, 32]), max_wait_ms=chance.choice([0, 5, 50])
    )
    async with bus_of(app) as bus:
        for number in range(asked):
            node.takes_s, node.each_s = chance.choice([0.0, 0.005, 0.02, 0.2]), chance.choice([0.0, 0.001])
            node.answers = chance.choice([None] * 9 + [LookupError()])
            bus.put(query(f"q{number}", budget_ms=chance.choice([10, 60, 250])))
            await asyncio.sleep(chance.choice([0.0, 0.0, 0.001, 0.05]))
        await finish(bus, asked)
        results = bus.results()
        await asyncio.sleep(1)
        assert not bus.executor.abandoned()
    assert set(ends(bus).values()) == {1}
    late = [one for one in results if one.metrics.total_duration_ms > one.metrics.budget_ms + 1]
    assert late == []
    assert max(Counter(name for ids in node.ids for name in ids).values()) == 1
    assert Counter(str(one.status) for one in results)["success"] > asked / 4


async def test_a_batch_leaves_no_timer() -> None:
    """When all queries of batches have ended, no timer of them is left on the loop."""
    node = Batches(0.01)
    app = app_of(node)
    loop: Any = asyncio.get_running_loop()
    async with MemoryBus(app, settings=Settings.model_validate(FIXED)) as bus:
        await asyncio.gather(*(bus.ask("any", query_id=f"q{number}") for number in range(8)))
        assert sum(len(names) for _, names in node.started) == 8
        await asyncio.sleep(1)  # those of stage limits are over
        left = [timer for timer in loop._scheduled if not timer.cancelled()]
        assert [timer for timer in left if timer.when() > now() + 1000] == []
