"""Waiting for a thread costs no time of the stage or query, as waiting for a slot."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from fivestage.core.adaptive.breaker import BreakerPolicy
from fivestage.core.adaptive.node_state import NodeState
from fivestage.core.records import Output
from fivestage.pipeline.thread_pool import MAX_REPLACED
from fivestage.settings import Settings
from fivestage.testing.memory import MemoryBus
from fivestage_schemas import PipelineStatus, StageType, TimeoutReason
from support import busy_app, kinds
from support.jobs import until
from support.kinds import LONG_S, all_ready
from virtual.samples import KEY, ends, query, stage, statuses, timeouts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from fivestage_schemas import PipelineResult

pytestmark = pytest.mark.realtime
LONG_MS = 60_000
SOON_S = 0.3
"""For wanted stalls; with less, a busy machine causes false ones."""


class Place(kinds.Place):
    """The app in an executor of one kind, under a bus."""

    def __init__(self, kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(busy_app, kind, folder, monkeypatch)
        self.hold, self.loop = self.gate(busy_app.HOLD), self.gate(busy_app.LOOP)

    @contextlib.asynccontextmanager
    async def bus(
        self,
        threads: int,
        *,
        total_ms: int = LONG_MS,
        limit_ms: int | None = None,
        stall_s: float = LONG_S,
    ) -> AsyncIterator[MemoryBus]:
        """A bus with this many threads; each stage may take *limit_ms*, or the whole time."""
        limits: dict[str, Any] = {"total_timeout_ms": total_ms}
        limits["stage_timeouts_ms"] = dict.fromkeys(StageType, limit_ms or total_ms)
        if stall_s < LONG_S:  # no query may wait for its loop: that would cost it its answer
            limits["critical"] = list(StageType)
        settings = Settings.model_validate({"pipeline": limits})
        executor = self.executor(settings.pipeline.plan(), threads=threads, stall_s=stall_s)
        app = busy_app.make(self.folder)
        async with MemoryBus(app, settings=settings, executor=executor) as bus:
            await all_ready(executor)
            yield bus


@pytest.fixture(params=["inline", "thread", "process"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Start an executor of each kind."""
    return Place(request.param, tmp_path, monkeypatch)


def put(bus: MemoryBus, node: str, count: int, **fields: Any) -> None:
    """Write queries for a node, named after it."""
    for number in range(count):
        bus.put(query(f"{node}{number}", node, **fields))


def results_of(bus: MemoryBus, node: str) -> list[PipelineResult]:
    """Return the results of a node's queries."""
    return [result for result in bus.results() if result.query_id.startswith(node)]


async def finish(bus: MemoryBus, count: int) -> None:
    """Wait until the total number of terminal events reaches this."""
    await until(lambda: len(bus.sink.of(Output.RESULTS)) >= count, f"{count} terminal events")


async def parked(bus: MemoryBus, count: int) -> None:
    """Wait until this many queries wait for a thread."""
    await until(lambda: bus.dispatcher.active.parked == count, f"{count} queries wait for a thread")


def is_idle(bus: MemoryBus) -> bool:
    """Return whether nothing runs, waits, or uses a slot."""
    dispatcher, running = bus.dispatcher, bus.dispatcher.active
    left = (
        dispatcher.in_flight,
        dispatcher.slots.running,
        dispatcher.waiting,
        running.parked,
        len(running.jobs),
    )
    return left == (0,) * 5


async def test_a_burst_over_few_threads_is_answered(place: Place) -> None:
    """All 200 are answered and run once, though the last wait longer than a query may take."""
    threads, total_ms = 2, 4000
    assert 200 * busy_app.WORK_S / threads > total_ms / 1000
    async with place.bus(threads, total_ms=total_ms) as bus:
        put(bus, "works", 200)
        await finish(bus, 200)
        await until(lambda: is_idle(bus))
    assert statuses(bus) == {"success": 200}
    assert Counter(place.notes("works")) == {f"works works{number}": 1 for number in range(200)}
    for result in bus.results():
        node, metrics = stage(result, StageType.PROCESSING), result.metrics
        assert metrics.within_budget
        assert node.attempts[0].waited_ms == pytest.approx(metrics.queue_ms, abs=0.1)  # it has no timestamp
        assert metrics.total_duration_ms <= metrics.budget_ms == pytest.approx(total_ms)
        assert sum(metrics.stage_durations.values()) <= metrics.total_duration_ms + 0.1
        assert 0 < result.answer[0] <= node.timeout_ms + 0.1
        assert result.answer[1] <= result.answer[0]
        assert result.started_at is not None
        assert node.started_at is not None
        took_ms = (result.finished_at - result.started_at) / dt.timedelta(milliseconds=1)
        assert took_ms == pytest.approx(metrics.total_duration_ms, abs=2)  # of times in whole milliseconds
        assert result.started_at <= node.started_at <= result.finished_at
    waited_ms = sorted(result.metrics.queue_ms for result in bus.results())
    assert waited_ms[0] == 0
    assert waited_ms[-1] >= 500  # it has no timestamp: this is its wait for a thread


