"""Another node answers where one does not, while there is time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from fivestage.core.records import Output
from fivestage.core.stage_run import StageRun
from fivestage.executors import InlineExecutor
from fivestage.pipeline.orchestrator import Orchestrator
from fivestage.settings import Settings
from fivestage.testing.memory import MemoryBus
from fivestage_schemas import Outcome, StageType, TimeoutEvent

from .samples import (
    FakeNode,
    Listening,
    ask_for_a_second,
    ask_in_turn,
    know,
    outcomes,
    pipeline,
    stage,
    statuses,
)

if TYPE_CHECKING:
    from fivestage import Pipeline, Query, StageContext
    from fivestage.core.job import Job
    from fivestage.executors.executor import OnFinished

PROCESSING = StageType.PROCESSING
FIXED = Settings.model_validate({"adaptive": {"enabled": False}})
HALF_LIVES_S = 240.0
"""The time after which a failed node has the health of any other."""


async def test_the_second_answers_where_the_first_raises() -> None:
    """One stage result: of the second attempt, with the node that answered."""
    first, second, listening = FakeNode(fails=True), FakeNode(0.01), Listening()
    async with MemoryBus(pipeline(first=first, second=second), observer=listening) as bus:
        result = await bus.ask("any")
    processing = stage(result, PROCESSING)
    assert (str(result.status), result.degraded, result.answer) == ("success", False, "any")
    assert (processing.node, processing.attempt, result.node) == ("second", 2, "second")
    assert outcomes(result) == ["success"] * 5
    assert [s.attempt for s in result.stages] == [1, 1, 2, 1, 1]
    assert len(bus.sink.of(Output.STAGE_RESULTS)) == 5
    assert bus.sink.of(Output.TIMEOUTS) == []
    assert (len(first.calls), len(second.calls), listening.failovers) == (1, 1, 1)


async def test_the_last_one_tried_is_reported() -> None:
    """Where all nodes fail, the stage reports the error, node and attempt of the last."""
    nodes = {name: FakeNode(fails=True) for name in ("first", "second", "third")}
    listening = Listening()
    async with MemoryBus(pipeline(**nodes), observer=listening) as bus:
        result = await bus.ask("any")
    processing = stage(result, PROCESSING)
    assert (str(result.status), result.error_type, result.node) == ("error", "LookupError", "third")
    assert (processing.node, processing.attempt, str(processing.outcome)) == ("third", 3, "error")
    assert [len(node.calls) for node in nodes.values()] == [1, 1, 1]
    assert listening.failovers == 2
    assert outcomes(result) == ["success", "success", "error", "skipped", "skipped"]


async def test_a_single_node_has_no_failover() -> None:
    """A single node that fails is called once and counts as no failover."""
    node, listening = FakeNode(fails=True), Listening()
    async with MemoryBus(pipeline(only=node), observer=listening) as bus:
        result = await bus.ask("any")
    assert (stage(result, PROCESSING).attempt, len(node.calls), listening.failovers) == (1, 1, 0)


@pytest.mark.parametrize(("budget_ms", "called"), [(80, False), (120, True)])
async def test_failover_needs_enough_remaining_time(budget_ms: int, *, called: bool) -> None:
    """The second node is called only if the remaining time covers its known latency."""
    first, second = FakeNode(0.05), FakeNode(0.05)
    async with MemoryBus(pipeline(first=first, second=second), settings=FIXED) as bus:
        first.fails = True
        await ask_in_turn(bus, 10)
        second.calls.clear()
        await asyncio.sleep(HALF_LIVES_S)
        result = await bus.ask("any", budget_ms=budget_ms)
    processing = stage(result, PROCESSING)
    assert bool(second.calls) is called
    if called:
        assert (str(result.status), processing.node, processing.attempt) == ("success", "second", 2)
    else:
        assert (result.error_type, processing.node, processing.attempt) == ("LookupError", "first", 1)
        assert result.metrics.total_duration_ms == pytest.approx(50)  # published at once


async def test_a_timeout_is_followed_too() -> None:
    """A node that is cut at its limit leaves the second what is left of the total."""
    first, second = FakeNode(10), FakeNode(0.01)
    async with MemoryBus(pipeline(first=first, second=second), settings=FIXED) as bus:
        result = await bus.ask("any")
    processing = stage(result, PROCESSING)
    assert (str(result.status), processing.node, processing.attempt) == ("success", "second", 2)
    assert result.metrics.total_duration_ms == pytest.approx(130)


async def test_a_timeout_that_is_followed_has_its_event() -> None:
    """A timed-out attempt has its event although the query succeeds; the attempts list both calls."""
    first, second = FakeNode(10), FakeNode(0.01)
    async with MemoryBus(pipeline(first=first, second=second), settings=FIXED) as bus:
        result = await bus.ask("any")
    (record,) = bus.sink.of(Output.TIMEOUTS)
    event = TimeoutEvent.model_validate_json(record.value or b"")
    assert dict(record.headers)["ce_id"] == b"queries/0/0/timeout/2"
    assert (str(event.scope), event.stage_type, event.node) == ("stage", "processing", "first")
    assert [event.limit_ms, event.elapsed_ms] == pytest.approx([120, 120])
    assert event.completed == ["intent", "decision"]
    attempts = stage(result, PROCESSING).attempts
    assert [(one.node, str(one.kind), str(one.outcome)) for one in attempts] == [
        ("first", "first", "timeout"),
        ("second", "failover", "success"),
    ]
    times = [[one.duration_ms, one.timeout_ms, one.waited_ms] for one in attempts]
    assert [*times[0], *times[1]] == pytest.approx([120, 120, 0, 10, 120, 0])
    assert (str(result.status), result.degraded, result.metrics.timeout_count) == ("success", False, 0)


async def test_without_kafka_the_attempts_are_the_same() -> None:
    """``process_query`` lists them too."""
    app = pipeline(first=FakeNode(fails=True), second=FakeNode(0.01))
    result = await Orchestrator(app).process_query("any")
    attempts = stage(result, PROCESSING).attempts
    assert [(one.node, str(one.kind), str(one.outcome)) for one in attempts] == [
        ("first", "first", "error"),
        ("second", "failover", "success"),
    ]
    assert [len(one.attempts) for one in result.stages] == [1, 1, 2, 1, 1]


def choosing(name: str, **nodes: FakeNode) -> Pipeline:
    """A decision stage of the user's that names a node, and these nodes."""
    app = pipeline(**nodes)

    @app.decision
    async def decide(_query: Query, _ctx: StageContext) -> str:
        return name

    return app


