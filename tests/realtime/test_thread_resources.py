"""Resources on the thread executor: opened before queries, per loop or per process, closed in order."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import time
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import aiohttp
import orjson
import pytest
from structlog.testing import capture_logs

from fivestage import Orchestrator, Pipeline, ResourceError
from fivestage.core.observer import Observer
from fivestage.executors import ThreadExecutor
from fivestage.executors.thread.worker import ThreadWorker
from fivestage.settings import Settings
from fivestage.testing.memory import MemoryBus
from fivestage_schemas import StageType
from support.jobs import LIMIT_S, Replacements, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from fivestage import Query, StageContext

pytestmark = pytest.mark.realtime
TEXT = "text of a query"
LIMIT_MS = round(LIMIT_S * 1000)
PATIENT = Settings.model_validate(
    {"pipeline": {"total_timeout_ms": LIMIT_MS, "stage_timeouts_ms": dict.fromkeys(StageType, LIMIT_MS)}}
)


class Client:
    """An ``async def`` resource's value: it belongs to the loop that opened it."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.closed = False


class Shop:
    """An app with a resource of each kind, and nodes that use them."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.clients: list[Client] = []
        self.failures: list[Exception] = []
        """Raised by the next attempts to open a client."""
        self.may_open = threading.Event()
        self.may_open.set()
        self.go = threading.Event()
        self.blocked: asyncio.AbstractEventLoop | None = None
        """Blocks a node."""
        self.app = app = Pipeline(builtins=False)

        @app.resource
        async def client() -> AsyncIterator[Client]:
            while not self.may_open.is_set():
                await asyncio.sleep(0.001)
            if self.failures:
                raise self.failures.pop(0)
            opened = Client()
            self.clients.append(opened)
            self.log.append("open client")
            yield opened
            self.log.append("close client")
            opened.closed = True

        @app.resource
        def model() -> Iterator[str]:
            self.log.append("open model")
            yield "model"
            self.log.append("close model")

        @app.decision
        async def decide(query: Query, _ctx: StageContext) -> str:
            return query.user_input

        @app.node("uses")
        async def uses(_query: Query, ctx: StageContext) -> Any:
            found = ctx.use(client)
            assert (found.loop, found.closed) == (asyncio.get_running_loop(), False)
            return [self.clients.index(found), ctx.use(model)]

        @app.node("waits")
        async def waits(_query: Query, ctx: StageContext) -> None:
            try:
                await asyncio.sleep(LIMIT_S)
            finally:
                self.log.append(f"last use: {ctx.use(client).closed}")

        @app.node("blocks")
        async def blocks(_query: Query, _ctx: StageContext) -> str:
            self.blocked = asyncio.get_running_loop()
            assert self.go.wait(LIMIT_S)
            return "came back"

    @contextlib.asynccontextmanager
    async def running(
        self, *, spares: int = 0, start_timeout_ms: int = 60_000, observer: Observer | None = None
    ) -> AsyncIterator[MemoryBus]:
        """Run the app on a thread executor."""
        orchestrator = Orchestrator(self.app, start_timeout_ms=start_timeout_ms)
        executor = ThreadExecutor(orchestrator, observer=observer or Observer(), stall_s=0.3, spares=spares)
        async with MemoryBus(self.app, settings=PATIENT, executor=executor) as bus:
            yield bus
            self.go.set()


async def test_resources_are_open_before_the_first_query() -> None:
    """The start waits for both kinds; queries share them; the end closes them, per-process ones last."""
    shop = Shop()
    async with shop.running() as bus:
        assert shop.log == ["open model", "open client"]
        answers = [(await bus.ask("uses")).answer for _ in range(3)]
    assert answers == [[0, "model"]] * 3
    assert shop.log == ["open model", "open client", "close client", "close model"]


async def test_a_spare_has_opened_its_own() -> None:
    """While a node blocks one loop, queries use the other's client; nothing opens for them."""
    shop = Shop()
    async with shop.running(spares=1) as bus:
        await until(lambda: len(shop.clients) == 2)
        bus.put(orjson.dumps({"query_id": "culprit", "user_input": "blocks"}))
        await until(lambda: "stalled=1" in repr(bus.executor))
        await until(lambda: shop.blocked)
        number, model = (await bus.ask("uses")).answer
        assert (shop.clients[number].loop is shop.blocked, model) == (False, "model")
        assert shop.log.count("open model") == 1
    assert [client.closed for client in shop.clients[:2]] == [True, True]


async def test_a_resource_is_closed_after_the_last_query() -> None:
    """A query cancelled by the shutdown still finds it open in its clean-up."""
    shop = Shop()
    async with shop.running() as bus:
        bus.put(orjson.dumps({"query_id": "cut", "user_input": "waits"}))
        await until(lambda: bus.dispatcher.slots.running and bus.dispatcher.active.jobs)
        await until(
            lambda: [job.history.running for job in bus.dispatcher.active.jobs.values() if job.history.runs]
        )
        await bus.executor.stop(10.0)
    assert shop.log == ["open model", "open client", "last use: False", "close client", "close model"]


async def test_queries_wait_for_a_worker_that_opens_its_resources() -> None:
    """With every loop blocked and no spare, a new worker takes the queries when it is ready."""
    shop = Shop()
    async with shop.running() as bus:
        shop.may_open.clear()
        bus.put(orjson.dumps({"query_id": "culprit", "user_input": "blocks"}))
        await until(lambda: "stalled=1" in repr(bus.executor))
        bus.put(orjson.dumps({"query_id": "waits", "user_input": "uses"}))
        await until(lambda: len(bus.dispatcher.active.jobs) == 2)
        assert bus.executor.unready is None  # the blocked one may return
        shop.may_open.set()
        await until(lambda: bus.result("waits"), "the query is answered")
        found = bus.result("waits")
        assert found is not None
    assert found.answer == [1, "model"]


