"""Hostile user code on the thread executor, and its effect on other queries.

Code that "blocks" waits for an event of the test, which decides when it continues. Limits
that must have no effect are 60 s, which no test waits for.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import textwrap
import threading
from collections import Counter
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from fivestage import Orchestrator, Pipeline
from fivestage.core.observer import Observer
from fivestage.core.records import Output
from fivestage.executors import ThreadExecutor
from fivestage.executors.abandoned_cpu import thread_cpu_s
from fivestage.settings import Settings
from fivestage.testing.memory import MemoryBus
from fivestage_schemas import PipelineStatus, StageType, TimeoutEvent
from support.jobs import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from fivestage import Query, StageContext
    from fivestage_schemas import PipelineResult

pytestmark = pytest.mark.realtime

GUARD_S = 20.0
"""Ends a test that hangs; no result depends on it."""
LONG_MS = 60_000
PATIENT_MS = 20_000
"""The total of queries that move at once in a stall, as their stages may take longer."""
STALL_S = 0.3
"""With less, a busy machine causes false stalls."""


class Counting(Observer):
    """Counts the reported events."""

    def __init__(self) -> None:
        self.replaced: list[str] = []
        self.stalled: list[str] = []
        self.late = 0

    def executor_replaced(self, reason: str) -> None:
        self.replaced.append(reason)

    def executor_stalled(self, name: str, where: str | None) -> None:  # noqa: ARG002
        self.stalled.append(name)

    def came_late(self) -> None:
        self.late += 1


class Hostile:
    """An app whose queries name their node; its code blocks until released."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.go = threading.Event()
        self.again = threading.Event()
        self.threads: list[threading.Thread] = []
        """Places where code blocks."""
        self.calls: Counter[tuple[str, str]] = Counter()
        """By stage and query."""
        self.app = app = Pipeline(builtins=False)
        app.intent(self._intent)
        app.decision(self._decide)
        app.validation(self._validate)
        app.reflection(self._reflect)
        app.node("echo")(self._echo)
        app.node("waits")(self._waits)
        app.node("waits-a-little")(self._waits_a_little)
        app.node("pays")(self._pays)
        app.node("blocks")(self._blocks)

    def block(self) -> None:
        """Block the thread until released."""
        self.threads.append(threading.current_thread())
        self.entered.set()
        assert self.go.wait(GUARD_S)

    def spin(self) -> None:
        """Compute until released."""
        self.entered.set()
        while not self.go.is_set():
            pass

    async def _intent(self, query: Query, ctx: StageContext) -> dict[str, Any]:
        self._count(query, ctx)
        if query.user_input == "intent-blocks":
            self.block()
        return {"intent": query.user_input}

    async def _decide(self, query: Query, ctx: StageContext) -> str:
        self._count(query, ctx)
        return query.user_input.split()[0]

    async def _echo(self, query: Query, ctx: StageContext) -> str:
        self._count(query, ctx)
        return query.user_input

    async def _waits(self, query: Query, ctx: StageContext) -> str:
        """Wait for ever in the first attempt."""
        self._count(query, ctx)
        if ctx.attempt == 1:
            await asyncio.Event().wait()
        return query.user_input

    async def _waits_a_little(self, query: Query, ctx: StageContext) -> str:
        self._count(query, ctx)
        await asyncio.sleep(0.01)
        return query.user_input

    def _pays(self, query: Query, ctx: StageContext) -> str:
        """Return when another query blocks this loop."""
        self._count(query, ctx)
        assert self.entered.wait(GUARD_S)
        return "paid"

    async def _blocks(self, query: Query, ctx: StageContext) -> str:
        self._count(query, ctx)
        self.block()
        return "came back"

    async def _validate(self, query: Query, ctx: StageContext) -> bool:
        self._count(query, ctx)
        if "validation-waits" in query.user_input and ctx.attempt == 1:
            await asyncio.Event().wait()
        if "validation-blocks" in query.user_input:
            self.block()
        return True

    async def _reflect(self, query: Query, ctx: StageContext) -> dict[str, Any]:
        self._count(query, ctx)
        return {}

    def _count(self, query: Query, ctx: StageContext) -> None:
        self.calls[str(ctx.stage_type), query.query_id] += 1


