"""The clients of docs/authors.md pass deadline and trace on; run against local servers."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from aiohttp import web

from fivestage import Orchestrator, Plan
from fivestage.core.job import Job
from fivestage.core.trace_context import TraceContext, call_number, span_id_of
from fivestage.executors import ThreadExecutor
from fivestage.executors.process.executor import ProcessExecutor
from fivestage.pipeline.context import Query
from fivestage_schemas import StageType
from support.documents import blocks, section, text_of
from support.jobs import Bus, Replacements, answer_of, started

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path
    from types import ModuleType

    from fivestage.executors import Executor

pytestmark = pytest.mark.realtime
LIMIT_S = 30.0
PLAN = Plan.of(total_timeout_ms=LIMIT_S * 1000, stage_timeouts_ms=dict.fromkeys(StageType, LIMIT_S * 1000))
"""Nothing is late, however busy the machine."""
DEADLINE = "x-envoy-upstream-rq-timeout-ms"
TRACE = TraceContext(f"00-{'a' * 32}-{'b' * 16}-01", "vendor=1", recorded=True)
CLIENTS = {"search": "find", "page": "page", "model": "ask", "question": "chat"}
"""The intent of each node, and what its server answers."""
OWN_ERRORS = {
    "search": {"TimeoutError"},
    "page": {"TimeoutError", "ReadTimeout"},
    "model": {"AioRpcError"},
    "question": {"APITimeoutError"},
}
"""What each client raises when its time is up."""


class Servers:
    """Services that answer, and note the headers that they get."""

    def __init__(self) -> None:
        self.headers: dict[str, dict[str, str]] = {}
        self.addresses: dict[str, str] = {}
        self.silent = False

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Servers]:
        web_app = web.Application()
        web_app.router.add_post("/find", self._answer("find", {"answer": "find"}))
        web_app.router.add_get("/page", self._answer("page", {"answer": "page"}))
        message = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "chat"}}
        chat = {"id": "1", "object": "chat.completion", "created": 1, "model": "small", "choices": [message]}
        web_app.router.add_post("/v1/chat/completions", self._answer("chat", chat))
        runner = web.AppRunner(web_app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        server = grpc.aio.server()
        server.add_generic_rpc_handlers([_Calls(self._ask)])
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        host, web_port = runner.addresses[0][:2]
        for name in ("search", "pages", "llm"):
            self.addresses[f"http://{name}.example"] = f"http://{host}:{web_port}"
        self.addresses["model.example:50051"] = f"127.0.0.1:{port}"
        try:
            yield self
        finally:
            await server.stop(None)
            await runner.cleanup()

    async def _wait(self) -> None:
        while self.silent:
            await asyncio.sleep(0.01)

    def _answer(self, name: str, body: dict[str, Any]) -> Any:
        async def answer(request: web.Request) -> web.Response:
            self.headers[name] = {key.lower(): value for key, value in request.headers.items()}
            await self._wait()
            return web.json_response(body)

        return answer

    async def _ask(self, _request: bytes, context: Any) -> bytes:
        self.headers["ask"] = dict(context.invocation_metadata())
        await self._wait()
        return b"ask"


class _Calls(grpc.GenericRpcHandler):
    def __init__(self, ask: Any) -> None:
        self._handler: Any = grpc.unary_unary_rpc_method_handler(ask)

    def service(self, details: Any) -> Any:
        return self._handler if details.method == "/qa.Model/Ask" else None


@pytest.fixture
async def servers() -> AsyncIterator[Servers]:
    """Start the services."""
    async with Servers().running() as found:
        yield found


def written(servers: Servers, folder: Path, name: str, reserve: str = "") -> None:
    """Write the app of the document into a module, with the addresses of the local servers."""
    source = "\n".join(blocks("python", section("Deadlines onwards", text_of("docs/authors.md"))))
    for address, local in servers.addresses.items():
        assert address in source
        source = source.replace(address, local)
    intent = "\n\n@app.intent\nasync def intent(query, ctx):\n    return {'intent': query.user_input}\n"
    (folder / f"{name}.py").write_text(source.replace("ctx.timeout()", f"ctx.timeout({reserve})") + intent)


def loaded(name: str) -> ModuleType:
    """Import such a module."""
    return importlib.import_module(name)


@pytest.fixture(params=["thread", "process"])
def executor(
    request: pytest.FixtureRequest, servers: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Executor:
    """Run the app in an executor of each kind."""
    monkeypatch.syspath_prepend(tmp_path)
    name = f"outbound_{request.param}"
    written(servers, tmp_path, name)
    if request.param == "thread":
        orchestrator = Orchestrator(loaded(name).app, plan=PLAN)
        return ThreadExecutor(orchestrator, observer=Replacements(), stall_s=LIMIT_S)
    return ProcessExecutor(
        f"{name}:app",
        PLAN,
        workers=1,
        threads=2,
        observer=Replacements(),
        stall_s=LIMIT_S,
        max_data_bytes=1_000_000,
    )


async def test_every_client_passes_deadline_and_trace_on(executor: Executor, servers: Servers) -> None:
    """Each service gets this call's span and the time left, and nothing of the query besides its request."""
    bus = Bus(executor, PLAN)
    async with started(bus):
        for intent, answer in CLIENTS.items():
            now = asyncio.get_running_loop().time()
            job = Job(Query("q-17", intent), PLAN, started_at=now, ends_at=now + LIMIT_S)
            job.trace = TRACE
            bus.executor.submit(job)
            await bus.ended(job)
            assert answer_of(job) == b'"%b"' % answer.encode()
    spans = set()
    for name in ("find", "page", "ask"):
        headers = servers.headers[name]
        assert 0 < int(headers[DEADLINE]) < LIMIT_S * 1000
        version, trace_id, span_id, flags = headers["traceparent"].split("-")
        assert (version, trace_id, flags) == ("00", TRACE.trace_id, "01")
        spans.add(span_id)
        assert headers["tracestate"] == "vendor=1"
        assert "baggage" not in headers
        assert not any("q-17" in value for value in headers.values())
    processing = call_number(2, 1)
    assert spans == {f"{span_id_of(int(TRACE.span_id, 16), processing):016x}"}
    assert not servers.headers["chat"].keys() & {DEADLINE, "traceparent", "tracestate"}


@pytest.mark.parametrize("intent", CLIENTS)
async def test_every_client_fails_by_itself_before_the_stage_ends(
    intent: str, servers: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A silent service costs the node an exception of its client, not a cancellation."""
    monkeypatch.syspath_prepend(tmp_path)
    name = f"outbound_silent_{intent}"
    reserve_ms = LIMIT_S * 1000 - 200
    written(servers, tmp_path, name, str(reserve_ms))
    servers.silent = True
    async with Orchestrator(loaded(name).app, plan=PLAN) as orchestrator:
        result = await orchestrator.process_query(intent)
    servers.silent = False
    assert result.error_type in OWN_ERRORS[intent]
