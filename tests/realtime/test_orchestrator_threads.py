"""Blocking stages and nodes run in a bounded number of threads and block nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import queue
import subprocess
import sys
import textwrap
import threading
import weakref
from typing import TYPE_CHECKING, Any

import pytest

from fivestage import Orchestrator, Pipeline, Plan
from fivestage.pipeline.thread_pool import ThreadPool
from fivestage_schemas import Outcome, PipelineStatus, StageType
from support.operations import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fivestage import Query, StageContext

pytestmark = pytest.mark.realtime

GUARD_S = 30.0
"""Ends a test that hangs; no result depends on it."""
PATIENT = Plan.of(total_timeout_ms=60_000, stage_timeouts_ms=dict.fromkeys(StageType, 60_000))
"""Limits that a slow machine does not reach."""


@pytest.fixture
def released() -> Iterator[threading.Event]:
    """The event that blocked functions wait for; set at the end in any case."""
    event = threading.Event()
    yield event
    event.set()


class Blocker:
    """A function that blocks and counts its concurrent calls."""

    def __init__(self, released: threading.Event) -> None:
        self.released = released
        self.lock = threading.Lock()
        self.inside = 0
        self.most = 0
        self.calls = 0
        self.entered: queue.SimpleQueue[str] = queue.SimpleQueue()

    def __call__(self, *args: Any) -> Any:
        """Block."""
        with self.lock:
            self.inside += 1
            self.calls += 1
            self.most = max(self.most, self.inside)
        self.entered.put(threading.current_thread().name)
        assert self.released.wait(GUARD_S)
        with self.lock:
            self.inside -= 1
        return args

    async def wait_for(self, count: int) -> None:
        """Wait until that many calls run."""
        for _ in range(count):
            await asyncio.to_thread(self.entered.get, timeout=GUARD_S)


def app_of(work: Callable[..., Any]) -> Pipeline:
    """Build an app whose node is this function."""
    app = Pipeline(builtins=False)

    @app.decision
    async def decide(query: Query, ctx: StageContext) -> str:  # noqa: ARG001
        return "main"

    app.node("main")(work)
    return app


async def test_a_blocking_node_runs_beside_the_loop(released: threading.Event) -> None:
    """The loop runs while a node blocks: here the loop releases it."""
    threads: list[str] = []

    def work(query: Query, ctx: StageContext) -> Any:  # noqa: ARG001
        threads.append(threading.current_thread().name)
        asyncio.run_coroutine_threadsafe(release(), loop).result(GUARD_S)
        assert released.is_set()
        return {"answer": 1}

    async def release() -> None:
        released.set()

    loop = asyncio.get_running_loop()
    result = await Orchestrator(app_of(work), plan=PATIENT).process_query("2+2")
    assert (result.status, result.answer) == (PipelineStatus.SUCCESS, 1)
    assert threads == ["fivestage-node-1"]


async def test_a_blocked_node_is_a_timeout(released: threading.Event) -> None:
    """The query ends at its limit although the thread does not, which counts as busy."""
    orchestrator = Orchestrator(
        app_of(Blocker(released)),
        plan=Plan.of(stage_timeouts_ms={StageType.PROCESSING: 20}, total_timeout_ms=60_000),
    )
    result = await orchestrator.process_query("2+2")
    assert (result.status, result.stages[2].outcome) == (PipelineStatus.TIMEOUT, Outcome.TIMEOUT)
    assert result.stages[2].timeout_ms >= 20  # more where a busy machine delayed its loop
    assert orchestrator.threads.busy == 1
    assert repr(orchestrator.threads) == "<ThreadPool 1 busy of 8, 1 lost>"


async def free(pool: ThreadPool) -> None:
    """Wait until a call would start at once."""
    async with asyncio.timeout(GUARD_S):
        while pool.is_full:
            await asyncio.sleep(0)


async def test_without_kafka_the_deadline_holds_while_no_thread_is_free(released: threading.Event) -> None:
    """Without a free thread the query ends at its deadline and its call never runs; the next is answered."""
    work = Blocker(released)
    orchestrator = Orchestrator(app_of(lambda _query, _ctx: work()), plan=PATIENT, threads=1)
    first = asyncio.create_task(orchestrator.process_query("2+2"))
    await work.wait_for(1)
    assert orchestrator.threads.is_full
    second = await orchestrator.process_query("2+2", budget_ms=50)
    assert (second.status, second.stages[2].outcome) == (PipelineStatus.TIMEOUT, Outcome.SKIPPED)
    assert second.metrics.budget_ms == pytest.approx(50)
    released.set()
    assert (await first).status is PipelineStatus.SUCCESS
    assert work.calls == 1
    await free(orchestrator.threads)
    assert (await orchestrator.process_query("2+2")).status is PipelineStatus.SUCCESS


async def test_a_function_that_waited_for_a_thread_may_return_a_coroutine(released: threading.Event) -> None:
    """A coroutine returned after a wait for a thread is awaited on the loop, as without a wait."""
    work, home = Blocker(released), threading.current_thread()

    async def late() -> bool:
        return threading.current_thread() is home

    def either(query: Query, _ctx: StageContext) -> Any:
        return late() if query.user_input == "late" else work()

    orchestrator = Orchestrator(app_of(either), plan=PATIENT, threads=1)
    first = asyncio.create_task(orchestrator.process_query("2+2"))
    await work.wait_for(1)
    second = asyncio.create_task(orchestrator.process_query("late"))
    async with asyncio.timeout(GUARD_S):
        while orchestrator.threads._unfinished < 2:
            await asyncio.sleep(0)
    released.set()
    assert [(await one).answer for one in (first, second)] == [[], True]


async def test_a_pool_is_full_when_the_next_call_would_wait(released: threading.Event) -> None:
    """Abandoned calls do not fill the pool, as their threads are replaced."""
    pool, work = ThreadPool(2), Blocker(released)
    calls = [pool.submit(work) for _ in range(2)]
    async with asyncio.timeout(GUARD_S):
        while work.inside < 2:
            await asyncio.sleep(0)
    assert pool.is_full
    waiting = asyncio.create_task(calls[0].wait())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait({waiting})
    assert not pool.is_full
    pool.submit(work)
    assert pool.is_full
    released.set()
    await free(pool)


async def test_urgent_calls_come_first(released: threading.Event) -> None:
    """Urgent calls come first in their order; every fourth call is one that can wait."""
    pool, work, order = ThreadPool(1), Blocker(released), list[str]()
    pool.submit(work)
    await work.wait_for(1)
    for number in range(3):
        pool.submit(order.append, f"parked {number}", parked=True)
    for number in range(5):
        pool.submit(order.append, f"urgent {number}")
    last = pool.submit(order.append, "parked 3", parked=True)
    released.set()
    await last.wait()
    calls = ["urgent 0", "urgent 1", "parked 0", "urgent 2", "urgent 3", "urgent 4"]
    assert order == [*calls, "parked 1", "parked 2", "parked 3"]


@pytest.mark.fault(16)
@pytest.mark.parametrize(
    ("error", "name"),
    [
        (ValueError("x"), "ValueError"),
        (SystemExit(3), "SystemExit"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (GeneratorExit(), "RuntimeError"),
        (StopIteration(1), "RuntimeError"),
        (asyncio.CancelledError(), "CancelledError"),
        (TimeoutError("mine"), "TimeoutError"),
    ],
)
async def test_any_exception_of_a_blocking_node_is_an_error(error: BaseException, name: str) -> None:
    """Any BaseException is an error of its stage; the same thread takes the next query."""
    threads: list[str] = []

    def work(query: Query, ctx: StageContext) -> Any:  # noqa: ARG001
        threads.append(threading.current_thread().name)
        raise error

    orchestrator = Orchestrator(app_of(work), plan=PATIENT)
    for _ in range(2):
        result = await orchestrator.process_query("2+2")
        assert (result.status, result.error_type) == (PipelineStatus.ERROR, name)
    assert threads == ["fivestage-node-1"] * 2


async def test_a_function_that_returns_a_coroutine_is_awaited() -> None:
    """A lambda around a coroutine function is called in a thread and awaited on the loop."""
    home = threading.current_thread()

    async def work(query: Query, ctx: StageContext) -> Any:  # noqa: ARG001
        return threading.current_thread() is home

    result = await Orchestrator(app_of(lambda q, c: work(q, c)), plan=PATIENT).process_query("2+2")  # noqa: PLW0108
    assert (result.status, result.answer) == (PipelineStatus.SUCCESS, True)


async def test_stages_may_use_the_threads_themselves() -> None:
    """``ctx.run_sync`` runs a blocking function in the same pool."""

    async def work(query: Query, ctx: StageContext) -> Any:  # noqa: ARG001
        return await ctx.run_sync(lambda a, b: [threading.current_thread().name, a + b], 2, 3)

    result = await Orchestrator(app_of(work), plan=PATIENT).process_query("2+2")
    assert result.answer == ["fivestage-node-1", 5]


# The pool


async def test_no_more_threads_than_its_size(released: threading.Event) -> None:
    """Of ten calls on three threads three run and the rest wait; all return."""
    pool, blocker = ThreadPool(3), Blocker(released)
    calls = [asyncio.ensure_future(pool.run(blocker, n)) for n in range(10)]
    await blocker.wait_for(3)
    assert (pool.busy, blocker.inside) == (3, 3)
    released.set()
    assert await asyncio.gather(*calls) == [(n,) for n in range(10)]
    assert (blocker.calls, blocker.most) == (10, 3)
    assert pool.busy == 0


async def test_one_thread_after_the_other_is_enough_for_calls_in_sequence() -> None:
    """Sequential calls reuse one thread."""
    pool = ThreadPool(8)
    names = {await pool.run(lambda: threading.current_thread().name) for _ in range(200)}
    assert names == {"fivestage-node-1"}


class LingeringQueue(queue.SimpleQueue[Any]):
    """A queue whose get() returns late, as when the thread is descheduled."""

    def __init__(self) -> None:
        self.linger = threading.Event()
        self.lingering = threading.Event()
        self.go_on = threading.Event()

    def get(self, block: bool = True, timeout: float | None = None) -> Any:  # noqa: FBT001, FBT002
        """Take an item; with ``linger`` set, the first caller waits."""
        item = super().get(block, timeout)
        if self.linger.is_set():
            self.linger.clear()
            self.lingering.set()
            assert self.go_on.wait(GUARD_S)
        return item


async def test_a_call_is_not_left_to_a_thread_that_has_just_taken_another() -> None:
    """A thread that has taken a call but not started it is not free for a second call."""
    pool = ThreadPool(2)
    pool._wakes = wakes = LingeringQueue()
    await pool.run(int)
    wakes.linger.set()
    calls = [asyncio.ensure_future(pool.run(int))]
    assert await asyncio.to_thread(wakes.lingering.wait, GUARD_S)
    try:
        calls.append(asyncio.ensure_future(pool.run(int)))
        done, _ = await asyncio.wait(calls, timeout=GUARD_S, return_when=asyncio.FIRST_COMPLETED)
        assert len(done) == 1
    finally:
        wakes.go_on.set()
    assert await asyncio.gather(*calls) == [0, 0]


async def test_a_cancelled_call_that_waits_never_starts(released: threading.Event) -> None:
    """A call cancelled before a thread was free uses no thread."""
    pool, blocker = ThreadPool(1), Blocker(released)
    running = asyncio.ensure_future(pool.run(blocker))
    await blocker.wait_for(1)
    waiting = asyncio.ensure_future(pool.run(blocker))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    released.set()
    await running
    assert await pool.run(int) == 0
    assert blocker.calls == 1


async def test_a_cancelled_call_that_runs_frees_its_caller(released: threading.Event) -> None:
    """The caller of a cancelled call continues at once; its thread is free when the function returns."""
    pool, blocker = ThreadPool(1), Blocker(released)
    running = asyncio.ensure_future(pool.run(blocker))
    await blocker.wait_for(1)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert pool.busy == 1
    released.set()
    assert await pool.run(int) == 0


async def test_a_call_that_another_loop_takes_over(released: threading.Event) -> None:
    """A call taken over by another loop is not abandoned by the first, even before the second waits."""
    pool, blocker = ThreadPool(1), Blocker(released)
    call = pool.submit(blocker, "kept", name="node")
    first = asyncio.ensure_future(call.wait())
    await blocker.wait_for(1)
    assert call.adopt()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert pool.abandoned() == []
    released.set()
    assert await call.wait() == ("kept",)


async def test_a_call_that_has_returned_a_coroutine_is_not_taken_over() -> None:
    """A call that has returned a coroutine belongs to its loop; a moved query restarts the stage."""
    pool = ThreadPool(1)

    async def answer() -> int:
        return 42

    call = pool.submit(answer)
    assert await (await call.wait()) == 42
    assert not call.adopt()


def test_a_thread_survives_the_loop_of_its_call(released: threading.Event) -> None:
    """A function that returns after its loop was closed does no harm: the next loop uses the pool."""
    pool, blocker = ThreadPool(1), Blocker(released)

    async def give_up() -> None:
        call = asyncio.ensure_future(pool.run(blocker))
        await blocker.wait_for(1)
        call.cancel()

    asyncio.run(give_up())
    released.set()
    assert asyncio.run(pool.run(int)) == 0


async def test_close_lets_threads_end(released: threading.Event) -> None:
    """Idle threads end at once, busy ones after their call; submitted calls are carried out."""
    pool, blocker, before = ThreadPool(2), Blocker(released), threading.enumerate()
    calls = [asyncio.ensure_future(pool.run(blocker, n)) for n in range(3)]
    await blocker.wait_for(2)
    started = set(threading.enumerate()).difference(before)
    threads = [thread for thread in started if thread.name.startswith("fivestage-node-")]
    pool.close()
    assert (len(threads), all(thread.is_alive() for thread in threads)) == (2, True)
    released.set()
    assert await asyncio.gather(*calls) == [(0,), (1,), (2,)]
    for thread in threads:
        await asyncio.to_thread(thread.join, GUARD_S)
        assert not thread.is_alive()


def test_a_stuck_thread_does_not_hold_the_interpreter() -> None:
    """With a node that never returns, the query times out and the process exits with 0 by itself."""
    program = """
        import asyncio, threading
        from fivestage import Orchestrator, Pipeline

        app = Pipeline(builtins=False)

        @app.decision
        async def decide(query, ctx):
            return "main"

        @app.node("main")
        def stuck(query, ctx):
            threading.Event().wait()

        print(asyncio.run(Orchestrator(app).process_query("2+2")).status.value)
    """
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(program)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=2 * GUARD_S, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "timeout\n", "")


async def test_blocking_code_sees_the_callers_context() -> None:
    """Context variables, such as the current span, exist in the thread."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    variable.set("seen")
    assert await ThreadPool(1).run(variable.get) == "seen"


async def test_a_closed_pool_says_so() -> None:
    """A closed pool raises instead of waiting for ever."""
    pool = ThreadPool(1)
    pool.close()
    with pytest.raises(RuntimeError, match="closed"):
        await pool.run(int)


class Connection:
    """What a pool has lent."""


@pytest.mark.parametrize("fails", [False, True])
def test_an_idle_thread_keeps_nothing(fails: bool) -> None:  # noqa: FBT001
    """What a call returned, or the frames of what it raised, are free once its receiver is done with them."""
    lent: list[weakref.ref[Connection]] = []

    def query() -> Connection:
        connection = Connection()
        lent.append(weakref.ref(connection))
        if fails:
            raise LookupError
        return connection

    async def call() -> None:
        with contextlib.suppress(LookupError):
            await pool.run(query)

    pool = ThreadPool(1)
    asyncio.run(call())
    until(lambda: gc.collect() >= 0 and lent[0]() is None, "it is free")
    pool.close()