@pytest.fixture
def hostile() -> Iterator[Hostile]:
    """Build the app; all blocked code is released at the end."""
    hostile = Hostile()
    yield hostile
    hostile.go.set()
    hostile.again.set()


@pytest.fixture
def quick_switches() -> Iterator[None]:
    """Set the service's switch interval: spinning code shares the interpreter."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.0005)
    yield
    sys.setswitchinterval(before)


@contextlib.asynccontextmanager
async def running(
    hostile: Hostile, *, stall_s: float = STALL_S, executor: dict[str, int] | None = None, **limits_ms: int
) -> AsyncIterator[tuple[MemoryBus, Counting]]:
    """Start a bus on the thread executor, with limits of 60 s except for the given stages or total."""
    limits = {stage: limits_ms.get(stage, LONG_MS) for stage in StageType}
    settings = Settings.model_validate(
        {
            "pipeline": {
                "total_timeout_ms": limits_ms.get("total", LONG_MS),
                "stage_timeouts_ms": limits,
            },
            "executor": executor or {},
        }
    )
    counting = Counting()
    orchestrator = Orchestrator(hostile.app, plan=settings.pipeline.plan(), threads=settings.executor.threads)
    threads = ThreadExecutor(orchestrator, observer=counting, stall_s=stall_s)
    async with MemoryBus(hostile.app, settings=settings, observer=counting, executor=threads) as bus:
        try:
            yield bus, counting
        finally:
            hostile.go.set()  # code that still blocks must not delay the end


async def ask(bus: MemoryBus, text: str, **fields: Any) -> PipelineResult:
    """Ask the bus, with a time limit."""
    async with asyncio.timeout(GUARD_S):
        return await bus.ask(text, **fields)


def put(bus: MemoryBus, **queries: str) -> None:
    """Write queries, id=text, to be fetched together."""
    for query_id, text in queries.items():
        bus.put(orjson.dumps({"query_id": query_id, "user_input": text}))


async def answers(bus: MemoryBus, *query_ids: str) -> list[PipelineResult]:
    """Wait for the terminal events of queries."""
    await until(lambda: all(bus.result(query_id) for query_id in query_ids))
    found = [bus.result(query_id) for query_id in query_ids]
    return [result for result in found if result is not None]


def outcomes(result: PipelineResult) -> list[str]:
    """Return the outcomes of a result's stages."""
    return [str(stage.outcome) for stage in result.stages]


def attempts(result: PipelineResult) -> list[int]:
    """Return the attempts of a result's stages."""
    return [stage.attempt for stage in result.stages]


def timeout_events(bus: MemoryBus) -> list[TimeoutEvent]:
    """Return the published timeout events."""
    return [TimeoutEvent.model_validate_json(r.value or b"") for r in bus.sink.of(Output.TIMEOUTS)]


# Code that blocks its event loop


async def test_queries_beside_a_blocking_node_move(hostile: Hostile) -> None:
    """Queries beside a blocking node move, restart their stage, and succeed."""
    async with running(hostile, total=PATIENT_MS) as (bus, counting):
        put(
            bus,
            processing="waits",
            validating="echo validation-waits",
            blocking_job="blocks",
            queued="echo",
        )
        processing, validating, queued = await answers(bus, "processing", "validating", "queued")
        assert (hostile.entered.is_set(), hostile.go.is_set()) == (True, False)
        assert bus.result("blocking_job") is None
    assert {str(result.status) for result in (processing, validating, queued)} == {"success"}
    assert attempts(processing) == [1, 1, 2, 1, 1]
    assert attempts(validating) == [1, 1, 1, 2, 1]
    stages = [str(stage) for stage in StageType]
    assert [hostile.calls[stage, "processing"] for stage in stages] == [1, 1, 2, 1, 1]
    assert [hostile.calls[stage, "validating"] for stage in stages] == [1, 1, 1, 2, 1]
    assert [hostile.calls[stage, "queued"] for stage in stages] == [1, 1, 1, 1, 1]
    assert (counting.stalled, counting.replaced) == (["blocks"], [])


