"""``def`` resources: once per process, opened in threads, beside ``async def`` ones; on a real loop."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from fivestage import Orchestrator, Pipeline, Plan, Query, ResourceError, StageContext, StageType
from fivestage.pipeline.resource_manager import ResourceManager
from fivestage.settings import Settings
from fivestage.testing.memory import MemoryBus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from fivestage import Resource

pytestmark = pytest.mark.realtime
LIMITS: dict[str, Any] = {"total_timeout_ms": 60_000, "stage_timeouts_ms": dict.fromkeys(StageType, 60_000)}
PLAN, SETTINGS = Plan.of(**LIMITS), Settings.model_validate({"pipeline": LIMITS})
"""A busy machine takes its time."""


class Sqlite:
    """An app with a database that is bound to one thread, and a client of the loop."""

    def __init__(self) -> None:
        self.app = app = Pipeline(builtins=False)
        self.log: list[str] = []
        self.threads: set[int] = set()

        @app.resource
        async def first() -> AsyncIterator[str]:
            self.log.append("open first")
            yield "first"
            self.log.append("close first")

        @app.resource
        def model() -> Iterator[dict[str, int]]:
            self.threads.add(threading.get_ident())
            with contextlib.closing(sqlite3.connect(":memory:")) as connection:
                [(found,)] = connection.execute("select 42")
                self.log.append("open model")
                yield {"answer": found}
                self.log.append("close model")
            self.threads.add(threading.get_ident())

        @app.resource
        async def last() -> AsyncIterator[str]:
            self.log.append("open last")
            yield "last"
            self.log.append("close last")

        self.first, self.model, self.last = first, model, last

        @app.decision
        async def decide(query: Query, _ctx: StageContext) -> str:
            return query.user_input

        @app.node("async")
        async def in_loop(_query: Query, ctx: StageContext) -> list[Any]:
            return [ctx.use(first), ctx.use(model)["answer"], ctx.use(last)]

        @app.node("def")
        def in_thread(_query: Query, ctx: StageContext) -> int:
            return ctx.use(model)["answer"]

        @app.node("run_sync")
        async def in_both(_query: Query, ctx: StageContext) -> int:
            return int(await ctx.run_sync(lambda: ctx.use(model)["answer"]))

        @app.node("wrong")
        def uses_the_loops(_query: Query, ctx: StageContext) -> str:
            return ctx.use(first)


OPENED = ["open first", "open model", "open last"]
CLOSED = ["close last", "close model", "close first"]


async def test_both_kinds_in_order() -> None:
    """Both kinds open in the order of declaration and close in reverse.

    A ``def`` one closes in the thread that opened it, which is not the loop's.
    """
    sqlite = Sqlite()
    async with Orchestrator(sqlite.app, plan=PLAN) as orchestrator:
        assert sqlite.log == OPENED
        for node, answer in (("async", ["first", 42, "last"]), ("def", 42), ("run_sync", 42)):
            assert (await orchestrator.process_query(node)).answer == answer
    assert sqlite.log == OPENED + CLOSED
    assert len(sqlite.threads) == 1
    assert threading.get_ident() not in sqlite.threads


async def test_a_memory_bus_opens_both() -> None:
    """The executor on the bus loop opens both as ``async with Orchestrator`` does."""
    sqlite = Sqlite()
    async with MemoryBus(sqlite.app, settings=SETTINGS) as bus:
        assert (await bus.ask("def")).answer == 42
    assert sqlite.log == OPENED + CLOSED


async def test_a_def_node_cannot_use_an_async_one() -> None:
    """An async resource belongs to the loop; the error says so and names both remedies."""
    async with Orchestrator(Sqlite().app, plan=PLAN) as orchestrator:
        result = await orchestrator.process_query("wrong")
    assert result.error_type == "ResourceError"
    assert "make the stage or node an `async def`, or the resource a `def`" in (result.error or "")


async def test_one_process_many_loops() -> None:
    """As in executors: ``def`` ones open once, ``async def`` ones once per loop."""
    sqlite = Sqlite()
    resources = ResourceManager(sqlite.app.resources, start_timeout_s=60)
    process = await resources.open_process()
    assert (sqlite.log, resources.missing()) == (["open model"], ["first", "last"])

    async def be_a_worker() -> list[str]:
        scope = await resources.open_loop(within_s=60)
        missing = resources.missing()
        await scope.close()
        return missing

    assert await asyncio.gather(*(asyncio.to_thread(asyncio.run, be_a_worker()) for _ in range(2))) == [
        [],
        [],
    ]
    assert (sqlite.log.count("open first"), sqlite.log.count("close first")) == (2, 2)
    with pytest.raises(ResourceError, match="'first' is not open on this event loop"):
        resources.find(sqlite.first)
    assert resources.find(sqlite.model) == {"answer": 42}
    await process.close()
    with pytest.raises(ResourceError, match="'model' is not open in this process"):
        resources.find(sqlite.model)
    assert sqlite.log[-1] == "close model"


def declared(open_it: Callable[[], Any], *, within_s: float = 60) -> tuple[ResourceManager, Resource[Any]]:
    """Declare a ``def`` resource with this behaviour."""
    app = Pipeline()

    @app.resource
    def model() -> Iterator[Any]:
        yield open_it()

    return ResourceManager(app.resources, start_timeout_s=within_s), model


async def test_a_failed_opening_in_a_thread_is_retried() -> None:
    """A failed opening in a thread is retried as an ``async def`` one."""
    tries = iter([OSError("no file yet"), OSError("no file yet")])

    def load() -> str:
        if (error := next(tries, None)) is not None:
            raise error
        return "loaded"

    resources, model = declared(load)
    with capture_logs() as logs:
        scope = await resources.open(retries=True)
    assert resources.find(model) == "loaded"
    assert [line["error_type"] for line in logs] == ["OSError", "OSError"]
    await scope.close()


async def test_a_hanging_opening_in_a_thread_is_left_behind() -> None:
    """The loop is not blocked; a late resource is closed, and never used."""
    release, closed = threading.Event(), threading.Event()
    app = Pipeline()

    @app.resource
    def model() -> Iterator[str]:
        release.wait(60)
        yield "late"
        closed.set()

    resources = ResourceManager(app.resources, start_timeout_s=0.05)
    with pytest.raises(ResourceError, match=r"'model' was not open within 0.05 s.*in model has not reached"):
        await resources.open()
    assert not closed.is_set()
    release.set()
    assert await asyncio.to_thread(closed.wait, 20)
    with pytest.raises(ResourceError):
        resources.find(model)


async def test_a_system_without_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no thread can start, that failure is reported."""

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    resources, _ = declared(lambda: "never", within_s=0.1)
    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(ResourceError, match="RuntimeError: can't start new thread"):
        await resources.open_process()


async def test_a_hanging_close_is_left_behind() -> None:
    """A hanging close is left behind in its thread; the others are closed."""
    release, closed, app = threading.Event(), threading.Event(), Pipeline()

    @app.resource
    def first() -> Iterator[str]:
        yield "first"
        closed.set()

    @app.resource
    def hangs() -> Iterator[str]:
        yield "hangs"
        release.wait(60)

    scope = await ResourceManager(app.resources, start_timeout_s=60).open()
    with capture_logs() as logs:
        await scope.close(0.2)
    assert await asyncio.to_thread(closed.wait, 20)
    release.set()
    assert (logs[0]["event"], logs[0]["resource"]) == ("a resource did not close in time", "hangs")