async def test_other_queries_are_not_delayed(place: Place) -> None:
    """Beside 300 queries for blocked threads, with 256 slots, queries that need no thread are answered."""
    async with place.bus(4) as bus:
        with place.hold.closed() as gate:
            put(bus, "holds", 300)
            await parked(bus, 296)
            put(bus, "quick", 50)
            await finish(bus, 50)
            assert statuses(bus) == {"success": 50}
            dispatcher = bus.dispatcher
            assert (dispatcher.slots.running, dispatcher.waiting, dispatcher.slots.waiting) == (4, 296, 0)
            assert len(place.notes("holds")) == 4
            gate.open()
            await finish(bus, 350)
        await until(lambda: is_idle(bus))
    assert statuses(bus) == {"success": 350}
    assert set(ends(bus).values()) == {1}
    assert len(place.notes("holds")) == 300


async def test_calls_of_running_stages_are_not_delayed(place: Place) -> None:
    """A burst does not use up the limits of concurrent stages that call ``asyncio.to_thread``."""
    threads, total_ms = 8, 2000  # a busy machine may stop for a second
    async with place.bus(threads, total_ms=total_ms) as bus:
        put(bus, "works", 400)
        put(bus, "asks", 50)
        await finish(bus, 450)
    assert statuses(bus) == {"success": 450}
    order = [result.query_id for result in bus.results()]
    assert max(order.index(f"asks{number}") for number in range(50)) < order.index("works399")


async def test_a_deadline_holds_while_no_thread_is_free(place: Place) -> None:
    """The query ends with the reason; its node never runs, and another one is answered."""
    async with place.bus(2) as bus:
        with place.hold.closed() as gate:
            put(bus, "holds", 2)
            await until(lambda: len(place.notes("holds")) == 2)
            due = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=1)
            result = await bus.ask("works", query_id="late", deadline=due.isoformat())
            assert len(bus.results()) == 1
            gate.open()
            await bus.ask("works", query_id="next")
            await until(lambda: is_idle(bus))
    node = stage(result, StageType.PROCESSING)
    assert (result.status, node.outcome) == (PipelineStatus.TIMEOUT, "skipped")
    assert node.error == "no thread was free for its call: executor.threads of them were busy"
    assert result.finished_at >= due - dt.timedelta(milliseconds=5)
    assert [(one.scope, one.reason) for one in timeouts(bus)] == [
        ("pipeline", TimeoutReason.PIPELINE_TIMEOUT)
    ]
    assert place.notes("works") == ["works next"]


async def test_a_query_with_a_deadline_may_wait_for_a_thread(place: Place) -> None:
    """It is answered when a thread gets free before its deadline."""
    async with place.bus(1) as bus:
        with place.hold.closed() as gate:
            put(bus, "holds", 1)
            await until(lambda: len(place.notes("holds")) == 1)
            due = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=LONG_S)
            put(bus, "works", 1, deadline=due.isoformat())
            await parked(bus, 1)
            gate.open()
            await finish(bus, 2)
    assert statuses(bus) == {"success": 2}


async def test_the_wait_for_hanging_threads_is_bounded(place: Place) -> None:
    """Hanging calls are replaced up to a bound; then waiting queries end, with the reason."""
    threads, waiting = 16, 20
    async with place.bus(threads, total_ms=1000) as bus:
        with place.hold.closed():
            put(bus, "holds", threads + MAX_REPLACED + waiting)
            await finish(bus, threads + MAX_REPLACED + waiting)
            await until(lambda: is_idle(bus))
            called = len(place.notes("holds"))
    assert threads <= called <= threads + MAX_REPLACED  # all of them, where the machine is not too busy
    found = Counter(result.error_type for result in bus.results())
    # not as many timeouts as calls: one may start while the breaker, in the service, ends its query
    assert found["timeout"] > 0
    assert len(found) > 1
    assert found.keys() <= {"timeout", "node_stuck", "node_busy", "breaker_open"}