async def test_a_replacement_whose_resources_do_not_open() -> None:
    """It is replaced too, and the counted reason has no text of the error."""
    shop, observer = Shop(), Replacements()
    async with shop.running(start_timeout_ms=2000, observer=observer) as bus:
        shop.failures = [ConnectionRefusedError("the database is away") for _ in range(100)]
        bus.put(orjson.dumps({"query_id": "culprit", "user_input": "blocks"}))
        await until(lambda: observer.reasons, "the replacement has ended")
        shop.failures.clear()
        assert (await bus.ask("uses")).answer == [1, "model"]
    assert set(observer.reasons) == {"its resources did not open"}


async def test_a_resource_that_opens_at_the_second_attempt() -> None:
    """The start goes on."""
    shop = Shop()
    shop.failures = [ConnectionRefusedError("not yet")]
    async with shop.running() as bus:
        assert (await bus.ask("uses")).answer == [0, "model"]


async def test_a_resource_that_does_not_open_ends_the_start() -> None:
    """The error has its name and the author's error; opened resources are closed again."""
    shop = Shop()
    shop.failures = [ConnectionRefusedError("the database is away") for _ in range(100)]
    with pytest.raises(ResourceError) as raised:
        async with shop.running(start_timeout_ms=300):
            pass
    assert "resource 'client'" in str(raised.value)
    assert "ConnectionRefusedError: the database is away" in str(raised.value)
    assert shop.log == ["open model", "close model"]


@pytest.mark.interpreted
@pytest.mark.parametrize("asked_first", [True, False])
async def test_asked_to_end_as_its_resources_fail(
    monkeypatch: pytest.MonkeyPatch, *, asked_first: bool
) -> None:
    """A worker asked to end in the round of its loop in which its resources fail leaves no task pending."""
    orchestrator, made = Orchestrator(Shop().app), Future[ThreadWorker]()

    async def fail(*, within_s: float) -> None:  # noqa: ARG001
        worker, loop = await asyncio.wrap_future(made), asyncio.get_running_loop()
        failed = loop.create_future()
        steps = [
            lambda: worker.end(time.monotonic()),
            lambda: failed.set_exception(ResourceError("the database is away")),
        ]
        for step in steps if asked_first else reversed(steps):
            loop.call_soon(step)
        await failed

    monkeypatch.setattr(orchestrator.resources, "open_loop", fail)
    with capture_logs() as log:
        worker = ThreadWorker(orchestrator, print, print, LIMIT_S, LIMIT_S, lambda: False)
        made.set_result(worker)
        with pytest.raises(ResourceError, match="the database is away"):
            await worker.opened
        await until(lambda: not worker._thread.is_alive(), "its thread has ended")
        gc.collect()  # tasks report that they were pending when they are freed
    assert log == []


async def log_of(node: Callable[[Query, StageContext], Any]) -> list[Any]:
    """What is logged while a node answers one query, and when its worker ends."""
    app = Pipeline(builtins=False)

    @app.decision
    async def _choose(_query: Query, _ctx: StageContext) -> str:
        return "main"

    app.node("main")(node)
    with capture_logs() as log:
        executor = ThreadExecutor(Orchestrator(app), observer=Observer(), stall_s=LIMIT_S)
        async with MemoryBus(app, executor=executor, settings=PATIENT) as bus:
            assert (await bus.ask(TEXT)).answer == "answered"
        gc.collect()  # tasks report what they raised when they are freed
    assert TEXT not in str(log)
    return [line for line in log if line["event"] in {"task of a node failed", "reported by the event loop"}]


async def test_a_clean_up_that_fails_is_logged() -> None:
    """What a task of a node raises when its worker ends is logged, with its class and place."""

    async def linger() -> None:
        try:
            await asyncio.sleep(LIMIT_S)
        finally:
            raise LookupError(TEXT)

    async def node(_query: Query, _ctx: StageContext) -> str:
        asyncio.create_task(linger())  # noqa: RUF006 - its timer keeps it
        await asyncio.sleep(0)
        return "answered"

    [line] = await log_of(node)
    assert (line["event"], line["error_type"]) == ("task of a node failed", "LookupError")
    assert line["coroutine"].endswith("linger")
    assert line["where"] == f"{__file__}:{linger.__code__.co_firstlineno + 4}"
    assert line["frames"][-1] == f"{line['where']} linger"


@pytest.mark.filterwarnings("ignore:Unclosed client session:ResourceWarning")
async def test_what_a_node_leaves_open_is_not_called_a_failed_task() -> None:
    """A client session that is dropped without ``close`` is reported in the library's words."""

    async def node(_query: Query, _ctx: StageContext) -> str:
        aiohttp.ClientSession()
        return "answered"

    [line] = await log_of(node)
    assert line == {
        "event": "reported by the event loop",
        "log_level": "warning",
        "message": "Unclosed client session",
        "coroutine": None,
    }


def note(text: str) -> None:
    """A callback of the loop."""
    raise LookupError(text)


async def test_what_a_callback_is_called_with_is_not_logged() -> None:
    """The loop's message has the arguments of a callback that raises, which may be the query's text."""

    async def node(query: Query, _ctx: StageContext) -> str:
        asyncio.get_running_loop().call_soon(note, query.user_input)
        await asyncio.sleep(0)
        return "answered"

    [line] = await log_of(node)
    assert (line["event"], line["message"]) == ("task of a node failed", "Exception in callback")
    assert line["where"] == f"{__file__}:{note.__code__.co_firstlineno + 2}"