async def test_new_queries_do_not_wait_for_a_blocked_loop(hostile: Hostile) -> None:
    """New queries run elsewhere at the first attempt, while queries in the blocked loop wait."""
    async with running(hostile) as (bus, counting):
        put(bus, blocking_job="blocks")
        await until(lambda: counting.stalled)
        after = await ask(bus, "echo")
        assert not hostile.go.is_set()
    assert (after.status, attempts(after)) == (PipelineStatus.SUCCESS, [1, 1, 1, 1, 1])


async def test_a_loop_that_turns_again_is_used_again(hostile: Hostile) -> None:
    """A node that blocks for a while answers, so do the queries behind it, and nothing ran twice."""
    async with running(hostile) as (bus, counting):
        put(bus, caught="waits-a-little", blocking_job="blocks")
        await until(lambda: counting.stalled)
        hostile.go.set()
        blocking_job, caught = await answers(bus, "blocking_job", "caught")
        await until(lambda: "stalled=0" in repr(bus.executor))
        after = await ask(bus, "blocks")
    assert (blocking_job.status, blocking_job.answer) == (PipelineStatus.SUCCESS, "came back")
    assert [attempts(one) for one in (blocking_job, caught, after)] == [[1, 1, 1, 1, 1]] * 3
    assert len(set(hostile.threads)) == 1
    assert set(hostile.calls.values()) == {1}
    assert (counting.replaced, counting.late) == ([], 0)


async def test_a_call_in_a_thread_is_resumed_not_restarted(hostile: Hostile) -> None:
    """A ``def`` node whose loop is blocked runs once, and the next loop takes its answer."""
    async with running(hostile, total=PATIENT_MS) as (bus, counting):
        put(bus, pays="pays", blocking_job="blocks")
        [pays] = await answers(bus, "pays")
        assert (hostile.go.is_set(), bus.result("blocking_job")) == (False, None)
    assert (pays.status, pays.answer, attempts(pays)) == (PipelineStatus.SUCCESS, "paid", [1, 1, 1, 1, 1])
    assert hostile.calls["processing", "pays"] == 1
    assert counting.stalled == ["blocks"]


async def test_a_function_that_returns_a_coroutine_is_restarted_when_it_moves(hostile: Hostile) -> None:
    """Its coroutine belongs to the blocked loop, so a moved query calls the function again."""

    @hostile.app.node("mixed")
    def mixed(query: Query, ctx: StageContext) -> Any:
        return hostile._waits(query, ctx)

    async with running(hostile, total=PATIENT_MS) as (bus, _):
        put(bus, mixed="mixed", blocking_job="blocks")
        [found] = await answers(bus, "mixed")
        assert not hostile.go.is_set()
    assert (found.status, found.answer, attempts(found)) == (PipelineStatus.SUCCESS, "mixed", [1, 1, 2, 1, 1])


async def test_a_clean_up_that_blocks_is_counted(hostile: Hostile) -> None:
    """Clean-up code that blocks after a query's end is counted by the query's node."""
    cleaning = threading.Event()

    @hostile.app.node("cleans")
    async def cleans(_query: Query, _ctx: StageContext) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cleaning.set()
            hostile.again.wait(GUARD_S)

    async with running(hostile) as (bus, counting):
        bus.put(orjson.dumps({"query_id": "cleans", "user_input": "cleans", "budget_ms": 1500}))
        put(bus, blocking_job="blocks")
        await until(lambda: counting.stalled)
        await answers(bus, "cleans")
        hostile.go.set()
        await until(cleaning.is_set)
        await until(lambda: [one.name for one in bus.executor.abandoned()])
        assert {one.name for one in bus.executor.abandoned()} == {"cleans"}
        hostile.again.set()
        await until(lambda: not bus.executor.abandoned())


async def test_other_code_that_blocks_a_loop_is_counted(hostile: Hostile) -> None:
    """A callback left by an answered node is counted by its place, until it returns; others go on."""

    @hostile.app.node("leaves")
    async def leaves(_query: Query, _ctx: StageContext) -> str:
        asyncio.get_running_loop().call_soon(hostile.block)
        return "left"

    async with running(hostile) as (bus, counting):
        left = await ask(bus, "leaves")
        after = await ask(bus, "echo")
        await until(bus.executor.abandoned)
        [abandoned] = bus.executor.abandoned()
        hostile.go.set()
        await until(lambda: not bus.executor.abandoned())
    assert [str(one.status) for one in (left, after)] == ["success", "success"]
    assert __file__ in abandoned.name
    assert counting.stalled == [""]


