"""One suite for every executor: what the bus relies on."""

from __future__ import annotations

import asyncio
import threading
import time
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from fivestage import Orchestrator, Pipeline, Plan, Query
from fivestage.core.events import Observer
from fivestage.core.job import Job
from fivestage.executors import Executor, InlineExecutor, ThreadExecutor
from fivestage.executors.mailbox import SLICE_S, Mailbox
from fivestage_schemas import Outcome, StageType

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from fivestage import StageContext

pytestmark = pytest.mark.realtime
PLAN = Plan.of(total_timeout_ms=60_000, stage_timeouts_ms=dict.fromkeys(StageType, 60_000.0))


class Bus:
    """An executor under test, and what it reported."""

    def __init__(self, executor: Executor) -> None:
        self.executor = executor
        self.finished: list[Job] = []
        self.threads: set[int] = set()
        self._more = asyncio.Event()

    def on_finished(self, job: Job) -> None:
        """The executor's callback."""
        self.finished.append(job)
        self.threads.add(threading.get_ident())
        self._more.set()

    async def wait(self, count: int) -> None:
        """Wait for so many endings."""
        async with asyncio.timeout(20):
            while len(self.finished) < count:
                self._more.clear()
                await self._more.wait()


def thread_executor(orchestrator: Orchestrator) -> ThreadExecutor:
    """A thread executor that nobody hurries."""
    return ThreadExecutor(orchestrator, observer=Observer(), stall_s=60)


def job(node: str) -> Job:
    """A job for one node, with limits that do not matter."""
    now = asyncio.get_running_loop().time()
    return Job(Query("q", node), PLAN, started_at=now, ends_at=now + 60)


def pipeline(release: threading.Event, entered: threading.Event) -> Pipeline:
    """Nodes that answer, wait, and refuse to be cancelled; *entered* is set where one waits."""
    app = Pipeline(builtins=False)

    @app.decision
    async def decide(query: Query, _ctx: StageContext) -> str:
        return query.user_input

    @app.node("where")
    async def where(_query: Query, _ctx: StageContext) -> int:
        return threading.get_ident()

    @app.node("where-sync")
    def where_sync(_query: Query, _ctx: StageContext) -> int:
        return threading.get_ident()

    @app.node("blocks-sync")
    def blocks_sync(_query: Query, _ctx: StageContext) -> bool:
        entered.set()
        return release.wait(20)

    @app.node("waits")
    async def waits(_query: Query, _ctx: StageContext) -> None:
        entered.set()
        await asyncio.sleep(60)

    @app.node("deaf")
    async def deaf(_query: Query, _ctx: StageContext) -> None:
        entered.set()
        while not release.is_set():
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:  # the point of this node
                continue

    return app


@pytest.fixture
def release() -> threading.Event:
    """Lets the deaf node go."""
    return threading.Event()


@pytest.fixture
def entered() -> threading.Event:
    """Set when a node that waits has been entered."""
    return threading.Event()


@pytest.fixture(params=[InlineExecutor, thread_executor])
async def bus(
    request: pytest.FixtureRequest, release: threading.Event, entered: threading.Event
) -> AsyncIterator[Bus]:
    """A started executor of each kind."""
    executor = request.param(Orchestrator(pipeline(release, entered), plan=PLAN))
    bus = Bus(executor)
    await executor.start(bus.on_finished)
    yield bus
    release.set()
    await executor.stop(5.0)


async def is_set(event: threading.Event) -> None:
    """Wait for an event without blocking the loop."""
    async with asyncio.timeout(20):
        while not event.is_set():
            await asyncio.sleep(0)


async def test_jobs_come_back_with_their_trail(bus: Bus) -> None:
    """A thousand jobs handed over in one burst come back once each, on the bus's thread, with five runs."""
    jobs = [job("where") for _ in range(1000)]
    for one in jobs:
        bus.executor.submit(one)
    await bus.wait(1000)
    assert {id(one) for one in bus.finished} == {id(one) for one in jobs}
    assert bus.threads == {threading.get_ident()}
    assert all([run.outcome for run in one.trail.runs] == [Outcome.SUCCESS] * 5 for one in jobs)


async def test_blocking_nodes_run_in_other_threads(bus: Bus) -> None:
    """A ``def`` node never runs on the bus's thread."""
    one = job("where-sync")
    bus.executor.submit(one)
    await bus.wait(1)
    assert one.trail.answer_json != str(threading.get_ident()).encode()


async def test_cancelled_jobs_do_not_come_back(bus: Bus, entered: threading.Event) -> None:
    """A job that was ended by the bus stops and is not reported; the next one is."""
    cancelled, after = job("waits"), job("where")
    bus.executor.submit(cancelled)
    await is_set(entered)
    cancelled.end()
    bus.executor.cancel(cancelled)
    bus.executor.submit(after)
    await bus.wait(1)
    assert bus.finished == [after]
    assert cancelled.trail.running is not None
    assert cancelled.trail.running.spec.stage_type is StageType.PROCESSING


async def test_ended_jobs_are_not_started(bus: Bus) -> None:
    """A job that ended while it waited to be handed over runs nothing."""
    ended, after = job("where"), job("where")
    ended.end()
    bus.executor.submit(ended)
    bus.executor.submit(after)
    await bus.wait(1)
    assert (ended.trail.runs, bus.finished) == ([], [after])