async def test_a_choice_of_the_users_fails_over_too() -> None:
    """A node chosen by the user's own decision stage fails over if it declares the query's intent."""
    nodes = {"a": FakeNode(), "b": FakeNode(fails=True), "c": FakeNode(intents={"other"})}
    async with MemoryBus(choosing("b", **nodes)) as bus:
        result = await bus.ask("any")
    assert (str(result.status), result.node, stage(result, PROCESSING).attempt) == ("success", "a", 2)
    assert nodes["c"].calls == []


@pytest.mark.parametrize("intents", [((), ("any",)), (("any",), ("other",)), ((), ())])
async def test_without_a_common_intent_there_is_no_failover(intents: tuple[tuple[str, ...], ...]) -> None:
    """Nodes that do not both declare the intent do not replace each other."""
    chosen, other = FakeNode(fails=True, intents=intents[0]), FakeNode(intents=intents[1])
    async with MemoryBus(choosing("chosen", chosen=chosen, other=other)) as bus:
        result = await bus.ask("any")
    assert (str(result.status), result.node, other.calls) == ("error", "chosen", [])


async def test_the_healthier_node_is_chosen_until_the_failures_are_old() -> None:
    """After a failure the other node is preferred, until the failure is old."""
    first, second = FakeNode(0.01), FakeNode(0.01)
    async with MemoryBus(pipeline(first=first, second=second)) as bus:
        chosen = [(await bus.ask("any")).node]
        first.fails = True
        await ask_in_turn(bus, 2)
        first.fails = False
        await asyncio.sleep(0.2)
        later = [await bus.ask("any") for _ in range(3)]
        chosen += [result.node for result in later]
        await asyncio.sleep(HALF_LIVES_S)
        chosen.append((await bus.ask("any")).node)
    assert chosen == ["first", "second", "second", "second", "first"]
    assert [stage(result, PROCESSING).attempt for result in later] == [1, 1, 1]


async def test_an_open_breaker_costs_no_attempt() -> None:
    """Where the chosen node's breaker is open the other is called at once, as the first attempt."""
    chosen, other, listening = FakeNode(0.01), FakeNode(0.01), Listening()
    async with MemoryBus(choosing("chosen", chosen=chosen, other=other), observer=listening) as bus:
        chosen.fails = True
        await ask_for_a_second(bus, 21)
        failovers = listening.failovers
        chosen.calls.clear()
        result = await bus.ask("any")
    processing = stage(result, PROCESSING)
    assert (str(result.status), processing.node, processing.attempt) == ("success", "other", 1)
    assert (chosen.calls, failovers, listening.failovers) == ([], 21, 21)
    assert result.metrics.total_duration_ms == pytest.approx(10)