@pytest.mark.parametrize(
    ("node", "answer", "error_type"), [("works", "stands in", None), ("holds", None, "breaker_open")]
)
async def test_queries_do_not_wait_to_call_a_node_that_fails(
    place: Place, node: str, answer: str | None, error_type: str | None
) -> None:
    """Its breaker opens while they wait for a thread: another node answers, or they end."""
    async with place.bus(2, limit_ms=LONG_MS // 2) as bus:
        with place.hold.closed():
            put(bus, "holds", 2)
            await until(lambda: len(place.notes("holds")) == 2)
            for number in range(5):
                bus.put(query(f"waits{number}", node))
            await parked(bus, 5)
            lane, now = bus.dispatcher.learned.lane("prod"), asyncio.get_running_loop().time()
            failing = lane.nodes[node] = NodeState(BreakerPolicy(first_open_s=60, open_s=60), lambda: 0.0)
            for number in range(200):
                failing.breaker.record(now - 2 + number / 100, failed=True)
            await finish(bus, 5)
            assert results_of(bus, "holds") == []  # no thread is free yet
        await finish(bus, 7)
        await until(lambda: is_idle(bus))
    assert (len(place.notes("holds")), place.notes("works")) == (2, [])
    assert {(one.answer, one.error_type) for one in results_of(bus, "waits")} == {(answer, error_type)}


@pytest.mark.parametrize("place", ["thread"], indirect=True)
async def test_waiting_queries_of_a_stalled_loop_continue(place: Place) -> None:
    """In threads they keep their places: they continue elsewhere, and each runs once."""
    async with place.bus(1, stall_s=SOON_S) as bus:
        with place.hold.closed() as hold, place.loop.closed() as loop:
            put(bus, "holds", 1)
            await until(lambda: place.notes("holds"))
            put(bus, "works", 5)
            await parked(bus, 5)
            before = {job.number: job.place for job in bus.dispatcher.active.jobs.values()}
            put(bus, "blocks", 1)
            await until(lambda: place.notes("blocks"))
            await until(
                lambda: all(
                    job.place is not before[job.number]
                    for job in bus.dispatcher.active.jobs.values()
                    if job.number in before
                )
            )
            await parked(bus, 5)
            assert bus.dispatcher.slots.running == 2
            hold.open()
            await finish(bus, 6)
            loop.open()
            await finish(bus, 7)
        await until(lambda: is_idle(bus))
    assert statuses(bus) == {"success": 7}
    assert place.notes("works") == [f"works works{number}" for number in range(5)]
    assert {stage(result, StageType.PROCESSING).attempt for result in results_of(bus, "works")} == {1}


@pytest.mark.parametrize("place", ["process"], indirect=True)
async def test_queries_that_wait_in_a_stalled_process_move(place: Place) -> None:
    """Queries that wait in a stalled process move to one with free threads, and each runs once."""
    async with place.bus(2, stall_s=SOON_S) as bus:
        with place.hold.closed() as hold, place.loop.closed() as loop:
            put(bus, "holds", 2)
            await until(lambda: len(place.notes("holds")) == 2)
            put(bus, "works", 1)
            await parked(bus, 1)
            put(bus, "blocks", 1)
            await until(lambda: place.notes("blocks"))
            hold.open()
            await finish(bus, 3)
            loop.open()
            await finish(bus, 4)
        await until(lambda: is_idle(bus))
    assert statuses(bus) == {"success": 4}
    assert set(place.notes("works")) == {"works works0"}


async def test_a_drain_ends_in_its_time_and_loses_nothing(place: Place) -> None:
    """Queries that wait for a thread are in flight: a drain waits for them up to its limit."""
    async with place.bus(1) as bus:
        with place.hold.closed() as gate:
            put(bus, "holds", 1)
            put(bus, "works", 3)
            await parked(bus, 3)
            assert not await bus.dispatcher.drain(0.05)
            assert (bus.ledger.in_flight(), bus.ledger.partitions[KEY].next_offset) == (4, 4)
            gate.open()
            assert await bus.dispatcher.drain(30.0)
    assert statuses(bus) == {"success": 4}


async def test_partitions_may_go_while_queries_wait(place: Place) -> None:
    """Nothing of revoked partitions is published, and all slots are free again."""
    async with place.bus(1) as bus:
        with place.hold.closed() as gate:
            put(bus, "holds", 1)
            put(bus, "works", 3)
            await parked(bus, 3)
            bus.ledger.revoke(frozenset({KEY}))
            gate.open()
            await until(lambda: is_idle(bus))
    assert bus.results() == []


async def test_the_executor_stops_while_queries_wait(place: Place) -> None:
    """The stop ends in its time, and its abandoned queries are not answered."""
    with place.hold.closed() as gate:
        async with place.bus(1) as bus:
            put(bus, "holds", 1)
            await until(lambda: len(place.notes("holds")) == 1)
            put(bus, "works", 3)
            await parked(bus, 3)
            async with asyncio.timeout(30):
                await bus.executor.stop(0.5)
        gate.open()
    assert bus.results() == []
