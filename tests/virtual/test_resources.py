"""``async def`` resources are opened before the first query and closed after the last; in virtual time."""

from __future__ import annotations

import asyncio
import contextlib
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from fivestage import Orchestrator, Pipeline, Query, ResourceError, StageContext
from fivestage.pipeline.resource_manager import CLOSE_S, ResourceManager
from fivestage.settings import Settings
from fivestage.testing.memory import MemoryBus
from fivestage_schemas import PipelineStatus, StageType

from .samples import finish, query

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from fivestage import Resource


class Recorded:
    """An app whose resources record when they open and close."""

    def __init__(self, *names: str) -> None:
        self.app = Pipeline(builtins=False)
        self.log: list[str] = []
        self.handles: dict[str, Resource[str]] = {}
        for name in names:
            self.add(name)

        @self.app.decision
        async def decide(_query: Query, _ctx: StageContext) -> str:
            return "node"

        @self.app.node("node")
        async def node(query: Query, ctx: StageContext) -> str:
            self.log.append(f"job {query.query_id}")
            return " ".join(ctx.use(handle) for handle in self.handles.values())

    def add(
        self,
        name: str,
        *,
        opening: Callable[[], Awaitable[Any]] | None = None,
        closing: Callable[[], Awaitable[Any]] | None = None,
    ) -> Resource[str]:
        """Declare another resource; *opening* and *closing* are awaited there."""

        async def open_it() -> AsyncIterator[str]:
            self.log.append(f"open {name}")
            if opening is not None:
                await opening()
            yield name
            self.log.append(f"close {name}")
            if closing is not None:
                await closing()

        open_it.__name__ = name
        self.handles[name] = self.app.resource(open_it)
        return self.handles[name]


def now() -> float:
    """Return the time of the running loop."""
    return asyncio.get_running_loop().time()


async def test_a_memory_bus_opens_and_closes_them() -> None:
    """Resources open in the order of declaration before the first query, and close in reverse order."""
    recorded = Recorded("one", "two")
    async with MemoryBus(recorded.app) as bus:
        assert recorded.log == ["open one", "open two"]
        assert (await bus.ask("x", query_id="q")).answer == "one two"
    assert recorded.log == ["open one", "open two", "job q", "close two", "close one"]


async def test_an_orchestrator_opens_and_closes_them() -> None:
    """``async with`` opens and closes them, any number of times."""
    recorded = Recorded("one", "two")
    orchestrator = Orchestrator(recorded.app)
    for _ in range(2):
        recorded.log.clear()
        async with orchestrator:
            assert (await orchestrator.process_query("x", query_id="q")).answer == "one two"
        assert recorded.log == ["open one", "open two", "job q", "close two", "close one"]


async def test_without_async_with_it_says_what_to_do() -> None:
    """A query of an app with unopened resources raises at once with what to do."""
    recorded = Recorded("one", "two")
    orchestrator = Orchestrator(recorded.app)
    said = r"not open here: one, two; ask within `async with Orchestrator\(app\)"
    with pytest.raises(ResourceError, match=said):
        await orchestrator.process_query("x")
    async with orchestrator:
        pass
    with pytest.raises(ResourceError, match=said):
        await orchestrator.process_query("x")


async def test_entered_twice() -> None:
    """A nested ``async with`` raises: its exit would close the resources of the outer one."""
    async with Orchestrator(Recorded("one").app) as orchestrator:
        with pytest.raises(RuntimeError, match="already"):
            await orchestrator.__aenter__()
        assert (await orchestrator.process_query("x")).answer == "one"


async def test_an_overridden_resource_is_not_opened() -> None:
    """A resource overridden before the start is not opened; after the override its use raises."""
    recorded = Recorded("one", "two")
    with recorded.app.override(recorded.handles["one"], "fake"):
        async with MemoryBus(recorded.app) as bus:
            assert recorded.log == ["open two"]
            assert (await bus.ask("x")).answer == "fake two"
    async with contextlib.AsyncExitStack() as stack:
        with recorded.app.override(recorded.handles["one"], "fake"):
            bus = await stack.enter_async_context(MemoryBus(recorded.app))
        result = await bus.ask("x")
        assert (result.status, result.error_type) == (PipelineStatus.ERROR, "ResourceError")
        assert "was overridden" in (result.error or "")