async def test_to_thread_is_bounded_and_counted(hostile: Hostile) -> None:
    """Calls by ``asyncio.to_thread`` that do not return are counted by their node."""

    @hostile.app.node("stuck")
    async def stuck(_query: Query, _ctx: StageContext) -> None:
        await asyncio.to_thread(hostile.block)

    @hostile.app.node("good")
    async def good(_query: Query, _ctx: StageContext) -> str:
        return await asyncio.to_thread(lambda: threading.current_thread().name)

    async with running(hostile, executor={"threads": 1}) as (bus, _):
        blocking_job = await ask(bus, "stuck", budget_ms=100)
        other = await ask(bus, "good")
        assert not hostile.go.is_set()
        assert [left.name for left in bus.executor.abandoned()] == ["stuck"]
        hostile.go.set()
        await until(lambda: not bus.executor.abandoned())
    assert (blocking_job.status, other.status) == (PipelineStatus.TIMEOUT, PipelineStatus.SUCCESS)
    assert str(other.answer).startswith("fivestage-node-")


@pytest.mark.fault(15)
async def test_a_blocking_query_ends_at_its_stages_limit(hostile: Hostile) -> None:
    """The query ends as its stage's timeout while the code still blocks; its late result is dropped."""
    async with running(hostile, processing=100) as (bus, counting):
        blocking_job = await ask(bus, "blocks")
        assert not hostile.go.is_set()
        await until(lambda: counting.stalled)
        published = len(bus.sink.records)
        hostile.go.set()
        await until(lambda: not bus.executor.abandoned())
        assert len(bus.sink.records) == published
    assert (blocking_job.status, blocking_job.answer, blocking_job.error_type) == (
        PipelineStatus.TIMEOUT,
        None,
        "timeout",
    )
    assert outcomes(blocking_job) == ["success", "success", "timeout", "skipped", "skipped"]
    [event] = timeout_events(bus)
    assert (event.scope, event.reason, event.stage_type) == ("stage", "stage_timeout", "processing")
    assert len(bus.results()) == 1


async def test_late_answers_are_counted_and_dropped(hostile: Hostile) -> None:
    """An answer after the end of its query is counted once and not published."""
    async with running(hostile, stall_s=60, intent=100) as (bus, counting):
        blocking_job = await ask(bus, "intent-blocks")
        assert ([left.name for left in bus.executor.abandoned()], counting.late) == (["intent"], 0)
        hostile.go.set()
        await until(lambda: counting.late)
        after = await ask(bus, "echo")
        assert bus.executor.abandoned() == []
    assert (blocking_job.status, after.status) == (PipelineStatus.TIMEOUT, PipelineStatus.SUCCESS)
    assert (len(bus.results()), counting.late, counting.replaced) == (2, 1, [])


async def test_an_answer_does_not_wait_for_a_validation_that_blocks(hostile: Hostile) -> None:
    """Where a non-critical stage blocks, the degraded answer is published at that stage's limit."""
    async with running(hostile, validation=40) as (bus, _):
        result = await ask(bus, "echo validation-blocks")
        assert (hostile.entered.is_set(), hostile.go.is_set()) == (True, False)
    assert (result.status, result.degraded) == (PipelineStatus.SUCCESS, True)
    assert result.answer == "echo validation-blocks"
    assert outcomes(result) == ["success", "success", "success", "timeout", "skipped"]
    [event] = timeout_events(bus)
    assert (event.scope, event.stage_type, event.limit_ms) == ("stage", "validation", 40)


# Code that spins