@pytest.mark.parametrize("known", [True, False])
async def test_failover_after_a_node_that_ignores_cancellation(*, known: bool) -> None:
    """A node that ignores its cancellation does not keep another one from answering in time."""
    first, second = FakeNode(10, deaf=True), FakeNode(0.02)
    async with MemoryBus(pipeline(first=first, second=second), settings=FIXED) as bus:
        if known:
            know(bus, {PROCESSING: 0.02})
        result = await bus.ask("any")
        assert len(first.calls) == 1
        await asyncio.sleep(20)
    processing = stage(result, PROCESSING)
    if known:
        assert (str(result.status), processing.node, processing.attempt) == ("success", "second", 2)
        assert 140 <= result.metrics.total_duration_ms <= 190
    else:  # the remaining time is less than its limit, and its latency is unknown
        assert (str(result.status), processing.node, second.calls) == ("timeout", "first", [])
    assert len(bus.results()) == 1


class Lost(InlineExecutor):
    """An executor whose jobs fail in their first node and then send nothing more."""

    def submit(self, job: Job) -> None:
        intent, decision, processing, *_ = job.plan.stages
        for spec in (intent, decision):
            job.history.finish(StageRun(spec, Outcome.SUCCESS, b"{}", started_at=job.started_at))
        attempt = {
            "error": "boom",
            "error_type": "LookupError",
            "node": "first",
            "started_at": job.started_at,
        }
        job.history.fail_over(StageRun(processing, Outcome.ERROR, **attempt))  # type: ignore[arg-type]

    def cancel(self, job: Job) -> None:
        pass


async def test_a_failed_attempt_counts_once() -> None:
    """A deadline between two attempts counts one failure and no failover."""
    app, listening = pipeline(first=FakeNode(), second=FakeNode()), Listening()
    async with MemoryBus(app, executor=Lost(Orchestrator(app)), observer=listening) as bus:
        result = await bus.ask("any")
        node = bus.dispatcher.learned.lane("prod").nodes["first"]
        assert node.health.score(asyncio.get_running_loop().time()) == pytest.approx(0.5)
    assert (result.error_type, stage(result, PROCESSING).attempt) == ("LookupError", 1)
    assert listening.failovers == 0


class ReportedTwice(Lost):
    """An executor that reports the same failed attempt twice, as a worker process may."""

    async def start(self, on_finished: OnFinished) -> None:
        self._on_finished = on_finished

    def submit(self, job: Job) -> None:
        super().submit(job)
        (failed,) = job.history.superseded
        again = StageRun(failed.spec, failed.outcome, None, failed.error, failed.error_type, failed.node)
        again.started_at = failed.started_at
        job.history.finish(again)
        asyncio.get_running_loop().call_soon(self._on_finished, job)


async def test_a_failed_attempt_reported_twice_counts_once() -> None:
    """A failed attempt reported twice counts once for breaker, health and failover."""
    app, listening = pipeline(first=FakeNode(), second=FakeNode()), Listening()
    async with MemoryBus(app, executor=ReportedTwice(Orchestrator(app)), observer=listening) as bus:
        result = await bus.ask("any")
        node = bus.dispatcher.learned.lane("prod").nodes["first"]
        assert (node.breaker.recent.calls, node.breaker.recent.failed) == (1, 1)
    assert (result.error_type, listening.failovers) == ("LookupError", 0)


async def test_a_failed_attempt_counts_although_another_node_answers() -> None:
    """The breaker of a failing node opens although another node answers every query."""
    first, second, listening = FakeNode(0.01), FakeNode(0.01), Listening()
    async with MemoryBus(choosing("first", first=first, second=second), observer=listening) as bus:
        first.fails = True
        await ask_for_a_second(bus)
        await ask_in_turn(bus, 5)
        await asyncio.sleep(0.1)
    assert statuses(bus) == {"success": 26}
    assert (len(first.calls), listening.breakers) == (21, [("prod", "first", "open")])


async def test_stages_after_it_see_who_answered() -> None:
    """Validation and reflection see the node that answered, not the one chosen first."""
    seen: list[Any] = []
    app = pipeline(first=FakeNode(fails=True), second=FakeNode())

    @app.reflection
    async def reflect(_query: Query, ctx: StageContext) -> None:
        seen.append((ctx.node, ctx.attempt, ctx.results[StageType.DECISION]))

    async with MemoryBus(app) as bus:
        await bus.ask("any")
    assert seen == [("second", 1, "first")]