@pytest.mark.parametrize(
    ("used", "said"),
    [
        (Recorded, "ctx.use(Recorded): Recorded is a class; declare a function that yields an object of it"),
        (contextlib.suppress, "ctx.use(suppress): suppress is a class"),
        (len, "ctx.use(len): len is no resource of this app; decorate it with @app.resource"),
        (
            "http",
            "ctx.use('http'): a resource is not used by its name; pass the resource itself: ctx.use(http)",
        ),
        ("no name", "ctx.use('no name'): a resource is not used by its name; pass the resource itself"),
        (7, "ctx.use(an object of class int): it is no resource; pass what @app.resource has made of a"),
    ],
)
@pytest.mark.parametrize("is_batch", [False, True])
async def test_use_of_what_is_no_resource(used: Any, said: str, is_batch: bool) -> None:  # noqa: FBT001
    """The error of a node that uses something else says what to write, in a batch too."""
    app = Pipeline()

    async def one(_query: Any, ctx: Any) -> Any:
        return ctx.use(used)

    async def many(_items: Any, ctx: Any) -> Any:
        return ctx.use(used)

    declare: Any = app.batch_node if is_batch else app.node
    declare("mine", intents={"general"})(many if is_batch else one)
    result = await Orchestrator(app).process_query("so")
    assert (result.error_type, (result.error or "").find(said)) == (
        "ResourceError",
        len("Processing failed: "),
    )


async def test_an_override_while_it_runs() -> None:
    """An override at run time holds from the next use until its end."""
    recorded = Recorded("one")
    async with MemoryBus(recorded.app) as bus:
        with recorded.app.override(recorded.handles["one"], "fake"):
            assert (await bus.ask("x")).answer == "fake"
        assert (await bus.ask("x")).answer == "one"
    assert recorded.log.count("close one") == 1


async def test_opening_is_not_bound_by_stages() -> None:
    """Opening may take seconds; the first query then has its whole budget."""
    recorded = Recorded()
    recorded.add("slow", opening=lambda: asyncio.sleep(20))
    async with MemoryBus(recorded.app) as bus:
        assert now() == pytest.approx(20)
        assert (await bus.ask("x")).status is PipelineStatus.SUCCESS


async def test_a_resource_of_another_pipeline() -> None:
    """Using a resource of another pipeline is an error of the node, with a text that says so."""
    recorded, other = Recorded("one"), Recorded("two")
    recorded.handles |= other.handles
    async with MemoryBus(recorded.app) as bus:
        assert (await bus.ask("x")).error == (
            "Processing failed: resource 'two' does not belong to this Pipeline: declare it there"
        )


# Failures at the start


class Flaky:
    """Fails a number of times, then opens."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.tried_at: list[float] = []

    async def __call__(self) -> None:
        self.tried_at.append(now())
        if len(self.tried_at) <= self.failures:
            raise ConnectionRefusedError(f"no database at attempt {len(self.tried_at)}")


async def test_a_failed_opening_is_retried_by_the_service() -> None:
    """A failed opening is retried with growing pauses; others stay open; log lines have the message."""
    recorded, flaky = Recorded("one"), Flaky(3)
    recorded.add("flaky", opening=flaky)
    resources = ResourceManager(recorded.app.resources, start_timeout_s=60)
    with capture_logs() as logs:
        scope = await resources.open(retries=True)
    await scope.close()
    assert flaky.tried_at == pytest.approx([0, 0.1, 0.3, 0.7])
    assert recorded.log.count("open one") == 1
    warned = [(line["resource"], line["error_type"], line["error"]) for line in logs]
    assert warned == [
        ("flaky", "ConnectionRefusedError", f"no database at attempt {number}") for number in (1, 2, 3)
    ]


@pytest.mark.parametrize("entered", [MemoryBus, Orchestrator])
async def test_a_failed_opening_is_raised_at_once_where_no_service_runs(
    entered: type[MemoryBus | Orchestrator],
) -> None:
    """Tests and the library get the first failure, with the author's error; nothing is logged."""
    recorded, flaky = Recorded("one"), Flaky(1)
    recorded.add("flaky", opening=flaky)
    with capture_logs() as logs, pytest.raises(ResourceError) as caught:
        await entered(recorded.app).__aenter__()
    first, second, third = str(caught.value).splitlines()
    assert first == "resource 'flaky' could not be opened:"
    assert second == "  ConnectionRefusedError: no database at attempt 1"
    assert "test_resources.py:" in third
    assert (now(), logs, recorded.log[-1]) == (0, [], "close one")


async def test_loops_that_fail_alike_share_a_line() -> None:
    """What fails on two loops at the same time, as on a loop and its spare, has one line for each try."""
    recorded, flaky = Recorded(), Flaky(4)
    recorded.add("flaky", opening=flaky)
    resources = ResourceManager(recorded.app.resources, start_timeout_s=60)
    with capture_logs() as logs:
        scopes = await asyncio.gather(*(resources.open_loop(within_s=60) for _ in range(2)))
    for scope in scopes:
        await scope.close()
    assert len(flaky.tried_at) == 6
    assert [line["retry_in_s"] for line in logs] == [0.1, 0.2]