@pytest.mark.fault(15)
@pytest.mark.usefixtures("quick_switches")
async def test_async_code_that_spins(hostile: Hostile) -> None:
    """Spinning code times out; other queries succeed; its CPU time is counted."""

    @hostile.app.intent
    async def intent(query: Query, _ctx: StageContext) -> dict[str, Any]:
        if query.user_input == "spins":
            hostile.spin()
        return {}

    async with running(hostile, stall_s=0.1, intent=800) as (bus, counting):
        put(bus, blocking_job="spins", neighbour="echo")
        blocking_job, neighbour = await answers(bus, "blocking_job", "neighbour")
        after = await ask(bus, "echo")
        assert (hostile.entered.is_set(), hostile.go.is_set()) == (True, False)
        await until(lambda: cpu_s(bus) > 0.1)
        assert [left.name for left in bus.executor.abandoned()] == ["intent"]
        hostile.go.set()
        await until(lambda: not bus.executor.abandoned())
    assert outcomes(blocking_job) == ["timeout", "skipped", "skipped", "skipped", "skipped"]
    assert [str(one.status) for one in (blocking_job, neighbour, after)] == ["timeout", "success", "success"]
    assert counting.stalled == ["intent"]


@pytest.mark.fault(15, 17)
@pytest.mark.usefixtures("quick_switches")
async def test_blocking_code_that_spins(hostile: Hostile) -> None:
    """Spinning code in a thread times out, a pool of one serves others, and its CPU time is counted."""

    @hostile.app.node("spins")
    def spins(_query: Query, _ctx: StageContext) -> None:
        hostile.spin()

    @hostile.app.node("quick")
    def quick(_query: Query, _ctx: StageContext) -> str:
        return "quick"

    async with running(hostile, executor={"threads": 1}) as (bus, counting):
        blocking_job = await ask(bus, "spins", budget_ms=200)
        neighbour = await ask(bus, "quick")
        await until(lambda: cpu_s(bus) > 0.1)
        hostile.go.set()
        await until(lambda: not bus.executor.abandoned())
        after = await ask(bus, "quick")
    assert [str(r.status) for r in (blocking_job, neighbour, after)] == ["timeout", "success", "success"]
    assert counting.replaced == []


def cpu_s(bus: MemoryBus) -> float:
    """Return the CPU seconds of the threads of abandoned code."""
    threads = [left.thread for left in bus.executor.abandoned()]
    return sum(thread_cpu_s(thread) or 0.0 for thread in threads if thread is not None)


# Lost threads


@pytest.mark.fault(17)
async def test_lost_threads_leave_the_pool(hostile: Hostile) -> None:
    """A pool of one serves others while an abandoned call blocks, which is counted by its node."""

    @hostile.app.node("stuck")
    def stuck(_query: Query, _ctx: StageContext) -> None:
        hostile.block()

    @hostile.app.node("quick")
    def quick(_query: Query, _ctx: StageContext) -> str:
        return "quick"

    async with running(hostile, executor={"threads": 1}) as (bus, _):
        blocking_job = await ask(bus, "stuck", budget_ms=100)
        neighbour = await ask(bus, "quick")
        assert (hostile.entered.is_set(), hostile.go.is_set()) == (True, False)
        await until(lambda: [left.name for left in bus.executor.abandoned()] == ["stuck"])
    assert (blocking_job.status, neighbour.status) == (PipelineStatus.TIMEOUT, PipelineStatus.SUCCESS)


@pytest.mark.fault(15)
async def test_a_node_with_lost_calls_gets_no_more_calls(hostile: Hostile) -> None:
    """A node with overdue calls for a quarter of the threads gets no more; other nodes do."""
    calls = 0

    @hostile.app.node("stuck")
    def stuck(_query: Query, _ctx: StageContext) -> str:
        nonlocal calls
        calls += 1
        hostile.block()
        return "came back"

    async with running(hostile, executor={"threads": 8}) as (bus, _):
        while calls < 2:  # on a busy machine a query may expire before its node is called
            assert (await ask(bus, "stuck", budget_ms=100)).status is PipelineStatus.TIMEOUT
        routing = bus.dispatcher.learned.lane("prod").routing
        await until(lambda: routing.stuck)
        refused, other = await ask(bus, "stuck"), await ask(bus, "echo")
        assert (calls, hostile.go.is_set()) == (2, False)
        hostile.go.set()
        await until(lambda: not routing.stuck)
        again = await ask(bus, "stuck")
    assert (refused.status, refused.error_type) == (PipelineStatus.ERROR, "node_stuck")
    assert other.status is PipelineStatus.SUCCESS
    assert (again.status, again.answer, calls) == (PipelineStatus.SUCCESS, "came back", 3)


