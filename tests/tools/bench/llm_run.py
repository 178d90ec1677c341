"""Runs the contestants of ``--parts llm``: offers the queries, and notes how each ends."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import aiohttp
import orjson

from fivestage import Pipeline
from fivestage.core.observer import Observer
from fivestage.core.records import Output
from fivestage.core.why import why
from fivestage.executors import ThreadExecutor, interpreter
from fivestage.nodes.llm import ChatModel, add_llm_node
from fivestage.pipeline.orchestrator import Orchestrator
from fivestage.settings import Settings
from fivestage.testing.memory import MemoryBus
from fivestage_schemas import PipelineResult
from fivestage_schemas import headers as h

from .children import Child
from .llm_asyncio import Client, RetriableError
from .llm_faults import arrivals

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from fivestage.core.records import OutputRecord
    from fivestage.nodes.llm import ChatClient
    from fivestage.pipeline.resource import Resource

ASYNCIO, ONE_RETRY, PARTIAL = "asyncio, one retry", "fivestage, one retry", "fivestage, allow_partial"
PER_S = 40.0
LIMIT = 30
"""Requests at a time of a contestant, somewhat below what the server takes."""
BUDGET_S = 1.0
HEAD_START_S = 0.2
STREAMS_END_S = 1.0
"""How long the server may still serve requests after the last query, where no query waits for them."""
NAP_S = 0.02


class Ended(NamedTuple):
    """How one query ended for its client."""

    number: int
    status: str
    """As in a PipelineResult."""
    late_s: float
    """From its deadline to its end; negative before it."""
    partial: bool = False
    reason: str = ""
    """The error type; empty for an answer."""
    why: str = ""
    """The reason as operators read it."""


class Run(NamedTuple):
    """One round of one contestant."""

    ended: list[Ended]
    calls: dict[str, int]
    """Requests by what the server did with them."""
    left_open: int
    """Requests that the server still serves when no query is left."""
    cpu_s: float
    """CPU of this process, with the start of the contestant."""


class Server(NamedTuple):
    """A server of its own."""

    url: str
    stats: Callable[[], Awaitable[dict[str, Any]]]


async def plain(seed: int, queries: int) -> Run:
    """Run the hand-written contestant."""
    async with _server(seed) as server:
        cpu_s = time.process_time()
        async with Client(f"{server.url}/v1", LIMIT) as client:
            ended = await ask_all(client.ask, seed, queries)
            return await _run(ended, server, cpu_s)


async def ask_all(ask: Callable[[str, float], Awaitable[str]], seed: int, queries: int) -> list[Ended]:
    """Call *ask* for each query when it is due, with its deadline, and wait until all have ended."""
    clock = asyncio.get_running_loop().time

    async def one(number: int, due: float) -> Ended:
        status, reason = "success", ""
        try:
            if not await ask(f"q{number}", due + BUDGET_S):
                status, reason = "error", "empty"
        except TimeoutError:
            status = reason = "timeout"
        except RetriableError as error:
            status, reason = "error", str(error)
        return Ended(number, status, clock() - due - BUDGET_S, reason=reason, why=reason)

    tasks = [asyncio.create_task(one(number, due)) async for number, due in _due(seed, queries)]
    return await asyncio.gather(*tasks)


async def service(seed: int, queries: int, *, allow_partial: bool, **options: Any) -> Run:
    """Run an app with the node of language models, and these options of it."""
    interpreter.share_the_interpreter()
    async with _server(seed) as server:
        cpu_s = time.process_time()
        app, _ = app_of(f"{server.url}/v1", **options)
        settings = settings_of(allow_partial=allow_partial)
        orchestrator = Orchestrator(app, plan=settings.pipeline.plan(), threads=settings.executor.threads)
        executor = ThreadExecutor(
            orchestrator, observer=Observer(), stall_s=settings.executor.stall_ms / 1000
        )
        async with MemoryBus(app, settings=settings, executor=executor) as bus:
            wall_s = time.time() - time.monotonic()
            ended = await offer_all(bus, seed, queries, lambda due: round((wall_s + due) * 1000))
            return await _run(ended, server, cpu_s)


def settings_of(*, allow_partial: bool) -> Settings:
    """Build the settings: BUDGET_S for a query, from its record's timestamp on."""
    pipeline = {
        "total_timeout_ms": BUDGET_S * 1000,
        "stage_timeouts_ms": {"processing": BUDGET_S * 1000},
        "allow_partial": allow_partial,
    }
    admission = {"query_ttl_ms": round(BUDGET_S * 1000)}
    return Settings.model_validate({"pipeline": pipeline, "admission": admission})