async def test_a_message_shows_no_password_of_a_url() -> None:
    """Log lines and errors leave out user and password of a URL, also where they are not escaped."""

    async def connect() -> None:
        raise ConnectionError("cannot reach postgresql://shop:se/cr@et@db.example:5432/shop")

    recorded = Recorded()
    recorded.add("database", opening=connect)
    resources = ResourceManager(recorded.app.resources, start_timeout_s=0.2)
    with capture_logs() as logs, pytest.raises(ResourceError) as caught:
        await resources.open(retries=True)
    assert logs[0]["error"] == "cannot reach postgresql://***@db.example:5432/shop"
    assert "ConnectionError: cannot reach postgresql://***@db.example:5432/shop" in str(caught.value)


async def test_an_opening_that_takes_too_long_ends_the_start() -> None:
    """A resource that does not open in time ends the start with the cause; opened ones are closed."""
    recorded, flaky = Recorded("one"), Flaky(1000)
    recorded.add("flaky", opening=flaky)
    recorded.add("never")
    with pytest.raises(ResourceError) as caught:
        await ResourceManager(recorded.app.resources, start_timeout_s=60).open(retries=True)
    assert 55 <= now() <= 60
    assert max(later - before for before, later in zip(flaky.tried_at, flaky.tried_at[1:], strict=False)) == 5
    first, second, third = str(caught.value).splitlines()
    assert first == "resource 'flaky' could not be opened within 60 s (executor.start_timeout_ms):"
    assert second == f"  ConnectionRefusedError: no database at attempt {len(flaky.tried_at)}"
    assert third.startswith("  at ")
    assert "test_resources.py:" in third
    assert isinstance(caught.value.__cause__, ConnectionRefusedError)
    assert recorded.log[-1] == "close one"
    assert "open never" not in recorded.log


async def test_a_hanging_opening_is_left_behind() -> None:
    """An opening that hangs and ignores its cancellation delays the start only for a fixed time."""

    async def hangs() -> None:
        while now() < 1000:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(1000 - now())

    recorded = Recorded("one")
    recorded.add("deaf", opening=hangs)
    settings = Settings.model_validate({"executor": {"start_timeout_ms": 7000}})
    with pytest.raises(
        ResourceError, match=r"'deaf' was not open within 7 s.*in open_it has not reached its yield"
    ):
        await MemoryBus(recorded.app, settings=settings).__aenter__()
    assert now() == pytest.approx(7)
    assert recorded.log == ["open one", "open deaf", "close one"]
    await asyncio.sleep(2000)
    assert recorded.log[3:] == ["close deaf"]


async def test_a_failure_without_time_for_another_attempt() -> None:
    """Without time for another attempt the first failure is the end."""
    recorded, flaky = Recorded("one"), Flaky(1)
    recorded.add("flaky", opening=flaky)
    resources = ResourceManager(recorded.app.resources, start_timeout_s=60)
    with pytest.raises(
        ResourceError, match=r"resource 'flaky' could not be opened within .*:\n  ConnectionRef"
    ):
        await resources.open_loop(within_s=0.1)
    assert now() == 0
    scope = await resources.open_loop(within_s=0.1)
    assert resources.missing() == []
    await scope.close()


async def test_a_start_that_is_cancelled() -> None:
    """A cancelled start closes the opened resources."""
    recorded = Recorded("one")
    recorded.add("slow", opening=lambda: asyncio.sleep(20))
    starting = asyncio.create_task(ResourceManager(recorded.app.resources, start_timeout_s=60).open())
    await asyncio.sleep(1)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert recorded.log == ["open one", "open slow", "close one"]
    assert now() == 1


async def exits() -> None:
    """Call ``sys.exit``."""
    raise SystemExit("NO_SUCH_VARIABLE is not set")


async def test_an_opening_that_exits_is_a_failure() -> None:
    """``sys.exit`` in a resource does not end the event loop."""
    recorded = Recorded()
    recorded.add("leaves", opening=exits)
    with pytest.raises(ResourceError, match=r"SystemExit: NO_SUCH_VARIABLE is not set"):
        await ResourceManager(recorded.app.resources, start_timeout_s=1).open_loop(within_s=0.1)