# Code that tries to end the process


FORKS = """
    import asyncio, os, sys, threading
    from fivestage import Orchestrator, Pipeline, Plan, StageType
    from fivestage.core.observer import Observer
    from fivestage.executors import ThreadExecutor
    from fivestage.settings import Settings
    from fivestage.testing.memory import MemoryBus

    app = Pipeline(builtins=False)
    children = []
    limits = {"total_timeout_ms": 20_000, "stage_timeouts_ms": dict.fromkeys(StageType, 20_000)}
    settings = Settings.model_validate({"pipeline": limits})

    @app.decision
    async def decide(query, ctx):
        return query.user_input

    @app.node("async")
    async def forks(query, ctx):
        children.append(os.fork())  # the child goes on as if nothing had happened
        return os.getpid()

    @app.node("def")
    def forks_in_thread(query, ctx):
        children.append(os.fork())
        return os.getpid()

    @app.node("awaits")
    async def forks_and_awaits(query, ctx):
        children.append(os.fork())
        await asyncio.sleep(0)
        return os.getpid()

    async def main():
        orchestrator = Orchestrator(app, plan=Plan.of(**limits))
        executor = ThreadExecutor(orchestrator, observer=Observer(), stall_s=10)
        async with asyncio.timeout(60), MemoryBus(app, settings=settings, executor=executor) as bus:
            for node in ("async", "def", "awaits", "async"):
                result = await bus.ask(node, deadline="2099-01-01T00:00:00Z")
                code = os.waitstatus_to_exitcode(os.waitpid(children[-1], 0)[1])
                print(node, result.status.value, result.answer == os.getpid(), code)
            print(len(bus.results()), len(children))

    asyncio.run(main())
"""


def test_a_fork_ends_with_its_node() -> None:
    """Forks made by nodes end with code 0; the original answers each query once."""
    command = [sys.executable, "-c", textwrap.dedent(FORKS)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    nodes = ("async", "def", "awaits", "async")
    expected = [*(f"{node} success True 0" for node in nodes), "4 4"]
    assert (ended.returncode, ended.stdout.splitlines()) == (0, expected), ended.stderr


# Code with excessive use


async def test_a_node_that_leaves_tasks_behind(hostile: Hostile) -> None:
    """A hundred endless tasks delay neither answers nor shutdown, which ends them."""
    left: list[asyncio.Task[object]] = []

    @hostile.app.node("leaks")
    async def leaks(_query: Query, _ctx: StageContext) -> str:
        left.extend(asyncio.create_task(_never()) for _ in range(100))
        return "leaked"

    async with running(hostile) as (bus, counting):
        put(bus, a="echo", blocking_job="leaks", b="echo")
        results = await answers(bus, "a", "blocking_job", "b")
        again = await ask(bus, "leaks")
    assert [str(result.status) for result in (*results, again)] == ["success"] * 4
    assert (len(left), counting.replaced) == (200, [])
    assert all(task.done() for task in left)


async def _never() -> None:
    await asyncio.Event().wait()


@pytest.mark.fault(24)
async def test_an_answer_that_is_too_large(hostile: Hostile) -> None:
    """An answer of 50 MB becomes an error event; other queries succeed."""

    @hostile.app.node("large")
    async def large(_query: Query, _ctx: StageContext) -> str:
        return "x" * 50_000_000

    async with running(hostile, stall_s=60) as (bus, _):
        put(bus, a="echo", blocking_job="large", b="echo")
        a, blocking_job, b = await answers(bus, "a", "blocking_job", "b")
        largest = max(len(record.value or b"") for record in bus.sink.records)
    assert (a.status, b.status) == (PipelineStatus.SUCCESS, PipelineStatus.SUCCESS)
    assert (blocking_job.status, blocking_job.error_type, blocking_job.answer) == (
        PipelineStatus.ERROR,
        "result_too_large",
        None,
    )
    assert (len(bus.results()), largest < Settings().kafka.max_record_bytes) == (3, True)