def app_of(url: str, **options: Any) -> tuple[Pipeline, Resource[ChatClient]]:
    """Build an app that asks the model, and checks its answer; return it with the resource of its client."""
    app = Pipeline(builtins=False)

    @app.intent
    async def intent(_query: Any, _ctx: Any) -> dict[str, str]:
        return {"intent": "question"}

    @app.validation
    async def validation(_query: Any, ctx: Any) -> bool:
        return isinstance(ctx.answer, str) and ctx.answer != ""

    model = ChatModel(base_url=url, model="any")
    client = add_llm_node(app, "assistant", model, intents={"question"}, limit=LIMIT, **options)
    return app, client


async def offer_all(
    bus: MemoryBus, seed: int, queries: int, timestamp_of: Callable[[float], int]
) -> list[Ended]:
    """Write each query when it is due, with its timestamp, and wait until all have ended."""
    clock, due_at = asyncio.get_running_loop().time, list[float]()
    at: dict[int, tuple[float, OutputRecord]] = {}
    publish = bus.sink.publish

    def note(records: Sequence[OutputRecord], *rest: Any) -> None:
        for record in records:
            if record.output is Output.RESULTS:
                at.setdefault(int(dict(record.headers)[h.CE_SUBJECT][1:]), (clock(), record))
        publish(records, *rest)

    bus.sink.publish = note  # type: ignore[method-assign, assignment]
    async for number, due in _due(seed, queries):
        due_at.append(due)
        value = orjson.dumps({"query_id": f"q{number}", "user_input": f"q{number}"})
        bus.put(value, timestamp=timestamp_of(due))
    while len(at) < queries:
        await bus.sink.published()
    return [ended_of(number, record, now - due_at[number] - BUDGET_S) for number, (now, record) in at.items()]


def ended_of(number: int, record: OutputRecord, late_s: float) -> Ended:
    """Read how a query ended."""
    result = PipelineResult.model_validate_json(record.value or b"")
    if result.status == "success":
        return Ended(number, "success", late_s, result.partial)
    return Ended(number, str(result.status), late_s, result.partial, result.error_type or "", why(result))


async def _due(seed: int, queries: int) -> AsyncIterator[tuple[int, float]]:
    """Yield each query's number when it is due, and that moment (seconds of the loop's clock)."""
    clock = asyncio.get_running_loop().time
    begin = clock() + HEAD_START_S
    for number, after_s in enumerate(arrivals(seed, queries, PER_S)):
        await asyncio.sleep(begin + after_s - clock())
        yield number, begin + after_s


@asynccontextmanager
async def _server(seed: int) -> AsyncIterator[Server]:
    async with Child("-m", "tests.tools.bench.llm_fault_server", str(seed)) as child:
        if child.ready is None or not await child.until_ready():
            raise SystemExit("the server of answers did not start")
        url = f"http://127.0.0.1:{child.ready.result()['port']}"
        async with aiohttp.ClientSession() as session:

            async def stats() -> dict[str, Any]:
                async with session.get(f"{url}/stats") as response:
                    return dict(await response.json())

            yield Server(url, stats)


async def _run(ended: list[Ended], server: Server, cpu_s: float) -> Run:
    """Wait until the server serves no request any more, within limits."""
    cpu_s = time.process_time() - cpu_s
    until = time.monotonic() + STREAMS_END_S
    while (stats := await server.stats())["running"] and time.monotonic() < until:
        await asyncio.sleep(NAP_S)
    return Run(ended, stats["calls"], stats["running"], cpu_s)


RUNS: dict[str, Callable[[int, int], Awaitable[Run]]] = {
    ASYNCIO: plain,
    ONE_RETRY: lambda seed, queries: service(seed, queries, allow_partial=False, retries=1),
    PARTIAL: lambda seed, queries: service(seed, queries, allow_partial=True),
}
"""One round of each contestant, by the round's seed and the number of queries."""