async def test_a_function_that_yields_nothing() -> None:
    """A generator that yields nothing is a failure that names its line."""
    app = Pipeline()

    @app.resource
    async def nothing() -> AsyncIterator[int]:
        if now() < 0:
            yield 1

    with pytest.raises(
        ResourceError, match=r"generator didn't yield\n  at .*test_resources.py:\d+, in nothing"
    ):
        await ResourceManager(app.resources, start_timeout_s=0.1).open()


# Closing


async def fails() -> None:
    """Raise."""
    raise ValueError("secret")


async def test_a_failed_close_does_not_stop_the_others() -> None:
    """A failed close is logged by name and class, raised nowhere, and does not stop the others."""
    recorded = Recorded("one")
    recorded.add("bad", closing=fails)
    recorded.add("three")
    with capture_logs() as logs:
        async with MemoryBus(recorded.app):
            pass
    assert recorded.log[3:] == ["close three", "close bad", "close one"]
    [line] = [line for line in logs if line["event"] == "a resource failed to close"]
    assert (line["resource"], line["error_type"], "secret" in str(line)) == ("bad", "ValueError", False)


async def test_closing_takes_two_seconds_in_all() -> None:
    """Closing takes two seconds in total: a hanging one leaves a share to each of the others."""
    recorded = Recorded("one")
    recorded.add("hangs", closing=lambda: asyncio.sleep(1000))
    recorded.add("slow", closing=lambda: asyncio.sleep(0.5))
    with capture_logs() as logs:
        async with Orchestrator(recorded.app):
            pass
    assert recorded.log[3:] == ["close slow", "close hangs", "close one"]
    assert CLOSE_S - 0.2 < now() <= CLOSE_S
    assert [line["resource"] for line in logs] == ["hangs"]


async def test_two_yields_are_a_failure_to_close() -> None:
    """A second yield is a failure to close."""
    app = Pipeline()

    @app.resource
    async def twice() -> AsyncIterator[int]:
        yield 1
        yield 2

    with capture_logs() as logs:
        async with Orchestrator(app):
            pass
    assert [(line["event"], line["resource"]) for line in logs] == [("a resource failed to close", "twice")]


async def test_each_is_closed_in_the_task_that_opened_it() -> None:
    """Each is closed in the task that opened it, as task groups and context variables need."""
    app, variable, ran = Pipeline(), ContextVar[str]("variable"), list[str]()

    async def background() -> None:
        ran.append("background")
        await asyncio.sleep(3600)

    @app.resource
    async def grouped() -> AsyncIterator[str]:
        token = variable.set("set")
        async with asyncio.TaskGroup() as group:
            helper = group.create_task(background())
            yield "group"
            helper.cancel()
        variable.reset(token)
        ran.append("closed")

    with capture_logs() as logs:
        async with Orchestrator(app):
            await asyncio.sleep(1)
    assert (ran, logs) == (["background", "closed"], [])


async def test_a_failure_while_open_is_logged() -> None:
    """A failure while the resource is open is logged; closing still works."""
    app = Pipeline()

    @app.resource
    async def grouped() -> AsyncIterator[str]:
        async with asyncio.TaskGroup() as group:
            group.create_task(fails())
            yield "group"

    with capture_logs() as logs:
        async with Orchestrator(app):
            await asyncio.sleep(1)
    assert [(line["event"], line["error_type"]) for line in logs] == [
        ("a resource has failed while open", "ExceptionGroup")
    ]


async def test_a_query_in_flight_ends_before_they_close() -> None:
    """A query in flight at the end is cancelled and cleans up while its resources are open."""
    recorded = Recorded("one")

    @recorded.app.node("node")
    async def waits(_query: Query, ctx: StageContext) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.05)
            recorded.log.append(f"cleaned up with {ctx.use(recorded.handles['one'])}")

    async with MemoryBus(recorded.app) as bus:
        bus.put(query("q"))
        await asyncio.sleep(0.01)
    assert recorded.log == ["open one", "cleaned up with one", "close one"]


async def test_every_stage_may_use_them() -> None:
    """Every stage may use resources, not only nodes."""
    recorded, used = Recorded("one"), list[str]()
    handle = recorded.handles["one"]

    @recorded.app.intent
    async def intent(_query: Query, ctx: StageContext) -> dict[str, Any]:
        used.append(ctx.use(handle))
        return {"intent": "any"}

    @recorded.app.reflection
    async def reflect(_query: Query, ctx: StageContext) -> dict[str, Any]:
        used.append(ctx.use(handle))
        return {}

    async with MemoryBus(recorded.app) as bus:
        bus.put(query("q"))
        await finish(bus, 1)
        assert [stage.outcome for stage in bus.results()[0].stages] == ["success"] * len(StageType)
    assert used == ["one", "one"]