async def test_deaf_jobs_are_counted_until_they_end(
    bus: Bus, release: threading.Event, entered: threading.Event
) -> None:
    """A job that ignores its cancellation counts as abandoned, as long as it runs."""
    deaf = job("deaf")
    bus.executor.submit(deaf)
    await is_set(entered)
    deaf.end()
    bus.executor.cancel(deaf)
    async with asyncio.timeout(20):
        while not (abandoned := bus.executor.abandoned()):  # looked at once: a busy loop is excused again
            await asyncio.sleep(0)
        assert [left.name for left in abandoned] == ["deaf"]
        release.set()
        while bus.executor.abandoned():
            await asyncio.sleep(0.001)
    assert [one is deaf for one in bus.finished] in ([], [True])


async def test_blocking_jobs_are_counted_until_their_threads_come_back(
    bus: Bus, release: threading.Event, entered: threading.Event
) -> None:
    """A thread that blocks on after its job ended counts as abandoned, and as stuck when that lasts."""
    blocking = job("blocks-sync")
    bus.executor.submit(blocking)
    await is_set(entered)
    blocking.end()
    bus.executor.cancel(blocking)
    async with asyncio.timeout(20):
        while [left.name for left in bus.executor.abandoned()] != ["blocks-sync"]:
            await asyncio.sleep(0)
        release.set()
        while bus.executor.abandoned():
            await asyncio.sleep(0.001)


async def test_stop_leaves_deaf_jobs_behind(bus: Bus, entered: threading.Event) -> None:
    """Stopping is bounded although a job does not stop, and reports nothing more."""
    bus.executor.submit(job("deaf"))
    await is_set(entered)
    async with asyncio.timeout(20):
        await bus.executor.stop(0.05)
    assert bus.finished == []


async def test_jobs_cut_by_the_stop_do_not_come_back(bus: Bus, entered: threading.Event) -> None:
    """A job that stopping cancels is no answer: it is not reported, and what it was doing is no error."""
    cut = job("waits")
    bus.executor.submit(cut)
    await is_set(entered)
    await bus.executor.stop(5.0)
    await asyncio.sleep(0)
    assert bus.finished == []
    assert [run.outcome for run in cut.trail.runs] == [Outcome.SUCCESS] * 2


async def test_thread_executor_keeps_the_bus_loop_free() -> None:
    """A node that blocks its event loop does not block the bus loop, which turns many times meanwhile."""
    release = threading.Event()
    app = Pipeline(builtins=False)
    app.decision(_always("block"))

    @app.node("block")
    async def block(_query: Query, _ctx: StageContext) -> bool:
        return release.wait(20)

    executor = thread_executor(Orchestrator(app, plan=PLAN))
    bus = Bus(executor)
    await executor.start(bus.on_finished)
    one = job("block")
    executor.submit(one)
    async with asyncio.timeout(20):
        while one.trail.running is None or one.trail.running.spec.stage_type is not StageType.PROCESSING:
            await asyncio.sleep(0)
        for _ in range(1000):
            await asyncio.sleep(0)
    assert bus.finished == []
    release.set()
    await bus.wait(1)
    await executor.stop(5.0)


def _always(name: str) -> Any:
    async def decide(_query: Query, _ctx: StageContext) -> str:
        return name

    return decide


async def test_mail_is_taken_out_by_slices() -> None:
    """Where handling a message takes long, the loop has its other callbacks between two messages."""
    loop, order = asyncio.get_running_loop(), []

    def slow(_: Job) -> None:
        order.append("message")
        end = time.monotonic() + 2 * SLICE_S
        while time.monotonic() <= end:  # takes longer than a slice, whatever the machine
            pass

    def tick() -> None:
        order.append("tick")
        if order.count("message") < 5:
            loop.call_soon(tick)

    mailbox = Mailbox(loop)
    for _ in range(5):
        mailbox.put(slow, job("where"))
    loop.call_soon(tick)
    while order.count("message") < 5:
        await asyncio.sleep(0)
    assert [pair for pair in pairwise(order) if pair == ("message", "message")] == []


async def test_a_message_that_raises_holds_up_no_other() -> None:
    """What was put behind it is handled all the same, in a later turn."""
    loop, got = asyncio.get_running_loop(), list[int]()
    loop.set_exception_handler(lambda *_: None)
    mailbox = Mailbox(loop)
    mailbox.put(got.remove, 7)
    for number in range(2):
        mailbox.put(got.append, number)
    for _ in range(3):
        await asyncio.sleep(0)
    assert got == [0, 1]


async def test_a_turn_of_the_sender_wakes_the_other_loop_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the turn's end, with all that was put in it; the next turn wakes it again."""
    other, here = asyncio.new_event_loop(), asyncio.get_running_loop()
    woken: list[Any] = []
    monkeypatch.setattr(other, "call_soon_threadsafe", woken.append)
    mailbox = Mailbox(other, sender=here)
    got: list[int] = []
    for turn in (1, 2):
        for number in range(3):
            mailbox.put(got.append, number)
        assert len(woken) == turn - 1
        await asyncio.sleep(0)
        assert len(woken) == turn
        woken[-1]()
    other.close()
    assert got == [0, 1, 2] * 2
